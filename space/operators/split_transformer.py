"""Split transformer: attention on some of the channels, convolution on the rest, an MLP on all.

x' = embed(x), a channels; y = x' + attention(norm(x')); z = norm(P y), b channels, z' = z +
convolution(z); u = [y, z']; u + mlp(norm(u)). Keys and values are means of pixels in a row.
Source: the transformer block of Next-ViT (Li et al., 2022), arXiv 2207.05501, section 3.3, and its
released code. Differs from it: where the width has no room for a multiple of `head_dim`, the
attended channels are the nearest number to their share, and queries have heads * head_dim channels
of their own; the last mean, where the pixels do not come out even, is of those left over.
Shapes: N images, C channels in, D = a + b channels out, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from space import cost, units
from space.attention_layers import AttendMap, MapAttention, RowMean
from space.blueprint import Blueprint, blueprint
from space.downsampling.pooled_projection import PooledProjection
from space.genes import Part, Site, choice, number, operator
from space.layers import Residual
from space.settings import ACTIVATIONS, NORMS
from space.shared import (
    CONTEXTS,
    EXPANSIONS,
    HEAD_DIMS,
    LAYER_SCALES,
    groups_of,
    heads_of,
    same_width,
)
from space.slicing import Grid, Parts


class SplitTransformerModule(nn.Module):
    """(N, C, H, W) to (N, D, ceil(H / stride), ceil(W / stride)); what `split` makes of the
    attended channels stands behind them."""

    def __init__(
        self,
        attention: nn.Module,
        split: nn.Module,
        convolution: nn.Module,
        embed: nn.Module | None = None,
        mlp: nn.Module | None = None,
    ):
        super().__init__()
        self.embed = embed or nn.Identity()
        self.attention = attention
        self.split = split
        self.convolution = convolution
        self.mlp = mlp or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attention(self.embed(x))
        convolved = self.convolution(self.split(attended))
        return self.mlp(torch.cat([attended, convolved], 1))


@operator("split_transformer")
@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTransformer(Part):
    """Genes: `share` (of the width that is attended, rounded to a multiple of `head_dim`),
    `head_dim`, `reduction` (the square of it is the number of pixels whose mean is one key),
    `context` (side of the filter, pixels), `group_width` (its channels in a group, 1 for depthwise,
    0 for all), `expansion` (of the MLP, 0 for none), `norm`, `activation`,
    `layer_scale` (makes the whole the branch of a residual: its start, or None as published)."""

    share: float = number(0.1, 0.9, default=0.75, examples=(0.5, 0.75))
    head_dim: int = choice(*HEAD_DIMS, default=32)
    reduction: int = choice(1, 2, 4, 8)
    context: int = choice(*CONTEXTS)
    group_width: int = choice(1, 0, 8, 16, 32, 64, default=32)
    expansion: int = choice(*EXPANSIONS, default=2)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS, default="relu")
    layer_scale: float | None = choice(*LAYER_SCALES)

    def attended(self, site: Site) -> int:
        """Channels that are attended; ValueError where nothing would be left to convolve."""
        wanted = self.share * site.channels
        rounded = int(wanted / self.head_dim + 0.5) * self.head_dim
        channels = rounded if 0 < rounded < site.channels else max(1, int(wanted + 1e-6))
        if channels >= site.channels:
            raise ValueError(
                f"{self.kind}: {site.channels} channel(s) go out, but at least 2 are needed"
            )
        return channels

    def blueprint(self, site: Site) -> Blueprint:
        channels = self.attended(site)
        rest, pixels = site.channels - channels, site.out_pixels
        whole = blueprint(
            SplitTransformerModule,
            embed=self._embed(site, channels),
            attention=units.residual(
                channels, self._attention(channels, pixels), norm_name=self.norm, scale=None
            ),
            split=units.sequence(
                units.linear(channels, rest, pixels=pixels, bias=False),
                units.norm(self.norm, rest),
            ),
            convolution=blueprint(Residual, branch=self._convolution(rest, pixels)),
            mlp=self._mlp(channels, rest, pixels) if self.expansion else None,
        )
        if self.layer_scale is None:
            return whole
        same_width(self, site)
        scale = units.layer_scale(site.channels, self.layer_scale)
        return blueprint(Residual, branch=whole, scale=scale)

    def _embed(self, site: Site, channels: int) -> Blueprint | None:
        if site.in_channels == channels and site.stride == 1:
            return None
        inside = Site(site.in_channels, channels, site.height, site.width, site.stride)
        return PooledProjection(norm=self.norm).blueprint(inside)

    def _attention(self, channels: int, pixels: int) -> Blueprint:
        heads, keys = heads_of(channels, self.head_dim), -(-pixels // self.reduction**2)
        inner, axis = heads * self.head_dim, Grid(heads, self.head_dim)
        children: dict[str, Any] = {
            "q": units.linear(channels, inner, pixels=pixels, output_axis=axis),
            "kv": units.linear(
                channels, 2 * inner, pixels=keys, output_axis=Grid(2, heads, self.head_dim)
            ),
            "attend": blueprint(
                AttendMap, heads, cost=cost.attention(1, heads, pixels, keys, self.head_dim)
            ),
            "project": units.linear(inner, channels, pixels=pixels, input_axis=axis),
        }
        if self.reduction > 1:
            mean = blueprint(RowMean, self.reduction**2)
            children["reduce"] = units.sequence(mean, units.norm(self.norm, channels))
        return blueprint(MapAttention, **children)

    def _convolution(self, channels: int, pixels: int) -> Blueprint:
        return units.sequence(
            units.convolution(
                channels,
                channels,
                self.context,
                pixels=pixels,
                groups=groups_of(channels, self.group_width),
                bias=False,
            ),
            units.norm(self.norm, channels),
            units.activation(self.activation),
            units.linear(channels, channels, pixels=pixels, bias=False),
        )

    def _mlp(self, channels: int, rest: int, pixels: int) -> Blueprint:
        width, axis = channels + rest, Parts(channels, rest)
        hidden = self.expansion * width
        layers = units.sequence(
            units.linear(width, hidden, pixels=pixels, input_axis=axis),
            units.activation(self.activation),
            units.linear(hidden, width, pixels=pixels, output_axis=axis),
        )
        norm = units.norm(self.norm, width, axis)
        return blueprint(Residual, branch=layers, norm=norm)
