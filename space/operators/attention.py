"""Attention of the pixels of a map, and behind it a plain MLP: the transformer block and its kin.

One operator for what is published under many names. Over the whole map it is ViT's block
(Dosovitskiy et al., 2021, arXiv 2010.11929, section 3.1); `kv_reduction` asks a smaller map, as
PVT (2102.12122, section 3.3), CMT (2107.06263, section 3.2) and Next-ViT (2207.05501) do. In
windows it is Swin's (2103.14030, section 3.2), in a grid MaxViT's (2204.01697, section 3.2), in
blocks with a halo HaloNet's (2103.12731). A position is a 3x3 convolution in front (CPVT,
2102.10882), a table of offsets for this map (CoAtNet, 2106.04803, section 2) or for another
(MOAT, 2210.01820), of distances (LeViT, 2104.01136), of offsets times the query (BoTNet,
2101.11605) or, beside the map, of pairs of pixels (CMT). Layer scale is CaiT's (2103.17239),
values convolved are SMT's (2307.08579), the bottleneck is BoTNet's. With a stride or a change of
width it is the first block of a stage of CoAtNet or LeViT.
Differs from Swin where windows do not divide the map: `fit="even"` takes as few windows as
windows of at most `context` pixels would be, all of one size (14 pixels and windows of 8 give two
of 7). From PVT where `reduction="depthwise"`: one 3x3 depthwise convolution in place of a full
one.
Shapes: N images, C channels in, D channels out, T class tokens, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from space import cost, shells, units
from space.attention_layers import (
    AttendMap,
    AttendMapAndNear,
    BiasedAttention,
    ClosedProjection,
    DistancePosition,
    HaloAttention,
    HaloBlocks,
    MapAttention,
    ProductPosition,
    QueryPosition,
    RelativePosition,
    ResizedPosition,
    RowMean,
    SharedBiasResidual,
    ShiftedWindowAttention,
    ShiftedWindows,
    SpreadWindows,
    Subsample,
    TablePosition,
    Times,
    WindowAttention,
    Windows,
    WithTokens,
)
from space.attention_scores import channel_attend, gated_attend, linear_attend
from space.blueprint import Blueprint, blueprint
from space.cost import Cost
from space.genes import MAP, Part, Site, choice, number, operator, whole
from space.layers import Block, ConvolutionNorm
from space.settings import ACTIVATIONS, NORMS
from space.shared import EXPANSIONS, LAYER_SCALES, heads_of, refuse_unused
from space.slicing import Around, Axis, Grid, Lead, Parts

_REDUCIBLE = ("relative", "shared")  # tables that can have fewer keys than queries


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads, and the width of one: of queries and keys, and of values."""

    count: int
    width: int
    value_width: int

    @property
    def queries(self) -> int:
        return self.count * self.width

    @property
    def values(self) -> int:
        return self.count * self.value_width

    @property
    def query_axis(self) -> Axis:
        return Grid(self.count, self.width)

    @property
    def value_axis(self) -> Axis:
        return Grid(self.count, self.value_width)


@dataclass(frozen=True, slots=True)
class Pieces:
    """What attention works on: `count` maps of these rows and columns that are cut out of one."""

    count: int
    rows: int
    columns: int

    @property
    def pixels(self) -> int:
        return self.rows * self.columns


def window_side(side: int, context: int) -> int:
    """Side of a window where the fewest windows of at most `context` pixels cover `side`."""
    windows = -(-side // context)
    return -(-side // windows)


@operator("attention")
@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Part):
    """Genes. What a pixel sees: `region` (the whole map, its "window", pixels spread over a "grid",
    or its block and a "halo" around it), `context` (side of a window, grid or block, pixels; of no
    account where the region is the map), `fit` ("even" windows of at most that side, or all of that
    side and the last ones "padded"), `halo` (pixels around a block), `shift` (windows by half their
    side, where there are several), `kv_reduction` (pixels per key along one side) and `reduction`
    (what makes the keys: a 3x3 "depthwise" convolution and `norm`; convolutions of "patches",
    depthwise with BatchNorm or full with LayerNorm; means along the rows).
    Scores: `scoring` ("softmax"; "linear" in the number of pixels, as L2ViT; "channel": between
    these, as XCiT; "gated" with a position, as ConViT), `heads` (0: as many as fit), `head_dim`
    (0: D / heads), `value_ratio` (width of values over that of keys), `scale` (by the root of the
    width of a "head", or of D), `position` ("depthwise": 3x3, in front; tables: "relative",
    "products" (the same, looked up by products), "resized" from a map of side `base`, "offsets" by
    their distance, "query" times the query, "scaled_query" times that over the root of head_dim,
    "shared" from beside the map).
    Layers: `qkv_bias`, `project` (behind, with a bias or "plain", or none), `inner_activation` (in
    front of it), `linear_norm` (`norm` behind every linear layer and not in front of all),
    `value_position` (adds a 3x3 depthwise convolution of the values), `bypass` (adds one of the
    block's input, as SPACH), `layer_scale` (its start or None), `norm`, `activation`, `expansion`
    (of the MLP behind, 0 for none).
    Around it: `downsampled` (what a stride works on: the "input" by its mean or maximum; "queries",
    without a shortcut; the "output" by its mean), `shell` ("pair" of residuals, or a "bottleneck",
    which has `ratio`: width of its middle over D, `squeeze_ratio` of a gate at the end, 0 for none,
    `shortcut`, a 1x1 convolution or an average pool in front of it, and `shortcut_activation`)."""

    pools: ClassVar[Mapping[str, str]] = {"mixer": "attention", "mlp": "mlp"}
    takes: ClassVar[tuple[str, ...]] = ("map", "tokens", "pair_bias")

    region: str = choice("global", "window", "grid", "halo")
    context: int = whole(2, 64, default=7)
    fit: str = choice("even", "padded")
    halo: int = whole(1, 16, default=3)
    shift: bool = choice(False, True)
    heads: int = whole(0, 256, default=0)
    head_dim: int = whole(0, 512, default=32)
    value_ratio: float = number(0.25, 8, default=1, examples=(1, 2, 4))
    kv_reduction: int = choice(1, 2, 4, 8)
    reduction: str = choice("depthwise", "patches", "full_patches", "row_mean")
    scoring: str = choice("softmax", "linear", "channel", "gated")
    position: str = choice(
        "none",
        "depthwise",
        "relative",
        "products",
        "resized",
        "offsets",
        "query",
        "scaled_query",
        "shared",
    )
    base: int = choice(7, 14)
    scale: str = choice("head", "width")
    qkv_bias: bool = choice(False, True, default=True)
    project: str = choice("none", "plain", "bias", default="bias")
    inner_activation: str = choice("none", *ACTIVATIONS)
    linear_norm: bool = choice(False, True)
    value_position: bool = choice(False, True)
    bypass: bool = choice(False, True)
    downsampled: str = choice("input", "input_max", "queries", "output")
    shell: str = choice("pair", "bottleneck")
    ratio: float = number(0.1, 4, default=0.25, examples=(0.25, 0.5, 1))
    squeeze_ratio: float = number(0, 1, default=0, examples=(0, 1 / 16))
    shortcut: str = choice("convolution", "average")
    shortcut_activation: bool = choice(False, True)
    expansion: float = number(0, 32, default=4, examples=EXPANSIONS)
    layer_scale: float | None = choice(*LAYER_SCALES)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)

    def __post_init__(self) -> None:
        Part.__post_init__(self)
        self._refuse_unused()
        if not self.heads and not self.head_dim:
            raise ValueError(f"{self.kind}: heads and head_dim are both 0; give one of them")
        biases = self.qkv_bias or self.project == "bias"
        if self.linear_norm and (biases or self.norm == "none" or self.expansion):
            raise ValueError(
                f"{self.kind}: linear_norm stands in place of biases and other norms: it needs a "
                "norm, qkv_bias False, a project without bias and expansion 0, not "
                f"{self.norm!r}, {self.qkv_bias}, {self.project!r} and {self.expansion}"
            )
        self._refuse_pairs()

    def _refuse_pairs(self) -> None:
        reduced, halo = self.kv_reduction > 1, self.region == "halo"
        own = self.scoring != "softmax"
        table = self.position not in ("none", "depthwise")
        by_query = self.position in ("query", "scaled_query")
        shared = self.position == "shared"
        as_many = self.scoring in ("channel", "gated")  # queries as keys
        for one, has_one, other, has_other in (
            ("shift", self.shift, "kv_reduction", reduced),
            ("region", halo, "kv_reduction", reduced),
            ("region", halo, "value_position", self.value_position),
            ("region", halo, "position", table and not by_query),
            ("kv_reduction", reduced, "value_position", self.value_position),
            ("kv_reduction", reduced, "position", table and self.position not in _REDUCIBLE),
            ("reduction", self.reduction == "row_mean", "position", self.position == "relative"),
            ("position", shared, "region", self.region != "global"),
            ("position", shared, "shell", self.shell == "bottleneck"),
            ("scale", self.scale == "width", "position", by_query),
            ("scoring", own, "position", table),
            ("scoring", own, "shift", self.shift),
            ("scoring", own, "scale", self.scale == "width"),
            ("scoring", own, "value_position", self.value_position),
            ("scoring", as_many, "kv_reduction", reduced),
            ("scoring", as_many, "region", halo),
            ("scoring", self.scoring == "channel", "value_ratio", self.value_ratio != 1),
        ):
            if has_one and has_other:
                raise ValueError(
                    f"{self.kind}: {one} {getattr(self, one)!r} and {other} "
                    f"{getattr(self, other)!r} do not go together"
                )

    def _refuse_unused(self) -> None:
        if self.region == "global":
            refuse_unused(self, "where the region is the map", "fit")
        if self.region != "window":
            refuse_unused(self, "without windows", "shift")
        if self.region != "halo":
            refuse_unused(self, "without a halo", "halo")
        if self.kv_reduction == 1:
            refuse_unused(self, "without kv_reduction", "reduction")
        if self.position != "resized":
            refuse_unused(self, "where the position is not resized", "base")
        if self.shell == "pair":
            genes = ("ratio", "squeeze_ratio", "shortcut", "shortcut_activation")
            refuse_unused(self, "outside a bottleneck", *genes)
        else:
            refuse_unused(self, "in a bottleneck", "layer_scale", "bypass")
            if self.expansion:
                raise ValueError(
                    f"{self.kind}: expansion is {self.expansion}, but must be 0 in a bottleneck, "
                    "which mixes channels itself"
                )

    # ---- the block

    def blueprint(self, site: Site) -> Blueprint:
        if site.flow.kind == "tokens":
            return blueprint(WithTokens, block=self._block(self._row_of_tokens(site)))
        if site.flow.kind == "pair_bias" and self.position != "shared":
            return units.beside(site, self._block(replace(site, flow=MAP)))
        return self._block(site)

    def _row_of_tokens(self, site: Site) -> Site:
        """The site of a map that is one row of pixels and tokens."""
        usual = {"region": "global", "position": "none", "kv_reduction": 1, "value_position": False}
        for gene, value in {**usual, "bypass": False, "shell": "pair"}.items():
            if getattr(self, gene) != value:
                raise ValueError(
                    f"{self.kind}: {gene} is {getattr(self, gene)!r}, but must be {value!r} where "
                    "class tokens stand beside the map"
                )
        if self.scoring == "gated":
            raise ValueError(f"{self.kind}: scoring 'gated' has no position for class tokens")
        if site.stride != 1:
            raise ValueError(
                f"{self.kind}: with class tokens beside the map the stride must be 1, "
                f"not {site.stride}"
            )
        return replace(site, height=site.pixels + site.tokens, width=1, flow=MAP)

    def _block(self, site: Site) -> Blueprint:
        position = mlp = None
        if self.position == "shared":
            self._check_shared(site)
        if self.position == "depthwise":
            position = units.depthwise_position(site.in_channels, pixels=site.pixels)
        hidden = units.hidden_channels(site.channels, self.expansion)
        if hidden:
            branch = units.mlp(
                site.channels, hidden, pixels=site.out_pixels, activation=self.activation
            )
            mlp = units.residual(
                site.channels, branch, norm_name=self._first_norm, scale=self.layer_scale
            )
            mlp = units.beside(site, mlp)
        return blueprint(Block, mixer=self._mixer(site), mlp=mlp, position=position)

    @property
    def _first_norm(self) -> str:
        return "none" if self.linear_norm else self.norm

    def _mixer(self, site: Site) -> Blueprint:
        """Attention and what stands around it."""
        if self.bypass and (site.stride > 1 or site.in_channels != site.channels):
            raise ValueError(
                f"{self.kind}: bypass is True, but must be False where width or resolution change"
            )
        if self.shell == "bottleneck":
            return self._bottleneck(site)
        if site.stride > 1 and self.downsampled == "queries":
            scale = units.layer_scale(site.channels, self.layer_scale)
            norm = units.norm(self._first_norm, site.in_channels)
            return units.sequence(norm, self.branch(site), scale)
        residual = units.residual(
            site.channels,
            self.branch(site, closed=self.linear_norm),
            norm_name=self._first_norm,
            scale=self.layer_scale,
            in_channels=site.in_channels,
            shortcut=self._shortcut(site),
        )
        shared = self.position == "shared"
        return replace(residual, module=SharedBiasResidual) if shared else residual

    def _shortcut(self, site: Site) -> Blueprint | None:
        if self.bypass:
            return units.depthwise_position(site.channels, pixels=site.pixels)
        if site.in_channels == site.channels:
            return self._pool(site)
        linear = units.linear(site.in_channels, site.channels, pixels=site.out_pixels)
        return units.sequence(self._pool(site), linear)

    def _pool(self, site: Site) -> Blueprint | None:
        if site.stride == 1:
            return None
        pool = nn.MaxPool2d if self.downsampled == "input_max" else nn.AvgPool2d
        return blueprint(pool, site.stride, ceil_mode=True)

    def _bottleneck(self, site: Site) -> Blueprint:
        middle = shells.middle_channels(site, self.ratio)
        return shells.bottleneck(
            site,
            inner=self.branch,
            expansion=self.ratio,
            norm=self.norm,
            activation=self.activation,
            axis=self.heads_at(middle).value_axis if self.project == "none" else Grid(1, middle),
            squeeze_ratio=self.squeeze_ratio,
            shortcut=self.shortcut,
            shortcut_activation=self.shortcut_activation,
        )

    def _check_shared(self, site: Site) -> None:
        count = self.heads_at(site.channels).count
        if site.flow.kind != "pair_bias" or site.flow.count != count or site.stride != 1:
            raise ValueError(
                f"{self.kind}: position 'shared' needs stride 1 and a table of pairs for {count} "
                f"heads beside the map (from embedding), not stride {site.stride} and "
                f"{site.flow.count} of {site.flow.kind}"
            )

    # ---- the attention alone

    def branch(self, site: Site, *, closed: bool = False) -> Blueprint:
        """The attention without norm, shortcut and layer scale, at any change of width and
        resolution; `closed` lets the last norm's factors start at zero."""
        if site.stride == 1 or self.downsampled == "queries":
            return self._attention(site, closed)
        if self.downsampled == "output":
            return units.sequence(
                self._attention(replace(site, stride=1), closed), self._pool(site)
            )
        below = replace(site, height=site.out_height, width=site.out_width, stride=1)
        return units.sequence(self._pool(site), self._attention(below, closed))

    def heads_at(self, channels: int) -> Heads:
        """The heads where attention gives so many channels."""
        count = self.heads or heads_of(channels, self.head_dim)
        if not self.head_dim and channels % count:
            raise ValueError(
                f"{self.kind}: heads is {count} and head_dim 0, but {channels} channels are not a "
                "multiple of it"
            )
        width = self.head_dim or channels // count
        return Heads(count, width, max(1, units.hidden_channels(width, self.value_ratio)))

    def _attention(self, site: Site, closed: bool) -> Blueprint:
        heads, pieces = self.heads_at(site.channels), self._pieces(site)
        asking = self._asking(site, pieces)
        halo = self.region == "halo"
        keys = self._keys(pieces)
        answered = site.out_pixels if halo else asking.count * asking.pixels
        region = self._region(site, pieces, asking)
        return blueprint(
            self._module(region),
            q=self._q(site, heads, answered),
            kv=self._linear(
                site.in_channels,
                heads.queries + heads.values,
                Parts(heads.query_axis, heads.value_axis),
                pixels=site.pixels if halo else pieces.count * keys,
            ),
            attend=self._attend(heads, asking, pieces, keys),
            activation=units.activation(self.inner_activation),
            project=self._project(heads, site, answered, closed),
            position=self._position(heads, asking, pieces, site.stride),
            subsample=blueprint(Subsample, site.stride) if site.stride > 1 else None,
            reduce=self._reduce(site, pieces, keys),
            region=region,
        )

    def _module(self, region: Blueprint | None) -> type[nn.Module]:
        if region is None:
            return BiasedAttention if self.position == "shared" else MapAttention
        if self.region == "halo":
            return HaloAttention
        return ShiftedWindowAttention if region.module is ShiftedWindows else WindowAttention

    def _pieces(self, site: Site) -> Pieces:
        """The maps inside which pixels are keys; a halo makes them overlap."""
        if self.region == "global":
            return Pieces(1, site.height, site.width)
        fitted = [
            window_side(side, self.context) if self.fit == "even" else min(side, self.context)
            for side in (site.height, site.width)
        ]
        count = -(-site.height // fitted[0]) * -(-site.width // fitted[1])
        around = 2 * self.halo if self.region == "halo" else 0
        return Pieces(count, fitted[0] + around, fitted[1] + around)

    def _asking(self, site: Site, pieces: Pieces) -> Pieces:
        """The pixels of a piece that are queries."""
        if self.region == "global":
            return Pieces(1, site.out_height, site.out_width)
        if self.region != "halo":
            if site.stride > 1:
                raise ValueError(
                    f"{self.kind}: downsampled is 'queries', which region {self.region!r} cannot do"
                )
            return pieces
        rows, columns = pieces.rows - 2 * self.halo, pieces.columns - 2 * self.halo
        if rows % site.stride or columns % site.stride:
            raise ValueError(
                f"{self.kind}: blocks of {rows}x{columns} pixels cannot have queries at every "
                f"{site.stride}nd; downsampled must be 'output'"
            )
        return Pieces(pieces.count, rows // site.stride, columns // site.stride)

    def _keys(self, pieces: Pieces) -> int:
        """Keys in one piece."""
        step = self.kv_reduction
        if step > 1 and self.reduction == "row_mean":
            return -(-pieces.pixels // step**2)
        return -(-pieces.rows // step) * -(-pieces.columns // step)

    def _linear(self, inputs: int, outputs: int, axis: Axis, *, pixels: int) -> Blueprint:
        linear = units.linear(inputs, outputs, pixels=pixels, bias=self.qkv_bias, output_axis=axis)
        norm = units.norm(self.norm, outputs, axis) if self.linear_norm else None
        return units.sequence(linear, norm)

    def _q(self, site: Site, heads: Heads, pixels: int) -> Blueprint:
        linear = self._linear(site.in_channels, heads.queries, heads.query_axis, pixels=pixels)
        if self.scale == "head":
            return linear
        return units.sequence(linear, blueprint(Times, (heads.width / site.channels) ** 0.5))

    def _attend(self, heads: Heads, asking: Pieces, pieces: Pieces, keys: int) -> Blueprint:
        one_to_one = self.value_position or self.scoring in ("channel", "gated")
        if one_to_one and asking != pieces:
            raise ValueError(
                f"{self.kind}: downsampled is 'queries', but scoring {self.scoring!r} with "
                f"value_position {self.value_position} needs as many queries as keys"
            )
        widths, batch = (heads.count, heads.width, heads.value_width), pieces.count
        if self.scoring == "linear":
            return linear_attend(*widths, batch=batch, queries=asking.pixels, keys=keys)
        if self.scoring == "channel":
            return channel_attend(*widths[:2], batch=batch, pixels=keys)
        if self.scoring == "gated":
            return gated_attend(*widths, batch=batch, pixels=keys)
        counted = cost.matmul(batch * heads.count, asking.pixels, heads.width, keys)
        counted += cost.matmul(batch * heads.count, asking.pixels, keys, heads.value_width)
        if not self.value_position:
            return blueprint(AttendMap, heads.count, cost=counted)
        near = units.depthwise(heads.values, 3, pixels=batch * pieces.pixels)
        axes = {"weight": (heads.value_axis, *near.axes["weight"][1:]), "bias": (heads.value_axis,)}
        near = replace(near, axes=axes)
        return blueprint(AttendMapAndNear, heads.count, depthwise=near, cost=counted)

    def _project(self, heads: Heads, site: Site, pixels: int, closed: bool) -> Blueprint | None:
        if self.project == "none":
            if self.shell == "pair" and heads.values != site.channels:
                raise ValueError(
                    f"{self.kind}: project is 'none', but {heads.values} channels of values are "
                    f"not the {site.channels} that must go out"
                )
            return None
        linear = units.linear(
            heads.values,
            site.channels,
            pixels=pixels,
            bias=self.project == "bias",
            input_axis=heads.value_axis,
        )
        if not self.linear_norm:
            return linear
        norm = units.norm(self.norm, site.channels)
        if closed:
            return blueprint(ClosedProjection, linear=linear, norm=norm)
        return units.sequence(linear, norm)

    def _reduce(self, site: Site, pieces: Pieces, keys: int) -> Blueprint | None:
        channels, step = site.in_channels, self.kv_reduction
        if step == 1:
            return None
        if self.reduction == "row_mean":
            return units.sequence(blueprint(RowMean, step**2), units.norm("batch", channels))
        full = self.reduction == "full_patches"
        convolution = units.convolution(
            channels,
            channels,
            3 if self.reduction == "depthwise" else step,
            pixels=pieces.count * pieces.pixels,
            out_pixels=pieces.count * keys,
            stride=step,
            groups=1 if full else channels,
            bias=self.reduction != "depthwise",
        )
        name = {"depthwise": self.norm, "patches": "batch", "full_patches": "layer"}
        return blueprint(
            ConvolutionNorm,
            convolution=convolution,
            norm=units.norm(name[self.reduction], channels),
        )

    def _region(self, site: Site, pieces: Pieces, asking: Pieces) -> Blueprint | None:
        if self.region == "global":
            return None
        sides = (asking.rows, asking.columns)
        if self.region == "halo":
            return blueprint(HaloBlocks, *sides, halo=self.halo, stride=site.stride)
        if self.region == "grid":
            return blueprint(SpreadWindows, *sides)
        moved = [
            side // 2 if self.shift and whole > side else 0
            for side, whole in zip(sides, (site.height, site.width), strict=True)
        ]
        if not any(moved):
            return blueprint(Windows, *sides)
        return blueprint(ShiftedWindows, *sides, up=moved[0], left=moved[1])

    def _position(
        self, heads: Heads, asking: Pieces, pieces: Pieces, stride: int
    ) -> Blueprint | None:
        sides = (pieces.rows, pieces.columns)
        if self.position == "relative":
            step = self.kv_reduction
            spans = [(TablePosition.span(s, stride), TablePosition.span(s, step)) for s in sides]
            arounds = [Around(before=one - 1, after=two - 1) for one, two in spans]
            more: dict[str, Any] = {"reduction": step} if step > 1 else {}
            more |= {"stride": stride} if stride > 1 else {}
            return _table(RelativePosition, "table", heads.count, sides, arounds, **more)
        if self.position == "products":
            if stride > 1:
                raise ValueError(f"{self.kind}: position 'products' cannot have strided queries")
            arounds = [Around(side - 1, side - 1) for side in sides]
            (rows, columns), count = sides, heads.count
            looked_up = cost.matmul(count, rows**2, 2 * rows - 1, 2 * columns - 1)
            looked_up += cost.matmul(1, count * rows**2, 2 * columns - 1, columns**2)
            return _table(ProductPosition, "table", count, sides, arounds, looked_up)
        if self.position == "resized":
            if stride > 1:
                raise ValueError(f"{self.kind}: position 'resized' cannot have strided queries")
            arounds = [Around(self.base - 1, self.base - 1)] * 2
            return _table(ResizedPosition, "base", heads.count, sides, arounds, base=self.base)
        if self.position == "offsets":
            more = {"stride": stride} if stride > 1 else {}
            leads = [Lead(side) for side in sides]
            return _table(DistancePosition, "distances", heads.count, sides, leads, **more)
        if self.position not in ("query", "scaled_query"):
            return None
        if stride > 1 and self.region != "halo":
            raise ValueError(
                f"{self.kind}: position {self.position!r} cannot have strided queries here"
            )
        counted, axes = cost.Cost(), {}
        for name, side in zip(("rows", "columns"), sides, strict=True):
            queries = asking.count * asking.pixels * heads.count
            counted += cost.linear(queries, heads.width, 2 * side - 1, bias=False)
            axes[name] = (Around(side - 1, side - 1), heads.width)
        more = {"scale": heads.width**-0.5} if self.position == "scaled_query" else {}
        own = (heads.count, heads.width, asking.rows, asking.columns)
        return blueprint(QueryPosition, *own, *sides, cost=counted, axes=axes, **more)


def _table(
    module: type[nn.Module],
    name: str,
    heads: int,
    sides: tuple[int, int],
    axes: Sequence[Axis],
    products: Cost = Cost(),  # noqa: B008  (frozen)
    **keywords: int,
) -> Blueprint:
    """A position table for each head, with these axes; `products` that look it up."""
    counted = cost.parameters(heads * axes[0].size * axes[1].size) + products
    return blueprint(module, heads, *sides, cost=counted, axes={name: (heads, *axes)}, **keywords)
