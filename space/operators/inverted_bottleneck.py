"""Inverted bottleneck: 1x1 expand, depthwise k x k, squeeze-excite, 1x1 project, plus the input.

Source: MobileNetV2 (Sandler et al., 2018), arXiv 1801.04381, section 3.3; with squeeze-excite
MobileNetV3 (Howard et al., 2019), arXiv 1905.02244, section 5. `norm_first=True` is the DWConv
block of UniNet (Liu et al., 2022), arXiv 2207.05420, as its released code has it: a norm before
the expansion, a bias in the projection, and a last norm that starts at zero.
Differs from MobileNetV2: an activation of one's choice in place of ReLU6; where the width changes
the shortcut is UniNet's (3x3 max-pool and a 1x1 convolution) and not left out.
Shapes: N images, C channels in, D channels out, E = expansion * C, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from space import cost
from space.cost import Cost
from space.genes import Part, Site, choice, operator
from space.layers import Pointwise, SqueezeExcite
from space.settings import ACTIVATIONS, NORMS


class Expansion(nn.Module):
    """1x1 convolution to more channels, norm, activation; `norm_first` puts a norm in front."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        norm: type[nn.Module],
        activation: type[nn.Module],
        norm_first: bool,
    ):
        super().__init__()
        self.first_norm = norm(channels) if norm_first else nn.Identity()
        self.linear = Pointwise(channels, hidden, bias=False)
        self.norm = norm(hidden)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.linear(self.first_norm(x))))


class InvertedBottleneckBlock(nn.Module):
    """(N, C, H, W) to (N, D, H, W); without an expansion where `hidden == in_channels`."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        hidden: int,
        kernel: int,
        squeezed: int,
        norm: type[nn.Module],
        activation: type[nn.Module],
        norm_first: bool,
    ):
        super().__init__()
        self.expand: nn.Module = nn.Identity()
        if hidden != in_channels:
            self.expand = Expansion(in_channels, hidden, norm, activation, norm_first)
        self.depthwise = nn.Conv2d(
            hidden, hidden, kernel, padding=kernel // 2, groups=hidden, bias=False
        )
        self.norm = norm(hidden)
        self.activation = activation()
        self.squeeze_excite = SqueezeExcite(hidden, squeezed) if squeezed else nn.Identity()
        self.project = Pointwise(hidden, channels, bias=norm_first)
        self.last_norm = norm(channels)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != channels:
            pool = nn.MaxPool2d(3, stride=1, padding=1)
            self.shortcut = nn.Sequential(pool, Pointwise(in_channels, channels))
        nn.init.zeros_(self.last_norm.get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm(self.depthwise(self.expand(x))))
        y = self.last_norm(self.project(self.squeeze_excite(y)))
        return self.shortcut(x) + y


def squeezed_channels(hidden: int) -> int:
    """A quarter of `hidden`, rounded to a multiple of 8 that is not below 90% of it."""
    quarter = hidden // 4
    rounded = max(8, (quarter + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * quarter else rounded + 8


@operator("inverted_bottleneck")
@dataclass(frozen=True, slots=True, kw_only=True)
class InvertedBottleneck(Part):
    """Genes: `expansion` (E / C), `context` (side of the depthwise filter, pixels),
    `squeeze_excite`, `norm`, `activation`, `norm_first` (see above)."""

    module = InvertedBottleneckBlock

    expansion: int = choice(1, 2, 3, 4, 5, 6, 8, default=4)
    context: int = choice(3, 5, 7, 9, 11, 13)
    squeeze_excite: bool = choice(False, True)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)
    norm_first: bool = choice(False, True, default=True)

    def arguments(self, site: Site) -> dict[str, Any]:
        hidden = self.expansion * site.in_channels
        return {
            "in_channels": site.in_channels,
            "channels": site.channels,
            "hidden": hidden,
            "kernel": self.context,
            "squeezed": squeezed_channels(hidden) if self.squeeze_excite else 0,
            "norm": NORMS[self.norm],
            "activation": ACTIVATIONS[self.activation],
            "norm_first": self.norm_first,
        }

    def cost(self, site: Site) -> Cost:
        pixels, inputs, channels = site.pixels, site.in_channels, site.channels
        hidden = self.expansion * inputs
        total = cost.depthwise(pixels, pixels, hidden, taps=self.context**2, bias=False)
        total += cost.norm(hidden)
        total += cost.linear(pixels, hidden, channels, bias=self.norm_first)
        total += cost.norm(channels)
        if hidden != inputs:
            total += cost.linear(pixels, inputs, hidden, bias=False) + cost.norm(hidden)
            total += cost.norm(inputs) if self.norm_first else Cost()
        if self.squeeze_excite:
            squeezed = squeezed_channels(hidden)
            total += cost.linear(1, hidden, squeezed) + cost.linear(1, squeezed, hidden)
        if inputs != channels:
            total += cost.linear(pixels, inputs, channels)
        return total
