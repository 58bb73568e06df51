"""Nested stem: patches of the image as a map with a class token, and beside it the pixels in them.

Source: Transformer in Transformer (Han et al., 2021), arXiv 2103.00112, section 3.1 and its
released code. A 7x7 convolution of stride 4 makes the pixels. All patches share a learned position
for each of their 4x4 pixels. A patch is made of its pixels, side by side, by a norm, a linear layer
and a norm. Patches and class token have learned positions of their own.
Shapes: N images, C channels of patches, d of pixels; patches (N, C, H / 16, W / 16), class token
(N, C, 1, 1), pixels (N, d, H / 4, W / 4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from space import cost, units
from space.blueprint import Blueprint, blueprint
from space.genes import Flow, Part, Site, choice, scaled_channels, stem, whole
from space.operators.embedding import Embedding
from space.operators.nested import PATCH_SIDE, patches_of
from space.settings import NORMS


class RepeatedPosition(nn.Module):
    """Adds a learned (d, side, side) to each patch of side x side pixels: (N, d, H, W) to the
    same."""

    def __init__(self, channels: int, side: int):
        super().__init__()
        self.position = nn.Parameter(torch.empty(channels, side, side))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (x.shape[2 + i] // self.position.shape[1 + i] for i in (0, 1))
        return x + self.position.repeat(1, rows, columns)


class NestedStemModule(nn.Module):
    """Images to patches, class token and pixels."""

    def __init__(self, pixels: nn.Module, patches: nn.Module):
        super().__init__()
        self.pixels = pixels
        self.patches = patches

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels = self.pixels(x)
        patches, tokens = self.patches(pixels)
        return patches, tokens, pixels


@stem("nested")
@dataclass(frozen=True, slots=True, kw_only=True)
class NestedStem(Part):
    """Genes: `channels` of the patches, `pixel_channels`, `norm`."""

    channels: int = whole(1, 4096, default=192)
    pixel_channels: int = whole(1, 1024, default=12)
    norm: str = choice(*NORMS)

    @property
    def stride(self) -> int:
        """Image pixels per patch, along one side."""
        return 4 * PATCH_SIDE

    def gives(self, site: Site) -> Flow:
        return Flow("nested", self.pixel_channels)

    def blueprint(self, site: Site) -> Blueprint:
        width, pixels = self.pixel_channels, PATCH_SIDE**2 * site.out_pixels
        patch = replace(
            site,
            in_channels=self.channels,
            height=site.out_height,
            width=site.out_width,
            stride=1,
        )
        return blueprint(
            NestedStemModule,
            pixels=units.sequence(
                units.convolution(
                    site.in_channels, width, 7, pixels=site.pixels, stride=4, out_pixels=pixels
                ),
                blueprint(
                    RepeatedPosition,
                    width,
                    PATCH_SIDE,
                    cost=cost.parameters(width * PATCH_SIDE**2),
                ),
            ),
            patches=units.sequence(
                patches_of(width, self.channels, self.norm, pixels=site.out_pixels),
                units.norm(self.norm, self.channels),
                Embedding(position=True, tokens=1, token_position=True).blueprint(patch),
            ),
        )

    def scaled(self, ratio: float) -> NestedStem:
        return replace(
            self,
            channels=scaled_channels(self.channels, ratio),
            pixel_channels=scaled_channels(self.pixel_channels, ratio),
        )
