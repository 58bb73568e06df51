"""Local-global downsampling (LG-DSM): strided convolution makes queries, which attend to the map.

Source: UniNet (Liu et al., 2022), arXiv 2207.05420, as its released code has it:
heads of 32, LayerNorm on queries and on the map, no layer scale, no MLP.
Differs from it: any width will do; queries have heads * head_dim channels, with
heads = max(1, D // head_dim), which is D in every UniNet.
Shapes: N images, C channels in, D channels out, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from space import cost
from space.attention_layers import CrossAttentionDownsampling
from space.blocks import attention_axes, heads_of
from space.cost import Cost
from space.genes import Part, Site, choice, downsampling
from space.layers import StridedDepthwise
from space.settings import NORMS
from space.slicing import Axis, Grid


class CrossAttentionDsm(Part):
    """Base of LG-DSM and G-DSM, which differ in the convolution that makes the queries.

    Both convolutions have 9 taps and give one query for each output pixel.
    """

    __slots__ = ()
    module = CrossAttentionDownsampling
    pools: ClassVar[Mapping[str, str]] = {"shortcut": "dsm"}
    depthwise: ClassVar[type[nn.Module]]
    head_dim: int
    norm: str

    def arguments(self, site: Site) -> dict[str, Any]:
        return {
            "in_channels": site.in_channels,
            "channels": site.channels,
            "heads": heads_of(site.channels, self.head_dim),
            "head_dim": self.head_dim,
            "stride": site.stride,
            "depthwise": self.depthwise,
            "norm": NORMS[self.norm],
        }

    def cost(self, site: Site) -> Cost:
        inputs, channels = site.in_channels, site.channels
        pixels, queries = site.pixels, site.out_pixels
        heads = heads_of(channels, self.head_dim)
        inner = heads * self.head_dim
        total = cost.depthwise(pixels, queries, inputs, taps=9) + cost.norm(inputs)
        total += cost.linear(queries, inputs, inner) + cost.norm(inner)
        total += cost.norm(inputs) + cost.linear(pixels, inputs, 2 * inner)
        total += cost.attention(1, heads, queries, pixels, self.head_dim)
        total += cost.linear(queries, inner, channels)
        return total + cost.linear(queries, inputs, channels)  # the shortcut

    def axes(self, site: Site) -> dict[str, Sequence[Axis | int]]:
        heads = heads_of(site.channels, self.head_dim)
        q = Grid(heads, self.head_dim)
        return {
            **attention_axes("", site.channels, site.in_channels, heads, self.head_dim),
            "q_norm.weight": (q,),
            "q_norm.bias": (q,),
        }


@downsampling("local_global_dsm")
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalGlobalDsm(CrossAttentionDsm):
    """Genes: `head_dim`, `norm` (of the convolution)."""

    depthwise = StridedDepthwise

    head_dim: int = choice(16, 32, 48, 64, default=32)
    norm: str = choice(*NORMS)
