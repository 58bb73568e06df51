"""Strided convolution with a norm before or behind it.

Sources: a 2x2 convolution behind the norm is ConvNeXt's (Liu et al., 2022), arXiv 2201.03545,
section 2.6; before it, FocalNet's (Yang et al., 2022), arXiv 2203.11926, released code; 3x3 with
the norm behind is MogaNet's (Li et al., 2022), arXiv 2211.03295.
Differs from them: where the stride does not divide a side, the last pixels are padded, not
dropped; and `shortcut` adds UniNet's (a 3x3 max-pool and a 1x1 convolution), so that in a supernet
every downsampling module of a place can have one path in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from space import cost
from space.cost import Cost
from space.genes import Part, Site, choice, downsampling
from space.layers import PooledShortcut
from space.settings import NORMS
from space.slicing import Around, Axis


class StridedConvolutionModule(nn.Module):
    """(N, C, H, W) to (N, D, ceil(H / stride), ceil(W / stride))."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        stride: int,
        norm: type[nn.Module],
        norm_first: bool,
        shortcut: bool,
    ):
        super().__init__()
        self.norm = norm(in_channels if norm_first else channels)
        self.norm_first = norm_first
        self.kernel, self.stride, self.padding = kernel, stride, (kernel - 1) // 2
        self.convolution = nn.Conv2d(in_channels, channels, kernel, stride, self.padding)
        self.shortcut = None
        if shortcut:
            self.shortcut = PooledShortcut(in_channels, channels, stride)
            last = self.convolution if norm_first else self.norm
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        y = self._convolved(self.norm(x)) if self.norm_first else self.norm(self._convolved(x))
        return y if self.shortcut is None else y + self.shortcut(x)

    def _convolved(self, x: Tensor) -> Tensor:
        below, right = self._missing(x.shape[2]), self._missing(x.shape[3])
        if below or right:
            x = F.pad(x, (0, right, 0, below))
        return self.convolution(x)

    def _missing(self, side: int) -> int:
        """Pixels to add at the end of a side for ceil(side / stride) pixels out."""
        steps = -(-side // self.stride) - 1
        return max(0, steps * self.stride + self.kernel - 2 * self.padding - side)


@downsampling("strided_convolution")
@dataclass(frozen=True, slots=True, kw_only=True)
class StridedConvolution(Part):
    """Genes: `kernel` (side, pixels), `norm`, `norm_first`, `shortcut` (adds a pooled one)."""

    module = StridedConvolutionModule
    pools: ClassVar[Mapping[str, str]] = {"shortcut": "dsm"}

    kernel: int = choice(2, 3)
    norm: str = choice(*NORMS)
    norm_first: bool = choice(False, True, default=True)
    shortcut: bool = choice(False, True)

    def arguments(self, site: Site) -> dict[str, Any]:
        return {
            "in_channels": site.in_channels,
            "channels": site.channels,
            "kernel": self.kernel,
            "stride": site.stride,
            "norm": NORMS[self.norm],
            "norm_first": self.norm_first,
            "shortcut": self.shortcut,
        }

    def cost(self, site: Site) -> Cost:
        inputs, channels = site.in_channels, site.channels
        total = cost.convolution(
            site.pixels, site.out_pixels, inputs, channels, taps=self.kernel**2
        )
        total += cost.norm(inputs if self.norm_first else channels)
        return total + cost.linear(site.out_pixels, inputs, channels) if self.shortcut else total

    def axes(self, site: Site) -> dict[str, Sequence[Axis | int]]:
        # The tap at the output's own pixel is the fixed one: the first of 2, the second of 3.
        taps = Around(before=(self.kernel - 1) // 2, after=self.kernel // 2)
        return {"convolution.weight": (site.channels, site.in_channels, taps, taps)}
