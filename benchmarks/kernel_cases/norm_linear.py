"""Linear layers with what stands around them: into and out of an MLP of four times the width, and
all of it, at the shapes of the stages of a network. Weights are slices of larger ones."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernel_cases import Case, Inputs
from supernet.kernels.norm_linear import (
    linear_residual,
    linear_residual_reference,
    norm_linear,
    norm_linear_reference,
)
from supernet.kernels.norm_linear_mlp import mlp, mlp_reference

STAGES = [(56, 96), (28, 192), (14, 384), (7, 768)]  # side of the map, channels
EPSILON = 1e-5


class _Maker:
    """Random maps and parameters, all of which require gradients."""

    def __init__(self, count: int, side: int, device: torch.device, dtype: torch.dtype):
        self.generator = torch.Generator(device).manual_seed(0)
        self.count, self.side, self.device, self.dtype = count, side, device, dtype

    def normal(self, *shape: int, std: float = 1.0, around: float = 0.0) -> Tensor:
        made = torch.randn(shape, generator=self.generator, device=self.device)
        return (around + std * made).to(self.dtype)

    def map(self, channels: int) -> Tensor:
        made = self.normal(self.count, self.side, self.side, channels)
        return made.permute(0, 3, 1, 2).requires_grad_()

    def vector(self, *shape: int, around: float = 0.0) -> Tensor:
        return self.normal(*shape, std=0.1, around=around).requires_grad_()

    def slice(self, outputs: int, inputs: int) -> Tensor:
        """Of a weight with a half more of either."""
        large = self.normal(outputs * 3 // 2, inputs * 3 // 2, std=inputs**-0.5)
        return large[:outputs, :inputs].requires_grad_()


# ---- arguments


def _entering(
    count: int, side: int, channels: int, device: torch.device, dtype: torch.dtype
) -> Inputs:
    make, inner = _Maker(count, side, device, dtype), 4 * channels
    norm = make.vector(channels, around=1), make.vector(channels)
    return make.map(channels), *norm, make.slice(inner, channels), make.vector(inner)


def _leaving(
    count: int, side: int, channels: int, gated: bool, device: torch.device, dtype: torch.dtype
) -> Inputs:
    make, inner = _Maker(count, side, device, dtype), 4 * channels
    project = make.slice(channels, inner), make.vector(channels)
    factor = make.vector(count, inner, around=0.5) if gated else None
    return make.map(inner), *project, factor, make.vector(channels, around=1), make.map(channels)


def _whole(
    count: int, side: int, channels: int, device: torch.device, dtype: torch.dtype
) -> Inputs:
    make, inner = _Maker(count, side, device, dtype), 4 * channels
    norm = make.vector(channels, around=1), make.vector(channels)
    expand = make.slice(inner, channels), make.vector(inner)
    project = make.slice(channels, inner), make.vector(channels)
    return make.map(channels), *norm, *expand, *project, make.vector(channels, around=1)


# ---- the kernels, and plain PyTorch


def entering(operator, x, *parameters):  # type: ignore[no-untyped-def]
    return operator(x, *parameters, EPSILON, "gelu")


def entering_eager(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """As `space.layers.LayerNorm2d` and `Pointwise`."""
    y = F.layer_norm(x.permute(0, 2, 3, 1), norm_weight.shape, norm_weight, norm_bias, EPSILON)
    return F.gelu(F.linear(y, weight, bias)).permute(0, 3, 1, 2)


def entering_convolution(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """The linear layer as a 1x1 convolution."""
    y = F.layer_norm(x.permute(0, 2, 3, 1), norm_weight.shape, norm_weight, norm_bias, EPSILON)
    return F.gelu(F.conv2d(y.permute(0, 3, 1, 2), weight[:, :, None, None], bias))


def leaving_eager(
    x: Tensor, weight: Tensor, bias: Tensor, factor: Tensor | None, scale: Tensor, residual: Tensor
) -> Tensor:
    """As `space.layers.SqueezeExcite`, `Pointwise`, `LayerScale` and `Residual`."""
    if factor is not None:
        x = x * factor[:, :, None, None]
    y = F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
    return residual + y * scale[:, None, None]


def leaving_at_once(
    x: Tensor, weight: Tensor, bias: Tensor, factor: Tensor | None, scale: Tensor, residual: Tensor
) -> Tensor:
    """Scale and residual in one pass."""
    if factor is not None:
        x = x * factor[:, :, None, None]
    y = F.linear(x.permute(0, 2, 3, 1), weight, bias)
    return torch.addcmul(residual.permute(0, 2, 3, 1), y, scale).permute(0, 3, 1, 2)


def whole(operator, x, *parameters):  # type: ignore[no-untyped-def]
    return operator(x, *parameters, x, EPSILON, "gelu")


def whole_eager(x: Tensor, *parameters: Tensor) -> Tensor:
    """As `space.layers.Residual` of an `Mlp`."""
    hidden = entering_eager(x, *parameters[:4])
    project, bias, scale = parameters[4:]
    return leaving_eager(hidden, project, bias, None, scale, x)


def whole_at_once(x: Tensor, *parameters: Tensor) -> Tensor:
    """Scale and residual in one pass."""
    hidden = entering_eager(x, *parameters[:4])
    project, bias, scale = parameters[4:]
    return leaving_at_once(hidden, project, bias, None, scale, x)


# ---- cases


def _bytes(count: int, side: int, maps: int, weights: int) -> int:
    """Of bfloat16 maps of `maps` channels together, and of `weights` numbers."""
    return 2 * (count * side * side * maps + weights)


def _case_entering(count: int, side: int, channels: int, small: bool = False) -> Case:
    return Case(
        "norm_linear",
        f"{count}x{side}x{side}, {channels} to {4 * channels}",
        partial(_entering, count, side, channels),
        partial(entering, norm_linear_reference),
        partial(entering, norm_linear),
        {"eager": entering_eager, "1x1 convolution": entering_convolution},
        _bytes(count, side, 5 * channels, 4 * channels**2),
        small=small,
    )


def _case_leaving(
    count: int, side: int, channels: int, gated: bool = False, small: bool = False
) -> Case:
    return Case(
        "linear_residual",
        f"{count}x{side}x{side}, {4 * channels} to {channels}" + ", gated" * gated,
        partial(_leaving, count, side, channels, gated),
        linear_residual_reference,
        linear_residual,
        {"eager": leaving_eager, "scale and residual at once": leaving_at_once},
        _bytes(count, side, 6 * channels, 4 * channels**2 + 4 * gated * count * channels),
        small=small,
    )


def _case_whole(count: int, side: int, channels: int, small: bool = False) -> Case:
    return Case(
        "mlp",
        f"{count}x{side}x{side}x{channels}, expansion 4",
        partial(_whole, count, side, channels),
        partial(whole, mlp_reference),
        partial(whole, mlp),
        {"eager": whole_eager, "scale and residual at once": whole_at_once},
        _bytes(count, side, 2 * channels, 8 * channels**2),
        small=small,
    )


CASES = [
    _case_entering(2, 4, 16, small=True),
    _case_leaving(2, 4, 16, small=True),
    _case_leaving(2, 4, 8, gated=True, small=True),
    _case_whole(2, 4, 16, small=True),
    *(_case_entering(256, side, channels) for side, channels in STAGES[:2]),
    *(_case_leaving(256, side, channels) for side, channels in STAGES),
    *(_case_leaving(256, side, channels, gated=True) for side, channels in STAGES),
    *(_case_whole(256, side, channels) for side, channels in STAGES[:2]),
    _case_whole(256, 28, 128),
]
