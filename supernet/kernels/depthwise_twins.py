"""Modules with a depthwise convolution, as twins that run the operators of
`supernet.kernels.depthwise`: the convolution alone, or with the LayerNorm and the activation right
behind it, or with the mean that a squeeze-excite behind it asks for.

Under autocast a convolution and what it does in the same pass are of the lower precision; the plain
modules let LayerNorm return float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from space.layers import (
    ConvolutionNorm,
    LayerNorm2d,
    PaddedConvolution,
    QuickGelu,
    SqueezeExcite,
    TanhGelu,
    end_padding,
)
from space.operators.convolution import ConvolutionBranch
from space.operators.inverted_bottleneck import InvertedBottleneckBranch
from supernet.kernels.depthwise import LARGEST, WIDEST, depthwise, depthwise_squeezed
from supernet.kernels.twins import autocast

# Names of activations by class, a class in front of the class that it is made from.
_NAMES: tuple[tuple[type[nn.Module], str], ...] = (
    (TanhGelu, "gelu-tanh"),
    (nn.GELU, "gelu"),
    (nn.ReLU, "relu"),
    (nn.ReLU6, "relu6"),
    (nn.SiLU, "silu"),
    (nn.Hardswish, "hardswish"),
    (QuickGelu, "gelu-quick"),
)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _served(module: nn.Module) -> bool:
    """Whether `module` is a convolution that the kernel can do."""
    if type(module) not in (nn.Conv2d, PaddedConvolution, Depthwise, PaddedDepthwise):
        return False
    assert isinstance(module, nn.Conv2d)
    if not module.in_channels == module.out_channels == module.groups:
        return False
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return False
    forms = (module.kernel_size, module.stride, module.padding, module.dilation)
    square = all(len(set(form)) == 1 for form in forms)
    kernel, stride, _, dilation = (form[0] for form in forms)
    return square and 2 <= kernel <= LARGEST and stride in (1, 2) and dilation in (1, 2, 3)


def _takes(x: Tensor) -> bool:
    """Whether the kernel can read `x`; the modules themselves say what is wrong with others."""
    return x.dim() == 4 and x.dtype in _DTYPES and x.device.type in ("cpu", "cuda", "meta")


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers of a sequence, or `module` as the only one."""
    return list(module) if isinstance(module, nn.Sequential) else [module]


class _Behind(NamedTuple):
    """What a convolution does in the same pass: the norm and the activation of the `taken`
    layers right behind it."""

    norm: LayerNorm2d | None
    activation: str
    taken: int


def _behind(layers: Sequence[nn.Module]) -> _Behind:
    norm, activation, taken = None, "none", 0
    for layer in layers:
        if isinstance(layer, LayerNorm2d) and norm is None and activation == "none":
            affine = layer.weight is not None and layer.bias is not None
            if not affine or layer.weight.numel() > WIDEST:
                break
            norm = layer
        elif not isinstance(layer, nn.Identity):
            name = _activation(layer)
            if name is None or activation != "none":
                break
            activation = name
        taken += 1
    return _Behind(norm, activation, taken)


def _activation(layer: nn.Module) -> str | None:
    name = next((name for kind, name in _NAMES if isinstance(layer, kind)), None)
    approximate = isinstance(layer, nn.GELU) and layer.approximate == "tanh"
    return "gelu-tanh" if approximate else name


def _arguments(convolution: nn.Conv2d, x: Tensor, behind: _Behind) -> tuple[Any, ...]:
    """Of the operators, for `convolution` and the layers behind it on `x`."""
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    padding = int(convolution.padding[0])
    padded = isinstance(convolution, PaddedConvolution)
    more = [end_padding(n, kernel, stride, padding) if padded else 0 for n in x.shape[2:]]
    norm = behind.norm
    affine = (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)
    return (
        *autocast(x, convolution.weight, convolution.bias),
        *affine,
        behind.activation,
        stride,
        padding,
        more,
        convolution.dilation[0],
    )


def _fuses(first: nn.Module, layers: Sequence[nn.Module]) -> bool:
    """Whether `first` is a convolution that does something of `layers` in the same pass."""
    behind = _behind(layers)
    return _served(first) and (behind.norm is not None or behind.activation != "none")


def _run(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """The layers one behind the other, a convolution with what it does in the same pass."""
    at = 0
    while at < len(layers):
        layer = layers[at]
        at += 1
        if _served(layer) and _takes(x):
            assert isinstance(layer, nn.Conv2d)
            behind = _behind(layers[at:])
            x = depthwise(*_arguments(layer, x, behind))
            at += behind.taken
        else:
            x = layer(x)
    return x


def _alone(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    return depthwise(*_arguments(convolution, x, _Behind(None, "none", 0)))


class Depthwise(nn.Conv2d):
    """nn.Conv2d with one filter for each channel."""

    serves = staticmethod(_served)

    def forward(self, x: Tensor) -> Tensor:
        return _alone(self, x) if _takes(x) else super().forward(x)


class PaddedDepthwise(PaddedConvolution):
    """PaddedConvolution with one filter for each channel; it reads zeros instead of padding."""

    serves = staticmethod(_served)

    def forward(self, x: Tensor) -> Tensor:
        return _alone(self, x) if _takes(x) else super().forward(x)


class DepthwiseSequence(nn.Sequential):
    """nn.Sequential with depthwise convolutions and norms or activations right behind them."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        layers = _layers(module)
        return any(_fuses(layer, layers[at + 1 :]) for at, layer in enumerate(layers))

    def forward(self, x: Tensor) -> Tensor:
        return _run(list(self), x)


class DepthwiseNorm(ConvolutionNorm):
    """ConvolutionNorm of a depthwise convolution."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        assert isinstance(module, ConvolutionNorm)
        return _fuses(module.convolution, [module.norm, module.activation])

    def forward(self, x: Tensor) -> Tensor:
        return _run([self.convolution, self.norm, self.activation], x)


class DepthwiseBranch(ConvolutionBranch):
    """ConvolutionBranch of a depthwise convolution."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        assert isinstance(module, ConvolutionBranch)
        return _fuses(module.convolution, _layers(module.between))

    def forward(self, x: Tensor) -> Tensor:
        x = _run([self.convolution, *_layers(self.between)], x)
        return self.again(self.pointwise(x))


class DepthwiseBottleneck(InvertedBottleneckBranch):
    """InvertedBottleneckBranch with a depthwise convolution in front of a norm (`lead`), or in the
    middle and in front of a squeeze-excite, which is given the mean that the convolution makes."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        assert isinstance(module, InvertedBottleneckBranch)
        return _fuses(module.lead, [module.norm]) or _squeezes(module)

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(_run([self.lead, self.norm], x))
        gated = self._squeezed if _takes(x) and _squeezes(self) else self._plain
        return self.last_norm(self.project(gated(x)))

    def _plain(self, x: Tensor) -> Tensor:
        return self.gate(self.mix(x))

    def _squeezed(self, x: Tensor) -> Tensor:
        """gate(mix(x))."""
        convolution, *layers = _layers(self.mix)
        gate = self.gate
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(gate, SqueezeExcite)
        x, mean = depthwise_squeezed(*_arguments(convolution, x, _behind(layers)))
        squeezed = gate.activation(gate.reduce(mean[:, :, None, None]))
        return x * gate.gate(gate.expand(squeezed))


def _squeezes(branch: InvertedBottleneckBranch) -> bool:
    """Whether the convolution and all behind it up to a squeeze-excite are one pass."""
    first, *layers = _layers(branch.mix)
    return (
        type(branch.gate) is SqueezeExcite
        and _served(first)
        and _behind(layers).taken == len(layers)
    )


TWINS = {
    nn.Conv2d: Depthwise,
    PaddedConvolution: PaddedDepthwise,
    nn.Sequential: DepthwiseSequence,
    ConvolutionNorm: DepthwiseNorm,
    ConvolutionBranch: DepthwiseBranch,
    InvertedBottleneckBranch: DepthwiseBottleneck,
}
