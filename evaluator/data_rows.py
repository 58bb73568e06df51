"""Rows of a data set before a pixel is decoded, and how rows are drawn class by class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# An encoded picture (JPEG, PNG, ...) in memory or in a file, or its grey levels (H, W) as uint8.
Picture = bytes | Path | np.ndarray
LABEL_COLUMNS = ("label", "fine_label", "labels")  # of tables; the first that is there counts


@dataclass(frozen=True, eq=False)
class Rows:
    """One split: labels at hand, pictures on demand.

    Those of this project's sources can be pickled (`pictures` and `describe` are bound methods, not
    closures), so that worker processes can be handed them.
    """

    labels: np.ndarray  # int64 (N,)
    pictures: Callable[[np.ndarray], Iterator[Picture]]  # of ascending rows, in that order
    describe: Callable[[int], str]  # where a row comes from, for messages
    # int64 (N,), ascending: rows of one block are read from the disk together, as a row group of a
    # parquet file is. None where each row is read alone.
    blocks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Rows:
        """Only these rows, which must ascend so that a file can be read from front to back."""
        part = _Part(self, rows)
        blocks = None if self.blocks is None else self.blocks[rows]
        return Rows(self.labels[rows], part.pictures, part.describe, blocks)


@dataclass(frozen=True, eq=False)
class _Part:
    """Some rows of `whole`."""

    whole: Rows
    rows: np.ndarray

    def pictures(self, wanted: np.ndarray) -> Iterator[Picture]:
        return self.whole.pictures(self.rows[wanted])

    def describe(self, row: int) -> str:
        return self.whole.describe(int(self.rows[row]))


@dataclass(frozen=True, eq=False)
class Listing:
    """What a source offers; a split is None where the source has none with labels."""

    name: str
    classes: tuple[str, ...]
    train: Rows
    validation: Rows | None = None
    test: Rows | None = None


def check_count(
    name: str, value: object, least: int, most: int | None = None, why: str = ""
) -> None:
    """ValueError unless `value` is a whole number within the limits."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):  # type: ignore[operator]
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} is {value!r}, but must be a whole number {allowed}{why}")


def draw(
    labels: np.ndarray, count: int, *, seed: int, least: int = 0, spare: int = 0
) -> np.ndarray:
    """Ascending rows of a random draw in which each class has its share of `count`.

    Each class gives at least `least` rows and keeps at least `spare`, where it has as many; where
    these two leave no way to draw exactly `count`, the nearest possible number is drawn.
    """
    _, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    shares = _shares(sizes, count, np.minimum(least, sizes), np.maximum(sizes - spare, 0))
    # RandomState, not default_rng: NumPy promises the same stream in all its versions (NEP 19),
    # so a resumed run cuts its splits as before.
    order = np.random.RandomState(seed % 2**32).permutation(len(labels))
    order = order[np.argsort(inverse[order], kind="stable")]  # by class, shuffled within
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < np.repeat(shares, sizes)])


def _shares(sizes: np.ndarray, count: int, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """`count` divided in proportion to `sizes` by the largest remainder, within the limits."""
    least = np.minimum(least, most)
    count = min(max(count, int(least.sum())), int(most.sum()))
    ideal = sizes * (count / sizes.sum())
    shares = np.clip(ideal.astype(np.int64), least, most)
    while shares.sum() < count:
        shares[np.argmax(np.where(shares < most, ideal - shares, -np.inf))] += 1
    while shares.sum() > count:
        shares[np.argmax(np.where(shares > least, shares - ideal, -np.inf))] -= 1
    return shares
