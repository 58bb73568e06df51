"""Global downsampling (G-DSM): queries from a convolution along the sequence of all pixels.

Source: UniNet (Liu et al., 2022), arXiv 2207.05420, has it in its space; the released
networks and code have none, and the text gives no sizes. Our choice: a depthwise convolution of 9
taps (as many as the 3x3 of LG-DSM) over the pixels read row by row, one query for every stride**2
of them, padded so that there is one query for each output pixel. All else is as in LG-DSM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from space import cost
from space.blueprint import Blueprint, blueprint
from space.downsampling.local_global import cross_attention
from space.genes import Part, Site, choice, downsampling
from space.settings import NORMS
from space.shared import HEAD_DIMS


class SequenceDepthwise(nn.Conv1d):
    """Depthwise convolution of 9 taps along the pixels read row by row.

    One output for each stride**2 of them: (N, C, H, W) to (N, C, ceil(H / stride),
    ceil(W / stride)). The taps stand around the middle of their stride**2 pixels; zeros on the
    right make up the count where a side is not a multiple of `stride`.
    """

    def __init__(self, channels: int, stride: int):
        super().__init__(channels, channels, 9, stride**2, groups=channels)
        self.side_stride = stride

    def forward(self, x: Tensor) -> Tensor:
        height, width = (-(-side // self.side_stride) for side in x.shape[2:])
        x, step = x.flatten(2), self.stride[0]
        left = (9 - step) // 2  # negative, which crops, where the step is the longer
        right = (height * width - 1) * step + 9 - x.shape[2] - left
        return super().forward(F.pad(x, (left, right))).unflatten(2, (height, width))


@downsampling("global_dsm")
@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalDsm(Part):
    """Genes: `head_dim`, `norm` (of the convolution)."""

    pools: ClassVar[Mapping[str, str]] = {"shortcut": "dsm"}

    head_dim: int = choice(*HEAD_DIMS, default=32)
    norm: str = choice(*NORMS)

    def blueprint(self, site: Site) -> Blueprint:
        counted = cost.depthwise(site.pixels, site.out_pixels, site.in_channels, taps=9)
        depthwise = blueprint(SequenceDepthwise, site.in_channels, site.stride, cost=counted)
        return cross_attention(site, self.head_dim, depthwise, self.norm)
