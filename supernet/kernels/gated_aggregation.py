"""Contexts, gates and products of modulation: FocalNet, MogaNet, HorNet.

Sources: FocalNet (Yang et al., 2022), arXiv 2203.11926, section 3.2; MogaNet (Li et al., 2022),
arXiv 2211.03295, section 4.2; HorNet (Rao et al., 2022), arXiv 2207.14284, section 3.1.

What is fused, by the maps that a forward pass reads and writes (one map: N C H W numbers):

- `focal_contexts`, L levels. PyTorch: 9 L + 4 (L = 3: 31). Here a level is one pass (filter,
  activation, at the last level the sums for the mean), 2 maps, and one more pass multiplies all
  levels by their gates and adds them and the mean, L + 1 maps: 3 L + 1 (L = 3: 10). Adding up
  level by level would move 4 L + 1, for what is gathered is read and written each time.
  Backward: L + 1 for the gates, then for each level 4 (its filter once more, for the slope of the
  activation), 2 for its input and what PyTorch's convolution needs for its weight.
- `gated_product`: activation(x) * activation(y) * factor, 3 maps; PyTorch 7, or 5 with a factor
  alone. x and y may be slices of wider maps, read where they lie. Backward 5 maps.
- `decomposed`: activation(x + s (x - mean)), 3 maps; PyTorch 10. Backward 5.
- `shares_context`: filters that write their share of the channels into the result, without the
  copy of a concatenation: 3.75 maps; PyTorch 5.75. A launch for each filter: the branches of one
  kernel for all would have the registers of the largest, and move as much.

Not fused: linear layers between them, and the filters of HorNet, whose third (a factor that its
contexts have) is in the product instead.
Shapes: N images, C channels, L levels, H x W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from space.modulation_layers import (
    Decomposition,
    FocalModulation,
    GatedAggregation,
    RecursiveModulation,
    SharesContext,
)
from supernet.kernels.gated_aggregation_filters import (
    activated,
    activation_reference,
    as_map,
    at_pixel,
    blocks_of,
    channel_block,
    empty_map,
    filter_backward_kernel,
    filter_grid,
    filter_input_grad,
    filter_kernel,
    filter_reference,
    filter_weight_grads,
    grain_of,
    launch_filter,
    name_of,
    packed,
    rows_of,
    slope,
    slope_reference,
    warps_of,
    wide,
)
from supernet.kernels.registration import Variant, register
from supernet.kernels.twins import autocast

NUMBERS = 2048  # of one program of an element-wise kernel
STRIP = 32  # pixels whose gradients one program of `_gather_backward_kernel` adds up


@triton.jit
def _tile(rows, channels, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """What a program of an element-wise kernel does: its first pixel, from there pixels
    (PIXELS, 1), channels (1, CHANNELS), and which of all these there are."""
    blocks = tl.cdiv(channels, CHANNELS)
    channel = (tl.program_id(0) % blocks) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    first = (tl.program_id(0) // blocks) * PIXELS
    pixel = tl.arange(0, PIXELS)[:, None]
    return first.to(tl.int64), pixel, channel, (pixel < rows - first) & (channel < channels)


def _tiles(x: Tensor) -> tuple[dict[str, int], tuple[int]]:
    """The sizes of `_tile` for a map, and the grid."""
    count, channels, height, width = x.shape
    block = channel_block(channels)
    pixels = NUMBERS // block
    programs = triton.cdiv(count * height * width, pixels) * triton.cdiv(channels, block)
    return {"PIXELS": pixels, "CHANNELS": block}, (programs,)


# ---- focal contexts


def focal_contexts_reference(
    context: Tensor, gates: Tensor, weights: list[Tensor], activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """gathered = sum over l of gate_l * context_l, and the last gate * activation(mean of the last
    context); context_l = activation(filter_l(context_{l-1})).

    `context` (N, C, H, W) is context_0, `gates` (N, L + 1, H, W), each of `weights` (C, 1, K, K)
    of odd side K. Returns gathered (N, C, H, W), contexts (L, N, C, H, W) and the means of the
    last (N, C) in float32; only the first has a gradient. Computed in float32, contexts rounded
    to the dtype of `context`.
    """
    dtype, contexts = context.dtype, []
    for weight in weights:
        context = activation_reference(filter_reference(context, weight), activation).to(dtype)
        contexts.append(context)
    mean = wide(context).mean((2, 3))
    gathered = wide(gates[:, -1:]) * activation_reference(mean, activation)[:, :, None, None]
    for level, made in enumerate(contexts):
        gathered = gathered + wide(gates[:, level : level + 1]) * wide(made)
    return as_map(gathered, dtype), as_map(torch.stack(contexts), dtype), mean


def focal_contexts_backward_reference(
    grad: Tensor,
    context: Tensor,
    gates: Tensor,
    contexts: Tensor,
    mean: Tensor,
    weights: list[Tensor],
    activation: str,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Gradients of context, gates and weights; `grad` (N, C, H, W) is that of gathered."""
    grad, used = wide(grad), activation_reference(mean, activation)[:, :, None, None]
    made = [(grad * wide(level)).sum(1) for level in contexts] + [(grad * used).sum(1)]
    pixels = context.shape[2] * context.shape[3]
    later = (grad * wide(gates[:, -1:])).sum((2, 3)) * slope_reference(mean, activation) / pixels
    later, found = later[:, :, None, None], []
    for level in reversed(range(len(weights))):
        below = contexts[level - 1] if level else context
        arrived = wide(gates[:, level : level + 1]) * grad + later
        arrived = arrived * slope_reference(filter_reference(below, weights[level]), activation)
        found.append(filter_weight_grads(arrived, wide(below), wide(weights[level]))[0])
        later = filter_input_grad(arrived, weights[level])
    found = [one.to(weight.dtype) for one, weight in zip(found[::-1], weights, strict=True)]
    return as_map(later, context.dtype), as_map(torch.stack(made, 1), gates.dtype), found


@triton.jit
def _gather_kernel(
    contexts, gates, mean, out, rows, pixels, channels, gate_pitch,
    LEVELS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, GRAIN: tl.constexpr,
):  # fmt: skip
    """out = sum over l of gate_l * contexts_l, and the last gate * mean.

    contexts is (LEVELS, rows, channels), out (rows, channels); mean (N, channels) float32, an
    image has `pixels` rows. channels is in units of GRAIN numbers.
    """
    channels *= GRAIN
    first, pixel, channel, mask = _tile(rows, channels, PIXELS, CHANNELS)
    image = (first.to(tl.int32) + pixel) // pixels
    inner = pixel * channels + channel
    gates += first * gate_pitch + pixel * gate_pitch
    inside = pixel < rows - first
    gate = tl.load(gates + LEVELS, mask=inside, other=0).to(tl.float32)
    total = gate * tl.load(mean + (image * channels + channel), mask=mask, other=0)
    for level in tl.static_range(LEVELS):
        made = at_pixel(contexts, first + level * rows, channels, GRAIN) + inner
        gate = tl.load(gates + level, mask=inside, other=0).to(tl.float32)
        total += gate * tl.load(made, mask=mask, other=0).to(tl.float32)
    line = at_pixel(out, first, channels, GRAIN)
    tl.store(line + inner, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _gather_backward_kernel(
    grad, contexts, gates, mean, gate_grads, totals,
    rows, pixels, channels, grad_pitch, gate_pitch,
    LEVELS: tl.constexpr, STEPS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
    GRAIN: tl.constexpr,
):  # fmt: skip
    """Gradients of the gates, (rows, LEVELS + 1), and of the mean in part.

    A program does STEPS * PIXELS pixels of one image and all channels: CHANNELS >= channels.
    totals (N, programs of an image, channels) are the sums of grad * last gate over these pixels.
    channels and the pitch of grad are in units of GRAIN numbers.
    """
    channels *= GRAIN
    grad_pitch *= GRAIN
    strips = tl.cdiv(pixels, STEPS * PIXELS)
    image = (tl.program_id(0) // strips).to(tl.int64)
    start = tl.program_id(0) % strips * (STEPS * PIXELS)
    channel = tl.arange(0, CHANNELS)[None, :]
    used = tl.load(mean + image * channels + channel, mask=channel < channels, other=0)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    pixel = tl.arange(0, PIXELS)[:, None]
    for step in range(STEPS):
        done = start + step * PIXELS
        first = image * pixels + done
        inside = pixel < pixels - done
        mask = inside & (channel < channels)
        value = at_pixel(grad, first, grad_pitch, GRAIN) + (pixel * grad_pitch + channel)
        value = tl.load(value, mask=mask, other=0).to(tl.float32)
        made = gate_grads + first * (LEVELS + 1) + pixel * (LEVELS + 1)
        for level in tl.static_range(LEVELS):
            context = at_pixel(contexts, first + level * rows, channels, GRAIN)
            context = tl.load(context + (pixel * channels + channel), mask=mask, other=0)
            found = tl.sum(value * context.to(tl.float32), axis=1)[:, None]
            tl.store(made + level, found.to(gate_grads.dtype.element_ty), mask=inside)
        found = tl.sum(value * used, axis=1)[:, None]
        tl.store(made + LEVELS, found.to(gate_grads.dtype.element_ty), mask=inside)
        gate = gates + first * gate_pitch + pixel * gate_pitch + LEVELS
        total += value * tl.load(gate, mask=inside, other=0).to(tl.float32)
    where = totals + tl.program_id(0).to(tl.int64) * channels + channel
    tl.store(where, tl.sum(total, axis=0)[None, :], mask=channel < channels)


def _focal_contexts_empty(
    context: Tensor, gates: Tensor, weights: list[Tensor], activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    mean = context.new_empty(
        context.shape[:2], dtype=torch.promote_types(context.dtype, torch.float32)
    )
    contexts = empty_map(context, len(weights), *context.shape)
    return empty_map(context, *context.shape), contexts, mean


def _focal_contexts(
    context: Tensor, gates: Tensor, weights: list[Tensor], activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    out, contexts, mean = _focal_contexts_empty(context, gates, weights, activation)
    count, channels, height, width = context.shape
    if not out.numel():
        return out, contexts, mean.zero_()
    last = len(weights) - 1
    for level, weight in enumerate(weights):
        totals = launch_filter(
            context, packed(weight), None, contexts[level],
            activation=activation, totals=level == last,
        )  # fmt: skip
        context = contexts[level]
    assert totals is not None
    torch.div(totals, height * width, out=mean)
    gates, gate_pitch = rows_of(gates)
    tile, grid = _tiles(out)
    grain = grain_of((out, channels), (contexts, channels))
    _gather_kernel[grid](
        contexts, gates, activation_reference(mean, activation), out,
        count * height * width, height * width, channels // grain, gate_pitch,
        LEVELS=len(weights), **tile, GRAIN=grain,
    )  # fmt: skip
    return out, contexts, mean


def _focal_contexts_backward_empty(
    grad: Tensor,
    context: Tensor,
    gates: Tensor,
    contexts: Tensor,
    mean: Tensor,
    weights: list[Tensor],
    activation: str,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    found = [weight.new_empty(weight.shape) for weight in weights]
    return empty_map(context, *context.shape), empty_map(gates, *gates.shape), found


def _strip(channels: int, pixels: int) -> dict[str, int]:
    """What a program of `_gather_backward_kernel` does: about STRIP pixels of an image of
    `pixels`."""
    columns = triton.next_power_of_2(channels)
    tile = max(1, min(STRIP, NUMBERS // columns))
    return {"STEPS": triton.cdiv(min(STRIP, pixels), tile), "PIXELS": tile, "CHANNELS": columns}


def _focal_contexts_backward(
    grad: Tensor,
    context: Tensor,
    gates: Tensor,
    contexts: Tensor,
    mean: Tensor,
    weights: list[Tensor],
    activation: str,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    later, gate_grads, found = _focal_contexts_backward_empty(
        grad, context, gates, contexts, mean, weights, activation
    )
    count, channels, height, width = context.shape
    if not later.numel():
        return later, gate_grads.zero_(), [weight.zero_() for weight in found]
    pixels = height * width
    grad, grad_pitch = rows_of(grad)
    gates, gate_pitch = rows_of(gates)
    strip = _strip(channels, pixels)
    strips = triton.cdiv(pixels, strip["STEPS"] * strip["PIXELS"])
    totals = mean.new_empty((count, strips, channels))
    grain = grain_of((grad, grad_pitch), (contexts, channels))
    _gather_backward_kernel[(count * strips,)](
        grad, contexts, gates, activation_reference(mean, activation), gate_grads, totals,
        count * pixels, pixels, channels // grain, grad_pitch // grain, gate_pitch,
        LEVELS=len(weights), **strip, GRAIN=grain,
    )  # fmt: skip
    mean_grad = totals.sum(1) * slope_reference(mean, activation) / pixels
    block = blocks_of(channels, height, width)
    _, programs = filter_grid(context, block)
    arrived, last = empty_map(later, *later.shape), len(weights) - 1
    for level in reversed(range(len(weights))):
        below, pitch = rows_of(contexts[level - 1] if level else context)
        weight = packed(weights[level])
        grain = grain_of((below, pitch), (grad, grad_pitch), (weight, channels), (later, channels))
        filter_backward_kernel[(programs,)](
            below, weight, grad, gates[:, level:], later, mean_grad, arrived,
            height, width, channels // grain, pitch // grain, grad_pitch // grain, gate_pitch,
            KERNEL=weight.shape[0], ACTIVATION=activation, LAST=level == last,
            **block, GRAIN=grain, num_warps=warps_of(block),
        )  # fmt: skip
        found[level] = filter_weight_grads(arrived, below, weights[level])[0]
        launch_filter(arrived, weight, None, later, flipped=True)
    return later, gate_grads, found


def _filter_flops(shape: Any, *weights: Any) -> int:
    count, _, height, width = shape
    return sum(2 * count * height * width * c * k * k for c, _, _, k in weights)


def _focal_contexts_flops(
    context: Any, gates: Any, weights: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return _filter_flops(context, *weights)


def _focal_contexts_backward_flops(
    grad: Any,
    context: Any,
    gates: Any,
    contexts: Any,
    mean: Any,
    weights: Any,
    *_: Any,
    out_shape: Any = None,
    **__: Any,
) -> int:
    return 3 * _filter_flops(context, *weights)  # inputs, weights, and the filters once more


focal_contexts_backward = register(
    "focal_contexts_backward",
    "(Tensor grad, Tensor context, Tensor gates, Tensor contexts, Tensor mean, Tensor[] weights, "
    "str activation) -> (Tensor, Tensor, Tensor[])",
    launch=_focal_contexts_backward,
    reference=focal_contexts_backward_reference,
    fake=_focal_contexts_backward_empty,
    flops=_focal_contexts_backward_flops,
)


def _focal_contexts_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    context, gates, weights, ctx.activation = inputs
    _, contexts, mean = output
    ctx.mark_non_differentiable(contexts, mean)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(context, gates, contexts, mean, *weights)


def _focal_contexts_grads(ctx: Any, grad: Tensor | None, *_: Any) -> tuple:
    context, gates, contexts, mean, *weights = ctx.saved_tensors
    if grad is None:
        return None, None, [None] * len(weights), None
    found = focal_contexts_backward(grad, context, gates, contexts, mean, weights, ctx.activation)
    return *found, None


focal_contexts = register(
    "focal_contexts",
    "(Tensor context, Tensor gates, Tensor[] weights, str activation) -> (Tensor, Tensor, Tensor)",
    launch=_focal_contexts,
    reference=focal_contexts_reference,
    fake=_focal_contexts_empty,
    flops=_focal_contexts_flops,
    backward=_focal_contexts_grads,
    setup_context=_focal_contexts_setup,
)


# ---- products


def gated_product_reference(x: Tensor, y: Tensor, activation: str, factor: float) -> Tensor:
    """activation(x) * activation(y) * factor; x, y (N, C, H, W). Computed in float32."""
    both = activation_reference(wide(x), activation) * activation_reference(wide(y), activation)
    return as_map(both * factor, x.dtype)


def gated_product_backward_reference(
    grad: Tensor, x: Tensor, y: Tensor, activation: str, factor: float
) -> tuple[Tensor, Tensor]:
    """Gradients of x and y."""
    grad, u, v = wide(grad) * factor, wide(x), wide(y)
    of_x = grad * slope_reference(u, activation) * activation_reference(v, activation)
    of_y = grad * slope_reference(v, activation) * activation_reference(u, activation)
    return as_map(of_x, x.dtype), as_map(of_y, y.dtype)


@triton.jit
def _product_kernel(
    x, y, out, rows, channels, x_pitch, y_pitch, factor,
    ACTIVATION: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, GRAIN: tl.constexpr,
):  # fmt: skip
    """out (rows, channels) = activation(x) * activation(y) * factor.

    channels and pitches are in units of GRAIN numbers.
    """
    channels *= GRAIN
    x_pitch *= GRAIN
    y_pitch *= GRAIN
    first, pixel, channel, mask = _tile(rows, channels, PIXELS, CHANNELS)
    u = at_pixel(x, first, x_pitch, GRAIN) + (pixel * x_pitch + channel)
    v = at_pixel(y, first, y_pitch, GRAIN) + (pixel * y_pitch + channel)
    u = activated(tl.load(u, mask=mask, other=0).to(tl.float32), ACTIVATION)
    v = activated(tl.load(v, mask=mask, other=0).to(tl.float32), ACTIVATION)
    line = at_pixel(out, first, channels, GRAIN)
    value = (u * v * factor).to(out.dtype.element_ty)
    tl.store(line + (pixel * channels + channel), value, mask=mask)


@triton.jit
def _product_backward_kernel(
    grad, x, y, x_grad, y_grad, rows, channels, grad_pitch, x_pitch, y_pitch, factor,
    ACTIVATION: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, GRAIN: tl.constexpr,
):  # fmt: skip
    """Gradients of both sides, (rows, channels).

    channels and pitches are in units of GRAIN numbers.
    """
    channels *= GRAIN
    grad_pitch *= GRAIN
    x_pitch *= GRAIN
    y_pitch *= GRAIN
    first, pixel, channel, mask = _tile(rows, channels, PIXELS, CHANNELS)
    u = at_pixel(x, first, x_pitch, GRAIN) + (pixel * x_pitch + channel)
    v = at_pixel(y, first, y_pitch, GRAIN) + (pixel * y_pitch + channel)
    value = at_pixel(grad, first, grad_pitch, GRAIN) + (pixel * grad_pitch + channel)
    u = tl.load(u, mask=mask, other=0).to(tl.float32)
    v = tl.load(v, mask=mask, other=0).to(tl.float32)
    value = tl.load(value, mask=mask, other=0).to(tl.float32) * factor
    of_x = value * slope(u, ACTIVATION) * activated(v, ACTIVATION)
    of_y = value * slope(v, ACTIVATION) * activated(u, ACTIVATION)
    where = pixel * channels + channel
    line = at_pixel(x_grad, first, channels, GRAIN)
    tl.store(line + where, of_x.to(x_grad.dtype.element_ty), mask=mask)
    line = at_pixel(y_grad, first, channels, GRAIN)
    tl.store(line + where, of_y.to(y_grad.dtype.element_ty), mask=mask)


def _gated_product_empty(x: Tensor, y: Tensor, activation: str, factor: float) -> Tensor:
    return empty_map(x, *x.shape)


def _gated_product(x: Tensor, y: Tensor, activation: str, factor: float) -> Tensor:
    out = empty_map(x, *x.shape)
    if out.numel():
        x, x_pitch = rows_of(x)
        y, y_pitch = rows_of(y)
        count, channels, height, width = x.shape
        tile, grid = _tiles(x)
        grain = grain_of((x, x_pitch), (y, y_pitch), (out, channels))
        _product_kernel[grid](
            x, y, out, count * height * width,
            channels // grain, x_pitch // grain, y_pitch // grain, factor,
            ACTIVATION=activation, **tile, GRAIN=grain,
        )  # fmt: skip
    return out


def _gated_product_backward_empty(
    grad: Tensor, x: Tensor, y: Tensor, activation: str, factor: float
) -> tuple[Tensor, Tensor]:
    return empty_map(x, *x.shape), empty_map(y, *y.shape)


def _gated_product_backward(
    grad: Tensor, x: Tensor, y: Tensor, activation: str, factor: float
) -> tuple[Tensor, Tensor]:
    x_grad, y_grad = empty_map(x, *x.shape), empty_map(y, *y.shape)
    if x_grad.numel():
        grad, grad_pitch = rows_of(grad)
        x, x_pitch = rows_of(x)
        y, y_pitch = rows_of(y)
        count, channels, height, width = x.shape
        tile, grid = _tiles(x)
        grain = grain_of((grad, grad_pitch), (x, x_pitch), (y, y_pitch), (x_grad, channels))
        _product_backward_kernel[grid](
            grad, x, y, x_grad, y_grad, count * height * width,
            channels // grain, grad_pitch // grain, x_pitch // grain, y_pitch // grain, factor,
            ACTIVATION=activation, **tile, GRAIN=grain,
        )  # fmt: skip
    return x_grad, y_grad


def _nothing_counted(*_: Any, **__: Any) -> int:
    return 0  # as PyTorch counts: element-wise work is not counted


gated_product_backward = register(
    "gated_product_backward",
    "(Tensor grad, Tensor x, Tensor y, str activation, float factor) -> (Tensor, Tensor)",
    launch=_gated_product_backward,
    reference=gated_product_backward_reference,
    fake=_gated_product_backward_empty,
    flops=_nothing_counted,
)


def _gated_product_setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, y, ctx.activation, ctx.factor = inputs
    ctx.save_for_backward(x, y)


def _gated_product_grads(ctx: Any, grad: Tensor) -> tuple:
    found = gated_product_backward(grad, *ctx.saved_tensors, ctx.activation, ctx.factor)
    return *found, None, None


gated_product = register(
    "gated_product",
    "(Tensor x, Tensor y, str activation, float factor) -> Tensor",
    launch=_gated_product,
    reference=gated_product_reference,
    fake=_gated_product_empty,
    flops=_nothing_counted,
    backward=_gated_product_grads,
    setup_context=_gated_product_setup,
)


# ---- decomposition


def decomposed_reference(x: Tensor, scale: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """activation(x + scale * (x - mean)), x (N, C, H, W), scale (C,), the mean over the map.

    Returns that and the mean (N, C) in float32, which has no gradient of its own. Computed in
    float32.
    """
    mean = wide(x).mean((2, 3))
    shift = wide(scale)[:, None, None] * (wide(x) - mean[:, :, None, None])
    return as_map(activation_reference(wide(x) + shift, activation), x.dtype), mean


def decomposed_backward_reference(
    grad: Tensor, x: Tensor, mean: Tensor, scale: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    """Gradients of x and scale."""
    factor = wide(scale)[:, None, None]
    away = wide(x) - mean[:, :, None, None]
    arrived = wide(grad) * slope_reference(wide(x) + factor * away, activation)
    found = arrived * (1 + factor) - factor * arrived.mean((2, 3), keepdim=True)
    return as_map(found, x.dtype), (arrived * away).sum((0, 2, 3)).to(scale.dtype)


@triton.jit
def _decomposed_kernel(
    x, mean, scale, out, rows, pixels, channels, x_pitch,
    ACTIVATION: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, GRAIN: tl.constexpr,
):  # fmt: skip
    """out (rows, channels) = activation(x + scale * (x - mean)); mean (N, channels) float32.

    An image has `pixels` rows; channels and the pitch are in units of GRAIN numbers.
    """
    channels *= GRAIN
    x_pitch *= GRAIN
    first, pixel, channel, mask = _tile(rows, channels, PIXELS, CHANNELS)
    value = at_pixel(x, first, x_pitch, GRAIN) + (pixel * x_pitch + channel)
    value = tl.load(value, mask=mask, other=0).to(tl.float32)
    image = (first.to(tl.int32) + pixel) // pixels
    middle = tl.load(mean + (image * channels + channel), mask=mask, other=0)
    factor = tl.load(scale + channel, mask=channel < channels, other=0).to(tl.float32)
    value = activated(value + factor * (value - middle), ACTIVATION)
    line = at_pixel(out, first, channels, GRAIN) + (pixel * channels + channel)
    tl.store(line, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _decomposed_sums_kernel(
    grad, x, mean, scale, totals, products, pixels, channels, grad_pitch, x_pitch,
    ACTIVATION: tl.constexpr, STEPS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
    GRAIN: tl.constexpr,
):  # fmt: skip
    """For each image and channel the sums of g = grad * activation' and of g * (x - mean).

    A program does all pixels of one image, in STEPS times PIXELS; totals and products are
    (N, channels) float32. channels and pitches are in units of GRAIN numbers.
    """
    channels *= GRAIN
    grad_pitch *= GRAIN
    x_pitch *= GRAIN
    blocks = tl.cdiv(channels, CHANNELS)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    channel = (tl.program_id(0) % blocks) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    known = channel < channels
    middle = tl.load(mean + image * channels + channel, mask=known, other=0)
    factor = tl.load(scale + channel, mask=known, other=0).to(tl.float32)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    product = tl.zeros((PIXELS, CHANNELS), tl.float32)
    pixel = tl.arange(0, PIXELS)[:, None]
    for step in range(STEPS):
        done = step * PIXELS
        first = image * pixels + done
        mask = (pixel < pixels - done) & known
        away = at_pixel(x, first, x_pitch, GRAIN) + (pixel * x_pitch + channel)
        away = tl.load(away, mask=mask, other=0).to(tl.float32) - middle
        arrived = at_pixel(grad, first, grad_pitch, GRAIN) + (pixel * grad_pitch + channel)
        arrived = tl.load(arrived, mask=mask, other=0).to(tl.float32)
        arrived *= slope(middle + away + factor * away, ACTIVATION)
        total += arrived
        product += arrived * away
    where = image * channels + channel
    tl.store(totals + where, tl.sum(total, axis=0)[None, :], mask=known)
    tl.store(products + where, tl.sum(product, axis=0)[None, :], mask=known)


@triton.jit
def _decomposed_backward_kernel(
    grad, x, mean, scale, totals, out, rows, pixels, channels, grad_pitch, x_pitch,
    ACTIVATION: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, GRAIN: tl.constexpr,
):  # fmt: skip
    """out (rows, channels), the gradient of x: g * (1 + scale) - scale * mean of g.

    channels and pitches are in units of GRAIN numbers.
    """
    channels *= GRAIN
    grad_pitch *= GRAIN
    x_pitch *= GRAIN
    first, pixel, channel, mask = _tile(rows, channels, PIXELS, CHANNELS)
    image = (first.to(tl.int32) + pixel) // pixels * channels + channel
    value = at_pixel(x, first, x_pitch, GRAIN) + (pixel * x_pitch + channel)
    value = tl.load(value, mask=mask, other=0).to(tl.float32)
    arrived = at_pixel(grad, first, grad_pitch, GRAIN) + (pixel * grad_pitch + channel)
    arrived = tl.load(arrived, mask=mask, other=0).to(tl.float32)
    middle = tl.load(mean + image, mask=mask, other=0)
    factor = tl.load(scale + channel, mask=channel < channels, other=0).to(tl.float32)
    arrived *= slope(value + factor * (value - middle), ACTIVATION)
    found = arrived * (1 + factor) - factor * tl.load(totals + image, mask=mask, other=0) / pixels
    line = at_pixel(out, first, channels, GRAIN) + (pixel * channels + channel)
    tl.store(line, found.to(out.dtype.element_ty), mask=mask)


def _decomposed_empty(x: Tensor, scale: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, torch.float32)
    return empty_map(x, *x.shape), x.new_empty(x.shape[:2], dtype=dtype)


def _decomposed(x: Tensor, scale: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    out = empty_map(x, *x.shape)
    mean = x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
    if out.numel():
        x, pitch = rows_of(x)
        count, channels, height, width = x.shape
        tile, grid = _tiles(x)
        grain = grain_of((x, pitch), (out, channels))
        _decomposed_kernel[grid](
            x, mean, scale.contiguous(), out,
            count * height * width, height * width, channels // grain, pitch // grain,
            ACTIVATION=activation, **tile, GRAIN=grain,
        )  # fmt: skip
    return out, mean


def _decomposed_backward_empty(
    grad: Tensor, x: Tensor, mean: Tensor, scale: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    return empty_map(x, *x.shape), scale.new_empty(scale.shape)


def _decomposed_backward(
    grad: Tensor, x: Tensor, mean: Tensor, scale: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    out = empty_map(x, *x.shape)
    if not out.numel():
        return out, torch.zeros_like(scale)
    grad, grad_pitch = rows_of(grad)
    x, pitch = rows_of(x)
    scale = scale.contiguous()
    count, channels, height, width = x.shape
    totals, products = torch.empty_like(mean), torch.empty_like(mean)
    tile, grid = _tiles(x)
    grain = grain_of((grad, grad_pitch), (x, pitch), (out, channels))
    sizes = (channels // grain, grad_pitch // grain, pitch // grain)
    _decomposed_sums_kernel[(count * triton.cdiv(channels, tile["CHANNELS"]),)](
        grad, x, mean, scale, totals, products,
        height * width, *sizes,
        ACTIVATION=activation, STEPS=triton.cdiv(height * width, tile["PIXELS"]),
        **tile, GRAIN=grain,
    )  # fmt: skip
    _decomposed_backward_kernel[grid](
        grad, x, mean, scale, totals, out,
        count * height * width, height * width, *sizes,
        ACTIVATION=activation, **tile, GRAIN=grain,
    )  # fmt: skip
    return out, products.sum(0).to(scale.dtype)


decomposed_backward = register(
    "decomposed_backward",
    "(Tensor grad, Tensor x, Tensor mean, Tensor scale, str activation) -> (Tensor, Tensor)",
    launch=_decomposed_backward,
    reference=decomposed_backward_reference,
    fake=_decomposed_backward_empty,
    flops=_nothing_counted,
)


def _decomposed_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, scale, ctx.activation = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, output[1], scale)


def _decomposed_grads(ctx: Any, grad: Tensor | None, *_: Any) -> tuple:
    if grad is None:
        return None, None, None
    return *decomposed_backward(grad, *ctx.saved_tensors, ctx.activation), None


decomposed = register(
    "decomposed",
    "(Tensor x, Tensor scale, str activation) -> (Tensor, Tensor)",
    launch=_decomposed,
    reference=decomposed_reference,
    fake=_decomposed_empty,
    flops=_nothing_counted,
    backward=_decomposed_grads,
    setup_context=_decomposed_setup,
)


# ---- filters of shares


def shares_context_reference(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], dilations: list[int]
) -> tuple[Tensor, Tensor]:
    """One filter on all channels of x (N, C, H, W); behind it a second and a third, on as many of
    the last channels as they have; the first channels stay as the common filter made them.

    `weights` (C', 1, K, K), `biases` (C',) and `dilations` are of the three in this order. Returns
    (N, C, H, W) and what the second and the third filter read, which has no gradient of its own.
    Computed in float32, the latter rounded to the dtype of x.
    """
    first = x.shape[1] - weights[1].shape[0] - weights[2].shape[0]
    common = filter_reference(x, weights[0], biases[0], dilations[0]).to(x.dtype)
    parts = common.split((first, weights[1].shape[0], weights[2].shape[0]), 1)
    made = [wide(parts[0])]
    for given in zip(parts[1:], weights[1:], biases[1:], dilations[1:], strict=True):
        made.append(filter_reference(*given))
    return as_map(torch.cat(made, 1), x.dtype), as_map(common[:, first:], x.dtype)


def shares_context_backward_reference(
    grad: Tensor,
    x: Tensor,
    filtered: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    dilations: list[int],
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients of x, weights and biases."""
    sizes = [weight.shape[0] for weight in weights[1:]]
    grads = wide(grad).split((x.shape[1] - sum(sizes), *sizes), 1)
    arrived, found = [grads[0]], []
    for one, part, weight, dilation in zip(
        grads[1:], wide(filtered).split(sizes, 1), weights[1:], dilations[1:], strict=True
    ):
        found.append(filter_weight_grads(one, part, wide(weight), True, dilation))
        arrived.append(filter_input_grad(one, weight, dilation))
    whole = torch.cat(arrived, 1)
    found.insert(0, filter_weight_grads(whole, wide(x), wide(weights[0]), True, dilations[0]))
    of_x = filter_input_grad(whole, weights[0], dilations[0])
    of_weights, of_biases = ([pair[side] for pair in found] for side in (0, 1))
    return as_map(of_x, x.dtype), _as(of_weights, weights), _as(of_biases, biases)


def _as(found: list[Tensor], models: list[Tensor]) -> list[Tensor]:
    return [one.to(model.dtype) for one, model in zip(found, models, strict=True)]


def _shares_context_empty(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], dilations: list[int]
) -> tuple[Tensor, Tensor]:
    count, _, height, width = x.shape
    behind = weights[1].shape[0] + weights[2].shape[0]
    return empty_map(x, *x.shape), empty_map(x, count, behind, height, width)


def _shares_context(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], dilations: list[int]
) -> tuple[Tensor, Tensor]:
    out, filtered = _shares_context_empty(x, weights, biases, dilations)
    if not out.numel():
        return out, filtered
    x, _ = rows_of(x)
    behind = filtered.shape[1]
    first, second = x.shape[1] - behind, weights[1].shape[0]
    ends = (first, second, behind - second)
    for place, into in ((slice(first), out[:, :first]), (slice(first, None), filtered)):
        if into.shape[1]:
            weight, bias = packed(weights[0][place]), biases[0][place]
            launch_filter(x[:, place], weight, bias, into, dilation=dilations[0])
    shares = zip(filtered.split(ends[1:], 1), out.split(ends, 1)[1:], strict=True)
    for side, (part, into) in enumerate(shares, 1):
        weight, bias = packed(weights[side]), biases[side]
        launch_filter(part, weight, bias, into, dilation=dilations[side])
    return out, filtered


def _shares_context_backward_empty(
    grad: Tensor,
    x: Tensor,
    filtered: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    dilations: list[int],
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    found = [[model.new_empty(model.shape) for model in models] for models in (weights, biases)]
    return empty_map(x, *x.shape), found[0], found[1]


def _shares_context_backward(
    grad: Tensor,
    x: Tensor,
    filtered: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    dilations: list[int],
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    out, of_weights, of_biases = _shares_context_backward_empty(
        grad, x, filtered, weights, biases, dilations
    )
    if not out.numel():
        return out, [w.zero_() for w in of_weights], [b.zero_() for b in of_biases]
    grad, _ = rows_of(grad)
    sizes = [weight.shape[0] for weight in weights[1:]]
    whole = empty_map(x, *x.shape)  # the gradient at the outputs of the common filter
    ends = (x.shape[1] - sum(sizes), *sizes)
    first, *grads = grad.split(ends, 1)
    start, *behind = whole.split(ends, 1)
    start.copy_(first)
    for side, part in enumerate(filtered.split(sizes, 1)):
        weight, dilation = weights[side + 1], dilations[side + 1]
        launch_filter(
            grads[side], packed(weight), None, behind[side], dilation=dilation, flipped=True
        )
        found = filter_weight_grads(grads[side], part, weight, True, dilation)
        of_weights[side + 1], of_biases[side + 1] = found
    launch_filter(whole, packed(weights[0]), None, out, dilation=dilations[0], flipped=True)
    of_weights[0], of_biases[0] = filter_weight_grads(whole, x, weights[0], True, dilations[0])
    return out, of_weights, _as(of_biases, biases)


def _shares_context_flops(x: Any, weights: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return _filter_flops(x, *weights)


def _shares_context_backward_flops(
    grad: Any, x: Any, filtered: Any, weights: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return 2 * _filter_flops(x, *weights)


shares_context_backward = register(
    "shares_context_backward",
    "(Tensor grad, Tensor x, Tensor filtered, Tensor[] weights, Tensor[] biases, int[] dilations) "
    "-> (Tensor, Tensor[], Tensor[])",
    launch=_shares_context_backward,
    reference=shares_context_backward_reference,
    fake=_shares_context_backward_empty,
    flops=_shares_context_backward_flops,
)


def _shares_context_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, weights, biases, ctx.dilations = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, output[1], *weights, *biases)


def _shares_context_grads(ctx: Any, grad: Tensor | None, *_: Any) -> tuple:
    x, filtered, *rest = ctx.saved_tensors
    if grad is None:
        return None, [None] * 3, [None] * 3, None
    return *shares_context_backward(grad, x, filtered, rest[:3], rest[3:], ctx.dilations), None


shares_context = register(
    "shares_context",
    "(Tensor x, Tensor[] weights, Tensor[] biases, int[] dilations) -> (Tensor, Tensor)",
    launch=_shares_context,
    reference=shares_context_reference,
    fake=_shares_context_empty,
    flops=_shares_context_flops,
    backward=_shares_context_grads,
    setup_context=_shares_context_setup,
)


# ---- twins

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _served(x: Tensor) -> bool:
    return x.dtype in DTYPES and x.ndim == 4 and x.numel() > 0


def _product(x: Tensor, y: Tensor, activation: str = "none", factor: float = 1.0) -> Tensor:
    dtype = torch.promote_types(x.dtype, y.dtype)
    return gated_product(x.to(dtype), y.to(dtype), activation, factor)


def _is_filter(module: nn.Module, bias: bool) -> bool:
    """Whether it is a depthwise filter of odd side that keeps the size of the map."""
    if not isinstance(module, nn.Conv2d) or module.padding_mode != "zeros":
        return False
    side, dilation = module.kernel_size[0], module.dilation[0]
    return (
        module.kernel_size == (side, side)
        and side % 2 == 1
        and module.stride == (1, 1)
        and module.dilation == (dilation, dilation)
        and module.padding == (side // 2 * dilation, side // 2 * dilation)
        and module.in_channels == module.out_channels == module.groups
        and (module.bias is not None) == bias
    )


def _name(activation: nn.Module) -> str:
    name = name_of(activation)
    assert name is not None
    return name


class FusedFocalModulation(FocalModulation):
    """Focal modulation by `focal_contexts` and `gated_product`."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        """Whether levels are filters without bias, followed by the activation of the mean."""
        assert isinstance(module, FocalModulation)
        name = name_of(module.activation)
        return (
            name is not None
            and isinstance(module.expand, nn.Linear)
            and all(
                isinstance(level, nn.Sequential)
                and len(level) == 2
                and _is_filter(level[0], bias=False)
                and level[0].dilation == (1, 1)
                and name_of(level[1]) == name
                for level in module.levels
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        if not _served(x):
            return super().forward(x)
        # Zeros are for the GPU's sake alone.
        parts = self.expanded(x, multiple=16 if x.is_cuda else 1)
        # One `split`, whose backward pass joins the gradients in one piece; that of `tensor_split`
        # adds up a whole map for each part.
        query, context, gates, *_ = parts.split(self.ends(parts.shape[1]), 1)
        levels: Any = self.levels
        given: Any = autocast(context, gates, *(level[0].weight for level in levels))
        gathered, *_ = focal_contexts(given[0], given[1], given[2:], _name(self.activation))
        return self.project(_product(query, self.modulator(gathered)))

    def expanded(self, x: Tensor, multiple: int) -> Tensor:
        """`expand(x)` with zeros behind its channels, up to a multiple of `multiple`.

        The gates make the width an odd one (2 C + 4 at 3 levels), so that neither the matrix
        product nor the kernels could move several numbers of a pixel at once: 2 bytes instead of
        16.
        """
        linear: Any = self.expand
        weight, bias = linear.weight, linear.bias
        missing = -weight.shape[0] % multiple
        if missing:
            weight = F.pad(weight, (0, 0, 0, missing))
            bias = None if bias is None else F.pad(bias, (0, missing))
        return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)

    def ends(self, width: int) -> tuple[int, ...]:
        """Channels of query, first context, gates and zeros."""
        linear: Any = self.expand
        channels, gates = linear.weight.shape[1], len(self.levels) + 1
        return channels, channels, gates, width - 2 * channels - gates


class FusedSharesContext(SharesContext):
    """The three filters by `shares_context`."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        """Whether all three are depthwise filters with bias."""
        assert isinstance(module, SharesContext)
        three = (module.common, module.second, module.third)
        return all(_is_filter(part, bias=True) for part in three)

    def forward(self, x: Tensor) -> Tensor:
        if not _served(x):
            return super().forward(x)
        three: Any = (self.common, self.second, self.third)
        weights, biases = ([getattr(part, name) for part in three] for name in ("weight", "bias"))
        given: Any = autocast(x, *weights, *biases)
        dilations = [part.dilation[0] for part in three]
        return shares_context(given[0], given[1:4], given[4:], dilations)[0]


class FusedGatedAggregation(GatedAggregation):
    """Gated aggregation by `decomposed` and `gated_product`; its filters have a twin themselves."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        """Whether a decomposition and one activation stand where MogaNet has them."""
        assert isinstance(module, GatedAggregation)
        three: tuple[Any, ...] = (module.expand, module.gate, module.value)
        if not all(isinstance(part, nn.Sequential) and len(part) > 1 for part in three):
            return False
        names = {name_of(part[-1]) for part in three}
        return len(names) == 1 and None not in names and isinstance(three[0][-2], Decomposition)

    def forward(self, x: Tensor) -> Tensor:
        if not _served(x):
            return super().forward(x)
        expand: Any = self.expand
        *linear, decomposition, activation = expand
        name = _name(activation)
        y = decomposed(_through(linear, x), decomposition.scale, name)[0]
        return x + self.project(_product(_inner(self.gate, y), _inner(self.value, y), name))


def _through(layers: list[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _inner(layers: Any, x: Tensor) -> Tensor:
    """All but the last of a sequence, the activation."""
    return _through(list(layers)[:-1], x)


class FusedRecursiveModulation(RecursiveModulation):
    """The recursion's products by `gated_product`, each with the third in it."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        return True

    def forward(self, x: Tensor) -> Tensor:
        if not _served(x):
            return super().forward(x)
        parts = self.split(x)
        first = self.widths[0]
        query, rest = parts.split((first, parts.shape[1] - first), 1)
        start, *contexts = self.context(rest).split(self.widths, 1)
        y = _product(query, start, factor=1 / 3)
        for step, context in zip(reversed(self.steps), contexts, strict=True):
            y = _product(step(y), context, factor=1 / 3)
        return self.project(y)


TWINS = {
    FocalModulation: FusedFocalModulation,
    SharesContext: FusedSharesContext,
    GatedAggregation: FusedGatedAggregation,
    RecursiveModulation: FusedRecursiveModulation,
}


# ---- what is compiled ahead of time

_NUMBERS = "height width rows pixels channels x_pitch y_pitch out_pitch grad_pitch gate_pitch"
_FLOATS = "mean totals products mean_grad"
_TYPES = {
    **dict.fromkeys(_NUMBERS.split(), "i32"),
    **dict.fromkeys(_FLOATS.split(), "*fp32"),
    "factor": "fp32",
}


def _variant(kernel: Any, label: str, warps: int = 4, **constants: Any) -> Variant:
    arguments = [name for name in kernel.arg_names if name.islower()]
    constants.setdefault("GRAIN", 8)
    types = {name: _TYPES.get(name, "*bf16") for name in arguments}
    return Variant(kernel, types, constants, warps=warps, label=label)


def _filter_variants() -> list[Variant]:
    made = []
    alone: dict[str, Any] = {"DILATION": 1, "BIAS": False, "ACTIVATION": "gelu"}
    for channels, side in ((96, 56), (384, 14), (768, 7)):
        block = blocks_of(channels, side, side)
        for kernel in (3, 5, 7):
            size: dict[str, Any] = {**block, "KERNEL": kernel, "warps": warps_of(block)}
            label, last = f"{side}x{side}x{channels}, {kernel}x{kernel}", kernel == 7
            made += [
                _variant(filter_kernel, label, **size, **alone, FLIPPED=False, TOTALS=last),
                _variant(filter_backward_kernel, label, **size, ACTIVATION="gelu", LAST=last),
            ]
    block = blocks_of(192, 28, 28)
    shares: dict[str, Any] = {"BIAS": True, "ACTIVATION": "none", "TOTALS": False}
    for kernel, dilation in ((5, 1), (5, 2), (7, 3)):
        label = f"28x28x192, {kernel}x{kernel}, dilation {dilation}"
        size = {**block, "KERNEL": kernel, "DILATION": dilation, "warps": warps_of(block)}
        made.append(_variant(filter_kernel, label, **size, **shares, FLIPPED=False))
    return made


_TILE = {"PIXELS": NUMBERS // 64, "CHANNELS": 64}
VARIANTS = [
    *_filter_variants(),
    _variant(_gather_kernel, "3 levels", LEVELS=3, **_TILE),
    *(
        _variant(
            _gather_backward_kernel, f"3 levels, {channels} channels",
            LEVELS=3, **_strip(channels, 49),
        )
        for channels in (96, 768)
    ),
    _variant(_product_kernel, "silu", ACTIVATION="silu", **_TILE),
    _variant(_product_backward_kernel, "silu", ACTIVATION="silu", **_TILE),
    _variant(_decomposed_kernel, "silu", ACTIVATION="silu", **_TILE),
    _variant(_decomposed_sums_kernel, "silu", ACTIVATION="silu", STEPS=98, **_TILE),
    _variant(_decomposed_backward_kernel, "silu", ACTIVATION="silu", **_TILE),
]  # fmt: skip
