"""What genes add to a score: a population's scores as a sum of the effects of single genes.

A supernet's score of one network has an error of its own, which the next network does not share.
What a choice adds on average over many networks is known much better. Where networks differ by
what such sums say, ranking by the sum is therefore more faithful than ranking by the score itself;
how much that helps is measured in `benchmarks/ranking_nasbench_macro.py`. A sum of main effects
cannot say that two choices work well together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from space.decisions import Codes
from space.search_space import Space

STRENGTHS = np.logspace(-3, 3, 13)  # of the ridge penalty; the best by leave-one-out is taken


def indicators(space: Space, codes: Codes) -> NDArray[np.float64]:
    """(B, F): for each choice of each variable whether a row (B, V) has made it. A variable that
    does not matter in a row has made none."""
    active = space.active(codes)
    columns = [
        active[:, v] & (codes[:, v] == code)
        for v, variable in enumerate(space.variables)
        for code in range(len(variable.choices))
    ]
    return np.stack(columns, 1).astype(np.float64)


def main_effects(space: Space, codes: Codes, scores: ArrayLike) -> NDArray[np.float64]:
    """The scores (B,) of rows (B, V) as a ridge regression on single choices has them.

    Scores should be such that effects add up, as log-likelihoods do better than shares of right
    answers. ValueError where a score is not finite.
    """
    from sklearn.linear_model import RidgeCV  # only here: scikit-learn takes a second to import

    values = np.asarray(scores, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a score is not finite")
    features = indicators(space, codes)
    return RidgeCV(STRENGTHS).fit(features, values).predict(features)
