"""Token MLP: linear layers along the pixels, shared by all channels.

`form="mlp"` has two of them with an activation between, as MLP-Mixer (Tolstikhin et al., 2021,
arXiv 2105.01601, section 2; T = C / 2 in table 1) and SPACH (Zhao et al., 2021, arXiv 2108.13002,
section 3; T is half the pixels, and `bypass` is its convolution beside the branch).
`form="linear"` has one, as ResMLP (Touvron et al., 2021, arXiv 2105.03404, section 2).
`form="gated"` is gMLP's block (Liu et al., 2021, arXiv 2105.08050, section 2): half of the hidden
channels, mixed along the pixels, gates the other half, in one residual with the channel mixer.
The token weights belong to one map size. A smaller map takes the part for the map's top-left.
Shapes: N images, C channels, T hidden tokens, E = expansion * C, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from space import units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, number, operator
from space.layers import Pointwise
from space.settings import ACTIVATIONS, NORMS
from space.shared import EXPANSIONS, LAYER_SCALES, refuse_unused, same_width
from space.slicing import Grid, Parts


class TokenMixing(nn.Module):
    """Layers that see pixels as channels: (N, C, height, width) to the same.

    They see the channels as pixels. ValueError for another map.
    """

    def __init__(self, height: int, width: int, layers: nn.Module):
        super().__init__()
        self.height, self.width = height, width
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        size = (self.height, self.width)
        if x.shape[2:] != size:
            raise ValueError(f"the weights are for a map of {size}, not {tuple(x.shape[2:])}")
        y = self.layers(x.flatten(2).mT.unsqueeze(3))  # (N, pixels, C, 1)
        return y.squeeze(3).mT.unflatten(2, size)


class OpenGate(Pointwise):
    """Starts by giving one everywhere, so that what it gates passes as it is (gMLP, section 2)."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=1e-6)
        nn.init.ones_(self.bias)


class TokenGate(nn.Module):
    """The first half of the channels times what `tokens` makes of the normed second half:
    (N, 2 E, H, W) to (N, E, H, W)."""

    def __init__(self, norm: nn.Module, tokens: nn.Module):
        super().__init__()
        self.norm = norm
        self.tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        u, v = torch.chunk(x, 2, dim=1)
        return u * self.tokens(self.norm(v))


@operator("token_mlp")
@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMlp(Part):
    """Genes: `form` (see above), `token_ratio` (T over channels or pixels: `token_ratio_of`),
    `bypass` (adds a 3x3 depthwise convolution of the block's input to the token mixer's output),
    `expansion` (E / C of the MLP behind, of the gated layer itself where the form is gated),
    `layer_scale` (its start or None), `norm`, `activation`. The norm inside the gate is always
    LayerNorm."""

    pools: ClassVar[Mapping[str, str]] = {"mlp": "mlp"}

    form: str = choice("mlp", "linear", "gated")
    token_ratio: float = number(0.01, 8, default=0.5, examples=(0.25, 0.5, 1, 2))
    token_ratio_of: str = choice("channels", "pixels")
    bypass: bool = choice(False, True)
    expansion: int = choice(*EXPANSIONS, default=4)
    layer_scale: float | None = choice(*LAYER_SCALES)
    norm: str = choice(*NORMS)
    activation: str = choice(*ACTIVATIONS)

    def __post_init__(self) -> None:
        Part.__post_init__(self)
        if self.form != "mlp":
            refuse_unused(self, f"to the form {self.form!r}", "token_ratio", "token_ratio_of")
        if self.form == "linear" and not self.expansion:
            refuse_unused(self, "without an MLP", "activation")
        if self.form == "gated" and not self.expansion:
            raise ValueError(f"{self.kind}: expansion is 0, but the form 'gated' needs 1 or more")

    def blueprint(self, site: Site) -> Blueprint:
        channels = same_width(self, site)
        forms = {"mlp": self._mlp, "linear": self._linear, "gated": self._gated}
        bypass = units.depthwise_position(channels, pixels=site.pixels) if self.bypass else None
        mixer = units.residual(
            channels,
            forms[self.form](site),
            norm_name=self.norm,
            scale=self.layer_scale,
            shortcut=bypass,
        )
        return units.block(
            channels,
            mixer,
            expansion=0 if self.form == "gated" else self.expansion,
            pixels=site.pixels,
            activation=self.activation,
            norm_name=self.norm,
            scale=self.layer_scale,
        )

    def _mlp(self, site: Site) -> Blueprint:
        tokens, pixels, channels = Grid(site.height, site.width), site.pixels, site.channels
        width = channels if self.token_ratio_of == "channels" else pixels
        hidden = max(1, units.hidden_channels(width, self.token_ratio))
        layers = units.sequence(
            units.linear(pixels, hidden, pixels=channels, input_axis=tokens),
            units.activation(self.activation),
            units.linear(hidden, pixels, pixels=channels, output_axis=tokens),
        )
        return blueprint(TokenMixing, site.height, site.width, layers=layers)

    def _linear(self, site: Site) -> Blueprint:
        layer = _token_linear(site, site.channels)
        return blueprint(TokenMixing, site.height, site.width, layers=layer)

    def _gated(self, site: Site) -> Blueprint:
        hidden = self.expansion * site.channels
        if hidden % 2:
            raise ValueError(
                f"{self.kind}: the form 'gated' halves its hidden channels, but expansion "
                f"{self.expansion} of {site.channels} channels is odd"
            )
        half = hidden // 2
        start = replace(_token_linear(site, half), module=OpenGate)
        tokens = blueprint(TokenMixing, site.height, site.width, layers=start)
        return units.sequence(
            units.linear(site.channels, hidden, pixels=site.pixels, output_axis=Parts(half, half)),
            units.activation(self.activation),
            blueprint(TokenGate, norm=units.norm("layer", half), tokens=tokens),
            units.linear(half, site.channels, pixels=site.pixels),
        )


def _token_linear(site: Site, channels: int) -> Blueprint:
    """One linear layer from all pixels to all pixels."""
    tokens = Grid(site.height, site.width)
    return units.linear(
        site.pixels, site.pixels, pixels=channels, input_axis=tokens, output_axis=tokens
    )
