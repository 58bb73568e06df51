"""Depthwise 2-D convolution of maps stored channels last, with the norm and the activation behind
it, and with the mean of the result over the map.

Sources: the convolution is that of MobileNetV2 (Sandler et al., 2018, arXiv 1801.04381, section
3.1) and ConvNeXt (Liu et al., 2022, arXiv 2201.03545), the norm LayerNorm over the channels of each
pixel (Ba et al., 2016, arXiv 1607.06450), the mean the squeeze of squeeze-excite (Hu et al., 2018,
arXiv 1709.01507, section 3.1).

How the work is cut: a program holds a block of channels and a row of output positions, `ROWS`
output rows of each. It goes through the columns of the filter; for each it takes every input row
once and adds it to all the output rows that it belongs to. Every sum has a fixed order, so the same
inputs always make the same results.

Shapes: N images, C channels, H x W pixels in, H' x W' pixels out, a filter of K x K taps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from supernet.kernels.depthwise_kernels import (
    forward_kernel,
    mean_kernel,
    norm_gradient_kernel,
    strided_gradient_kernel,
    total_kernel,
    weight_gradient_kernel,
)
from supernet.kernels.registration import Variant, register

LARGEST = 13  # side of a filter
WIDEST = 512  # channels that one program normalises
PROGRAMS = 1056  # of a sum over all images: eight for each of the 132 processors of an H100
FULL = 264  # programs that a GPU should have at least
STEPS = 8  # tiles that a program of a sum has at least, where there are as many

# ---- definition

_aten = torch.ops.aten

# Each activation, and its gradient from the gradient of its result and its argument.
_ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "none": (lambda v: v, lambda g, v: g),
    "relu": (F.relu, lambda g, v: _aten.threshold_backward(g, v, 0)),
    "relu6": (F.relu6, lambda g, v: _aten.hardtanh_backward(g, v, 0, 6)),
    "gelu": (F.gelu, lambda g, v: _aten.gelu_backward(g, v)),
    "gelu-tanh": (
        lambda v: F.gelu(v, approximate="tanh"),
        lambda g, v: _aten.gelu_backward(g, v, approximate="tanh"),
    ),
    "gelu-quick": (
        lambda v: v * torch.sigmoid(1.702 * v),
        lambda g, v: _aten.silu_backward(g, 1.702 * v),
    ),
    "silu": (F.silu, lambda g, v: _aten.silu_backward(g, v)),
    "hardswish": (F.hardswish, lambda g, v: _aten.hardswish_backward(g, v)),
}


def depthwise_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    activation: str,
    stride: int,
    padding: int,
    behind: Sequence[int],
    dilation: int,
) -> Tensor:
    """activation(norm(convolution(x))): x (N, C, H, W) to (N, C, H', W') stored channels last.

    `weight` (C, 1, K, K) has one filter for each channel, `bias` is (C,) or None. Zeros stand
    around the map, `padding` of them on each side and (below, right) `behind` more. `norm_weight`
    and `norm_bias` (C,) are those of a LayerNorm over channels, None for no norm; `activation` is
    a name of `space.settings.ACTIVATIONS` or "none". Computed in float32, result in x's dtype.
    """
    y = _activated_wide(
        x, weight, bias, norm_weight, norm_bias, eps, activation, stride, padding, behind, dilation
    )
    return _empty(x, weight, stride, padding, behind, dilation).copy_(y)


def depthwise_squeezed_reference(x: Tensor, weight: Tensor, *more: Any) -> tuple[Tensor, Tensor]:
    """The same, and the mean of the result over the map, (N, C), taken before it is rounded."""
    y = _activated_wide(x, weight, *more)
    return _empty(x, weight, *more[5:]).copy_(y), y.mean((2, 3)).to(x.dtype)


def input_gradient_reference(
    grad: Tensor,
    weight: Tensor,
    height: int,
    width: int,
    stride: int,
    padding: int,
    dilation: int,
) -> Tensor:
    """Gradient of the input (N, C, height, width) from that of the convolution's result, `grad`
    (N, C, H', W')."""
    count, channels = grad.shape[:2]
    side = dilation * (weight.shape[-1] - 1) + 1
    # Of an input with `behind`, up to the last pixel that a filter reached.
    reached = [(out - 1) * stride + side - 2 * padding for out in grad.shape[2:]]
    high, wide = (max(a, b) for a, b in zip(reached, (height, width), strict=True))
    wider = _wide(grad)
    found = _convolution_backward(
        wider,
        wider.new_empty(count, channels, high, wide),
        _wide(weight),
        (stride, padding, dilation),
        (True, False, False),
    )[0]
    return _map_empty(grad, count, height, width, channels).copy_(found[:, :, :height, :width])


def weight_gradient_reference(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int
) -> tuple[Tensor, Tensor]:
    """Gradients of the weight (C, 1, K, K) and the bias (C,), in the weight's dtype; of `weight`
    only shape and dtype count."""
    side = dilation * (weight.shape[-1] - 1) + 1
    reached = [(out - 1) * stride + side - 2 * padding for out in grad.shape[2:]]
    below, right = (max(0, a - b) for a, b in zip(reached, x.shape[2:], strict=True))
    found, _ = _convolution_backward(
        _wide(grad),
        F.pad(_wide(x), (0, right, 0, below)),
        _wide(weight),
        (stride, padding, dilation),
        (False, True, False),
    )[1:]
    total = _wide(grad).sum((0, 2, 3))
    return found.to(weight.dtype).contiguous(), total.to(weight.dtype)


def norm_gradient_reference(
    grad: Tensor,
    z: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z (N, C, H, W) and of the norm's weight and bias, from the gradient of
    activation(norm(z)), `grad`."""
    shape = z.shape[1:2]
    wide, weight, bias = (_wide(t) for t in (z.permute(0, 2, 3, 1), norm_weight, norm_bias))
    normed, mean, scale = torch.native_layer_norm(wide, shape, weight, bias, eps)
    through = _ACTIVATIONS[activation][1](_wide(grad.permute(0, 2, 3, 1)), normed)
    found = _aten.native_layer_norm_backward(
        through.contiguous(), wide, shape, mean, scale, weight, bias, [True, True, True]
    )
    made = _map_empty(z, z.shape[0], z.shape[2], z.shape[3], z.shape[1])
    made.copy_(found[0].permute(0, 3, 1, 2))
    return made, found[1].to(norm_weight.dtype), found[2].to(norm_bias.dtype)


def _activated_wide(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    activation: str,
    stride: int,
    padding: int,
    behind: Sequence[int],
    dilation: int,
) -> Tensor:
    x = F.pad(_wide(x), (0, behind[1], 0, behind[0]))
    wide = [None if t is None else _wide(t) for t in (bias, norm_weight, norm_bias)]
    z = F.conv2d(x, _wide(weight), wide[0], stride, padding, dilation, groups=x.shape[1])
    if norm_weight is not None:
        z = F.layer_norm(z.permute(0, 2, 3, 1), z.shape[1:2], wide[1], wide[2], eps)
        z = z.permute(0, 3, 1, 2)
    return _ACTIVATIONS[activation][0](z)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, form: tuple[int, int, int], wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    stride, padding, dilation = ([value, value] for value in form)
    return _aten.convolution_backward(
        grad, x, weight, None, stride, padding, dilation, False, [0, 0], x.shape[1], list(wanted)
    )


def _map_empty(like: Tensor, count: int, height: int, width: int, channels: int) -> Tensor:
    return like.new_empty(count, height, width, channels).permute(0, 3, 1, 2)


def _empty(
    x: Tensor, weight: Tensor, stride: int, padding: int, behind: Sequence[int], dilation: int
) -> Tensor:
    """A result without numbers in it."""
    side = dilation * (weight.shape[-1] - 1) + 1
    high, wide = (
        (pixels + 2 * padding + more - side) // stride + 1
        for pixels, more in zip(x.shape[2:], behind, strict=True)
    )
    return _map_empty(x, x.shape[0], high, wide, x.shape[1])


# ---- launchers


class _Sizes(NamedTuple):
    """How a kernel is cut: rows of a strip, positions and channels of a program, its warps."""

    rows: int
    block_p: int
    block_c: int
    warps: int


def _power(size: int) -> int:
    """`size`, rounded up to a power of two."""
    return 1 << max(0, size - 1).bit_length()


def _tile(positions: int, channels: int, each: int, *, whole: bool = False) -> tuple[int, int, int]:
    """Positions, channels and warps of a program whose threads have `each` numbers of a tile.

    64 channels, or 32 where that leaves fewer idle; all of them where `whole`. Where there are
    few positions, more channels; where there is little of both, fewer warps.
    """
    blocks = {size: -(-channels // size) * size for size in (64, 32)}
    block_c = min(_power(channels), 64 if blocks[64] <= blocks[32] else 32)
    if whole:
        block_c = _power(channels)
    warps = 8 if block_c > 256 else 4
    size = 32 * warps * each
    block_p = min(_power(positions), max(1, size // block_c))
    if not whole:
        block_c = min(_power(channels), size // block_p)
    return block_p, block_c, min(warps, _power(-(-block_p * block_c // (32 * each))))


def _rows(height: int, width: int, others: int, most: int) -> int:
    """Output rows of a strip: as few idle as can be, and of those the most, for each input row
    that is read serves them all. Fewer where the GPU would not be full; `others` counts what
    the positions of a map are multiplied by, in programs of 16."""
    while most > 1 and -(-height // most) * width * others < 16 * FULL:
        most = (most + 1) // 2
    return min(range(most, max(1, most // 2) - 1, -1), key=lambda rows: -(-height // rows) * rows)


def _forward_sizes(
    count: int,
    channels: int,
    height: int,
    width: int,
    kernel: int,
    stride: int,
    *,
    whole: bool = False,
) -> _Sizes:
    """The cut of the convolution to `count` maps of `channels` x `height` x `width`."""
    rows = _rows(height, width, count * -(-channels // 64), 8 if stride == 1 else 4)
    positions = -(-height // rows) * width
    # A thread keeps `rows` sums and a column of taps for each number; registers are 255 at most.
    return _Sizes(rows, *_tile(positions, channels, 8 if kernel <= 7 else 4, whole=whole))


def _strided_sizes(
    count: int, channels: int, height: int, width: int, kernel: int, stride: int
) -> _Sizes:
    """The cut of an input's gradient of that shape."""
    rows = 2 * stride if kernel <= 7 else stride
    positions = -(-height // rows) * -(-width // stride)
    return _Sizes(rows, *_tile(positions, channels, 4))


class _Sum(NamedTuple):
    """How the sum for a weight's gradient is cut: `columns` of the filter in each of `parts`
    programs, `steps` tiles of positions in a program, `programs` along them."""

    sizes: _Sizes
    columns: int
    parts: int
    positions: int
    steps: int
    programs: int


def _sum_sizes(
    count: int, channels: int, height: int, width: int, kernel: int, stride: int
) -> _Sum:
    """The cut of the weight's gradient from results of `height` x `width`."""
    # All taps of a program are sums in registers: about 100 of each thread.
    each = 4 if kernel <= 5 else 2
    columns = -(-kernel // -(-kernel * kernel * each // 104))
    parts = -(-kernel // columns)
    rows = _rows(height, width, count * -(-channels // 64), 4 if kernel == 5 or stride > 1 else 7)
    positions = count * -(-height // rows) * width
    block_p, block_c, warps = _tile(positions, min(channels, 32), each)
    tiles = -(-positions // block_p)
    others = -(-channels // block_c) * parts
    programs = max(1, min(PROGRAMS // others, tiles // STEPS))
    steps = max(1, -(-tiles // programs))
    sizes = _Sizes(rows, block_p, block_c, warps)
    return _Sum(sizes, columns, parts, positions, steps, -(-tiles // steps))


def _readable(x: Tensor) -> Tensor:
    """`x` (N, C, H, W) as it is where the channels of a pixel lie side by side, else copied. Copied
    too where it starts between two steps of 16 bytes, in which it would be read one by one."""
    if (x.stride(1) == 1 or x.shape[1] == 1) and x.data_ptr() % 16 == 0:
        return x
    return torch.empty_like(x, memory_format=torch.channels_last).copy_(x)


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Steps from image to image, row to row and column to column."""
    image, _, row, column = (
        stride if size > 1 else 0 for size, stride in zip(x.shape, x.stride(), strict=True)
    )
    return image, row, column


def _grain(*lengths: int) -> int:
    """The largest power of two up to 16 that divides all."""
    return gcd(16, *lengths)


def _within_reach(*maps: Tensor) -> None:
    """Offsets inside of one image are 32 bits wide."""
    for x in maps:
        _, row, column = _strides(x)
        if (x.shape[2] + 64) * row + (x.shape[3] + 64) * column + x.shape[1] >= 2**31:
            raise ValueError(f"an image of shape {tuple(x.shape[1:])} has 2**31 numbers or more")


def _taps(weight: Tensor) -> Tensor:
    """The weight (C, 1, K, K), read where it lies, as (K, K, C) in float32: so that a warp finds
    the taps of neighbouring channels side by side."""
    kernel, channels = weight.shape[-1], weight.shape[0]
    taps = weight.new_empty((kernel, kernel, channels), dtype=torch.float32)
    return taps.copy_(weight[:, 0].permute(1, 2, 0))


def _vector(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _launch_forward(
    x: Tensor,
    taps: Tensor,
    out: Tensor,
    stride: int,
    padding: int,
    dilation: int,
    *,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 0.0,
    activation: str = "none",
    flipped: bool = False,
    squeezes: bool = False,
) -> Tensor | None:
    """Fills `out`; the sums (N, tiles, C) of its parts where `squeezes`."""
    if activation not in _ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; known: {sorted(_ACTIVATIONS)}")
    x = _readable(x)
    _within_reach(x, out)
    count, channels, out_height, out_width = out.shape
    kernel, whole = taps.shape[0], norm_weight is not None
    if whole and channels > WIDEST:
        raise ValueError(f"norm of {channels} channels; at most {WIDEST} are normalised")
    sizes = _forward_sizes(count, channels, out_height, out_width, kernel, stride, whole=whole)
    tiles = triton.cdiv(triton.cdiv(out_height, sizes.rows) * out_width, sizes.block_p)
    blocks = triton.cdiv(channels, sizes.block_c)
    sums = None
    if squeezes:
        sums = out.new_empty((count, tiles, channels), dtype=torch.float32)
    strides = _strides(x)
    grain = _grain(channels, *strides)
    if out.numel():
        forward_kernel[(count * tiles * blocks,)](
            x, taps, _vector(bias), _vector(norm_weight), _vector(norm_bias), out, sums,
            *x.shape[2:], out_height, out_width,
            *(length // grain for length in (*strides, channels)), padding, eps, tiles, blocks,
            KERNEL=kernel, STRIDE=stride, DILATION=dilation, FLIPPED=flipped,
            ACTIVATION=activation, ROWS=sizes.rows, GRAIN=grain,
            BLOCK_P=sizes.block_p, BLOCK_C=sizes.block_c,
            num_warps=sizes.warps, num_stages=1,
        )  # fmt: skip
    return sums


def _launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    activation: str,
    stride: int,
    padding: int,
    behind: Sequence[int],
    dilation: int,
) -> Tensor:
    out = _empty(x, weight, stride, padding, behind, dilation)
    _launch_forward(
        x, _taps(weight), out, stride, padding, dilation, bias=bias, norm_weight=norm_weight,
        norm_bias=norm_bias, eps=eps, activation=activation,
    )  # fmt: skip
    return out


def _launch_squeezed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    activation: str,
    stride: int,
    padding: int,
    behind: Sequence[int],
    dilation: int,
) -> tuple[Tensor, Tensor]:
    out = _empty(x, weight, stride, padding, behind, dilation)
    sums = _launch_forward(
        x, _taps(weight), out, stride, padding, dilation, bias=bias, norm_weight=norm_weight,
        norm_bias=norm_bias, eps=eps, activation=activation, squeezes=True,
    )  # fmt: skip
    assert sums is not None
    count, tiles, channels = sums.shape
    mean = x.new_empty((count, channels))
    block_t, block_c = min(32, _power(tiles)), min(32, _power(channels))
    blocks = triton.cdiv(channels, block_c)
    if mean.numel():
        mean_kernel[(count * blocks,)](
            sums, mean, tiles, out.shape[2] * out.shape[3], channels, blocks,
            BLOCK_T=block_t, BLOCK_C=block_c,
        )  # fmt: skip
    return out, mean


def _launch_input_gradient(
    grad: Tensor,
    weight: Tensor,
    height: int,
    width: int,
    stride: int,
    padding: int,
    dilation: int,
) -> Tensor:
    count, channels, out_height, out_width = grad.shape
    kernel, taps = weight.shape[-1], _taps(weight)
    out = _map_empty(grad, count, height, width, channels)
    if stride == 1:
        around = dilation * (kernel - 1) - padding
        _launch_forward(grad, taps, out, 1, around, dilation, flipped=True)
        return out
    grad = _readable(grad)
    _within_reach(grad, out)
    sizes = _strided_sizes(count, channels, height, width, kernel, stride)
    positions = triton.cdiv(height, sizes.rows) * triton.cdiv(width, stride)
    tiles, blocks = triton.cdiv(positions, sizes.block_p), triton.cdiv(channels, sizes.block_c)
    strides = _strides(grad)
    grain = _grain(channels, *strides)
    rows = _reached(sizes.rows, kernel, stride, padding, dilation)
    columns = _reached(stride, kernel, stride, padding, dilation)
    if out.numel():
        strided_gradient_kernel[(count * tiles * blocks,)](
            grad, taps, out, height, width, out_height, out_width,
            *(length // grain for length in (*strides, channels)), tiles, blocks,
            KERNEL=kernel, STRIDE=stride, PADDING=padding, DILATION=dilation,
            FIRST_ROW=rows[0], LAST_ROW=rows[1], LIFT=padding - stride * rows[0],
            FIRST_COLUMN=columns[0], LAST_COLUMN=columns[1],
            ROWS=sizes.rows, GRAIN=grain, BLOCK_P=sizes.block_p, BLOCK_C=sizes.block_c,
            num_warps=sizes.warps, num_stages=1,
        )  # fmt: skip
    return out


def _reached(pixels: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[int, int]:
    """The first and the last output that one of the first `pixels` inputs of a side goes to."""
    all_taps = (i + padding - k * dilation for i in range(pixels) for k in range(kernel))
    outputs = [reach // stride for reach in all_taps if reach % stride == 0]
    return min(outputs), max(outputs)


def _launch_weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int
) -> tuple[Tensor, Tensor]:
    grad, x = _readable(grad), _readable(x)
    _within_reach(grad, x)
    count, channels, out_height, out_width = grad.shape
    kernel = weight.shape[-1]
    weight_grad = weight.new_empty(weight.shape)
    bias_grad = weight.new_empty((channels,))
    if not grad.numel():
        return weight_grad.zero_(), bias_grad.zero_()
    cut = _sum_sizes(count, channels, out_height, out_width, kernel, stride)
    taps, blocks = kernel * kernel, triton.cdiv(channels, cut.sizes.block_c)
    partials = grad.new_empty((cut.programs, taps + 1, channels), dtype=torch.float32)
    lengths = (*_strides(grad), *_strides(x), channels)
    grain = _grain(*lengths)
    weight_gradient_kernel[(cut.programs * blocks * cut.parts,)](
        grad, x, partials, cut.positions, *x.shape[2:], out_height, out_width,
        *(length // grain for length in lengths), padding, cut.steps, blocks,
        KERNEL=kernel, STRIDE=stride, DILATION=dilation, COLUMNS=cut.columns, PARTS=cut.parts,
        ROWS=cut.sizes.rows, GRAIN=grain, BLOCK_P=cut.sizes.block_p, BLOCK_C=cut.sizes.block_c,
        num_warps=cut.sizes.warps, num_stages=1,
    )  # fmt: skip
    _launch_total(partials, weight_grad, bias_grad)
    return weight_grad, bias_grad


def _launch_total(partials: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Sums `partials` (rows, taps + 1, C) over rows into `weight` (C, taps) and `bias` (C,)."""
    rows, columns, channels = partials.shape
    block = 32
    total_kernel[(triton.cdiv(columns * channels, block),)](
        partials, weight, bias, rows, channels,
        TAPS=columns - 1, BLOCK_ROWS=min(64, _power(rows)), BLOCK=block,
    )  # fmt: skip


def _launch_norm_gradient(
    grad: Tensor,
    z: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    grad, z = (t.contiguous(memory_format=torch.channels_last) for t in (grad, z))
    count, channels, height, width = z.shape
    out = _map_empty(z, count, height, width, channels)
    weight_grad, bias_grad = torch.empty_like(norm_weight), torch.empty_like(norm_bias)
    pixels = count * height * width
    if not pixels:
        return out, weight_grad.zero_(), bias_grad.zero_()
    block_p, block_c, warps = _tile(pixels, channels, 8, whole=True)
    tiles = triton.cdiv(pixels, block_p)
    steps = triton.cdiv(tiles, max(1, min(PROGRAMS, tiles // STEPS)))
    programs = triton.cdiv(tiles, steps)
    partials = out.new_empty((programs, 2, channels), dtype=torch.float32)
    grain = _grain(channels)
    norm_gradient_kernel[(programs,)](
        grad, z, norm_weight.contiguous(), norm_bias.contiguous(), out, partials,
        pixels, channels // grain, eps, steps,
        ACTIVATION=activation, GRAIN=grain, BLOCK_P=block_p, BLOCK_C=block_c,
        num_warps=warps, num_stages=1,
    )  # fmt: skip
    _launch_total(partials, weight_grad, bias_grad)
    return out, weight_grad, bias_grad


# ---- operators


def _fake_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    activation: str,
    stride: int,
    padding: int,
    behind: Sequence[int],
    dilation: int,
) -> Tensor:
    return _empty(x, weight, stride, padding, behind, dilation)


def _fake_squeezed(x: Tensor, weight: Tensor, *more: Any) -> tuple[Tensor, Tensor]:
    return _empty(x, weight, *more[5:]), x.new_empty((x.shape[0], x.shape[1]))


def _fake_input_gradient(grad: Tensor, weight: Tensor, height: int, width: int, *_: int) -> Tensor:
    return _map_empty(grad, grad.shape[0], height, width, grad.shape[1])


def _fake_weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, *_: int
) -> tuple[Tensor, Tensor]:
    return weight.new_empty(weight.shape), weight.new_empty((weight.shape[0],))


def _fake_norm_gradient(
    grad: Tensor, z: Tensor, norm_weight: Tensor, norm_bias: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    made = _map_empty(z, z.shape[0], z.shape[2], z.shape[3], z.shape[1])
    return made, torch.empty_like(norm_weight), torch.empty_like(norm_bias)


def _products(out: Sequence[int], weight: Sequence[int]) -> int:
    """Of K x K multiply-adds for each number that the convolution makes."""
    return 2 * out[0] * out[1] * out[2] * out[3] * weight[2] * weight[3]


def _flops(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return _products(out_shape, weight)


def _squeezed_flops(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return _products(out_shape[0], weight)


def _input_gradient_flops(grad: Any, weight: Any, *_: Any, **__: Any) -> int:
    return _products(grad, weight)


def _weight_gradient_flops(grad: Any, x: Any, weight: Any, *_: Any, **__: Any) -> int:
    """PyTorch's own count is C times this: it takes the groups for none."""
    return _products(grad, weight)


def _norm_gradient_flops(*_: Any, **__: Any) -> int:
    return 0  # as PyTorch counts: norms and activations are not counted


input_gradient = register(
    "depthwise_input_gradient",
    "(Tensor grad, Tensor weight, SymInt height, SymInt width, int stride, int padding, "
    "int dilation) -> Tensor",
    launch=_launch_input_gradient,
    reference=input_gradient_reference,
    fake=_fake_input_gradient,
    flops=_input_gradient_flops,
)

weight_gradient = register(
    "depthwise_weight_gradient",
    "(Tensor grad, Tensor x, Tensor weight, int stride, int padding, int dilation) "
    "-> (Tensor, Tensor)",
    launch=_launch_weight_gradient,
    reference=weight_gradient_reference,
    fake=_fake_weight_gradient,
    flops=_weight_gradient_flops,
)

norm_gradient = register(
    "depthwise_norm_gradient",
    "(Tensor grad, Tensor z, Tensor norm_weight, Tensor norm_bias, float eps, str activation) "
    "-> (Tensor, Tensor, Tensor)",
    launch=_launch_norm_gradient,
    reference=norm_gradient_reference,
    fake=_fake_norm_gradient,
    flops=_norm_gradient_flops,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.form = inputs[5:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """What the norm and the activation were given is computed again, not kept."""
    x, weight, bias, norm_weight, norm_bias = ctx.saved_tensors
    eps, activation, stride, padding, behind, dilation = ctx.form
    norm_grads: tuple[Tensor | None, Tensor | None] = (None, None)
    if norm_weight is not None or activation != "none":
        z = depthwise(
            x, weight, bias, None, None, eps, "none", stride, padding, behind, dilation
        )  # fmt: skip
        if norm_weight is None:
            grad = _ACTIVATIONS[activation][1](grad, z)
        else:
            grad, *more = norm_gradient(grad, z, norm_weight, norm_bias, eps, activation)
            norm_grads = (more[0], more[1])
    x_grad = weight_grad = bias_grad = None
    if ctx.needs_input_grad[0]:
        x_grad = input_gradient(grad, weight, *x.shape[2:], stride, padding, dilation)
    if any(ctx.needs_input_grad[1:3]):
        weight_grad, bias_grad = weight_gradient(grad, x, weight, stride, padding, dilation)
    bias_grad = None if bias is None else bias_grad
    return x_grad, weight_grad, bias_grad, *norm_grads, *(None,) * 6


def _squeezed_backward(ctx: Any, grad: Tensor, mean_grad: Tensor) -> tuple[Any, ...]:
    pixels = grad.shape[2] * grad.shape[3]
    return _backward(ctx, grad + (mean_grad / pixels)[:, :, None, None])


_ARGUMENTS = (
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? norm_weight, Tensor? norm_bias, float eps, "
    "str activation, int stride, int padding, SymInt[2] behind, int dilation)"
)

depthwise = register(
    "depthwise",
    f"{_ARGUMENTS} -> Tensor",
    launch=_launch,
    reference=depthwise_reference,
    fake=_fake_forward,
    flops=_flops,
    backward=_backward,
    setup_context=_setup,
)

depthwise_squeezed = register(
    "depthwise_squeezed",
    f"{_ARGUMENTS} -> (Tensor, Tensor)",
    launch=_launch_squeezed,
    reference=depthwise_squeezed_reference,
    fake=_fake_squeezed,
    flops=_squeezed_flops,
    backward=_squeezed_backward,
    setup_context=_setup,
)


# ---- ahead of time


def _variant(kernel: Any, label: str, warps: int, **constants: Any) -> Variant:
    """`kernel` as it is launched for bfloat16 maps whose C is a multiple of 16."""
    if "GRAIN" in kernel.arg_names:
        constants["GRAIN"] = 16
    types = dict.fromkeys(("taps", "sums", "partials"), "*fp32") | {"eps": "fp32"}
    tensors = ("x", "bias", "norm_weight", "norm_bias", "out", "grad", "z", "weight")
    types |= dict.fromkeys(tensors, "*bf16")
    signature = {name: types.get(name, "i32") for name in kernel.arg_names if name not in constants}
    return Variant(kernel, signature, constants, warps=warps, stages=1, label=label)


def _blocks(sizes: _Sizes) -> dict[str, int]:
    return {"ROWS": sizes.rows, "BLOCK_P": sizes.block_p, "BLOCK_C": sizes.block_c}


def _forward_variant(
    shape: tuple[int, int, int, int], kernel: int, stride: int = 1, *, norm: bool = False
) -> Variant:
    sizes = _forward_sizes(*shape, kernel, stride, whole=norm)
    absent = {} if norm else dict.fromkeys(("norm_weight", "norm_bias"))
    return _variant(
        forward_kernel,
        f"{kernel}x{kernel}/{stride} to {shape[2]}x{shape[3]}x{shape[1]}" + ", norm" * norm,
        sizes.warps,
        KERNEL=kernel,
        STRIDE=stride,
        DILATION=1,
        FLIPPED=False,
        ACTIVATION="gelu" if norm else "none",
        sums=None,
        **_blocks(sizes),
        **absent,
    )


def _strided_variant(shape: tuple[int, int, int, int], kernel: int) -> Variant:
    sizes = _strided_sizes(*shape, kernel, 2)
    rows = _reached(sizes.rows, kernel, 2, kernel // 2, 1)
    columns = _reached(2, kernel, 2, kernel // 2, 1)
    return _variant(
        strided_gradient_kernel,
        f"{kernel}x{kernel}/2 of {shape[2]}x{shape[3]}x{shape[1]}",
        sizes.warps,
        KERNEL=kernel,
        STRIDE=2,
        PADDING=kernel // 2,
        DILATION=1,
        FIRST_ROW=rows[0],
        LAST_ROW=rows[1],
        LIFT=kernel // 2 - 2 * rows[0],
        FIRST_COLUMN=columns[0],
        LAST_COLUMN=columns[1],
        **_blocks(sizes),
    )


def _weight_variant(shape: tuple[int, int, int, int], kernel: int, stride: int = 1) -> Variant:
    cut = _sum_sizes(*shape, kernel, stride)
    return _variant(
        weight_gradient_kernel,
        f"{kernel}x{kernel}/{stride} of {shape[2]}x{shape[3]}x{shape[1]}",
        cut.sizes.warps,
        KERNEL=kernel,
        STRIDE=stride,
        DILATION=1,
        COLUMNS=cut.columns,
        PARTS=cut.parts,
        **_blocks(cut.sizes),
    )


def _norm_variant(shape: tuple[int, int, int, int]) -> Variant:
    count, channels, height, width = shape
    block_p, block_c, warps = _tile(count * height * width, channels, 8, whole=True)
    return _variant(
        norm_gradient_kernel,
        f"{height}x{width}x{channels}",
        warps,
        ACTIVATION="gelu",
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )


_MAPS = ((256, 96, 56, 56), (256, 192, 28, 28), (256, 384, 14, 14), (256, 768, 7, 7))

VARIANTS = [
    *(_forward_variant(shape, kernel) for shape in _MAPS for kernel in (3, 7)),
    *(_forward_variant(shape, 7, norm=True) for shape in _MAPS[:3]),
    *(_forward_variant(_MAPS[1], kernel) for kernel in (5, 9, 13)),
    *(_forward_variant(_MAPS[1], kernel, 2) for kernel in (3, 7)),
    *(_strided_variant(_MAPS[0], kernel) for kernel in (3, 5)),
    *(_weight_variant(_MAPS[1], kernel) for kernel in (3, 5, 7, 9, 13)),
    *(_weight_variant(_MAPS[1], kernel, 2) for kernel in (3, 5)),
    *(_norm_variant(shape) for shape in _MAPS[:3]),
    _variant(total_kernel, "7x7", 4, TAPS=49, BLOCK_ROWS=64, BLOCK=32),
    _variant(mean_kernel, "", 4, BLOCK_T=16, BLOCK_C=32),
]
