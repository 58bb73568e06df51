"""Regional head: the mean of the regional tokens, then a linear classifier.

Source: RegionViT (Chen et al., 2021), arXiv 2106.02689, section 3.1 and its released code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from space import units
from space.blueprint import Blueprint, blueprint
from space.genes import MAP, Part, Site, choice, head
from space.heads.pooled import PooledHead
from space.operators.regional import region_site
from space.settings import NORMS


class RegionsAlone(nn.Module):
    """The local and the regional map to the regional one."""

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        return x[1]


@head("regional")
@dataclass(frozen=True, slots=True, kw_only=True)
class RegionalHead(Part):
    """Gene: `norm` (of each regional token)."""

    takes = ("regions",)

    norm: str = choice(*NORMS)

    def blueprint(self, site: Site) -> Blueprint:
        pooled = PooledHead(norm=self.norm, norm_first=True)
        coarse = replace(region_site(site), flow=MAP)
        return units.sequence(blueprint(RegionsAlone), pooled.blueprint(coarse))
