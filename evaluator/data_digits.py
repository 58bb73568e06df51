"""The handwritten digits that come with scikit-learn: a data set that is always at hand.

Source: UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998), test part:
1,797 grey pictures of 8 x 8 pixels with levels 0 to 16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits

from evaluator.data_rows import Listing, Picture, Rows, draw

_SPLIT_SEED = 0  # a constant, so that runs of any seed can be compared


def list_digits() -> Listing:
    """Stratified: 60% training, 20% validation, 20% test; levels scaled to 0..255."""
    loaded = load_digits()
    levels = np.rint(loaded.images * (255 / 16)).astype(np.uint8)
    labels = loaded.target.astype(np.int64)
    digits = _Digits(levels)
    every = Rows(labels, digits.pictures, digits.describe)
    fifth = round(len(labels) / 5)
    test = draw(labels, fifth, seed=_SPLIT_SEED)
    rest = np.setdiff1d(np.arange(len(labels)), test)
    validation = rest[draw(labels[rest], fifth, seed=_SPLIT_SEED)]
    train = np.setdiff1d(rest, validation)
    return Listing(
        "digits",
        tuple(str(name) for name in loaded.target_names),
        every.take(train),
        every.take(validation),
        every.take(test),
    )


@dataclass(frozen=True, eq=False)
class _Digits:
    levels: np.ndarray  # uint8 (N, 8, 8)

    def pictures(self, rows: np.ndarray) -> Iterator[Picture]:
        return (self.levels[row] for row in rows)

    def describe(self, row: int) -> str:
        return f"digit {row}"
