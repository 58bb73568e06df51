"""Latencies of parts and of networks from few timings, on functions that are known."""

from dataclasses import replace

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
    Shared,
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
    """All parts are in a network or timed alone."""
    world = World(seed, parts=12)
    networks, ms = world.networks(5)
    some = np.arange(12)
    timings = Timings.of(some, world.ms[some], 0.02, counts(networks, 12), ms, 0.01)
    return PartRegression(world.features, timings), world.features, timings


def slopes_of(fitted: PartRegression, timings: Timings) -> np.ndarray:
    """Derivatives of the logarithms of sums in g, offset, scale and floor, written plainly."""
    ms, offset, scale = fitted.table.ms, fitted.table.offset_ms, fitted.table.scale
    rows = np.zeros((len(timings), len(ms) + 3))
    for row, part in enumerate(timings.parts):
        rows[row, part] = 1
    for row, many in enumerate(timings.networks.toarray(), start=len(timings.parts)):
        total = offset + scale * (many @ ms)
        rows[row, :-3] = many * scale * ms / total
        rows[row, -3:-1] = offset / total, scale * (many @ ms) / total
    return rows


def test_posterior_is_that_of_a_dense_gaussian_process():
    """With the sums made linear where the posterior is, Rasmussen and Williams, equation 2.25."""
    fitted, features, timings = small()
    k = np.zeros((15, 15))
    k[:12, :12] = Pairs(features, features, fitted.units).covariance(fitted.scales)
    k[12:, 12:] = np.diag(latency_regression._SHARED)
    a, u = slopes_of(fitted, timings), fitted.posterior.unknowns
    shared = fitted.table.shared
    whole = shared.offset_ms + shared.scale * (timings.networks @ fitted.table.ms)
    fits = np.log(np.concatenate([fitted.table.ms[timings.parts], whole]))
    noise = np.diag(timings.variances(fitted.scales) * fitted.timings.doubts)
    inverse = np.linalg.inv(a @ k @ a.T + noise)
    mean = k @ a.T @ inverse @ (timings.logarithms - fits + a @ u)
    np.testing.assert_allclose(mean, u, atol=1e-5)
    np.testing.assert_allclose(fitted.table.ms, fitted.roofline.ms(features) * np.exp(mean[:-3]))
    covariance = k - k @ a.T @ inverse @ a @ k
    np.testing.assert_allclose(fitted.table.covariance(np.arange(12)), covariance, atol=1e-7)
    deviations = fitted.table.ms * np.sqrt(np.diag(covariance)[:-3])
    np.testing.assert_allclose(fitted.parts()[1], deviations, rtol=1e-4)


def test_deviation_of_a_sum_has_all_covariances():
    fitted, _, _ = small()
    table, network = fitted.table, np.array([0, 3, 3, 8])
    covariance = table.covariance(np.arange(12))
    slope = np.zeros(15)
    np.add.at(slope, network, table.scale * table.ms[network])
    slope[12:14] = table.offset_ms, table.scale * table.ms[network].sum()
    ms = slope[12:14].sum()
    assert table.networks([network]) == pytest.approx([ms])
    expected = np.sqrt(slope @ covariance @ slope + table.misfit * ms**2)
    assert table.deviations([network]) == pytest.approx([expected])


def test_large_tables_keep_no_covariance(monkeypatch):
    fitted, features, _ = small()
    networks = [[0, 3, 3, 8], [1], [11, 2]]
    expected = fitted.deviations(networks)
    monkeypatch.setattr(latency_regression, "_WHOLE", 5)
    monkeypatch.setattr(latency_regression, "_CHUNK", 2)
    np.testing.assert_allclose(fitted.predict(features).deviations(networks), expected)


@pytest.mark.parametrize("floor_ms", [0.0, 3.0])
def test_gradients(floor_ms):
    fitted, features, timings = small(7)
    shared = Shared(fitted.roofline.offset_ms, 1.0, floor_ms)
    sums = Sums(timings, fitted.roofline.ms(features), shared)
    u = 0.1 * np.random.default_rng(0).normal(size=15)
    logarithms, slopes = sums.at(u)
    expected = approx_fprime(u, lambda v: sums.at(v)[0])
    np.testing.assert_allclose(expected, slopes.toarray(), atol=1e-5)
    timings = replace(timings, doubts=np.random.default_rng(2).uniform(1, 5, len(timings)))
    pairs = Pairs(features, features, fitted.units)
    loss = Marginal(pairs, timings, slopes, timings.logarithms - logarithms)
    theta = loss.mean + 0.3 * np.random.default_rng(1).normal(size=len(loss.mean))
    expected = approx_fprime(theta, lambda t: loss(t)[0], 1e-6)
    np.testing.assert_allclose(loss(theta)[1], expected, rtol=1e-3, atol=1e-4)


def test_a_floor_is_found():
    """Networks that wait for a host are all as fast; what their parts cost is learnt of others."""
    world = World(8)
    networks, ms = world.networks(200)
    floor = float(np.quantile(ms, 0.3))
    seen = world.noisy(np.maximum(ms, floor), 0.01)
    with_floor = PartRegression.fit(
        world.features, networks=networks, network_ms=seen, network_error=0.01, floor=True
    )
    without = PartRegression.fit(
        world.features, networks=networks, network_ms=seen, network_error=0.01
    )
    others, truth = world.networks(500)
    truth = np.maximum(truth, floor)
    assert with_floor.table.shared.floor_ms == pytest.approx(floor, rel=0.05)
    found = median_error(with_floor.networks(others), truth)
    assert found < 0.02
    assert found < 0.7 * median_error(without.networks(others), truth)


def test_wrong_timings_count_for_little():
    world = World(9)
    networks, ms = world.networks(150)
    wrong = world.noisy(ms, 0.01)
    wrong[::15] *= 4
    others, truth = world.networks(300)
    fitted = PartRegression.fit(world.features, networks=networks, network_ms=wrong)
    assert median_error(fitted.networks(others), truth) < 0.02


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
        ({"parts": [0], "part_ms": [1.0], "floor": True}, "floor"),
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
