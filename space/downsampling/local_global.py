"""Local-global downsampling (LG-DSM): strided convolution makes queries, which attend to the map.

Source: UniNet (Liu et al., 2022), arXiv 2207.05420, as its released code has it:
heads of 32, LayerNorm on queries and on the map, no layer scale, no MLP.
Differs from it: any width will do; queries have heads * head_dim channels, with
heads = max(1, D // head_dim), which is D in every UniNet.
Shapes: N images, C channels in, D channels out, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from space import cost, units
from space.attention_layers import AttendMap
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, downsampling
from space.layers import start_at_zero
from space.settings import NORMS
from space.shared import HEAD_DIMS, heads_of
from space.slicing import Grid


class CrossAttentionDownsampling(nn.Module):
    """A few queries, convolved from the map, attend to all of its pixels; plus a pooled shortcut.

    (N, C, H, W) to (N, D, ceil(H / stride), ceil(W / stride)); `query` makes the queries.
    """

    def __init__(
        self,
        query: nn.Module,
        key_value: nn.Module,
        attend: nn.Module,
        project: nn.Module,
        shortcut: nn.Module,
    ):
        super().__init__()
        self.query = query
        self.key_value = key_value
        self.attend = attend
        self.project = project
        self.shortcut = shortcut
        start_at_zero(project)

    def forward(self, x: Tensor) -> Tensor:
        answers = self.attend(self.query(x), self.key_value(x))
        return self.project(answers) + self.shortcut(x)


def cross_attention(site: Site, head_dim: int, depthwise: Blueprint, norm: str) -> Blueprint:
    """LG-DSM or G-DSM, which differ in the convolution that makes the queries."""
    inputs, channels, queries = site.in_channels, site.channels, site.out_pixels
    heads = heads_of(channels, head_dim)
    inner, axis = heads * head_dim, Grid(heads, head_dim)
    return blueprint(
        CrossAttentionDownsampling,
        query=units.sequence(
            depthwise,
            units.norm(norm, inputs),
            units.linear(inputs, inner, pixels=queries, output_axis=axis),
            units.norm("layer", inner, axis),
        ),
        key_value=units.sequence(
            units.norm("layer", inputs),
            units.linear(
                inputs, 2 * inner, pixels=site.pixels, output_axis=Grid(2, heads, head_dim)
            ),
        ),
        attend=blueprint(
            AttendMap, heads, cost=cost.attention(1, heads, queries, site.pixels, head_dim)
        ),
        project=units.linear(inner, channels, pixels=queries, input_axis=axis),
        shortcut=units.pooled_shortcut(inputs, channels, site.stride, out_pixels=queries),
    )


@downsampling("local_global_dsm")
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalGlobalDsm(Part):
    """Genes: `head_dim`, `norm` (of the convolution)."""

    pools: ClassVar[Mapping[str, str]] = {"shortcut": "dsm"}

    head_dim: int = choice(*HEAD_DIMS, default=32)
    norm: str = choice(*NORMS)

    def blueprint(self, site: Site) -> Blueprint:
        depthwise = units.depthwise(
            site.in_channels,
            3,
            pixels=site.pixels,
            stride=site.stride,
            out_pixels=site.out_pixels,
        )
        return cross_attention(site, self.head_dim, depthwise, self.norm)
