"""Fronts and hypervolumes against their definitions, written out."""

import math
import random
from itertools import combinations, permutations

import numpy as np
import pytest

from results.pareto import front, hypervolume

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
    assert hypervolume(points, (right, top)) == squares


def test_hypervolume_leaves_out_what_is_outside():
    assert hypervolume([(1, 1), (NAN, 0), (0, NAN), (5, 0), (4, 0)], (4, 3)) == 6
    assert hypervolume([], (1, 1)) == 0
    assert hypervolume([(-2.5, 0.5)], (0, 1)) == 1.25


def test_hypervolume_refuses():
    with pytest.raises(ValueError, match="the same objectives"):
        hypervolume([(1, 2, 3)], (4, 4))
    with pytest.raises(ValueError, match="the same objectives"):
        hypervolume([], ())
    with pytest.raises(ValueError, match="NaN"):
        hypervolume([(1, 2)], (NAN, 4))


def by_inclusion_and_exclusion(points, reference):
    """The volume of a union of boxes, from those of all intersections."""
    total = 0.0
    for count in range(1, len(points) + 1):
        for some in combinations(points, count):
            corner = np.max(some, axis=0)
            total -= (-1) ** count * np.prod(np.maximum(np.array(reference) - corner, 0))
    return total


@pytest.mark.parametrize("objectives", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(6))
def test_hypervolume_by_inclusion_and_exclusion(objectives, seed):
    """Ties and points beyond the reference among them."""
    rng = np.random.default_rng([seed, objectives])
    points = rng.integers(0, 6, (9, objectives)) / 4
    reference = [1.25] * objectives
    inside = [tuple(point) for point in points if (point < reference).all()]
    expected = by_inclusion_and_exclusion(inside, reference)
    assert hypervolume(points.tolist(), reference) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("objectives", [3, 4])
def test_hypervolume_by_sampling(objectives):
    """On a front of many points: the shell of a ball, of which none dominates another."""
    rng = np.random.default_rng(objectives)
    points = np.abs(rng.normal(size=(120, objectives)))
    points = 1 - points / np.linalg.norm(points, axis=1, keepdims=True)
    assert len(front(points.tolist())) == 120
    drawn = rng.random((40_000, objectives))
    covered = np.zeros(len(drawn), bool)
    for point in points:
        covered |= (drawn >= point).all(axis=1)
    found = hypervolume(points.tolist(), [1.0] * objectives)
    assert found == pytest.approx(covered.mean(), abs=5 * np.sqrt(0.25 / len(drawn)))


def test_hypervolume_does_not_depend_on_the_order_of_objectives():
    rng = np.random.default_rng(0)
    points, reference = rng.random((30, 3)), [1.1, 1.2, 0.9]
    expected = hypervolume(points.tolist(), reference)
    for order in permutations(range(3)):
        swapped = [reference[i] for i in order]
        assert hypervolume(points[:, order].tolist(), swapped) == pytest.approx(expected)
