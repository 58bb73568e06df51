"""Image data sets as uint8: built-in digits, image folders, parquet files, the Hugging Face Hub.

Every source goes through the same steps: list the rows of each split, cut the splits that are
missing, take a subset if asked to, check that it fits in memory, decode. Training images that do
not fit are streamed instead: decoded when they are asked for (`evaluator.data_stream`).

Splits. Training images are for training, validation images are what a search looks at, test
images are held out: no search ever sees them. What a publisher calls "validation" but gives
without a labelled test split (ImageNet) is therefore our test split. A missing validation split
is cut from training: 20% of it, at most 10,000 images, the same share of every class, with a
constant seed, so that runs of any seed search on the same images.

Pictures. The usual evaluation transform: RGB (transparency and EXIF rotation are ignored, an
animation gives its first frame), short side resized to `resolution` with antialiased bilinear
filtering, then the centre square. 16-bit grey is scaled to 8 bits.
"""

from __future__ import annotations

import hashlib
import math
import os
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from evaluator.data_download import HUB_NAMES, described_classes, download, on_hub
from evaluator.data_rows import Listing, Rows, check_count, draw

if TYPE_CHECKING:
    from evaluator.data_decode import Tally
    from evaluator.data_stream import StreamedSplit

BUILT_IN = ("digits",)
VALIDATION_SHARE = 0.2
VALIDATION_MOST = 10_000
STREAMED_TEST_MOST = 10_000  # ImageNet's 50,000 would take 7.5 GB at resolution 224
STREAMED_SAMPLE = 2048  # images that statistics and digest of streamed data are taken from
_SPLIT_SEED = 0
_GIB = 2**30


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 (N, 3, resolution, resolution) and labels int64 (N,), in the source's order."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def resolution(self) -> int:
        return self.images.shape[-1]

    def first(self, count: int) -> Tensor:
        """The first `count` images, or all where there are not so many."""
        check_count("count", count, 0)
        return self.images[:count]

    def sample(self, count: int) -> Tensor:
        """`count` images, each class by its share, the same at every call."""
        check_count("count", count, 0)
        chosen = draw(self.labels.numpy(), min(count, len(self)), seed=_SPLIT_SEED)
        return self.images[torch.from_numpy(chosen)]


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set; a label is a place in `classes`. The order is the source's, often class by class:
    shuffle for training.

    Training images may be streamed. Both kinds have `labels`, `resolution`, `len()`, `first(count)`
    and `sample(count)`; only a `Split` has `images`, only a `StreamedSplit` has `batches(...)`.
    """

    name: str
    classes: tuple[str, ...]
    train: Split | StreamedSplit
    validation: Split  # for the search
    test: Split | None  # held out
    # Per channel over the training images, of pixels scaled to 0..1; where these are streamed, over
    # at most 2,048 of them.
    mean: tuple[float, ...]
    std: tuple[float, ...]  # likewise, and at least one grey level (1 / 255)
    skipped: int  # corrupt images left out
    # Of classes, labels and pixels (where training images are streamed, of those 2,048): another
    # digest is other data, or data that is streamed now and was not before.
    digest: str

    @property
    def resolution(self) -> int:
        return self.validation.resolution

    @property
    def streamed(self) -> bool:
        """Whether `train` is a `StreamedSplit`."""
        return not isinstance(self.train, Split)

    @property
    def validation_digest(self) -> str:
        """Of the images that scores are computed from, whatever is trained on."""
        return _digest(self.classes, [self.validation])


def load_data(
    source: str | os.PathLike[str],
    *,
    resolution: int,
    seed: int = 0,
    limit: int | None = None,
    stream: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageData:
    """Loads `source`: `digits`; the path of an image folder or of parquet data (their layouts are
    described in `evaluator.data_folder` and `evaluator.data_parquet`); or the name of a data set of
    the Hugging Face Hub (`cifar10`, `cifar100`, `imagenet-1k`, any "owner/name"), which is
    downloaded once (`evaluator.data_download`). A path that exists goes before such a name.

    `limit` keeps that many training images, each class by its share (one at least), and validation
    images in proportion (of each class one at least); the test split stays whole. `seed` decides
    which training images, and nothing else. `progress(done, total)` counts the images decoded here.

    `stream` says whether training images are streamed; None: where they do not fit into half of the
    free memory together with the other splits. Streamed data has the same training and validation
    images, and at most 10,000 test images (each class by its share). As the digest depends on it,
    a run that may resume on another machine should hand in what `ImageData.streamed` said.

    Corrupt images are left out and counted, up to 1% of all images decoded here. Raises ValueError
    beyond that, and for sources that do not exist, are broken, are without two classes, or of which
    what must be resident does not fit into half of the free memory.
    """
    check_count("resolution", resolution, 1)
    listing = _with_validation(_listing(source))
    assert listing.validation is not None
    if limit is not None:
        classes = len(np.unique(listing.train.labels))
        why = f" (one image of each of the {classes} classes)"
        check_count("limit", limit, classes, why=why)
    if stream is None:
        stream = not _fits(_limited_count(listing, limit), resolution)
    _check_memory(listing, resolution, limit, _resident_count if stream else _limited_count)
    listing = _limited(listing, limit, seed)
    return (_streamed if stream else _decoded)(listing, resolution, progress)


def data_classes(source: str | os.PathLike[str]) -> tuple[str, ...]:
    """The classes of `source`, without decoding an image; of a data set of the Hugging Face Hub
    without downloading it, where its description names them. Raises ValueError as `load_data`."""
    if on_hub(source):
        described = described_classes(os.fspath(source))
        if described:
            return described
    return _listing(source).classes


def available_memory_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not say."""
    found = [
        bound for bound in (_system_memory_bytes(), _container_memory_bytes()) if bound is not None
    ]
    return min(found, default=None)


def _listing(source: str | os.PathLike[str]) -> Listing:
    # Each source needs a library of its own (scikit-learn, pyarrow), which only its module
    # imports, and this module imports that one only when such a source is asked for.
    if source == "digits":
        from evaluator.data_digits import list_digits

        return list_digits()  # a folder of that name is ./digits
    path = Path(source).expanduser()
    if on_hub(source):
        from evaluator.data_parquet import list_parquet

        name = os.fspath(source)
        return list_parquet(name.rpartition("/")[2], download(name))
    if not path.exists():
        raise ValueError(
            f"no data set {os.fspath(source)!r}: it is neither built in (built in: "
            f"{', '.join(BUILT_IN)}) nor the path of a folder or a parquet file, nor the name of a "
            f"data set of the Hugging Face Hub ({', '.join(HUB_NAMES)}, or owner/name)"
        )
    if path.is_file() and path.suffix != ".parquet":
        raise ValueError(
            f"{path} is a file, but not a .parquet file; give a parquet file, a folder of them, or "
            "a folder of class folders"
        )
    homes = [home for home in (path, path / "data") if any(home.glob("train*.parquet"))]
    if homes or path.is_file():
        from evaluator.data_parquet import list_parquet

        name = path.stem if path.is_file() else path.resolve().name
        return list_parquet(name, homes[0] if homes else path)
    from evaluator.data_folder import list_folder

    return list_folder(path)


def _with_validation(listing: Listing) -> Listing:
    """The same with a validation split; the publisher's takes the place of a missing test split."""
    if listing.test is None and listing.validation is not None:
        listing = replace(listing, validation=None, test=listing.validation)
    if listing.validation is not None:
        return listing
    train = listing.train
    count = min(max(1, round(VALIDATION_SHARE * len(train))), VALIDATION_MOST)
    chosen = draw(train.labels, count, seed=_SPLIT_SEED, spare=1)
    if not len(chosen):
        raise ValueError(
            f"{listing.name}: no class has two training images, so that no validation split can be "
            "cut; add images, or a validation and a test split"
        )
    rest = np.setdiff1d(np.arange(len(train)), chosen)
    return replace(listing, train=train.take(rest), validation=train.take(chosen))


def _limited(listing: Listing, limit: int | None, seed: int) -> Listing:
    train, validation = listing.train, listing.validation
    assert validation is not None
    if limit is None or limit >= len(train):
        return listing
    kept = draw(train.labels, limit, seed=seed, least=1)
    # The validation images do not depend on the seed, so that scores of two seeds compare.
    count = round(len(validation) * limit / len(train))
    seen = draw(validation.labels, count, seed=_SPLIT_SEED, least=1)
    return replace(listing, train=train.take(kept), validation=validation.take(seen))


def _limited_count(listing: Listing, limit: int | None) -> int:
    """Images of all splits under `limit`."""
    train, validation = listing.train, listing.validation
    assert validation is not None
    held_out = len(listing.test) if listing.test is not None else 0
    if limit is None or limit >= len(train):
        return len(train) + len(validation) + held_out
    share = round(len(validation) * limit / len(train))
    return limit + max(share, len(np.unique(validation.labels))) + held_out


def _resident_count(listing: Listing, limit: int | None) -> int:
    """Images that are in memory at once, under `limit`, where training images are streamed."""
    train, held_out = len(listing.train), len(listing.test or ())
    kept = train if limit is None else min(limit, train)
    validation = _limited_count(listing, limit) - kept - held_out
    return validation + min(held_out, STREAMED_TEST_MOST) + min(kept, STREAMED_SAMPLE)


def _fits(count: int, resolution: int) -> bool:
    """Whether so many images take at most half of the free memory."""
    available = available_memory_bytes()
    return available is None or 3 * resolution**2 * count <= available // 2


def _check_memory(
    listing: Listing,
    resolution: int,
    limit: int | None,
    count_of: Callable[[Listing, int | None], int],
) -> None:
    """ValueError where the images would take more than half of the free memory."""
    available, count = available_memory_bytes(), count_of(listing, limit)
    if available is None or _fits(count, resolution):
        return
    budget, needed = available // 2, 3 * resolution**2 * count
    ways = []
    smaller = math.isqrt(budget // (3 * count))
    if smaller:
        ways.append(f"a resolution of at most {smaller}")
    limits = range(len(np.unique(listing.train.labels)), len(listing.train))
    images = budget // (3 * resolution**2)
    fitting = bisect_right(limits, images, key=lambda few: count_of(listing, few))
    if fitting:
        ways.append(f"a limit of at most {limits[fitting - 1]} training images")
    raise ValueError(
        f"{listing.name}: {count} images at resolution {resolution} take {needed / _GIB:.3g} GiB, "
        f"but only {budget / _GIB:.3g} GiB (half of the free memory) may be used; "
        + (f"use {' or '.join(ways)}" if ways else "use a machine with more memory")
    )


def _system_memory_bytes() -> int | None:
    try:  # Linux; sysconf's free pages leave out the file cache, which is given up on demand
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    for pages in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"):  # macOS knows the second only
        try:
            return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):
            continue
    return None


def _container_memory_bytes(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the control group (v2) of a container leaves; the system's figure is the host's."""
    try:
        bound = int((group / "memory.max").read_text())  # "max" where there is none
        fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(bound - int(fields["anon"]), 1)
    except (OSError, KeyError, ValueError):
        return None


def _decoded(
    listing: Listing, resolution: int, progress: Callable[[int, int], None] | None
) -> ImageData:
    from evaluator.data_decode import Tally  # needs Pillow; see _listing

    assert listing.validation is not None
    tally = Tally(_limited_count(listing, None), progress)
    train = _split("training", listing.train, resolution, tally)
    validation = _split("validation", listing.validation, resolution, tally)
    test = None
    if listing.test is not None:
        test = _split("test", listing.test, resolution, tally)
    mean, std = _statistics(train.images)
    splits = [train, validation, test]
    return ImageData(
        name=listing.name,
        classes=listing.classes,
        train=train,
        validation=validation,
        test=test,
        mean=mean,
        std=std,
        skipped=len(tally.failures),
        digest=_digest(listing.classes, splits),
    )


def _streamed(
    listing: Listing, resolution: int, progress: Callable[[int, int], None] | None
) -> ImageData:
    """As `_decoded`, but of the training images only a sample is decoded, and let go again."""
    from evaluator.data_decode import Tally  # needs Pillow; see _listing
    from evaluator.data_stream import StreamedSplit, sample_rows

    assert listing.validation is not None
    held_out = listing.test
    if held_out is not None and len(held_out) > STREAMED_TEST_MOST:
        held_out = held_out.take(draw(held_out.labels, STREAMED_TEST_MOST, seed=_SPLIT_SEED))
    few = listing.train.take(sample_rows(listing.train, STREAMED_SAMPLE))
    tally = Tally(len(few) + len(listing.validation) + len(held_out or ()), progress)
    sample = _split("training", few, resolution, tally)
    validation = _split("validation", listing.validation, resolution, tally)
    test = None if held_out is None else _split("test", held_out, resolution, tally)
    mean, std = _statistics(sample.images)
    fingerprint = hashlib.sha256(_digest(listing.classes, [sample, validation, test]).encode())
    fingerprint.update(listing.train.labels.data)
    return ImageData(
        name=listing.name,
        classes=listing.classes,
        train=StreamedSplit(listing.train, resolution),
        validation=validation,
        test=test,
        mean=mean,
        std=std,
        skipped=len(tally.failures),
        digest=fingerprint.hexdigest()[:16],
    )


def _split(name: str, rows: Rows, resolution: int, tally: Tally) -> Split:
    from evaluator.data_decode import decode

    images, labels = decode(rows, resolution, tally)
    if not len(labels):
        raise ValueError(f"none of the {len(rows)} {name} images can be decoded; replace them")
    return Split(images, labels)


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels scaled to 0..1, from exact sums."""
    total, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for chunk in images.split(256):
        levels = chunk.float()  # a squared level is below 2**24: float32 holds it exactly
        total += levels.sum((0, 2, 3), dtype=torch.float64)
        squares += levels.square_().sum((0, 2, 3), dtype=torch.float64)
    count = images.numel() // 3
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    # A channel that never changes would otherwise be divided by zero.
    return tuple((mean / 255).tolist()), tuple((std.clamp_min(1) / 255).tolist())


def _digest(classes: tuple[str, ...], splits: list[Split | None]) -> str:
    """16 hexadecimal digits of SHA-256."""
    fingerprint = hashlib.sha256(repr(classes).encode())
    for split in splits:
        if split is None:
            fingerprint.update(b"absent")
            continue
        fingerprint.update(repr(tuple(split.images.shape)).encode())
        fingerprint.update(split.labels.numpy().data)
        fingerprint.update(split.images.numpy().data)
    return fingerprint.hexdigest()[:16]
