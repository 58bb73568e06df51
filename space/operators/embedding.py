"""What tells an image's pixels where they stand, and what is put beside the map for what follows.

Sources: an absolute position for each pixel and a class token with its own are ViT's (Dosovitskiy
et al., 2021, arXiv 2010.11929, section 3.1), a second token DeiT's (2012.12877, section 4), a token
without a position that of CvT (2103.15808), a position for each stage that of PVT (2102.12122).
A bias for each pair of a query and a key, for all blocks of a stage, is CMT's (2107.06263, section
3.2, equation 3, and released code).
Shapes: N images, C channels, T class tokens, H x W pixels, S keys. All of it belongs to one map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from space import cost, units
from space.blueprint import Blueprint, blueprint
from space.genes import MAP, Flow, Part, Site, choice, operator, whole
from space.shared import refuse_unused, same_width
from space.slicing import Grid


class AbsolutePosition(nn.Module):
    """Adds a learned map: (N, C, H, W) to the same."""

    def __init__(self, channels: int, height: int, width: int):
        super().__init__()
        self.position = nn.Parameter(torch.empty(channels, height, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """ValueError where the map is not the one that the position was made for."""
        if x.shape[2:] != self.position.shape[1:]:
            height, width = self.position.shape[1:]
            raise ValueError(
                f"the position is for a map of {height}x{width}, not of {x.shape[2]}x{x.shape[3]}"
            )
        return x + self.position


class ClassTokens(nn.Module):
    """Puts learned tokens beside the map: (N, C, H, W) to it and (N, C, T, 1)."""

    def __init__(self, channels: int, count: int):
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(channels, count, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.tokens, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.tokens.expand(x.shape[0], -1, -1, -1)


class PlacedClassTokens(ClassTokens):
    """`ClassTokens` with a learned position added to each."""

    def __init__(self, channels: int, count: int):
        super().__init__(channels, count)
        self.position = nn.Parameter(torch.empty(channels, count, 1))
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pixels, tokens = super().forward(x)
        return pixels, tokens + self.position


class PairBias(nn.Module):
    """Puts a learned bias for each head, query and key beside the map: (N, C, H, W) to it and
    (N, heads, H * W, S), the same for every image."""

    def __init__(self, heads: int, height: int, width: int, keys: int):
        super().__init__()
        self.height, self.width = height, width
        self.table = nn.Parameter(torch.empty(heads, height * width, keys))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.table)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """ValueError where the map is not the one that the pairs were made for."""
        if x.shape[2:] != (self.height, self.width):
            raise ValueError(
                f"the pair bias is for a map of {self.height}x{self.width}, "
                f"not of {x.shape[2]}x{x.shape[3]}"
            )
        return x, self.table.expand(x.shape[0], -1, -1, -1)


@operator("embedding")
@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Part):
    """Genes: `position` (of each pixel), `tokens` (class tokens put beside the map) and
    `token_position` (they have one as well), `pair_heads` (heads of a bias of pairs put beside the
    map, 0 for none) and `kv_reduction` (pixels per key of it along one side)."""

    position: bool = choice(False, True, default=True)
    tokens: int = choice(0, 1, 2)
    token_position: bool = choice(False, True)
    pair_heads: int = whole(0, 64, default=0)
    kv_reduction: int = choice(1, 2, 4, 8)

    def __post_init__(self) -> None:
        Part.__post_init__(self)
        if not self.tokens:
            refuse_unused(self, "without tokens", "token_position")
        if not self.pair_heads:
            refuse_unused(self, "without pair_heads", "kv_reduction")
        if bool(self.tokens) and bool(self.pair_heads):
            raise ValueError(
                f"{self.kind}: tokens is {self.tokens} and pair_heads {self.pair_heads}, but only "
                "one of them can stand beside the map"
            )
        if not (self.position or self.tokens or self.pair_heads):
            raise ValueError(f"{self.kind}: position, tokens and pair_heads are all off")

    def gives(self, site: Site) -> Flow:
        if self.tokens:
            return Flow("tokens", self.tokens)
        return Flow("pair_bias", self.pair_heads) if self.pair_heads else MAP

    def blueprint(self, site: Site) -> Blueprint:
        channels, sides = same_width(self, site), (site.height, site.width)
        position = tokens = pairs = None
        if self.position:
            counted = cost.parameters(channels * site.pixels)
            position = blueprint(AbsolutePosition, channels, *sides, cost=counted)
        if self.tokens:
            module = PlacedClassTokens if self.token_position else ClassTokens
            each = 2 if self.token_position else 1
            counted = cost.parameters(each * channels * self.tokens)
            tokens = blueprint(module, channels, self.tokens, cost=counted)
        if self.pair_heads:
            keys = [-(-side // self.kv_reduction) for side in sides]
            table = (self.pair_heads, Grid(*sides), Grid(*keys))
            pairs = blueprint(
                PairBias,
                self.pair_heads,
                *sides,
                keys=table[2].size,
                cost=cost.parameters(self.pair_heads * table[1].size * table[2].size),
                axes={"table": table},
            )
        return units.sequence(*(layer for layer in (position, tokens, pairs) if layer))
