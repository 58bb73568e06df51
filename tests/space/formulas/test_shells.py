"""The bottleneck against ResNet's formula, pixel by pixel, in float64."""

from __future__ import annotations

import pytest
import torch
from naive import (
    Weights,
    batch,
    convolution,
    held_against,
    linear,
    mean_pool,
    relu,
    sigmoid,
    silu,
    squeeze_excite,
)
from torch import nn

from space import units
from space.blueprint import blueprint
from space.genes import Site
from space.operators.convolution import Convolution
from space.shells import bottleneck, efficient_channel_attention
from space.slicing import Grid

SITES = [Site(8, 8, 5, 4), Site(8, 16, 5, 4), Site(8, 16, 5, 7, 2), Site(8, 8, 4, 4, 2)]


def neighbours(x, p: Weights):
    """The ECA gate: each channel's mean with those beside it."""
    weight, means = p["convolution.weight"].flatten(), x.mean((1, 2))
    far = len(weight) // 2
    gates = torch.zeros_like(means)
    for c in range(len(means)):
        for offset in range(-far, far + 1):
            if 0 <= c + offset < len(means):
                gates[c] += weight[offset + far] * means[c + offset]
    return x * sigmoid(gates)[:, None, None]


def formula(site: Site, part: Convolution):
    activation = {"relu": relu, "silu": silu}[part.activation]
    mid = int(part.ratio * site.channels)
    groups = max(1, mid // part.group_width) if part.group_width else 1

    def block(x, p):
        y = linear(x, p.at("reduce", 0), bias=False)
        y = activation(batch(y, p.at("reduce", 1)))
        assert y.shape[0] == mid
        y = convolution(y, p.at("inner"), stride=site.stride, groups=groups, bias=False)
        y = activation(batch(y, p.at("middle", 0)))
        if part.gate == "squeeze_excite":
            y = squeeze_excite(y, p.at("middle", 2))
        if part.gate == "eca":
            y = neighbours(y, p.at("middle", 2))
        y = batch(linear(y, p.at("expand"), bias=False), p.at("last_norm"))
        if part.gate == "squeeze_excite_last":
            y = squeeze_excite(y, p.at("gate"), activation)
        return activation(shortcut(x, p.at("shortcut")) + y)

    def shortcut(x, p):
        if site.in_channels == site.channels and site.stride == 1:
            assert not p.names
            return x
        first = site.stride - 1
        if first and part.shortcut == "average":
            x = mean_pool(x, 2)
        else:
            x = x[:, :: site.stride, :: site.stride]
        y = batch(linear(x, p.at(first), bias=False), p.at(first + 1))
        return activation(y) if part.shortcut_activation else y

    return block


FORMS = [
    {"activation": "relu", "group_width": 0},
    {"activation": "silu", "group_width": 0, "gate": "squeeze_excite_last"},
    {"activation": "silu", "group_width": 0, "gate": "squeeze_excite", "ratio": 1},
    {"activation": "silu", "group_width": 8, "gate": "eca", "ratio": 2},
    {"activation": "relu", "group_width": 1, "shortcut": "average", "ratio": 0.5},
    {"activation": "silu", "group_width": 0, "shortcut_activation": True, "ratio": 0.75},
]


@pytest.mark.parametrize("genes", FORMS, ids=str)
@pytest.mark.parametrize("site", SITES, ids=str)
def test_is_its_formula(site, genes, randomise):
    part = Convolution(shell="bottleneck", norm="batch", expansion=0, **genes)
    module = randomise(part.build(site))
    held_against(formula(site, part), module, torch.randn(2, 8, site.height, site.width))


@pytest.mark.parametrize(
    ("channels", "kernel"), [(8, 3), (64, 3), (128, 5), (256, 5), (512, 5), (2048, 7), (1, 3)]
)
def test_a_gate_by_neighbours_looks_as_far_as_the_width_asks(channels, kernel):
    """The odd number next to (log2 C + 1) / 2, from ECA-Net's equation 12 and its code."""
    gate = efficient_channel_attention(channels)
    assert gate.build().convolution.kernel_size == (kernel,)
    assert gate.cost.params == kernel


@pytest.mark.parametrize(
    ("channels", "ratio", "squeezed"), [(2048, 1 / 16, 128), (64, 1 / 16, 8), (256, 1 / 16, 16)]
)
def test_a_gate_is_squeezed_to_a_multiple_of_eight(channels, ratio, squeezed):
    part = Convolution(
        shell="bottleneck",
        norm="batch",
        expansion=0,
        gate="squeeze_excite_last",
        squeeze_ratio=ratio,
    )
    with torch.device("meta"):
        module = part.build(Site(channels, channels, 2, 2))
    assert module.gate.reduce.out_features == squeezed


def test_a_new_block_is_its_shortcut():
    part = Convolution(shell="bottleneck", norm="batch", activation="relu", expansion=0)
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(part.build(Site(8, 8, 4, 4)).eval()(x), x.relu(), atol=0, rtol=0)


def test_the_mixer_may_give_another_width():
    seen = []

    def inner(site):
        seen.append(site)
        return units.sequence(
            blueprint(nn.MaxPool2d, 1, site.stride),
            units.linear(site.in_channels, 10, pixels=site.out_pixels),
        )

    shell = bottleneck(
        Site(8, 12, 6, 4, 2),
        inner=inner,
        expansion=0.5,
        norm="batch",
        activation="relu",
        axis=Grid(2, 5),
    )
    assert seen == [Site(6, 6, 6, 4, 2)]
    assert shell.axes["expand.weight"] == (12, Grid(2, 5))
    assert shell.axes["middle.0.weight"] == (Grid(2, 5),)
    assert shell.build()(torch.randn(2, 8, 6, 4)).shape == (2, 12, 3, 2)
