"""Regional mixing: regions of the map attend to one another, then a convolution mixes pixels with
the region that they lie in.

Source: MRL (Mohta et al., 2022), arXiv 2208.13975: regional features mixed by self-attention, then
local ones, augmented by these, by a convolution, which may have groups. Its abstract is all that
this follows: a region's feature is the mean of a square of pixels, each of which gets the mixed
feature back; the two are added, or stand side by side, channel by channel, so that each group of
the convolution sees both.
Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from space import units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, operator, whole
from space.operators.attention import Attention
from space.operators.multi_path import coarse_site
from space.settings import ACTIVATIONS, NORMS
from space.shared import (
    CONTEXTS,
    EXPANSIONS,
    HEAD_DIMS,
    LAYER_SCALES,
    groups_of,
    same_width,
)


class RegionalMixer(nn.Module):
    """(N, C, H, W) to the same; regions of `side` x `side` pixels."""

    def __init__(self, side: int, regional: nn.Module, local: nn.Module):
        super().__init__()
        self.side = side
        self.pool = nn.AvgPool2d(side, ceil_mode=True)
        self.regional = regional
        self.local = local

    def forward(self, x: Tensor) -> Tensor:
        y = self.regional(self.pool(x))
        y = F.interpolate(y, scale_factor=self.side, mode="nearest")
        return self.local(self.join(x, y[..., : x.shape[2], : x.shape[3]]))

    def join(self, local: Tensor, regional: Tensor) -> Tensor:
        """The two maps as one."""
        return local + regional


class SideBySideMixer(RegionalMixer):
    """`RegionalMixer` whose local layer sees 2 C channels: each of the map in front of the same
    one of its region."""

    def join(self, local: Tensor, regional: Tensor) -> Tensor:
        return torch.stack([local, regional], 2).flatten(1, 2)


@operator("regional_mixing")
@dataclass(frozen=True, slots=True, kw_only=True)
class RegionalMixing(Part):
    """Genes: `region` (side, pixels), `head_dim`, `context` (side of the filter, pixels),
    `group_width` (channels of a group of it that go out, 0 for all), `fusion`, `expansion` (of the
    MLP behind, 0 for none), `layer_scale` (its start or None), `norm`, `activation`."""

    pools: ClassVar[Mapping[str, str]] = {"mlp": "mlp"}

    region: int = whole(1, 32, default=4)
    head_dim: int = choice(*HEAD_DIMS, default=32)
    context: int = choice(*CONTEXTS)
    group_width: int = choice(1, 0, 8, 16, 32, 64)
    fusion: str = choice("add", "concatenate")
    expansion: int = choice(*EXPANSIONS, default=4)
    layer_scale: float | None = choice(*LAYER_SCALES)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)

    def blueprint(self, site: Site) -> Blueprint:
        channels = same_width(self, site)
        if self.region > 1 and coarse_site(site, self.region).pixels == 1:
            raise ValueError(
                f"{self.kind}: region is {self.region}, but the map is {site.height}x{site.width}: "
                "there must be more than one"
            )
        beside = self.fusion == "concatenate"
        mixer = blueprint(
            SideBySideMixer if beside else RegionalMixer,
            self.region,
            regional=Attention(head_dim=self.head_dim).branch(coarse_site(site, self.region)),
            local=units.convolution(
                2 * channels if beside else channels,
                channels,
                self.context,
                pixels=site.pixels,
                groups=groups_of(channels, self.group_width),
            ),
        )
        return units.mixing_block(self, site, mixer)
