"""Attention between pooled maps, and an MLP: queries, keys and values each go through a depthwise
convolution of their own, which may make fewer of them.

With `pool="input"` the convolutions stand in front of the linear layers, a filter for each channel:
CvT (Wu et al., 2021), arXiv 2103.15808, section 3.2. With `pool="heads"` they stand behind, and the
heads share a filter for each of their channels: MViT (Fan et al., 2021), arXiv 2104.11227, section
3.1. Strided queries make a smaller map, beside a shortcut of a 3x3 max-pool. Where the width
changes, it does so in the attention, as in MViTv2 (Li et al., 2021), arXiv 2112.01526, section 3.1,
or in the MLP behind (`widen="mlp"`), as in the first MViT and MViTv2-L; the shortcut is then a
linear layer of what the norm gives. Position and residual queries are MViTv2's (section 3.1).
Class tokens pass by the convolutions and pools; the norms of `pool="heads"` take them too.
Shapes: N images, C channels in, D channels out, T class tokens, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from space import cost, units
from space.attention_layers import AttendMap, Times, WithTokens
from space.blueprint import Blueprint, blueprint
from space.cost import BYTES_PER_NUMBER, Cost
from space.genes import Part, Site, choice, number, operator, whole
from space.layers import Block, Residual
from space.pooling_attention import (
    EachHead,
    PooledPosition,
    PoolingAttention,
    PoolingResidual,
    TokenPoolingAttention,
    TokenPoolingResidual,
)
from space.settings import ACTIVATIONS, NORMS
from space.shared import CONTEXTS, EXPANSIONS, LAYER_SCALES, heads_of, refuse_unused
from space.slicing import Around, Grid


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the attention stands: its site, the width that it gives, its heads."""

    site: Site
    channels: int
    heads: int
    head_dim: int
    keys: tuple[int, int]  # the sides of their map

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim

    @property
    def axis(self) -> Grid:
        return Grid(self.heads, self.head_dim)


@operator("pooling_attention")
@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingAttentionOperator(Part):
    """Genes: `pool` (depthwise convolutions on the "input" of the linear layers, or behind them on
    the "heads"), `context` (side of their filters, pixels), `pool_norm` (behind them),
    `query_pool` (queries have one "always", or only where they are "strided"), `kv_reduction`
    (pixels per key along one side), `heads` (0: as many as fit), `head_dim` (0: width / heads),
    `scale` (of the scores: by the root of the width of a "head", or of all heads), `position`
    ("query": tables of offsets times the query), `residual_query` (is added to its answer),
    `widen` (where the width changes), `expansion` (of the MLP behind, 0 for none), `layer_scale`
    (its start or None), `norm`, `activation`."""

    pools: ClassVar[Mapping[str, str]] = {"mlp": "mlp"}
    takes: ClassVar[tuple[str, ...]] = ("map", "tokens")

    pool: str = choice("heads", "input")
    context: int = choice(*CONTEXTS)
    pool_norm: str = choice(*NORMS)
    query_pool: str = choice("always", "strided")
    kv_reduction: int = choice(1, 2, 4, 8)
    heads: int = whole(0, 256, default=0)
    head_dim: int = whole(0, 512, default=32)
    scale: str = choice("head", "width")
    position: str = choice("none", "query")
    residual_query: bool = choice(False, True)
    widen: str = choice("attention", "mlp")
    expansion: float = number(0, 32, default=4, examples=EXPANSIONS)
    layer_scale: float | None = choice(*LAYER_SCALES)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)

    def __post_init__(self) -> None:
        Part.__post_init__(self)
        if not self.heads and not self.head_dim:
            raise ValueError(f"{self.kind}: heads and head_dim are both 0; give one of them")
        if self.pool == "input":
            refuse_unused(self, "where pool is 'input'", "position", "residual_query")
        else:
            refuse_unused(self, "where pool is 'heads'", "scale")

    def blueprint(self, site: Site) -> Blueprint:
        place = self._place(site)
        hidden = units.hidden_channels(place.channels, self.expansion)
        mlp = self._both(site, self._mlp(place, hidden)) if hidden else None
        return blueprint(Block, mixer=self._residual(place), mlp=mlp)

    def _place(self, site: Site) -> _Place:
        in_mlp = self.widen == "mlp"
        widens = in_mlp and site.in_channels != site.channels
        if widens and not units.hidden_channels(site.in_channels, self.expansion):
            raise ValueError(
                f"{self.kind}: widen is 'mlp', but expansion is {self.expansion} and "
                f"{site.in_channels} channels must become {site.channels}"
            )
        channels = site.in_channels if in_mlp else site.channels
        heads = self.heads or heads_of(channels, self.head_dim)
        if not self.head_dim and channels % heads:
            raise ValueError(
                f"{self.kind}: heads is {heads} and head_dim 0, but {channels} channels are not a "
                "multiple of it"
            )
        head_dim = self.head_dim or channels // heads
        if self.pool == "heads" and head_dim == 1:
            raise ValueError(f"{self.kind}: a head has 1 channel, too few to be normed alone")
        keys = (-(-site.height // self.kv_reduction), -(-site.width // self.kv_reduction))
        return _Place(site, channels, heads, head_dim, keys)

    @staticmethod
    def _both(site: Site, layer: Blueprint) -> Blueprint:
        """A layer of single pixels, for class tokens as well where there are any."""
        return blueprint(WithTokens, block=layer) if site.tokens else layer

    def _residual(self, place: _Place) -> Blueprint:
        site, width = place.site, place.channels
        norm, widen, pool = units.norm(self.norm, site.in_channels), None, None
        if width != site.in_channels:
            widen = units.linear(site.in_channels, width, pixels=site.pixels + site.tokens)
        if site.stride > 1:
            pool = blueprint(nn.MaxPool2d, 3, site.stride, 1)
        return blueprint(
            TokenPoolingResidual if site.tokens else PoolingResidual,
            attention=self._attention(place),
            norm=norm and self._both(site, norm),
            widen=widen and self._both(site, widen),
            pool=pool,
            scale=units.layer_scale(width, self.layer_scale),
        )

    def _mlp(self, place: _Place, hidden: int) -> Blueprint:
        site, pixels = place.site, place.site.out_pixels + place.site.tokens
        mlp = units.mlp(
            place.channels,
            hidden,
            pixels=pixels,
            activation=self.activation,
            out_channels=site.channels,
        )
        if place.channels == site.channels:
            return units.residual(site.channels, mlp, norm_name=self.norm, scale=self.layer_scale)
        widened = blueprint(
            Residual,
            branch=mlp,
            scale=units.layer_scale(site.channels, self.layer_scale),
            shortcut=units.linear(place.channels, site.channels, pixels=pixels),
        )
        return units.sequence(units.norm(self.norm, place.channels), widened)

    def _attention(self, place: _Place) -> Blueprint:
        site, tokens = place.site, place.site.tokens
        queries = tokens + site.out_pixels
        keys = tokens + place.keys[0] * place.keys[1]
        linear = units.linear(place.inner, place.channels, pixels=queries, input_axis=place.axis)
        counted = cost.attention(1, place.heads, queries, keys, place.head_dim)
        return blueprint(
            TokenPoolingAttention if tokens else PoolingAttention,
            q=self._projected(place, site.stride, asks=True),
            k=self._projected(place, self.kv_reduction),
            v=self._projected(place, self.kv_reduction),
            attend=blueprint(AttendMap, place.heads, cost=counted),
            project=self._both(site, linear),
            position=self._position(place) if self.position == "query" else None,
            residual=1 if self.residual_query else None,
        )

    def _projected(self, place: _Place, stride: int, *, asks: bool = False) -> Blueprint:
        """Queries, or keys or values: a linear layer, and a pool in front of it or behind."""
        site, behind = place.site, self.pool == "heads"
        made = -(-site.height // stride) * -(-site.width // stride)
        linear = units.linear(
            site.in_channels,
            place.inner,
            pixels=(site.pixels if behind else made) + site.tokens,
            output_axis=place.axis,
        )
        if asks and self.scale == "width":  # the attention divides by the root of a head's width
            linear = units.sequence(linear, blueprint(Times, place.heads**-0.5))
        linear = self._both(site, linear)
        if asks and stride == 1 and self.query_pool == "strided":
            return linear
        channels, heads = (place.head_dim, place.heads) if behind else (site.in_channels, 0)
        depthwise = units.depthwise(
            channels, self.context, pixels=site.pixels, stride=stride, out_pixels=made, bias=False
        )
        norm = units.norm(self.pool_norm, channels)
        if behind:
            depthwise, norm = _each_head(heads, depthwise), norm and _each_head(heads, norm)
            norm = norm and self._both(site, norm)
            return units.sequence(linear, units.beside(site, depthwise), norm)
        return units.sequence(units.beside(site, units.sequence(depthwise, norm)), linear)

    def _position(self, place: _Place) -> Blueprint:
        asked, counted, axes = place.site, Cost(), {}
        queries = (asked.out_height, asked.out_width)
        for side, name in enumerate(("rows", "columns")):
            many, few = max(queries[side], place.keys[side]), min(queries[side], place.keys[side])
            before = (place.keys[side] - 1) * queries[side] // few  # the entry of offset 0
            axes[name] = (Around(before, 2 * many - 2 - before), place.head_dim)
            others = place.heads * queries[1 - side]
            counted += cost.matmul(queries[side], others, place.head_dim, place.keys[side])
            counted += cost.parameters((2 * many - 1) * place.head_dim)
        made = (place.heads, place.head_dim, queries, place.keys)
        return blueprint(PooledPosition, *made, cost=counted, axes=axes)


def _each_head(heads: int, layer: Blueprint) -> Blueprint:
    """A layer, drawn up for the channels of one head, on those of each."""
    counted, again = layer.cost * heads, layer.cost.params * (heads - 1)
    counted = replace(
        counted,
        params=layer.cost.params,
        bytes_moved=counted.bytes_moved - BYTES_PER_NUMBER * again * bool(layer.cost.macs),
    )
    return blueprint(EachHead, heads, layer=replace(layer, cost=counted))
