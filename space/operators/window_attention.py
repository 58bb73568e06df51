"""Attention inside windows of the map, then an MLP.

Source: Swin (Liu et al., 2021), arXiv 2103.14030, section 3.2, without its shift.
Differs from it: where the window does not divide the map, the map is cut into as few windows as
windows of at most that side would be, all of one size, so that there is little or no padding
(14 pixels and windows of 8 give two windows of 7). Position "depthwise" is a 3x3 convolution at
the head of the block (CPVT, arXiv 2102.10882), which also carries information across windows.
Shapes: N images, C channels, E = expansion * C, H x W pixels; heads = max(1, C // head_dim).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from space import cost
from space.attention_layers import WindowAttentionBlock
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


def window_side(side: int, context: int) -> int:
    """Side of a window where the fewest windows of at most `context` pixels cover `side`."""
    windows = -(-side // context)
    return -(-side // windows)


@operator("window_attention")
@dataclass(frozen=True, slots=True, kw_only=True)
class WindowAttentionOperator(Part):
    """Genes: `context` (largest side of a window, pixels), `head_dim`, `position` ("none",
    "relative": a table for the window, "depthwise": a 3x3 convolution at the head of the block),
    `expansion` (E / C), `layer_scale` (its start or None), `norm`, `activation`."""

    module = WindowAttentionBlock
    pools: ClassVar[Mapping[str, str]] = {"attention": "attention", "mlp": "mlp"}

    context: int = choice(4, 5, 7, 8, 10, 12, 14, 16, default=7)
    head_dim: int = choice(*HEAD_DIMS, default=32)
    position: str = choice(*POSITIONS, default="relative")
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
            "window": self._window(site),
            "depthwise_position": self.position == "depthwise",
            "relative_position": self.position == "relative",
            "hidden": self.expansion * channels,
            "layer_scale": self.layer_scale,
            "norm": NORMS[self.norm],
            "activation": ACTIVATIONS[self.activation],
        }

    def _window(self, site: Site) -> tuple[int, int]:
        return window_side(site.height, self.context), window_side(site.width, self.context)

    def cost(self, site: Site) -> Cost:
        pixels, channels = site.pixels, site.channels
        heads = heads_of(channels, self.head_dim)
        inner = heads * self.head_dim
        rows, columns = self._window(site)
        windows = -(-site.height // rows) * -(-site.width // columns)
        padded = windows * rows * columns  # pixels, with those of the padding
        total = position_cost(self.position, pixels, channels)
        total += residual_cost(channels, self.layer_scale)
        total += cost.linear(padded, channels, inner) + cost.linear(padded, channels, 2 * inner)
        total += cost.attention(windows, heads, rows * columns, rows * columns, self.head_dim)
        total += cost.linear(pixels, inner, channels)
        if self.position == "relative":
            total += cost.parameters(heads * (2 * rows - 1) * (2 * columns - 1))
        return total + mlp_cost(pixels, channels, self.expansion, self.layer_scale)

    def axes(self, site: Site) -> dict[str, Sequence[Axis | int]]:
        channels, heads = site.channels, heads_of(site.channels, self.head_dim)
        prefix = "attention.branch."
        axes = attention_axes(prefix, channels, channels, heads, self.head_dim)
        if self.position == "relative":
            table = (Around(side - 1, side - 1) for side in self._window(site))
            axes[f"{prefix}position.table"] = (heads, *table)
        return axes
