"""Nested transformer block: pixels attend to those of their patch, then patches to one another.

Source: Transformer in Transformer (Han et al., 2021), arXiv 2103.00112, section 3.1 and its
released code, with the feed-forward layer of LocalViT (Li et al., 2021, arXiv 2104.05707, section
3): a depthwise convolution and squeeze-excite inside the MLP of the patches, without a norm in
front, which leaves the class token alone.
Shapes: N images, C channels of patches, d of pixels; patches (N, C, H, W), class token
(N, C, 1, 1), pixels (N, d, 4 H, 4 W).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from space import units
from space.blueprint import Blueprint, blueprint
from space.genes import MAP, Flow, Part, Site, choice, number, operator, whole
from space.operators.attention import Attention
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.settings import NORMS
from space.shared import EXPANSIONS, HEAD_DIMS, same_width
from space.slicing import Grid

PATCH_SIDE = 4  # pixels along one side of a patch


class SideBySide(nn.Module):
    """The channels of the pixels of each patch side by side, pixel by pixel and row by row:
    (N, d, side * H, side * W) to (N, side * side * d, H, W)."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(3, (-1, self.side)).unflatten(2, (-1, self.side))
        return x.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


class NestedBlock(nn.Module):
    """Patches, class token and pixels to the same."""

    def __init__(self, inner: nn.Module, project: nn.Module, outer: nn.Module):
        super().__init__()
        self.inner = inner
        self.project = project
        self.outer = outer

    def forward(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        patches, tokens, pixels = state
        pixels = self.inner(pixels)
        patches, tokens = self.outer((patches + self.project(pixels), tokens))
        return patches, tokens, pixels


class LastNestedBlock(NestedBlock):
    """Patches, class token and pixels to the first two."""

    def forward(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return super().forward(state)[:2]


def patches_of(width: int, channels: int, norm: str, *, pixels: int) -> Blueprint:
    """Pixels of `width` channels to `channels` of their patch, of which there are `pixels`."""
    axis = Grid(PATCH_SIDE**2, width)
    return units.sequence(
        blueprint(SideBySide, PATCH_SIDE),
        units.norm(norm, axis.size, axis),
        units.linear(axis.size, channels, pixels=pixels, input_axis=axis),
    )


@operator("nested")
@dataclass(frozen=True, slots=True, kw_only=True)
class Nested(Part):
    """Genes: `inner_heads` and `inner_expansion` of the pixels' transformer; `head_dim` and
    `qkv_bias` (also of the pixels) of the patches' attention, `expansion` and `squeeze_ratio` of
    their feed-forward layer; `norm`; `keep_pixels` (without, patches and class token alone go on:
    so in the last block)."""

    takes = ("nested",)

    inner_heads: int = whole(1, 16, default=4)
    inner_expansion: int = choice(*EXPANSIONS, default=4)
    head_dim: int = choice(*HEAD_DIMS, default=64)
    qkv_bias: bool = choice(False, True)
    expansion: float = number(0.1, 32, default=4, examples=(1, 2, 4))
    squeeze_ratio: float = number(0.001, 1, default=0.25)
    norm: str = choice(*NORMS)
    keep_pixels: bool = choice(False, True, default=True)

    def gives(self, site: Site) -> Flow:
        return site.flow if self.keep_pixels else Flow("tokens", 1)

    def blueprint(self, site: Site) -> Blueprint:
        channels, width = same_width(self, site), site.flow.count
        inner_site = replace(
            site,
            in_channels=width,
            channels=width,
            height=PATCH_SIDE * site.height,
            width=PATCH_SIDE * site.width,
            flow=MAP,
        )
        inner = Attention(
            region="window",
            context=PATCH_SIDE,
            heads=self.inner_heads,
            head_dim=0,
            qkv_bias=self.qkv_bias,
            expansion=self.inner_expansion,
            norm=self.norm,
        )
        outer = Attention(
            head_dim=self.head_dim, qkv_bias=self.qkv_bias, expansion=0, norm=self.norm
        )
        with_token = replace(site, flow=Flow("tokens", 1))
        return blueprint(
            NestedBlock if self.keep_pixels else LastNestedBlock,
            inner=inner.blueprint(inner_site),
            project=self._project(width, channels, site.pixels),
            outer=units.sequence(
                outer.blueprint(with_token),
                feed_forward(self.expansion, self.squeeze_ratio).blueprint(with_token),
            ),
        )

    def _project(self, width: int, channels: int, pixels: int) -> Blueprint:
        norm = units.norm(self.norm, width)
        return units.sequence(norm, patches_of(width, channels, "none", pixels=pixels))


def feed_forward(expansion: float, squeeze_ratio: float | None) -> InvertedBottleneck:
    """LocalViT's feed-forward layer; without squeeze-excite where its ratio is None."""
    gate: dict[str, Any] = {}
    if squeeze_ratio is not None:
        gate = {"squeeze_excite": True, "squeeze_style": "exact", "squeeze_ratio": squeeze_ratio}
    return InvertedBottleneck(
        expansion=expansion,
        first_norm="none",
        norm="batch",
        last_norm="batch",
        activation="hardswish",
        bias="none",
        **gate,
    )
