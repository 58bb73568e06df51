"""Convolution stem: one convolution or several, with norms, read the image.

Sources: 3 x 3, stride 2, no bias, norm, GELU is UniNet's (Liu et al., 2022, arXiv 2207.05420,
released code); 4 x 4, stride 4, bias, LayerNorm is ConvNeXt's (Liu et al., 2022, arXiv
2201.03545, section 2.3); 16 x 16, stride 16 without a norm is ViT's (2010.11929, section 3.1);
with convolutions `before` it those of CoAtNet (2106.04803, appendix A.1), LeViT (2104.01136,
section 4.2) and others; with `pool` that of ResNet (1512.03385, table 1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from space import units
from space.blueprint import Blueprint, blueprint
from space.genes import Numbers, Part, Site, choice, rows, scaled_channels, stem, whole
from space.settings import ACTIVATIONS, NORMS

_ACTIVATIONS = ("none", *ACTIVATIONS)


@stem("convolution")
@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionStem(Part):
    """Genes: `channels` out; of the last convolution `kernel` (side, pixels), `step` (its stride),
    `bias`, `norm`, `activation`, and `last_norm` behind these; `before` (convolutions in front of
    it: kernel, stride, width over `channels`) with `before_bias`, `before_norm` and
    `before_activation`; `activation_first` (in front of the norm); `padding` ("half" a kernel, or
    the "least" that keeps ceil(side / stride)); `pool` (a 3x3 max-pool of stride 2 at the end)."""

    channels: int = whole(1, 4096, default=32)
    kernel: int = choice(1, 2, 3, 4, 5, 7, 8, 14, 16, 32, default=3)
    step: int = choice(1, 2, 4, 7, 8, 14, 16, 32, default=2)
    bias: bool = choice(False, True)
    norm: str = choice(*NORMS)
    activation: str = choice(*_ACTIVATIONS, default="gelu")
    last_norm: str = choice(*NORMS, default="none")
    before: tuple[tuple[int, int, float], ...] = rows(
        kernel=range(1, 33),
        stride=range(1, 9),
        width=Numbers(0.01, 4, (0.5, 1)),
        examples=((), ((3, 2, 0.5),), ((7, 2, 1), (3, 1, 0.5))),
    )
    before_bias: bool = choice(False, True)
    before_norm: str = choice(*NORMS)
    before_activation: str = choice(*_ACTIVATIONS, default="gelu")
    activation_first: bool = choice(False, True)
    padding: str = choice("half", "least")
    pool: bool = choice(False, True)

    @property
    def stride(self) -> int:
        """Input pixels per pixel that leaves the stem, along one side."""
        stride = self.step * (2 if self.pool else 1)
        for _, step, _ in self.before:
            stride *= step
        return stride

    def blueprint(self, site: Site) -> Blueprint:
        layers: list[Blueprint | None] = []
        inputs, height, width = site.in_channels, site.height, site.width
        last = (self.kernel, self.step, 1)
        for i, (kernel, step, ratio) in enumerate((*self.before, last)):
            is_last = i == len(self.before)
            outputs = max(1, round(ratio * self.channels))
            pixels = height * width
            height, width = -(-height // step), -(-width // step)
            layers.append(
                units.convolution(
                    inputs,
                    outputs,
                    kernel,
                    pixels=pixels,
                    out_pixels=height * width,
                    stride=step,
                    padding=self._padding(kernel, step),
                    bias=self.bias if is_last else self.before_bias,
                )
            )
            norm = units.norm(self.norm if is_last else self.before_norm, outputs)
            active = units.activation(self.activation if is_last else self.before_activation)
            layers += [active, norm] if self.activation_first else [norm, active]
            inputs = outputs
        layers += [units.norm(self.last_norm, self.channels)]
        layers += [blueprint(nn.MaxPool2d, 3, 2, 1)] if self.pool else []
        return units.sequence(*layers)

    def _padding(self, kernel: int, step: int) -> int | None:
        """None leaves it to `units.convolution`: to the same, with a pixel more behind."""
        if kernel <= step:
            return 0  # patches that do not overlap
        if self.padding == "least":
            return (kernel - step + 1) // 2
        return None if kernel % 2 == 0 and step == 1 else (kernel - 1) // 2

    def scaled(self, ratio: float) -> ConvolutionStem:
        return replace(self, channels=scaled_channels(self.channels, ratio))
