"""Linear layers on the channels of each pixel, with what stands in front and behind in one pass.

`norm_linear` is a layer norm, a linear layer and an activation: the way into an MLP or an inverted
bottleneck. `linear_residual` is a linear layer, the factor of each channel and the residual: the
way out of it, with the gate of a squeeze-excite in front where there is one. Weights are read where
they lie, also as slices of larger ones.

Sources of the layers: layer norm (Ba et al., 2016, arXiv 1607.06450), GELU (Hendrycks and Gimpel,
2016, arXiv 1606.08415), layer scale (CaiT, Touvron et al., 2021, arXiv 2103.17239, section 2.1).
Shapes: N images, C channels in, D channels out, H x W pixels, M = N * H * W rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from supernet.kernels.activations import gelu
from supernet.kernels.registration import Variant, interpreted, register

ACTIVATIONS = ("none", "relu", "gelu", "gelu-tanh", "silu")
MOST_CHANNELS = 256  # that `norm_linear` holds on chip
PROGRAMS = 1024  # that a launch should have at least: some for each of Hopper's 132 processors
INTERPRETED = tl.constexpr(interpreted())


# ---- definitions


def activated(x: Tensor, activation: str) -> Tensor:
    """One of `ACTIVATIONS` of x."""
    if activation == "relu":
        return x.relu()
    if activation == "gelu":
        return F.gelu(x)
    if activation == "gelu-tanh":
        return F.gelu(x, approximate="tanh")
    if activation == "silu":
        return F.silu(x)
    if activation != "none":
        raise ValueError(f"activation is {activation!r}, but must be one of {ACTIVATIONS}")
    return x


def rows_of(x: Tensor) -> Tensor:
    """(N, C, H, W) as (N * H * W, C); no copy where x is stored channels last."""
    return x.permute(0, 2, 3, 1).contiguous().view(-1, x.shape[1])


def map_of(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `rows_of`, with the images and pixels of `like`: stored channels last."""
    n, _, height, width = like.shape
    return rows.view(n, height, width, rows.shape[1]).permute(0, 3, 1, 2)


def empty_map(like: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """An (N, channels, H, W) map stored channels last."""
    n, _, height, width = like.shape
    return like.new_empty((n, height, width, channels), dtype=dtype).permute(0, 3, 1, 2)


def widened(*tensors: Tensor | None) -> list[Any]:
    """The tensors in float32, or float64 where one is."""
    wide = torch.float32
    for tensor in tensors:
        wide = wide if tensor is None else torch.promote_types(wide, tensor.dtype)
    return [None if tensor is None else tensor.to(wide) for tensor in tensors]


def norm_linear_reference(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float | None,
    activation: str,
) -> Tensor:
    """activation(layer_norm(x) weight^T + bias): (N, C, H, W) to (N, D, H, W), channels last.

    `weight` (D, C); an `eps` of None is no norm. Computed in float32, the result in the dtype of
    `weight`, which is also that of the products.
    """
    dtype, like = weight.dtype, x
    x, norm_weight, norm_bias, weight, bias = widened(x, norm_weight, norm_bias, weight, bias)
    rows = rows_of(x)
    if eps is not None:
        rows = F.layer_norm(rows, rows.shape[1:], norm_weight, norm_bias, eps)
    return map_of(activated(F.linear(rows, weight, bias), activation).to(dtype), like)


def linear_residual_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    factor: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    """residual + scale * ((factor * x) weight^T + bias): (N, C, H, W) to (N, D, H, W), channels
    last.

    `weight` (D, C), `factor` (N, C), `scale` (D,), `residual` (N, D, H, W). Computed in float32;
    products in the dtype of `weight`, the result in that of `residual`, or else of `weight`.
    """
    like, dtype = x, (weight if residual is None else residual).dtype
    x, weight, bias, factor, scale, residual = widened(x, weight, bias, factor, scale, residual)
    y = F.linear(rows_of(x if factor is None else x * factor[:, :, None, None]), weight, bias)
    y = y if scale is None else y * scale
    y = y if residual is None else rows_of(residual) + y
    return map_of(y.to(dtype), like)


# ---- kernels


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """x float32. Comparisons are such that NaN stays NaN."""
    y = x
    if ACTIVATION == "relu":
        y = tl.where(x < 0, 0.0, x)
    elif ACTIVATION == "gelu":
        y = gelu(x)
    elif ACTIVATION == "gelu-tanh":
        # 0.5 (1 + tanh(z)) is the sigmoid of 2 z.
        z = 1.5957691216 * (x + 0.044715 * x * x * x)
        y = x / (1.0 + tl.exp(-z))
    elif ACTIVATION == "silu":
        y = x / (1.0 + tl.exp(-x))
    return y


@triton.jit
def places(
    matrix, row, column, width, rows, columns,
    UNIT: tl.constexpr, ROW: tl.constexpr, COLUMN: tl.constexpr,
):  # fmt: skip
    """Where the numbers of a ROW x COLUMN block from (row, column) on lie in a matrix of `rows`
    rows, `width` apart, and `columns` columns; and which of them there are."""
    start = matrix + (row * width + column)
    if UNIT > 1:
        start = tl.multiple_of(start, 16)  # bytes
    i, j = tl.arange(0, ROW), tl.arange(0, COLUMN)
    inside = (row + i < rows)[:, None] & (column + j < columns)[None, :]
    return start + (i[:, None] * width + j[None, :]), inside


@triton.jit
def read(
    matrix, row, column, width, rows, columns,
    UNIT: tl.constexpr, ROW: tl.constexpr, COLUMN: tl.constexpr,
):  # fmt: skip
    """The numbers at `places`, zeros where there are none."""
    where, inside = places(matrix, row, column, width, rows, columns, UNIT, ROW, COLUMN)
    return tl.load(where, mask=inside, other=0.0)


@triton.jit
def times(a, w, total):
    """total + a w^T in float32; a total of None is 0."""
    if INTERPRETED:  # it takes bfloat16 for whole numbers
        a = a.to(tl.float32)
        w = w.to(tl.float32)
    return tl.dot(a, tl.trans(w), total, input_precision="ieee")


@triton.jit
def scaled_shifted(x, weight, bias, first, channels, COLUMN: tl.constexpr):
    """x times the weights and plus the biases from channel `first` on; each may be None."""
    c = first + tl.arange(0, COLUMN)
    if weight is not None:
        x = x * tl.load(weight + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    if bias is not None:
        x = x + tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    return x


@triton.jit
def _centred(x, mean, first, channels, COLUMN: tl.constexpr):
    """x - mean, zeros past the last channel."""
    c = first + tl.arange(0, COLUMN)
    return tl.where((c < channels)[None, :], x - mean[:, None], 0.0)


@triton.jit
def normed_rows(
    x, norm_weight, norm_bias, first, rows, channels, eps, NORM: tl.constexpr,
    UNIT: tl.constexpr, ROWS: tl.constexpr, PART: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """Rows `first` to `first + ROWS` of x, normalised, in float32: their first PART channels, and
    the next REST (a copy of the former where REST is 0)."""
    a = read(x, first, 0, channels, rows, channels, UNIT, ROWS, PART).to(tl.float32)
    b = a
    if REST > 0:
        b = read(x, first, PART, channels, rows, channels, UNIT, ROWS, REST)
        b = b.to(tl.float32)
    if NORM:
        total = tl.sum(a, 1)
        if REST > 0:
            total += tl.sum(b, 1)
        mean = total / channels
        a = _centred(a, mean, 0, channels, PART)
        squares = tl.sum(a * a, 1)
        if REST > 0:
            b = _centred(b, mean, PART, channels, REST)
            squares += tl.sum(b * b, 1)
        deviation = tl.rsqrt(squares / channels + eps)[:, None]
        a = scaled_shifted(a * deviation, norm_weight, norm_bias, 0, channels, PART)
        if REST > 0:
            b = scaled_shifted(b * deviation, norm_weight, norm_bias, PART, channels, REST)
        else:
            b = a
    return a, b


@triton.jit(do_not_specialize=["rows", "channels", "outputs", "weight_row"])
def _norm_linear_kernel(
    x, norm_weight, norm_bias, weight, bias, out,
    rows, channels, outputs, weight_row, eps,
    NORM: tl.constexpr, ACTIVATION: tl.constexpr, UNIT: tl.constexpr, STEPS: tl.constexpr,
    ROWS: tl.constexpr, PART: tl.constexpr, REST: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """A program does ROWS rows and STEPS blocks of OUTPUTS output channels.

    x (rows, channels) and out (rows, outputs) contiguous; rows of `weight` (outputs, channels) lie
    `weight_row` apart. PART + REST are at least the channels; REST may be 0. Channels, outputs and
    weight_row come divided by UNIT, so that the compiler knows how many numbers it can read at
    once; where it is more than 1, maps and weights start at multiples of 16 bytes.
    """
    channels, outputs, weight_row = channels * UNIT, outputs * UNIT, weight_row * UNIT
    first = tl.program_id(0).to(tl.int64) * ROWS
    dtype = weight.dtype.element_ty
    a, b = normed_rows(
        x, norm_weight, norm_bias, first, rows, channels, eps, NORM, UNIT, ROWS, PART, REST
    )  # fmt: skip
    a, b = a.to(dtype), b.to(dtype)
    for step in range(STEPS):
        start = (tl.program_id(1) * STEPS + step) * OUTPUTS
        w = read(weight, start, 0, weight_row, outputs, channels, UNIT, OUTPUTS, PART)
        y = times(a, w, None)
        if REST > 0:
            w = read(weight, start, PART, weight_row, outputs, channels, UNIT, OUTPUTS, REST)
            y = times(b, w, y)
        y = scaled_shifted(y, None, bias, start, outputs, OUTPUTS)
        y = activate(y, ACTIVATION)
        where, inside = places(out, first, start, outputs, rows, outputs, UNIT, ROWS, OUTPUTS)
        tl.store(where, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def finish(
    y, bias, scale, residual, out, first, start, rows, outputs,
    UNIT: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Stores residual + scale * (y + bias) as rows from `first` on, channels from `start` on."""
    y = scaled_shifted(y, None, bias, start, outputs, OUTPUTS)
    y = scaled_shifted(y, scale, None, start, outputs, OUTPUTS)
    if residual is not None:
        r = read(residual, first, start, outputs, rows, outputs, UNIT, ROWS, OUTPUTS)
        y += r.to(tl.float32)
    where, inside = places(out, first, start, outputs, rows, outputs, UNIT, ROWS, OUTPUTS)
    tl.store(where, y.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "inputs", "outputs", "weight_row", "pixels"])
def _linear_residual_kernel(
    x, weight, bias, factor, scale, residual, out,
    rows, inputs, outputs, weight_row, pixels,
    UNIT: tl.constexpr, STEPS: tl.constexpr,
    ROWS: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """A program does ROWS rows and OUTPUTS output channels, in STEPS of INPUTS input channels.

    x (rows, inputs), residual and out (rows, outputs) contiguous; rows of `weight`
    (outputs, inputs) lie `weight_row` apart; an image is `pixels` rows. UNIT as in
    `_norm_linear_kernel`.
    """
    inputs, outputs, weight_row = inputs * UNIT, outputs * UNIT, weight_row * UNIT
    # Programs that read the same rows of x follow one another: all but one find them in the cache.
    parts = tl.cdiv(outputs, OUTPUTS)
    first = (tl.program_id(0) // parts).to(tl.int64) * ROWS
    start = tl.program_id(0) % parts * OUTPUTS
    dtype = weight.dtype.element_ty
    image = tl.minimum(first + tl.arange(0, ROWS), rows - 1) // pixels
    y = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for step in range(STEPS):
        k = step * INPUTS
        a = read(x, first, k, inputs, rows, inputs, UNIT, ROWS, INPUTS)
        if factor is not None:
            j = k + tl.arange(0, INPUTS)
            where = factor + (image[:, None] * inputs + j[None, :])
            f = tl.load(where, mask=(j < inputs)[None, :], other=0.0)
            a = a.to(tl.float32) * f.to(tl.float32)
        w = read(weight, start, k, weight_row, outputs, inputs, UNIT, OUTPUTS, INPUTS)
        y = times(a.to(dtype), w, y)
    finish(y, bias, scale, residual, out, first, start, rows, outputs, UNIT, ROWS, OUTPUTS)


# ---- launches


def narrow(dtype: torch.dtype) -> bool:
    """Whether products of `dtype` are those of tensor cores; float32 ones are not, and take
    smaller blocks."""
    return dtype.itemsize < 4


def power(size: int) -> int:
    """The next power of 2, at least 16: that of a block."""
    return max(16, triton.next_power_of_2(size))


def parts_of(channels: int) -> tuple[int, int]:
    """Two powers of 2 whose sum is at least `channels`, the second smaller, or 0: blocks must be
    powers of 2, and 96 channels as 64 + 32 cost three quarters of what 128 do."""
    whole = power(channels)
    rest = channels - whole // 2
    if whole > 16 and power(rest) < whole // 2:
        return whole // 2, power(rest)
    return whole, 0


def unit_columns(weight: Tensor) -> Tensor:
    """`weight`, copied unless the numbers of a row lie side by side."""
    return weight if weight.shape[1] == 1 or weight.stride(1) == 1 else weight.contiguous()


def run_norm_linear(
    rows: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float | None,
    activation: str,
    out: Tensor,
) -> None:
    """`norm_linear` on rows (M, C) into `out` (M, D)."""
    (count, channels), outputs = rows.shape, weight.shape[0]
    if channels > MOST_CHANNELS:
        raise ValueError(f"norm_linear takes at most {MOST_CHANNELS} channels, not {channels}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}, but must be one of {ACTIVATIONS}")
    if not out.numel():
        return
    tall = narrow(weight.dtype)
    block_rows, block_outputs = (128, 64) if tall else (32, 32)
    block_outputs = min(block_outputs, power(outputs))
    part, rest = parts_of(channels)
    tiles, blocks = triton.cdiv(count, block_rows), triton.cdiv(outputs, block_outputs)
    shares = min(blocks, triton.cdiv(PROGRAMS, tiles))
    steps = triton.cdiv(blocks, shares)
    weight = unit_columns(weight)
    unit = unit_of((channels, outputs, weight.stride(0)), rows, weight, out)
    _norm_linear_kernel[(tiles, triton.cdiv(blocks, steps))](
        rows, contiguous(norm_weight), contiguous(norm_bias), weight, contiguous(bias), out,
        count, channels // unit, outputs // unit, weight.stride(0) // unit,
        0.0 if eps is None else eps, NORM=eps is not None, ACTIVATION=activation, UNIT=unit,
        STEPS=steps,
        ROWS=block_rows, PART=part, REST=rest, OUTPUTS=block_outputs,
        num_warps=8 if tall else 4, num_stages=2,
    )  # fmt: skip


def run_linear_residual(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    factor: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    pixels: int,
) -> None:
    """`linear_residual` on rows (M, C) into `out` (M, D), `residual` (M, D) too."""
    (count, inputs), outputs = rows.shape, weight.shape[0]
    if not out.numel():
        return
    tall = narrow(weight.dtype)
    block_outputs = min(128 if tall else 32, power(outputs))
    block_rows = (64 if block_outputs == 128 else 128) if tall else 32
    block_inputs = 64 if tall else 32
    weight = unit_columns(weight)
    unit = unit_of((inputs, outputs, weight.stride(0)), rows, weight, factor, residual, out)
    grid = (triton.cdiv(count, block_rows) * triton.cdiv(outputs, block_outputs),)
    _linear_residual_kernel[grid](
        rows, weight, contiguous(bias), contiguous(factor), contiguous(scale), residual, out,
        count, inputs // unit, outputs // unit, weight.stride(0) // unit, pixels,
        UNIT=unit, STEPS=triton.cdiv(inputs, block_inputs),
        ROWS=block_rows, INPUTS=block_inputs, OUTPUTS=block_outputs,
        num_warps=8 if tall else 4, num_stages=3,
    )  # fmt: skip


def unit_of(sizes: Sequence[int], *tensors: Tensor | None) -> int:
    """8 where all sizes are multiples of it and all tensors start at multiples of 16 bytes,
    else 1."""
    starts = (tensor.data_ptr() for tensor in tensors if tensor is not None)
    regular = not any(size % 8 for size in sizes) and not any(start % 16 for start in starts)
    return 8 if regular else 1


def contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _launch_norm_linear(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float | None,
    activation: str,
) -> Tensor:
    out = empty_map(x, weight.shape[0], weight.dtype)
    run_norm_linear(
        rows_of(x), norm_weight, norm_bias, weight, bias, eps, activation, rows_of(out)
    )  # fmt: skip
    return out


def _launch_linear_residual(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    factor: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    out = empty_map(x, weight.shape[0], (weight if residual is None else residual).dtype)
    run_linear_residual(
        rows_of(x),
        weight,
        bias,
        factor,
        scale,
        None if residual is None else rows_of(residual),
        rows_of(out),
        x.shape[2] * x.shape[3],
    )
    return out


def _fake_norm_linear(
    x: Tensor, norm_weight: Any, norm_bias: Any, weight: Tensor, *_: Any
) -> Tensor:
    return empty_map(x, weight.shape[0], weight.dtype)


def _fake_linear_residual(
    x: Tensor, weight: Tensor, bias: Any, factor: Any, scale: Any, residual: Tensor | None
) -> Tensor:
    return empty_map(x, weight.shape[0], (weight if residual is None else residual).dtype)


# ---- gradients: what lies between is computed again, from the inputs


def normalised(
    rows: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float | None
) -> tuple[Tensor, Any]:
    """Layer norm of `rows`, and what its gradient needs; `rows` for an `eps` of None."""
    if eps is None:
        return rows, None
    weight, bias = (None if p is None else p.to(rows.dtype) for p in (weight, bias))
    y, mean, deviation = torch.native_layer_norm(rows, rows.shape[1:], weight, bias, eps)
    return y, (mean, deviation, weight, bias)


def normalised_backward(
    grad: Tensor, rows: Tensor, kept: Any, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of the rows, of the norm's weight and of its bias."""
    grad = grad.to(rows.dtype)
    if kept is None:
        return grad, None, None
    mean, deviation, weight, bias = kept
    return torch.ops.aten.native_layer_norm_backward(
        grad, rows, rows.shape[1:], mean, deviation, weight, bias, list(wanted)
    )


def activated_backward(grad: Tensor, x: Tensor, activation: str) -> Tensor:
    """Gradient of x, from that of `activated(x, activation)`."""
    aten = torch.ops.aten
    if activation == "relu":
        return aten.threshold_backward(grad, x, 0)
    if activation == "gelu":
        return aten.gelu_backward(grad, x)
    if activation == "gelu-tanh":
        return aten.gelu_backward(grad, x, approximate="tanh")
    if activation == "silu":
        return aten.silu_backward(grad, x)
    return grad


def scaled_linear_backward(
    grad: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of `rows`, `weight`, `bias` and `scale`, from that of
    scale * (rows weight^T + bias).

    Factors go into the weights: no map is scaled. The gradient of `scale` is the sum over rows of
    grad * (rows weight^T + bias), which the gradient of `weight` knows.
    """
    total, summed = grad.mT @ rows, grad.sum(0, dtype=torch.float32)
    if scale is None:
        return grad @ weight, total, like(summed, bias), None
    wide = scale.float()
    grad_scale = (weight.float() * total.float()).sum(1)
    if bias is not None:
        grad_scale = grad_scale + bias.float() * summed
    return (
        grad @ (wide[:, None] * weight).to(weight.dtype),
        (wide[:, None] * total).to(weight.dtype),
        like(wide * summed, bias),
        like(grad_scale, scale),
    )


def like(grad: Tensor | None, parameter: Tensor | None) -> Tensor | None:
    """A gradient in the dtype of its parameter; None where that is None."""
    return None if grad is None or parameter is None else grad.to(parameter.dtype)


def _norm_linear_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps, ctx.activation = inputs
    ctx.save_for_backward(*tensors)


def _norm_linear_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, norm_weight, norm_bias, weight, bias = ctx.saved_tensors
    rows, grad = rows_of(x), rows_of(grad)
    normed, kept = normalised(rows, norm_weight, norm_bias, ctx.eps)
    normed = normed.to(weight.dtype)
    if ctx.activation != "none":
        before = F.linear(normed, weight, like(bias, weight))
        grad = activated_backward(grad, before, ctx.activation)
    normed_grad, weight_grad, bias_grad, _ = scaled_linear_backward(
        grad, normed, weight, bias, None
    )
    x_grad, norm_weight_grad, norm_bias_grad = normalised_backward(
        normed_grad, rows, kept, (True, norm_weight is not None, norm_bias is not None)
    )
    return (
        None if x_grad is None else map_of(x_grad, x),
        like(norm_weight_grad, norm_weight),
        like(norm_bias_grad, norm_bias),
        weight_grad,
        bias_grad,
        None,
        None,
    )


def _linear_residual_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, factor, scale, residual = inputs
    ctx.save_for_backward(x, weight, bias, factor, scale)
    ctx.has_residual = residual is not None


def _linear_residual_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight, bias, factor, scale = ctx.saved_tensors
    factored = x if factor is None else x * factor.to(x.dtype)[:, :, None, None]
    rows_grad, weight_grad, bias_grad, scale_grad = scaled_linear_backward(
        rows_of(grad).to(weight.dtype), rows_of(factored).to(weight.dtype), weight, bias, scale
    )
    x_grad, factor_grad = map_of(rows_grad, x).to(x.dtype), None
    if factor is not None:
        factor_grad = (x_grad * x).sum((2, 3), dtype=torch.float32).to(factor.dtype)
        x_grad = x_grad * factor.to(x.dtype)[:, :, None, None]
    residual_grad = grad if ctx.has_residual else None
    return x_grad, weight_grad, bias_grad, factor_grad, scale_grad, residual_grad


# ---- operators


def linear_flops(x: Any, weight: Any) -> int:
    """Of a linear layer (D, C) on a map (N, C, H, W), by their shapes."""
    n, _, height, width = x
    return 2 * n * height * width * weight[0] * weight[1]


def _norm_linear_flops(x: Any, norm_weight: Any, norm_bias: Any, weight: Any, *_: Any, **__: Any):
    return linear_flops(x, weight)


def _linear_residual_flops(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    return linear_flops(x, weight)


norm_linear = register(
    "norm_linear",
    "(Tensor x, Tensor? norm_weight, Tensor? norm_bias, Tensor weight, Tensor? bias, float? eps, "
    "str activation) -> Tensor",
    launch=_launch_norm_linear,
    reference=norm_linear_reference,
    fake=_fake_norm_linear,
    flops=_norm_linear_flops,
    backward=_norm_linear_backward,
    setup_context=_norm_linear_context,
)

linear_residual = register(
    "linear_residual",
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? factor, Tensor? scale, Tensor? residual) "
    "-> Tensor",
    launch=_launch_linear_residual,
    reference=linear_residual_reference,
    fake=_fake_linear_residual,
    flops=_linear_residual_flops,
    backward=_linear_residual_backward,
    setup_context=_linear_residual_context,
)


def _expanding(channels: int, dtype: str = "bf16") -> Variant:
    part, rest = parts_of(channels)
    small = dtype == "fp32"
    return Variant(
        _norm_linear_kernel,
        {
            **dict.fromkeys(("x", "weight", "out"), f"*{dtype}"),
            **dict.fromkeys(("norm_weight", "norm_bias", "bias"), "*fp32"),
            **dict.fromkeys(("rows", "channels", "outputs", "weight_row"), "i32"),
            "eps": "fp32",
        },
        {
            "NORM": True,
            "ACTIVATION": "gelu",
            "UNIT": 8,
            "STEPS": 6,
            "ROWS": 32 if small else 128,
            "PART": part,
            "REST": rest,
            "OUTPUTS": 32 if small else 64,
        },
        warps=4 if small else 8,
        stages=2,
        label=f"{dtype}, {channels} channels",
    )


def _projecting(gated: bool, dtype: str = "bf16") -> Variant:
    small = dtype == "fp32"
    maps = ("x", "weight", "residual", "out", *(["factor"] if gated else []))
    return Variant(
        _linear_residual_kernel,
        {
            **dict.fromkeys(maps, f"*{dtype}"),
            **dict.fromkeys(("bias", "scale"), "*fp32"),
            **dict.fromkeys(("rows", "inputs", "outputs", "weight_row", "pixels"), "i32"),
        },
        {
            **({} if gated else {"factor": None}),
            "UNIT": 8,
            "STEPS": 12 if small else 6,
            "ROWS": 32 if small else 64,
            "INPUTS": 32 if small else 64,
            "OUTPUTS": 32 if small else 128,
        },
        warps=4 if small else 8,
        stages=3,
        label=f"{dtype}, gated" if gated else dtype,
    )


VARIANTS = [
    *(_expanding(channels) for channels in (64, 96, 192, 256)),
    _expanding(96, "fp32"),
    _projecting(False),
    _projecting(True),
    _projecting(False, "fp32"),
]
