"""Axis MLP: token mixers that work along the height and along the width, and an MLP behind them.

What is published under seven names differs in how a branch sees its axis, which is `mixing`.
"permute" is a linear layer on all pixels of the axis with a segment of the channels (Vision
Permutator, ViP; Hou et al., 2021, arXiv 2106.12368, section 3); "cycle" one whose input channels
read neighbouring pixels in turn (CycleMLP; Chen et al., 2021, arXiv 2107.10224, section 3);
"region" an MLP on a few neighbouring pixels (Hire-MLP; Guo et al., 2021, arXiv 2108.13341, section
3); "wave" a convolution of waves (Wave-MLP; Tang et al., 2021, arXiv 2111.12294, section 3). These
add a branch on the channels of each pixel and weigh the three by a softmax.
"dense" is a linear layer on all pixels of the axis, and one on the branches side by side (sMLPNet;
Tang et al., 2021, arXiv 2109.05422, section 3). "shift" moves groups of channels along the axis,
with a linear layer on the sum (AS-MLP; Lian et al., 2021, arXiv 2107.08391, section 3).
"spatial_shift" moves four groups of channels by one pixel, in a single branch (S2-MLP; Yu et al.,
2021, arXiv 2106.07477, section 3).
Weights of "permute" and "dense" belong to one map size; all others run on any map.
Shapes: N images, C channels, E = expansion * C, H x W pixels, K = context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import nn

from space import axis_layers, cost, units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, operator, whole
from space.settings import ACTIVATIONS, NORMS
from space.shared import CONTEXTS, EXPANSIONS, LAYER_SCALES, refuse_unused, same_width
from space.slicing import Grid, Parts

HEIGHT, WIDTH = 2, 3  # axes of (N, C, H, W)
_USED = {  # which of the genes that not every mixing has
    "permute": (),
    "cycle": ("context",),
    "region": ("context", "step", "inner_norm"),
    "wave": ("context", "phase", "inner_norm"),
    "dense": ("inner_norm",),
    "shift": ("context", "inner_norm"),
    "spatial_shift": (),
}


@operator("axis_mlp")
@dataclass(frozen=True, slots=True, kw_only=True)
class AxisMlp(Part):
    """Genes: `mixing` (see above), `context` (pixels that a branch reads along its axis; of a
    region, its side, which alone may be even), `step` (by which regions are shifted), `phase`
    (layer that makes the phase of waves), `expansion` (E / C of the MLP behind), `layer_scale` (its
    start or None), `norm` (in front of mixer and MLP), `inner_norm` (inside the mixer),
    `activation` (regions and phases have ReLU instead)."""

    pools: ClassVar[Mapping[str, str]] = {"mlp": "mlp"}

    mixing: str = choice(*_USED, default="cycle")
    context: int = choice(*sorted((2, 4, *CONTEXTS)), default=3)
    step: int = whole(0, 12, default=0)
    phase: str = choice("linear", "depthwise")
    expansion: int = choice(*EXPANSIONS, default=4)
    layer_scale: float | None = choice(*LAYER_SCALES)
    norm: str = choice(*NORMS)
    inner_norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)

    def __post_init__(self) -> None:
        Part.__post_init__(self)
        unused = {"context", "step", "phase", "inner_norm"} - set(_USED[self.mixing])
        refuse_unused(self, f"to the mixing {self.mixing!r}", *sorted(unused))
        if self.mixing != "region" and self.context % 2 == 0:
            raise ValueError(
                f"{self.kind}: context is {self.context}, but must be odd for the mixing "
                f"{self.mixing!r}"
            )

    def blueprint(self, site: Site) -> Blueprint:
        same_width(self, site)
        mixings = {
            "permute": self._permute,
            "cycle": self._cycle,
            "region": self._region,
            "wave": self._wave,
            "dense": self._dense,
            "shift": self._shift,
            "spatial_shift": self._spatial_shift,
        }
        return units.mixing_block(self, site, mixings[self.mixing](site))

    # ---- three branches, weighed

    def _reweighted(
        self, site: Site, first: Blueprint, second: Blueprint, *, channel_bias: bool = False
    ) -> Blueprint:
        channels, pixels = site.channels, site.pixels
        hidden = max(1, channels // 4)
        return blueprint(
            axis_layers.ReweightedBranches,
            first=first,
            second=second,
            channel=units.linear(channels, channels, pixels=pixels, bias=channel_bias),
            weigh=units.sequence(
                units.linear(channels, hidden, pixels=1),
                units.activation(self.activation),
                units.linear(hidden, 3 * channels, pixels=1),
            ),
            project=units.linear(channels, channels, pixels=pixels),
        )

    def _permute(self, site: Site) -> Blueprint:
        return self._reweighted(
            site, self._permuted(site, HEIGHT, site.height), self._permuted(site, WIDTH, site.width)
        )

    def _permuted(self, site: Site, axis: int, side: int) -> Blueprint:
        channels = site.channels
        if channels % side:
            raise ValueError(
                f"{self.kind}: the mixing 'permute' cuts the channels into as many segments as the "
                f"map has rows, and as columns, but {channels} is no multiple of {side}"
            )
        # Cut as leading channels, not as pixels x segment: a smaller map has longer segments.
        linear = units.linear(channels, channels, pixels=site.pixels, bias=False)
        return blueprint(axis_layers.PermutedLinear, axis, side, linear=linear)

    def _cycle(self, site: Site) -> Blueprint:
        branches = [
            units.sequence(
                blueprint(axis_layers.CycleShift, axis, self.context),
                units.linear(site.channels, site.channels, pixels=site.pixels),
            )
            for axis in (WIDTH, HEIGHT)
        ]
        return self._reweighted(site, *branches)

    def _region(self, site: Site) -> Blueprint:
        regions_down, regions_along = (
            -(-side // self.context) for side in (site.height, site.width)
        )
        return self._reweighted(
            site,
            self._regional(site.channels, HEIGHT, regions_down * site.width),
            self._regional(site.channels, WIDTH, site.height * regions_along),
            channel_bias=True,
        )

    def _regional(self, channels: int, axis: int, regions: int) -> Blueprint:
        hidden, stacked = max(1, channels // 2), Grid(channels, self.context)
        return blueprint(
            axis_layers.RegionMlp,
            axis,
            self.context,
            self.step,
            reduce=units.linear(
                stacked.size, hidden, pixels=regions, bias=False, input_axis=stacked
            ),
            expand=units.linear(hidden, stacked.size, pixels=regions, output_axis=stacked),
            norm=units.norm(self.inner_norm, hidden),
        )

    def _wave(self, site: Site) -> Blueprint:
        return self._reweighted(site, self._waves(site, WIDTH), self._waves(site, HEIGHT))

    def _waves(self, site: Site, axis: int) -> Blueprint:
        channels, pixels = site.channels, site.pixels
        if self.phase == "linear":
            layer = units.linear(channels, channels, pixels=pixels)
        else:
            # In a sequence of its own, so that a supernet of both has a weight for each.
            layer = blueprint(
                nn.Sequential, units.depthwise(channels, 3, pixels=pixels, bias=False)
            )
        reach = self.context // 2
        kernel = (1, self.context) if axis == WIDTH else (self.context, 1)
        mix = blueprint(
            nn.Conv2d,
            2 * channels,
            channels,
            kernel,
            1,
            (0, reach) if axis == WIDTH else (reach, 0),
            groups=channels,
            bias=False,
            cost=cost.convolution(
                pixels,
                pixels,
                2 * channels,
                channels,
                taps=self.context,
                groups=channels,
                bias=False,
            ),
        )
        return blueprint(
            axis_layers.WaveMixing,
            phase=units.sequence(
                layer, units.norm(self.inner_norm, channels), units.activation("relu")
            ),
            amplitude=units.linear(channels, channels, pixels=pixels, bias=False),
            mix=mix,
        )

    # ---- branches joined by a linear layer

    def _dense(self, site: Site) -> Blueprint:
        channels, pixels = site.channels, site.pixels
        return blueprint(
            axis_layers.ConcatenatedBranches,
            ACTIVATIONS[self.activation],
            local=units.depthwise(channels, 3, pixels=pixels, bias=False),
            rows=self._along(WIDTH, site.width, channels * site.height),
            columns=self._along(HEIGHT, site.height, channels * site.width),
            join=units.linear(
                3 * channels,
                channels,
                pixels=pixels,
                bias=False,
                input_axis=Parts(channels, channels, channels),
            ),
            norm=units.norm(self.inner_norm, channels),
        )

    def _along(self, axis: int, side: int, vectors: int) -> Blueprint:
        layer = units.linear(side, side, pixels=vectors)
        return blueprint(axis_layers.AlongAxis, axis, side, layer=layer)

    def _shift(self, site: Site) -> Blueprint:
        channels, pixels = site.channels, site.pixels
        rows, columns = (
            units.sequence(
                blueprint(axis_layers.GroupShift, axis, self.context),
                units.linear(channels, channels, pixels=pixels),
                units.activation(self.activation),
            )
            for axis in (WIDTH, HEIGHT)
        )
        return blueprint(
            axis_layers.SummedBranches,
            expand=units.sequence(
                units.linear(channels, channels, pixels=pixels),
                units.norm(self.inner_norm, channels),
                units.activation(self.activation),
            ),
            rows=rows,
            columns=columns,
            project=units.linear(channels, channels, pixels=pixels),
            norm=units.norm(self.inner_norm, channels),
        )

    def _spatial_shift(self, site: Site) -> Blueprint:
        channels, pixels = site.channels, site.pixels
        ends = [i * channels // 4 for i in range(5)]
        quarters = Parts(*(end - start for start, end in pairwise(ends)))
        return units.sequence(
            units.linear(channels, channels, pixels=pixels, output_axis=quarters),
            units.activation(self.activation),
            blueprint(axis_layers.SpatialShift),
            units.linear(channels, channels, pixels=pixels, input_axis=quarters),
        )
