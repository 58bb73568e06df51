"""Acquisition functions against sampling and against differences of hypervolumes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from search import acquisition
from search.surrogate import Scores

POINTS = np.array([[1.0, 4.0], [3.0, 2.0], [3.0, 1.0], [2.0, 3.0], [0.5, 4.0], [2.0, 3.0]])
REFERENCE = np.array([0.0, 0.5])


def naive_hypervolume(points, reference, cells=400):
    """The share of a fine grid's cells that some point is better than in both."""
    high = 6.0
    first, second = (r + (high - r) * (np.arange(cells) + 0.5) / cells for r in reference)
    covered = np.zeros((cells, cells), bool)
    for a, b in points:
        covered |= (first <= a)[:, None] & (second <= b)
    return covered.mean() * np.prod(high - reference)


@pytest.mark.parametrize("level", [-1.0, 0.3, 2.5])
def test_expected_improvement_is_that_of_samples(level):
    draws = 0.4 + 0.8 * norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    expected = np.maximum(draws - level, 0).mean()
    found = acquisition.expected_improvement(np.array([0.4]), np.array([0.8]), level)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    logarithm = acquisition.log_expected_improvement(np.array([0.4]), np.array([0.8]), level)
    np.testing.assert_allclose(np.exp(logarithm), found, rtol=1e-9)


def test_log_expected_improvement_goes_on_where_floats_end():
    mean = -np.concatenate([np.linspace(0, 60, 400), np.logspace(2, 8, 50)])
    found = acquisition.log_expected_improvement(mean, np.ones(len(mean)), 0.0)
    assert np.isfinite(found).all()
    assert (np.diff(found) < 0).all()
    exact = np.log(quad(lambda t: t * np.exp(-30 * t - t * t / 2), 0, 5)[0]) + norm.logpdf(30)
    far = acquisition.log_expected_improvement(np.array([-30.0]), np.ones(1), 0.0)
    np.testing.assert_allclose(far, exact, rtol=1e-8)


def test_front_is_the_quadratic_definition():
    points = np.random.default_rng(0).integers(0, 6, (60, 2)).astype(float)
    kept = {tuple(p) for p in points if not any((q >= p).all() and (q > p).any() for q in points)}
    found = acquisition.front(points)
    assert {tuple(p) for p in found} == kept
    assert len(found) == len(kept)
    assert (np.diff(found[:, 1]) > 0).all()
    assert (np.diff(found[:, 0]) < 0).all()


def test_hypervolume_is_the_covered_area():
    found = acquisition.hypervolume(POINTS, REFERENCE)
    assert found == pytest.approx(naive_hypervolume(POINTS, REFERENCE), rel=0.02)
    assert acquisition.hypervolume(POINTS, np.array([9.0, 9.0])) == 0


def test_gains_are_those_of_samples():
    scores = Scores.by_rank(np.random.default_rng(1).normal(size=25) ** 3)
    mean, deviation = np.array([-0.5, 0.2, 1.4]), np.array([0.3, 1.0, 0.2])
    levels = np.concatenate([scores.raw[[0, 3, -1]], [scores.raw[0] - 1, 0.01, scores.raw[-1] + 1]])
    quantiles = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    draws = scores.value(mean + deviation * quantiles[:, None])  # (S, B)
    expected = [np.maximum(draws - level, 0).mean(axis=0) for level in levels]
    np.testing.assert_allclose(
        acquisition.gains(scores, mean, deviation, levels), expected, rtol=5e-3, atol=1e-6
    )


def test_improvement_of_certain_points_is_the_difference():
    corner = acquisition.front(POINTS)
    begins, heights = acquisition.strips(corner, REFERENCE)
    new = np.random.default_rng(2).uniform(-1, 6, (200, 2))
    found = acquisition.hypervolume_improvement(
        acquisition.certain_gains(new[:, 0], heights), acquisition.certain_gains(new[:, 1], begins)
    )
    before = acquisition.hypervolume(POINTS, REFERENCE)
    after = [acquisition.hypervolume(np.vstack([POINTS, p]), REFERENCE) for p in new]
    np.testing.assert_allclose(found, np.array(after) - before, atol=1e-12)


@pytest.mark.parametrize("known", [False, True])
def test_improvement_of_uncertain_points_is_the_mean_difference(known):
    rng = np.random.default_rng(3)
    begins, heights = acquisition.strips(acquisition.front(POINTS), REFERENCE)
    first = acquisition.expected_improvement(np.array([2.2]), np.array([0.7]), heights[:, None])
    if known:
        second, draws = acquisition.certain_gains(np.array([3.3]), begins), np.full(20_000, 3.3)
    else:
        second = acquisition.expected_improvement(np.array([2.8]), np.array([0.9]), begins[:, None])
        draws = rng.normal(2.8, 0.9, 20_000)
    found = acquisition.hypervolume_improvement(first, second)
    samples = np.stack([rng.normal(2.2, 0.7, 20_000), draws], axis=1)
    exact = acquisition.hypervolume_improvement(
        acquisition.certain_gains(samples[:, 0], heights),
        acquisition.certain_gains(samples[:, 1], begins),
    )
    assert found[0] == pytest.approx(exact.mean(), rel=0.03)


def test_scalarised_improvement_of_nothing_better_is_none():
    points = np.random.default_rng(4).random((9, 3))
    weights = np.array([0.2, 0.5, 0.3])
    worse = np.stack([points, points - 0.1])
    assert (acquisition.scalarised_improvement(worse, points, weights) == 0).all()
    better = points.max(axis=0)[None, None] + np.array([0.1, 0.2, 0.3])
    assert acquisition.scalarised_improvement(better, points, weights)[0] > 0
