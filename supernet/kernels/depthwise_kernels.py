"""The Triton kernels of `supernet.kernels.depthwise`, which says what they are for.

Shapes: N images, C channels, H x W pixels of the convolution's input, H' x W' of its result, a
filter of K x K taps.
"""

# ruff: noqa: RUF005  (Triton adds tuples, but does not unpack them)
# A tuple that grows is of another type each time, which mypy does not allow:
# mypy: disable-error-code="assignment,var-annotated"
# `while` in place of `for`: the interpreter cannot count to a number that a kernel is given.

from __future__ import annotations

import triton
import triton.language as tl

from supernet.kernels.activations import gelu, gelu_slope

# Sizes that say nothing about how memory is laid out; not to be compiled for one by one.
_PLAIN = ["height", "width", "out_height", "out_width", "padding", "tiles", "blocks", "steps"]


@triton.jit
def _activated(v, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        v = tl.where(v < 0, 0.0, v)
    elif ACTIVATION == "relu6":
        v = tl.where(v < 0, 0.0, tl.where(v > 6, 6.0, v))
    elif ACTIVATION == "gelu":
        v = gelu(v)
    elif ACTIVATION == "gelu-tanh":  # (1 + tanh(u)) / 2 is sigmoid(2 u)
        v = v * tl.sigmoid(1.5957691216057308 * (v + 0.044715 * v * v * v))
    elif ACTIVATION == "gelu-quick":
        v = v * tl.sigmoid(1.702 * v)
    elif ACTIVATION == "silu":
        v = v * tl.sigmoid(v)
    elif ACTIVATION == "hardswish":
        w = v + 3
        v = v * tl.where(w < 0, 0.0, tl.where(w > 6, 6.0, w)) * (1 / 6)
    return v


@triton.jit
def _slope(v, ACTIVATION: tl.constexpr):
    """Derivative of the activation."""
    if ACTIVATION == "none":
        d = tl.full(v.shape, 1.0, tl.float32)
    elif ACTIVATION == "relu":
        d = tl.where(v > 0, 1.0, 0.0)
    elif ACTIVATION == "relu6":
        d = tl.where((v > 0) & (v < 6), 1.0, 0.0)
    elif ACTIVATION == "gelu":
        d = gelu_slope(v)
    elif ACTIVATION == "gelu-tanh":
        s = tl.sigmoid(1.5957691216057308 * (v + 0.044715 * v * v * v))
        d = s + v * s * (1 - s) * 1.5957691216057308 * (1 + 0.134145 * v * v)
    elif ACTIVATION == "gelu-quick":
        s = tl.sigmoid(1.702 * v)
        d = s + 1.702 * v * s * (1 - s)
    elif ACTIVATION == "silu":
        s = tl.sigmoid(v)
        d = s + v * s * (1 - s)
    else:
        d = tl.where(v <= -3, 0.0, tl.where(v < 3, v * (1 / 3) + 0.5, 1.0))
    return d


@triton.jit
def _among(place, size):
    """Whether 0 <= place < size: one comparison, for a negative number is a large one unsigned."""
    return place.to(tl.uint32, bitcast=True) < size.to(tl.uint32, bitcast=True)


@triton.jit(do_not_specialize=_PLAIN)
def forward_kernel(
    x, taps, bias, norm_weight, norm_bias, out, sums,
    height, width, out_height, out_width,
    image_units, row_units, column_units, channel_units, padding, eps, tiles, blocks,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, FLIPPED: tl.constexpr,
    ACTIVATION: tl.constexpr, ROWS: tl.constexpr, GRAIN: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A program does BLOCK_P positions of one image and BLOCK_C channels; a position is a column
    in a strip of ROWS output rows.

    x has strides of `*_units` * GRAIN numbers and 1 between channels; taps is (K, K, C) float32;
    out (N, H', W', C). Lengths are passed in units of GRAIN so that the compiler knows what
    divides them. `bias`, the norm's tensors and `sums` (N, tiles, C) may be None.
    """
    program = tl.program_id(0)
    channels = channel_units * GRAIN
    tile = program // blocks % tiles
    image = (program // blocks // tiles).to(tl.int64)
    c = program % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    c_inside = c < channels
    position = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = position < tl.cdiv(out_height, ROWS) * out_width
    first_row = position // out_width * ROWS
    column = position % out_width
    top = first_row * STRIDE - padding
    left = column * STRIDE - padding
    x += image * image_units * GRAIN
    corner = ((top * row_units + left * column_units) * GRAIN)[:, None] + c[None, :]
    # As large as the map's tile, so that each thread loads the taps of its own channels.
    own = tl.zeros((BLOCK_P, 1), tl.int32) + c[None, :]
    own_inside = own < channels

    totals = ()
    for _ in tl.static_range(ROWS):
        totals = totals + (tl.zeros((BLOCK_P, BLOCK_C), tl.float32),)
    for kx in range(KERNEL):
        at = left + kx * DILATION
        x_inside = inside & _among(at, width)
        column_taps = ()
        for ky in tl.static_range(KERNEL):
            tap = ky * KERNEL + kx
            if FLIPPED:
                tap = KERNEL * KERNEL - 1 - tap
            loaded = tl.load(taps + tap * channels + own, mask=own_inside, other=0)
            column_taps = column_taps + (loaded,)
        where = corner + kx * DILATION * column_units * GRAIN
        for j in tl.static_range((ROWS - 1) * STRIDE + (KERNEL - 1) * DILATION + 1):
            y = top + j
            mask = (x_inside & _among(y, height))[:, None] & c_inside[None, :]
            value = tl.load(x + where, mask=mask, other=0).to(tl.float32)
            where += row_units * GRAIN
            added = ()
            for r in tl.static_range(ROWS):
                total = totals[r]
                # The tap that joins them is (j - r * STRIDE) / DILATION, where it is one.
                if (j >= r * STRIDE and (j - r * STRIDE) % DILATION == 0) and (
                    (j - r * STRIDE) // DILATION < KERNEL
                ):
                    total += value * column_taps[(j - r * STRIDE) // DILATION]
                added = added + (total,)
            totals = added

    if bias is not None:
        shift = tl.load(bias + c, mask=c_inside, other=0).to(tl.float32)[None, :]
    if norm_weight is not None:
        norm_scale = tl.load(norm_weight + c, mask=c_inside, other=0).to(tl.float32)[None, :]
        norm_shift = tl.load(norm_bias + c, mask=c_inside, other=0).to(tl.float32)[None, :]
    out += image * out_height * out_width * channels
    start = ((first_row * out_width + column) * channel_units * GRAIN)[:, None] + c[None, :]
    gathered = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for r in tl.static_range(ROWS):
        v = totals[r]
        if bias is not None:
            v += shift
        if norm_weight is not None:  # channels beyond the last are 0 here
            mean = tl.sum(v, 1) / channels
            away = tl.where(c_inside[None, :], v - mean[:, None], 0.0)
            spread = tl.sum(away * away, 1) / channels
            v = away * tl.rsqrt(spread + eps)[:, None] * norm_scale + norm_shift
        v = _activated(v, ACTIVATION)
        mask = (inside & (first_row + r < out_height))[:, None] & c_inside[None, :]
        if sums is not None:
            gathered += tl.where(mask, v, 0.0)
        tl.store(out + start, v.to(out.dtype.element_ty), mask=mask)
        start += out_width * channel_units * GRAIN
    if sums is not None:
        sums += (image * tiles + tile) * channels
        tl.store(sums + c, tl.sum(gathered, 0), mask=c_inside)


@triton.jit(do_not_specialize=_PLAIN)
def strided_gradient_kernel(
    grad, taps, out,
    height, width, out_height, out_width,
    image_units, row_units, column_units, channel_units, tiles, blocks,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, DILATION: tl.constexpr,
    FIRST_ROW: tl.constexpr, LAST_ROW: tl.constexpr, LIFT: tl.constexpr,
    FIRST_COLUMN: tl.constexpr, LAST_COLUMN: tl.constexpr,
    ROWS: tl.constexpr, GRAIN: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The input's gradient `out` (N, H, W, C) at a stride, from `grad` (N, C, H', W').

    A position is STRIDE columns in a strip of ROWS rows of the input, ROWS a multiple of STRIDE:
    so it is known in advance which taps join a pixel and an output. Outputs of a position are
    counted from the one at its corner, FIRST_ROW to LAST_ROW and FIRST_COLUMN to LAST_COLUMN;
    LIFT is PADDING - STRIDE * FIRST_ROW.
    """
    program = tl.program_id(0)
    channels = channel_units * GRAIN
    tile = program // blocks % tiles
    image = (program // blocks // tiles).to(tl.int64)
    c = program % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    c_inside = c < channels
    position = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    across = tl.cdiv(width, STRIDE)
    inside = position < tl.cdiv(height, ROWS) * across
    strip = position // across
    pair = position % across
    top = strip * (ROWS // STRIDE)
    grad += image * image_units * GRAIN
    corner = ((top * row_units + pair * column_units) * GRAIN)[:, None] + c[None, :]

    totals = ()
    for _ in tl.static_range(ROWS * STRIDE):
        totals = totals + (tl.zeros((BLOCK_P, BLOCK_C), tl.float32),)
    for u in tl.static_range(FIRST_COLUMN, LAST_COLUMN + 1):
        at = pair + u
        column_inside = inside & _among(at, out_width)
        values = ()
        for j in tl.static_range(FIRST_ROW, LAST_ROW + 1):
            y = top + j
            mask = (column_inside & _among(y, out_height))[:, None] & c_inside[None, :]
            step = (j * row_units + u * column_units) * GRAIN
            loaded = tl.load(grad + (corner + step), mask=mask, other=0)
            values = values + (loaded.to(tl.float32),)
        for s in tl.static_range(STRIDE):
            # kx is (s + PADDING - STRIDE * u) / DILATION, where it is one; ky likewise.
            if (s + PADDING >= STRIDE * u and (s + PADDING - STRIDE * u) % DILATION == 0) and (
                (s + PADDING - STRIDE * u) // DILATION < KERNEL
            ):
                for ky in tl.static_range(KERNEL):
                    tap = ky * KERNEL + (s + PADDING - STRIDE * u) // DILATION
                    factor = tl.load(taps + tap * channels + c, mask=c_inside, other=0)[None, :]
                    added = ()
                    for i in tl.static_range(ROWS * STRIDE):
                        total = totals[i]
                        if i % STRIDE == s and (i // STRIDE + LIFT - ky * DILATION) % STRIDE == 0:
                            total += values[(i // STRIDE + LIFT - ky * DILATION) // STRIDE] * factor
                        added = added + (total,)
                    totals = added

    out += image * height * width * channels
    for i in tl.static_range(ROWS * STRIDE):
        row = strip * ROWS + i // STRIDE
        column = pair * STRIDE + i % STRIDE
        mask = (inside & (row < height) & (column < width))[:, None] & c_inside[None, :]
        where = ((row * width + column) * channel_units * GRAIN)[:, None] + c[None, :]
        tl.store(out + where, totals[i].to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=[*_PLAIN, "positions"])
def weight_gradient_kernel(
    grad, x, partials,
    positions, height, width, out_height, out_width,
    grad_image_units, grad_row_units, grad_column_units,
    image_units, row_units, column_units, channel_units, padding, steps, blocks,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, COLUMNS: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, GRAIN: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A program sums `steps` tiles of positions, of all images, for BLOCK_C channels and COLUMNS of
    the filter's columns, one of PARTS shares of them: (programs, K K + 1, C) float32, the sum of
    `grad` behind the taps. A position is a column in a strip of ROWS output rows."""
    program = tl.program_id(0)
    channels = channel_units * GRAIN
    first_kx = program % PARTS * COLUMNS
    c = program // PARTS % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    c_inside = c < channels
    row = program // PARTS // blocks
    strips = tl.cdiv(out_height, ROWS)

    shift = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    totals = ()
    for _ in tl.static_range(KERNEL * COLUMNS):
        totals = totals + (tl.zeros((BLOCK_P, BLOCK_C), tl.float32),)
    last = tl.minimum((row + 1) * steps, tl.cdiv(positions, BLOCK_P))
    step = row * steps
    while step < last:
        position = step * BLOCK_P + tl.arange(0, BLOCK_P)
        inside = position < positions
        column = position % out_width
        strip = position // out_width % strips
        image = (position // out_width // strips).to(tl.int64)
        out_row = strip * ROWS
        top = out_row * STRIDE - padding
        left = column * STRIDE - padding + first_kx * DILATION

        at = image * grad_image_units + out_row * grad_row_units + column * grad_column_units
        grad_corner = grad + (at * GRAIN)[:, None] + c[None, :]
        grads = ()
        for r in tl.static_range(ROWS):
            mask = (inside & (out_row + r < out_height))[:, None] & c_inside[None, :]
            loaded = tl.load(grad_corner, mask=mask, other=0)
            grads = grads + (loaded.to(tl.float32),)
            shift += grads[r]
            grad_corner += grad_row_units * GRAIN

        at = image * image_units + top * row_units + left * column_units
        corner = x + (at * GRAIN)[:, None] + c[None, :]
        added = ()
        for kx in tl.static_range(COLUMNS):
            here = left + kx * DILATION
            x_inside = inside & _among(here, width)
            values = ()
            # One step after the other: a compiler would keep the sums of many steps in registers.
            where = corner
            for j in tl.static_range((ROWS - 1) * STRIDE + (KERNEL - 1) * DILATION + 1):
                y = top + j
                mask = (x_inside & _among(y, height))[:, None] & c_inside[None, :]
                loaded = tl.load(where, mask=mask, other=0)
                values = values + (loaded.to(tl.float32),)
                where += row_units * GRAIN
            corner += DILATION * column_units * GRAIN
            for ky in tl.static_range(KERNEL):
                total = totals[kx * KERNEL + ky]
                for r in tl.static_range(ROWS):
                    total += values[r * STRIDE + ky * DILATION] * grads[r]
                added = added + (total,)
        totals = added
        step += 1

    partials += row.to(tl.int64) * (KERNEL * KERNEL + 1) * channels
    for kx in tl.static_range(COLUMNS):
        mask = c_inside & (first_kx + kx + c * 0 < KERNEL)
        for ky in tl.static_range(KERNEL):
            tap = ky * KERNEL + first_kx + kx
            tl.store(partials + tap * channels + c, tl.sum(totals[kx * KERNEL + ky], 0), mask=mask)
    mask = c_inside & (first_kx + c * 0 == 0)
    tl.store(partials + KERNEL * KERNEL * channels + c, tl.sum(shift, 0), mask=mask)


@triton.jit(do_not_specialize=["pixels", "steps"])
def norm_gradient_kernel(
    grad, z, norm_weight, norm_bias, out, partials,
    pixels, channel_units, eps, steps,
    ACTIVATION: tl.constexpr, GRAIN: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A program does `steps` tiles of BLOCK_P pixels, all channels; grad, z, out are (pixels, C).

    The gradients of the norm's weight and bias are (programs, 2, C) float32, to be summed.
    """
    program = tl.program_id(0)
    channels = channel_units * GRAIN
    c = tl.arange(0, BLOCK_C)
    c_inside = c < channels
    weight = tl.load(norm_weight + c, mask=c_inside, other=0).to(tl.float32)[None, :]
    bias = tl.load(norm_bias + c, mask=c_inside, other=0).to(tl.float32)[None, :]
    weight_total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    bias_total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    last = tl.minimum((program + 1) * steps, tl.cdiv(pixels, BLOCK_P))
    step = program * steps
    while step < last:
        pixel = step * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (pixel < pixels)[:, None] & c_inside[None, :]
        at = (pixel.to(tl.int64) * channel_units * GRAIN)[:, None] + c[None, :]
        v = tl.load(z + at, mask=mask, other=0).to(tl.float32)
        g = tl.load(grad + at, mask=mask, other=0).to(tl.float32)
        away = tl.where(c_inside[None, :], v - (tl.sum(v, 1) / channels)[:, None], 0.0)
        scale = tl.rsqrt(tl.sum(away * away, 1) / channels + eps)[:, None]
        normed = away * scale
        g *= _slope(normed * weight + bias, ACTIVATION)
        weight_total += g * normed
        bias_total += g
        g *= weight
        along = (tl.sum(g * normed, 1) / channels)[:, None]
        g = (g - (tl.sum(g, 1) / channels)[:, None] - normed * along) * scale
        tl.store(out + at, g.to(out.dtype.element_ty), mask=mask)
        step += 1
    partials += program.to(tl.int64) * 2 * channels
    tl.store(partials + c, tl.sum(weight_total, 0), mask=c_inside)
    tl.store(partials + channels + c, tl.sum(bias_total, 0), mask=c_inside)


@triton.jit(do_not_specialize=["rows"])
def total_kernel(
    partials, weight, bias,
    rows, channels,
    TAPS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums (rows, TAPS + 1, C) over rows; the first TAPS to `weight` (C, TAPS), the last to `bias`
    (C,). A program does BLOCK of the sums."""
    columns = (TAPS + 1) * channels
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK_ROWS, BLOCK), tl.float32)
    start = 0
    while start < rows:
        row = start + tl.arange(0, BLOCK_ROWS)
        mask = (row < rows)[:, None] & (at < columns)[None, :]
        where = (row.to(tl.int64) * columns)[:, None] + at[None, :]
        total += tl.load(partials + where, mask=mask, other=0)
        start += BLOCK_ROWS
    found = tl.sum(total, 0)
    tap, c = at // channels, at % channels
    tl.store(weight + c * TAPS + tap, found.to(weight.dtype.element_ty), mask=tap < TAPS)
    tl.store(bias + c, found.to(bias.dtype.element_ty), mask=(tap == TAPS) & (at < columns))


@triton.jit(do_not_specialize=["tiles", "pixels", "blocks"])
def mean_kernel(
    sums, out,
    tiles, pixels, channels, blocks,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sums (N, tiles, C) over tiles, divided by `pixels`: out (N, C)."""
    image = (tl.program_id(0) // blocks).to(tl.int64)
    c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    sums += image * tiles * channels
    total = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    start = 0
    while start < tiles:
        tile = start + tl.arange(0, BLOCK_T)
        mask = (tile < tiles)[:, None] & (c < channels)[None, :]
        total += tl.load(sums + (tile * channels)[:, None] + c[None, :], mask=mask, other=0)
        start += BLOCK_T
    mean = tl.sum(total, 0) / pixels
    tl.store(out + image * channels + c, mean.to(out.dtype.element_ty), mask=c < channels)
