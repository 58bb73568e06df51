"""Comparisons against what can be counted by hand on small problems."""

from itertools import product

import numpy as np
import pytest

from search.compare import (
    Plan,
    Spread,
    Truth,
    compare,
    make_named,
    parse_names,
    play,
    settings_of,
    summary,
)
from search.controllers import CONTROLLERS
from search.problem import Problem
from search.proposals import Proposals
from space.decisions import PlainDecisions, Variable

SIDE = 6


class Grid:
    """(a, b) with 10 a + b in truth; the first look at a row adds noise of its own, the second
    takes as much away. Larger b costs more."""

    sign = 1.0
    observations = 2

    def __init__(self, two=False, **problem):
        variables = tuple(Variable(name, tuple(range(SIDE))) for name in "ab")
        costs = {
            "costs": lambda codes: codes[:, 1:] + 1.0,
            "cost_names": ("b",),
            "wanted_small": ("b",),
            "target": "b",
        }
        self.problem = Problem(
            PlainDecisions("grid", variables), **(costs if two else {}), **problem
        )
        self.two = two
        self.noise = np.random.default_rng(0).normal(0, 5, (SIDE, SIDE))
        self.looked = []
        self.truth = Truth(optimum=55.0, best=54.0, best_count=2)
        if two:
            # Beyond (0, 6) the front is (50 + b, b + 1): a step of 50 and five of height 1.
            self.truth = Truth(55.0, 54.0, 2, (0.0, -6.0), sum(50.0 + b for b in range(5)))

    def observe(self, row, times=0):
        self.looked.append((row, times))
        return (10 * row[0] + row[1] + (-1) ** times * float(self.noise[row]),)

    def judge(self, row):
        value = float(10 * row[0] + row[1])
        return (value, -(row[1] + 1.0)) if self.two else (value,)


class Listed:
    """Asks for rows in a given order, whatever is known of them."""

    def __init__(self, rows):
        self.rows, self.told = list(rows), []

    def ask(self, count):
        asked, self.rows = self.rows[:count], self.rows[count:]
        return asked

    def tell(self, trials):
        self.told += trials


def game_of(ground, rows, plan):
    controller = Listed(rows)
    game = play(ground, Proposals(ground.problem), lambda proposals, seed: controller, 0, plan)
    return game, controller


def test_measures_by_hand():
    ground = Grid()
    rows = [(0, 3), (5, 0), (2, 2), (5, 4), (1, 1)]
    ground.noise[:] = 0
    ground.noise[2, 2] = 100  # looks best, is not
    game, _ = game_of(ground, rows, Plan(5, marks=(1, 2, 3, 4)))
    assert game["chosen"] == [3, 50, 22, 22, 22]
    assert game["seen"] == [3, 50, 50, 54, 54]
    assert game["until"] == 4
    assert game["evaluated"] == 5


@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_asked_for_again_is_told_and_not_counted(batch):
    ground = Grid(key=lambda row: tuple(sorted(row)))
    rows = [(0, 1), (1, 0), (0, 1), (2, 2), (3, 1), (1, 3), (4, 4), (5, 5)]
    game, controller = game_of(ground, rows, Plan(4, batch=batch))
    assert [row for row, _ in ground.looked] == [(0, 1), (2, 2), (3, 1), (4, 4)]
    assert game["evaluated"] == 4
    if batch == 1:
        assert game["repeats"] == 3
        told = {trial.row: trial.values for trial in controller.told}
        assert told[1, 0] == told[0, 1]
        assert controller.rows == [(5, 5)]


def test_a_controller_that_has_nothing_left_ends_its_game():
    game, _ = game_of(Grid(), [(0, 1), (1, 1)], Plan(30, marks=(1, 10)))
    assert game["evaluated"] == 2
    assert game["seen"] == [1, 11, 11]
    assert game["until"] is None


def test_a_row_outside_the_limits_is_no_game():
    ground = Grid(two=True, limits={"b": 3.0})
    with pytest.raises(RuntimeError, match="outside the limits"):
        game_of(ground, [(0, 1), (1, 5)], Plan(2))


def test_confirmation_spends_the_end_of_the_budget_on_the_leaders():
    ground = Grid()
    ground.noise[:] = 0
    ground.noise[2, 2], ground.noise[3, 3] = 50, 30  # look like 72 and 63
    rows = [(0, 0), (4, 0), (3, 3), (2, 2), (0, 1), (5, 5)]
    game, _ = game_of(ground, rows, Plan(7, confirm=3))
    assert [row for row, times in ground.looked if times == 0] == rows[:4]
    # 72 falls to 22, 63 to 33, and 40 stays.
    assert [row for row, times in ground.looked if times == 1] == [(2, 2), (3, 3), (4, 0)]
    assert game["evaluated"] == 7
    assert game["chosen"][-1] == 40
    plain, _ = game_of(ground, rows[:4], Plan(4))
    assert plain["chosen"][-1] == 22


def test_confirmation_needs_something_to_look_at():
    ground = Grid()
    ground.observations = 1
    with pytest.raises(ValueError, match="at least two observed columns"):
        game_of(ground, [(0, 0), (1, 1)], Plan(2, confirm=1))


def test_hypervolume_is_the_share_of_the_true_front():
    ground = Grid(two=True)
    ground.noise[:] = 0
    front = [(5, b) for b in range(SIDE)]
    game, _ = game_of(ground, front, Plan(SIDE, marks=(1, 2)))
    assert game["hypervolume"][-1] == pytest.approx(1)
    assert game["hypervolume"][0] == pytest.approx(5 * 50 / ground.truth.area)
    assert game["hypervolume"][1] == pytest.approx((50 + 4 * 1 + 4 * 50) / ground.truth.area)
    ground.noise[0, 0] = 1000  # hides all others that cost as much or more
    game, _ = game_of(ground, [(0, 0), *front], Plan(3))
    assert game["front"][-1] == pytest.approx(0)
    assert game["hypervolume"][-1] > 0.9


def test_hypervolume_against_counting_cells():
    """The area as unit cells that some row dominates."""
    ground = Grid(two=True)
    rng = np.random.default_rng(3)
    rows = [tuple(map(int, row)) for row in rng.permutation(list(product(range(SIDE), repeat=2)))]
    game, _ = game_of(ground, rows[:9], Plan(9, marks=tuple(range(1, 9))))
    for count in range(1, 10):
        cells = sum(
            any(10 * a + b > x and b + 1 <= y for a, b in rows[:count])
            for x in range(55)
            for y in range(1, 6)
        )
        assert game["hypervolume"][count - 1] == pytest.approx(cells / ground.truth.area)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_every_controller_plays_and_the_same_seed_plays_the_same(name):
    games = []
    for two in (False, True, True):
        ground = Grid(two=two)
        make = lambda proposals, seed: make_named(name, proposals, seed)  # noqa: E731
        game = play(ground, Proposals(ground.problem), make, 3, Plan(20, batch=4))
        assert game["evaluated"] == 20
        assert len({row for row, _ in ground.looked}) == 20
        del game["seconds_a_suggestion"]
        games.append(game)
    assert games[1] == games[2]


def test_a_comparison_goes_on_where_it_stopped():
    ground, plan = Grid(), Plan(8)
    makers = {
        name: lambda proposals, seed, name=name: make_named(name, proposals, seed)
        for name in ("random", "evolution")
    }
    whole, part = {}, {}
    order = list(compare(ground, makers, 3, plan, whole, lambda: None))
    assert order == [(n, s) for s in range(3) for n in makers]

    def stop():
        if sum(map(len, part.values())) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(compare(ground, makers, 3, plan, part, stop))
    rest = list(compare(ground, makers, 3, plan, part, lambda: None))
    assert rest == order[4:]
    for games in (*whole.values(), *part.values()):
        for game in games:
            del game["seconds_a_suggestion"]
    assert part == whole
    assert settings_of(plan, {"table": "t"})["points"] == list(range(1, 9))


def test_spreads_against_the_textbook():
    spread = Spread.of([1.0, 2.0, 3.0, 4.0, None])
    assert (spread.count, spread.mean, spread.median) == (4, 2.5, 2.5)
    assert spread.error == pytest.approx(np.sqrt(5 / 3) / 2)
    # Of Student's t with 3 degrees of freedom the 97.5 % point is 3.182.
    assert spread.interval[1] - 2.5 == pytest.approx(3.182 * spread.error, rel=1e-3)
    assert Spread.of([7.0]).interval is None
    assert Spread.of([]).mean is None


def test_a_miss_is_later_than_everything():
    base = {"chosen": [1.0], "seen": [1.0], "evaluated": 5, "repeats": 0}
    games = [
        {**base, "until": until, "seconds_a_suggestion": 0.1} for until in (3, None, 1, None, None)
    ]
    times = summary({"x": games}, [5])["x"]["until"]
    assert (times["median"], times["misses"], times["quartiles"]) == (None, 3, [3, None])


def test_names_and_their_settings():
    text = "random, evolution(population=20, mutation=late),optuna:tpe(multivariate=true)"
    assert parse_names(text) == {
        "random": ("random", {}),
        "evolution(population=20,mutation=late)": (
            "evolution",
            {"population": 20, "mutation": "late"},
        ),
        "optuna:tpe(multivariate=true)": ("optuna:tpe", {"multivariate": True}),
    }


@pytest.mark.parametrize(
    ("text", "said"), [("", "no controller"), ("a(b", "must read"), ("a(b)", "'name=value'")]
)
def test_names_that_are_none(text, said):
    with pytest.raises(ValueError, match=said):
        parse_names(text)


def test_unknown_names_are_said_with_those_there_are():
    proposals = Proposals(Grid().problem)
    with pytest.raises(ValueError, match="unknown controller 'annealing'; there are") as error:
        make_named("annealing", proposals, 0)
    assert all(name in str(error.value) for name in (*CONTROLLERS, "optuna:"))
    with pytest.raises(ValueError, match="begin with optuna:"):
        make_named("other:tpe", proposals, 0)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"evaluations": 0}, "evaluations is 0"),
        ({"evaluations": 5, "batch": 0}, "batch is 0"),
        ({"evaluations": 5, "confirm": 5}, "confirm is 5"),
        ({"evaluations": 5, "marks": (6,)}, "mark 6"),
    ],
)
def test_plans_that_are_none(plan, said):
    with pytest.raises(ValueError, match=said):
        Plan(**plan)
