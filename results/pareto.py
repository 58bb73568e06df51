"""Pareto fronts and hypervolume. Every objective is minimised; negate what should be large.

A point dominates another if it is nowhere larger and somewhere smaller. Of points that are equal
in every objective only the first is kept. A point with a NaN is never on a front and dominates
nothing; infinities are ordinary values.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices, ascending, of the points that no other dominates.

    O(n log n) for up to three objectives (Kung, Luccio and Preparata, 1975, "On Finding the Maxima
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
    if objectives == 3:
        return sorted(_sweep_stairs(ordered))
    kept, count = np.empty((len(ordered), objectives)), 0
    found: list[int] = []
    for point, i in ordered:
        if not (kept[:count] <= point).all(axis=1).any():
            kept[count] = point
            count += 1
            found.append(i)
    return sorted(found)


def _sweep(ordered: Sequence[tuple[tuple[float, ...], int]]) -> list[int]:
    """The front of one or two objectives: a point counts if its last objective is a new low."""
    kept: list[int] = []
    lowest: float | None = None
    for point, i in ordered:
        if lowest is None or point[-1] < lowest:
            kept.append(i)
            lowest = point[-1]
    return kept


def _sweep_stairs(ordered: Sequence[tuple[tuple[float, ...], int]]) -> list[int]:
    """The front of three objectives: those before a point are not larger in the first."""
    stairs, kept = _Stairs(), []
    for (_, y, z), i in ordered:
        if stairs.add(y, z):
            kept.append(i)
    return kept


class _Stairs:
    """The front of points (x, y) that come one after the other, and what it dominates up to a
    corner; as x grows, y falls."""

    def __init__(self, corner: tuple[float, float] | None = None):
        self._xs: list[float] = []
        self._ys: list[float] = []
        self._corner = corner
        self.area = 0.0

    def add(self, x: float, y: float) -> bool:
        """False where a point that is there dominates it or equals it."""
        xs, ys = self._xs, self._ys
        before = bisect_right(xs, x)
        if before and ys[before - 1] <= y:
            return False
        first = end = bisect_left(xs, x)
        while end < len(xs) and ys[end] >= y:  # what it dominates stands in a row
            end += 1
        if self._corner is not None:
            right, top = self._corner
            at, height = x, ys[first - 1] if first else top
            for i in range(first, end):
                self.area += (xs[i] - at) * (height - y)
                at, height = xs[i], ys[i]
            self.area += ((xs[end] if end < len(xs) else right) - at) * (height - y)
        xs[first:end], ys[first:end] = [x], [y]
        return True


def _covers(one: Sequence[float], other: Sequence[float]) -> bool:
    """`one` dominates or equals `other`."""
    return all(a <= b for a, b in zip(one, other, strict=True))


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume that the points dominate up to `reference`, the corner that is worst in everything.

    A point that is not below the reference in every objective adds nothing, nor does NaN. Exact,
    for any number of objectives: O(n log n) for two and three, about n times as much for each
    further one.

    Source: Zitzler and Thiele, 1998, "Multiobjective Optimization Using Evolutionary Algorithms",
    section 3 ("size of the space covered"), for minimisation; by slices of the last objective as in
    While et al., 2006, "A faster algorithm for calculating hypervolume" (HSO), and for three the
    slices' area is kept up to date as in Fonseca, Paquete and López-Ibáñez, 2006, "An Improved
    Dimension-Sweep Algorithm for the Hypervolume Indicator". ValueError where a point has not as
    many objectives as the reference, or that has none, or a NaN.
    """
    if not reference or any(len(point) != len(reference) for point in points):
        raise ValueError("hypervolume needs points and a reference of the same objectives")
    if any(map(math.isnan, reference)):
        raise ValueError(f"the reference is {tuple(reference)!r}, but must not hold NaN")
    inside = [
        tuple(point)
        for point in points
        if all(mine < worst for mine, worst in zip(point, reference, strict=True))  # NaN is not
    ]
    return _volume(inside, tuple(reference))


def _volume(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    """Of points that are all below the reference."""
    if len(reference) == 1:
        return max((reference[0] - point[0] for point in points), default=0.0)
    if len(reference) == 2:
        return _area(points, *reference)
    if len(reference) == 3:
        return _sum_of_slices(points, *reference)
    *less, worst = reference
    deep = sorted((points[i] for i in front(points)), key=lambda point: point[-1])
    ends = [*(point[-1] for point in deep), worst][1:]
    volume = 0.0
    slice_: list[tuple[float, ...]] = []  # what the points so far dominate, of the other objectives
    for point, end in zip(deep, ends, strict=True):
        slice_ = [*(one for one in slice_ if not _covers(point[:-1], one)), point[:-1]]
        if end > point[-1]:
            volume += (end - point[-1]) * _volume(slice_, tuple(less))
    return volume


def _sum_of_slices(
    points: Sequence[tuple[float, ...]], right: float, top: float, worst: float
) -> float:
    stairs, volume, last = _Stairs((right, top)), 0.0, 0.0
    for x, y, z in sorted(points, key=lambda point: point[2]):
        if stairs.area:
            volume += (z - last) * stairs.area
        last = z
        stairs.add(x, y)
    return volume + (worst - last) * stairs.area if points else 0.0


def _area(points: Sequence[tuple[float, ...]], right: float, top: float) -> float:
    area = 0.0
    for x, y in sorted(points[i] for i in front(points)):  # left to right, so downwards in y
        area += (right - x) * (top - y)
        top = y
    return area
