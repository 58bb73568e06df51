"""All scores on networks of all spaces: finite, repeatable, and without a trace in the network."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from evaluator.zero_cost import (
    AZ_NAS,
    SCORES,
    fresh_network,
    log_rank_sum,
    score_names,
    zero_cost_scores,
)
from evaluator.zero_cost.az_nas import az_nas_parts
from evaluator.zero_cost.registry import score
from evaluator.zero_cost.shared import ACTIVATION_LAYERS
from space.files import load_space, shipped_spaces
from space.layers import LayerScale
from space.network import build

EVERY = {"macs", "params", "naswot", "synflow", "zico", "swap", "dss", *AZ_NAS}


def genome(name="unified", seed=0):
    space = load_space(name).scaled(width=0.125, resolution=32, classes=10)
    return space.decode(space.sample_codes(np.random.default_rng(seed), 1)[0])


def batch(genome, count=12):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, genome.resolution, genome.resolution, generator=generator)
    return images, torch.randint(0, genome.classes, (count,), generator=generator)


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_score_is_finite(name):
    network = genome(name)
    found = zero_cost_scores(network, score_names(), *batch(network), seed=0)
    assert set(found) == EVERY
    assert all(type(value) is float and math.isfinite(value) for value in found.values()), found


def test_names():
    assert set(score_names()) == EVERY | {"az_nas"}
    assert set(SCORES) == EVERY - {"az_nas_complexity"}
    wanted = genome()
    found = zero_cost_scores(wanted, ["swap", "az_nas"], *batch(wanted), seed=0)
    assert list(found) == ["swap", *AZ_NAS]


def test_same_seed_same_scores():
    wanted = genome()
    state = torch.random.get_rng_state()
    first = zero_cost_scores(wanted, score_names(), *batch(wanted), seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)
    again = zero_cost_scores(wanted, score_names(), *batch(wanted), seed=3)
    assert first == again
    other = zero_cost_scores(wanted, score_names(), *batch(wanted), seed=4)
    changed = {name for name in first if first[name] != other[name]}
    assert changed == EVERY - {"macs", "params", "az_nas_complexity"}


def test_the_order_of_scores_changes_none():
    """Each works on a copy of its own."""
    wanted = genome("uninet")
    names = ["synflow", "zico", "naswot", "dss", "swap", "az_nas"]
    forward = zero_cost_scores(wanted, names, *batch(wanted), seed=0)
    assert zero_cost_scores(wanted, names[::-1], *batch(wanted), seed=0) == forward


@pytest.mark.parametrize("name", sorted({*SCORES, "az_nas"}))
@pytest.mark.parametrize("training", [True, False])
def test_the_network_stays_as_it_is(name, training):
    """Weights, gradients, buffers, hooks, modes, and what can take a gradient; `uninet` has
    BatchNorm. A caller without gradients gets the same score."""
    wanted = genome("uninet")
    network = build(wanted).train(training)
    network.stem.eval()
    images, labels = batch(wanted)
    nn.functional.cross_entropy(network(images), labels).backward()
    frozen = next(network.head.parameters()).requires_grad_(False)
    calls = []
    network.head.register_forward_hook(lambda *_: calls.append(1))

    def state():
        return (
            {key: value.clone() for key, value in network.state_dict().items()},
            {key: p.grad.clone() for key, p in network.named_parameters() if p.grad is not None},
        )

    def shape():
        return [
            (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m))
            for m in network.modules()
        ]

    before, before_shape = state(), shape()
    found = zero_cost_scores(wanted, [name], images, labels, seed=0, network=network)
    after = state()
    for old, new in zip(before, after, strict=True):
        assert list(old) == list(new)
        assert all(torch.equal(old[key], new[key]) for key in old)
    assert shape() == before_shape
    assert not frozen.requires_grad
    assert images.grad is None
    assert not images.requires_grad
    with torch.no_grad():
        assert zero_cost_scores(wanted, [name], images, labels, seed=0, network=network) == found


@pytest.mark.parametrize("name", ["unified", "uninet"])
def test_sizes_are_those_of_a_trace(name):
    wanted = genome(name)
    network, (images, labels) = fresh_network(wanted, seed=0), batch(wanted)
    found = zero_cost_scores(
        wanted, ["macs", "params", "az_nas_complexity"], images, labels, seed=0
    )
    for size in ("macs", "params"):
        assert SCORES[size](network, images, labels) == found[size]
    assert found["az_nas_complexity"] == found["macs"]


def test_sizes_alone_build_nothing(monkeypatch):
    monkeypatch.setattr("evaluator.zero_cost.scores.build", None)
    wanted = genome()
    zero_cost_scores(wanted, ["macs", "params", "az_nas_complexity"], *batch(wanted), seed=0)


def test_nothing_in_a_fresh_network_is_closed():
    """Its other weights are those that `build` draws first: what was closed is drawn behind."""
    wanted = genome("uninet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = build(wanted)
    fresh = fresh_network(wanted, seed=0)
    opened = 0
    for plain, layer in zip(built.modules(), fresh.modules(), strict=True):
        weight = getattr(layer, "weight", None)
        if isinstance(layer, LayerScale):
            assert torch.equal(weight, torch.ones_like(weight))
        elif weight is not None:
            assert weight.any()
            if plain.weight.any():
                assert torch.equal(plain.weight, weight)
            else:
                opened += 1
    assert opened
    assert any(isinstance(layer, LayerScale) for layer in fresh.modules())


def test_nan_does_not_pass():
    wanted = genome()
    network, (images, labels) = fresh_network(wanted, seed=0), batch(wanted)
    with torch.no_grad():
        next(network.parameters()).fill_(math.nan)
    for name in sorted(set(SCORES) - {"macs", "params"}):
        with pytest.raises(RuntimeError, match=r"not a number|not finite"):
            SCORES[name](network, images, labels)

    @score("always_nan")
    def always_nan(network, images, labels):
        return math.nan

    try:
        with pytest.raises(RuntimeError, match="always_nan is not a number"):
            SCORES["always_nan"](network, images, labels)
    finally:
        del SCORES["always_nan"]


def test_bad_requests():
    wanted = genome()
    images, labels = batch(wanted)
    with pytest.raises(ValueError, match="unknown score 'accuracy'; there are: az_nas, "):
        zero_cost_scores(wanted, ["macs", "accuracy"], images, labels, seed=0)
    with pytest.raises(ValueError, match=r"labels have the shape \(7,\)"):
        zero_cost_scores(wanted, ["swap"], images, labels[:7], seed=0)
    with pytest.raises(ValueError, match=r"labels have the shape \(7,\)"):
        az_nas_parts(fresh_network(wanted, seed=0), images, labels[:7])


def test_a_population():
    """What a search does with it: one table, one joined score for each network."""
    population = [genome(seed=seed) for seed in range(4)]
    found = [zero_cost_scores(g, ["swap", "macs"], *batch(g), seed=0) for g in population]
    joined = log_rank_sum({name: [each[name] for each in found] for name in found[0]})
    assert joined.shape == (4,)
    assert (joined <= 0).all()


def test_signs_are_those_of_every_activation():
    """The outputs of all registered activations are above zero just where their inputs are."""
    x = torch.linspace(-8, 8, 1001)
    for kind in ACTIVATION_LAYERS:
        assert torch.equal(kind()(x) > 0, x > 0)
