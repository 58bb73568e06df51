"""Pooled projection: an average pool where the resolution changes, a 1x1 convolution, a norm.

Source: the patch embedding of Next-ViT (Li et al., 2022), arXiv 2207.05501, section 3.1, and its
released code, which has it wherever resolution or width changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from space import units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, downsampling
from space.settings import NORMS


@downsampling("pooled_projection")
@dataclass(frozen=True, slots=True, kw_only=True)
class PooledProjection(Part):
    """Gene: `norm`. The pool's last squares are means of the pixels that there are."""

    norm: str = choice(*NORMS)

    def blueprint(self, site: Site) -> Blueprint:
        pool = blueprint(nn.AvgPool2d, site.stride, ceil_mode=True) if site.stride > 1 else None
        return units.sequence(
            pool,
            units.linear(site.in_channels, site.channels, pixels=site.out_pixels, bias=False),
            units.norm(self.norm, site.channels),
        )
