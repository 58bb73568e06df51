"""The surrogate against its formula, written out pair by pair and with a dense inverse."""

from __future__ import annotations

import numpy as np
import pytest

from search.surrogate import Encoder, Kernel, Posterior, Scales, Scores

CARDINALITIES = np.array([3, 1, 5, 3, 2])
KINDS = np.array([0, 1, 2, 0, 3])


def kernel():
    return Kernel(Encoder(CARDINALITIES, KINDS))


def theta(seed=0):
    k, rng = kernel(), np.random.default_rng(seed)
    return k.prior_mean + 0.5 * k.prior_deviation * rng.normal(size=len(k.prior_mean))


def rows(count, seed=0, fidelity=False, features=2):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, CARDINALITIES, (count, len(CARDINALITIES)))
    active = rng.random(codes.shape) < 0.8
    full = rng.choice([0.25, 1.0], count) if fidelity else np.ones(count)
    return np.where(active, codes, 0), active, rng.normal(size=(count, features)), full


def encode(parts):
    return kernel().encoder.encode(*parts)


def naive(hyper, a, b):
    """The covariance of the module's docstring, of two lists of rows."""
    scales = Scales(hyper)
    total = np.zeros((len(a[0]), len(b[0])))
    for i, (x, x_on, x_extra, x_full) in enumerate(zip(*a, strict=True)):
        for j, (y, y_on, y_extra, y_full) in enumerate(zip(*b, strict=True)):
            share = 0.0
            for v, many in enumerate(CARDINALITIES):
                if x_on[v] and y_on[v]:
                    steps = abs(x[v] - y[v]) / max(many - 1, 1)
                    o = scales["ordinal"]
                    share += scales.weight[v] * ((1 - o) * (x[v] != y[v]) + o * steps)
                else:
                    share += scales.weight[v] * (x_on[v] != y_on[v])
            away = sum(
                (
                    sum(x_on[v] and x[v] == c for v in (0, 3))
                    - sum(y_on[v] and y[v] == c for v in (0, 3))
                )
                ** 2
                for c in range(3)
            )
            product = np.exp(-scales["rate"] * share)
            near = ((x_extra - y_extra) ** 2).sum() / scales["features_scale"] ** 2
            total[i, j] = scales["additive"] * (1 - share) + scales["product"] * product
            total[i, j] += scales["counts"] * np.exp(-scales["counts_rate"] * away / 2)
            total[i, j] += scales["features"] * np.exp(-near / 2) * (len(x_extra) > 0)
            bias = scales["bias"] + scales["fading"] * product
            total[i, j] += (1 - x_full) * (1 - y_full) * bias
    return total


@pytest.mark.parametrize("fidelity", [False, True])
@pytest.mark.parametrize("features", [0, 2])
def test_covariance_is_the_formula(fidelity, features):
    a, b = rows(7, 1, fidelity, features), rows(5, 2, fidelity, features)
    at = kernel().at(theta())
    np.testing.assert_allclose(at.between(encode(a), encode(b)), naive(theta(), a, b), atol=1e-12)
    np.testing.assert_allclose(at.variance(encode(a)), np.diag(naive(theta(), a, a)), atol=1e-12)


@pytest.mark.parametrize("many", [1, 2, 20])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-8), (np.float32, 3e-4)])
def test_posterior_is_the_textbooks(many, dtype, tolerance):
    told, asked = rows(many, 3, True), rows(9, 4)
    values = np.random.default_rng(5).normal(size=many)
    encoder = kernel().encoder
    posterior = Posterior(kernel(), theta(), encoder.encode(*told, dtype), values)
    found = posterior.predict(encoder.encode(*asked, dtype))

    inverse = np.linalg.inv(naive(theta(), told, told) + posterior.noise * np.eye(many))
    mean = (inverse @ values).sum() / (inverse.sum() + 0.01)
    cross = naive(theta(), told, asked)
    variance = np.diag(naive(theta(), asked, asked)) - np.diag(cross.T @ inverse @ cross)
    np.testing.assert_allclose(
        found.mean, mean + cross.T @ inverse @ (values - mean), atol=tolerance
    )
    np.testing.assert_allclose(found.deviation**2, variance, atol=tolerance)
    at_rows = naive(theta(), told, told) @ inverse @ (values - mean) + mean
    np.testing.assert_allclose(posterior.settled, at_rows, atol=tolerance)
    np.testing.assert_allclose(posterior.mean(encoder.encode(*asked, dtype)), found.mean)


def test_a_believed_row_is_one_observed_with_its_mean():
    told, asked = rows(12, 6), rows(8, 7)
    values = np.random.default_rng(8).normal(size=12)
    grown = Posterior(kernel(), theta(), encode(told), values).predict(encode(asked))
    before = grown.mean.copy()
    for count, j in enumerate((2, 5, 0), start=1):
        grown.believe(j)
        chosen = [2, 5, 0][:count]
        both = [np.concatenate([x, y[chosen]]) for x, y in zip(told, asked, strict=True)]
        fresh = Posterior(kernel(), theta(), encode(both), np.append(values, before[chosen]))
        again = fresh.predict(encode(asked))
        np.testing.assert_allclose(grown.deviation, again.deviation, atol=1e-8)
        np.testing.assert_array_equal(grown.mean, before)


@pytest.mark.parametrize("fidelity", [False, True])
def test_gradient_is_that_of_the_loss(fidelity):
    told, hyper = encode(rows(15, 9, fidelity)), theta(1)
    values = np.random.default_rng(10).normal(size=15)
    _, gradient = kernel().loss(hyper, told, values)
    for p in range(len(hyper)):
        step = np.zeros(len(hyper))
        step[p] = 1e-5
        ends = [kernel().loss(hyper + s * step, told, values)[0] for s in (1, -1)]
        assert gradient[p] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-6)


def test_loss_is_the_density():
    told, hyper = rows(6, 11), theta(2)
    values = np.random.default_rng(12).normal(size=6)

    def dense(at):
        scales = Scales(at)
        # An uncertain constant for the mean adds its variance to every pair. Profiled, not
        # integrated, it leaves the determinant alone.
        covariance = naive(at, told, told) + (scales["noise"] + 1e-6) * np.eye(6)
        quadratic = values @ np.linalg.inv(covariance + 100.0) @ values
        away = (at - kernel().prior_mean) / kernel().prior_deviation
        return 0.5 * (quadratic + np.linalg.slogdet(covariance)[1] + away @ away)

    assert kernel().loss(hyper, encode(told), values)[0] == pytest.approx(dense(hyper))


def test_a_fit_learns_what_matters():
    """Two variables of six decide; the others are noise to the surrogate."""
    rng = np.random.default_rng(0)
    k = Kernel(Encoder(np.full(6, 4), np.arange(6)))
    codes = rng.integers(0, 4, (60, 6))
    values = Scores.by_rank(1.0 * codes[:, 1] + rng.normal(size=4)[codes[:, 4]]).observed
    encoded = k.encoder.encode(codes, np.ones(codes.shape, bool))
    weight = Scales(k.fit(encoded, values)).weight
    assert set(np.argsort(weight)[-2:]) == {1, 4}
    assert (
        k.loss(k.fit(encoded, values), encoded, values)[0]
        < k.loss(k.prior_mean, encoded, values)[0]
    )


@pytest.mark.parametrize("values", [[3.0], [1.0, 1.0], [1.0, 5.0, 5.0, 2.0], list(range(40))])
@pytest.mark.parametrize("make", [Scores.by_rank, Scores.by_regret])
def test_scores_keep_the_order_and_lead_back(make, values):
    values = np.array(values) ** 2
    scores = make(values)
    assert (
        np.sign(np.subtract.outer(values, values))
        == np.sign(np.subtract.outer(*[scores.observed] * 2).round(12))
    ).all()
    at = np.linspace(values.min() - 1, values.max() + 1, 50)
    np.testing.assert_allclose(scores.value(scores.score(at)), at, atol=1e-9)
    assert (np.diff(scores.score(at)) > 0).all()


def test_scores_do_not_see_the_scale():
    values = np.random.default_rng(0).normal(size=30)
    by_rank = Scores.by_rank(values).observed
    np.testing.assert_array_equal(by_rank, Scores.by_rank(np.exp(values)).observed)
    by_regret = Scores.by_regret(values).observed
    np.testing.assert_allclose(by_regret, Scores.by_regret(7 * values - 3).observed)
