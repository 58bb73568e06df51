"""Stochastic depth against its formula, on every kind of residual module that there is."""

import numpy as np
import pytest
import torch
from torch import nn

from results.export import model_source
from space.files import make_space
from space.genes import Site, registered
from space.genome import Genome, Stage
from space.layers import LayerScale, Residual
from space.network import build
from space.presets import presets
from space.residuals import branch_ends
from supernet.stochastic_depth import StochasticDepth, linear

SPACE = {
    "name": "depth",
    "resolution": [16],
    "classes": 3,
    "stem": {"convolution": {"channels": [8], "norm": ["layer"]}},
    "stages": [
        {
            "channels": [8],
            "depth": [4],
            "downsampling": ["local_dsm"],
            "operators": {"attention": {"region": ["window"], "context": [4], "head_dim": [8]}},
        }
    ],
    "head": {"pooled": {"norm": ["layer"]}},
}


def genome() -> Genome:
    return make_space(SPACE).sample(np.random.default_rng(0))


def factors(rates, images, seed=0):
    """What each branch of each image is multiplied by: 1 / (1 - p) with probability 1 - p."""
    drawn = np.random.default_rng(seed).random((len(rates), images))
    return [
        [0.0 if value < rate else 1 / (1 - rate) for value in row]
        for rate, row in zip(rates, drawn, strict=True)
    ]


def test_a_network_equals_its_formula():
    """x + factor * branch(norm(x)), written out block by block and image by image."""
    torch.manual_seed(0)
    network = build(genome()).double()
    depth = StochasticDepth(genome(), 0.6)
    depth.attach(network)
    # A block has two branches, the attention and its MLP; of four blocks the first skips nothing.
    expected = [0.0, 0.0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6]
    assert depth.rates == pytest.approx(expected)
    images = torch.randn(5, 3, 16, 16, dtype=torch.float64)
    with depth.drawn(np.random.default_rng(0), 5, images.device):
        found = network(images)
    chosen = factors(depth.rates, 5)
    assert {value == 0 for row in chosen for value in row} == {True, False}
    for i in range(5):
        x = network.stages[0].downsample(network.stem(images[i : i + 1]))
        subs = [sub for block in network.stages[0].blocks for sub in (block.mixer, block.mlp)]
        for sub, row in zip(subs, chosen, strict=True):
            x = x + row[i] * sub.scale(sub.branch(sub.norm(x)))
        torch.testing.assert_close(found[i : i + 1], network.head(x))


def test_outside_of_a_step_nothing_is_skipped():
    torch.manual_seed(0)
    plain = build(genome())
    network = build(genome())
    network.load_state_dict(plain.state_dict())
    depth = StochasticDepth(genome(), 0.9)
    depth.attach(network)
    images = torch.randn(4, 3, 16, 16)
    for mode in (True, False):
        assert torch.equal(network.train(mode)(images), plain.train(mode)(images))
    with depth.drawn(np.random.default_rng(0), 4, images.device):
        assert not torch.equal(network(images), plain(images))
    assert torch.equal(network(images), plain(images))


def test_neither_state_dict_nor_source_know_of_it():
    network, before = build(genome()), model_source(genome(), "name", {})
    keys = list(network.state_dict())
    StochasticDepth(genome(), 0.5).attach(network)
    assert list(network.state_dict()) == keys
    assert model_source(genome(), "name", {}) == before
    for kind in ("rep_mixer", "split_attention", "attention"):
        with_it = Genome(
            resolution=16,
            stem=genome().stem,
            stages=(Stage(channels=8, blocks=(registered("operator")[kind](),)),),
            head=genome().head,
        )
        assert "ends_with" not in model_source(with_it, "name", {})


def test_the_mean_over_draws_is_the_whole_branch():
    """Of a linear network, where the mean goes through."""
    module = Residual(nn.Conv2d(2, 2, 1, bias=False), scale=LayerScale(2, 0.5))
    chain = genome().at(classes=3)
    depth = StochasticDepth(chain, 0.5)
    x = torch.randn(1, 2, 3, 3)
    (end,) = branch_ends(module)
    depth._rates = [0.5]
    end.register_forward_hook(depth._hook(0))
    with torch.no_grad(), depth.drawn(np.random.default_rng(0), 20_000, x.device):
        found = module(x.expand(20_000, -1, -1, -1)).mean(0)
    torch.testing.assert_close(found, module(x)[0].detach(), atol=0.03, rtol=0)


def test_rates_fall_linearly():
    assert linear(0.3, [1, 0, 2, 1]) == pytest.approx([0, 0.15, 0.15, 0.3])
    assert linear(0.3, [0, 2]) == [0.3, 0.3]
    assert linear(0.3, [0, 0]) == []


PLAIN = (
    *("attention", "inverted_bottleneck", "modulation", "rep_mixer", "split_attention"),
    *("token_mlp", "axis_mlp", "pooling_attention", "learned_query", "convolution", "pooling"),
)


@pytest.mark.parametrize("kind", PLAIN)
def test_without_its_branches_an_operator_is_its_shortcut(kind):
    torch.manual_seed(0)
    block = registered("operator")[kind]().build(Site(8, 8, 8, 8))
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    for end in branch_ends(block):
        end.register_forward_hook(lambda module, inputs, output: 0 * output)
    x = torch.randn(2, 8, 8, 8)
    torch.testing.assert_close(block(x), x)


SYSTEMS = {found.system: found for found in reversed(presets().values())}
WITHOUT = {"embedding", "release", "normalise"}  # open and close stages


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_block_of_published_networks_has_a_branch(system):
    found = SYSTEMS[system].genome
    with torch.device("meta"):
        network = build(found)
    for placed in found.parts():
        if ".blocks." in placed.path and placed.part.kind not in WITHOUT:
            assert list(branch_ends(network.get_submodule(placed.path))), placed.path
    depth = StochasticDepth(found, 0.1)
    depth.attach(network)
    assert depth.rates[0] == 0
    assert depth.rates[-1] == pytest.approx(0.1)


def test_rows_of_one_image_share_its_fate():
    """Windows, or pixels of patches, that stand in the batch as images of their own."""
    module = Residual(nn.Identity())
    depth = StochasticDepth(genome(), 0.5)
    depth._rates = [0.5]
    (end,) = branch_ends(module)
    end.register_forward_hook(depth._hook(0))
    with depth.drawn(np.random.default_rng(1), 6, torch.device("cpu")):
        y = module(torch.ones(18, 1, 1, 1)).flatten().view(6, 3)
    (row,) = factors([0.5], 6, seed=1)
    assert y.tolist() == [[1 + factor] * 3 for factor in row]
