"""Space to depth: the pixels of each square side by side, a norm, a linear layer.

Source: patch merging of Swin (Liu et al., 2021), arXiv 2103.14030, section 3.1, and its released
code; AS-MLP (2107.08391) has the same.
Differs from it: where the stride does not divide a side, zeros fill the last squares, as Swin has
for detection.
Shapes: N images, C channels in, H x W pixels, squares of s x s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from space import units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, downsampling
from space.settings import NORMS
from space.slicing import Grid


class SpaceToDepth(nn.Module):
    """(N, C, H, W) to (N, s * s * C, ceil(H / s), ceil(W / s)).

    The C channels of a square's first pixel come first, then those of the pixels below it, then
    those of its second column.
    """

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        below, right = (-side % self.stride for side in x.shape[2:])
        x = F.pad(x, (0, right, 0, below)) if below or right else x
        x = x.unflatten(3, (-1, self.stride)).unflatten(2, (-1, self.stride))
        return x.permute(0, 5, 3, 1, 2, 4).flatten(1, 3)


@downsampling("space_to_depth")
@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceToDepthDsm(Part):
    """Genes: `norm` (on the channels of all pixels of a square), `bias`,
    `shortcut` (adds a pooled one, see `units.with_pooled_shortcut`)."""

    pools: ClassVar[Mapping[str, str]] = {"shortcut": "dsm"}

    norm: str = choice(*NORMS)
    bias: bool = choice(False, True)
    shortcut: bool = choice(False, True)

    def blueprint(self, site: Site) -> Blueprint:
        gathered = site.stride**2 * site.in_channels
        axis = Grid(site.stride**2, site.in_channels)
        layers = [
            units.norm(self.norm, gathered, axis),
            units.linear(
                gathered, site.channels, pixels=site.out_pixels, bias=self.bias, input_axis=axis
            ),
        ]
        if site.stride > 1:
            layers.insert(0, blueprint(SpaceToDepth, site.stride))
        branch = units.sequence(*layers)
        return units.with_pooled_shortcut(branch, site) if self.shortcut else branch
