"""Pooling: the mean of the pixels around each pixel, minus that pixel, then an MLP.

Source: PoolFormer (Yu et al., 2022), "MetaFormer is actually what you need for vision", arXiv
2111.11418, section 3.2, with `norm="group"` and a layer scale from 1e-5. Pixels outside the map do
not count.
Shapes: N images, C channels, E = expansion * C, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from space import units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, operator
from space.settings import ACTIVATIONS, NORMS
from space.shared import CONTEXTS, EXPANSIONS, LAYER_SCALES, refuse_unused, same_width


class PooledDifference(nn.Module):
    """mean(x around) - x, over squares of side `context`: (N, C, H, W) to the same."""

    def __init__(self, context: int):
        super().__init__()
        self.context = context

    def forward(self, x: Tensor) -> Tensor:
        half = self.context // 2
        return F.avg_pool2d(x, self.context, 1, half, count_include_pad=False) - x


@operator("pooling")
@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling(Part):
    """Genes: `context` (side of the square, pixels), `expansion` (E / C, 0 for no MLP),
    `layer_scale` (its start or None), `norm`, `activation`."""

    pools: ClassVar[Mapping[str, str]] = {"mlp": "mlp"}

    context: int = choice(*CONTEXTS)
    expansion: int = choice(*EXPANSIONS, default=4)
    layer_scale: float | None = choice(*LAYER_SCALES)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)

    def __post_init__(self) -> None:
        Part.__post_init__(self)
        if not self.expansion:
            refuse_unused(self, "without an MLP", "activation")

    def blueprint(self, site: Site) -> Blueprint:
        same_width(self, site)
        return units.mixing_block(self, site, blueprint(PooledDifference, self.context))
