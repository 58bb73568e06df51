"""Image data sets, resident in memory as uint8: built-in digits, image folders, parquet files.

Every source goes through the same steps: list the rows of each split, cut the splits that are
missing, take a subset if asked to, check that it fits in memory, decode.

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

from evaluator.data_rows import Listing, Rows, draw

if TYPE_CHECKING:
    from evaluator.data_decode import Tally

BUILT_IN = ("digits",)
VALIDATION_SHARE = 0.2
VALIDATION_MOST = 10_000
_SPLIT_SEED = 0
_GIB = 2**30


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 (N, 3, resolution, resolution) and labels int64 (N,), in the source's order."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set in memory; a label is a place in `classes`. The order is the source's, often
    class by class: shuffle for training."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split  # for the search
    test: Split | None  # held out
    mean: tuple[float, ...]  # per channel over the training images, of pixels scaled to 0..1
    std: tuple[float, ...]  # likewise, and at least one grey level (1 / 255)
    skipped: int  # corrupt images left out
    digest: str  # of classes, labels and pixels: another digest is other data

    @property
    def resolution(self) -> int:
        return self.train.images.shape[-1]


def load_data(
    source: str | os.PathLike[str],
    *,
    resolution: int,
    seed: int = 0,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageData:
    """Loads `source`: `digits`, or the path of an image folder or of parquet data (their layouts
    are described in `evaluator.data_folder` and `evaluator.data_parquet`).

    `limit` keeps that many training images, each class by its share (one at least), and validation
    images in proportion (of each class one at least); the test split stays whole. `seed` decides
    which training images, and nothing else. `progress(done, total)` counts images of all splits.

    Corrupt images are left out and counted, up to 1% of all images. Raises ValueError beyond that,
    and for sources that do not exist, are broken, are without two classes, or do not fit into half
    of the free memory.
    """
    _check_count("resolution", resolution, 1)
    listing = _with_validation(_listing(source))
    assert listing.validation is not None
    if limit is not None:
        classes = len(np.unique(listing.train.labels))
        _check_count("limit", limit, classes, f" (one image of each of the {classes} classes)")
    _check_memory(listing, resolution, limit)
    listing = _limited(listing, limit, seed)
    return _decoded(listing, resolution, progress)


def data_classes(source: str | os.PathLike[str]) -> tuple[str, ...]:
    """The classes of `source`, without decoding an image. Raises ValueError as `load_data`."""
    return _listing(source).classes


def available_memory_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not say."""
    found = [
        bound for bound in (_system_memory_bytes(), _container_memory_bytes()) if bound is not None
    ]
    return min(found, default=None)


def _check_count(name: str, value: int, least: int, why: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"{name} is {value!r}, but must be a whole number of at least {least}{why}"
        )


def _listing(source: str | os.PathLike[str]) -> Listing:
    # Each source needs a library of its own (scikit-learn, pyarrow), which only its module
    # imports, and this module imports that one only when such a source is asked for.
    if source == "digits":
        from evaluator.data_digits import list_digits

        return list_digits()  # a folder of that name is ./digits
    path = Path(source).expanduser()
    if not path.exists():
        raise ValueError(
            f"no data set {os.fspath(source)!r}: it is neither built in (built in: "
            f"{', '.join(BUILT_IN)}) nor the path of a folder or a parquet file"
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


def _check_memory(listing: Listing, resolution: int, limit: int | None) -> None:
    """ValueError where the images would take more than half of the free memory."""
    available = available_memory_bytes()
    if available is None:
        return
    budget, count = available // 2, _limited_count(listing, limit)
    needed = 3 * resolution**2 * count
    if needed <= budget:
        return
    ways = []
    smaller = math.isqrt(budget // (3 * count))
    if smaller:
        ways.append(f"a resolution of at most {smaller}")
    limits = range(len(np.unique(listing.train.labels)), len(listing.train))
    images = budget // (3 * resolution**2)
    fitting = bisect_right(limits, images, key=lambda few: _limited_count(listing, few))
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
