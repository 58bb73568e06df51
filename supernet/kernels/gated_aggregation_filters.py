"""What the kernels of `gated_aggregation` are made of: activations, maps as rows of pixels, and
depthwise filters that apply an activation before they write.

A map (N, C, H, W) stored channels last is N H W pixels of C numbers side by side, `pitch` numbers
from one pixel to the next: more than C where the map is a slice of the channels of a wider one.

GRAIN is how many numbers of a pixel can be moved at once: 8 of bfloat16 are 16 bytes. A slice that
starts or steps otherwise takes smaller ones. Kernels are handed widths and pitches in this unit, so
that the compiler knows what divides them.

Filters: a thread reads 8 channels of a pixel at once and adds them, times their weights, to every
output of ROWS rows below one another that they reach. So a number is read K (ROWS + K - 1) / ROWS
times out of a cache, instead of K**2 times. The numbers of one tap must lie side by side for that,
but a filter stores the taps of one channel so: weights are packed first, K**2 C numbers.
Shapes: N images, C channels, H x W pixels, K the side of a filter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from space.layers import QuickGelu
from supernet.kernels.activations import gelu, gelu_slope

# ---- activations: their definition, and the same for a kernel


def activation_reference(x: Tensor, name: str) -> Tensor:
    """The activation `name` of `space.settings.ACTIVATIONS`, or "none"."""
    return _REFERENCES[name](x)


def slope_reference(x: Tensor, name: str) -> Tensor:
    """The derivative of the activation `name`."""
    if name == "none":
        return torch.ones_like(x)
    if name in ("relu", "relu6"):
        return ((x > 0) & (x < (6 if name == "relu6" else math.inf))).to(x.dtype)
    if name == "hardswish":
        return torch.where(x.abs() < 3, x / 3 + 0.5, (x > 0).to(x.dtype))
    if name == "gelu":
        density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * density
    # x * sigmoid(p(x)): what stands in front of it is p', then p.
    rise, inner = {
        "silu": lambda: (torch.ones_like(x), x),
        "gelu-quick": lambda: (torch.full_like(x, 1.702), 1.702 * x),
        "gelu-tanh": lambda: (
            math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * x * x),
            math.sqrt(8 / math.pi) * (x + 0.044715 * x**3),
        ),
    }[name]()
    gate = torch.sigmoid(inner)
    return gate + x * gate * (1 - gate) * rise


_REFERENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "gelu": F.gelu,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu-quick": lambda x: x * torch.sigmoid(1.702 * x),
}


def name_of(activation: nn.Module) -> str | None:
    """The name under which the kernels know an activation; None where they do not."""
    if isinstance(activation, nn.GELU):
        return "gelu-tanh" if activation.approximate == "tanh" else "gelu"
    known: dict[type[nn.Module], str] = {
        nn.ReLU: "relu",
        nn.ReLU6: "relu6",
        nn.SiLU: "silu",
        nn.Hardswish: "hardswish",
        QuickGelu: "gelu-quick",
    }
    return known.get(type(activation))


@triton.jit
def activated(x, NAME: tl.constexpr):
    """The activation NAME of float32 numbers."""
    if NAME == "gelu":
        x = gelu(x)
    elif NAME == "silu":
        x = x * tl.sigmoid(x)
    elif NAME == "gelu-quick":
        x = x * tl.sigmoid(1.702 * x)
    elif NAME == "gelu-tanh":
        # tanh(a) = 2 sigmoid(2 a) - 1
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif NAME == "relu":
        x = tl.where(x < 0, 0.0, x)
    elif NAME == "relu6":
        x = tl.where(x < 0, 0.0, tl.where(x > 6, 6.0, x))
    elif NAME == "hardswish":
        x = tl.where(x < -3, 0.0, tl.where(x > 3, x, x * (x + 3) / 6))
    else:
        tl.static_assert(NAME == "none")
    return x


@triton.jit
def slope(x, NAME: tl.constexpr):
    """The derivative of the activation NAME at float32 numbers."""
    if NAME == "gelu":
        rise = gelu_slope(x)
    elif NAME == "silu":
        gate = tl.sigmoid(x)
        rise = gate + x * gate * (1 - gate)
    elif NAME == "gelu-quick":
        gate = tl.sigmoid(1.702 * x)
        rise = gate + x * gate * (1 - gate) * 1.702
    elif NAME == "gelu-tanh":
        gate = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
        inner = 1.5957691216057308 * (1 + 0.134145 * x * x)
        rise = gate + x * gate * (1 - gate) * inner
    elif NAME == "relu":
        rise = tl.where(x > 0, 1.0, 0.0)
    elif NAME == "relu6":
        rise = tl.where(x > 0, 1.0, 0.0) * tl.where(x < 6, 1.0, 0.0)
    elif NAME == "hardswish":
        rise = tl.where(x <= -3, 0.0, tl.where(x >= 3, 1.0, x / 3 + 0.5))
    else:
        tl.static_assert(NAME == "none")
        rise = tl.where(x == x, 1.0, x)
    return rise


# ---- maps as rows of pixels


def wide(x: Tensor) -> Tensor:
    """In float32, or float64 where it is so."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def empty_map(x: Tensor, *sizes: int, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised map of `sizes` (..., C, H, W), stored channels last."""
    *front, channels, height, width = sizes
    made = x.new_empty((*front, height, width, channels), dtype=dtype)
    return made.movedim(-1, -3)


def as_map(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy stored channels last."""
    return empty_map(x, *x.shape, dtype=dtype).copy_(x)


def _pitch(x: Tensor) -> int | None:
    """Numbers from one pixel to the next; None where pixels do not lie in rows of one pitch."""
    count, channels, height, width = x.shape
    steps = ((width, 1, 3), (height, width, 2), (count, height * width, 0))
    pitch = next((x.stride(dim) // many for size, many, dim in steps if size > 1), channels)
    lies = all(size == 1 or x.stride(dim) == many * pitch for size, many, dim in steps)
    return pitch if lies and (channels == 1 or x.stride(1) == 1) else None


def rows_of(x: Tensor) -> tuple[Tensor, int]:
    """The map, copied unless its pixels lie in rows, and its pitch."""
    pitch = _pitch(x)
    if pitch is None:
        x = as_map(x, x.dtype)
        pitch = x.shape[1]
    return x, pitch


def grain_of(*read: tuple[Tensor, int]) -> int:
    """Numbers that can be moved at once, at most 16 bytes of each tensor; each comes with its
    pitch."""
    grain = 8
    for x, pitch in read:
        most = max(1, 16 // x.element_size())
        grain = math.gcd(grain, pitch, most, x.data_ptr() // x.element_size())
    return grain


def channel_block(channels: int) -> int:
    """Channels of one program: 64 or 32, whichever leaves fewer idle; a power of 2."""
    if channels < 32:
        return triton.next_power_of_2(channels)
    return min((64, 32), key=lambda block: -(-channels // block) * block)


# ---- depthwise filters


def packed(weight: Tensor) -> Tensor:
    """A depthwise filter (C, 1, K, K), however it lies, as (K, K, C)."""
    return weight[:, 0].permute(1, 2, 0).contiguous()


@triton.jit
def _place(
    height, width, channels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """What a program does: image, first row, columns (COLUMNS, 1), channels (1, CHANNELS), and
    which block of pixels that is. Blocks of channels of the same pixels come one after the other:
    they share lines of the cache."""
    blocks = tl.cdiv(channels, CHANNELS)
    across = tl.cdiv(width, COLUMNS)
    down = tl.cdiv(height, ROWS)
    block = tl.program_id(0) // blocks
    channel = (tl.program_id(0) % blocks) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    column = (block % across) * COLUMNS + tl.arange(0, COLUMNS)[:, None]
    top = (block // across) % down * ROWS
    image = (block // (across * down)).to(tl.int64)
    return image, top, column, channel, block.to(tl.int64)


@triton.jit
def at_pixel(x, pixel, pitch, GRAIN: tl.constexpr):
    """The pointer to a pixel, known to be a multiple of GRAIN numbers (16 bytes at most)."""
    BYTES: tl.constexpr = GRAIN * (x.dtype.element_ty.primitive_bitwidth // 8)
    return tl.multiple_of(x + pixel * pitch, BYTES if BYTES < 16 else 16)


@triton.jit
def _filtered(
    x, weight, top, column, channel, height, width, channels, pitch,
    KERNEL: tl.constexpr, DILATION: tl.constexpr, FLIPPED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, GRAIN: tl.constexpr,
):  # fmt: skip
    """The filter's outputs in rows top, ..., top + ROWS - 1, each (COLUMNS, CHANNELS) float32.

    x points at the first pixel of the image; weight is (KERNEL, KERNEL, channels).
    """
    REACH: tl.constexpr = KERNEL // 2 * DILATION
    # As wide as a row of outputs, so that weights come in the layout of pixels, without a
    # conversion by way of shared memory.
    lane = channel + tl.zeros((COLUMNS, CHANNELS), tl.int32)
    known = lane < channels
    sums = (tl.zeros((COLUMNS, CHANNELS), tl.float32),) * ROWS
    for i in range(KERNEL):
        at = column + (i * DILATION - REACH)
        inside = (at >= 0) & known
        offset = at * pitch + channel
        factors = ()  # type: ignore[var-annotated]
        for j in tl.static_range(ROWS + 2 * REACH):
            if j % DILATION == 0 and j // DILATION < KERNEL:
                tap = j // DILATION * KERNEL + i
                if FLIPPED:
                    tap = KERNEL * KERNEL - 1 - tap
                factor = tl.load(at_pixel(weight, tap, channels, GRAIN) + lane, mask=known, other=0)
                factors = factors + (factor.to(tl.float32),)  # type: ignore[assignment]  # noqa: RUF005
            row = top + (j - REACH)
            # No column lies inside where the row does not.
            limit = tl.where((row >= 0) & (row < height), width, 0)
            line = at_pixel(x, row * width, pitch, GRAIN)
            pixel = tl.load(line + offset, mask=inside & (at < limit), other=0).to(tl.float32)
            after = ()  # type: ignore[var-annotated]
            for r in tl.static_range(ROWS):
                total = sums[r]
                if j >= r and (j - r) % DILATION == 0 and (j - r) // DILATION < KERNEL:
                    total += pixel * factors[(j - r) // DILATION]
                after = after + (total,)  # type: ignore[assignment]  # noqa: RUF005
            sums = after
    return sums


@triton.jit
def filter_kernel(
    x, weight, bias, out, totals,
    height, width, channels, x_pitch, out_pitch,
    KERNEL: tl.constexpr, DILATION: tl.constexpr, FLIPPED: tl.constexpr,
    ACTIVATION: tl.constexpr, BIAS: tl.constexpr, TOTALS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, GRAIN: tl.constexpr,
):  # fmt: skip
    """out = activation(filter(x) + bias); a program does ROWS x COLUMNS pixels of one image.

    With TOTALS it also writes the sum of its outputs for each channel to totals (N, programs of
    an image, C), float32. channels and pitches are in units of GRAIN numbers.
    """
    channels *= GRAIN
    x_pitch *= GRAIN
    out_pitch *= GRAIN
    image, top, column, channel, block = _place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    sums = _filtered(
        x + image * height * width * x_pitch, weight, top, column, channel,
        height, width, channels, x_pitch,
        KERNEL, DILATION, FLIPPED, ROWS, COLUMNS, CHANNELS, GRAIN,
    )  # fmt: skip
    lane = channel + tl.zeros((COLUMNS, CHANNELS), tl.int32)
    total = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    if BIAS:
        shift = tl.load(bias + lane, mask=lane < channels, other=0).to(tl.float32)
    for r in tl.static_range(ROWS):
        limit = tl.where(top + r < height, width, 0)
        mask = (column < limit) & (channel < channels)
        value = sums[r]
        if BIAS:
            value += shift
        value = activated(value, ACTIVATION).to(out.dtype.element_ty)
        line = at_pixel(out, (image * height + top + r) * width, out_pitch, GRAIN)
        tl.store(line + (column * out_pitch + channel), value, mask=mask)
        if TOTALS:
            total += tl.where(mask, value.to(tl.float32), 0.0)
    if TOTALS:
        where = totals + block * channels + channel
        tl.store(where, tl.sum(total, axis=0)[None, :], mask=channel < channels)


@triton.jit
def filter_backward_kernel(
    x, weight, grad, gates, following, mean_grad, out,
    height, width, channels, x_pitch, grad_pitch, gate_pitch,
    KERNEL: tl.constexpr, ACTIVATION: tl.constexpr, LAST: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, GRAIN: tl.constexpr,
):  # fmt: skip
    """out = (gate * grad + later) * activation'(filter(x)), the filter's outputs done again.

    The gradient at the filter's outputs. gates points at the gate of this level; `later` is
    following (N, H, W, C), the gradient that came through the next level, or for the LAST level
    mean_grad (N, C), that of the mean. out is (N, H, W, C). channels and pitches, save that of the
    gates, are in units of GRAIN numbers.
    """
    channels *= GRAIN
    x_pitch *= GRAIN
    grad_pitch *= GRAIN
    image, top, column, channel, _ = _place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    sums = _filtered(
        x + image * height * width * x_pitch, weight, top, column, channel,
        height, width, channels, x_pitch,
        KERNEL, 1, False, ROWS, COLUMNS, CHANNELS, GRAIN,
    )  # fmt: skip
    lane = channel + tl.zeros((COLUMNS, CHANNELS), tl.int32)
    if LAST:
        later = tl.load(mean_grad + image * channels + lane, mask=lane < channels, other=0)
    for r in tl.static_range(ROWS):
        limit = tl.where(top + r < height, width, 0)
        mask = (column < limit) & (channel < channels)
        first = (image * height + top + r) * width
        gate = gates + first * gate_pitch + column * gate_pitch
        gate = tl.load(gate, mask=column < limit, other=0).to(tl.float32)
        value = at_pixel(grad, first, grad_pitch, GRAIN) + (column * grad_pitch + channel)
        value = tl.load(value, mask=mask, other=0).to(tl.float32)
        inner = column * channels + channel
        if not LAST:
            later = tl.load(at_pixel(following, first, channels, GRAIN) + inner, mask=mask, other=0)
        value = (value * gate + later.to(tl.float32)) * slope(sums[r], ACTIVATION)
        line = at_pixel(out, first, channels, GRAIN)
        tl.store(line + inner, value.to(out.dtype.element_ty), mask=mask)


def blocks_of(channels: int, height: int, width: int) -> dict[str, int]:
    """Rows, columns and channels of one program of a filter.

    Rows: 7 divide the usual maps (56, 28, 14, 7 rows); 8 or 4 where they leave fewer idle.
    """
    rows = height
    if height >= 4:
        rows = min((7, 8, 4), key=lambda rows: -(-height // rows) * rows)
    columns = min(16, triton.next_power_of_2(width))
    return {"ROWS": rows, "COLUMNS": columns, "CHANNELS": channel_block(channels)}


def warps_of(block: dict[str, int]) -> int:
    """8 numbers of each row for a thread."""
    return max(1, min(4, block["COLUMNS"] * block["CHANNELS"] // 256))


def filter_grid(x: Tensor, block: dict[str, int]) -> tuple[int, int]:
    """Blocks of pixels of one image, and programs of all."""
    count, channels, height, width = x.shape
    pieces = -(-height // block["ROWS"]) * -(-width // block["COLUMNS"])
    return pieces, count * pieces * -(-channels // block["CHANNELS"])


def launch_filter(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    *,
    dilation: int = 1,
    flipped: bool = False,
    activation: str = "none",
    totals: bool = False,
) -> Tensor | None:
    """Writes activation(filter(x) + bias) to `out` (N, C, H, W), whose pixels lie in rows.

    `weight` is packed (K, K, C); `flipped` filters with its mirror image, which takes a gradient
    from the outputs back to the inputs. With `totals` returns the sums of the outputs over the
    map, (N, C) float32.
    """
    x, pitch = rows_of(x)
    out_pitch = _pitch(out)
    assert out_pitch is not None
    grain = grain_of((x, pitch), (out, out_pitch), (weight, x.shape[1]))
    count, channels, height, width = x.shape
    block = blocks_of(channels, height, width)
    pieces, programs = filter_grid(x, block)
    parts: Any = x.new_empty((count, pieces, channels), dtype=torch.float32) if totals else out
    filter_kernel[(programs,)](
        x, weight, out if bias is None else bias.contiguous(), out, parts,
        height, width, channels // grain, pitch // grain, out_pitch // grain,
        KERNEL=weight.shape[0], DILATION=dilation, FLIPPED=flipped,
        ACTIVATION=activation, BIAS=bias is not None, TOTALS=totals,
        **block, GRAIN=grain, num_warps=warps_of(block),
    )  # fmt: skip
    return parts.sum(1) if totals else None


def filter_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1
) -> Tensor:
    """A depthwise filter (C, 1, K, K), padded to keep the size, in float32 or better."""
    padding = weight.shape[-1] // 2 * dilation
    shift = None if bias is None else wide(bias)
    groups = weight.shape[0]
    return F.conv2d(wide(x), wide(weight), shift, padding=padding, dilation=dilation, groups=groups)


def filter_weight_grads(
    grad: Tensor, x: Tensor, weight: Tensor, bias: bool = False, dilation: int = 1
) -> tuple[Tensor, Tensor]:
    """Gradients of weight and, if there is one, bias, by PyTorch's own convolution, in the dtype
    of `weight`."""
    channels, reach = weight.shape[0], weight.shape[-1] // 2 * dilation
    found, shift = torch.ops.aten.convolution_backward(
        grad, x, weight.to(x.dtype), [channels] if bias else None,
        [1, 1], [reach, reach], [dilation, dilation], False, [0, 0], channels,
        [False, True, bias],
    )[1:]  # fmt: skip
    if not bias:
        shift = found.new_zeros(channels)
    # It comes in whatever layout the convolution had.
    return weight.new_empty(weight.shape).copy_(found), shift.to(weight.dtype)


def filter_input_grad(grad: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """The gradient of the input of `filter_reference`: a filter of odd side with its mirror
    image."""
    return filter_reference(grad, weight.flip((2, 3)), dilation=dilation)
