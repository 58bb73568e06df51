"""What an evaluation promises, from means and deviations of what is not evaluated yet.

All objectives are to be large. Functions of arrays; shapes: B rows that may be evaluated, K levels
of one objective, M objectives, N points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, ndtr

from search.surrogate import Scores

Floats = NDArray[np.floating[Any]]

_ROOT = np.sqrt(2 * np.pi)
_AUGMENTATION = 0.05  # of Knowles, 2006


def expected_improvement(mean: Floats, deviation: Floats, level: Floats | float) -> Floats:
    """E max(f - level, 0) of a normal f (Jones et al., 1998, "Efficient global optimization of
    expensive black-box functions", equation 15); the three broadcast."""
    z = (mean - level) / deviation
    return deviation * (z * ndtr(z) + np.exp(-0.5 * z * z) / _ROOT)


def log_expected_improvement(mean: Floats, deviation: Floats, level: Floats | float) -> Floats:
    """Its logarithm, exact where the improvement itself is too small for a float (Ament et al.,
    2023, "Unexpected improvements to expected improvement", arXiv 2310.20708)."""
    z = (mean - level) / deviation
    high, low = np.maximum(z, -1.0), np.minimum(z, -1.0)
    near = np.log(high * ndtr(high) + np.exp(-0.5 * high * high) / _ROOT)
    # density + z * distribution = density * (1 + z * Mills' ratio); the bracket tends to 1 / z^2,
    # by which it is replaced where the difference has no digits left.
    bracket = 1 + low * np.sqrt(np.pi / 2) * erfcx(-low / np.sqrt(2))
    bracket = np.where(low < -1e4, 1 / (low * low), bracket)
    far = -0.5 * low * low - np.log(_ROOT) + np.log(bracket)
    return np.where(z > -1, near, far) + np.log(deviation)


def front(points: Floats) -> Floats:
    """Those of (N, 2) that no other beats in both, each once, the second objective rising."""
    order = np.lexsort((-points[:, 0], -points[:, 1]))
    first = points[order, 0]
    best = np.concatenate([[-np.inf], np.maximum.accumulate(first)[:-1]])
    return points[order][first > best][::-1]


def unbeaten(points: Floats) -> NDArray[np.bool_]:
    """Which of (N, M) no other beats: as good in all and better in one."""
    good = np.ones((len(points), len(points)), bool)
    better = np.zeros_like(good)
    for column in points.T:  # a column at a time is ten times as fast as sums over the last axis
        good &= column[:, None] >= column
        better |= column[:, None] > column
    return ~np.any(good & better, axis=0)


def hypervolume(points: Floats, reference: Floats) -> float:
    """The area between points (N, 2) and the reference (2,) that is worse in both."""
    corner = front(points[(points > reference).all(axis=1)])
    steps = np.diff(corner[:, 1], prepend=reference[1])
    return float(steps @ (corner[:, 0] - reference[0]))


def gains(scores: Scores, mean: Floats, deviation: Floats, levels: Floats) -> Floats:
    """E max(y - level, 0), (K, B), of values y whose scores are normal with these moments (B,).

    The way back from scores to values is linear in pieces, so that this is a sum over the pieces
    above the level: the slope of each times what the scores are expected to go through of it.
    """
    begins = scores.score(levels)
    knots = np.unique(np.concatenate([scores.scores[1:-1], begins]))
    above = expected_improvement(mean, deviation, knots[:, None])
    piece = np.searchsorted(scores.scores, knots, side="right") - 1
    slopes = scores.slopes[np.clip(piece, 0, len(scores.slopes) - 1)]
    through = above - np.concatenate([above[1:], np.zeros((1, len(mean)))])
    total = np.cumsum((slopes[:, None] * through)[::-1], axis=0)[::-1]
    return total[np.searchsorted(knots, begins)]


def certain_gains(values: Floats, levels: Floats) -> Floats:
    """max(y - level, 0), (K, B), of values (B,) that are known."""
    return np.maximum(values - levels[:, None], 0)


def strips(corner: Floats, reference: Floats) -> tuple[Floats, Floats]:
    """The area that is not covered by a front (N, 2), cut into strips along the second objective:
    in strip k, from `begins[k]` to the next (the last is endless), all that is above `heights[k]`.
    """
    begins = np.concatenate([[reference[1]], corner[:, 1]])
    return begins, np.concatenate([corner[:, 0], [reference[0]]])


def hypervolume_improvement(first: Floats, second: Floats) -> Floats:
    """The expected growth of the hypervolume, (B,), for independent objectives.

    `first` (K, B) are gains of the first objective over the heights of `strips`, `second` those of
    the second over their begins; what lies in a strip is the difference to the next. With exact
    gains of normal objectives this is the closed form of Emmerich et al., 2011, "Hypervolume-based
    expected improvement: monotonicity properties and exact computation", summed by strips
    and not by cells.
    """
    width = second - np.concatenate([second[1:], np.zeros((1, second.shape[1]))])
    return np.einsum("kb,kb->b", first, width)


def scalarised_improvement(samples: Floats, points: Floats, weights: Floats) -> Floats:
    """E max(s - s*, 0), (B,), over samples (S, B, M) of the objectives of each row.

    s is the augmented Chebyshev scalarisation with weights (M,) that sum to 1 (Knowles, 2006,
    "ParEGO", with the sign of a gain), s* the best of points (N, M).
    """

    def scalar(of: Floats) -> Floats:
        weighted = of * weights
        return weighted.min(axis=-1) + _AUGMENTATION * weighted.sum(axis=-1)

    return np.maximum(scalar(samples) - scalar(points).max(), 0).mean(axis=0)
