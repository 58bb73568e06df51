"""Release: drops what stands beside the map, which goes on alone.

Used where a stage of CMT (Guo et al., 2021, arXiv 2107.06263) ends, whose bias of pairs belongs to
that stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from space.blueprint import Blueprint, blueprint
from space.genes import MAP, Flow, Part, Site, operator
from space.shared import same_width


class MapAlone(nn.Module):
    """A map (N, C, H, W) and what stands beside it to the map."""

    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        return x[0]


@operator("release")
@dataclass(frozen=True, slots=True, kw_only=True)
class Release(Part):
    """Has no genes."""

    takes: ClassVar[tuple[str, ...]] = ("tokens", "pair_bias")

    def gives(self, site: Site) -> Flow:
        return MAP

    def blueprint(self, site: Site) -> Blueprint:
        same_width(self, site)
        return blueprint(MapAlone)
