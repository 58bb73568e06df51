"""Large-kernel downsampling: a 7x7 and a 3x3 convolution side by side, then a 1x1 one.

Source: FastViT (Vasu et al., 2023), arXiv 2303.14189, section 3.2, and its released code: each
channel that comes in gives several, no activation before the 1x1 convolution, which has MobileOne's
branches (2206.04040). MobileCLIP (2311.17049) has that activation, and a gate in front of it.
Differs from them: where the width is not a multiple of that which comes in, groups are fewer.
Shapes: N images, C channels in, D channels out, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from space import reparameterised, units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, downsampling, number
from space.layers import SumOf
from space.reparameterised import BRANCH_NORMS
from space.settings import ACTIVATIONS
from space.shared import CONTEXTS


@downsampling("large_kernel")
@dataclass(frozen=True, slots=True, kw_only=True)
class LargeKernel(Part):
    """Genes: `context` (side of the larger filter, pixels), `norm`, `activation`, `activate`
    (behind the 1x1 convolution, or the large one too), `squeeze_ratio` (of a gate behind the large
    convolution, 0 for none), `shortcut` (adds a pooled one, see `units.with_pooled_shortcut`, and
    factors of the channels on the rest)."""

    pools: ClassVar[Mapping[str, str]] = {"shortcut": "dsm"}

    context: int = choice(*CONTEXTS[1:], default=7)
    norm: str = choice(*BRANCH_NORMS)
    activation: str = choice(*ACTIVATIONS)
    activate: str = choice("last", "both")
    squeeze_ratio: float = number(0, 1, default=0, examples=(0, 0.25))
    shortcut: bool = choice(False, True)

    def blueprint(self, site: Site) -> Blueprint:
        inputs, channels, out = site.in_channels, site.channels, site.out_pixels
        spread = tuple(
            reparameterised.convolution_norm(
                inputs,
                channels,
                side,
                norm=self.norm,
                pixels=site.pixels,
                out_pixels=out,
                stride=site.stride,
                groups=reparameterised.per_channel_groups(inputs, channels),
            )
            for side in (self.context, 3)
        )
        branch = units.sequence(
            blueprint(SumOf, branches=spread),
            reparameterised.squeeze_excite(channels, self.squeeze_ratio),
            units.activation(self.activation) if self.activate == "both" else None,
            reparameterised.branches(channels, channels, 1, norm=self.norm, pixels=out),
            units.activation(self.activation),
            units.layer_scale(channels, 0.01 if self.shortcut else None),
        )
        return units.with_pooled_shortcut(branch, site) if self.shortcut else branch
