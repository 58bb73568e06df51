"""Pareto fronts and hypervolume. Every objective is minimised; negate what should be large.

A point dominates another if it is nowhere larger and somewhere smaller. Of points that are equal
in every objective only the first is kept. A point with a NaN is never on a front and dominates
nothing; infinities are ordinary values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices, ascending, of the points that no other dominates.

    O(n log n) for one or two objectives (Kung, Luccio and Preparata, 1975, "On Finding the Maxima
    of a Set of Vectors", section 2), O(n * front) for more. ValueError where points differ in
    their number of objectives or have none.
    """
    if not points:
        return []
    objectives = len(points[0])
    if objectives == 0 or any(len(point) != objectives for point in points):
        raise ValueError("every point needs the same number of objectives, at least one")
    # In lexicographic order no point is dominated by a later one, and the first of equals leads.
    ordered = sorted(
        (tuple(point), i) for i, point in enumerate(points) if not any(map(math.isnan, point))
    )
    if objectives <= 2:
        return sorted(_sweep(ordered))
    kept: list[tuple[tuple[float, ...], int]] = []
    for point, i in ordered:
        if not any(_covers(other, point) for other, _ in kept):
            kept.append((point, i))
    return sorted(i for _, i in kept)


def _sweep(ordered: Sequence[tuple[tuple[float, ...], int]]) -> list[int]:
    """The front of one or two objectives: a point counts if its last objective is a new low."""
    kept: list[int] = []
    lowest: float | None = None
    for point, i in ordered:
        if lowest is None or point[-1] < lowest:
            kept.append(i)
            lowest = point[-1]
    return kept


def _covers(one: Sequence[float], other: Sequence[float]) -> bool:
    """`one` dominates or equals `other`."""
    return all(a <= b for a, b in zip(one, other, strict=True))


def hypervolume_2d(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Area that the points dominate up to `reference`, the corner that is worst in both.

    A point that is not below the reference in both objectives adds nothing, nor does NaN.
    Source: Zitzler and Thiele, 1998, "Multiobjective Optimization Using Evolutionary Algorithms",
    section 3 ("size of the space covered"), for minimisation. ValueError where a point or the
    reference is not a pair, or the reference has a NaN.
    """
    if any(len(point) != 2 for point in [reference, *points]):
        raise ValueError("hypervolume_2d needs points and a reference of two objectives")
    right, top = reference
    if math.isnan(right) or math.isnan(top):
        raise ValueError(f"the reference is {tuple(reference)!r}, but must not hold NaN")
    inside = [point for point in points if point[0] < right and point[1] < top]  # NaN is not
    area = 0.0
    for x, y in sorted(tuple(inside[i]) for i in front(inside)):  # left to right, so downwards in y
        area += (right - x) * (top - y)
        top = y
    return area
