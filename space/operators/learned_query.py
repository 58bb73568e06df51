"""Learned queries: each pixel's answer is asked by the same few learned queries in its window, and
behind it a plain MLP.

o_i = (sum of a_i exp(S_i + b_i) V) / (sum of exp(S_i + b_i)) over the places of a window, S_i being
the score of query i for the key there, and a and b learned for each query, head and place; the
answers of a head's queries are added. Queries do not depend on the pixel, so keys are never made:
S = x (W_k q), and both sums are depthwise convolutions. No maximum is taken off: scores of queries
of length 1 stay small.
Source: QnA-ViT (Arar et al., 2022), arXiv 2112.11435, section 4, and its released code; with a
stride it is the downsampling of that, with a 1x1 convolution of the input as its shortcut.
Shapes: N images, C channels in, D channels out, L queries, h heads of d channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from space import cost, units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, number, operator, whole
from space.settings import ACTIVATIONS, NORMS
from space.shared import CONTEXTS, EXPANSIONS, LAYER_SCALES, heads_of
from space.slicing import Around, Grid


class LearnedQueries(nn.Module):
    """(N, C, H, W) to (N, D, ceil(H / stride), ceil(W / stride)).

    `value` makes h * d channels of C, `project` D of these; pixels outside of the map take no part.
    """

    def __init__(
        self,
        channels: int,
        queries: int,
        heads: int,
        head_dim: int,
        kernel: int,
        stride: int,
        value: nn.Module,
        project: nn.Module,
    ):
        super().__init__()
        self.stride = stride
        self.query = nn.Parameter(torch.empty(queries, heads, head_dim))
        self.key = nn.Parameter(torch.empty(heads, head_dim, channels))
        self.bias = nn.Parameter(torch.empty(queries, heads, kernel, kernel))
        self.weight = nn.Parameter(torch.empty(queries, heads, kernel, kernel))
        self.value = value
        self.project = project
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.query)
        nn.init.trunc_normal_(self.key, std=self.key.shape[2] ** -0.5)
        nn.init.zeros_(self.bias)
        nn.init.normal_(self.weight, std=0.02)

    def gather(self, x: Tensor, weight: Tensor) -> Tensor:
        """Sums over windows: x (N, L, h, d, H, W), weight (L, h, kernel, kernel)."""
        each = weight[:, :, None].expand(-1, -1, x.shape[3], -1, -1).flatten(0, 2)[:, None]
        padding = weight.shape[2] // 2
        y = F.conv2d(x.flatten(1, 3), each, None, self.stride, padding, groups=each.shape[0])
        return y.unflatten(1, x.shape[1:4])

    def forward(self, x: Tensor) -> Tensor:
        query = self.query / (self.query.norm(dim=2, keepdim=True) + 1e-6)
        query = query * self.query.shape[2] ** -0.5
        asked = (query.transpose(0, 1) @ self.key).transpose(0, 1)  # (L, h, C)
        scores = F.linear(x.permute(0, 2, 3, 1), asked.flatten(0, 1)).permute(0, 3, 1, 2)
        scores = scores.unflatten(1, asked.shape[:2]).exp().unsqueeze(3)  # (N, L, h, 1, H, W)
        values = self.value(x).unflatten(1, self.query.shape[1:])  # (N, h, d, H, W)
        shares = self.bias.exp()
        above = self.gather(scores * values[:, None], shares * self.weight)
        answers = above / self.gather(scores, shares)
        return self.project(answers.sum(1).flatten(1, 2))


@operator("learned_query")
@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedQuery(Part):
    """Genes: `context` (side of a window, pixels), `queries` (L), `heads` (0: as many as fit),
    `head_dim` (0: D / heads), `expansion` (of the MLP, 0 for none), `norm`, `activation`,
    `layer_scale` (its start or None)."""

    pools: ClassVar[Mapping[str, str]] = {"mlp": "mlp"}

    context: int = choice(*CONTEXTS)
    queries: int = whole(1, 16, default=2)
    heads: int = whole(0, 256, default=0)
    head_dim: int = whole(0, 512, default=16)
    expansion: float = number(0, 32, default=4, examples=EXPANSIONS)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)
    layer_scale: float | None = choice(*LAYER_SCALES)

    def __post_init__(self) -> None:
        Part.__post_init__(self)
        if not self.heads and not self.head_dim:
            raise ValueError(f"{self.kind}: heads and head_dim are both 0; give one of them")

    def blueprint(self, site: Site) -> Blueprint:
        heads = self.heads or heads_of(site.channels, self.head_dim)
        if not self.head_dim and site.channels % heads:
            raise ValueError(
                f"{self.kind}: heads is {heads} and head_dim 0, but {site.channels} channels are "
                "not a multiple of it"
            )
        queries = self._queries(site, heads, self.head_dim or site.channels // heads)
        return units.mixing_block(self, site, queries, shortcut=self._shortcut(site))

    def _queries(self, site: Site, heads: int, head_dim: int) -> Blueprint:
        axis, asked = Grid(heads, head_dim), self.queries * heads
        taps, inner = self.context**2, heads * head_dim
        counted = cost.matmul(heads, self.queries, head_dim, site.in_channels)
        counted += cost.matmul(1, site.pixels, site.in_channels, asked)
        for channels in (asked * head_dim, asked):
            sums = cost.depthwise(site.pixels, site.out_pixels, channels, taps=taps, bias=False)
            counted += replace(sums, params=0)  # the filters are made, not learned
        counted += cost.parameters(self.queries * inner + inner * site.in_channels)
        counted += cost.parameters(2 * asked * taps)
        around = Around(before=self.context // 2, after=self.context // 2)
        window = (self.queries, heads, around, around)
        made = (site.in_channels, self.queries, heads, head_dim, self.context, site.stride)
        return blueprint(
            LearnedQueries,
            *made,
            cost=counted,
            axes={"bias": window, "weight": window, "key": (heads, head_dim, site.in_channels)},
            value=units.linear(
                site.in_channels, inner, pixels=site.pixels, bias=False, output_axis=axis
            ),
            project=units.linear(
                inner, site.channels, pixels=site.out_pixels, bias=False, input_axis=axis
            ),
        )

    def _shortcut(self, site: Site) -> Blueprint | None:
        if site.stride > 1:
            return units.convolution(
                site.in_channels,
                site.channels,
                1,
                pixels=site.pixels,
                out_pixels=site.out_pixels,
                stride=site.stride,
                bias=False,
            )
        if site.in_channels == site.channels:
            return None
        return units.linear(site.in_channels, site.channels, pixels=site.pixels, bias=False)
