"""Networks as genomes: what they are made of, what they cost, and the spaces of them."""

from space import downsampling, heads, operators, stems  # noqa: F401  (parts register themselves)
from space.cost import Cost
from space.genes import Part, Site, registered
from space.genome import Genome, Placed, Stage
from space.network import build

__all__ = ["Cost", "Genome", "Part", "Placed", "Site", "Stage", "build", "registered"]
