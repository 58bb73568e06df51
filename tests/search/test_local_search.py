import numpy as np

from search.local_search import LocalSearch
from search.problem import Problem, Trial
from search.proposals import Proposals
from space.decisions import PlainDecisions, Variable

DECISIONS = PlainDecisions("plain", tuple(Variable(f"g{i}", (0, 1, 2)) for i in range(6)))


def away(row, other):
    return sum(a != b for a, b in zip(row, other, strict=True))


def test_proposes_the_neighbours_of_the_best_then_jumps():
    best, other = (1,) * 6, (0,) * 6
    controller = LocalSearch(Proposals(Problem(DECISIONS)), 0, initial=2, kick=1)
    controller.ask(2)
    controller.tell([Trial(best, (2.0,)), Trial(other, (1.0,))])
    rows = controller.ask(8)
    rows += controller.ask(4)  # all twelve neighbours, unless one was known
    steps = [away(row, best) for row in rows]
    assert steps[:10] == [1] * 10
    kicked = controller.ask(5)
    assert {away(row, best) for row in kicked} <= {1, 2, 3}
    assert max(away(row, best) for row in kicked) > 1


def test_moves_on_when_a_neighbour_is_better():
    controller = LocalSearch(Proposals(Problem(DECISIONS)), 0, initial=1)
    (start,) = controller.ask(1)
    controller.tell([Trial(start, (1.0,))])
    (step,) = controller.ask(1)
    controller.tell([Trial(step, (2.0,))])
    assert all(away(row, step) == 1 for row in controller.ask(4))


def test_without_kicks_the_next_best_has_its_turn():
    best, second = (1,) * 6, (0,) * 6
    controller = LocalSearch(Proposals(Problem(DECISIONS)), 0, initial=1, kick=0)
    controller.ask(1)
    near = [tuple(row) for row in DECISIONS.neighbours(best).tolist()]
    controller.tell([Trial(best, (9.0,)), Trial(second, (8.0,)), *(Trial(r, None) for r in near)])
    assert all(away(row, second) == 1 for row in controller.ask(5))


def test_restarts_leave_the_old_incumbent():
    best = (1,) * 6
    controller = LocalSearch(Proposals(Problem(DECISIONS)), 0, initial=3, restart=True)
    controller.ask(3)
    near = [tuple(row) for row in DECISIONS.neighbours(best).tolist()]
    controller.tell([Trial(best, (9.0,)), *(Trial(row, (0.0,)) for row in near)])
    rows = [controller.ask(1)[0] for _ in range(3)]  # random again
    controller.tell([Trial(row, (1.0 + i,)) for i, row in enumerate(rows)])
    assert all(away(row, rows[-1]) == 1 for row in controller.ask(3))


def test_gets_past_a_limit_that_no_single_change_respects():
    """Two genes have to be swapped: (2, 0) is allowed and (0, 2), but neither (0, 0) nor (2, 2)."""
    problem = Problem(
        DECISIONS,
        costs=lambda codes: np.abs(codes[:, 0] + codes[:, 1] - 2)[:, None],
        cost_names=("off",),
        limits={"off": 0},
    )
    controller, found = LocalSearch(Proposals(problem), 0, initial=1), []
    for _ in range(60):
        rows = controller.ask(1)
        controller.tell([Trial(row, (float(row[1] + row[2]),)) for row in rows])
        found += rows
    assert {row[:2] for row in found} == {(2, 0), (1, 1), (0, 2)}
