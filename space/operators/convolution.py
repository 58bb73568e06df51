"""Residual convolution: a sub-layer of one or two convolutions, or a bottleneck around one.

One operator for what is published under many names. A depthwise convolution with a bias alone is
the position code of CPVT (Chu et al., 2021, arXiv 2102.10882, section 3.2), of L2ViT and of
FastViT (2303.14189, section 3.2.3, there of 7x7), the local perception unit of CMT (2107.06263,
section 3.2) and the convolution of SPACH (2108.13002, section 3.3). Groups of 32 channels with
BatchNorm, ReLU and a 1x1 convolution behind are the convolutional attention of Next-ViT (Li et al.,
2022, arXiv 2207.05501, section 3.2). Two depthwise 7x7 with GELU and BatchNorm between them are the
local concentration module of L2ViT. `shell="bottleneck"` is the block of ResNet (He et al., 2015,
arXiv 1512.03385, figure 5) and, with groups, of ResNeXt (1611.05431).
Shapes: N images, C channels in, D channels out, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from space import shells, units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, number, operator
from space.settings import ACTIVATIONS, NORMS
from space.shared import (
    CONTEXTS,
    EXPANSIONS,
    LAYER_SCALES,
    groups_of,
    refuse_unused,
    same_width,
    tokens_keep_width,
)

_ONLY_RESIDUAL = ("second", "first_norm", "activation_first", "bias", "layer_scale")
_ONLY_BOTTLENECK = ("ratio", "gate", "squeeze_ratio", "shortcut", "shortcut_activation")


class ConvolutionBranch(nn.Module):
    """Convolution, norm and activation `between`, and a second layer of either kind."""

    def __init__(
        self,
        convolution: nn.Module,
        between: nn.Module | None = None,
        pointwise: nn.Module | None = None,
        again: nn.Module | None = None,
    ):
        super().__init__()
        self.convolution = convolution
        self.between = between or nn.Identity()
        self.pointwise = pointwise or nn.Identity()
        self.again = again or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.pointwise(self.between(self.convolution(x))))


@operator("convolution")
@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution(Part):
    """Genes: `shell` ("residual": x + branch(first_norm(x)); "bottleneck": `space.shells`),
    `context` (side of the filter, pixels), `group_width` (channels of a group, 1 for depthwise, 0
    for all in one), `norm` and `activation` behind it. Of the residual: `second` (what stands
    behind these: a "pointwise" convolution or the same "convolution" again), `first_norm`,
    `activation_first` (before `norm`), `bias` (of all layers), `layer_scale` (its start or None),
    `expansion` (of an MLP behind, 0 for none). Of the bottleneck: `ratio` (width of the middle over
    the width that goes out), `gate` (in the middle, squeeze-excite with ReLU or ECA; or
    squeeze-excite at the end, with `activation`), `squeeze_ratio`, `shortcut` (a 1x1 convolution,
    or an average pool in front of it, where width or resolution changes), `shortcut_activation`."""

    pools: ClassVar[Mapping[str, str]] = {"mlp": "mlp"}
    takes: ClassVar[tuple[str, ...]] = ("map", "tokens", "pair_bias")

    shell: str = choice("residual", "bottleneck")
    context: int = choice(*CONTEXTS)
    group_width: int = choice(1, 0, 8, 16, 32, 64)
    norm: str = choice(*NORMS, default="none")
    activation: str = choice("none", *ACTIVATIONS, default="gelu")
    second: str = choice("none", "pointwise", "convolution", default="pointwise")
    first_norm: str = choice(*NORMS)
    activation_first: bool = choice(False, True)
    bias: bool = choice(False, True, default=True)
    layer_scale: float | None = choice(*LAYER_SCALES)
    expansion: int = choice(*EXPANSIONS, default=4)
    ratio: float = number(0.1, 4, default=0.25, examples=(0.25, 1, 1.5))
    gate: str = choice("none", "squeeze_excite", "eca", "squeeze_excite_last")
    squeeze_ratio: float = number(0.01, 1, default=1 / 16)
    shortcut: str = choice("convolution", "average")
    shortcut_activation: bool = choice(False, True)

    def __post_init__(self) -> None:
        Part.__post_init__(self)
        if self.shell == "bottleneck":
            refuse_unused(self, "in a bottleneck", *_ONLY_RESIDUAL)
        else:
            refuse_unused(self, "outside a bottleneck", *_ONLY_BOTTLENECK)
        if not self.gate.startswith("squeeze_excite"):
            refuse_unused(self, "without squeeze-excite", "squeeze_ratio")
        if "none" in (self.norm, self.activation):
            refuse_unused(self, "without norm and activation", "activation_first")
        if self.shell == "bottleneck" and self.expansion:
            raise ValueError(
                f"{self.kind}: expansion is {self.expansion}, but must be 0 in a bottleneck, which "
                "mixes channels itself"
            )
        if self.activation == "none" and (self.expansion or self.shell == "bottleneck"):
            raise ValueError(
                f"{self.kind}: activation is 'none', but an MLP (expansion {self.expansion}) or a "
                "bottleneck needs one"
            )

    def blueprint(self, site: Site) -> Blueprint:
        tokens_keep_width(self, site)
        return units.beside(site, self._block(site))

    def _block(self, site: Site) -> Blueprint:
        if self.shell == "bottleneck":
            return shells.bottleneck(
                site,
                inner=lambda inside: self._convolution(inside, bias=False),
                expansion=self.ratio,
                norm=self.norm,
                activation=self.activation,
                middle_gate=self._gate(),
                squeeze_ratio=self.squeeze_ratio if self.gate == "squeeze_excite_last" else 0,
                shortcut=self.shortcut,
                shortcut_activation=self.shortcut_activation,
            )
        channels = same_width(self, site)
        mixer = units.residual(
            channels, self._branch(site), norm_name=self.first_norm, scale=self.layer_scale
        )
        return units.block(
            channels,
            mixer,
            expansion=self.expansion,
            pixels=site.pixels,
            activation=self.activation,
            norm_name=self.first_norm,
            scale=self.layer_scale,
        )

    def _branch(self, site: Site) -> Blueprint:
        convolution = self._convolution(site, bias=self.bias)
        between = [units.norm(self.norm, site.channels), units.activation(self.activation)]
        second = None
        if self.second == "pointwise":
            second = units.linear(site.channels, site.channels, pixels=site.pixels, bias=self.bias)
        elif self.second == "convolution":
            second = convolution
        between = between[::-1] if self.activation_first else between
        return blueprint(
            ConvolutionBranch,
            convolution=convolution,
            between=units.sequence(*between) if any(between) else None,
            pointwise=second if self.second == "pointwise" else None,
            again=second if self.second == "convolution" else None,
        )

    def _convolution(self, site: Site, *, bias: bool) -> Blueprint:
        return units.convolution(
            site.in_channels,
            site.channels,
            self.context,
            pixels=site.pixels,
            out_pixels=site.out_pixels,
            stride=site.stride,
            groups=groups_of(site.channels, self.group_width),
            bias=bias,
        )

    def _gate(self) -> Callable[[int], Blueprint] | None:
        if self.gate == "squeeze_excite":
            return lambda channels: shells.squeeze_excite(channels, self.squeeze_ratio, "relu")
        return shells.efficient_channel_attention if self.gate == "eca" else None
