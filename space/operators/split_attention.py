"""Split attention: depthwise convolutions of channels in parts, each seeing the one before it; then
attention between channels, and an MLP.

y = convolutions(x), plus a code of the position where asked for; y' = y + attention(norm(y));
x + mlp(norm(y')): the input alone passes by, neither the convolutions nor the attention do. The
first parts have ceil(C / parts) channels each, and the last one, which is not convolved, the rest.
Source: the SDTA encoder of EdgeNeXt (Maaz et al., 2022), arXiv 2206.10589, section 3.2, and its
released code; attention between channels is XCiT's (2106.09681, section 3.2).
Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from space import units
from space.attention_layers import MapAttention
from space.attention_scores import channel_attend
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, number, operator, whole
from space.residuals import ends_with
from space.settings import ACTIVATIONS, NORMS
from space.shared import CONTEXTS, LAYER_SCALES, heads_of, same_width
from space.slicing import Grid


class ConvolvedParts(nn.Module):
    """Parts of the channels, each convolved with what the one before it gave added.

    The last stays as it is; (N, C, H, W) to the same.
    """

    def __init__(self, width: int, convolutions: tuple[nn.Module, ...]):
        super().__init__()
        self.width = width
        self.convolutions = nn.ModuleList(convolutions)

    def forward(self, x: Tensor) -> Tensor:
        *parts, last = x.split(self.width, 1)
        made: list[Tensor] = []
        for part, convolution in zip(parts, self.convolutions, strict=True):
            made.append(convolution(part + made[-1] if made else part))
        return torch.cat([*made, last], 1)


class FourierPosition(nn.Module):
    """Adds a linear layer of sines and cosines of the row and the column, each of 32 channels:
    (N, C, H, W) to the same.

    Rows are numbered from 1 and scaled to 2 pi at the last; pair i has the wavelength
    2 pi * 10000^(i / 16). Source: DETR (Carion et al., 2020), arXiv 2005.12872, released code.
    """

    def __init__(self, linear: nn.Module):
        super().__init__()
        self.linear = linear

    @staticmethod
    def waves(side: int, like: Tensor) -> Tensor:
        """(32, side): sine and cosine of each wavelength in turns."""
        exact = torch.promote_types(like.dtype, torch.float32)
        place = torch.arange(1, side + 1, dtype=exact, device=like.device) * (2 * math.pi / side)
        power = torch.arange(16, dtype=exact, device=like.device)[:, None] / 16
        angle = place / 10000**power
        return torch.stack([angle.sin(), angle.cos()], 1).flatten(0, 1).to(like.dtype)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rows = self.waves(height, x)[:, :, None].expand(-1, -1, width)
        columns = self.waves(width, x)[:, None].expand(-1, height, -1)
        return x + self.linear(torch.cat([rows, columns])[None])


class SplitAttentionModule(nn.Module):
    """x + mlp(attention(position(split(x)))): (N, C, H, W) to the same; the attention has a
    residual of its own."""

    def __init__(
        self,
        split: nn.Module,
        attention: nn.Module,
        mlp: nn.Module,
        position: nn.Module | None = None,
    ):
        super().__init__()
        self.split = split
        self.position = position or nn.Identity()
        self.attention = attention
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.attention(self.position(self.split(x))))


ends_with(SplitAttentionModule, "mlp")


@operator("split_attention")
@dataclass(frozen=True, slots=True, kw_only=True)
class SplitAttention(Part):
    """Genes: `parts` (of the channels), `context` (side of their filters, pixels), `position` (a
    code is added, "fourier" or "none"), `heads` (0: as many as fit), `head_dim` (0: C / heads),
    `expansion` (of the MLP), `layer_scale` (its start or None), `norm`, `activation`."""

    parts: int = whole(2, 8, default=2)
    context: int = choice(*CONTEXTS)
    position: str = choice("none", "fourier")
    heads: int = whole(0, 256, default=0)
    head_dim: int = whole(0, 512, default=32)
    expansion: float = number(0.1, 32, default=4, examples=(1, 2, 4, 6))
    layer_scale: float | None = choice(*LAYER_SCALES)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)

    def __post_init__(self) -> None:
        Part.__post_init__(self)
        if not self.heads and not self.head_dim:
            raise ValueError(f"{self.kind}: heads and head_dim are both 0; give one of them")

    def blueprint(self, site: Site) -> Blueprint:
        channels = same_width(self, site)
        position = None
        if self.position == "fourier":
            linear = units.linear(64, channels, pixels=site.pixels)
            position = blueprint(FourierPosition, linear=linear)
        hidden = max(1, units.hidden_channels(channels, self.expansion))
        return blueprint(
            SplitAttentionModule,
            split=self._split(site, channels),
            position=position,
            attention=units.residual(
                channels,
                self._attention(site, channels),
                norm_name=self.norm,
                scale=self.layer_scale,
            ),
            mlp=units.sequence(
                units.norm(self.norm, channels),
                units.mlp(channels, hidden, pixels=site.pixels, activation=self.activation),
                units.layer_scale(channels, self.layer_scale),
            ),
        )

    def _split(self, site: Site, channels: int) -> Blueprint:
        width = -(-channels // self.parts)
        if (self.parts - 1) * width >= channels:
            raise ValueError(
                f"{self.kind}: parts is {self.parts}, too many for {channels} channels in parts of "
                f"{width}"
            )
        convolution = units.depthwise(width, self.context, pixels=site.pixels)
        return blueprint(ConvolvedParts, width, convolutions=(convolution,) * (self.parts - 1))

    def _attention(self, site: Site, channels: int) -> Blueprint:
        heads = self.heads or heads_of(channels, self.head_dim)
        if not self.head_dim and channels % heads:
            raise ValueError(
                f"{self.kind}: heads is {heads} and head_dim 0, but {channels} channels are not a "
                "multiple of it"
            )
        width, pixels = self.head_dim or channels // heads, site.pixels
        inner, axis = heads * width, Grid(heads, width)
        return blueprint(
            MapAttention,
            q=units.linear(channels, inner, pixels=pixels, output_axis=axis),
            kv=units.linear(channels, 2 * inner, pixels=pixels, output_axis=Grid(2, heads, width)),
            attend=channel_attend(heads, width, batch=1, pixels=pixels),
            project=units.linear(inner, channels, pixels=pixels, input_axis=axis),
        )
