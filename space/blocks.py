"""What the operators share besides their layers: gene values, checks, axes and costs."""

from __future__ import annotations

from collections.abc import Sequence

from space import cost
from space.cost import Cost
from space.genes import Part, Site
from space.slicing import Axis, Grid

EXPANSIONS = (1, 2, 3, 4, 5, 6, 8)
LAYER_SCALES = (None, 1e-6, 1e-5, 1e-4, 1e-2, 0.1, 1.0)
HEAD_DIMS = (16, 24, 32, 48, 64)
POSITIONS = ("none", "relative", "depthwise")


def same_width(part: Part, site: Site) -> int:
    """The width at `site`; ValueError where the part would have to change width or resolution."""
    if site.in_channels != site.channels:
        raise ValueError(
            f"{part.kind} keeps its width, but {site.in_channels} channels come in and "
            f"{site.channels} must go out; inverted_bottleneck can change the width"
        )
    if site.stride != 1:
        raise ValueError(f"{part.kind} keeps its resolution, but the stride is {site.stride}")
    return site.channels


def heads_of(channels: int, head_dim: int) -> int:
    """As many heads of `head_dim` as fit into `channels`, at least one."""
    return max(1, channels // head_dim)


def attention_axes(
    prefix: str, channels: int, in_channels: int, heads: int, head_dim: int
) -> dict[str, Sequence[Axis | int]]:
    """Axes of the `q`, `kv` and `project` layers under `prefix`, which keep heads whole."""
    q, kv = Grid(heads, head_dim), Grid(2, heads, head_dim)
    return {
        f"{prefix}q.weight": (q, in_channels),
        f"{prefix}q.bias": (q,),
        f"{prefix}kv.weight": (kv, in_channels),
        f"{prefix}kv.bias": (kv,),
        f"{prefix}project.weight": (channels, q),
    }


def residual_cost(channels: int, layer_scale: float | None) -> Cost:
    """Norm and layer scale of one `space.layers.Residual`."""
    return cost.norm(channels) + cost.parameters(0 if layer_scale is None else channels)


def mlp_cost(pixels: int, channels: int, expansion: int, layer_scale: float | None) -> Cost:
    """A channel MLP with its norm and layer scale, as a sub-layer of a block."""
    hidden = expansion * channels
    total = cost.linear(pixels, channels, hidden) + cost.linear(pixels, hidden, channels)
    return total + residual_cost(channels, layer_scale)


def position_cost(position: str, pixels: int, channels: int) -> Cost:
    """The depthwise convolution of position "depthwise"; a relative table counts elsewhere."""
    if position != "depthwise":
        return Cost()
    return cost.depthwise(pixels, pixels, channels, taps=9)
