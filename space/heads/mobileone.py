"""MobileOne head: a grouped 3x3 convolution to more channels, a gate, the mean, a linear layer.

Source: FastViT (Vasu et al., 2023), arXiv 2303.14189, section 3 and figure 2, and its released
code. MobileCLIP's image encoders (2311.17049) have a matrix to their embedding there, without bias.
Differs from it: where the wider width is not a multiple of C, groups are fewer.
Shapes: N images, C channels in, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from space import cost, reparameterised, units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, head, number
from space.heads.pooled import ChannelMeans, PooledHeadModule
from space.reparameterised import BRANCH_NORMS
from space.settings import ACTIVATIONS
from space.shared import CONTEXTS


@head("mobileone")
@dataclass(frozen=True, slots=True, kw_only=True)
class MobileOneHead(Part):
    """Genes: `expansion` (of the width, before the pooling), `context` (side of the filter,
    pixels), `squeeze_ratio` (of the gate, 0 for none), `norm`, `activation`, `bias` (of the linear
    layer)."""

    expansion: float = number(0.5, 8, default=2, examples=(1, 2))
    context: int = choice(*CONTEXTS)
    squeeze_ratio: float = number(0, 1, default=1 / 16, examples=(0, 1 / 16))
    norm: str = choice(*BRANCH_NORMS)
    activation: str = choice(*ACTIVATIONS)
    bias: bool = choice(True, False)

    def blueprint(self, site: Site) -> Blueprint:
        channels = site.in_channels
        width = max(1, units.hidden_channels(channels, self.expansion))
        features = units.sequence(
            reparameterised.branches(
                channels,
                width,
                self.context,
                norm=self.norm,
                pixels=site.pixels,
                groups=reparameterised.per_channel_groups(channels, width),
            ),
            reparameterised.squeeze_excite(width, self.squeeze_ratio),
            units.activation(self.activation),
        )
        counted = cost.linear(1, width, site.channels, self.bias)
        bias = None if self.bias else False
        return blueprint(
            PooledHeadModule,
            features=features,
            pool=blueprint(ChannelMeans),
            classifier=blueprint(nn.Linear, width, site.channels, cost=counted, bias=bias),
        )
