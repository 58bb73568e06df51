"""Latencies of parts and of networks from few timings, on functions that are known."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import spearmanr

from evaluator import latency_regression
from evaluator.latency_regression import (
    Features,
    Marginal,
    Pairs,
    PartRegression,
    Sums,
    Timings,
    counts,
)

OFFSET = 0.5


class World:
    """Parts whose latencies are known, ms, over four decades, and networks of them."""

    def __init__(self, seed: int, parts: int = 200, own: float = 0.05):
        self.rng = rng = np.random.default_rng(seed)
        kind, settings = rng.integers(0, 4, parts), rng.integers(0, 3, (parts, 2))
        channels, side = np.exp(rng.uniform(2, 6, parts)), 7.0 * 2 ** rng.integers(0, 4, parts)
        macs, moved = channels**2 * side**2 * (1 + kind), 4 * channels * side**2 + channels**2
        self.features = Features.of(
            kind, settings, np.stack([macs, moved], 1), np.stack([channels, side], 1)
        )
        away = 0.3 * np.sin(np.log(channels)) + 0.2 * settings[:, 0] + own * rng.normal(size=parts)
        away += 0.3 * (kind == 2) * settings[:, 1]
        self.ms = (0.02 + 3e-9 * macs + 1e-7 * moved) * np.exp(away)

    def networks(self, many: int) -> tuple[list[np.ndarray], np.ndarray]:
        parts = len(self.ms)
        drawn = [
            self.rng.integers(0, parts, size) for size in self.rng.integers(6, 20, many).tolist()
        ]
        return drawn, np.array([OFFSET + self.ms[each].sum() for each in drawn])

    def noisy(self, ms: np.ndarray, error: float) -> np.ndarray:
        return ms * np.exp(error * self.rng.normal(size=len(ms)))


def median_error(found: np.ndarray, ms: np.ndarray) -> float:
    return float(np.median(np.abs(found / ms - 1)))


@pytest.fixture(scope="module")
def from_sums() -> tuple[World, PartRegression]:
    world = World(1)
    networks, ms = world.networks(200)
    noisy = world.noisy(ms, 0.01)
    fitted = PartRegression.fit(
        world.features, networks=networks, network_ms=noisy, network_error=0.01
    )
    return world, fitted


def test_sums_alone_say_what_parts_and_other_sums_are(from_sums):
    world, fitted = from_sums
    networks, ms = world.networks(500)
    assert spearmanr(fitted.networks(networks), ms)[0] > 0.999
    assert median_error(fitted.networks(networks), ms) < 0.01
    assert median_error(fitted.parts()[0], world.ms) < 0.08
    assert fitted.table.offset_ms == pytest.approx(OFFSET, rel=0.1)


def test_deviations_are_those_of_the_truth(from_sums):
    world, fitted = from_sums
    networks, ms = world.networks(500)
    away = (ms - fitted.networks(networks)) / fitted.deviations(networks)
    assert 0.6 < np.sqrt(np.mean(away**2)) < 1.4
    mean, deviation = fitted.parts()
    assert 0.6 < np.sqrt(np.mean(((world.ms - mean) / deviation) ** 2)) < 1.6


@pytest.mark.parametrize(("parts", "networks"), [(100, 0), (100, 30), (0, 20)])
def test_all_sorts_of_timings_give_positive_latencies(parts, networks):
    world = World(2)
    drawn, ms = world.networks(networks)
    some = world.rng.permutation(200)[:parts]
    fitted = PartRegression.fit(
        world.features, some, world.noisy(world.ms[some], 0.3), 0.3, drawn, ms, 0.01
    )
    mean, deviation = fitted.parts()
    assert (mean > 0).all()
    assert (deviation > 0).all()
    assert (fitted.networks(world.networks(50)[0]) > 0).all()


def test_timings_of_parts_and_of_networks_help_each_other():
    world = World(3)
    networks, ms = world.networks(60)
    others, truth = world.networks(300)
    some = np.arange(80)
    alone = world.noisy(world.ms[some], 0.02)
    whole = PartRegression.fit(world.features, networks=networks, network_ms=ms)
    both = PartRegression.fit(world.features, some, alone, 0.02, networks, ms)
    parts = PartRegression.fit(world.features, some, alone, 0.02)
    assert median_error(both.networks(others), truth) < median_error(whole.networks(others), truth)
    rest = slice(80, None)
    assert median_error(both.parts()[0][rest], world.ms[rest]) < median_error(
        parts.parts()[0][rest], world.ms[rest]
    )


def test_parts_that_cost_more_in_networks_than_alone():
    world = World(4)
    networks, _ = world.networks(60)
    ms = np.array([1.2 * world.ms[each].sum() for each in networks])
    some = np.arange(150)
    fitted = PartRegression.fit(world.features, some, world.ms[some], 0.01, networks, ms, 0.01)
    assert fitted.table.scale == pytest.approx(1.2, rel=0.05)
    assert median_error(fitted.parts()[0][some], world.ms[some]) < 0.02


def test_same_timings_same_table(from_sums):
    world = World(1)
    networks, ms = world.networks(200)
    noisy = world.noisy(ms, 0.01)
    again = PartRegression.fit(
        world.features, networks=networks, network_ms=noisy, network_error=0.01
    )
    np.testing.assert_array_equal(again.parts()[0], from_sums[1].parts()[0])


def test_units_do_not_matter():
    world = World(5)
    networks, ms = world.networks(50)
    one = PartRegression.fit(world.features, networks=networks, network_ms=ms)
    other = PartRegression.fit(world.features, networks=networks, network_ms=1000 * ms)
    np.testing.assert_allclose(other.parts()[0], 1000 * one.parts()[0], rtol=1e-4)


def small(seed: int = 6) -> tuple[PartRegression, Features, Timings]:
    world = World(seed, parts=12)
    networks, ms = world.networks(5)
    some = np.arange(7)
    timings = Timings.of(some, world.ms[some], 0.02, counts(networks, 12), ms, 0.01)
    return PartRegression(world.features, timings), world.features, timings


def test_posterior_is_that_of_a_dense_gaussian_process():
    """With the sums made linear where the posterior is, Rasmussen and Williams, equation 2.25."""
    fitted, features, timings = small()
    of, scales, table = fitted._of, fitted.scales, fitted.table
    known = timings.on(fitted._observed)
    posterior = fitted._posterior
    a = np.zeros((len(known), len(of) + 2))
    for row in range(len(known)):  # derivatives of the logarithms of sums
        ms = np.zeros(len(of))
        if row < len(known.parts):
            ms[known.parts[row]], offset = 1.0, 0.0
        else:
            ms = known.networks.toarray()[row - len(known.parts)]
            ms = ms * fitted.roofline.ms(of) * np.exp(posterior.unknowns[:-2] + table_log(table))
            offset = table.offset_ms
        a[row, :-2] = ms / (ms.sum() + offset)
        if row >= len(known.parts):
            a[row, -2:] = offset / (ms.sum() + offset), ms.sum() / (ms.sum() + offset)

    def k(x: Features, y: Features) -> np.ndarray:
        whole = np.zeros((len(x) + 2, len(y) + 2))
        whole[:-2, :-2] = Pairs(x, y, fitted._units).covariance(scales)
        whole[-2, -2], whole[-1, -1] = latency_regression._OFFSET, latency_regression._SCALE
        return whole

    noise = np.diag(known.variances(scales))
    inverse = np.linalg.inv(a @ k(of, of) @ a.T + noise)
    cross = k(features, of) @ a.T
    np.testing.assert_allclose(a, posterior.slopes.toarray(), atol=1e-5)
    mean = cross @ inverse @ posterior.values
    expected = fitted.roofline.ms(features) * np.exp(mean[:-2])
    np.testing.assert_allclose(table.ms, expected, rtol=1e-4)
    covariance = k(features, features) - cross @ inverse @ cross.T
    np.testing.assert_allclose(table.covariance, covariance, atol=1e-5)


def table_log(table) -> float:
    return float(np.log(table.scale))


def test_deviation_of_a_sum_has_all_covariances():
    fitted, _, _ = small()
    table, network = fitted.table, np.array([0, 3, 3, 8])
    slope = np.zeros(len(table.covariance))
    np.add.at(slope, network, table.scale * table.ms[network])
    slope[-2:] = table.offset_ms, table.scale * table.ms[network].sum()
    ms = table.offset_ms + slope[-1]
    assert table.networks([network]) == pytest.approx([ms])
    expected = np.sqrt(slope @ table.covariance @ slope + table.misfit * ms**2)
    assert table.deviations([network]) == pytest.approx([expected])


def test_gradients():
    fitted, _, timings = small(7)
    of, known = fitted._of, timings.on(fitted._observed)
    sums = Sums(known, fitted.roofline.ms(of), fitted.roofline.offset_ms)
    u = 0.1 * np.random.default_rng(0).normal(size=len(of) + 2)
    logarithms, slopes = sums.at(u)
    np.testing.assert_allclose(
        approx_fprime(u, lambda v: sums.at(v)[0]), slopes.toarray(), atol=1e-5
    )
    loss = Marginal(Pairs(of, of, fitted._units), known, slopes, known.logarithms - logarithms)
    theta = loss.mean + 0.3 * np.random.default_rng(1).normal(size=len(loss.mean))
    expected = approx_fprime(theta, lambda t: loss(t)[0], 1e-6)
    np.testing.assert_allclose(loss(theta)[1], expected, rtol=1e-3, atol=1e-4)


def test_a_table_of_other_parts(from_sums):
    world, fitted = from_sums
    table = fitted.predict(world.features[:20])
    np.testing.assert_allclose(table.ms, fitted.parts()[0][:20])
    np.testing.assert_allclose(table.parts()[1], fitted.parts()[1][:20])


def test_networks_as_an_array_and_as_lists(from_sums):
    _, fitted = from_sums
    rows = np.array([[0, 1, 1], [5, -1, -1]])
    expected = fitted.networks([[0, 1, 1], [5]])
    np.testing.assert_array_equal(fitted.networks(rows), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "timings"),
        ({"parts": [0], "part_ms": [1.0, 2.0]}, "2 and 0 timings of 1 parts"),
        ({"parts": [0], "part_ms": [0.0]}, "positive"),
        ({"parts": [0], "part_ms": [np.nan]}, "positive"),
        ({"parts": [200], "part_ms": [1.0]}, "200"),
        ({"networks": [[0, 999]], "network_ms": [1.0]}, "999"),
        ({"parts": [0], "part_ms": [1.0], "part_error": -0.1}, "negative"),
    ],
)
def test_bad_input(given, message):
    with pytest.raises(ValueError, match=message):
        PartRegression.fit(World(0).features, **given)


def test_bad_features():
    with pytest.raises(ValueError, match="amounts"):
        Features.of([0, 1], amounts=[[1.0], [-1.0]])
    with pytest.raises(ValueError, match="settings"):
        Features.of([0, 1], settings=[[1]])
