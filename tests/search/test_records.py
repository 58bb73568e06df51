import numpy as np
import pytest

from search.problem import Problem, Trial
from search.proposals import Proposals
from search.records import Records, order_shares
from space.decisions import PlainDecisions, Variable

DECISIONS = PlainDecisions("plain", tuple(Variable(f"g{i}", tuple(range(5))) for i in range(3)))


def records(newest=None, **settings):
    return Records(Proposals(Problem(DECISIONS, **settings)), newest)


def size(codes):
    return codes.sum(axis=1)[:, None]


def test_the_newest_stay_in_the_order_of_tells():
    found = records(newest=2)
    for code in range(4):
        found.add([Trial((code, 0, 0), (1.0,)), Trial((code, 4, 4), None)])
    assert found.rows.tolist() == [[2, 0, 0], [3, 0, 0]]
    assert found.place((3, 0, 0)) == 1
    assert found.place((1, 0, 0)) is None
    assert found.add([Trial((2, 0, 0), (5.0,))]).tolist() == [0]
    assert found.gains.tolist() == [[5.0], [1.0]]


def test_of_one_row_the_trial_of_highest_fidelity_counts():
    found, row = records(), (1, 2, 3)
    found.add([Trial(row, (0.5,), 0.25)])
    found.add([Trial(row, (0.7,), 1.0)])
    assert found.add([Trial(row, (0.9,), 0.5)]).tolist() == []
    assert found.gains.tolist() == [[0.7]]


def test_more_than_fit_at_first():
    found = records()
    rows = DECISIONS.every_code(1000)
    for row in rows.tolist():
        found.add([Trial(tuple(row), (float(row[0]),))])
    assert np.array_equal(found.rows, rows)
    other = records()
    other.load_state_dict(found.state_dict())
    assert np.array_equal(other.gains, found.gains)
    assert other.place((4, 4, 4)) == 124


def test_order_shares_by_hand():
    values = np.array([[3.0, 1.0], [1e9, 1.0], [-2.0, 1.0], [3.0, 1.0]])
    assert order_shares(values).tolist() == [[0.5, 1.0], [1.0, 1.0], [0.0, 1.0], [0.5, 1.0]]


def test_worth_for_a_slice_is_the_best_that_uses_no_more():
    found = records(costs=size, cost_names=("size",), wanted_small=("size",), target="size")
    trials = [((4, 4, 4), 9.0), ((2, 2, 2), 5.0), ((1, 1, 1), 6.0), ((4, 0, 2), 4.0)]
    for row, value in trials:
        found.add([Trial(row, (value,))])
    order = np.argsort(-found.worth(0.5, np.ones(1)))
    assert order.tolist() == [2, 1, 3, 0]
    assert found.worth(1.0, np.ones(1)).argmax() == 0
    assert found.worth(0.2, np.ones(1)).argmax() == 2  # all are too large: the smallest


@pytest.mark.parametrize(("weights", "best"), [((1, 0), 0), ((0, 1), 2), ((0.5, 0.5), 1)])
def test_weights_say_where_on_the_front(weights, best):
    found = records(observed=2)
    for code, values in enumerate([(4.0, -900.0), (3.0, -200.0), (1.0, -100.0), (0.0, -950.0)]):
        found.add([Trial((code, 0, 0), values)])
    assert found.worth(1.0, np.array(weights, float)).argmax() == best
