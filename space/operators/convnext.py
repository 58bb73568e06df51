"""ConvNeXt block: depthwise k x k, norm, 1x1 expand, activation, 1x1 project, plus the input.

Source: ConvNeXt (Liu et al., 2022), arXiv 2201.03545, sections 2.4 to 2.6 and figure 4; layer scale
starts at 1e-6 (section 2.1).
Differs from it: LayerNorm with an epsilon of 1e-5, not 1e-6.
Shapes: N images, C channels, E = expansion * C, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from space import cost
from space.blocks import LAYER_SCALES, mlp_cost, same_width
from space.cost import Cost
from space.genes import Part, Site, choice, operator
from space.layers import LayerScale, Mlp
from space.settings import ACTIVATIONS, NORMS


class ConvNeXtBlock(nn.Module):
    """(N, C, H, W) to the same; spatial and channel mixing share one residual."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        kernel: int,
        layer_scale: float | None,
        norm: type[nn.Module],
        activation: type[nn.Module],
    ):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = norm(channels)
        self.mlp = Mlp(channels, hidden, activation)
        self.scale: nn.Module = nn.Identity()
        if layer_scale is not None:
            self.scale = LayerScale(channels, layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale(self.mlp(self.norm(self.depthwise(x))))


@operator("convnext")
@dataclass(frozen=True, slots=True, kw_only=True)
class ConvNeXt(Part):
    """Genes: `expansion` (E / C), `context` (side of the depthwise filter, pixels), `layer_scale`
    (where it starts, None for no such factors), `norm`, `activation`."""

    module = ConvNeXtBlock

    expansion: int = choice(1, 2, 3, 4, 6, 8, default=4)
    context: int = choice(3, 5, 7, 9, 11, 13, default=7)
    layer_scale: float | None = choice(*LAYER_SCALES, default=1e-6)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)

    def arguments(self, site: Site) -> dict[str, Any]:
        channels = same_width(self, site)
        return {
            "channels": channels,
            "hidden": self.expansion * channels,
            "kernel": self.context,
            "layer_scale": self.layer_scale,
            "norm": NORMS[self.norm],
            "activation": ACTIVATIONS[self.activation],
        }

    def cost(self, site: Site) -> Cost:
        pixels, channels = site.pixels, site.channels
        # The depthwise convolution, and an MLP sub-layer whose norm stands behind it.
        total = cost.depthwise(pixels, pixels, channels, taps=self.context**2)
        return total + mlp_cost(pixels, channels, self.expansion, self.layer_scale)
