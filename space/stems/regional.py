"""Regional stem: a local map of stride 4, and a coarse map of regional tokens beside it.

Source: RegionViT (Chen et al., 2021), arXiv 2106.02689, section 3.1 and its released code. Both
read the image: the local map by three convolutions or by one of overlapping patches, the regional
tokens by one convolution of patches as large as a window of the local map (filled up with zeros).
Shapes: N images, C channels; local (N, C, H / 4, W / 4), regional (N, C, ceil(H / 4w),
ceil(W / 4w)) for windows of w x w.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from space import units
from space.blueprint import Blueprint, blueprint
from space.genes import Flow, Part, Site, choice, scaled_channels, stem, whole
from space.settings import ACTIVATIONS, NORMS
from space.stems.convolution import ConvolutionStem


class RegionalStemModule(nn.Module):
    """Images to the local and the regional map."""

    def __init__(self, local: nn.Module, regional: nn.Module):
        super().__init__()
        self.local = local
        self.regional = regional

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.local(x), self.regional(x)


@stem("regional")
@dataclass(frozen=True, slots=True, kw_only=True)
class RegionalStem(Part):
    """Genes: `channels` out, `window` (side of what a regional token stands for, pixels of the
    local map), `local` ("convolutions": 3x3 of stride 2, 2 and 1; "patches": 8x8 of stride 4),
    `norm` and `activation` between the three convolutions."""

    channels: int = whole(1, 4096, default=64)
    window: int = choice(4, 7, 8, 14, 16, default=7)
    local: str = choice("convolutions", "patches")
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)

    @property
    def stride(self) -> int:
        """Image pixels per pixel of the local map, along one side."""
        return 4

    def gives(self, site: Site) -> Flow:
        return Flow("regions", self.window)

    def blueprint(self, site: Site) -> Blueprint:
        side = self.window * self.stride
        coarse = replace(site, stride=side)
        regional = units.convolution(
            site.in_channels,
            self.channels,
            side,
            pixels=site.pixels,
            stride=side,
            out_pixels=coarse.out_pixels,
        )
        return blueprint(RegionalStemModule, local=self._local.blueprint(site), regional=regional)

    @property
    def _local(self) -> ConvolutionStem:
        if self.local == "patches":
            return ConvolutionStem(
                channels=self.channels, kernel=8, step=4, bias=True, norm="none", activation="none"
            )
        return ConvolutionStem(
            channels=self.channels,
            kernel=3,
            step=1,
            bias=True,
            norm="none",
            activation="none",
            before=((3, 2, 0.25), (3, 2, 0.5)),
            before_bias=True,
            before_norm=self.norm,
            before_activation=self.activation,
        )

    def scaled(self, ratio: float) -> RegionalStem:
        return replace(self, channels=scaled_channels(self.channels, ratio))
