"""Global context: each pixel takes a learned summary of the map in proportion to how like the mean
of the map it is; large depthwise filters in between, then an MLP.

Source: FCViT (Ma et al., 2022), "A Close Look at Spatial Modeling", arXiv 2212.12552, with the
settings of its released code: the summary comes from a competition of two, the similarity weights
it, and there is no further attention over places or channels.
Shapes: N images, C channels, h heads of d = C / h, E = expansion * C, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from space import cost, units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, number, operator
from space.settings import ACTIVATIONS, NORMS
from space.shared import CONTEXTS, EXPANSIONS, LAYER_SCALES, same_width
from space.slicing import Grid

LEAST_SQUEEZED = 16  # channels between the two 1x1 convolutions behind a filter


class GlobalContext(nn.Module):
    """s * context, for each head: (N, C, H, W) to the same.

    s is the product of a pixel with the mean pixel over sqrt(d), less its mean over heads and
    pixels, over its standard deviation, times a scale and plus a shift of the head. The context is
    made of the mean pixel: of two linear layers' outputs, side by side in `compete`, the larger
    goes on to `expand`.
    """

    def __init__(self, heads: int, compete: nn.Module, expand: nn.Module):
        super().__init__()
        self.heads = heads
        self.compete = compete
        self.expand = expand
        self.scale = nn.Parameter(torch.ones(heads))
        self.shift = nn.Parameter(torch.zeros(heads))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        context = self.expand(self.compete(mean).unflatten(1, (2, -1)).amax(1))
        parts = (each.flatten(2).unflatten(1, (self.heads, -1)) for each in (x, mean, context))
        pixels, mean, context = parts  # (N, h, d, HW), twice (N, h, d, 1)
        similar = (pixels.mT @ mean).mT * pixels.shape[2] ** -0.5  # (N, h, 1, HW)
        spread, centre = torch.std_mean(similar, (1, 2, 3), keepdim=True)
        similar = (similar - centre) / (spread + 1e-5)
        similar = similar * self.scale[:, None, None] + self.shift[:, None, None]
        return (context * similar).flatten(1, 2).unflatten(2, x.shape[2:])


@operator("global_context")
@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalContextOperator(Part):
    """Genes: `context` (side of the filters, pixels), `heads` (h), `reduction` (C over the width
    of the summary and of the layers behind a filter, which have at least 16 channels), `expansion`
    (E / C, 0 for no MLP), `layer_scale` (its start or None), `norm`, `activation`.

    C must be a multiple of h.
    """

    pools: ClassVar[Mapping[str, str]] = {"mlp": "mlp"}

    context: int = choice(*CONTEXTS, default=11)
    heads: int = choice(2, 4, 8, 16, default=8)
    reduction: int = choice(2, 4, 8, 16, default=8)
    expansion: float = number(0, 32, default=4, examples=EXPANSIONS)
    layer_scale: float | None = choice(*LAYER_SCALES)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)

    def blueprint(self, site: Site) -> Blueprint:
        channels = same_width(self, site)
        if channels % self.heads:
            raise ValueError(
                f"{self.kind}: {channels} channels, but must be a multiple of heads, {self.heads}"
            )
        mixer = units.sequence(self._mix(site), self._mix(site))
        return units.mixing_block(self, site, mixer)

    def _mix(self, site: Site) -> Blueprint:
        """Adds the context, then a filter and two 1x1 convolutions."""
        channels, pixels = site.channels, site.pixels
        squeezed = max(channels // self.reduction, LEAST_SQUEEZED)
        active = units.activation(self.activation)
        return units.sequence(
            units.residual(channels, self._context(site), norm_name="none", scale=None),
            units.depthwise(channels, self.context, pixels=pixels),
            units.linear(channels, squeezed, pixels=pixels),
            active,
            units.linear(squeezed, channels, pixels=pixels),
            active,
        )

    def _context(self, site: Site) -> Blueprint:
        channels, heads = site.channels, self.heads
        summary = max(1, channels // self.reduction)
        similarity = cost.matmul(heads, site.pixels, channels // heads, 1)
        return blueprint(
            GlobalContext,
            heads,
            compete=units.linear(channels, 2 * summary, pixels=1, output_axis=Grid(2, summary)),
            expand=units.linear(summary, channels, pixels=1),
            cost=similarity + cost.parameters(2 * heads),
        )
