"""Pooled head: average over the map, or take the class tokens, then a linear classifier.

Sources: with `features`, a 1x1 convolution, norm and activation stand before the pooling, as in
MobileNetV3 (Howard et al., 2019, arXiv 1905.02244) and UniNet (Liu et al., 2022, arXiv
2207.05420, released code). Without, the norm stands behind the pooling, as in ConvNeXt (Liu et
al., 2022, arXiv 2201.03545), or in front of it (`norm_first`), as in Swin (arXiv 2103.14030). With
class tokens beside the map the first one is read, as in ViT (arXiv 2010.11929, section 3.1);
`classifiers=2` reads two tokens, or has two norms and classifiers on one mean, and averages their
logits, as DeiT (2012.12877, section 4) and LeViT (2104.01136, section 4.3) with distillation.
`hidden="tanh"` is the released code of CoAtNet and MaxViT.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from space import cost, units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, head, scaled_channels, whole
from space.settings import ACTIVATIONS, NORMS


class MeanPool(nn.Module):
    """(N, C, H, W) to (N, C, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class ChannelMeans(nn.Module):
    """(N, C, H, W) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class TokensAlone(nn.Module):
    """A map and T class tokens (N, C, T, 1) to the tokens alone."""

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        return x[1]


class TokenClassifiers(nn.Module):
    """The mean of the logits of classifiers, one for each of the first tokens:
    (N, C, T, 1) to (N, classes)."""

    def __init__(self, classifiers: tuple[nn.Module, ...]):
        super().__init__()
        self.classifiers = nn.ModuleList(classifiers)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.squeeze(3).unbind(2)
        logits = [layer(token) for layer, token in zip(self.classifiers, tokens, strict=False)]
        return torch.stack(logits).mean(0)


class MeanOf(nn.Module):
    """The mean of what several modules make of the same input."""

    def __init__(self, branches: tuple[nn.Module, ...]):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([branch(x) for branch in self.branches]).mean(0)


class PooledHeadModule(nn.Module):
    """(N, C, H, W), or a map with class tokens, to logits (N, classes)."""

    def __init__(
        self,
        pool: nn.Module,
        classifier: nn.Module,
        features: nn.Module | None = None,
        norm: nn.Module | None = None,
        flatten: nn.Module | None = None,
    ):
        super().__init__()
        self.features = features or nn.Identity()
        self.pool = pool
        self.norm = norm or nn.Identity()
        self.flatten = flatten or nn.Identity()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.norm(self.pool(self.features(x)))))


@head("pooled")
@dataclass(frozen=True, slots=True, kw_only=True)
class PooledHead(Part):
    """Genes: `features` (width before the classifier, 0 for none), `features_bias`, `norm`,
    `norm_first` (before the pooling, where there are no features), `activation`, `hidden` (a
    layer of the same width before the classifier), `classifiers` (their logits are averaged),
    `bias` (of the classifier)."""

    takes = ("map", "tokens")

    features: int = whole(0, 8192, default=0)
    features_bias: bool = choice(False, True)
    norm: str = choice(*NORMS)
    norm_first: bool = choice(False, True)
    activation: str = choice(*ACTIVATIONS)
    hidden: str = choice("none", "tanh")
    classifiers: int = choice(1, 2)
    bias: bool = choice(True, False)

    def blueprint(self, site: Site) -> Blueprint:
        tokens, width = site.tokens, self.features or site.in_channels
        if tokens and (self.features or tokens < self.classifiers):
            raise ValueError(
                f"{self.kind}: {tokens} class tokens come in, but {self.classifiers} classifiers "
                f"and features of {self.features} are asked for"
            )
        norm, features = units.norm(self.norm, width), None
        if self.features:
            features = units.sequence(
                units.linear(site.in_channels, width, pixels=site.pixels, bias=self.features_bias),
                norm,
                units.activation(self.activation),
            )
            norm = None
        elif self.norm_first and not tokens:
            features, norm = norm, None
        alone = not tokens and self.classifiers == 1
        flat = alone and norm is None  # a norm works on maps
        return blueprint(
            PooledHeadModule,
            features=features,
            pool=blueprint(TokensAlone if tokens else ChannelMeans if flat else MeanPool),
            norm=norm if tokens or alone else None,
            flatten=blueprint(nn.Flatten) if alone and not flat else None,
            classifier=self._classifiers(site, width, norm),
        )

    def _classifiers(self, site: Site, width: int, norm: Blueprint | None) -> Blueprint:
        layers = []
        if self.hidden == "tanh":
            inner = blueprint(nn.Linear, width, width, cost=cost.linear(1, width, width))
            layers = [inner, blueprint(nn.Tanh)]
        counted = cost.linear(1, width, site.channels, self.bias)
        bias = None if self.bias else False
        layers += [blueprint(nn.Linear, width, site.channels, cost=counted, bias=bias)]
        if site.tokens:
            return blueprint(
                TokenClassifiers, classifiers=(units.sequence(*layers),) * self.classifiers
            )
        if self.classifiers == 1:
            return units.sequence(*layers)
        branch = units.sequence(norm, blueprint(nn.Flatten), *layers)
        return blueprint(MeanOf, branches=(branch,) * self.classifiers)

    def scaled(self, ratio: float) -> PooledHead:
        return replace(self, features=scaled_channels(self.features, ratio))
