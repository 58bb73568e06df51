"""The handwritten digits that come with scikit-learn: a data set that is always at hand.

Source: UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998), test part:
1,797 grey pictures of 8 x 8 pixels with levels 0 to 16.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_digits

from evaluator.data_rows import Listing, Picture, Rows, draw

_SPLIT_SEED = 0  # a constant, so that runs of any seed can be compared


def list_digits() -> Listing:
    """Stratified: 60% training, 20% validation, 20% test; levels scaled to 0..255."""
    loaded = load_digits()
    levels = np.rint(loaded.images * (255 / 16)).astype(np.uint8)
    labels = loaded.target.astype(np.int64)

    def pictures(rows: np.ndarray) -> Iterator[Picture]:
        return (levels[row] for row in rows)

    every = Rows(labels, pictures, lambda row: f"digit {row}")
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
