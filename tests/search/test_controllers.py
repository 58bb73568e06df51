"""What holds for every controller, on problems of every kind."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from search.controllers import CONTROLLERS, choose, make_controller
from search.networks import NetworkProposals
from search.problem import Problem, Trial
from search.proposals import BAND, Proposals
from search.state import pack, unpack
from space.budget import Budget
from space.cost_table import CostTable
from space.decisions import PlainDecisions, Variable

ROOT = Path(__file__).parents[2]
SMALL = {  # so that a few batches are enough to see what is learnt, and quickly
    "evolution": {"population": 20, "tournament": 5, "initial": 12},
    "nsga2": {"population": 12, "tournament": 4, "initial": 12},
    "local-search": {"initial": 12},
    "reinforce": {"hidden": 8, "pool": 32, "steps": 1, "initial": 12},
    "ppo": {"hidden": 8, "pool": 32, "steps": 1, "initial": 12, "epochs": 2},
}
VARIANTS = {  # of a registered controller: settings that change what it does
    "evolution, late": ("evolution", {"mutation": "late"}),
    "local-search, restart": ("local-search", {"restart": True}),
    "reinforce, recurrent": ("reinforce", {"policy": "recurrent"}),
}
EVERY = [*CONTROLLERS, *VARIANTS]
LEARNERS = [name for name in CONTROLLERS if name != "random"]
every_controller = pytest.mark.parametrize("name", EVERY)


def make(name, proposals, seed=0):
    base, settings = VARIANTS.get(name, (name, {}))
    return make_controller(base, proposals, seed, **SMALL.get(base, {}), **settings)


class Latency:
    """Made up: some time for each MAC and each parameter."""

    name = "latency@cpu"

    def __init__(self, table):
        self._table = table

    def __call__(self, codes):
        return 1e-6 * self._table.column(codes, "macs") + 1e-4 * self._table.column(codes, "params")


# ---- problems without networks


def plain(*sizes):
    genes = (Variable(f"gene{i}", tuple(range(size))) for i, size in enumerate(sizes))
    return PlainDecisions("plain", tuple(genes))


# The second gene is there with the first at 1 or 2, the third with the second at 1; the fourth has
# one value only. 1 + 2 (3 + 2) = 11 rows of these, 44 with the last gene.
CONDITIONAL = PlainDecisions(
    "conditional",
    (
        Variable("kind", (0, 1, 2)),
        Variable("size", (0, 1, 2, 3), ((0, frozenset({1, 2})),)),
        Variable("mode", (0, 1), ((1, frozenset({1})),)),
        Variable("fixed", ("only",)),
        Variable("last", (0, 1, 2, 3)),
    ),
)
SIX = plain(3, 3, 3, 3, 3, 3)


def total(codes):
    return codes.sum(axis=1, dtype=float)[:, None] + 1


def two_costs(codes):
    return np.column_stack([codes.sum(axis=1) + 1.0, 50.0 - codes[:, 0] * 3])


MEMBERS = SIX.sample_codes(np.random.default_rng(3), 160)
PROBLEMS = {
    "single": Problem(SIX),
    "limited": Problem(SIX, costs=total, cost_names=("size",), limits={"size": 8}),
    "front": Problem(SIX, costs=total, cost_names=("size",), wanted_small=("size",), target="size"),
    "limited front": Problem(
        SIX,
        costs=two_costs,
        cost_names=("size", "other"),
        limits={"size": 7, "other": 48},
        wanted_small=("size",),
        target="size",
    ),
    "front without a target": Problem(
        SIX, costs=two_costs, cost_names=("size", "other"), wanted_small=("other", "size")
    ),
    "two scores": Problem(SIX, observed=2),
    "two scores and a cost": Problem(
        SIX, observed=2, costs=total, cost_names=("size",), wanted_small=("size",), target="size"
    ),
    "banded": Problem(
        SIX,
        costs=total,
        cost_names=("size",),
        limits={"size": 8},
        wanted_small=("size",),
        target="size",
        banded=True,
    ),
    "banded, three objectives": Problem(
        SIX,
        costs=two_costs,
        cost_names=("size", "other"),
        limits={"size": 8, "other": 48},
        wanted_small=("size", "other"),
        target="size",
        banded=True,
    ),
    "banded, another target": Problem(
        SIX,
        costs=two_costs,
        cost_names=("size", "other"),
        limits={"size": 8, "other": 48},
        wanted_small=("size",),
        target="other",
        banded=True,
    ),
    "conditional": Problem(CONDITIONAL),
    "members": Problem(SIX, members=np.unique(MEMBERS, axis=0)),
    "members, limited": Problem(
        SIX,
        members=np.unique(MEMBERS, axis=0),
        costs=total,
        cost_names=("size",),
        limits={"size": 7},
    ),
    "aliases": Problem(SIX, key=lambda row: tuple(sorted(row))),
}
some_problems = pytest.mark.parametrize(
    "kind",
    [
        *("single", "two scores and a cost", "banded", "banded, three objectives"),
        *("members, limited", "aliases"),
    ],
)
every_problem = pytest.mark.parametrize("kind", PROBLEMS)


def observe(problem, row):
    """Likeness to a row of twos; further scores are against it and of another scale."""
    likeness = sum(code == 2 for code in row) + 0.1 * sum(row)
    return (likeness, 1e4 - 300.0 * likeness + 10 * (row[0] if row else 0))[: problem.observed]


def evaluate(problem, rows):
    return [Trial(row, observe(problem, row)) for row in rows]


def play(controller, problem, batches, size=8):
    """The rows of so many batches."""
    found = []
    for _ in range(batches):
        rows = controller.ask(size)
        controller.tell(evaluate(problem, rows))
        found += rows
    return found


def all_rows(problem):
    rows = problem.decisions.every_code(10_000) if problem.members is None else problem.members
    inside = np.ones(len(rows), bool)
    for name, limit in problem.limits.items():
        inside &= problem.costs(rows)[:, problem.cost_names.index(name)] <= limit
    return {tuple(row) for row in rows[inside].tolist()}


# ---- what is proposed


@every_controller
@every_problem
def test_stays_inside_and_proposes_nothing_twice(name, kind):
    problem = PROBLEMS[kind]
    allowed = all_rows(problem)
    controller = make(name, Proposals(problem))
    rows = play(controller, problem, 4) + play(controller, problem, 2, size=1)
    assert all(isinstance(code, int) for row in rows for code in row)
    assert set(rows) <= allowed
    assert len({problem.key(row) for row in rows}) == len(rows)
    assert len(rows) == min(34, len({problem.key(row) for row in allowed}))


@every_controller
@pytest.mark.parametrize("kind", ["conditional", "members, limited", "limited front", "aliases"])
def test_goes_through_all_there_is_and_ends(name, kind):
    """Also where several rows are one thing: each thing is asked for once."""
    problem = PROBLEMS[kind]
    allowed = all_rows(problem)
    things = {problem.key(row) for row in allowed}
    assert 20 < len(things) < 500
    found = play(make(name, Proposals(problem)), problem, len(things) // 24 + 2, size=24)
    assert set(found) <= allowed
    assert {problem.key(row) for row in found} == things
    assert len(found) == len(things)


@every_controller
@pytest.mark.parametrize(
    ("sizes", "observed"), [((), 1), ((), 2), ((1, 1), 1), ((10,), 1), ((1, 2, 1, 5), 2)]
)
def test_tiny_spaces(name, sizes, observed):
    problem = Problem(plain(*sizes), observed=observed)
    controller = make(name, Proposals(problem))
    rows = play(controller, problem, 12, size=1)
    count = int(np.prod(sizes, dtype=int))
    assert len(rows) == len(set(rows)) == count
    assert controller.ask(3) == []
    assert pack(controller.state_dict())


@every_controller
def test_a_space_of_1e20(name):
    problem = Problem(plain(*[10] * 20))
    rows = play(make(name, Proposals(problem)), problem, 4)
    assert len(set(rows)) == 32
    assert {len(row) for row in rows} == {20}
    assert 0 <= min(map(min, rows)) <= max(map(max, rows)) <= 9


@every_controller
def test_limits_that_leave_next_to_nothing(name):
    """Seven rows in 3 ** 12, of which chance finds none."""
    decisions = plain(*[3] * 12)
    problem = Problem(
        decisions,
        costs=lambda codes: np.column_stack([total(codes), codes[:, 6:].sum(axis=1)]),
        cost_names=("size", "late"),
        limits={"size": 2, "late": 0},
    )
    proposals = Proposals(problem)
    found = play(make(name, proposals), problem, 6)
    expected = {(0,) * 12} | {tuple(int(i == k) for i in range(12)) for k in range(6)}
    assert len(found) == len(set(found))
    assert set(found) <= expected
    assert len(found) >= 6


@every_controller
def test_an_impossible_limit_is_said_at_once(name):
    problem = Problem(SIX, costs=total, cost_names=("size",), limits={"size": 0.5})
    with pytest.raises(ValueError, match=r"size <= 0\.5"):
        make(name, Proposals(problem))


@every_controller
def test_what_was_given_comes_first(name):
    base, settings = VARIANTS.get(name, (name, {}))
    first = [(2, 0, 1, 0, 0, 0), (0, 0, 0, 0, 0, 2)]
    controller = make_controller(
        base, Proposals(PROBLEMS["single"]), 0, first=first, **SMALL.get(base, {}), **settings
    )
    assert controller.ask(1) + controller.ask(4)[:1] == first


# ---- what is told


@every_controller
def test_what_others_scored_is_not_proposed(name):
    """Told rows that were never asked for."""
    problem = PROBLEMS["conditional"]
    rows = sorted(all_rows(problem))
    controller = make(name, Proposals(problem))
    controller.tell(evaluate(problem, rows[:-3]))
    assert sorted(controller.ask(5)) == rows[-3:]


@every_controller
@some_problems
def test_late_and_missing_tells(name, kind):
    """A third of the rows is told at once, a third three asks later and a third never."""
    problem = PROBLEMS[kind]
    controller, late, asked = make(name, Proposals(problem)), [], []
    for _ in range(8):
        rows = controller.ask(3)
        asked += rows
        late.append(rows[1:2])
        controller.tell(evaluate(problem, rows[:1]))
        if len(late) > 3:
            controller.tell(evaluate(problem, late[-4]))
    assert len(asked) == 24
    assert len({problem.key(row) for row in asked}) == 24


@every_controller
@some_problems
def test_order_in_a_tell_does_not_matter(name, kind):
    """Also that of two trials of one row."""
    problem = PROBLEMS[kind]
    proposals = Proposals(problem)
    shuffled, steady = make(name, proposals), make(name, proposals)
    for i in range(4):
        rows = steady.ask(8)
        assert shuffled.ask(8) == rows
        trials = evaluate(problem, rows)
        trials += [Trial(rows[0], tuple(2.0 * v for v in trials[0].values))] if rows else []
        steady.tell(trials)
        shuffled.tell(random.Random(i).sample(trials, len(trials)))
    assert pack(shuffled.state_dict()) == pack(steady.state_dict())


FAILURES = [None, float("nan"), float("inf"), float("-inf")]


def failed(problem, rows, bad):
    values = None if bad is None else (1.0,) * (problem.observed - 1) + (bad,)
    return [Trial(row, values) for row in rows]


@every_controller
@pytest.mark.parametrize("kind", ["single", "front", "two scores", "banded"])
def test_what_is_no_number_is_a_failure(name, kind):
    problem = PROBLEMS[kind]
    proposals = Proposals(problem)
    one, other = make(name, proposals), make(name, proposals)
    for i in range(4):
        rows = one.ask(8)
        assert other.ask(8) == rows
        good = [row for k, row in enumerate(rows) if k % 3 != i % 3]
        bad = rows[i % 3 :: 3]
        one.tell(evaluate(problem, good) + failed(problem, bad, FAILURES[i]))
        other.tell(evaluate(problem, good) + failed(problem, bad, None))
    assert pack(one.state_dict()) == pack(other.state_dict())


# The predictor tells a failure from what is still under way, where it believes its own guess.
@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("predictor", "auto")])
@pytest.mark.parametrize("kind", ["single", "front", "two scores", "banded"])
def test_failures_teach_nothing(name, kind):
    """A controller that is told of failures goes on as one that is told nothing of them."""
    problem = PROBLEMS[kind]
    proposals = Proposals(problem)
    told, spared = make(name, proposals), make(name, proposals)
    for i in range(4):
        rows = told.ask(8)
        assert spared.ask(8) == rows
        good = [row for k, row in enumerate(rows) if k % 3 != i % 3]
        told.tell(evaluate(problem, good) + failed(problem, rows[i % 3 :: 3], FAILURES[i]))
        spared.tell(evaluate(problem, good))
    assert pack(told.state_dict()) == pack(spared.state_dict())


@every_controller
def test_nothing_but_failures(name):
    problem = PROBLEMS["two scores"]
    controller, found = make(name, Proposals(problem)), []
    for _ in range(5):
        rows = controller.ask(8)
        controller.tell([Trial(row, None) for row in rows])
        found += rows
    assert len(set(found)) == 40


@every_controller
@pytest.mark.parametrize("kind", ["single", "two scores and a cost"])
def test_equal_scores_are_no_trouble(name, kind):
    problem = PROBLEMS[kind]
    controller, found = make(name, Proposals(problem)), []
    for _ in range(5):
        rows = controller.ask(8)
        controller.tell([Trial(row, (0.5,) * problem.observed) for row in rows])
        found += rows
    assert len(set(found)) == 40


@every_controller
@pytest.mark.parametrize("kind", ["single", "front", "two scores"])
def test_the_scale_of_a_score_does_not_matter(name, kind):
    """Scores in other units, by a factor that is exact in binary."""
    problem = PROBLEMS[kind]
    proposals = Proposals(problem)
    large, small = make(name, proposals), make(name, proposals)
    for _ in range(5):
        rows = large.ask(8)
        assert small.ask(8) == rows
        trials = evaluate(problem, rows)
        large.tell(trials)
        small.tell([Trial(t.row, tuple(value / 1024 for value in t.values)) for t in trials])


# ---- chance and state


@every_controller
def test_same_seed_same_rows(name):
    problem = PROBLEMS["single"]
    proposals = Proposals(problem)
    rows = play(make(name, proposals, 3), problem, 5)
    assert play(make(name, proposals, 3), problem, 5) == rows
    assert play(make(name, proposals, 4), problem, 5) != rows


KINDS_ELSEWHERE = ["single", "two scores", "banded"]


def rows_of_every_controller():
    return {
        f"{name} {kind}": play(make(name, Proposals(PROBLEMS[kind]), 3), PROBLEMS[kind], 4)
        for name in EVERY
        for kind in KINDS_ELSEWHERE
    }


@pytest.fixture(scope="module")
def elsewhere():
    """The rows of each controller, found in a process of its own."""
    script = f"""
import json, sys
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
import test_controllers
print(json.dumps(test_controllers.rows_of_every_controller()))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    return json.loads(run.stdout)


@every_controller
@pytest.mark.parametrize("kind", KINDS_ELSEWHERE)
def test_same_seed_same_rows_in_a_new_process(name, kind, elsewhere):
    problem = PROBLEMS[kind]
    rows = play(make(name, Proposals(problem), 3), problem, 4)
    assert [tuple(row) for row in elsewhere[f"{name} {kind}"]] == rows


@every_controller
@every_problem
def test_stops_and_resumes_to_the_last_bit(name, kind):
    """New controllers from bytes alone, between ask and tell and after it, against one that never
    stops."""
    problem = PROBLEMS[kind]
    proposals = Proposals(problem)
    steady, resumed = (make(name, proposals, 5) for _ in range(2))

    def restarted(controller):
        other = make(name, Proposals(problem), 12345)  # all must come from the state
        other.load_state_dict(unpack(pack(controller.state_dict())))
        return other

    for i in range(4):
        rows = steady.ask(7)
        assert resumed.ask(7) == rows
        resumed = resumed if i == 1 else restarted(resumed)
        for controller in (steady, resumed):
            controller.tell(evaluate(problem, rows))
        resumed = resumed if i == 2 else restarted(resumed)
        assert pack(resumed.state_dict()) == pack(steady.state_dict())


@every_controller
def test_resumes_while_the_last_rows_are_handed_out(name):
    problem = PROBLEMS["conditional"]
    steady, resumed = (make(name, Proposals(problem), 5) for _ in range(2))
    rows = [None]
    while rows:
        rows = steady.ask(5)
        assert resumed.ask(5) == rows
        for controller in (steady, resumed):
            controller.tell(evaluate(problem, rows))
        state = pack(resumed.state_dict())
        resumed = make(name, Proposals(problem), 9)
        resumed.load_state_dict(unpack(state))


@every_controller
def test_a_saved_state_is_not_touched_by_what_follows(name):
    problem = PROBLEMS["two scores"]
    controller = make(name, Proposals(problem))
    play(controller, problem, 3)
    state = controller.state_dict()
    before = pack(state)
    play(controller, problem, 2)
    assert pack(state) == before
    resumed = make(name, Proposals(problem))
    resumed.load_state_dict(state)
    play(resumed, problem, 2)
    assert pack(state) == before
    assert pack(controller.state_dict()) == pack(resumed.state_dict()) != before


# ---- networks in a budget


@every_controller
@pytest.mark.parametrize(
    ("space", "budget"), [("toy", "20MFLOPs"), ("wide", "2GFLOPs"), ("wide", "26MFLOPs,80kparams")]
)
def test_networks_stay_in_the_budget_and_come_to_it(propose, target, name, space, budget):
    proposals = propose(space, budget)
    controller, scores = make(name, proposals), target(proposals)
    at_budget = count = 0
    for _ in range(6):
        rows = controller.ask(8)
        for genome in map(proposals.space.decode, rows):
            assert genome in proposals.space
            assert proposals.budget.allows(genome.cost())
            at_budget += proposals.budget.use(genome.cost()) >= BAND
        controller.tell(scores.trials(rows))
        count += len(rows)
    assert count == 48
    # Of the 252 networks of the toy space at the budget one may be met again; its place goes to
    # another, wherever that lies.
    assert at_budget >= 20


@every_controller
def test_covers_small_networks_as_well(propose, target, name):
    proposals = propose("wide", "2GFLOPs")
    controller, scores = make(name, proposals), target(proposals)
    rows = []
    for _ in range(12):
        found = controller.ask(8)
        controller.tell(scores.trials(found))
        rows += found
    uses = proposals.use(np.array(rows))
    later = np.histogram(uses[32:], bins=[0, 0.25, 0.5, 0.75, 1])[0]
    assert (later > 0).all()


@every_controller
def test_an_unreachable_budget_is_said_at_once(propose, name):
    with pytest.raises(ValueError, match="no network of space 'toy'"):
        make(name, propose("toy", "1GFLOPs"))


# ---- what is learnt


@pytest.mark.parametrize("name", LEARNERS)
def test_finds_better_networks_than_random_search(wide, target, name):
    """At the budget, for a score that is the likeness to a hidden network."""

    def best(name, seed):
        base, settings = VARIANTS.get(name, (name, {}))
        if base in ("reinforce", "ppo"):
            settings = {**settings, "hidden": 16}
        controller = make_controller(base, wide, seed, **settings)
        scores, found = target(wide, seed), []
        for _ in range(12):
            trials = scores.trials(controller.ask(12))
            controller.tell(trials)
            uses = wide.use(np.array([trial.row for trial in trials]))
            found += [t.values[0] for t, use in zip(trials, uses, strict=True) if use >= BAND]
        return max(found)

    found = [best(name, seed) for seed in range(2)]
    by_chance = [best("random", seed) for seed in range(2)]
    assert np.mean(found) > np.mean(by_chance) + 0.04


@pytest.mark.parametrize("name", [name for name in EVERY if name != "random"])
def test_finds_the_best_row(name):
    """One in 3 ** 6, within 150 evaluations."""
    problem = PROBLEMS["single"]
    base, settings = VARIANTS.get(name, (name, {}))
    controller = make_controller(base, Proposals(problem), 1, **settings)
    found = []
    while len(found) < 150 and (2,) * 6 not in found:
        rows = controller.ask(5)
        controller.tell([Trial(row, (observe(problem, row)[0],)) for row in rows])
        found += rows
    assert (2,) * 6 in found


@pytest.mark.parametrize("name", LEARNERS)
def test_finds_more_of_a_front_than_random_search(name):
    """Two scores against one another: how many of eight genes are 0, and how many are 2. The front
    is where none is 1: 2 ** 8 of 3 ** 8 rows."""
    problem = Problem(plain(*[3] * 8), observed=2)
    proposals = Proposals(problem)

    def share(name):
        base, settings = VARIANTS.get(name, (name, {}))
        controller = make_controller(base, proposals, 0, **settings)
        found = []
        while len(found) < 150:
            rows = controller.ask(5)
            controller.tell(
                [Trial(row, (float(row.count(0)), 100.0 * row.count(2))) for row in rows]
            )
            found += rows
        return np.mean([1 not in row for row in found[50:]])

    assert share("random") < 0.1
    assert share(name) > 0.3


@pytest.mark.parametrize("name", LEARNERS)
def test_finds_more_of_a_front_of_three_objectives(name):
    """A score and two costs: a gene of 2 gives a point, one of 1 nothing, and both cost the same,
    in one half of the genes in one currency and in the other half in another. So the front is where
    none is 1, and what lies there has the most points for what it costs."""
    halves = plain(*[3] * 8)

    def costs(codes):
        spent = codes > 0
        return np.column_stack([1.0 + spent[:, :4].sum(1), 0.5 + spent[:, 4:].sum(1)])

    problem = Problem(
        halves, costs=costs, cost_names=("a", "b"), wanted_small=("a", "b"), target="a"
    )
    proposals = Proposals(problem)

    def share(name):
        controller = make_controller(name, proposals, 0)
        found = []
        while len(found) < 150:
            rows = controller.ask(5)
            controller.tell([Trial(row, (float(row.count(2)),)) for row in rows])
            found += rows
        points = [row.count(2) - row.count(1) for row in found[50:]]
        return np.mean([1 not in row for row in found[50:]]), np.mean(points)

    by_chance, found = share("random"), share(name)
    assert by_chance[0] < 0.1
    assert found[0] > 0.15
    assert found[1] > by_chance[1] + 1


@pytest.mark.parametrize("name", EVERY)
def test_networks_of_three_objectives_under_a_limit_that_is_no_count(toy_space, target, name):
    """Inside all limits, and at the one that binds."""
    table = CostTable(toy_space)
    proposals = NetworkProposals(
        toy_space,
        table,
        Budget.parse("60MFLOPs,30ms@cpu"),
        [Latency(table)],
        objectives=("macs", "latency@cpu"),
    )
    assert proposals.target == "latency@cpu"
    controller, scores = make(name, proposals), target(proposals)
    rows = []
    for _ in range(5):
        found = controller.ask(8)
        controller.tell(scores.trials(found))
        rows += found
    codes = np.array(rows)
    assert (table.column(codes, "macs") <= 60e6).all()
    latency = Latency(table)(codes)
    assert (latency <= 30).all()
    assert (latency >= BAND * 30).sum() >= 16
    assert len(set(rows)) == 40


# ---- names and settings


def test_unknown_names_and_settings(toy):
    with pytest.raises(ValueError, match=r"'annealing'; there are .*evolution.*random"):
        make_controller("annealing", toy, 0)
    with pytest.raises(ValueError, match=r"no setting 'rate'; it has population, tourn"):
        make_controller("evolution", toy, 0, rate=0.1)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("evolution", "population", 0),
        ("evolution", "tournament", 0),
        ("evolution", "initial", 0),
        ("evolution", "crossover", 1.5),
        ("evolution", "mutation", "early"),
        ("evolution", "mutation", 0.1),
        ("nsga2", "population", 0),
        ("nsga2", "tournament", 0),
        ("nsga2", "initial", 0),
        ("nsga2", "crossover", -0.1),
        ("nsga2", "crossing", "two-point"),
        ("local-search", "initial", 0),
        ("local-search", "kick", 1.1),
        ("random", "at_budget", -0.1),
        *(
            (name, setting, value)
            for name in ("reinforce", "ppo")
            for setting, value in [
                ("policy", "linear"),
                ("hidden", 0),
                ("learning_rate", 0),
                ("learning_rate", float("nan")),
                ("entropy", -1),
                ("decay", 1),
                ("queue", 0),
                ("replay", -1),
                ("steps", -1),
                ("initial", 0),
                ("pool", 0),
            ]
        ),
        ("ppo", "clip", 0),
        ("ppo", "epochs", 0),
        ("ppo", "rollout", 0),
    ],
)
def test_settings_out_of_range(toy, name, setting, value):
    with pytest.raises(ValueError, match=rf"^{setting} is "):
        make_controller(name, toy, 0, **{setting: value})


@pytest.mark.parametrize(
    ("evaluations", "rows", "chosen"),
    [
        (320, 10**20, "predictor"),
        (5000, 6561, "predictor"),
        (5001, 6561, "evolution"),
        (320, 321, "predictor"),
        (320, 320, "random"),
    ],
)
def test_auto(evaluations, rows, chosen):
    assert choose(evaluations, rows) == chosen
