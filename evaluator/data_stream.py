"""Training images that do not fit in memory, decoded by worker processes as they are needed.

Batches. Batch `step` of a given seed and batch size never changes: it does not depend on the
number of workers, on what was asked for before, or on how many processes share the work. So a
resumed training sees the images that it would have seen, and asking for step k costs one
permutation, not k steps.

Order. An epoch is a permutation of the images, drawn from (seed, epoch); what does not fill a last
batch is left out of that epoch. Where images lie in blocks that are read as a whole (the row groups
of parquet files), the permutation is one of blocks, then of the images within each window of so
many consecutive blocks (4 to 64) as hold about 2,048 images. A batch then reads one window or two,
not a block for each image. Images that are sorted by class on disk are therefore mixed less well
than in a true permutation: a batch sees the classes of one window only. Each worker keeps the
encoded pictures of a window in memory (about 250 MB of ImageNet).

Corrupt images are replaced by the next image of the epoch's permutation that can be decoded.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import signal
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from evaluator.data_decode import BAD_PERCENT, Tally, attempt, cores, decode
from evaluator.data_rows import Picture, Rows, check_count, draw

WINDOW_IMAGES = 2048
WINDOW_BLOCKS = (4, 64)  # fewest and most: files may have row groups of any size
_CROP_TRIES = 10
_ORDER, _CROP, _SAMPLE = 1, 2, 3  # what a generator is for, so that no two draw the same
_SAMPLE_BLOCKS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A random part of a picture: `scale` is its share of the area, `ratio` its width / height.

    Source: GoogLeNet (Szegedy et al., 2014), arXiv 1409.4842, section 6. The share is uniform, the
    ratio uniform in its logarithm. Where ten draws do not fit into the picture, the largest centre
    part of an allowed ratio.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        for name, (low, high), most in (("scale", self.scale, 1), ("ratio", self.ratio, math.inf)):
            if not 0 < low <= high <= most or math.isinf(high):
                bound = " <= 1" if most == 1 else ""
                raise ValueError(f"{name} is ({low}, {high}), but 0 < low <= high{bound} must hold")

    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Left, top, right and bottom, whole pixels."""
        low, high = self.ratio
        for _ in range(_CROP_TRIES):
            area = width * height * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
            across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < across <= width and 0 < down <= height:
                left = int(rng.integers(width - across + 1))
                top = int(rng.integers(height - down + 1))
                return left, top, left + across, top + down
        across = max(1, min(width, round(height * high)))
        down = max(1, min(height, round(width / low)))
        left, top = (width - across) // 2, (height - down) // 2
        return left, top, left + across, top + down


@dataclass(frozen=True, eq=False)
class StreamedSplit:
    """Training images that are read when they are asked for; the counterpart of `data.Split`."""

    rows: Rows
    resolution: int

    @property
    def labels(self) -> Tensor:
        """int64 (N,), in the source's order."""
        return torch.from_numpy(self.rows.labels)

    def __len__(self) -> int:
        return len(self.rows)

    def first(self, count: int) -> Tensor:
        """The first `count` images (fewer where there are not so many) that can be decoded, uint8
        (count, 3, R, R), in the evaluation transform."""
        return _first(self.rows, self.resolution, count)

    def sample(self, count: int) -> Tensor:
        """About `count` images of all classes, the same at every call, likewise."""
        check_count("count", count, 0)
        few = self.rows.take(sample_rows(self.rows, count))
        return _first(few, self.resolution, len(few))

    def batches(self, **settings: Any) -> StreamedImages:
        """`StreamedImages` of this split, with its settings."""
        return StreamedImages(self.rows, self.resolution, **settings)


class StreamedImages:
    """Shuffled batches of uint8 images; see the head of this file for order and corrupt images.

    `batch_size` counts the images of a whole batch; with `ranks` processes that train together,
    process `rank` gets images rank::ranks of it, so that the whole does not depend on `ranks`.
    `crop` None gives the evaluation transform. Mirroring and shifts are the trainer's.

    `workers` processes decode (0: none, this process with threads; None: one a core, at most 16,
    whatever `ranks` is) and each has `prefetch` batches under way, which lie in shared memory (in a
    container perhaps too small: `docker run --shm-size`). They start with the first batch that is
    asked for and work ahead from there. A step that is not the next one is decoded in this process,
    beside them; two such steps in a row move them there. They ignore Ctrl-C, and end at `close`, at
    the end of the `with` block, with an exception inside `batch`, and soon after this process
    whatever ends it.

    Raises ValueError for impossible arguments, and in `batch` for broken files and once more than
    1% of all images turned out corrupt (each rank counts those that it met). Not for several
    threads at once.
    """

    def __init__(
        self,
        rows: Rows,
        resolution: int,
        *,
        batch_size: int,
        seed: int,
        crop: Crop | None = Crop(),
        workers: int | None = None,
        prefetch: int = 2,
        rank: int = 0,
        ranks: int = 1,
        pin_memory: bool = False,
        start_method: str | None = None,
    ):
        known = multiprocessing.get_all_start_methods()
        check_count("resolution", resolution, 1)
        check_count("batch_size", batch_size, 1, len(rows), f" (there are {len(rows)} images)")
        check_count("seed", seed, 0)
        check_count("workers", 0 if workers is None else workers, 0)
        check_count("prefetch", prefetch, 1)
        check_count("ranks", ranks, 1)
        check_count("rank", rank, 0, ranks - 1, f" (of {ranks} ranks)")
        if batch_size % ranks:
            raise ValueError(
                f"batch_size is {batch_size}, but must be a multiple of ranks ({ranks})"
            )
        if start_method is not None and start_method not in known:
            raise ValueError(
                f"start_method is {start_method!r}, but must be one of {', '.join(known)}"
            )
        self._maker = _Maker(rows, resolution, batch_size, seed, crop, rank, ranks)
        self._workers = cores() if workers is None else workers
        self._loading: dict[str, Any] = {"pin_memory": pin_memory, "prefetch_factor": prefetch}
        self._loading["multiprocessing_context"] = start_method
        self._ahead: Iterator[_Batch] | None = None
        self._next = self._expected = 0  # what the workers give next; the step after the last one
        self._failures: dict[int, str] = {}
        self._closed = False

    def __len__(self) -> int:
        """Images of the whole split."""
        return len(self._maker.rows)

    @property
    def steps_per_epoch(self) -> int:
        return self._maker.steps_per_epoch

    @property
    def skipped(self) -> int:
        """Different corrupt images that the batches so far met."""
        return len(self._failures)

    def plain(self, count: int) -> Tensor:
        """As `StreamedSplit.first`."""
        return _first(self._maker.rows, self._maker.resolution, count)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, R, R) and labels int64 (N,); N is batch_size / ranks."""
        check_count("step", step, 0)
        if self._closed:
            raise ValueError("the images are closed")
        try:
            made = self._made(step)
        except BaseException:  # Ctrl-C too: half a message may be on its way from a worker
            self._stop()
            raise
        self._expected = step + 1
        self._failures |= made.failures
        problem = made.problem or _too_many(self._failures, self._maker.rows)
        if problem:
            self._stop()
            raise ValueError(problem)
        return made.images, made.labels

    def close(self) -> None:
        """Ends the workers, after the batch that each is at. May be called twice."""
        self._closed = True
        self._stop()

    def __enter__(self) -> StreamedImages:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_ahead"):
            self._stop()

    def _made(self, step: int) -> _Batch:
        if self._workers == 0:
            return self._maker.make(step, cores())
        if self._ahead is None or (step != self._next and step == self._expected):
            self._start(step)
        assert self._ahead is not None
        if step != self._next:
            return self._maker.make(step, cores())
        made = next(self._ahead)
        self._next = step + 1
        return made

    def _start(self, step: int) -> None:
        self._stop()
        loader = DataLoader(
            self._maker,
            batch_size=None,  # an item of the data set is a batch already
            sampler=_StepsFrom(step),
            num_workers=self._workers,
            collate_fn=_unchanged,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # or it would draw from the global one
            **self._loading,
        )
        self._ahead, self._next = iter(loader), step

    def _stop(self) -> None:
        if self._ahead is not None:
            # Dropping the iterator does this too, but a traceback may hold another reference.
            self._ahead._shutdown_workers()  # type: ignore[attr-defined]
            self._ahead = None


def sample_rows(rows: Rows, count: int) -> np.ndarray:
    """About `count` rows, ascending, the same at every call, out of few blocks."""
    if rows.blocks is None or count >= len(rows):
        return draw(rows.labels, min(count, len(rows)), seed=0)
    rng = np.random.default_rng([0, _SAMPLE])
    starts, stops = _block_bounds(rows.blocks)
    most, chosen, found = -(-count // _SAMPLE_BLOCKS), [], 0
    for block in rng.permutation(len(starts)):
        members = np.arange(starts[block], stops[block])
        chosen.append(rng.permutation(members)[: min(most, count - found)])
        found += len(chosen[-1])
        if found == count:
            break
    return np.sort(np.concatenate(chosen))


class _Batch(NamedTuple):
    images: Tensor
    labels: Tensor
    failures: dict[int, str]  # rows that could not be decoded, and why
    problem: str  # what makes going on impossible, or ""


@dataclass(eq=False)
class _Maker(Dataset[_Batch]):
    """Step to batch. It is what worker processes are handed, and remembers what a next batch is
    likely to need."""

    rows: Rows
    resolution: int
    batch_size: int
    seed: int
    crop: Crop | None
    rank: int
    ranks: int
    _order: tuple[int, np.ndarray] | None = field(default=None, repr=False)
    _shelf: _Shelf | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_order": None, "_shelf": None}

    def __getitem__(self, step: int) -> _Batch:
        return self.make(step, threads=1)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.rows) // self.batch_size

    def make(self, step: int, threads: int) -> _Batch:
        """Batch `step`; problems with files and too many failures are told, not raised, because a
        message that crosses processes as an exception carries a traceback."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self._epoch(epoch)
        start = place * self.batch_size
        places = np.arange(start + self.rank, start + self.batch_size, self.ranks)
        count, side = len(places), self.resolution
        images = torch.empty(count, 3, side, side, dtype=torch.uint8)
        labels = torch.empty(count, dtype=torch.int64)
        out = images.numpy()  # the same memory
        waiting, failures = np.arange(count), dict[int, str]()
        try:
            while len(waiting):
                rows = order[places[waiting] % len(order)]
                found = self._decoded(rows, epoch, threads)
                for slot, row, pixels in zip(waiting.tolist(), rows.tolist(), found, strict=True):
                    if isinstance(pixels, str):
                        failures[row] = pixels
                    else:
                        out[slot] = pixels
                        labels[slot] = int(self.rows.labels[row])
                bad = [isinstance(pixels, str) for pixels in found]
                waiting = waiting[bad]
                places[waiting] += 1
                problem = _too_many(failures, self.rows)  # which ends the loop at the latest
                if problem:
                    return _Batch(images, labels, failures, problem)
        except ValueError as error:
            return _Batch(images, labels, failures, str(error))
        return _Batch(images, labels, failures, "")

    def _decoded(self, rows: np.ndarray, epoch: int, threads: int) -> list[np.ndarray | str]:
        if self._shelf is None:
            Image.init()  # Pillow's plugins, before several threads would load them
            self._shelf = _Shelf(self.rows)

        def one(row: int, picture: Picture) -> np.ndarray | str:
            if self.crop is None:
                return attempt(picture, self.resolution)
            rng = np.random.default_rng([self.seed, _CROP, epoch, row])
            crop = self.crop
            return attempt(picture, self.resolution, lambda w, h: crop.box(w, h, rng))

        pictures = self._shelf.pictures(rows)
        if threads == 1:
            return list(map(one, rows.tolist(), pictures))
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, rows.tolist(), pictures))

    def _epoch(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_order(self.rows, self.seed, epoch)
        return self._order[1]


def epoch_order(rows: Rows, seed: int, epoch: int) -> np.ndarray:
    """The rows of an epoch, each once: int64 (N,)."""
    rng = np.random.default_rng([seed, _ORDER, epoch])
    if rows.blocks is None:
        return rng.permutation(len(rows))
    starts, stops = _block_bounds(rows.blocks)
    window = np.empty(len(starts))
    window[rng.permutation(len(starts))] = np.arange(len(starts)) // _window_blocks(rows.blocks)
    return np.argsort(np.repeat(window, stops - starts) + rng.random(len(rows)), kind="stable")


def _block_bounds(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row of each block, and the row after its last one."""
    starts = np.flatnonzero(np.diff(blocks, prepend=blocks[0] - 1))
    return starts, np.append(starts[1:], len(blocks))


def _window_blocks(blocks: np.ndarray) -> int:
    """Blocks in a window."""
    count = len(_block_bounds(blocks)[0])
    return int(np.clip(-(-WINDOW_IMAGES * count // len(blocks)), *WINDOW_BLOCKS))


class _Shelf:
    """Pictures of any rows; blocks that were read stay for the next batch, as many as a window."""

    def __init__(self, rows: Rows):
        self._rows = rows
        self._kept: OrderedDict[int, list[Picture]] = OrderedDict()
        if rows.blocks is not None:
            self._starts, self._stops = _block_bounds(rows.blocks)
            self._most = _window_blocks(rows.blocks)

    def pictures(self, rows: np.ndarray) -> list[Picture]:
        """Of `rows`, in their order."""
        if self._rows.blocks is None:
            ascending, places = np.unique(rows, return_inverse=True)
            found = list(self._rows.pictures(ascending))
            return [found[place] for place in places]
        blocks = np.searchsorted(self._starts, rows, side="right") - 1
        for block in np.unique(blocks).tolist():
            if block not in self._kept:
                members = np.arange(self._starts[block], self._stops[block])
                self._kept[block] = list(self._rows.pictures(members))
            self._kept.move_to_end(block)
        starts = self._starts[blocks]
        located = zip(blocks.tolist(), (rows - starts).tolist(), strict=True)
        wanted = [self._kept[block][place] for block, place in located]
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return wanted


class _StepsFrom(Sampler[int]):
    def __init__(self, step: int):
        self._step = step

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._step)


def _unchanged(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    """The parent decides when a worker ends, and a forked worker must not run the parent's
    handlers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _first(rows: Rows, resolution: int, count: int) -> Tensor:
    check_count("count", count, 0)
    parts, have, start, tally = [], 0, 0, Tally(len(rows))
    while have < count and start < len(rows):
        stop = min(start + count - have, len(rows))
        parts.append(decode(rows.take(np.arange(start, stop)), resolution, tally)[0])
        have, start = have + len(parts[-1]), stop
    return torch.cat([torch.empty(0, 3, resolution, resolution, dtype=torch.uint8), *parts])


def _too_many(failures: dict[int, str], rows: Rows) -> str:
    """A message where more than 1% of the rows cannot be decoded, or ""."""
    if 100 * len(failures) <= BAD_PERCENT * len(rows):
        return ""
    row, why = min(failures.items())
    return (
        f"{len(failures)} training images cannot be decoded; at most {BAD_PERCENT}% of all "
        f"{len(rows)} may be corrupt; one is {rows.describe(row)} ({why}); repair or remove them"
    )
