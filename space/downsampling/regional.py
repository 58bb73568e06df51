"""Regional downsampling: one strided convolution for both the local and the regional map.

Source: RegionViT (Chen et al., 2021), arXiv 2106.02689, section 3.1 and its released code: norm,
activation, then a grouped convolution in which every channel that comes in gives as many that go
out, with the same parameters on both maps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from space.blueprint import Blueprint, blueprint
from space.downsampling.strided_convolution import StridedConvolution
from space.genes import MAP, Part, Site, choice, downsampling
from space.layers import EachMap
from space.operators.regional import again, region_site
from space.settings import ACTIVATIONS, NORMS


@downsampling("regional_dsm")
@dataclass(frozen=True, slots=True, kw_only=True)
class RegionalDsm(Part):
    """Genes: `kernel` (side, pixels), `norm` and `activation` in front of the convolution."""

    takes = ("regions",)

    kernel: int = choice(2, 3, 5, default=3)
    norm: str = choice(*NORMS)
    activation: str = choice("none", *ACTIVATIONS, default="gelu")

    def blueprint(self, site: Site) -> Blueprint:
        layers = StridedConvolution(
            kernel=self.kernel, norm=self.norm, activation=self.activation, grouped=True
        )
        # A bias is counted as read once.
        second = replace(layers, bias=False).cost(replace(region_site(site), flow=MAP))
        return blueprint(EachMap, layer=layers.blueprint(site), cost=again(second))
