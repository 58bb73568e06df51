"""The policy is held against a space whose rows, with their conditions, can all be written down."""

from itertools import product

import numpy as np
import pytest
import torch

from search.proposals import BAND
from search.reinforce import Policy, Reinforce
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
def policy(space):
    policy = Policy(space, 16, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(20)  # far from uniform
    return policy


def test_probabilities_of_all_rows_add_up_to_one(policy, every_row):
    log_probability, _ = policy(torch.from_numpy(every_row))
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


def test_rows_are_drawn_as_often_as_their_probability_says(policy, every_row):
    drawn = policy.sample(20_000, torch.Generator().manual_seed(1))
    index = {tuple(row): i for i, row in enumerate(every_row.tolist())}
    counts = np.bincount([index[tuple(row)] for row in drawn.tolist()], minlength=len(every_row))
    with torch.no_grad():
        expected = 20_000 * policy(torch.from_numpy(every_row))[0].double().exp().numpy()
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


def test_probability_by_the_definition(policy, space, every_row):
    """One row at a time, one step for each variable that matters and none for the others."""
    sizes = [int(size) for size in space.cardinalities]
    with torch.no_grad():
        found = policy(torch.from_numpy(every_row))[0]
        for row, active, log_probability in zip(
            every_row, space.active(every_row), found, strict=True
        ):
            state, inputs, expected = None, policy.embedding.weight[-1], 0.0
            for v in np.flatnonzero(active):
                state = policy.cell(inputs, state)
                start = sum(sizes[:v])
                logits = policy.logits(state[0])[start : start + sizes[v]]
                expected += (2.5 * torch.tanh(logits / 5)).softmax(0)[row[v]].log()
                inputs = policy.embedding.weight[start + row[v]]
            assert log_probability.item() == pytest.approx(float(expected), abs=1e-5)


def test_logits_are_bounded(space):
    """2.5 tanh: of two choices one is at most e^5 times as likely as the other."""
    policy = Policy(space, 8, torch.Generator().manual_seed(0))
    rows = torch.zeros(2, len(space.variables), dtype=torch.int64)
    rows[1, 0] = 1
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        policy.logits.bias[:2] = torch.tensor([-1e4, 1e4])
        low, high = policy(rows)[0]
    assert float(high - low) == pytest.approx(5, abs=1e-3)


def test_rewards_move_the_policy(wide, target):
    """After a step the best network of a batch is more likely than before, beside the worst."""
    controller, scores = (
        Reinforce(wide, 0, hidden=16, pool=64, entropy=0, at_budget=1),
        target(wide),
    )
    results = scores.results(controller.ask(8))
    assert all(wide.budget.use(result.cost) >= BAND for result in results)
    results.sort(key=lambda result: result.reward)
    ends = torch.from_numpy(
        np.stack([wide.space.encode(r.genome) for r in (results[0], results[-1])])
    )

    def lead():
        with torch.no_grad():
            worst, best = controller._policy(ends)[0]
        return float(best - worst)

    before = lead()
    controller.tell(results)
    assert lead() > before


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


def test_nothing_global_is_touched(wide, target, monkeypatch):
    """Neither the global generators nor the number of threads, which is 1 meanwhile."""
    threads, seen, unroll = torch.get_num_threads(), [], Policy._unroll

    def watched(*args):
        seen.append(torch.get_num_threads())
        return unroll(*args)

    monkeypatch.setattr(Policy, "_unroll", watched)
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    try:
        torch.set_num_threads(2)
        controller = Reinforce(wide, 7, hidden=16, pool=64)
        controller.tell(target(wide).results(controller.ask(8)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert set(seen) == {1}
    assert len(seen) >= 2
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
