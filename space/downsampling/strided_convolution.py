"""Strided convolution with a norm before or behind it.

Sources: a 2x2 convolution behind the norm is ConvNeXt's (Liu et al., 2022), arXiv 2201.03545,
section 2.6; before it, FocalNet's (Yang et al., 2022), arXiv 2203.11926, released code; 3x3 with
the norm behind is MogaNet's (Li et al., 2022), arXiv 2211.03295; without a norm ViP's (2106.12368).
Differs from them: where the stride does not divide a side, the last pixels are padded, not
dropped; and `shortcut` adds UniNet's (a 3x3 max-pool and a 1x1 convolution), so that in a supernet
every downsampling module of a place can have one path in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from space import units
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site, choice, downsampling
from space.layers import ConvolutionNorm, NormConvolution
from space.settings import ACTIVATIONS, NORMS


@downsampling("strided_convolution")
@dataclass(frozen=True, slots=True, kw_only=True)
class StridedConvolution(Part):
    """Genes: `kernel` (side, pixels), `norm`, `norm_first`, `activation` (behind the norm),
    `grouped` (as many groups as channels that come in, and each gives several), `bias`, `shortcut`
    (adds a pooled one)."""

    pools: ClassVar[Mapping[str, str]] = {"shortcut": "dsm"}

    kernel: int = choice(1, 2, 3, 4, 5, 7, default=2)
    norm: str = choice(*NORMS)
    norm_first: bool = choice(False, True, default=True)
    activation: str = choice("none", *ACTIVATIONS)
    grouped: bool = choice(False, True)
    bias: bool = choice(False, True, default=True)
    shortcut: bool = choice(False, True)

    def blueprint(self, site: Site) -> Blueprint:
        inputs, channels = site.in_channels, site.channels
        if self.grouped and channels % inputs:
            raise ValueError(
                f"{self.kind}: grouped, {channels} channels must be a multiple of {inputs}"
            )
        convolution = units.convolution(
            inputs,
            channels,
            self.kernel,
            pixels=site.pixels,
            out_pixels=site.out_pixels,
            stride=site.stride,
            groups=inputs if self.grouped else 1,
            bias=self.bias,
        )
        branch = blueprint(
            NormConvolution if self.norm_first else ConvolutionNorm,
            convolution=convolution,
            norm=units.norm(self.norm, inputs if self.norm_first else channels),
            activation=units.activation(self.activation),
        )
        return units.with_pooled_shortcut(branch, site) if self.shortcut else branch
