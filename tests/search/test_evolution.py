import numpy as np
import pytest

from evaluator.interfaces import Result
from search.evolution import PERIOD, RegularizedEvolution, _Member, tournament
from search.proposals import BAND
from search.state import pack, unpack


def member(reward, score=0.0, use=1.0):
    return _Member((0,), use, score, reward)


@pytest.mark.parametrize("size", [1, 3, 10])
def test_a_tournament_is_won_as_often_as_its_size_says(size):
    """The best of n is drawn at least once in S draws with probability 1 - (1 - 1/n)^S."""
    members, rng = [member(reward / 10) for reward in range(10)], np.random.default_rng(0)
    wins = np.mean([tournament(members, size, 1, rng) is members[-1] for _ in range(4000)])
    expected = 1 - 0.9**size
    assert wins == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 4000))


def test_tournaments_for_smaller_networks():
    """For a slice the reward is that of a budget of that size, by hand: score - 0.1 |ratio - 1|."""
    large, small = member(0.70, score=0.70, use=1.0), member(0.63, score=0.68, use=0.5)
    assert large.worth(1) > small.worth(1)
    assert large.worth(0.5) == pytest.approx(0.70 - 0.1)
    assert small.worth(0.5) == pytest.approx(0.68)


def parents_and_children(propose, population, tell):
    """Two networks, told as `tell` says, and what is proposed at the budget after them."""
    proposals = propose("wide", "2GFLOPs")
    controller = RegularizedEvolution(
        proposals, 0, population=population, tournament=20, crossover=0, at_budget=1
    )
    genomes = controller.ask(2)
    a, b = (Result(genome, genome.cost(), 0.5, 0.5) for genome in genomes)
    for results in tell(a, b):
        controller.tell(results)
    rows = [proposals.space.encode(genome) for genome in [*genomes, *controller.ask(4)]]
    return rows[:2], rows[2:]


def assert_alike(children, parent, other):
    """All are much nearer to the one than to the other (a mutation may bring genes to life)."""
    near = max((child != parent).sum() for child in children)
    far = min((child != other).sum() for child in children)
    assert 3 * near < far


def failed(result):
    return Result(result.genome, result.cost, error="broken")


def with_reward(result, reward):
    return Result(result.genome, result.cost, reward, reward)


def test_children_are_mutants_of_the_winner(propose):
    (a, b), children = parents_and_children(
        propose, 2, lambda a, b: [[with_reward(a, 0.9), with_reward(b, 0.1)]]
    )
    assert_alike(children, a, b)


def test_a_failed_network_is_no_parent(propose):
    (a, b), children = parents_and_children(propose, 2, lambda a, b: [[failed(a), b]])
    assert_alike(children, b, a)


def test_the_oldest_leaves_however_good_it_is(propose):
    (a, b), children = parents_and_children(
        propose, 1, lambda a, b: [[with_reward(a, 0.9)], [with_reward(b, 0.1)]]
    )
    assert_alike(children, b, a)


def test_crossover_mixes_both_winners(toy, target):
    controller = RegularizedEvolution(toy, 0, population=2, tournament=1, crossover=1, at_budget=1)
    parents = controller.ask(2)
    controller.tell(target(toy).results(parents))
    rows = np.stack([toy.space.encode(parent) for parent in parents])
    children = np.stack([toy.space.encode(child) for child in controller.ask(30)])
    mixed = (children != rows[0]).sum(1) > 1
    assert (mixed & ((children != rows[1]).sum(1) > 1)).any()
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
            controller = RegularizedEvolution(noting, 1, population=4, mutation=mutation)
        if state is not None and resume:
            controller.load_state_dict(unpack(state))
        noting.late.clear()
        controller.tell(scores.results(controller.ask(4)))
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
    controller = RegularizedEvolution(noting, 0, population=6, mutation="late")
    for _ in range(2):
        controller.tell(target(wide).results(controller.ask(4)))
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
        known = np.empty((0, len(proposals.space.variables)), np.int64)
        for _ in range(15):
            genomes = controller.ask(16)
            controller.tell(scores.results(genomes))
            rows = np.stack([proposals.space.encode(genome) for genome in genomes])
            for row in rows:
                if len(known) >= 16:
                    shares.append(np.cumprod(known == row, axis=1).sum(axis=1).max() / len(row))
                known = np.concatenate([known, row[None]])
        kept[mutation] = np.mean(shares)
    assert kept["late"] > kept["uniform"] + 0.03
