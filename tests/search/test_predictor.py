"""What is the predictor's own; what it shares with all controllers is in test_controllers.py."""

from itertools import pairwise

import numpy as np
import pytest

from search.controllers import make_controller
from search.predictor import _kinds
from search.problem import Problem, Trial
from search.proposals import BAND, Proposals
from space.decisions import PlainDecisions, Variable


def problem(choices=(0, 1, 2), count=6, **more):
    variables = tuple(Variable(f"layer{i}.kind", tuple(choices)) for i in range(count))
    return Problem(PlainDecisions("toy", variables), **more)


def total(row):
    return float(sum(row))


def play(controller, score, evaluations, fidelity=1.0):
    found = []
    for _ in range(evaluations):
        (row,) = controller.ask(1)
        controller.tell([Trial(row, (score(row),), fidelity)])
        found.append(row)
    return found


def test_finds_the_best_of_a_sum_at_once():
    """Of 729 rows, where chance needs 365 on the average."""
    for seed in range(5):
        controller = make_controller("predictor", Proposals(problem()), seed)
        rows = play(controller, total, 25)
        assert (2,) * 6 in rows


def test_what_is_worth_nothing_alone_is_found_too():
    """Pairs of neighbours count when they are alike: no main effects to see."""

    def alike(row):
        return float(sum(a == b for a, b in pairwise(row)))

    found = []
    for seed in range(5):
        controller = make_controller("predictor", Proposals(problem()), seed)
        rows = play(controller, alike, 60)
        found.append(max(map(alike, rows)))
    assert np.mean(found) >= 4.5  # of 5; 60 random rows come to 3.5


def test_trials_of_low_fidelity_help():
    """Told of many rows by a noisy, biased look, it needs fewer evaluations than without."""

    def until(seed, helped):
        proposals = Proposals(problem(count=8))
        controller, rng = make_controller("predictor", proposals, seed), np.random.default_rng(seed)
        if helped:
            rows = np.unique(proposals.sample(rng, 60), axis=0)
            looks = [total(row) - 3 + rng.normal(0, 0.5) for row in rows]
            controller.tell(
                [
                    Trial(tuple(row.tolist()), (look,), 0.2)
                    for row, look in zip(rows, looks, strict=True)
                ]
            )
        rows = play(controller, total, 40)
        return next((n for n, row in enumerate(rows) if total(row) >= 15), 40)

    seeds = range(6)
    assert np.mean([until(s, True) for s in seeds]) < np.mean([until(s, False) for s in seeds])


def test_rows_of_a_batch_differ_from_one_another():
    """As what was asked for is taken for what is believed of it: not all around one row."""
    controller = make_controller("predictor", Proposals(problem(count=8)), 0)
    for _ in range(3):
        rows = controller.ask(16)
        controller.tell([Trial(row, (total(row),)) for row in rows])
    rows = np.array(controller.ask(16))
    apart = (rows[:, None] != rows).sum(axis=2)[np.triu_indices(16, 1)]
    assert apart.mean() > 2


def test_at_the_budget_the_score_counts_alone(toy, target):
    """Half of all rows are asked for there, whatever the front needs."""
    controller, scores = make_controller("predictor", toy, 0), target(toy)
    uses = []
    for _ in range(6):
        rows = controller.ask(8)
        controller.tell(scores.trials(rows))
        uses += toy.use(np.array(rows)).tolist()
    assert 22 <= sum(use >= BAND for use in uses) <= 40


@pytest.mark.parametrize("name", ["toy", "wide"])
def test_listed_or_drawn_it_goes_on_as_if_it_had_not_stopped(propose, target, name):
    """The one space can be listed, the other cannot."""
    proposals = propose(name, "20MFLOPs" if name == "toy" else "2GFLOPs")
    assert (proposals.everything() is None) == (name == "wide")
    scores, steady = target(proposals), make_controller("predictor", proposals, 1)
    for _ in range(3):
        steady.tell(scores.trials(steady.ask(8)))
    resumed = make_controller("predictor", proposals, 2)
    resumed.load_state_dict(steady.state_dict())
    assert resumed.ask(8) == steady.ask(8)


def test_variables_that_decide_the_same_thing_are_of_a_kind():
    variables = (
        Variable("stages.0.blocks.context", (3, 5)),
        Variable("stages.1.blocks.context", (3, 5)),
        Variable("stages.2.blocks.context", (3, 7)),
        Variable("stages.1.blocks.expansion", (3, 5)),
        Variable("op1", ("3", "5")),
        Variable("op2", ("3", "5")),
    )
    found = _kinds(Problem(PlainDecisions("mixed", variables)))
    assert found == [0, 0, 1, 2, 3, 3]
