"""Encoded pictures to uint8 tensors, on several threads."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from itertools import islice

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from evaluator.data_rows import Picture, Rows

# Named, because Pillow would otherwise try all it knows, and some (EPS) start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
BAD_PERCENT = 1
_CHUNK = 64  # pictures per task: enough to hide what handing over a task costs
# (width, height) of a picture to the part of it that is wanted: left, top, right, bottom.
Region = Callable[[int, int], tuple[int, int, int, int]]
_MOST_THREADS = 16  # beyond, Python's lock is the limit: about 0.05 ms a picture is spent in it


class Tally:
    """Images done and images that could not be decoded, over all splits of a data set."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None = None):
        self.total = total
        self.done = 0
        self.failures: list[str] = []
        self._progress = progress

    def add(self, done: int, failures: list[str]) -> None:
        """Raises ValueError once strictly more than 1% of `total` have failed."""
        self.done += done
        self.failures += failures
        if 100 * len(self.failures) > BAD_PERCENT * self.total:
            raise ValueError(
                f"{len(self.failures)} of the first {self.done} images cannot be decoded; at most "
                f"{BAD_PERCENT}% of all {self.total} may be corrupt; the first is "
                f"{self.failures[0]}; repair or remove them"
            )
        if self._progress is not None:
            self._progress(self.done, self.total)


def decode(rows: Rows, resolution: int, tally: Tally) -> tuple[Tensor, Tensor]:
    """Images uint8 (M, 3, resolution, resolution) and labels int64 (M,) in the order of `rows`.

    M is the number of rows less those that cannot be decoded, which `tally` counts. The images
    are written where they stay: the peak is that of the result.
    """
    images = torch.empty(len(rows), 3, resolution, resolution, dtype=torch.uint8)
    kept = np.ones(len(rows), dtype=bool)
    for start, done, failures in _in_threads(rows, images.numpy(), resolution):
        kept[[start + place for place, _ in failures]] = False
        described = [f"{rows.describe(start + place)} ({why})" for place, why in failures]
        tally.add(done, described)
    places = np.flatnonzero(kept)
    if len(places) < len(rows):
        for place, source in enumerate(places.tolist()):  # in place: no second copy in memory
            if place != source:
                images[place] = images[source]
        images = images[: len(places)]
    return images, torch.from_numpy(rows.labels[places])


_Failures = list[tuple[int, str]]


def _in_threads(
    rows: Rows, out: np.ndarray, resolution: int
) -> Iterator[tuple[int, int, _Failures]]:
    """Fills `out` chunk by chunk; yields first row, number and failures of each, in order.

    Threads suffice, as Pillow decodes and resizes without Python's lock. Only a few chunks are
    under way at any time, so the encoded pictures never pile up.
    """
    Image.init()  # loads Pillow's plugins once, before several threads would
    pictures = rows.pictures(np.arange(len(rows)))
    threads = cores()
    waiting: deque[tuple[int, int, Future[_Failures]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(rows), _CHUNK):
            chunk = list(islice(pictures, _CHUNK))
            assert len(chunk) == min(_CHUNK, len(rows) - start), "a source gave too few pictures"
            task = pool.submit(_fill, out[start : start + len(chunk)], chunk, resolution)
            waiting.append((start, len(chunk), task))
            if len(waiting) > 2 * threads:
                first, done, oldest = waiting.popleft()
                yield first, done, oldest.result()
        for first, done, task in waiting:
            yield first, done, task.result()


def cores() -> int:
    """Cores that this process may use, up to a number beyond which decoding gains nothing."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux; honours taskset and containers
    return min(len(affinity(0)) if affinity else os.cpu_count() or 1, _MOST_THREADS)


def _fill(out: np.ndarray, pictures: list[Picture], resolution: int) -> _Failures:
    failures = []
    for place, picture in enumerate(pictures):
        found = attempt(picture, resolution)
        if isinstance(found, str):
            failures.append((place, found))
        else:
            out[place] = found
    return failures


def attempt(picture: Picture, resolution: int, region: Region | None = None) -> np.ndarray | str:
    """What `pixels` gives, or in a line why it cannot."""
    try:
        return pixels(picture, resolution, region)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        return "not an image of a known format"
    except Exception as error:  # on broken bytes Pillow raises almost anything
        return f"{type(error).__name__}: {error}"


def pixels(picture: Picture, resolution: int, region: Region | None = None) -> np.ndarray:
    """RGB uint8 (3, resolution, resolution): short side to `resolution`, then the centre square;
    or `region` of the picture, resized to the square.

    Without a region JPEGs are decoded in full: Pillow's `draft` mode (decoding at a half or a
    quarter) was less than twice as fast and moved pixels by 2 to 7 grey levels on average. That
    does not matter for a random region, so there they are decoded at a half, a quarter or an eighth
    where the region still keeps `resolution` pixels a side.
    """
    if isinstance(picture, np.ndarray):
        return _square(Image.fromarray(picture), resolution, region)
    source = BytesIO(picture) if isinstance(picture, bytes) else picture
    with Image.open(source, formats=FORMATS) as image:
        return _square(image, resolution, region)


def _square(image: Image.Image, resolution: int, region: Region | None) -> np.ndarray:
    if region is None:
        return _framed(image, resolution)
    (width, height), (left, top, right, bottom) = image.size, region(*image.size)
    across = down = 1.0  # pixels of what is decoded to one of the picture
    if image.format == "JPEG":
        least = (resolution * width / (right - left), resolution * height / (bottom - top))
        drafted = image.draft(None, (math.ceil(least[0]), math.ceil(least[1])))
        if drafted is not None:  # the extent of the picture, which may end within a pixel
            across, down = drafted[1][2] / width, drafted[1][3] / height
    box = (left * across, top * down, right * across, bottom * down)
    resized = _rgb(image).resize((resolution, resolution), Image.Resampling.BILINEAR, box)
    return np.asarray(resized).transpose(2, 0, 1)


def _framed(image: Image.Image, resolution: int) -> np.ndarray:
    image = _rgb(image)
    short = min(image.size)
    if short != resolution:
        width, height = (int(resolution * side / short) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((side - resolution) / 2) for side in image.size)
    if image.size != (resolution, resolution):
        image = image.crop((left, top, left + resolution, top + resolution))
    return np.asarray(image).transpose(2, 0, 1)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255, not scale
        levels = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if image.mode == "RGB":
        return image
    image.load()
    image.info.pop("transparency", None)  # converting a palette, Pillow warns that it is ignored
    return image.convert("RGB")
