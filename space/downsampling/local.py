"""Local downsampling (L-DSM): strided 3x3 depthwise, norm, 1x1; plus a max-pooled shortcut.

Source: UniNet (Liu et al., 2022), arXiv 2207.05420, as its released code has it: no
norm or activation behind the sum, and a 1x1 convolution in the shortcut at every width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from space import units
from space.blueprint import Blueprint
from space.genes import Part, Site, choice, downsampling
from space.settings import NORMS


@downsampling("local_dsm")
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDsm(Part):
    """Gene: `norm` (of the convolution)."""

    pools: ClassVar[Mapping[str, str]] = {"shortcut": "dsm"}

    norm: str = choice(*NORMS)

    def blueprint(self, site: Site) -> Blueprint:
        inputs, out = site.in_channels, site.out_pixels
        depthwise = units.depthwise(
            inputs, 3, pixels=site.pixels, stride=site.stride, out_pixels=out
        )
        linear = units.linear(inputs, site.channels, pixels=out)
        branch = units.sequence(depthwise, units.norm(self.norm, inputs), linear)
        return units.with_pooled_shortcut(branch, site)
