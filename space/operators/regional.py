"""Regional-to-local attention (RegionViT): a coarse map of regional tokens beside the local map.

Source: RegionViT (Chen et al., 2021), arXiv 2106.02689, section 3.2 and its released code. Each
regional token stands for a window of the local map. The regional tokens attend to one another;
then each attends, together with the pixels of its window, to all of these, with the same weights
and a relative position code among the pixels; an MLP follows. As in the released code pixels that
fill the last windows take part in all layers, but are not attended to.
Shapes: N images, C channels, H x W pixels, G x K regional tokens, w the side of a window, with
G = ceil(H / w) and K = ceil(W / w); `inner` = heads * head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from space import cost, units
from space.attention_layers import AttendMap, BiasedAttention, RelativePosition, Windows
from space.blueprint import Blueprint, blueprint
from space.cost import BYTES_PER_NUMBER, Cost
from space.genes import Part, Site, choice, operator
from space.layers import EachMap
from space.residuals import ends_with
from space.settings import ACTIVATIONS, NORMS
from space.shared import EXPANSIONS, HEAD_DIMS, heads_of, same_width
from space.slicing import Around, Grid


class RegionalBlock(nn.Module):
    """The local map (N, C, H, W) and the regional one (N, C, G, K) to the same."""

    def __init__(
        self,
        window: int,
        region_norm: nn.Module,
        norm: nn.Module,
        attention: nn.Module,
        position: nn.Module,
        mlp: nn.Module | None = None,
        last: nn.Module | None = None,
    ):
        super().__init__()
        self.windows = Windows(window, window)
        self.region_norm = region_norm
        self.norm = norm
        self.attention = attention
        self.position = position
        self.mlp = mlp or nn.Identity()
        self.last = last or nn.Identity()

    def forward(self, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, regions = state
        regions = regions + self.attention(self.region_norm(regions))
        # Each row is a regional token and the pixels of its window, (N * G * K, C, 1 + w * w, 1).
        pixels = self.windows.cut(x)
        first = regions.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None]
        tokens = torch.cat([first, pixels.flatten(2)], 2)[..., None]
        tokens = tokens + self.attention(self.norm(tokens), self.bias(x, pixels))
        tokens = self.mlp(tokens).squeeze(3)
        first = tokens[:, :, 0].unflatten(0, (-1, *regions.shape[2:])).permute(0, 3, 1, 2)
        pixels = tokens[:, :, 1:].unflatten(2, pixels.shape[2:])
        return self.last((self.windows.join(pixels, x.shape[2], x.shape[3]), first))

    def bias(self, x: Tensor, pixels: Tensor) -> Tensor:
        """What is added to the scores in windows of `pixels`, (1 or windows, heads, 1 + w * w,
        1 + w * w): the position code among pixels, minus infinity for those that are none."""
        bias = F.pad(self.position(pixels), (1, 0, 1, 0))
        if x.shape[2] % pixels.shape[2] == 0 and x.shape[3] % pixels.shape[3] == 0:
            return bias
        real = self.windows.cut(torch.ones_like(x[:1, :1])).flatten(2)
        outside = F.pad(real, (1, 0), value=1.0)[:, :, None] == 0
        images = pixels.shape[0] // real.shape[0]  # len() would fix the number in a trace
        return bias.masked_fill(outside, -torch.inf).repeat(images, 1, 1, 1)


def again(cost: Cost) -> Cost:
    """The cost of layers that run a second time on other maps, with the same parameters."""
    return replace(cost, params=0)


ends_with(RegionalBlock, "attention")


@operator("regional")
@dataclass(frozen=True, slots=True, kw_only=True)
class Regional(Part):
    """Genes: `head_dim`, `expansion` (of the MLP, 0 for none), `norm`, `activation`,
    `depthwise_position` (behind the block both maps gain a 3x3 depthwise convolution of
    themselves, without bias). Windows are those of the stem."""

    takes = ("regions",)

    head_dim: int = choice(*HEAD_DIMS, default=32)
    expansion: int = choice(*EXPANSIONS, default=4)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)
    depthwise_position: bool = choice(False, True)

    def blueprint(self, site: Site) -> Blueprint:
        channels, window = same_width(self, site), site.flow.count
        regions = region_site(site).pixels
        tokens = regions * (1 + window**2)
        heads = heads_of(channels, self.head_dim)
        given: dict[str, Any] = {}
        if self.expansion:
            hidden = self.expansion * channels
            mlp = units.mlp(channels, hidden, pixels=tokens, activation=self.activation)
            given["mlp"] = units.residual(channels, mlp, norm_name=self.norm, scale=None)
        if self.depthwise_position:
            given["last"] = self._last(site)
        offsets = Around(window - 1, window - 1)
        return blueprint(
            RegionalBlock,
            window,
            region_norm=_norm(self.norm, channels),
            norm=_norm(self.norm, channels),
            attention=self._attention(channels, heads, regions, window),
            position=blueprint(
                RelativePosition,
                heads,
                window,
                window,
                cost=cost.parameters(heads * (2 * window - 1) ** 2),
                axes={"table": (heads, offsets, offsets)},
            ),
            **given,
        )

    def _attention(self, channels: int, heads: int, regions: int, window: int) -> Blueprint:
        """The weights are read twice: for the regional tokens and for those of windows."""
        inner, tokens = heads * self.head_dim, 1 + window**2
        pixels = regions + regions * tokens
        products = cost.attention(1, heads, regions, regions, self.head_dim)
        products += cost.attention(regions, heads, tokens, tokens, self.head_dim)
        axis = Grid(heads, self.head_dim)
        return blueprint(
            BiasedAttention,
            q=units.linear(channels, inner, pixels=pixels, output_axis=axis),
            kv=units.linear(
                channels, 2 * inner, pixels=pixels, output_axis=Grid(2, heads, self.head_dim)
            ),
            attend=blueprint(AttendMap, heads, cost=products),
            project=units.linear(inner, channels, pixels=pixels, input_axis=axis),
            cost=Cost(bytes_moved=BYTES_PER_NUMBER * 4 * inner * channels),
        )

    def _last(self, site: Site) -> Blueprint:
        filters, second = (
            units.depthwise(site.channels, 3, pixels=pixels, bias=False)
            for pixels in (site.pixels, region_site(site).pixels)
        )
        branch = units.residual(site.channels, filters, norm_name="none", scale=None)
        return blueprint(EachMap, layer=branch, cost=again(second.cost))


def _norm(name: str, channels: int) -> Blueprint:
    return units.norm(name, channels) or blueprint(nn.Identity)


def region_site(site: Site) -> Site:
    """Where the regional tokens beside the local map of `site` stand."""
    window = site.flow.count
    return replace(site, height=-(-site.height // window), width=-(-site.width // window))
