"""MobileOne stem: a 3x3 convolution, a depthwise one and a 1x1 one, each trained in branches.

Source: FastViT (Vasu et al., 2023), arXiv 2303.14189, section 3 and figure 2; blocks of MobileOne
(Vasu et al., 2022), arXiv 2206.04040. The first two have stride 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from space import reparameterised, units
from space.blueprint import Blueprint
from space.genes import Part, Site, choice, scaled_channels, stem, whole
from space.reparameterised import BRANCH_NORMS
from space.settings import ACTIVATIONS


@stem("mobileone")
@dataclass(frozen=True, slots=True, kw_only=True)
class MobileOneStem(Part):
    """Genes: `channels` out, `norm`, `activation` (behind each convolution)."""

    channels: int = whole(1, 4096, default=32)
    norm: str = choice(*BRANCH_NORMS)
    activation: str = choice(*ACTIVATIONS)

    @property
    def stride(self) -> int:
        """Input pixels per pixel that leaves the stem, along one side."""
        return 4

    def blueprint(self, site: Site) -> Blueprint:
        width, half = self.channels, -(-site.height // 2) * -(-site.width // 2)
        layers: list[Blueprint | None] = []
        for inputs, kernel, stride, groups, pixels, out in (
            (site.in_channels, 3, 2, 1, site.pixels, half),
            (width, 3, 2, width, half, site.out_pixels),
            (width, 1, 1, 1, site.out_pixels, site.out_pixels),
        ):
            layers += [
                reparameterised.branches(
                    inputs,
                    width,
                    kernel,
                    norm=self.norm,
                    pixels=pixels,
                    out_pixels=out,
                    stride=stride,
                    groups=groups,
                ),
                units.activation(self.activation),
            ]
        return units.sequence(*layers)

    def scaled(self, ratio: float) -> MobileOneStem:
        return replace(self, channels=scaled_channels(self.channels, ratio))
