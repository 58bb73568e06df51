"""Ranks and crowding against their definitions."""

import numpy as np
import pytest

from search.nsga2 import NSGA2, crowding, crowding_of_all, ranks, survivors
from search.problem import Problem, Trial
from search.proposals import Proposals
from space.decisions import PlainDecisions, Variable


def naive_ranks(gains):
    """Peels one front after the other off, each by the definition."""
    left, found, front = list(range(len(gains))), [0] * len(gains), 0
    while left:
        free = [
            i
            for i in left
            if not any((gains[j] >= gains[i]).all() and (gains[j] > gains[i]).any() for j in left)
        ]
        for i in free:
            found[i] = front
        left = [i for i in left if i not in free]
        front += 1
    return found


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_ranks_by_the_definition(objectives, count):
    gains = np.random.default_rng(count).integers(0, 5, (count, objectives)).astype(float)
    assert ranks(gains).tolist() == naive_ranks(gains)


def test_crowding_by_hand():
    gains = np.array([[0.0, 10.0], [4.0, 0.0], [1.0, 8.0], [3.0, 5.0]])
    # Of the third: (3 - 0) / 4 + (10 - 5) / 10; of the fourth (4 - 1) / 4 + (8 - 0) / 10.
    assert crowding(gains).tolist() == [np.inf, np.inf, pytest.approx(1.25), pytest.approx(1.55)]


def test_copies_are_crowded():
    gains = np.array([[0.0, 2.0], [1.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
    assert crowding(gains).tolist() == [np.inf, 2.0, 0.0, np.inf]


def test_survivors_are_the_first_fronts_and_the_least_crowded():
    line = np.array([[k, 10.0 - k] for k in (0, 1, 4, 10)])
    gains = np.concatenate([line - 20, line])
    assert survivors(gains, 8).tolist() == list(range(8))
    assert survivors(gains, 4).tolist() == [4, 5, 6, 7]
    assert survivors(gains, 3).tolist() == [4, 6, 7]  # (1, 9) is the most crowded
    assert survivors(gains, 5).tolist()[1:] == [4, 5, 6, 7]
    assert np.isinf(crowding_of_all(gains)[[0, 3, 4, 7]]).all()


def test_the_population_is_the_best_of_all_trials():
    decisions = PlainDecisions("plain", tuple(Variable(f"g{i}", (0, 1, 2)) for i in range(4)))
    controller = NSGA2(Proposals(Problem(decisions, observed=2)), 0, population=3)
    front = [Trial((0, 0, 0, k), (float(k), -float(k))) for k in range(3)]
    controller.tell(front)
    controller.tell([Trial((1, 1, 1, k), (-5.0, -5.0)) for k in range(3)])
    rows = controller._records.rows[controller._members]
    assert {tuple(row) for row in rows.tolist()} == {trial.row for trial in front}
