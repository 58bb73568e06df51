"""Shells: what stands around a token mixer besides a norm in front and a residual.

The bottleneck is that of ResNet (He et al., 2015), arXiv 1512.03385, figure 5: a 1x1 convolution to
fewer channels, the mixer, a 1x1 convolution to all of them, and an activation behind the sum. With
attention inside it is the block of BoTNet (Srinivas et al., 2021, arXiv 2101.11605, figure 4) and
HaloNet (Vaswani et al., 2021, arXiv 2103.12731, section 4).
Differs from ResNet where asked for: a gate on the channels, behind the mixer or at the end; the
average-pooled shortcut of ResNet-D (He et al., 2018, arXiv 1812.01187, figure 2c); an activation on
the projected shortcut (BoTNet's code). The last norm starts at zero, as in the released code of
BoTNet, so that a new block is its shortcut.
Shapes: N images, C channels in, D channels out, M in the middle, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from space import cost, units
from space.blueprint import Blueprint, blueprint
from space.genes import Site
from space.residuals import ends_with
from space.settings import ACTIVATIONS
from space.slicing import Axis


class Bottleneck(nn.Module):
    """activation(shortcut(x) + gate(last_norm(expand(middle(inner(reduce(x))))))).

    (N, C, H, W) to (N, D, ceil(H / stride), ceil(W / stride)); `middle` is what stands behind
    `inner`: norm, activation, gate.
    """

    def __init__(
        self,
        reduce: nn.Module,
        inner: nn.Module,
        expand: nn.Module,
        activation: nn.Module,
        middle: nn.Module | None = None,
        last_norm: nn.Module | None = None,
        gate: nn.Module | None = None,
        shortcut: nn.Module | None = None,
    ):
        super().__init__()
        self.reduce = reduce
        self.inner = inner
        self.middle = middle or nn.Identity()
        self.expand = expand
        self.last_norm = last_norm or nn.Identity()
        self.gate = gate or nn.Identity()
        self.shortcut = shortcut or nn.Identity()
        self.activation = activation
        if last_norm is not None:
            nn.init.zeros_(last_norm.get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle(self.inner(self.reduce(x)))
        y = self.gate(self.last_norm(self.expand(y)))
        return self.activation(self.shortcut(x) + y)


ends_with(Bottleneck, "gate")


class EfficientChannelAttention(nn.Module):
    """Gates each channel by the means of a few channels beside it: (N, C, H, W) to the same.

    Source: ECA-Net (Wang et al., 2020), arXiv 1910.03151, section 3.2.
    """

    def __init__(self, kernel: int):
        super().__init__()
        self.convolution = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3))[:, None]
        return x * self.convolution(means).sigmoid().mT.unsqueeze(3)


def efficient_channel_attention(channels: int) -> Blueprint:
    """Kernel of 3 or more, odd, from (log2 C + 1) / 2 (ECA-Net, equation 12)."""
    kernel = int((math.log2(channels) + 1) / 2)
    kernel = max(3, kernel if kernel % 2 else kernel + 1)
    counted = cost.convolution(channels, channels, 1, 1, taps=kernel, bias=False)
    return blueprint(EfficientChannelAttention, kernel, cost=counted)


def squeeze_excite(channels: int, ratio: float, activation: str) -> Blueprint:
    """Squeeze-excite with a sigmoid, to the multiple of 8 nearest to `ratio * channels`."""
    squeezed = max(8, int(ratio * channels + 4) // 8 * 8)
    return units.squeeze_excite(
        channels, squeezed, activation=ACTIVATIONS[activation], gate=nn.Sigmoid
    )


def middle_channels(site: Site, expansion: float) -> int:
    """Width of the middle of a bottleneck: `expansion` of what goes out."""
    return max(1, units.hidden_channels(site.channels, expansion))


def bottleneck(
    site: Site,
    *,
    inner: Callable[[Site], Blueprint],
    expansion: float,
    norm: str,
    activation: str,
    axis: Axis | None = None,
    middle_gate: Callable[[int], Blueprint] | None = None,
    squeeze_ratio: float = 0,
    shortcut: str = "convolution",
    shortcut_activation: bool = False,
) -> Blueprint:
    """A bottleneck at `site`, without biases.

    `inner` draws up the mixer, which has the stride, at a site of M -> M channels, M being
    `expansion` of the width that goes out. Where it gives channels that are cut as `axis`, or
    another number of them, `axis` says so. `middle_gate` draws up a gate on so many channels behind
    the mixer's norm and activation; `squeeze_ratio` puts squeeze-excite at the end. The shortcut
    is a 1x1 "convolution" and a norm, or an "average" pool and these, where width or resolution
    changes, with `shortcut_activation` behind it.
    """
    mid = middle_channels(site, expansion)
    given = axis.size if axis is not None else mid
    inside = Site(mid, mid, site.height, site.width, site.stride)
    gate = squeeze_excite(site.channels, squeeze_ratio, activation) if squeeze_ratio else None
    return blueprint(
        Bottleneck,
        reduce=units.sequence(
            units.linear(site.in_channels, mid, pixels=site.pixels, bias=False),
            units.norm(norm, mid),
            units.activation(activation),
        ),
        inner=inner(inside),
        middle=units.sequence(
            units.norm(norm, given, axis),
            units.activation(activation),
            middle_gate(given) if middle_gate is not None else None,
        ),
        expand=units.linear(
            given, site.channels, pixels=site.out_pixels, bias=False, input_axis=axis
        ),
        last_norm=units.norm(norm, site.channels),
        gate=gate,
        shortcut=_shortcut(site, norm, activation if shortcut_activation else "none", shortcut),
        activation=units.activation(activation),
    )


def _shortcut(site: Site, norm: str, activation: str, kind: str) -> Blueprint | None:
    if site.in_channels == site.channels and site.stride == 1:
        return None
    layers = [
        units.linear(site.in_channels, site.channels, pixels=site.out_pixels, bias=False),
        units.norm(norm, site.channels),
        units.activation(activation),
    ]
    if site.stride > 1 and kind == "average":
        layers.insert(0, blueprint(nn.AvgPool2d, site.stride, ceil_mode=True))
    elif site.stride > 1:  # a 1x1 convolution of that stride
        layers.insert(0, blueprint(nn.AvgPool2d, 1, site.stride))
    return units.sequence(*layers)
