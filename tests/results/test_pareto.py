"""Fronts and hypervolumes against their definitions, written out."""

import math
import random

import pytest

from results.pareto import front, hypervolume_2d

NAN, INF = math.nan, math.inf


def quadratic_front(points):
    """The definition: no other point dominates it, no earlier one equals it, it has no NaN."""

    def dominates(a, b):
        pairs = list(zip(a, b, strict=True))
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    return [
        i
        for i, point in enumerate(points)
        if not any(x != x for x in point)
        and not any(dominates(other, point) for other in points)
        and tuple(point) not in [tuple(p) for p in points[:i]]
    ]


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(25))
def test_front_is_the_quadratic_definition(objectives, seed):
    rng = random.Random(seed)
    values = [*range(rng.choice([2, 4, 30])), NAN, INF, -INF]  # few values make many ties
    weights = [1] * (len(values) - 3) + [0.3, 0.1, 0.02]
    points = [rng.choices(values, weights, k=objectives) for _ in range(rng.randrange(60))]
    assert front(points) == quadratic_front(points)


def test_front_by_hand():
    assert front([(2, 2), (1, 3), (3, 1), (2, 2), (3, 3), (1, 4), (NAN, 0), (0, NAN)]) == [0, 1, 2]
    assert front([(3,), (1,), (1,), (NAN,)]) == [1]
    assert front([(NAN, NAN)]) == []
    assert front([]) == []


def test_front_takes_a_large_set():
    """Quadratic work on this many points would take hours; the sweep takes a second."""
    rng = random.Random(0)
    xs = [rng.random() for _ in range(100_000)]
    assert len(front([(x, 1 - x) for x in xs])) == len(set(xs))


@pytest.mark.parametrize("points", [[()], [(1, 2), (1,)], [(1,), (1, 2)]])
def test_front_refuses_ragged_points(points):
    with pytest.raises(ValueError, match="same number of objectives"):
        front(points)


@pytest.mark.parametrize("seed", range(25))
def test_hypervolume_counts_unit_squares(seed):
    """On whole numbers the area is the number of unit squares that some point is below-left of."""
    rng = random.Random(seed)
    points = [(rng.randrange(14), rng.randrange(14)) for _ in range(rng.randrange(12))]
    right, top = rng.randrange(1, 14), rng.randrange(1, 14)
    squares = sum(
        any(x <= column and y <= row for x, y in points)
        for column in range(right)
        for row in range(top)
    )
    assert hypervolume_2d(points, (right, top)) == squares


def test_hypervolume_leaves_out_what_is_outside():
    assert hypervolume_2d([(1, 1), (NAN, 0), (0, NAN), (5, 0), (4, 0)], (4, 3)) == 6
    assert hypervolume_2d([], (1, 1)) == 0
    assert hypervolume_2d([(-2.5, 0.5)], (0, 1)) == 1.25


def test_hypervolume_refuses():
    with pytest.raises(ValueError, match="two objectives"):
        hypervolume_2d([(1, 2, 3)], (4, 4))
    with pytest.raises(ValueError, match="NaN"):
        hypervolume_2d([(1, 2)], (NAN, 4))
