"""Multi-path attention: window attention on the map and on coarser and coarser means of it at once.

Source: LG-Transformer (Li et al., 2021), arXiv 2107.04735: each stage attends at several
granularities in parallel, so that early stages see far. Its abstract is all that this follows:
path i, with weights of its own, works on the means of squares of 2**i x 2**i pixels, its windows
have as many of them as those of path 0 have pixels, and what it makes is brought back to the map by
bilinear interpolation and added to the others.
Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from space import units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, operator, whole
from space.layers import SumOf
from space.operators.attention import Attention
from space.settings import ACTIVATIONS, NORMS
from space.shared import EXPANSIONS, HEAD_DIMS, LAYER_SCALES, same_width


class CoarsePath(nn.Module):
    """A branch on means of squares, interpolated back: (N, C, H, W) to the same.

    The squares have `side` x `side` pixels.
    """

    def __init__(self, side: int, branch: nn.Module):
        super().__init__()
        self.side = side
        self.pool = nn.AvgPool2d(side, ceil_mode=True)
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.branch(self.pool(x)), scale_factor=self.side, mode="bilinear")
        return y[..., : x.shape[2], : x.shape[3]]


@operator("multi_path")
@dataclass(frozen=True, slots=True, kw_only=True)
class MultiPath(Part):
    """Genes: `paths`, `context` (side of a window), `shift` (windows by half their side),
    `position` (in windows: none or a table of offsets), `head_dim`, `expansion` (of the MLP behind,
    0 for none), `layer_scale` (its start or None), `norm`, `activation`."""

    pools: ClassVar[Mapping[str, str]] = {"mlp": "mlp"}

    paths: int = choice(2, 3, 4)
    context: int = whole(2, 64, default=7)
    shift: bool = choice(False, True)
    position: str = choice("none", "relative")
    head_dim: int = choice(*HEAD_DIMS, default=32)
    expansion: int = choice(*EXPANSIONS, default=4)
    layer_scale: float | None = choice(*LAYER_SCALES)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)

    def blueprint(self, site: Site) -> Blueprint:
        same_width(self, site)
        if coarse_site(site, 2 ** (self.paths - 1)).pixels == 1:
            raise ValueError(
                f"{self.kind}: paths is {self.paths}, but on a map of {site.height}x{site.width} "
                "the last would see a single pixel"
            )
        paths = [self._path(site, 2**i) for i in range(self.paths)]
        return units.mixing_block(self, site, blueprint(SumOf, branches=tuple(paths)))

    def _path(self, site: Site, side: int) -> Blueprint:
        attention = Attention(
            region="window",
            context=self.context,
            shift=self.shift,
            position=self.position,
            head_dim=self.head_dim,
        )
        if side == 1:
            return attention.branch(site)
        return blueprint(CoarsePath, side, branch=attention.branch(coarse_site(site, side)))


def coarse_site(site: Site, side: int) -> Site:
    """Where the means of squares of `side` x `side` pixels stand."""
    return replace(site, height=-(-site.height // side), width=-(-site.width // side))
