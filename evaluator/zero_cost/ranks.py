"""Several scores of a population as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def average_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """1 for the lowest to n for the highest; equal values share the mean of their ranks. What is
    not finite is lower than everything else, and all of it equal."""
    column = np.asarray(values, np.float64)
    column = np.where(np.isfinite(column), column, -np.inf)
    _, place, counts = np.unique(column, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def log_rank_sum(table: Mapping[str, Sequence[float]]) -> NDArray[np.float64]:
    """The sum over scores of log(rank / n) for each of n networks, at most 0; higher is better.

    `table` has a column for each score, with the networks in the same order. The best has rank n,
    so that one low rank costs more than a high one gains. ValueError where there is no column, or
    they differ in length or are not flat.
    Source: AZ-NAS (Lee and Ham, 2024), arXiv 2403.19232, section 3.5. Differs from it: ties share
    their mean rank; NaN and infinities rank last.
    """
    shapes = {name: np.shape(column) for name, column in table.items()}
    if not shapes:
        raise ValueError("the table has no scores")
    for name, shape in shapes.items():
        first = next(iter(shapes))
        if len(shape) != 1 or shape != shapes[first]:
            raise ValueError(
                f"{name} has the shape {shape}, but must have one number for each network, as "
                f"{first} with {shapes[first]}"
            )
    joined = np.zeros(next(iter(shapes.values())))
    for column in table.values():
        joined += np.log(average_ranks(column) / len(joined))
    return joined
