"""Pooled head: average over the map, then a linear classifier.

Sources: with `features`, a 1x1 convolution, norm and activation stand before the pooling, as in
MobileNetV3 (Howard et al., 2019, arXiv 1905.02244) and UniNet (Liu et al., 2022, arXiv
2207.05420, released code). Without, the norm stands behind the pooling, as in ConvNeXt (Liu et
al., 2022, arXiv 2201.03545).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from space import cost
from space.cost import Cost
from space.genes import Part, Site, choice, head, scaled_channels, whole
from space.layers import Pointwise
from space.settings import ACTIVATIONS, NORMS


class PooledHeadModule(nn.Module):
    """(N, C, H, W) to logits (N, classes)."""

    def __init__(
        self,
        in_channels: int,
        classes: int,
        features: int,
        norm: type[nn.Module],
        activation: type[nn.Module],
    ):
        super().__init__()
        self.features: nn.Module = nn.Identity()
        self.norm: nn.Module = nn.Identity()
        if features:
            self.features = nn.Sequential(
                Pointwise(in_channels, features, bias=False), norm(features), activation()
            )
        else:
            self.norm = norm(in_channels)
        self.classifier = nn.Linear(features or in_channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).mean((2, 3), keepdim=True)
        return self.classifier(self.norm(x).flatten(1))


@head("pooled")
@dataclass(frozen=True, slots=True, kw_only=True)
class PooledHead(Part):
    """Genes: `features` (width before the classifier, 0 for none), `norm`, `activation`."""

    module = PooledHeadModule

    features: int = whole(0, 8192, default=0)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)

    def arguments(self, site: Site) -> dict[str, Any]:
        return {
            "in_channels": site.in_channels,
            "classes": site.channels,
            "features": self.features,
            "norm": NORMS[self.norm],
            "activation": ACTIVATIONS[self.activation],
        }

    def cost(self, site: Site) -> Cost:
        width = self.features or site.in_channels
        total = cost.linear(1, width, site.channels) + cost.norm(width)
        if self.features:
            total += cost.linear(site.pixels, site.in_channels, self.features, bias=False)
        return total

    def scaled(self, ratio: float) -> PooledHead:
        return replace(self, features=scaled_channels(self.features, ratio))
