import numpy as np
import pytest

from search.evolution import PERIOD, RegularizedEvolution, tournament
from search.problem import Trial
from search.proposals import BAND
from search.records import Records
from search.state import pack, unpack

ONE = np.ones(1)


def records(proposals, *scores_and_uses):
    """Of networks that use about so much of the budget."""
    found, rng, rows = Records(proposals), np.random.default_rng(0), []
    for score, use in scores_and_uses:
        row = next(r for r in proposals.sample(rng, 500, use - 0.05, use).tolist() if r not in rows)
        rows.append(row)
        found.add([Trial(tuple(row), (score,))])
    return found


@pytest.mark.parametrize("size", [1, 3, 10])
def test_a_tournament_is_won_as_often_as_its_size_says(toy, size):
    """The best of n is drawn at least once in S draws with probability 1 - (1 - 1/n)^S."""
    members, rng = records(toy, *((k, 1.0) for k in range(10))), np.random.default_rng(0)
    wins = np.mean([tournament(members, size, 1, ONE, rng) == 9 for _ in range(2000)])
    expected = 1 - 0.9**size
    assert wins == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 2000))


def test_tournaments_for_smaller_networks(toy):
    """For a slice the reward is that of a budget of that size: score - 0.1 |ratio - 1|."""
    members = records(toy, (0.70, 1.0), (0.68, 0.5))
    large, small = members.worth(1, ONE)
    assert large > small
    large, small = members.worth(0.5, ONE)
    assert large < small
    assert large == pytest.approx(0.70 - 0.1 * (members.use[0] / 0.5 - 1))
    assert small == pytest.approx(0.68 - 0.1 * (1 - members.use[1] / 0.5))


def parents_and_children(propose, population, tell):
    """Two networks, told as `tell` says, and what is proposed at the budget after them."""
    proposals = propose("wide", "2GFLOPs")
    controller = RegularizedEvolution(
        proposals, 0, population=population, tournament=20, initial=2, crossover=0, at_budget=1
    )
    rows = controller.ask(1)
    other = proposals.sample(np.random.default_rng(1), 1, BAND)[0]
    rows += controller.ask(1) if population > 1 else [tuple(map(int, other))]
    for trials in tell(*rows):
        controller.tell(trials)
    return np.array(rows), np.array(controller.ask(4))


def assert_alike(children, parent, other):
    """All are much nearer to the one than to the other (a mutation may bring genes to life)."""
    near = max((child != parent).sum() for child in children)
    far = min((child != other).sum() for child in children)
    assert 3 * near < far


def test_children_are_mutants_of_the_winner(propose):
    (a, b), children = parents_and_children(
        propose, 2, lambda a, b: [[Trial(a, (0.9,)), Trial(b, (0.1,))]]
    )
    assert_alike(children, a, b)


def test_a_failed_network_is_no_parent(propose):
    (a, b), children = parents_and_children(
        propose, 2, lambda a, b: [[Trial(a, None), Trial(b, (0.5,))]]
    )
    assert_alike(children, b, a)


def test_the_oldest_leaves_however_good_it_is(propose):
    (a, b), children = parents_and_children(
        propose, 1, lambda a, b: [[Trial(a, (0.9,))], [Trial(b, (0.1,))]]
    )
    assert_alike(children, b, a)


def test_crossover_mixes_both_winners(toy, target):
    controller = RegularizedEvolution(toy, 0, population=2, tournament=1, crossover=1, at_budget=1)
    rows = controller.ask(2)
    controller.tell(target(toy).trials(rows))
    children = np.array(controller.ask(30))
    mixed = (children != np.array(rows[0])).sum(1) > 1
    assert (mixed & ((children != np.array(rows[1])).sum(1) > 1)).any()
    assert (toy.use(children) >= BAND).sum() >= 25


class Noting:
    """Proposals that note how mutants were asked for."""

    def __init__(self, proposals):
        self._proposals, self.late = proposals, []

    def mutate(self, *arguments, late):
        self.late.append(late)
        return self._proposals.mutate(*arguments, late=late)

    def __getattr__(self, name):
        return getattr(self._proposals, name)


def order_of_asks(proposals, target, mutation, asks, resume):
    """Whether each ask for children was for late ones; with `resume`, each by a new controller."""
    noting, scores, state, orders = Noting(proposals), target(proposals), None, []
    for _ in range(asks):
        if state is None or resume:
            controller = RegularizedEvolution(noting, 1, population=4, initial=4, mutation=mutation)
        if state is not None and resume:
            controller.load_state_dict(unpack(state))
        noting.late.clear()
        controller.tell(scores.trials(controller.ask(4)))
        state = pack(controller.state_dict())
        assert len(set(noting.late)) <= 1  # all attempts of an ask are alike
        orders += noting.late[:1]
    return orders


@pytest.mark.parametrize("resume", [False, True])
def test_every_fourth_ask_for_children_is_uniform(wide, target, resume):
    """The first ask is for random networks."""
    assert PERIOD == 4
    orders = order_of_asks(wide, target, "late", 10, resume)
    assert orders == [True, True, True, False, True, True, True, False, True]
    assert not any(order_of_asks(wide, target, "uniform", 10, resume))


def test_an_ask_that_ends_the_first_networks_counts(wide, target):
    noting = Noting(wide)
    controller = RegularizedEvolution(noting, 0, population=6, initial=6, mutation="late")
    for _ in range(2):
        controller.tell(target(wide).trials(controller.ask(4)))
    assert controller.state_dict()["child_asks"] == 1


def test_the_default_keeps_what_it_always_kept(toy):
    state = RegularizedEvolution(toy, 0).state_dict()
    assert set(state) == {"rng", "asking", "asked", "members"}


def test_late_children_begin_as_their_mother_for_longer(propose, target):
    """On average over the asks, at the budget and below it."""
    proposals = propose("wide", "2GFLOPs")
    kept = {}
    for mutation in ("uniform", "late"):
        controller, scores, shares = (
            RegularizedEvolution(proposals, 0, population=16, tournament=4, mutation=mutation),
            target(proposals),
            [],
        )
        known = np.empty((0, len(proposals.decisions.variables)), np.int64)
        for _ in range(15):
            found = controller.ask(16)
            controller.tell(scores.trials(found))
            for row in np.array(found):
                if len(known) >= 16:
                    shares.append(np.cumprod(known == row, axis=1).sum(axis=1).max() / len(row))
                known = np.concatenate([known, row[None]])
        kept[mutation] = np.mean(shares)
    assert kept["late"] > kept["uniform"] + 0.03
