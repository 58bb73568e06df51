"""Local downsampling (L-DSM): strided 3x3 depthwise, norm, 1x1; plus a max-pooled shortcut.

Source: UniNet (Liu et al., 2022), arXiv 2207.05420, as its released code has it: no
norm or activation behind the sum, and a 1x1 convolution in the shortcut at every width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from space import cost
from space.cost import Cost
from space.genes import Part, Site, choice, downsampling
from space.layers import Pointwise, PooledShortcut, StridedDepthwise
from space.settings import NORMS


class LocalDownsampling(nn.Module):
    """(N, C, H, W) to (N, D, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, in_channels: int, channels: int, stride: int, norm: type[nn.Module]):
        super().__init__()
        self.depthwise = StridedDepthwise(in_channels, stride)
        self.norm = norm(in_channels)
        self.linear = Pointwise(in_channels, channels)
        self.shortcut = PooledShortcut(in_channels, channels, stride)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(self.depthwise(x))) + self.shortcut(x)


@downsampling("local_dsm")
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDsm(Part):
    """Gene: `norm` (of the convolution)."""

    module = LocalDownsampling
    pools: ClassVar[Mapping[str, str]] = {"shortcut": "dsm"}

    norm: str = choice(*NORMS)

    def arguments(self, site: Site) -> dict[str, Any]:
        return {
            "in_channels": site.in_channels,
            "channels": site.channels,
            "stride": site.stride,
            "norm": NORMS[self.norm],
        }

    def cost(self, site: Site) -> Cost:
        inputs, queries = site.in_channels, site.out_pixels
        total = cost.depthwise(site.pixels, queries, inputs, taps=9) + cost.norm(inputs)
        return total + 2 * cost.linear(queries, inputs, site.channels)  # branch and shortcut
