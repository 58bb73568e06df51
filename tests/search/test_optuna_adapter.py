"""Optuna's samplers as controllers, and our controllers as a sampler."""

import json
import re
import sys
from itertools import product

import numpy as np
import pytest

pytest.importorskip("optuna")

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search.compare import make_named
from search.optuna_adapter import SAMPLERS, ChimeraSampler, optuna_controller
from search.problem import Problem, Trial
from search.proposals import Proposals
from search.state import pack, unpack
from space.decisions import PlainDecisions, Variable

optuna.logging.set_verbosity(optuna.logging.ERROR)
QUICK = {"tpe": {"n_startup_trials": 5}, "gp": {"n_startup_trials": 8}, "nsgaii": {}, "random": {}}
QUICK["nsgaii"] = {"population_size": 6}
every = pytest.mark.parametrize("name", SAMPLERS)
FOUR = (0, 1, 2, 3)


def variables(conditional):
    """Four genes with four choices; of the conditional ones, the last two matter by the first."""
    names = [Variable(name, FOUR) for name in "ab"]
    if conditional:
        return (
            *names,
            Variable("c", FOUR, ((0, frozenset((0, 1))),)),
            Variable("d", FOUR, ((0, frozenset((0, 1))), (2, frozenset((2, 3))))),
        )
    return (*names, Variable("c", FOUR), Variable("d", FOUR))


def problem(conditional=False, **changed):
    given = {
        "costs": lambda codes: codes.sum(axis=1, keepdims=True) + 1.0,
        "cost_names": ("sum",),
        **changed,
    }
    return Problem(PlainDecisions("toy", variables(conditional)), **given)


def value_of(row):
    return float(np.dot(row, (8, 4, 2, 1)))


def make(name, made, seed=0):
    return optuna_controller(f"optuna:{name}", Proposals(made), seed, **QUICK[name])


def play(controller, batches, size, values=value_of):
    rows = []
    for _ in range(batches):
        asked = controller.ask(size)
        controller.tell([Trial(row, (values(row),)) for row in asked])
        rows += asked
    return rows


@every
@pytest.mark.parametrize("conditional", [False, True])
def test_rows_are_of_the_space_within_limits_and_new(name, conditional):
    made = problem(conditional, limits={"sum": 6})
    rows = play(make(name, made), 4, 4)
    codes = np.array(rows)
    assert len(set(rows)) == 16
    assert (made.decisions.canonical(codes) == codes).all()
    assert (codes.sum(axis=1) + 1 <= 6).all()


@pytest.mark.parametrize("name", ["tpe", "nsgaii", "random"])
def test_all_rows_come_and_then_none(name):
    members = np.array([row for row in product(range(4), repeat=4) if sum(row) % 5 == 0])
    controller = make(name, problem(members=members))
    rows = play(controller, len(members) // 4 + 2, 4)
    assert sorted(rows) == sorted(map(tuple, members.tolist()))
    assert controller.ask(3) == []


@every
def test_stopped_and_resumed_it_goes_on_as_it_would_have(name):
    made = problem(True)
    whole = play(make(name, made), 5, 3)
    first = make(name, made)
    begun = play(first, 3, 3)
    under_way = first.ask(3)
    state = unpack(pack(first.state_dict()))
    json.dumps(state["trials"])
    again = make(name, made)
    again.load_state_dict(state)
    assert pack(again.state_dict()) == pack(first.state_dict())
    again.tell([Trial(row, (value_of(row),)) for row in under_way])
    assert [*begun, *under_way, *play(again, 1, 3)] == whole


@every
def test_the_order_of_a_tell_does_not_matter(name):
    rows = []
    for order in (1, -1):
        controller = make(name, problem(), seed=4)
        for _ in range(3):
            asked = controller.ask(4)
            controller.tell([Trial(row, (value_of(row),)) for row in asked][::order])
        rows.append(controller.ask(2))
    assert rows[0] == rows[1]


@pytest.mark.parametrize("name", ["tpe", "gp", "nsgaii"])
def test_samplers_learn(name):
    """Rows after a while are better than those of a sampler that is told nothing but nonsense."""
    learnt = play(make(name, problem(), seed=1), 40 if name != "gp" else 24, 1)
    assert np.mean([value_of(row) for row in learnt[-8:]]) > 30  # of 45; 22.5 at random


def test_failures_and_foreign_rows_are_taken():
    controller = make("tpe", problem())
    asked = controller.ask(4)
    controller.tell([Trial(row, None) for row in asked])
    foreign = (3, 3, 3, 3)
    controller.tell([Trial(foreign, (45.0,)), Trial((0, 0, 0, 0), (float("nan"),))])
    states = [trial.state.name for trial in controller._study.get_trials()]
    assert states == ["FAIL"] * 5 + ["COMPLETE"]
    rows = play(controller, 10, 4)
    assert not {foreign, (0, 0, 0, 0), *asked} & set(rows)


def test_all_objectives_are_the_studys():
    made = problem(observed=2, wanted_small=("sum",), target="sum")
    controller = make("nsgaii", made)
    row = controller.ask(1)[0]
    controller.tell([Trial(row, (1.0, 2.0))])
    assert controller._study.trials[0].values == [1.0, 2.0, -(sum(row) + 1)]


def test_trials_under_way_are_those_that_were_asked_for():
    """Where several rows are one network, those of one ask are of different ones."""
    controller = make("random", problem(key=lambda row: tuple(sorted(row))))
    rows = controller.ask(25)
    assert len({tuple(sorted(row)) for row in rows}) == 25  # of 35
    running = [t for t in controller._study.get_trials() if t.state.name == "RUNNING"]
    assert sorted(tuple(t.params[name] for name in "abcd") for t in running) == sorted(rows)


@pytest.mark.parametrize("name", ["tpe", "nsgaii"])
def test_networks_under_a_budget(propose, name):
    """In the band and the slices that are planned, as other controllers."""
    proposals = propose("wide", "26MFLOPs,80kparams")
    rows = []
    controller = make_named(f"optuna:{name}", proposals, 0, at_budget=0.5)
    for _ in range(3):
        asked = controller.ask(8)
        controller.tell([Trial(row, (sum(row) / 100,)) for row in asked])
        rows += asked
    use = proposals.use(np.array(rows))
    assert proposals.fits(np.array(rows)).all()
    assert len(set(rows)) == 24
    assert (use >= 0.95).sum() >= 12


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("optuna:cma", {}, "unknown controller 'optuna:cma'; of Optuna's there are optuna:tpe"),
        ("optuna:tpe", {"population": 3}, "no setting 'population'; it has at_budget, first"),
        ("optuna:tpe", {"constraints_func": 3}, "no setting 'constraints_func'"),
        ("optuna:nsgaii", {"population_size": 1}, "greater than or equal to 2"),
    ],
)
def test_what_is_wrong_is_said(name, settings, said):
    with pytest.raises(ValueError, match=said):
        make_named(name, Proposals(problem()), 0, **settings)


def test_without_optuna_there_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "search.optuna_adapter")
    said = "needs Optuna, which is not installed: pip install 'chimera-nas[optuna]'"
    with pytest.raises(ValueError, match=re.escape(said)):
        make_named("optuna:tpe", Proposals(problem()), 0)


# ---- the sampler


def objective(trial):
    a = trial.suggest_categorical("a", ["x", "y", "z"])
    b = trial.suggest_int("b", 2, 8, step=2)
    c = trial.suggest_float("c", 0, 1, step=0.25)
    trial.suggest_float("free", 0, 1)
    return "xyz".index(a) * 100 + b * 10 + c


SPACE = {
    "a": CategoricalDistribution(["x", "y", "z"]),
    "b": IntDistribution(2, 8, step=2),
    "c": FloatDistribution(0, 1, step=0.25),
}
COMBINATIONS = set(product("xyz", (2, 4, 6, 8), (0, 0.25, 0.5, 0.75, 1)))


def combinations(study):
    return [(t.params["a"], t.params["b"], t.params["c"]) for t in study.trials]


@pytest.mark.parametrize("space", [None, SPACE], ids=["inferred", "given"])
@pytest.mark.parametrize("controller", ["evolution", "random"])
def test_every_combination_comes_once(space, controller):
    study = optuna.create_study(
        sampler=ChimeraSampler(controller, seed=0, search_space=space), direction="maximize"
    )
    study.optimize(objective, n_trials=60)
    assert set(combinations(study)) == COMBINATIONS
    assert study.best_value == 281
    study.optimize(objective, n_trials=2)  # nothing is left: at random


def test_a_new_sampler_goes_on_with_an_old_study():
    study = optuna.create_study(sampler=ChimeraSampler(seed=0, search_space=SPACE))
    study.optimize(objective, n_trials=20)
    study.sampler = ChimeraSampler(seed=1, search_space=SPACE)
    study.optimize(objective, n_trials=40)
    assert set(combinations(study)) == COMBINATIONS


@pytest.mark.parametrize(("direction", "sign"), [("minimize", -1), ("maximize", 1)])
def test_what_the_controller_is_told(direction, sign, monkeypatch):
    sampler = ChimeraSampler("random", seed=0, search_space=SPACE)
    told = []
    monkeypatch.setattr(sampler._controller, "tell", told.extend)
    study = optuna.create_study(sampler=sampler, direction=direction)

    def sometimes(trial):
        value = objective(trial)
        if trial.number == 1:
            raise optuna.TrialPruned
        if trial.number == 2:
            raise ZeroDivisionError
        return value

    study.optimize(sometimes, n_trials=5, catch=ZeroDivisionError)
    values = [trial.values for trial in told]
    assert values[1:3] == [None, None]
    assert values[0] == (sign * study.trials[0].value,)
    assert values[3] == (sign * study.trials[3].value,)
    codes = [("xyz".index(a), b // 2 - 1, int(4 * c)) for a, b, c in combinations(study)]
    assert [trial.row for trial in told] == codes[:4]


def test_several_directions_and_threads():
    study = optuna.create_study(
        sampler=ChimeraSampler(seed=0, search_space=SPACE), directions=["maximize", "minimize"]
    )
    study.optimize(lambda t: (objective(t), t.params["b"]), n_trials=30, n_jobs=3)
    assert len(set(combinations(study))) == 30


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"controller": "none", "search_space": SPACE}, "unknown controller"),
        ({"search_space": {"lr": FloatDistribution(0, 1)}}, "parameter 'lr' must be categorical"),
        ({"search_space": {"n": IntDistribution(0, 10**6)}}, "parameter 'n' must be"),
    ],
)
def test_a_sampler_that_cannot_be(given, said):
    with pytest.raises(ValueError, match=said):
        ChimeraSampler(**given)
