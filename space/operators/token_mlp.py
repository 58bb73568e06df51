"""Token MLP: two linear layers along the pixels, shared by all channels, then a channel MLP.

Source: MLP-Mixer (Tolstikhin et al., 2021), arXiv 2105.01601, section 2; `token_ratio=0.5` is its
choice in every model (table 1).
Differs from it: layer scale can be added, and LayerNorm has an epsilon of 1e-5, not 1e-6.
The token weights belong to one map size. A smaller map takes the part for the map's top-left.
Shapes: N images, C channels, T = token_ratio * C, E = expansion * C, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from space import cost
from space.blocks import EXPANSIONS, LAYER_SCALES, mlp_cost, residual_cost, same_width
from space.cost import Cost
from space.genes import Part, Site, choice, operator
from space.layers import Mlp, Residual
from space.settings import ACTIVATIONS, NORMS
from space.slicing import Axis, Grid


class Tokenwise(nn.Linear):
    """A linear layer on the tokens of each channel: (N, tokens in, C) to (N, tokens out, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(self.weight, x) + self.bias[:, None]


class TokenMlp(nn.Module):
    """(N, C, height, width) to the same; ValueError for another map."""

    def __init__(self, height: int, width: int, hidden: int, activation: type[nn.Module]):
        super().__init__()
        self.height, self.width = height, width
        self.expand = Tokenwise(height * width, hidden)
        self.activation = activation()
        self.project = Tokenwise(hidden, height * width)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if (height, width) != (self.height, self.width):
            raise ValueError(
                f"the token weights are for a map of {self.height}x{self.width}, "
                f"not of {height}x{width}"
            )
        y = self.project(self.activation(self.expand(x.flatten(2).mT)))
        return y.mT.unflatten(2, (height, width))


class TokenMlpBlock(nn.Module):
    """Token MLP and channel MLP, each added to the map: (N, C, H, W) to the same."""

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        token_hidden: int,
        hidden: int,
        layer_scale: float | None,
        norm: type[nn.Module],
        activation: type[nn.Module],
    ):
        super().__init__()
        tokens = TokenMlp(height, width, token_hidden, activation)
        self.tokens = Residual(channels, tokens, norm, layer_scale)
        self.mlp = Residual(channels, Mlp(channels, hidden, activation), norm, layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.tokens(x))


@operator("token_mlp")
@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMlpOperator(Part):
    """Genes: `token_ratio` (T / C), `expansion` (E / C), `layer_scale` (its start or None),
    `norm`, `activation`."""

    module = TokenMlpBlock
    pools: ClassVar[Mapping[str, str]] = {"mlp": "mlp"}

    token_ratio: float = choice(0.25, 0.5, 1.0, 2.0, default=0.5)
    expansion: int = choice(*EXPANSIONS, default=4)
    layer_scale: float | None = choice(*LAYER_SCALES)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)

    def arguments(self, site: Site) -> dict[str, Any]:
        channels = same_width(self, site)
        return {
            "channels": channels,
            "height": site.height,
            "width": site.width,
            "token_hidden": self._token_hidden(site),
            "hidden": self.expansion * channels,
            "layer_scale": self.layer_scale,
            "norm": NORMS[self.norm],
            "activation": ACTIVATIONS[self.activation],
        }

    def _token_hidden(self, site: Site) -> int:
        return max(4, int(self.token_ratio * site.channels))

    def cost(self, site: Site) -> Cost:
        pixels, channels, hidden = site.pixels, site.channels, self._token_hidden(site)
        total = cost.linear(channels, pixels, hidden) + cost.linear(channels, hidden, pixels)
        total += residual_cost(channels, self.layer_scale)
        return total + mlp_cost(pixels, channels, self.expansion, self.layer_scale)

    def axes(self, site: Site) -> dict[str, Sequence[Axis | int]]:
        tokens, hidden = Grid(site.height, site.width), self._token_hidden(site)
        return {
            "tokens.branch.expand.weight": (hidden, tokens),
            "tokens.branch.project.weight": (tokens, hidden),
            "tokens.branch.project.bias": (tokens,),
        }
