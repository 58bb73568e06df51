"""The depthwise convolution, alone and with the norm and activation behind it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernel_cases import Case, Inputs
from supernet.kernels.depthwise import depthwise, depthwise_reference, depthwise_squeezed

BATCH = 256
MAPS = ((96, 56), (192, 28), (384, 14), (768, 7))  # channels, side
EPS = 1e-6


def _inputs(
    count: int, channels: int, side: int, kernel: int, norm: bool, cut: bool
) -> Callable[[torch.device, torch.dtype], Inputs]:
    def made(device: torch.device, dtype: torch.dtype) -> Inputs:
        generator = torch.Generator(device).manual_seed(0)

        def numbers(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).to(dtype)

        x = numbers(count, channels, side, side).contiguous(memory_format=torch.channels_last)
        weight = numbers(channels, 1, kernel, kernel)
        if cut:  # the middle of a larger filter, of the leading channels
            weight = numbers(2 * channels, 1, kernel + 4, kernel + 4)[:channels, :, 2:-2, 2:-2]
        tensors = [x, weight, *(numbers(channels) for _ in range(3 if norm else 1))]
        return tuple(tensor.detach().requires_grad_() for tensor in tensors)

    return made


def _stock(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    padding = weight.shape[-1] // 2
    return F.conv2d(x, weight, bias, stride, padding, groups=x.shape[1])


def _behind(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = F.layer_norm(y.permute(0, 2, 3, 1), weight.shape, weight, bias, EPS)
    return F.gelu(y).permute(0, 3, 1, 2)


def _alone(
    channels: int,
    side: int,
    kernel: int,
    *,
    stride: int = 1,
    cut: bool = False,
    count: int = BATCH,
    small: bool = False,
) -> Case:
    form = (0.0, "none", stride, kernel // 2, (0, 0), 1)
    out = -(-side // stride)
    return Case(
        kernel="depthwise",
        label=f"{kernel}x{kernel}/{stride} {side}x{side}x{channels}" + ", cut" * cut,
        inputs=_inputs(count, channels, side, kernel, norm=False, cut=cut),
        reference=lambda *given: depthwise_reference(*given, None, None, *form),
        ours=lambda *given: depthwise(*given, None, None, *form),
        stock={
            "convolution": lambda *given: _stock(*given, stride),
            # Not channels last, so by PyTorch's own kernel in place of cuDNN's.
            "channels first": lambda x, *more: _stock(x.contiguous(), *more, stride),
        },
        moved=2 * count * channels * (side**2 + out**2) + 2 * channels * (kernel**2 + 1),
        small=small,
    )


def _normed(
    channels: int, side: int, kernel: int, *, count: int = BATCH, small: bool = False
) -> Case:
    form = (EPS, "gelu", 1, kernel // 2, (0, 0), 1)
    return Case(
        kernel="depthwise, norm, GELU",
        label=f"{kernel}x{kernel} {side}x{side}x{channels}",
        inputs=_inputs(count, channels, side, kernel, norm=True, cut=False),
        reference=lambda *given: depthwise_reference(*given, *form),
        ours=lambda *given: depthwise(*given, *form),
        stock={"layers": lambda *given: _behind(_stock(*given[:3], 1), *given[3:])},
        moved=4 * count * channels * side**2 + 2 * channels * (kernel**2 + 3),
        small=small,
    )


def _squeezed(channels: int, side: int, kernel: int) -> Case:
    """The result times its mean over the map, which stands for the rest of a squeeze-excite."""
    form = (EPS, "gelu", 1, kernel // 2, (0, 0), 1)

    def ours(*given: Tensor) -> Tensor:
        y, mean = depthwise_squeezed(*given, *form)
        return y * mean[:, :, None, None]

    def gated(y: Tensor) -> Tensor:
        return y * y.mean((2, 3), keepdim=True)

    return Case(
        kernel="depthwise, norm, GELU, mean",
        label=f"{kernel}x{kernel} {side}x{side}x{channels}",
        inputs=_inputs(BATCH, channels, side, kernel, norm=True, cut=False),
        reference=lambda *given: gated(depthwise_reference(*given, *form)),
        ours=ours,
        stock={"layers": lambda *given: gated(_behind(_stock(*given[:3], 1), *given[3:]))},
        moved=8 * BATCH * channels * side**2 + 2 * channels * (kernel**2 + 3),
    )


CASES = [
    *(_alone(*sizes, kernel) for sizes in MAPS for kernel in (3, 7)),
    *(_alone(*MAPS[1], kernel) for kernel in (5, 9, 13)),
    *(_alone(*sizes, 3, stride=2) for sizes in MAPS[:3]),
    _alone(*MAPS[1], 3, cut=True),
    *(_normed(*sizes, 7) for sizes in MAPS[:3]),
    *(_squeezed(*sizes, 3) for sizes in MAPS[1:3]),
    _alone(8, 4, 3, count=2, small=True),
    _alone(8, 5, 3, stride=2, count=1, small=True),
    _normed(8, 4, 3, count=2, small=True),
]
