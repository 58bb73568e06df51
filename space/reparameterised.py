"""Branches that are trained side by side and could be folded into one convolution afterwards.

Source: MobileOne (Vasu et al., 2022), arXiv 2206.04040, section 3.1, with one k x k branch, as
FastViT (Vasu et al., 2023), arXiv 2303.14189, section 3, and MobileCLIP (2311.17049) have it. What
is built and counted here is the form that is trained.
"""

from __future__ import annotations

import math

from torch import nn

from space import units
from space.blueprint import Blueprint, blueprint
from space.layers import SumOf
from space.settings import NORMS

# What folds is a BatchNorm; without any norm a branch that is x itself would say nothing.
BRANCH_NORMS = tuple(name for name in NORMS if name != "none")


def convolution_norm(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    norm: str,
    pixels: int,
    out_pixels: int | None = None,
    stride: int = 1,
    groups: int = 1,
) -> Blueprint:
    """A convolution without bias and a norm."""
    if kernel == stride == groups == 1:
        made = units.linear(inputs, outputs, pixels=pixels, bias=False)
    else:
        made = units.convolution(
            inputs,
            outputs,
            kernel,
            pixels=pixels,
            out_pixels=out_pixels,
            stride=stride,
            groups=groups,
            bias=False,
        )
    return units.sequence(made, units.norm(norm, outputs))


def branches(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    norm: str,
    pixels: int,
    out_pixels: int | None = None,
    stride: int = 1,
    groups: int = 1,
) -> Blueprint:
    """The sum of a k x k convolution, a 1x1 convolution where k is more, and the map itself where
    it keeps its shape; each with its norm, and both convolutions in `groups`."""
    sum_of = [
        convolution_norm(
            inputs,
            outputs,
            side,
            norm=norm,
            pixels=pixels,
            out_pixels=out_pixels,
            stride=stride,
            groups=groups,
        )
        for side in ([kernel, 1] if kernel > 1 else [kernel])
    ]
    if inputs == outputs and stride == 1:
        sum_of += [found for found in [units.norm(norm, inputs)] if found is not None]
    return blueprint(SumOf, branches=tuple(sum_of))


def squeeze_excite(channels: int, ratio: float) -> Blueprint | None:
    """The gate behind the sum, to `ratio * channels` but at least 8, with ReLU and a sigmoid; None
    at ratio 0."""
    if not ratio:
        return None
    return units.squeeze_excite(channels, max(8, round(ratio * channels)), gate=nn.Sigmoid)


def per_channel_groups(inputs: int, outputs: int) -> int:
    """A group for each channel that comes in where the width that goes out is a multiple of it,
    otherwise as many as divide both."""
    return math.gcd(inputs, outputs)
