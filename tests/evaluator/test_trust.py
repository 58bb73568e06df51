"""Agreement of two orders and trust cards, against definitions, known values and simulations."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from evaluator import trust
from evaluator.trust import (
    Card,
    Network,
    block_kinds,
    in_band,
    interval,
    kendall,
    make_card,
    ordered_alike,
    spearman,
)
from space.genes import lookup
from space.genome import Genome, Stage


def naive_tau(x, y):
    """Kendall (1945): every pair looked at."""
    score = untied_x = untied_y = 0
    for i, j in itertools.combinations(range(len(x)), 2):
        a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
        score += a * b
        untied_x += a != 0
        untied_y += b != 0
    return score / math.sqrt(untied_x * untied_y)


def naive_ranks(values):
    """One more than those below, and half of the others that are equal."""
    return [1 + sum(b < a for b in values) + (sum(b == a for b in values) - 1) / 2 for a in values]


def naive_rho(x, y):
    return np.corrcoef(naive_ranks(x), naive_ranks(y))[0, 1]


def columns(seed, n=20, *, levels=None):
    """Two related columns; of few `levels`, so with many ties."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = x + rng.normal(size=n)
    if levels is not None:
        x, y = np.round(levels * x / 4), np.round(levels * y / 4)
    return x, y


# ---- two orders


@pytest.mark.parametrize("levels", [None, 12, 3, 2])
@pytest.mark.parametrize("n", [2, 3, 7, 30])
def test_statistics_equal_their_definitions(levels, n):
    known = 0
    for seed in range(20):
        x, y = columns(seed, n, levels=levels)
        if len(set(x)) == 1 or len(set(y)) == 1:
            assert kendall(x, y) is None
            assert spearman(x, y) is None
            continue
        known += 1
        assert kendall(x, y) == pytest.approx(naive_tau(x, y), abs=1e-12)
        assert spearman(x, y) == pytest.approx(naive_rho(x, y), abs=1e-12)
    assert known


@pytest.mark.parametrize("levels", [None, 3])
def test_statistics_equal_those_of_scipy(levels):
    for seed in range(10):
        x, y = columns(seed, levels=levels)
        assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_known_values():
    order = [1, 2, 3, 4, 5]
    for statistic in (kendall, spearman):
        assert statistic(order, order) == pytest.approx(1)
        assert statistic(order, order[::-1]) == pytest.approx(-1)
    assert kendall([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(1 / 3)  # 4 pairs of 6 alike
    assert spearman([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(0.6)  # 1 - 6 * 4 / (4 * 15)
    # One tie in x: 5 pairs of 6 not tied there, all of them alike.
    assert kendall([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(5 / math.sqrt(5 * 6))


def test_only_the_order_counts():
    x, y = columns(0)
    assert kendall(np.exp(x), y**3) == kendall(x, y)
    low = np.where(x == x.min(), -np.inf, x)
    assert kendall(low, y) == kendall(x, y)
    assert spearman(low, y) == spearman(x, y)
    assert interval(kendall, low, y, seed=0) == interval(kendall, x, y, seed=0)


def test_what_has_no_value():
    assert kendall([], []) is None
    assert kendall([1], [2]) is None
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert kendall([1, 2, 3], [0, 0, 0]) is None
    with pytest.raises(ValueError, match="NaN, which has no rank"):
        kendall([1, math.nan], [1, 2])
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        spearman([1, 2], [1, 2, 3])


def test_share_of_pairs_that_are_ordered_alike():
    x, y = columns(3, 25)
    pairs = list(itertools.combinations(range(25), 2))
    alike = sum((x[i] - x[j]) * (y[i] - y[j]) > 0 for i, j in pairs)
    assert ordered_alike(kendall(x, y)) == pytest.approx(alike / len(pairs))


# ---- intervals


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("statistic", [kendall, spearman])
def test_resamples_computed_together_equal_those_one_by_one(statistic, levels):
    x, y = columns(5, 9, levels=levels)
    rows = np.random.default_rng(1).integers(0, 9, (300, 9))
    together = trust._TOGETHER[statistic](x, y, trust._times_drawn(rows))
    for chosen, value in zip(rows, together, strict=True):
        expected = statistic(x[chosen], y[chosen])
        if expected is None:
            assert math.isnan(value)
        else:
            assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("statistic", [kendall, spearman])
def test_interval_is_the_middle_of_the_resamples(statistic, monkeypatch):
    x, y = columns(2, 12)
    rows = np.random.default_rng(4).integers(0, 12, (400, 12))
    values = sorted(statistic(x[chosen], y[chosen]) for chosen in rows)
    found = interval(statistic, x, y, seed=4, resamples=400)
    assert sum(v < found[0] for v in values) == pytest.approx(10, abs=1)
    assert sum(v > found[1] for v in values) == pytest.approx(10, abs=1)
    monkeypatch.setattr(trust, "_AT_ONCE", 0)  # many networks go one by one
    assert interval(statistic, x, y, seed=4, resamples=400) == pytest.approx(found)
    assert interval(statistic, x, y, seed=5, resamples=400) != found


@pytest.mark.parametrize("n", [12, 40])
def test_intervals_hold_the_truth_about_as_often_as_they_say(n):
    """Of two normal variables with correlation r, tau is 2 / pi * asin(r) (Greiner's relation)."""
    rng, true = np.random.default_rng(n), 2 / math.pi * math.asin(0.6)
    hits, widths = 0, []
    for seed in range(300):
        x = rng.normal(size=n)
        y = 0.6 * x + 0.8 * rng.normal(size=n)
        low, high = interval(kendall, x, y, seed=seed, resamples=400)
        hits += low <= true <= high
        widths.append(high - low)
    assert 0.9 <= hits / 300 <= 0.99
    # The deviation of tau is about sqrt(2 (1 - tau^2) / n) or less; 4 of it are the interval.
    assert np.mean(widths) < 4 * math.sqrt(2 * (1 - true**2) / n)


def test_intervals_are_wide_for_few_networks():
    widths = []
    for n in (8, 32, 128):
        low, high = interval(kendall, *columns(1, n), seed=0)
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 2.5 * widths[2]


def test_no_interval_where_resamples_cannot_tell():
    order = np.arange(20.0)
    assert interval(kendall, order, order, seed=0) is None  # always 1
    assert interval(kendall, order, -order, seed=0) is None
    assert interval(kendall, [1, 2, 3, 4], [1, 3, 2, 4], seed=0) is None  # too few
    assert interval(spearman, np.zeros(9), order[:9], seed=0) is None
    lonely = np.array([1.0] + [0.0] * 7)  # constant in a third of the resamples; still known
    assert interval(kendall, lonely, order[:8], seed=0) is not None
    with pytest.raises(ValueError, match="resamples is 0"):
        interval(kendall, order, order, seed=0, resamples=0)


# ---- cards


def test_band():
    level = 4_000_000_000
    macs = [3_599_999_999, 3_600_000_000, level, 4_400_000_000, 4_400_000_001]
    assert in_band(macs, level).tolist() == [False, True, True, True, False]
    assert in_band([9, 10, 11, 12], 10).tolist() == [True, True, True, False]


def network(i, score, *accuracies, macs=100, kind="conv", **changes):
    values = {
        "name": f"net{i}",
        "digest": f"{i:012x}",
        "proxy": f"{i + 1000:012x}",
        "group": "spread",
        "macs": macs,
        "params": 10 + i,
        "kinds": (kind,),
        "main_kind": kind,
        "score": score,
        "accuracies": accuracies,
        "probabilities": accuracies,
        "seconds": 1.5,
    }
    return Network(**{**values, **changes})


def row(card, name):
    (found,) = (row for row in card.agreements if row.name == name)
    return found


def test_card_judges_scores_macs_and_parameters():
    rng = np.random.default_rng(0)
    scores, accuracies, macs = rng.random(12), rng.random(12), rng.integers(80, 130, 12)
    networks = [
        network(i, *found, macs=int(cost))
        for i, (*found, cost) in enumerate(zip(scores, accuracies, macs, strict=True))
    ]
    card = make_card(networks, 100, seed=3)
    near = (macs >= 90) & (macs <= 110)
    assert 2 < near.sum() < 12
    score = row(card, trust.SUPERNET)
    assert score.tau.value == pytest.approx(naive_tau(scores, accuracies))
    assert score.rho.value == pytest.approx(naive_rho(scores, accuracies))
    assert (score.tau.low, score.tau.high) == interval(kendall, scores, accuracies, seed=3)
    assert score.tau.n == score.rho.n == 12
    assert score.band_tau.value == pytest.approx(naive_tau(scores[near], accuracies[near]))
    assert score.band_tau.n == near.sum()
    assert row(card, "MACs").tau.value == pytest.approx(naive_tau(macs, accuracies))
    assert row(card, "parameters").rho.value == pytest.approx(naive_rho(range(12), accuracies))
    assert card.agreements[0].name == trust.SUPERNET
    assert card.ceiling is None


def test_zero_cost_scores_and_their_log_rank_sum():
    rng = np.random.default_rng(1)
    one, other, accuracies = rng.random(9), rng.random(9), rng.random(9)
    networks = [
        network(i, 0.5 + i, accuracies[i], zero_cost={"one": one[i], "other": other[i]})
        for i in range(9)
    ]
    # What fails leaves no trace in the statistics, in the ranks of others neither.
    networks.insert(4, network(20, 0.1, problem="diverged", zero_cost={"one": 99.0}))
    networks[0] = dataclasses.replace(networks[0], zero_cost={"other": other[0]})
    card = make_card(networks, 100, seed=0, joined={"joined": ["one", "other"]})
    assert row(card, "one").tau.n == 8
    assert row(card, "one").tau.value == pytest.approx(naive_tau(one[1:], accuracies[1:]))
    assert row(card, "other").tau.n == 9
    worst = np.array([-np.inf, *one[1:]])  # not known counts as worst
    logs = [
        math.log(a / 9) + math.log(b / 9)
        for a, b in zip(naive_ranks(worst), naive_ranks(other), strict=True)
    ]
    assert row(card, "joined").tau.value == pytest.approx(naive_tau(logs, accuracies))
    assert row(card, "joined").tau.n == 9


def test_networks_that_failed_are_left_out():
    good = [network(i, i, i / 10) for i in range(6)]
    bad = [
        network(10, 99, 0.0, problem="training diverged"),
        network(11, None, 0.9),
        network(12, 99),
    ]
    card = make_card([*bad, *good], 100, seed=0)
    assert len(card.networks) == 9
    assert row(card, trust.SUPERNET).tau.value == pytest.approx(1)
    assert row(card, trust.SUPERNET).tau.n == 6
    none = make_card(bad, 100, seed=0)
    assert row(none, trust.SUPERNET).tau == trust.Estimate(None, None, None, 0)
    assert none.kinds == ()


def test_kinds_that_the_supernet_over_and_underrates():
    """Four networks with "gap" are scored 2 ranks too high each, the four others 2 too low."""
    accuracies = [1, 2, 5, 6, 3, 4, 7, 8]
    scores = [3, 4, 7, 8, 1, 2, 5, 6]
    networks = [
        network(i, scores[i], accuracies[i], kind="gap" if i < 4 else "conv") for i in range(8)
    ]
    networks[7] = dataclasses.replace(networks[7], kinds=("conv", "gap"))  # not the main one
    gap, conv = sorted(make_card(networks, 100, seed=0).kinds, key=lambda kind: -kind.bias)
    assert (gap.kind, gap.networks, gap.main) == ("gap", 5, 4)
    assert gap.bias == pytest.approx((4 * 2 - 2) / 5 / 8)
    assert gap.tau is None  # 4 are fewer than 5
    assert (conv.kind, conv.networks, conv.main) == ("conv", 4, 4)
    assert conv.bias == pytest.approx(-2 / 8)


def test_tau_among_networks_of_a_main_kind():
    scores = [1, 2, 3, 4, 5, 9, 8, 7]
    networks = [network(i, scores[i], i, kind="conv" if i < 5 else "gap") for i in range(8)]
    conv, gap = make_card(networks, 100, seed=0).kinds
    assert conv.tau.value == pytest.approx(1)
    assert conv.tau.n == 5
    assert gap.tau is None


def test_ceiling_is_the_agreement_of_single_trainings():
    rng = np.random.default_rng(2)
    true = rng.random(15)
    runs = true[:, None] + 0.2 * rng.random((15, 3))
    card = make_card([network(i, true[i], *runs[i]) for i in range(15)], 100, seed=1)
    pairs = [naive_tau(runs[:, a], runs[:, b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert card.ceiling.value == pytest.approx(np.mean(pairs))
    assert card.ceiling.low < card.ceiling.value < card.ceiling.high
    assert card.ceiling.n == 15
    mean = row(card, trust.SUPERNET).tau.value
    assert mean == pytest.approx(naive_tau(true, runs.mean(axis=1)))


def test_card_as_json_and_back():
    networks = [
        network(i, 0.1 * i, i / 9, (i * 5) % 7 / 9, zero_cost={"a": -math.inf if i == 3 else i})
        for i in range(9)
    ]
    networks.append(network(9, None, problem="no score"))
    card = make_card(networks, 105, seed=2, joined={"all": ["a"]}, about={"split": "test"})
    text = json.dumps(card.to_plain(), allow_nan=False)
    again = Card.from_plain(json.loads(text))
    assert again == card
    assert again.networks[3].zero_cost["a"] == -math.inf
    assert make_card(again.networks, 105, seed=2, joined={"all": ["a"]}, about=card.about) == card


@pytest.mark.parametrize("broken", [None, [], {}, {"format": 1}, "card"])
def test_what_is_not_a_card(broken):
    with pytest.raises(ValueError, match="this is not a trust card"):
        Card.from_plain(broken)


def test_cards_of_another_time():
    plain = make_card([network(i, i, i) for i in range(5)], 100, seed=0).to_plain()
    with pytest.raises(ValueError, match="format 2 is unknown; this reads 1"):
        Card.from_plain({**plain, "format": 2})
    changed = json.loads(json.dumps(plain))
    del changed["networks"][0]["params"]
    with pytest.raises(ValueError, match="not a trust card: KeyError"):
        Card.from_plain(changed)


def test_main_kind_has_most_macs():
    """Two cheap blocks of one kind, and a dear one of another kind."""
    bottleneck = lookup("operator", "inverted_bottleneck")
    attention = lookup("operator", "attention")()
    cheap, dear = bottleneck(expansion=1, context=3), bottleneck(expansion=6, context=3)

    def genome(*blocks):
        return Genome(
            resolution=16,
            stem=lookup("stem", "convolution")(channels=16),
            stages=(Stage(channels=32, blocks=blocks),),
            head=lookup("head", "pooled")(),
        )

    assert block_kinds(genome(cheap)) == (("inverted_bottleneck",), "inverted_bottleneck")
    kinds = ("attention", "inverted_bottleneck")
    assert block_kinds(genome(cheap, cheap, attention)) == (kinds, "attention")
    assert block_kinds(genome(dear, dear, dear, dear, attention)) == (kinds, kinds[1])
