"""Focal modulation: each pixel's query times a gated sum of contexts of growing size, then an MLP.

Source: FocalNet (Yang et al., 2022), arXiv 2203.11926, section 3.2; level l
(from 0) has a depthwise kernel of context + 2 l, and the mean of the last level is one more.
Shapes: N images, C channels, L levels, E = expansion * C, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from space import cost
from space.blocks import EXPANSIONS, LAYER_SCALES, mlp_cost, residual_cost, same_width
from space.cost import Cost
from space.genes import Part, Site, choice, operator
from space.layers import Mlp, Pointwise, Residual
from space.settings import ACTIVATIONS, NORMS
from space.slicing import Axis, Parts


class FocalLevel(nn.Module):
    """Depthwise convolution and activation: the context of one level from the one before."""

    def __init__(self, channels: int, kernel: int, activation: type[nn.Module]):
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False
        )
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.depthwise(x))


class FocalModulation(nn.Module):
    """(N, C, H, W) to the same; one level for each of `kernels`."""

    def __init__(self, channels: int, kernels: tuple[int, ...], activation: type[nn.Module]):
        super().__init__()
        # Query, first context, a gate for each level, and the gate of the mean.
        self.sizes = (channels, channels, len(kernels), 1)
        self.expand = Pointwise(channels, sum(self.sizes))
        self.levels = nn.ModuleList(FocalLevel(channels, k, activation) for k in kernels)
        self.activation = activation()
        self.modulator = Pointwise(channels, channels)
        self.project = Pointwise(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        query, context, gates, mean_gate = self.expand(x).split(self.sizes, dim=1)
        gathered = 0
        for level, gate in zip(self.levels, gates.split(1, dim=1), strict=True):
            context = level(context)
            gathered = gathered + gate * context
        mean = self.activation(context.mean((2, 3), keepdim=True))
        return self.project(query * self.modulator(gathered + mean_gate * mean))


class FocalModulationBlock(nn.Module):
    """Focal modulation and MLP, each added to the map: (N, C, H, W) to the same."""

    def __init__(
        self,
        channels: int,
        kernels: tuple[int, ...],
        hidden: int,
        layer_scale: float | None,
        norm: type[nn.Module],
        activation: type[nn.Module],
    ):
        super().__init__()
        modulation = FocalModulation(channels, kernels, activation)
        self.modulation = Residual(channels, modulation, norm, layer_scale)
        self.mlp = Residual(channels, Mlp(channels, hidden, activation), norm, layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.modulation(x))


@operator("focal_modulation")
@dataclass(frozen=True, slots=True, kw_only=True)
class FocalModulationOperator(Part):
    """Genes: `levels` (L), `context` (side of the first depthwise filter, pixels), `expansion`
    (E / C), `layer_scale` (its start or None), `norm`, `activation`."""

    module = FocalModulationBlock
    pools: ClassVar[Mapping[str, str]] = {"mlp": "mlp"}

    levels: int = choice(2, 3, 4)
    context: int = choice(3, 5, 7)
    expansion: int = choice(*EXPANSIONS, default=4)
    layer_scale: float | None = choice(*LAYER_SCALES)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)

    def arguments(self, site: Site) -> dict[str, Any]:
        channels = same_width(self, site)
        return {
            "channels": channels,
            "kernels": self._kernels,
            "hidden": self.expansion * channels,
            "layer_scale": self.layer_scale,
            "norm": NORMS[self.norm],
            "activation": ACTIVATIONS[self.activation],
        }

    @property
    def _kernels(self) -> tuple[int, ...]:
        return tuple(self.context + 2 * level for level in range(self.levels))

    def cost(self, site: Site) -> Cost:
        pixels, channels = site.pixels, site.channels
        total = residual_cost(channels, self.layer_scale)
        total += cost.linear(pixels, channels, 2 * channels + self.levels + 1)
        for kernel in self._kernels:
            total += cost.depthwise(pixels, pixels, channels, taps=kernel**2, bias=False)
        total += 2 * cost.linear(pixels, channels, channels)
        return total + mlp_cost(pixels, channels, self.expansion, self.layer_scale)

    def axes(self, site: Site) -> dict[str, Sequence[Axis | int]]:
        outputs = Parts(site.channels, site.channels, self.levels, 1)
        return {
            "modulation.branch.expand.weight": (outputs, site.channels),
            "modulation.branch.expand.bias": (outputs,),
        }
