"""RepMixer: a depthwise convolution with branches that fold into one, minus the map's own norm.

x + s * (M(x) - N(x)), M being the sum of a k x k and a 1x1 depthwise convolution and of x, each
with its norm, and N a norm; after training all is one depthwise convolution.
Source: FastViT (Vasu et al., 2023), arXiv 2303.14189, section 3.1 and figure 2, and its released
code. There BatchNorm, k = 3, and a ConvFFN behind, which is the operator inverted_bottleneck.
Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from space import reparameterised, units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, operator
from space.reparameterised import BRANCH_NORMS
from space.residuals import ends_with
from space.settings import ACTIVATIONS
from space.shared import CONTEXTS, EXPANSIONS, LAYER_SCALES, refuse_unused, same_width


class RepMixerModule(nn.Module):
    """x + scale(mixer(x) - norm(x)), (N, C, H, W) to the same."""

    def __init__(self, mixer: nn.Module, norm: nn.Module, scale: nn.Module | None = None):
        super().__init__()
        self.mixer = mixer
        self.norm = norm
        self.scale = scale or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale(self.mixer(x) - self.norm(x))


ends_with(RepMixerModule, "scale")


@operator("rep_mixer")
@dataclass(frozen=True, slots=True, kw_only=True)
class RepMixer(Part):
    """Genes: `context` (side of the larger filter, pixels), `norm`, `layer_scale` (its start or
    None), `expansion` and `activation` of an MLP behind (0: none)."""

    pools: ClassVar[Mapping[str, str]] = {"mlp": "mlp"}

    context: int = choice(*CONTEXTS)
    norm: str = choice(*BRANCH_NORMS)
    layer_scale: float | None = choice(*LAYER_SCALES)
    expansion: int = choice(*EXPANSIONS, default=4)
    activation: str = choice(*ACTIVATIONS)

    def __post_init__(self) -> None:
        Part.__post_init__(self)
        if not self.expansion:
            refuse_unused(self, "without an MLP", "activation")

    def blueprint(self, site: Site) -> Blueprint:
        channels = same_width(self, site)
        mixer = blueprint(
            RepMixerModule,
            mixer=reparameterised.branches(
                channels,
                channels,
                self.context,
                norm=self.norm,
                pixels=site.pixels,
                groups=channels,
            ),
            norm=units.norm(self.norm, channels),
            scale=units.layer_scale(channels, self.layer_scale),
        )
        return units.block(
            channels,
            mixer,
            expansion=self.expansion,
            pixels=site.pixels,
            activation=self.activation,
            norm_name=self.norm,
            scale=self.layer_scale,
        )
