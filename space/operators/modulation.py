"""Modulation: each pixel's query times a context gathered around it, then an MLP.

One shape for what is published under five names, split(linear(x)) -> context -> aggregation ->
product -> linear; `gathering` says how the context is made:

- "levels": depthwise filters in series, each level times a gate of the pixel, and the mean of the
  last. FocalNet (Yang et al., 2022), arXiv 2203.11926, section 3.2.
- "heads": a filter of its own size for each share of the channels, the shares mixed by a grouped
  and a full linear layer. SMT (Lin et al., 2023), arXiv 2307.08579, section 3.2.
- "shares": a filter on all channels, dilated ones on 3/8 and 4/8 of them, a gate, and a
  shortcut of its own that starts behind the norm. MogaNet (Li et al., 2022), arXiv 2211.03295,
  section 4.2.
- "recursive": products with one context after another. HorNet (Rao et al., 2022), arXiv
  2207.14284, section 3.1; "recursive_filter" its global-local filter (GF).

Differs from them: `context` gives every one of them filters of other sizes, and `inner_norm` other
norms. A width that 8 does not divide has shares of C - b - c, b = 3 C // 8 and c = C // 2.
Products of the Fourier transform are not counted, as in the published figures.
Shapes: N images, C channels, L levels, E = expansion * C, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from space import cost, units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, number, operator
from space.layers import Block
from space.modulation_layers import (
    Decomposition,
    FocalModulation,
    GatedAggregation,
    GlobalFilter,
    LocalGlobalFilter,
    PostNormResidual,
    RecursiveModulation,
    ScaleAwareModulation,
    SharesContext,
)
from space.settings import ACTIVATIONS, NORMS
from space.shared import CONTEXTS, EXPANSIONS, LAYER_SCALES, refuse_unused, same_width
from space.slicing import Around, Axis, Grid, Parts

LEVELS = (2, 3, 4, 5)
RECURSIVE = ("recursive", "recursive_filter")
NORMED_INSIDE = ("heads", "recursive_filter")


@operator("modulation")
@dataclass(frozen=True, slots=True, kw_only=True)
class Modulation(Part):
    """Genes: `gathering` (of the context), `levels` (L: focal levels, heads, or the order of the
    recursion; of no account for "shares"), `context` (side of the smallest filter, pixels; each
    level or head has 2 more than the one before, the last share 2 more than the others),
    `inner_norm` (of the aggregation of heads, or around the filter of "recursive_filter"),
    `expansion` (E / C, 0 for no MLP), `post_norm` (the norms stand behind the layers),
    `layer_scale` (its start or None), `norm`, `activation`.

    C must be a multiple of L for "heads", of 2**(L - 1) for "recursive" and of 2**L for
    "recursive_filter", and at least 3 for "shares".
    """

    pools: ClassVar[Mapping[str, str]] = {"mlp": "mlp"}

    gathering: str = choice("levels", "heads", "shares", *RECURSIVE)
    levels: int = choice(*LEVELS)
    context: int = choice(*CONTEXTS)
    inner_norm: str = choice(*NORMS)
    expansion: float = number(0, 32, default=4, examples=EXPANSIONS)
    post_norm: bool = choice(False, True)
    layer_scale: float | None = choice(*LAYER_SCALES)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)

    def __post_init__(self) -> None:
        Part.__post_init__(self)
        where = f"where gathering is {self.gathering!r}"
        if self.gathering == "shares":
            refuse_unused(self, where, "levels")
        if self.gathering not in NORMED_INSIDE:
            refuse_unused(self, where, "inner_norm")
        if self.gathering in RECURSIVE and self.expansion == 0:
            refuse_unused(self, f"{where} and there is no MLP", "activation")
        if self.post_norm and self.norm == "none":
            raise ValueError(f"{self.kind}: post_norm is True, but norm is 'none'")

    def blueprint(self, site: Site) -> Blueprint:
        channels = same_width(self, site)
        makers: dict[str, Callable[[Site], Blueprint]] = {
            "levels": self._levels,
            "heads": self._heads,
            "shares": self._shares,
            "recursive": self._recursive,
            "recursive_filter": self._recursive,
        }
        mixer = self._residual(channels, makers[self.gathering](site))
        if not self.expansion:
            return blueprint(Block, mixer=mixer)
        hidden = max(1, units.hidden_channels(channels, self.expansion))
        mlp = units.mlp(channels, hidden, pixels=site.pixels, activation=self.activation)
        return blueprint(Block, mixer=mixer, mlp=self._residual(channels, mlp))

    def _residual(self, channels: int, branch: Blueprint) -> Blueprint:
        if not self.post_norm:
            return units.residual(channels, branch, norm_name=self.norm, scale=self.layer_scale)
        return blueprint(
            PostNormResidual,
            branch=branch,
            norm=units.norm(self.norm, channels),
            scale=units.layer_scale(channels, self.layer_scale),
        )

    def _sides(self) -> range:
        """Sides of the filters of levels or heads."""
        return range(self.context, self.context + 2 * self.levels, 2)

    def _multiple_of(self, divisor: int, channels: int) -> None:
        if channels % divisor:
            raise ValueError(
                f"{self.kind}: {channels} channels, but gathering {self.gathering!r} with levels "
                f"{self.levels} needs a multiple of {divisor}"
            )

    def _levels(self, site: Site) -> Blueprint:
        channels, pixels = site.channels, site.pixels
        levels = tuple(
            units.sequence(
                units.depthwise(channels, side, pixels=pixels, bias=False),
                units.activation(self.activation),
            )
            for side in self._sides()
        )
        outputs = Parts(channels, channels, self.levels, 1)
        return blueprint(
            FocalModulation,
            expand=units.linear(channels, outputs.size, pixels=pixels, output_axis=outputs),
            levels=levels,
            activation=units.activation(self.activation),
            modulator=units.linear(channels, channels, pixels=pixels),
            project=units.linear(channels, channels, pixels=pixels),
        )

    def _heads(self, site: Site) -> Blueprint:
        channels, pixels, heads = site.channels, site.pixels, self.levels
        self._multiple_of(heads, channels)
        each = channels // heads
        mixed = Grid(each, 2 * heads)  # a group has a channel of each head, and gives two for it
        grouped = units.convolution(channels, 2 * channels, 1, pixels=pixels, groups=each)
        return blueprint(
            ScaleAwareModulation,
            value=units.linear(channels, channels, pixels=pixels),
            scales=units.linear(channels, channels, pixels=pixels, output_axis=Grid(heads, each)),
            heads=tuple(units.depthwise(each, side, pixels=pixels) for side in self._sides()),
            mix=units.sequence(
                cut_along(mixed, grouped),
                units.norm(self.inner_norm, 2 * channels, mixed),
                units.activation(self.activation),
                units.linear(2 * channels, channels, pixels=pixels, input_axis=mixed),
            ),
            project=units.linear(channels, channels, pixels=pixels),
        )

    def _shares(self, site: Site) -> Blueprint:
        channels, pixels = site.channels, site.pixels
        if channels < 3:
            raise ValueError(
                f"{self.kind}: {channels} channels, but gathering 'shares' needs at least 3"
            )
        second, third = 3 * channels // 8, channels // 2
        shares = (channels - second - third, second, third)
        axis, active = Parts(*shares), units.activation(self.activation)
        context = blueprint(
            SharesContext,
            shares,
            common=cut_along(axis, units.depthwise(channels, self.context, pixels=pixels)),
            second=units.depthwise(second, self.context, pixels=pixels, dilation=2),
            third=units.depthwise(third, self.context + 2, pixels=pixels, dilation=3),
        )
        counted = cost.parameters(channels)
        decomposed = blueprint(Decomposition, channels, cost=counted, axes={"scale": (axis,)})
        expand = units.linear(channels, channels, pixels=pixels, output_axis=axis)
        inner = units.linear(channels, channels, pixels=pixels, input_axis=axis)
        return blueprint(
            GatedAggregation,
            expand=units.sequence(expand, decomposed, active),
            gate=units.sequence(inner, active),
            value=units.sequence(context, inner, active),
            project=units.linear(channels, channels, pixels=pixels),
        )

    def _recursive(self, site: Site) -> Blueprint:
        channels, pixels, order = site.channels, site.pixels, self.levels
        filtered = self.gathering == "recursive_filter"
        self._multiple_of(2 ** (order if filtered else order - 1), channels)
        widths = tuple(channels >> step for step in reversed(range(order)))
        # One structure for both, so that they may share `split` in a supernet.
        first, second = widths_axis(widths), widths_axis((0,) * order)
        if filtered:
            context = self._filter(site, widths)
            first = second = widths_axis(halves(widths))
        else:
            filters = units.depthwise(sum(widths), self.context, pixels=pixels)
            context = cut_along(first, filters)
        outputs = Parts(widths[0], first, second)
        return blueprint(
            RecursiveModulation,
            widths,
            split=units.linear(channels, 2 * channels, pixels=pixels, output_axis=outputs),
            context=context,
            steps=tuple(units.linear(w // 2, w, pixels=pixels) for w in reversed(widths[1:])),
            project=units.linear(channels, channels, pixels=pixels),
        )

    def _filter(self, site: Site, widths: tuple[int, ...]) -> Blueprint:
        total, height = sum(widths), site.height
        half = widths_axis(halves(widths))
        # Low frequencies of either sign stand at either end of the rows.
        rows = Parts((height + 1) // 2, Around(height // 2 - 1, 0))
        columns = site.width // 2 + 1
        spectral = blueprint(
            GlobalFilter,
            total // 2,
            height,
            site.width,
            cost=cost.parameters(total // 2 * height * columns * 2),
            axes={"weight": (half, rows, columns, 2)},
        )
        local = units.depthwise(total // 2, self.context, pixels=site.pixels, bias=False)
        return blueprint(
            LocalGlobalFilter,
            local=cut_along(half, local),
            spectral=spectral,
            norm=units.norm(self.inner_norm, total, Parts(half, half)),
            last_norm=units.norm(self.inner_norm, total, widths_axis(widths)),
        )


def widths_axis(widths: tuple[int, ...]) -> Parts:
    """The contexts of a recursion side by side; lower orders lack the first ones."""
    return Parts(*(0,) * (max(LEVELS) - len(widths)), *widths)


def halves(widths: tuple[int, ...]) -> tuple[int, ...]:
    """What each of two halves has of every width, where channels come from them in turn."""
    return tuple(width // 2 for width in widths)


def cut_along(axis: Axis, convolution: Blueprint) -> Blueprint:
    """A convolution whose channels that go out are not cut as leading ones."""
    axes = {**convolution.axes, "weight": (axis, *convolution.axes["weight"][1:])}
    if convolution.keywords.get("bias", True):
        axes["bias"] = (axis,)
    return replace(convolution, axes=axes)
