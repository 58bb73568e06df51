"""Races against what all images say in the end, and the runner that a search races with."""

import numpy as np
import pytest
import torch

from evaluator.interfaces import Score
from evaluator.scoring import Outcomes
from search.racing import Racer, _rivals, ahead, looks, race, threshold
from search.reward import absolute_reward
from search.runner import UnitRunner
from search.workers import InProcess


class Made:
    """Outcomes of images as given."""

    def __init__(self, values):
        self.values = [np.asarray(values, float)]

    def extend(self, later):
        self.values += later.values

    def probabilities(self):
        return torch.from_numpy(np.concatenate(self.values))

    def finite(self):
        return bool(np.isfinite(np.concatenate(self.values)).all())

    def score(self):
        if not self.finite():
            raise RuntimeError("not numbers")
        return Score(float(np.concatenate(self.values).mean()), {"top1": 0.5, "loss": 1.0})


def population(rng, count=24, images=1200, apart=0.3):
    """Probabilities that mostly hang on the image."""
    hard, skill = 1.5 * rng.normal(size=images), apart * rng.normal(size=count)
    own = 0.6 * rng.normal(size=(count, images))
    return 1 / (1 + np.exp(-(hard + skill[:, None] + own)))


def racing(values, **options):
    shown = []

    def measure(which, first, last):
        shown.append((list(which), first, last))
        return [Made(values[i, first:last]) for i in which]

    options.setdefault("looks", looks(values.shape[1]))
    return race(measure, len(values), **options), shown


def best(values, places):
    return set(np.argsort(-values.mean(1), kind="stable")[:places].tolist())


@pytest.mark.parametrize("images", [1, 64, 256, 360, 511, 512, 1000, 10_000])
def test_looks_end_with_all_images(images):
    found = looks(images)
    assert found[-1] == images
    assert list(found) == sorted(set(found))
    assert found[0] >= min(256, images)
    assert (len(found) == 1) == (images < 512)


@pytest.mark.parametrize("settle", [False, True])
def test_winners_of_a_race_are_those_on_all_images(settle):
    """At the stated error hardly any race loses one."""
    rng, wrong, work = np.random.default_rng(0), 0, []
    for _ in range(100):
        values = population(rng)
        ended, shown = racing(values, places=6, error=0.01, settle=settle)
        winners = set(np.flatnonzero(~ended.lost).tolist())
        wrong += not best(values, 6) <= winners
        if settle:
            assert len(winners) == 6
        else:
            assert (ended.seen[list(winners)] == values.shape[1]).all()
        work.append(sum(len(which) * (b - a) for which, a, b in shown) / values.size)
    assert wrong <= 2
    assert np.mean(work) < (0.5 if settle else 0.7)


def test_a_looser_error_is_quicker_and_loses_more():
    rng, work, wrong = np.random.default_rng(1), {}, {}
    for _ in range(60):
        values = population(rng, apart=0.1)
        for error in (0.01, 0.5):
            ended, shown = racing(values, places=6, error=error, settle=True)
            winners = set(np.flatnonzero(~ended.lost).tolist())
            wrong[error] = wrong.get(error, 0) + (winners != best(values, 6))
            work[error] = work.get(error, 0) + sum(len(w) * (b - a) for w, a, b in shown)
    assert work[0.5] < work[0.01]
    assert wrong[0.5] > wrong[0.01]


def test_nobody_sees_an_image_twice_and_all_see_the_same():
    values = population(np.random.default_rng(2))
    ended, shown = racing(values, places=4)
    for _, before, now in zip(shown, shown, shown[1:], strict=False):
        assert set(now[0]) <= set(before[0])
        assert now[1] == before[2]
    for i, found in enumerate(ended.measured):
        np.testing.assert_array_equal(found.probabilities(), values[i, : ended.seen[i]])


def test_equal_networks_share_no_place():
    """With as many places as networks nobody drops out; of equals the first win."""
    values = np.repeat(population(np.random.default_rng(3), count=1), 5, 0)
    ended, _ = racing(values, places=2, settle=True)
    assert np.flatnonzero(~ended.lost).tolist() == [0, 1]
    ended, _ = racing(values, places=5, settle=True)
    assert not ended.lost.any()
    ended, _ = racing(values, places=1)
    assert not ended.lost.any()


def test_what_is_no_number_or_fails_never_wins():
    values = population(np.random.default_rng(4), count=6)
    values[0] += 10
    values[0, 300] = np.nan
    values[1] += 5

    def measure(which, first, last):
        return [
            ValueError("broken") if i == 1 and first > 0 else Made(values[i, first:last])
            for i in which
        ]

    ended = race(measure, 6, (64, 200, 600, 1200), places=2)
    assert ended.lost[[0, 1]].all()
    assert str(ended.measured[1]) == "broken"
    # A race for places looks no further than it must, but the first look is enough here.
    values[0, 3] = np.nan
    ended = race(measure, 6, (64, 200, 600, 1200), places=2, settle=True)
    assert ended.lost[0]


def test_ahead_by_the_definition():
    rng = np.random.default_rng(5)
    values, offsets = population(rng, count=5, images=90), 0.02 * rng.normal(size=5)
    found = ahead(values, 300, 2.0, offsets)
    for i in range(5):
        for j in range(5):
            difference = values[i] - values[j] + offsets[i] - offsets[j]
            error = difference.std(ddof=1) / np.sqrt(90) * np.sqrt(1 - 90 / 300)
            expected = difference.mean() > 2 * error and difference.mean() > 0
            assert found[i, j] == expected, (i, j)
    assert found.any()
    whole = ahead(values, 90, 2.0)
    means = values.mean(1)
    np.testing.assert_array_equal(whole, means[:, None] > means[None])


def test_errors_of_the_test_are_as_stated():
    """Two networks that are equal in the long run: one leads on a look by chance alone."""
    rng, count, z = np.random.default_rng(6), 4000, threshold(0.05, 1)
    wrong = 0
    for _ in range(count):
        values = rng.normal(size=(2, 400))
        values -= values.mean(1, keepdims=True)  # equal on all 400 images
        wrong += ahead(values[:, :100], 400, z)[0, 1]
    assert wrong / count == pytest.approx(0.05, abs=0.012)
    assert threshold(0.01, 5) > threshold(0.01, 1) > threshold(0.1, 1)


@pytest.mark.parametrize("error", [0.0, 1.0, -1.0])
def test_errors_out_of_range(error):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        threshold(error, 3)


# ---- the runner


class Table:
    """Measures networks by rows of a table."""

    def __init__(self, genomes, values):
        self.values = {g.digest: row for g, row in zip(genomes, values, strict=True)}
        self.images = 0

    def measure(self, genomes, first, last):
        self.images += len(genomes) * (last - first)
        return [Made(self.values[genome.digest][first:last]) for genome in genomes]


@pytest.fixture
def networks(toy):
    rows = np.unique(toy.sample(np.random.default_rng(0), 80), axis=0)
    genomes = [toy.space.decode(row) for row in rows][:40]
    return genomes, {g.digest: u for g, u in zip(genomes, toy.use(rows), strict=False)}


def runner(table, use, front=list, images=1200, **options):
    racer = Racer(table, looks(images), **options)
    return UnitRunner(
        InProcess(racer), lambda: front(), lambda genomes: [(use[g.digest],) for g in genomes]
    )


def dominated(i, genomes, means, use):
    """Whether another network uses no more and is better by definition."""
    mine = use[genomes[i].digest]
    return any(
        use[other.digest] <= mine
        and absolute_reward(means[j], use[other.digest]) > absolute_reward(means[i], mine)
        for j, other in enumerate(genomes)
        if j != i
    )


def test_who_is_on_the_front_has_seen_all_images(networks):
    genomes, use = networks
    values = population(np.random.default_rng(7), count=len(genomes), apart=0.5)
    table, means = Table(genomes, values), values.mean(1)
    outcomes = runner(table, use).run(genomes)
    early = 0
    for i, outcome in enumerate(outcomes):
        if outcome.score.details["images"] == 1200:
            assert outcome.score.score == pytest.approx(means[i], rel=1e-12)
        else:
            early += 1
            assert dominated(i, genomes, means, use)
            assert outcome.score.score == pytest.approx(means[i], abs=0.05)
            mine = use[genomes[i].digest]
            assert any(  # and it does not come onto the front by the estimate
                o.score.score > outcome.score.score and use[g.digest] <= mine
                for g, o in zip(genomes, outcomes, strict=True)
            )
        assert outcome.score.fidelity == outcome.score.details["images"] / 1200
    assert early > len(genomes) / 4
    assert table.images < 0.7 * values.size


def test_nobody_drops_out_who_is_on_a_front_of_three_objectives(networks):
    """Where the latency, of which cheap networks may have much, is an objective as well."""
    genomes, use = networks
    rng = np.random.default_rng(11)
    values = population(rng, count=len(genomes), apart=0.5)
    latency = {genome.digest: float(rng.random()) for genome in genomes}
    means = values.mean(1)
    racer = UnitRunner(
        InProcess(Racer(Table(genomes, values), looks(1200))),
        costs=lambda some: [(use[g.digest], use[g.digest], latency[g.digest]) for g in some],
    )
    outcomes = racer.run(genomes)
    points = np.array([[use[g.digest], latency[g.digest]] for g in genomes])
    early = 0
    for i, outcome in enumerate(outcomes):
        better = (points <= points[i]).all(1) & (means > means[i])
        if outcome.score.details["images"] < 1200:
            early += 1
            assert better.any()
        else:
            assert outcome.score.score == pytest.approx(means[i], rel=1e-12)
    assert early > 0
    two = runner(Table(genomes, values), use).run(genomes)
    assert early < sum(outcome.score.details["images"] < 1200 for outcome in two)


@pytest.mark.parametrize("seed", range(3))
def test_who_may_push_out_whom_by_definition(seed):
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, 4, (12, 3)) / 3
    costs[:, 0] = np.where(costs[:, 0] == 1, 0.97, costs[:, 0])
    found = _rivals(costs, 8)
    for i in range(8):
        for j in range(12):
            no_more = all(costs[j] <= costs[i])
            at_budget = costs[i, 0] < 0.95 or costs[j, 0] >= 0.95
            assert found[i, j] == (i != j and no_more and at_budget)


def test_candidates_race_the_front_so_far(networks):
    """Whose outcomes are measured again where they are not known, as in a search that goes on."""
    genomes, use = networks
    values = population(np.random.default_rng(8), count=len(genomes), apart=0.5)
    first, second = genomes[:20], genomes[20:]
    table = Table(genomes, values)
    means = dict(zip((g.digest for g in genomes), values.mean(1), strict=True))
    best_first = max(first, key=lambda g: means[g.digest])
    before = runner(table, use, front=lambda: [best_first])
    before.run(first)
    outcomes = before.run(second)
    again = runner(Table(genomes, values), use, front=lambda: [best_first]).run(second)
    assert [o.score for o in outcomes] == [o.score for o in again]
    lonely = Table(genomes, values)
    runner(lonely, use).run(second)
    raced = Table(genomes, values)
    runner(raced, use, front=lambda: [best_first]).run(second)
    assert raced.images - 1200 <= lonely.images


def test_without_looks_all_see_all(networks):
    genomes, _ = networks
    values = population(np.random.default_rng(9), count=len(genomes))
    racer = Racer(Table(genomes, values), (1200,))
    plain = UnitRunner(InProcess(racer))
    outcomes = plain.run(genomes)
    assert [o.score.score for o in outcomes] == pytest.approx(values.mean(1).tolist(), rel=1e-12)
    assert all(o.score.details["images"] == 1200 for o in outcomes)
    assert plain.run([]) == []


def test_what_fails_is_an_outcome(networks):
    genomes, use = networks
    values = population(np.random.default_rng(10), count=len(genomes))
    values[3] = np.nan
    table = Table(genomes, values)
    outcomes = runner(table, use).run(genomes)
    assert outcomes[3].score is None
    assert "RuntimeError" in outcomes[3].error
    assert sum(o.score is None for o in outcomes) == 1


def test_outcomes_of_the_evaluator_fit():
    """The real ones, which count right answers as well."""
    logits, labels = torch.randn(2, 300, 5), torch.randint(0, 5, (300,))

    def measure(which, first, last):
        found = [Outcomes() for _ in which]
        for i, outcome in zip(which, found, strict=True):
            outcome.add(logits[i, first:last], labels[first:last])
        return found

    ended = race(measure, 2, (100, 200, 300), places=2)
    for i, found in enumerate(ended.measured):
        right = (logits[i].argmax(1) == labels).float().mean()
        assert found.score().details["top1"] == pytest.approx(float(right))
        assert len(found) == 300
