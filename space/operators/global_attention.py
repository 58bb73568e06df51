"""Attention over the whole map, then an MLP: the transformer block.

Source: ViT (Dosovitskiy et al., 2021), arXiv 2010.11929, section 3.1. With position "depthwise",
heads of 32 and layer scale 1e-6 it is the SelfAttention block of UniNet (Liu et al., 2022), arXiv
2207.05420, as its released code has it; layer scale is from CaiT, arXiv 2103.17239.
`kv_reduction` convolves keys and values to fewer pixels as in MViT (Fan et al., 2021), arXiv
2104.11227, section 3.1. Differs from MViT: one 3x3 depthwise convolution and norm before the
projection, for keys and values together, in place of one behind each.
Position "relative" is Swin's table (arXiv 2103.14030, section 3.2) over the whole map.
Shapes: N images, C channels, E = expansion * C, H x W pixels; heads = max(1, C // head_dim).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from space import cost
from space.attention_layers import GlobalAttentionBlock, RelativePosition
from space.blocks import (
    EXPANSIONS,
    HEAD_DIMS,
    LAYER_SCALES,
    POSITIONS,
    attention_axes,
    heads_of,
    mlp_cost,
    position_cost,
    residual_cost,
    same_width,
)
from space.cost import Cost
from space.genes import Part, Site, choice, operator
from space.settings import ACTIVATIONS, NORMS
from space.slicing import Around, Axis


@operator("global_attention")
@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalAttentionOperator(Part):
    """Genes: `head_dim`, `kv_reduction` (input pixels per key along one side), `position` ("none",
    "relative": a table for this map, "depthwise": a 3x3 convolution at the head of the block),
    `expansion` (E / C), `layer_scale` (its start or None), `norm`, `activation`."""

    module = GlobalAttentionBlock
    pools: ClassVar[Mapping[str, str]] = {"attention": "attention", "mlp": "mlp"}

    head_dim: int = choice(*HEAD_DIMS, default=32)
    kv_reduction: int = choice(1, 2, 4, 8)
    position: str = choice(*POSITIONS)
    expansion: int = choice(*EXPANSIONS, default=4)
    layer_scale: float | None = choice(*LAYER_SCALES, default=1e-6)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)

    def arguments(self, site: Site) -> dict[str, Any]:
        channels = same_width(self, site)
        return {
            "channels": channels,
            "heads": heads_of(channels, self.head_dim),
            "head_dim": self.head_dim,
            "reduction": self.kv_reduction,
            "depthwise_position": self.position == "depthwise",
            "relative_position": (site.height, site.width) if self._has_table else None,
            "hidden": self.expansion * channels,
            "layer_scale": self.layer_scale,
            "norm": NORMS[self.norm],
            "activation": ACTIVATIONS[self.activation],
        }

    @property
    def _has_table(self) -> bool:
        return self.position == "relative"

    def cost(self, site: Site) -> Cost:
        pixels, channels, reduction = site.pixels, site.channels, self.kv_reduction
        heads = heads_of(channels, self.head_dim)
        inner = heads * self.head_dim
        keys = -(-site.height // reduction) * -(-site.width // reduction)
        total = position_cost(self.position, pixels, channels)
        total += residual_cost(channels, self.layer_scale)
        total += cost.linear(pixels, channels, inner)
        total += cost.linear(keys, channels, 2 * inner)
        total += cost.attention(1, heads, pixels, keys, self.head_dim)
        total += cost.linear(pixels, inner, channels)
        if reduction > 1:
            total += cost.depthwise(pixels, keys, channels, taps=9, bias=False)
            total += cost.norm(channels)
        if self._has_table:
            rows, columns = self._table(site)
            total += cost.parameters(heads * rows.size * columns.size)
        return total + mlp_cost(pixels, channels, self.expansion, self.layer_scale)

    def axes(self, site: Site) -> dict[str, Sequence[Axis | int]]:
        channels, heads = site.channels, heads_of(site.channels, self.head_dim)
        prefix = "attention.branch."
        axes = attention_axes(prefix, channels, channels, heads, self.head_dim)
        if self._has_table:
            axes[f"{prefix}position.table"] = (heads, *self._table(site))
        return axes

    def _table(self, site: Site) -> tuple[Around, Around]:
        """Rows and columns of the relative table; offset zero is the fixed place."""
        rows, columns = (
            Around(before=side - 1, after=RelativePosition.span(side, self.kv_reduction) - 1)
            for side in (site.height, site.width)
        )
        return rows, columns
