"""Pooled projection: an average pool where the resolution changes, a 1x1 convolution, a norm.

Source: the patch embedding of Next-ViT (Li et al., 2022), arXiv 2207.05501, section 3.1, and its
released code, which has it wherever resolution or width changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from space import units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, downsampling
from space.settings import NORMS


@downsampling("pooled_projection")
@dataclass(frozen=True, slots=True, kw_only=True)
class PooledProjection(Part):
    """Genes: `norm`, `shortcut` (adds a max-pooled one, see `units.with_pooled_shortcut`). The
    pool's last squares are means of the pixels that there are."""

    pools: ClassVar[Mapping[str, str]] = {"shortcut": "dsm"}

    norm: str = choice(*NORMS)
    shortcut: bool = choice(False, True)

    def blueprint(self, site: Site) -> Blueprint:
        layers = [
            units.linear(site.in_channels, site.channels, pixels=site.out_pixels, bias=False),
            units.norm(self.norm, site.channels),
        ]
        if site.stride > 1:
            layers.insert(0, blueprint(nn.AvgPool2d, site.stride, ceil_mode=True))
        branch = units.sequence(*layers)
        return units.with_pooled_shortcut(branch, site) if self.shortcut else branch
