"""Policies are held against a space whose rows, with their conditions, can all be written down."""

from itertools import product

import numpy as np
import pytest
import torch

from search.policies import FactorisedPolicy, RecurrentPolicy
from search.ppo import PPO, clipped
from search.problem import Problem, Trial
from search.proposals import BAND, Proposals
from search.reinforce import Reinforce
from space.decisions import PlainDecisions, Variable
from space.files import make_space


@pytest.fixture(scope="module")
def space():
    """Two operators with genes of their own, and a second block that may not be there."""
    return make_space(
        {
            "name": "conditional",
            "resolution": [64, 96],
            "blocks": "free",
            "stem": {"convolution": {"channels": [8]}},
            "stages": [
                {
                    "channels": [8],
                    "depth": [1, 2],
                    "operators": {
                        "inverted_bottleneck": {"expansion": [1, 2, 4]},
                        "modulation": {"context": [3, 7]},
                    },
                }
            ],
            "head": {"pooled": {"features": [64]}},
        }
    )


@pytest.fixture(scope="module")
def every_row(space):
    rows = np.array(list(product(*(range(size) for size in space.cardinalities))), np.int64)
    rows = np.unique(space.canonical(rows), axis=0)
    assert len(rows) == space.size == 2 * (5 + 25)
    return rows


@pytest.fixture(scope="module")
def recurrent(space):
    policy = RecurrentPolicy(space, 16, torch.Generator().manual_seed(0), goals=2)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(20)  # far from uniform
    return policy


@pytest.fixture(scope="module", params=["recurrent", "factorised"])
def policy(space, recurrent, request):
    if request.param == "recurrent":
        return recurrent
    policy = FactorisedPolicy(space, goals=2)
    with torch.no_grad():
        policy.logits.normal_(generator=torch.Generator().manual_seed(0))
    return policy


@pytest.mark.parametrize("goal", [0, 1])
def test_probabilities_of_all_rows_add_up_to_one(policy, every_row, goal):
    goals = torch.full((len(every_row),), goal)
    log_probability, _ = policy(torch.from_numpy(every_row), goals)
    probability = log_probability.exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-5)
    assert probability.max() > 4 * probability.min()


def test_entropy_of_the_steps_is_that_of_the_rows(policy, every_row):
    """Chain rule: the mean over rows of the steps' entropies is the entropy of the rows."""
    with torch.no_grad():
        log_probability, entropy = policy(torch.from_numpy(every_row))
    probability = log_probability.exp()
    expected = -(probability * log_probability).sum()
    assert (probability * entropy).sum().item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("goal", [0, 1])
def test_rows_are_drawn_as_often_as_their_probability_says(policy, every_row, goal):
    drawn = policy.sample(20_000, torch.Generator().manual_seed(1), goal)
    index = {tuple(row): i for i, row in enumerate(every_row.tolist())}
    counts = np.bincount([index[tuple(row)] for row in drawn.tolist()], minlength=len(every_row))
    with torch.no_grad():
        goals = torch.full((len(every_row),), goal)
        found, _ = policy(torch.from_numpy(every_row), goals)
        expected = 20_000 * found.double().exp().numpy()
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < len(every_row) + 5 * np.sqrt(2 * len(every_row))


def test_a_variable_that_does_not_matter_has_no_part(policy, space, every_row):
    """Noise in inactive variables changes nothing, as the policy takes no step there."""
    noise = np.random.default_rng(0).integers(0, space.cardinalities, every_row.shape)
    noisy = np.where(space.active(every_row), every_row, noise)
    assert (noisy != every_row).any()
    with torch.no_grad():
        for one, other in zip(
            policy(torch.from_numpy(every_row)), policy(torch.from_numpy(noisy)), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_probability_by_the_definition(recurrent, space, every_row):
    """One row at a time, one step for each variable that matters and none for the others."""
    sizes = [int(size) for size in space.cardinalities]
    with torch.no_grad():
        found = recurrent(torch.from_numpy(every_row))[0]
        for row, active, log_probability in zip(
            every_row, space.active(every_row), found, strict=True
        ):
            state, inputs, expected = None, recurrent.embedding.weight[-2], 0.0
            for v in np.flatnonzero(active):
                state = recurrent.cell(inputs, state)
                start = sum(sizes[:v])
                logits = recurrent.logits(state[0])[start : start + sizes[v]]
                expected += (2.5 * torch.tanh(logits / 5)).softmax(0)[row[v]].log()
                inputs = recurrent.embedding.weight[start + row[v]]
            assert log_probability.item() == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("goal", [0, 1])
def test_probability_of_a_factorised_policy_by_the_definition(space, every_row, goal):
    policy = FactorisedPolicy(space, goals=2)
    assert torch.equal(policy.logits, torch.zeros_like(policy.logits))
    with torch.no_grad():
        policy.logits.normal_(generator=torch.Generator().manual_seed(0))
        found = policy(torch.from_numpy(every_row), torch.full((len(every_row),), goal))[0]
    logits = policy.logits[goal].detach()
    for row, active, log_probability in zip(
        every_row, space.active(every_row), found.detach(), strict=True
    ):
        expected = sum(
            float(logits[v, : space.cardinalities[v]].softmax(0)[row[v]].log())
            for v in np.flatnonzero(active)
        )
        assert log_probability.item() == pytest.approx(expected, abs=1e-5)


def test_logits_are_bounded(space):
    """2.5 tanh: of two choices one is at most e^5 times as likely as the other."""
    policy = RecurrentPolicy(space, 8, torch.Generator().manual_seed(0))
    rows = torch.zeros(2, len(space.variables), dtype=torch.int64)
    rows[1, 0] = 1
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        policy.logits.bias[:2] = torch.tensor([-1e4, 1e4])
        low, high = policy(rows)[0]
    assert float(high - low) == pytest.approx(5, abs=1e-3)


@pytest.mark.parametrize("policy", ["factorised", "recurrent"])
@pytest.mark.parametrize("learner", [Reinforce, PPO])
@pytest.mark.parametrize("replay", [0.0, 1.0])
def test_rewards_move_the_policy(wide, target, learner, policy, replay):
    """After a tell the best network of a batch is more likely than before, beside the worst: by
    the policy gradient alone, and with the replay."""
    settings = {"rollout": 8} if learner is PPO else {}
    controller = learner(
        wide,
        0,
        policy=policy,
        hidden=16,
        pool=64,
        entropy=0,
        replay=replay,
        at_budget=1,
        **settings,
    )
    trials = target(wide).trials(controller.ask(8))
    assert (wide.use(np.array([trial.row for trial in trials])) >= BAND).all()
    trials.sort(key=lambda trial: trial.values)
    ends = torch.tensor([trials[0].row, trials[-1].row])
    goal = torch.full((2,), len(controller._goals) - 1)  # the whole budget

    def lead():
        with torch.no_grad():
            worst, best = controller._policy(ends, goal)[0]
        return float(best - worst)

    before = lead()
    controller.tell(trials)
    assert lead() > before


def test_the_replay_alone_makes_the_best_likely():
    """Gradients of the trials aside: the policy comes near the weights exp(-rank / queue)."""
    decisions = PlainDecisions("one", (Variable("gene", tuple(range(5))),))
    controller = Reinforce(
        Proposals(Problem(decisions)), 0, entropy=0, queue=1, steps=400, learning_rate=0.05
    )
    controller._learn = lambda *_: None
    controller.tell([Trial((code,), (float(code),)) for code in range(5)])
    with torch.no_grad():
        found = controller._policy(torch.arange(5)[:, None])[0].exp()
    expected = np.exp(-np.arange(4)) / np.exp(-np.arange(4)).sum()  # behind 4 queues is nothing
    assert found[4].item() == pytest.approx(expected[0], abs=0.02)
    assert found[3].item() == pytest.approx(expected[1], abs=0.02)
    assert found[0].item() < 0.02


def test_entropy_keeps_the_policy_spread():
    def certainty(entropy):
        decisions = PlainDecisions("one", (Variable("gene", tuple(range(3))),))
        controller = Reinforce(Proposals(Problem(decisions)), 0, entropy=entropy, steps=100)
        controller.tell([Trial((code,), (float(code == 2),)) for code in range(3)])
        return controller._policy(torch.tensor([[2]]))[0].exp().item()

    assert certainty(0.0) > certainty(10.0)
    assert certainty(10.0) == pytest.approx(1 / 3, abs=0.1)


def test_ppo_by_hand():
    """Equation 7: gains are cut where the ratio has gone far enough, losses never."""
    ratio = torch.tensor([1.0, 1.5, 1.5, 0.5, 0.5])
    advantages = torch.tensor([2.0, 1.0, -1.0, 1.0, -1.0])
    expected = torch.tensor([2.0, 1.2, -1.5, 0.5, -0.8])
    torch.testing.assert_close(clipped(ratio.log(), advantages, 0.2), expected)


def test_ppo_waits_for_its_rollout(wide, target):
    controller = PPO(wide, 0, rollout=6, replay=0, at_budget=1)
    trials = target(wide).trials(controller.ask(8))
    before = controller._policy.logits.clone()
    controller.tell(trials[:5])
    assert torch.equal(controller._policy.logits, before)
    controller.tell(trials[5:])
    assert not torch.equal(controller._policy.logits, before)
    assert len(controller._codes) == 0


def test_the_baseline_is_a_moving_average(wide):
    controller = Reinforce(wide, 0, hidden=4, decay=0.5)
    first = controller._advantages([0.4, 0.6])  # starts at their mean, 0.5, deviation 0.1
    assert first == pytest.approx([-1, 1], rel=1e-5)
    # Deviations from 0.5 squared: 0.01 and 0.09; variance 0.5 * 0.01 + 0.5 * 0.05 = 0.03.
    second = controller._advantages([0.6, 0.8])
    assert second == pytest.approx([0.1 / 0.03**0.5, 0.3 / 0.03**0.5], rel=1e-5)
    assert controller._moments == pytest.approx([0.6, 0.03])


def test_equal_rewards_are_no_trouble(wide):
    controller = Reinforce(wide, 0, hidden=4)
    assert controller._advantages([0.5, 0.5]) == [0, 0]


@pytest.mark.parametrize("kind", ["factorised", "recurrent"])
def test_nothing_global_is_touched(wide, target, monkeypatch, kind):
    """Neither the global generators nor the number of threads, which is 1 meanwhile."""
    policy = {"factorised": FactorisedPolicy, "recurrent": RecurrentPolicy}[kind]
    threads, seen = torch.get_num_threads(), []
    for method in ("sample", "forward"):
        monkeypatch.setattr(policy, method, _noting(getattr(policy, method), seen))
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    try:
        torch.set_num_threads(2)
        controller = Reinforce(wide, 7, policy=kind, hidden=16, pool=64, initial=8)
        for _ in range(2):
            controller.tell(target(wide).trials(controller.ask(8)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert set(seen) == {1}
    assert len(seen) >= 4
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


def _noting(method, seen):
    def noting(*args):
        seen.append(torch.get_num_threads())
        return method(*args)

    return noting
