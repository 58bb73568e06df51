"""Convolution stem: one strided convolution and a norm read the image.

Sources: 3 x 3, stride 2, no bias, norm, GELU is UniNet's (Liu et al., 2022, arXiv 2207.05420,
released code); 4 x 4, stride 4, bias, LayerNorm is ConvNeXt's (Liu et al., 2022, arXiv
2201.03545, section 2.3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from space import cost
from space.cost import Cost
from space.genes import Part, Site, choice, scaled_channels, stem, whole
from space.settings import ACTIVATIONS, NORMS


class ConvolutionStemModule(nn.Module):
    """(N, 3, H, W) to (N, channels, ceil(H / stride), ceil(W / stride))."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        stride: int,
        bias: bool,
        norm: type[nn.Module],
        activation: type[nn.Module],
    ):
        super().__init__()
        # Patches that do not overlap take no padding; an even kernel at stride 1 takes one more
        # behind the map than in front.
        padding: int | str = 0 if kernel <= stride else (kernel - 1) // 2
        padding = "same" if stride == 1 else padding
        self.convolution = nn.Conv2d(
            in_channels, channels, kernel, stride, padding=padding, bias=bias
        )
        self.norm = norm(channels)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.convolution(x)))


@stem("convolution")
@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionStem(Part):
    """Genes: `channels` out, `kernel` (side, pixels), `stride`, `bias`, `norm`, `activation`."""

    module = ConvolutionStemModule

    channels: int = whole(1, 4096, default=32)
    kernel: int = choice(3, 4, 5, 7)
    stride: int = choice(1, 2, 4, default=2)
    bias: bool = choice(False, True)
    norm: str = choice(*NORMS)
    activation: str = choice("none", *ACTIVATIONS, default="gelu")

    def arguments(self, site: Site) -> dict[str, Any]:
        return {
            "in_channels": site.in_channels,
            "channels": self.channels,
            "kernel": self.kernel,
            "stride": self.stride,
            "bias": self.bias,
            "norm": NORMS[self.norm],
            "activation": {"none": nn.Identity, **ACTIVATIONS}[self.activation],
        }

    def cost(self, site: Site) -> Cost:
        total = cost.convolution(
            site.pixels,
            site.out_pixels,
            site.in_channels,
            self.channels,
            taps=self.kernel**2,
            bias=self.bias,
        )
        return total + cost.norm(self.channels)

    def scaled(self, ratio: float) -> ConvolutionStem:
        return replace(self, channels=scaled_channels(self.channels, ratio))
