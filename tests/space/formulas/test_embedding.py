"""Embedding and release: what is added to the map and what is put beside it."""

from __future__ import annotations

import pytest
import torch

from space.genes import MAP, Flow, Site
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.network import build
from space.operators.attention import Attention
from space.operators.convolution import Convolution
from space.operators.embedding import Embedding
from space.operators.release import Release
from space.slicing import Cut, describe
from space.stems.convolution import ConvolutionStem

SITE = Site(6, 6, 4, 3)


def maps(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 6, 4, 3)


def test_a_position_is_added_to_each_pixel(randomise):
    module, x = randomise(Embedding().build(SITE)), maps()
    (position,) = module.parameters()
    y = module(x)
    for n, c, i, j in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        assert y[n, c, i, j] == x[n, c, i, j] + position[c, i, j]


@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("position", [False, True])
def test_tokens_are_the_same_beside_every_image(randomise, position, placed):
    part = Embedding(position=position, tokens=2, token_position=placed)
    module, x = randomise(part.build(SITE)), maps()
    y, tokens = module(x)
    own = dict(module.named_parameters())
    assert tokens.shape == (2, 6, 2, 1)
    assert part.gives(SITE) == Flow("tokens", 2)
    found = [w for name, w in own.items() if w.shape == (6, 2, 1)]
    assert len(found) == 1 + placed
    for image in tokens:
        torch.testing.assert_close(image, sum(found))
    added = [w for w in own.values() if w.shape == (6, 4, 3)]
    assert len(added) == position
    torch.testing.assert_close(y, x + added[0] if position else x)


def test_pairs_stand_beside_the_map(randomise):
    part = Embedding(position=False, pair_heads=3, kv_reduction=2)
    module, x = randomise(part.build(SITE)), maps()
    y, pairs = module(x)
    assert torch.equal(y, x)
    assert pairs.shape == (2, 3, 12, 4)  # 4 x 3 queries, 2 x 2 keys
    for image in pairs:
        assert torch.equal(image, module.get_parameter("table"))
    assert part.gives(SITE) == Flow("pair_bias", 3)
    assert part.cost(SITE).params == 3 * 12 * 4
    assert part.cost(SITE).macs == 0


def test_pairs_of_a_smaller_map_are_those_of_its_pixels():
    """Query (i, j) and key (k, l) have the same entry in both tables."""
    part, axes = Embedding(position=False, pair_heads=1, kv_reduction=2), {}
    for site in (SITE, Site(6, 6, 2, 3)):
        shape = tuple(part.build(site).get_parameter("table").shape)
        axes[site] = describe({"table": shape}, part.axes(site))["table"]
    large = torch.arange(12 * 4).reshape(1, 12, 4)
    small = Cut.between(axes[Site(6, 6, 2, 3)], axes[SITE])(large)
    for i, j, k, column in torch.cartesian_prod(*map(torch.arange, (2, 3, 1, 2))).tolist():
        assert small[0, 3 * i + j, 2 * k + column] == large[0, 3 * i + j, 2 * k + column]


@pytest.mark.parametrize(
    ("genes", "words"),
    [
        ({}, "the position is for a map of 4x3, not of 3x4"),
        ({"position": False, "pair_heads": 1}, "the pair bias is for a map of 4x3, not of 3x4"),
    ],
    ids=["position", "pairs"],
)
def test_it_belongs_to_one_map(genes, words):
    module = Embedding(**genes).build(SITE)
    with pytest.raises(ValueError, match=words):
        module(torch.randn(1, 6, 3, 4))


@pytest.mark.parametrize(
    ("genes", "words"),
    [
        ({"position": False}, "position, tokens and pair_heads are all off"),
        ({"tokens": 1, "pair_heads": 1}, "tokens is 1 and pair_heads 1"),
        ({"token_position": True}, "token_position is True, but makes no difference"),
        ({"kv_reduction": 2}, "kv_reduction is 2, but makes no difference"),
    ],
    ids=["nothing", "both", "token_position", "kv_reduction"],
)
def test_settings_that_make_no_sense_are_refused(genes, words):
    with pytest.raises(ValueError, match=words):
        Embedding(**genes)


@pytest.mark.parametrize("flow", [Flow("tokens", 1), Flow("pair_bias", 2)])
def test_release_lets_the_map_go_on_alone(flow):
    site = Site(6, 6, 4, 3, flow=flow)
    x = maps()
    assert Release().build(site)((x, torch.randn(1))) is x
    assert Release().gives(site) == MAP


def genome(*blocks) -> Genome:
    return Genome(
        resolution=8,
        stem=ConvolutionStem(channels=6),
        stages=(Stage(channels=6, blocks=blocks),),
        head=PooledHead(),
        classes=5,
    )


def test_what_stands_beside_the_map_passes_by_a_convolution():
    """Blocks that know nothing of a table or tokens stand between those that do."""
    shared = Attention(position="shared", heads=2, head_dim=3)
    local = Convolution(expansion=0)
    pairs = Embedding(position=False, pair_heads=2)
    for made in (
        genome(pairs, local, shared, local, shared, Release(), local),
        genome(Embedding(tokens=1), local, Attention(), local),
    ):
        network = build(made).eval()
        assert network(torch.randn(2, 3, 8, 8)).shape == (2, 5)
        assert sum(w.numel() for w in network.parameters()) == made.cost().params


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ((Release(),), "release takes tokens or pair_bias, but map comes in"),
        ((Embedding(tokens=1), Embedding()), "embedding takes map, but tokens comes in"),
        ((Embedding(position=False, pair_heads=2),), "pooled takes map or tokens, but pair_bias"),
    ],
    ids=["release", "twice", "head"],
)
def test_what_comes_in_beside_the_map_is_checked(blocks, words):
    with pytest.raises(ValueError, match=words):
        genome(*blocks)
