"""Cases of the kernels of modulation: contexts and gates, products, decompositions, shares."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernel_cases import Case, Inputs
from supernet.kernels import gated_aggregation as kernels

SIDES = (3, 5, 7)  # of the filters of three levels
SHARES = (5, 5, 7)  # of MogaNet's three filters
DILATIONS = (1, 2, 3)
BYTES = 2  # of a bfloat16 number


def _map(device: torch.device, dtype: torch.dtype, *size: int) -> Tensor:
    """Random numbers, stored channels last where they are a map; they take a gradient."""
    made = torch.randn(size, device=device, dtype=dtype)
    if len(size) == 4:
        made = made.contiguous(memory_format=torch.channels_last)
    return made.requires_grad_()


def _filter(device: torch.device, dtype: torch.dtype, channels: int, side: int) -> Tensor:
    return (
        torch.randn(channels, 1, side, side, device=device, dtype=dtype) / side
    ).requires_grad_()


# ---- focal contexts: (context, gates, a filter for each level)


def _focal_inputs(
    count: int, channels: int, side: int, device: torch.device, dtype: torch.dtype
) -> Inputs:
    context = _map(device, dtype, count, channels, side, side)
    gates = _map(device, dtype, count, len(SIDES) + 1, side, side)
    return context, gates, *(_filter(device, dtype, channels, kernel) for kernel in SIDES)


def _focal_reference(context: Tensor, gates: Tensor, *weights: Tensor) -> Tensor:
    return kernels.focal_contexts_reference(context, gates, list(weights), "gelu")[0]


def _focal(context: Tensor, gates: Tensor, *weights: Tensor) -> Tensor:
    return kernels.focal_contexts(context, gates, list(weights), "gelu")[0]


def _focal_eager(context: Tensor, gates: Tensor, *weights: Tensor) -> Tensor:
    """As `space.modulation_layers.FocalModulation` does it."""
    *each, last = gates.split(1, dim=1)
    gathered: Tensor | int = 0
    for weight, gate in zip(weights, each, strict=True):
        context = F.conv2d(context, weight, padding=weight.shape[-1] // 2, groups=weight.shape[0])
        context = F.gelu(context)
        gathered = gathered + gate * context
    return gathered + last * F.gelu(context.mean((2, 3), keepdim=True))


def _focal_channels_first(context: Tensor, gates: Tensor, *weights: Tensor) -> Tensor:
    """The same with maps stored channels first, whose filters are PyTorch's own kernels."""
    return _focal_eager(context.contiguous(), gates.contiguous(), *weights)


# ---- products: (x, y)


def _pair(count: int, channels: int, side: int, device: torch.device, dtype: torch.dtype) -> Inputs:
    size = (count, channels, side, side)
    return _map(device, dtype, *size), _map(device, dtype, *size)


def _slices(
    count: int, channels: int, side: int, device: torch.device, dtype: torch.dtype
) -> Inputs:
    """y is the last half of the channels of a wider map, as a context of HorNet is."""
    wider = torch.randn(count, 2 * channels, side, side, device=device, dtype=dtype)
    wider = wider.contiguous(memory_format=torch.channels_last)
    return _map(device, dtype, count, channels, side, side), wider[:, channels:].requires_grad_()


def _product(name: str, factor: float) -> Callable[..., Tensor]:
    return lambda x, y: kernels.gated_product(x, y, name, factor)


def _product_reference(name: str, factor: float) -> Callable[..., Tensor]:
    return lambda x, y: kernels.gated_product_reference(x, y, name, factor)


def _gate_eager(x: Tensor, y: Tensor) -> Tensor:
    return F.silu(x) * F.silu(y)


def _third_eager(x: Tensor, y: Tensor) -> Tensor:
    return x * (y / 3)


# ---- decomposition: (x, scale)


def _decomposed_inputs(
    count: int, channels: int, side: int, device: torch.device, dtype: torch.dtype
) -> Inputs:
    return _map(device, dtype, count, channels, side, side), _map(device, dtype, channels)


def _decomposed_reference(x: Tensor, scale: Tensor) -> Tensor:
    return kernels.decomposed_reference(x, scale, "silu")[0]


def _decomposed(x: Tensor, scale: Tensor) -> Tensor:
    return kernels.decomposed(x, scale, "silu")[0]


def _decomposed_eager(x: Tensor, scale: Tensor) -> Tensor:
    return F.silu(x + scale[:, None, None] * (x - x.mean((2, 3), keepdim=True)))


# ---- filters of shares: (x, three weights, three biases)


def _shares_inputs(
    count: int, channels: int, side: int, device: torch.device, dtype: torch.dtype
) -> Inputs:
    widths = (channels, 3 * channels // 8, channels // 2)
    weights = (_filter(device, dtype, c, k) for c, k in zip(widths, SHARES, strict=True))
    biases = (_map(device, dtype, c) for c in widths)
    return _map(device, dtype, count, channels, side, side), *weights, *biases


def _shares_reference(x: Tensor, *rest: Tensor) -> Tensor:
    weights, biases = list(rest[:3]), list(rest[3:])
    return kernels.shares_context_reference(x, weights, biases, list(DILATIONS))[0]


def _shares(x: Tensor, *rest: Tensor) -> Tensor:
    return kernels.shares_context(x, list(rest[:3]), list(rest[3:]), list(DILATIONS))[0]


def _shares_eager(x: Tensor, *rest: Tensor) -> Tensor:
    filters = []
    for weight, bias, dilation in zip(rest[:3], rest[3:], DILATIONS, strict=True):
        padding, groups = weight.shape[-1] // 2 * dilation, weight.shape[0]
        filters.append(
            partial(
                F.conv2d, weight=weight, bias=bias,
                padding=padding, dilation=dilation, groups=groups,
            )
        )  # fmt: skip
    common, second, third = filters
    behind = (rest[1].shape[0], rest[2].shape[0])
    parts = common(x).split((x.shape[1] - sum(behind), *behind), 1)
    return torch.cat((parts[0], second(parts[1]), third(parts[2])), 1)


# ---- cases


def _cases(count: int, channels: int, side: int, small: bool = False) -> list[Case]:
    size = (count, channels, side)
    label, numbers = f"{side}x{side}x{channels}", count * channels * side * side
    gates = count * (len(SIDES) + 1) * side * side
    return [
        Case(
            kernel="focal_contexts",
            label=label,
            inputs=partial(_focal_inputs, *size),
            reference=_focal_reference,
            ours=_focal,
            stock={"eager": _focal_eager, "channels first": _focal_channels_first},
            moved=(2 * numbers + gates) * BYTES,
            small=small,
        ),
        Case(
            kernel="shares_context",
            label=label,
            inputs=partial(_shares_inputs, *size),
            reference=_shares_reference,
            ours=_shares,
            stock={"eager": _shares_eager},
            moved=2 * numbers * BYTES,
            small=small,
        ),
        Case(
            kernel="gated_product",
            label=f"{label}, SiLU",
            inputs=partial(_pair, *size),
            reference=_product_reference("silu", 1.0),
            ours=_product("silu", 1.0),
            stock={"eager": _gate_eager},
            moved=3 * numbers * BYTES,
            small=small,
        ),
        Case(
            kernel="gated_product",
            label=f"{label}, a third, one side a slice",
            inputs=partial(_slices, *size),
            reference=_product_reference("none", 1 / 3),
            ours=_product("none", 1 / 3),
            stock={"eager": _third_eager},
            moved=3 * numbers * BYTES,
            small=small,
        ),
        Case(
            kernel="decomposed",
            label=label,
            inputs=partial(_decomposed_inputs, *size),
            reference=_decomposed_reference,
            ours=_decomposed,
            stock={"eager": _decomposed_eager},
            moved=2 * numbers * BYTES,
            small=small,
        ),
    ]


CASES = [
    *_cases(256, 96, 56),
    *_cases(256, 192, 28),
    *_cases(256, 384, 14),
    *_cases(256, 768, 7),
    *_cases(1, 8, 4, small=True),
]
