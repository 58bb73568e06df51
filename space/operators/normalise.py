"""A norm alone, such as stands at the end of each stage of MogaNet (Li et al., 2022, arXiv
2211.03295) and SMT (Lin et al., 2023, arXiv 2307.08579) in their released code.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

from space import units
from space.blueprint import Blueprint
from space.genes import Part, Site, choice, operator
from space.settings import NORMS
from space.shared import same_width


@operator("normalise")
@dataclass(frozen=True, slots=True, kw_only=True)
class Normalise(Part):
    """Gene: `norm`."""

    norm: str = choice(*(name for name in NORMS if name != "none"))

    def blueprint(self, site: Site) -> Blueprint:
        return units.sequence(units.norm(self.norm, same_width(self, site)))
