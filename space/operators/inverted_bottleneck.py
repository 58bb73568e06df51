"""Inverted bottleneck: from C channels to more and back, with a convolution in the middle, in
front, or none at all, and one residual around it.

One operator for what is published under many names. `context=0` is the MLP of a transformer (ViT,
arXiv 2010.11929, section 3.1). A depthwise convolution in the middle is MobileNetV2's block
(Sandler et al., 2018, arXiv 1801.04381, section 3.3), with squeeze-excite MobileNetV3's
(arXiv 1905.02244, section 5), and with other norms, biases and an inner shortcut the feed-forward
layers of LocalViT (arXiv 2104.05707), CMT (2107.06263), FCViT, SMT (2307.08579) and MogaNet
(2211.03295); with groups it is Visformer's (2104.12533). A depthwise convolution in front is the
ConvNeXt block (Liu et al., 2022, arXiv 2201.03545, figure 3c) and FastViT's ConvFFN (2303.14189).
Differs from MobileNetV2: where the width or the resolution changes the shortcut is a pool and a 1x1
convolution, unless `shortcut` leaves it out. The last norm of a block with a shortcut starts at
zero (UniNet, LeViT).
Shapes: N images, C channels in, D channels out, E hidden channels, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from space import cost, units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, number, operator, whole
from space.layers import Pointwise
from space.settings import ACTIVATIONS, NORMS
from space.shared import CONTEXTS, LAYER_SCALES, no_stride, tokens_keep_width


class InvertedBottleneckBranch(nn.Module):
    """(N, C, H, W) to (N, D, H / stride, W / stride), in the order of the arguments."""

    def __init__(
        self,
        project: nn.Module,
        lead: nn.Module | None = None,
        norm: nn.Module | None = None,
        expand: nn.Module | None = None,
        mix: nn.Module | None = None,
        gate: nn.Module | None = None,
        last_norm: nn.Module | None = None,
        last_norm_start: float = 0.0,
    ):
        super().__init__()
        self.lead = lead or nn.Identity()
        self.norm = norm or nn.Identity()
        self.expand = expand or nn.Identity()
        self.mix = mix or nn.Identity()
        self.gate = gate or nn.Identity()
        self.project = project
        self.last_norm = last_norm or nn.Identity()
        if last_norm is not None:
            nn.init.constant_(last_norm.get_parameter("weight"), last_norm_start)

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(self.norm(self.lead(x)))
        return self.last_norm(self.project(self.gate(self.mix(x))))


class Sum(nn.Module):
    """x plus a branch of x."""

    def __init__(self, branch: nn.Module):
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class ChannelAggregation(nn.Module):
    """u + s * (u - activation(D u)), D to one channel: (N, E, H, W) to the same.

    Source: MogaNet (Li et al., 2022), arXiv 2211.03295, section 4.3.
    """

    def __init__(self, channels: int, activation: type[nn.Module]):
        super().__init__()
        self.reduce = Pointwise(channels, 1)
        self.activation = activation()
        self.scale = nn.Parameter(torch.full((channels,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale[:, None, None] * (x - self.activation(self.reduce(x)))


def squeezed_channels(hidden: int, ratio: float) -> int:
    """`ratio * hidden` as a multiple of 8, at least 8, that is not below 90% of it."""
    squeezed = units.hidden_channels(hidden, ratio)
    rounded = max(8, (squeezed + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * squeezed else rounded + 8


@operator("inverted_bottleneck")
@dataclass(frozen=True, slots=True, kw_only=True)
class InvertedBottleneck(Part):
    """Genes: `expansion` (E over the width that comes in, or goes out: `expansion_of`), `context`
    (side of the filter, pixels, 0 for no convolution), `convolution` (where it stands), `groups`
    (of its channels, 0 for as many as channels), `inner_shortcut` (adds the convolution to its
    input), `aggregation` (of channels, as MogaNet), `squeeze_excite`, `squeeze_style` ("hidden":
    from the hidden width, to a multiple of 8, with ReLU and hard sigmoid; "exact": the same, not
    rounded; "out": from the width that goes out, with SiLU and sigmoid), `squeeze_ratio`,
    `first_norm` (in front of the expansion), `norm` (behind expansion and convolution),
    `last_norm`, `activation`, `activate` (behind both, or the convolution only),
    `activation_first` (before the norms), `bias` (which layers have one), `layer_scale` (its start
    or None), `shortcut` (where width or resolution changes: a 3x3 max-pool or a 2x2 average pool,
    and a 1x1 convolution; or none), `stride_at` (where the stride is). An expansion of 1 in front
    of a convolution that keeps the width is no layer (MobileNetV2, UniNet)."""

    takes: ClassVar[tuple[str, ...]] = ("map", "tokens", "pair_bias")

    expansion: float = number(0.1, 32, default=4, examples=(1, 2, 3.6, 4))
    expansion_of: str = choice("in", "out")
    context: int = choice(0, *CONTEXTS, default=3)
    convolution: str = choice("middle", "first")
    groups: int = whole(0, 64, default=0)
    inner_shortcut: bool = choice(False, True)
    aggregation: bool = choice(False, True)
    squeeze_excite: bool = choice(False, True)
    squeeze_style: str = choice("hidden", "exact", "out")
    squeeze_ratio: float = number(0.001, 1, default=0.25)
    first_norm: str = choice(*NORMS)
    norm: str = choice(*NORMS)
    last_norm: str = choice(*NORMS, default="none")
    activation: str = choice(*ACTIVATIONS)
    activate: str = choice("both", "convolution")
    activation_first: bool = choice(False, True)
    bias: str = choice("all", "linear", "project", "none", default="project")
    layer_scale: float | None = choice(*LAYER_SCALES)
    shortcut: str = choice("max", "average", "none")
    stride_at: str = choice("convolution", "expansion")

    def hidden(self, site: Site) -> int:
        """Channels between the two 1x1 convolutions."""
        width = site.in_channels if self.expansion_of == "in" else site.channels
        return max(1, units.hidden_channels(width, self.expansion))

    def blueprint(self, site: Site) -> Blueprint:
        if self._is_mlp:
            no_stride(self, site)
            branch = units.mlp(
                site.in_channels,
                self.hidden(site),
                pixels=site.pixels,
                activation=self.activation,
                out_channels=site.channels,
            )
        else:
            branch = self._branch(site)
        leads = self.context and self.convolution == "first"
        tokens_keep_width(self, site)
        first_norm = "none" if leads or not self._expands(site) else self.first_norm
        if self._stands_alone(site):
            norm = units.norm(first_norm, site.in_channels)
            scale = units.layer_scale(site.channels, self.layer_scale)
            return units.beside(site, units.sequence(norm, branch, scale))
        block = units.residual(
            site.channels,
            branch,
            norm_name=first_norm,
            scale=self.layer_scale,
            in_channels=site.in_channels,
            shortcut=self._shortcut(site),
        )
        return units.beside(site, block)

    def _stands_alone(self, site: Site) -> bool:
        """Whether nothing is added to the branch."""
        changes = site.in_channels != site.channels or site.stride != 1
        return self.shortcut == "none" and changes

    @property
    def _is_mlp(self) -> bool:
        plain = self.norm == self.last_norm == "none" and self.bias == "all"
        return plain and self.context == 0 and not self.aggregation and not self.squeeze_excite

    def _branch(self, site: Site) -> Blueprint:
        hidden, first = self.hidden(site), self.convolution == "first"
        at_expansion = self.stride_at == "expansion" or first
        if not self.context:
            no_stride(self, site)
        pixels = site.out_pixels if at_expansion else site.pixels
        lead = None
        if self.context and first:
            lead = self._convolution(site, site.in_channels, site.pixels)
        elif site.stride > 1 and at_expansion:
            lead = blueprint(nn.AvgPool2d, 1, site.stride)
        mix = None
        if self.context and not first:
            mix = self._convolution(site, hidden, pixels)
            if self.inner_shortcut:
                if site.stride > 1 and not at_expansion:
                    raise ValueError(
                        f"{self.kind}: inner_shortcut is True, so the stride must be 1 or "
                        "stride_at 'expansion'"
                    )
                mix = blueprint(Sum, branch=mix)
            mix = units.sequence(mix, *self._normed(hidden, active=True))
        if self.aggregation:
            counted = cost.linear(site.out_pixels, hidden, 1) + cost.parameters(hidden)
            aggregate = blueprint(
                ChannelAggregation, hidden, ACTIVATIONS[self.activation], cost=counted
            )
            mix = units.sequence(mix, aggregate)
        return blueprint(
            InvertedBottleneckBranch,
            lead=lead,
            norm=units.norm(self.first_norm, site.in_channels) if lead and first else None,
            expand=self._expand(site, hidden, pixels) if self._expands(site) else None,
            mix=mix,
            gate=self._gate(site, hidden),
            project=units.linear(
                hidden, site.channels, pixels=site.out_pixels, bias=self.bias != "none"
            ),
            last_norm=units.norm(self.last_norm, site.channels),
            last_norm_start=1.0 if self._stands_alone(site) else None,
        )

    def _expands(self, site: Site) -> bool:
        """In front of a convolution, an expansion to as many channels is left out (MobileNetV2)."""
        alone = not self.context or self.convolution == "first"
        return alone or self.expansion != 1 or self.hidden(site) != site.in_channels

    def _expand(self, site: Site, hidden: int, pixels: int) -> Blueprint:
        bias = self.bias in ("all", "linear")
        return units.sequence(
            units.linear(site.in_channels, hidden, pixels=pixels, bias=bias),
            *self._normed(hidden, active=self.activate == "both" or not self.context),
        )

    def _convolution(self, site: Site, channels: int, pixels: int) -> Blueprint:
        groups = self.groups or channels
        if channels % groups:
            raise ValueError(f"{self.kind}: groups is {groups}, but must divide {channels}")
        strided = self.convolution == "first" or self.stride_at == "convolution"
        return units.convolution(
            channels,
            channels,
            self.context,
            pixels=pixels,
            out_pixels=site.out_pixels,
            stride=site.stride if strided else 1,
            groups=groups,
            bias=self.bias == "all",
        )

    def _normed(self, channels: int, *, active: bool) -> list[Blueprint | None]:
        layers = [units.norm(self.norm, channels)]
        layers += [units.activation(self.activation)] if active else []
        return layers[::-1] if self.activation_first else layers

    def _gate(self, site: Site, hidden: int) -> Blueprint | None:
        if not self.squeeze_excite:
            return None
        if self.squeeze_style == "hidden":
            return units.squeeze_excite(hidden, squeezed_channels(hidden, self.squeeze_ratio))
        width = hidden if self.squeeze_style == "exact" else site.channels
        squeezed = max(1, units.hidden_channels(width, self.squeeze_ratio))
        if self.squeeze_style == "exact":
            return units.squeeze_excite(hidden, squeezed)
        return units.squeeze_excite(hidden, squeezed, activation=nn.SiLU, gate=nn.Sigmoid)

    def _shortcut(self, site: Site) -> Blueprint | None:
        if site.in_channels == site.channels and site.stride == 1:
            return None
        pool = None
        if self.shortcut == "max":
            pool = blueprint(nn.MaxPool2d, 3, site.stride, 1)
        elif site.stride > 1:
            pool = blueprint(nn.AvgPool2d, site.stride, ceil_mode=True)
        if self.shortcut == "average" and site.in_channels == site.channels:
            return pool
        linear = units.linear(site.in_channels, site.channels, pixels=site.out_pixels)
        return linear if pool is None else units.sequence(pool, linear)
