"""Downsampling modules against their formulas, pixel by pixel, in float64."""

from __future__ import annotations

import pytest
import torch
from naive import (
    batch,
    convolution,
    gelu,
    held_against,
    linear,
    mean_pool,
    norm,
    squeeze_excite,
)

from space.downsampling.large_kernel import LargeKernel
from space.downsampling.pooled_projection import PooledProjection
from space.downsampling.space_to_depth import SpaceToDepthDsm
from space.genes import Site
from space.slicing import Cut, describe


def merged(x):
    """Swin's order: the pixel above left, below left, above right, below right; zeros outside."""
    channels, height, width = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    y = torch.zeros(4 * channels, rows, columns, dtype=x.dtype)
    for i in range(rows):
        for j in range(columns):
            for place, (down, right) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
                row, column = 2 * i + down, 2 * j + right
                if row < height and column < width:
                    y[place * channels : (place + 1) * channels, i, j] = x[:, row, column]
    return y


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 4), (3, 1)])
@pytest.mark.parametrize("kind", ["layer", "batch"])
@pytest.mark.parametrize("bias", [False, True])
def test_space_to_depth(height, width, kind, bias, randomise):
    def formula(x, p):
        return linear(norm(merged(x), p.at(1), kind), p.at(2), bias=bias)

    part = SpaceToDepthDsm(norm=kind, bias=bias)
    module = randomise(part.build(Site(6, 8, height, width, 2)))
    held_against(formula, module, torch.randn(2, 6, height, width))


def test_space_to_depth_at_stride_1_is_a_linear_layer(randomise):
    module = randomise(SpaceToDepthDsm().build(Site(6, 8, 3, 4)))
    x = torch.randn(2, 6, 3, 4)
    held_against(lambda x, p: linear(norm(x, p.at(0), "layer"), p.at(1), bias=False), module, x)


def test_a_narrower_space_to_depth_takes_the_first_channels_of_each_pixel():
    """What a narrow map needs lies in four places of the weight of a wide one."""
    part, small, large = SpaceToDepthDsm(), Site(2, 3, 4, 4, 2), Site(5, 4, 4, 4, 2)
    cut = Cut.between(
        *(
            describe({"2.weight": (s.channels, 4 * s.in_channels)}, {"2.weight": w})["2.weight"]
            for s in (small, large)
            for w in [part.axes(s)["2.weight"]]
        )
    )
    weight = torch.arange(4 * 20.0).reshape(4, 20)
    columns = [5 * pixel + channel for pixel in range(4) for channel in range(2)]
    torch.testing.assert_close(cut(weight), weight[:3][:, columns], atol=0, rtol=0)


@pytest.mark.parametrize("site", [Site(6, 8, 5, 4, 2), Site(6, 8, 3, 4), Site(6, 6, 7, 7, 3)])
def test_pooled_projection(site, randomise):
    first = int(site.stride > 1)

    def formula(x, p):
        return batch(linear(mean_pool(x, site.stride), p.at(first), bias=False), p.at(first + 1))

    module = randomise(PooledProjection(norm="batch").build(site))
    held_against(formula, module, torch.randn(2, 6, site.height, site.width))


@pytest.mark.parametrize(
    ("channels", "groups"), [((4, 8), 4), ((6, 8), 2), ((5, 8), 1), ((4, 4), 4)], ids=str
)
@pytest.mark.parametrize("activate", ["last", "both"])
@pytest.mark.parametrize("squeeze_ratio", [0, 0.25])
def test_large_kernel(channels, groups, activate, squeeze_ratio, randomise):
    """As many groups as channels come in, or as divide both."""
    inputs, outputs = channels

    def formula(x, p):
        branches = p.at(0, "branches")
        y = sum(
            batch(
                convolution(x, branches.at(i, 0), stride=2, groups=groups, bias=False),
                branches.at(i, 1),
            )
            for i in range(2)
        )
        if squeeze_ratio:
            y = squeeze_excite(y, p.at(1))
        if activate == "both":
            y = gelu(y)
        branches = p.at(3, "branches")
        folded = batch(linear(y, branches.at(0, 0), bias=False), branches.at(0, 1))
        return gelu(folded + batch(y, branches.at(1)))

    part = LargeKernel(norm="batch", activate=activate, squeeze_ratio=squeeze_ratio)
    for height, width in ((5, 4), (2, 9)):
        module = randomise(part.build(Site(inputs, outputs, height, width, 2)))
        held_against(formula, module, torch.randn(2, inputs, height, width))
