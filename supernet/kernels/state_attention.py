"""Attention that sums a map into a small matrix for each head: between channels, and linear.

Sources: attention between channels, XCiT (El-Nouby et al., 2021), arXiv 2106.09681, section 3.2;
linear attention, L2ViT (Zheng, 2025), arXiv 2501.16182. Both as `space.attention_scores` has them.

A first pass over the pixels sums the *state* of a head in float32; a second one makes weights of it
and applies them to each pixel. Heads are read where they lie in the projections, channels last. A
program does one head of one image; a large map is cut into chunks of pixels, whose states are
stored and added up by whoever needs them, always in the same order. Maps of one chunk take one
launch: the program that has summed their state goes on. Backward is two such passes again.

Shapes: N images or pieces of them, h heads, T queries, S keys, d channels of a head's queries and
keys, e of its values; queries are maps (N, h * d, H, W), keys with the values behind them
(N, h * (d + e), H', W'). Products of inputs in bfloat16 are of bfloat16 with sums in float32: the
weights are rounded to it before they are applied, as autocast would.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from space.attention_scores import ChannelAttend, LinearAttend, split_heads
from supernet.kernels.registration import Variant, interpreted, register
from supernet.kernels.twins import autocast

WIDEST = 64  # channels of a head; more would not fit into the registers of a program
CHUNK = 1024  # pixels of one program, at most
BLOCK = 64  # pixels of one step, at most
SMALLEST = tl.constexpr(1e-12)  # norm of a channel, as in `F.normalize`
LEAST = tl.constexpr(100.0)  # denominator of linear attention
DTYPES = (torch.float32, torch.bfloat16)
INTERPRETED = tl.constexpr(interpreted())

# ---- definitions: what is computed, and its gradients by formula


def _wide(x: Tensor) -> Tensor:
    """In float32, or better where it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _heads(q: Tensor, kv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """q (N, h, d, T), k (N, h, d, S) and v (N, h, e, S)."""
    return split_heads(_wide(q), _wide(kv), heads)


def channel_attend_reference(q: Tensor, kv: Tensor, temperature: Tensor) -> Tensor:
    """softmax(t q k^T) v between the channels of a head, each of q and k divided by its norm over
    the map: (N, h * d, H, W) and (N, 2 * h * d, H, W) to (N, h * d, H, W); `temperature` (h,)."""
    t = _wide(temperature)
    queries, keys, values = _heads(q, kv, len(t))
    scores = F.normalize(queries, dim=3) @ F.normalize(keys, dim=3).mT
    y = (t[:, None, None] * scores).softmax(3) @ values
    return y.flatten(1, 2).unflatten(2, q.shape[2:]).to(q.dtype)


def linear_attend_reference(q: Tensor, kv: Tensor, scale: Tensor) -> Tensor:
    """relu(q) (t relu(k)^T v) / max(relu(q) . sum of relu(k), 100): (N, h * d, H, W) and
    (N, h * (d + e), H', W') to (N, h * e, H, W); `scale` (h,)."""
    t = _wide(scale)
    queries, keys, values = _heads(q, kv, len(t))
    queries, keys = queries.relu(), keys.relu()
    total = keys.sum(3)[:, :, None] @ queries
    y = (t[:, None, None] * (values @ keys.mT) @ queries) / total.clamp(min=LEAST.value)
    return y.flatten(1, 2).unflatten(2, q.shape[2:]).to(q.dtype)


def _share(pixels: int) -> int:
    """Pixels of a chunk."""
    _, steps, block = _cut(pixels)
    return steps * block


def _channel_state(q: Tensor, kv: Tensor, heads: int) -> Tensor:
    """(N, chunks, h, d * d + 2 * d): sums over a chunk of k q^T, row by row, of q^2 and of k^2."""
    queries, keys, _ = _heads(q, kv, heads)
    share = _share(queries.shape[3])
    states = [
        torch.cat([(k @ q.mT).flatten(2), (q * q).sum(3), (k * k).sum(3)], 2)
        for q, k in zip(queries.split(share, 3), keys.split(share, 3), strict=True)
    ]
    return torch.stack(states, 1)


def _linear_state(q: Tensor, kv: Tensor, heads: int) -> Tensor:
    """(N, chunks, h, d * e + d): sums over a chunk of relu(k) v^T, row by row, and of relu(k)."""
    _, keys, values = _heads(q, kv, heads)
    share, keys = _share(keys.shape[3]), keys.relu()
    states = [
        torch.cat([(k @ v.mT).flatten(2), k.sum(3)], 2)
        for k, v in zip(keys.split(share, 3), values.split(share, 3), strict=True)
    ]
    return torch.stack(states, 1)


def channel_attend_backward_reference(
    dy: Tensor, q: Tensor, kv: Tensor, temperature: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `q`, `kv` and `temperature`; `dy` is that of the result."""
    t = _wide(temperature)
    queries, keys, values = _heads(q, kv, len(t))
    dy = _wide(dy).flatten(2).unflatten(1, (len(t), -1))
    width = queries.shape[2]
    products, q_norms, k_norms = state.sum(1).split([width * width, width, width], 2)
    q_norms, k_norms = (x.sqrt()[..., None] for x in (q_norms, k_norms))
    q_factors, k_factors = (1 / x.clamp(min=SMALLEST.value) for x in (q_norms, k_norms))
    cosines = products.unflatten(2, (width, width)).mT * q_factors * k_factors.mT
    weights = (t[:, None, None] * cosines).softmax(3)
    dv = weights.mT @ dy
    dweights = dy @ values.mT
    dscores = weights * (dweights - (weights * dweights).sum(3, keepdim=True))
    dcosines = t[:, None, None] * dscores
    # A channel's own part of its gradient keeps its norm; none does where the norm was too small.
    along = dcosines * cosines
    q_own = -(q_factors**2) * along.sum(3)[..., None] * (q_norms >= SMALLEST.value)
    k_own = -(k_factors**2) * along.sum(2)[..., None] * (k_norms >= SMALLEST.value)
    mixed = dcosines * q_factors * k_factors.mT
    dq = mixed @ keys + q_own * queries
    dk = mixed.mT @ queries + k_own * keys
    dt = (dscores * cosines).sum((0, 2, 3)).to(temperature.dtype)
    dkv = torch.cat([dk.flatten(1, 2), dv.flatten(1, 2)], 1)
    return dq.reshape(q.shape).to(q.dtype), dkv.reshape(kv.shape).to(kv.dtype), dt


def linear_attend_backward_reference(
    dy: Tensor, q: Tensor, kv: Tensor, scale: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `q`, `kv` and `scale`; `dy` is that of the result."""
    t = _wide(scale)
    raw_queries, raw_keys, values = _heads(q, kv, len(t))
    dy = _wide(dy).flatten(2).unflatten(1, (len(t), -1))
    queries, keys = raw_queries.relu(), raw_keys.relu()
    width, value_width = queries.shape[2], values.shape[2]
    summary, key_sums = state.sum(1).split([width * value_width, width], 2)
    summary, key_sums = summary.unflatten(2, (width, value_width)), key_sums[..., None]
    total = key_sums.mT @ queries
    dy = dy / total.clamp(min=LEAST.value)
    back = t[:, None, None] * (summary @ dy)
    dtotal = -(queries * back).sum(2, keepdim=True) / total.clamp(min=LEAST.value)
    dtotal = dtotal * (total >= LEAST.value)
    dq = (back + key_sums * dtotal) * (raw_queries > 0)
    dscaled = queries @ dy.mT
    dt = (dscaled * summary).sum((0, 2, 3)).to(scale.dtype)
    dsummary = t[:, None, None] * dscaled
    dk = (dsummary @ values + queries @ dtotal.mT) * (raw_keys > 0)
    dv = dsummary.mT @ keys
    dkv = torch.cat([dk.flatten(1, 2), dv.flatten(1, 2)], 1)
    return dq.reshape(q.shape).to(q.dtype), dkv.reshape(kv.shape).to(kv.dtype), dt


# ---- what all kernels do

# Chunks and steps are constants of a kernel: the interpreter cannot count to a number that it is
# given, and the compiler (Triton 3.6) fails on a `while` loop over one that is 1. There are few:
# a chunk has 16 steps at most, and both follow from the size of the map.


@triton.jit
def _place(heads, CHUNKS: tl.constexpr):
    """Image, chunk and head of this program. Heads run fastest: those of a pixel, which share
    what memory hands out at once, are read at about the same time."""
    program = tl.program_id(0)
    image = program // heads // CHUNKS
    return image.to(tl.int64), program // heads % CHUNKS, program % heads


@triton.jit
def _offsets(these, columns, pixels, stride, WIDTH: tl.constexpr):
    """Where (BLOCK, PADDED) numbers of a head lie, and which of them there are."""
    mask = (these < pixels)[:, None] & (columns < WIDTH)[None, :]
    return these[:, None].to(tl.int64) * stride + columns[None, :], mask


@triton.jit
def _summed(parts, heads, image, head, offsets, mask, CHUNKS: tl.constexpr, SIZE: tl.constexpr):
    """Numbers of a head's state, added up over its chunks."""
    parts += (image * CHUNKS * heads + head) * SIZE
    total = tl.load(parts + offsets, mask=mask, other=0.0)
    for chunk in range(1, CHUNKS):
        total += tl.load(parts + chunk * heads * SIZE + offsets, mask=mask, other=0.0)
    return total


@triton.jit
def _dot(a, b, total=None):
    """a @ b in float32; of float32 without tensor cores, which would round to 10 bits."""
    if INTERPRETED:  # it takes bfloat16 for whole numbers
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def _square(ROWS: tl.constexpr, COLUMNS: tl.constexpr, ROOM: tl.constexpr, WIDE: tl.constexpr):
    """Where the numbers of a ROWS x COLUMNS matrix lie as a tile of ROOM x WIDE, and which of the
    tile there are."""
    rows, columns = tl.arange(0, ROOM), tl.arange(0, WIDE)
    mask = (rows < ROWS)[:, None] & (columns < COLUMNS)[None, :]
    return rows[:, None] * COLUMNS + columns[None, :], mask


# ---- between channels


@triton.jit
def _channel_sums(
    q, k, q_stride, k_stride, start, pixels,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Sums over pixels of k q^T, of q^2 and of k^2."""
    columns = tl.arange(0, PADDED)
    products = tl.zeros((PADDED, PADDED), tl.float32)
    q_squares = tl.zeros((BLOCK, PADDED), tl.float32)
    k_squares = tl.zeros((BLOCK, PADDED), tl.float32)
    for step in range(STEPS):
        these = start + step * BLOCK + tl.arange(0, BLOCK)
        at, mask = _offsets(these, columns, pixels, q_stride, WIDTH)
        queries = tl.load(q + at, mask=mask, other=0.0)
        at, mask = _offsets(these, columns, pixels, k_stride, WIDTH)
        keys = tl.load(k + at, mask=mask, other=0.0)
        products = _dot(tl.trans(keys), queries, products)
        q_squares += queries.to(tl.float32) * queries.to(tl.float32)
        k_squares += keys.to(tl.float32) * keys.to(tl.float32)
    return products, tl.sum(q_squares, 0), tl.sum(k_squares, 0)


@triton.jit
def _store_channel_state(
    state, products, q_squares, k_squares, WIDTH: tl.constexpr, PADDED: tl.constexpr
):
    columns = tl.arange(0, PADDED)
    square, inside = _square(WIDTH, WIDTH, PADDED, PADDED)
    tl.store(state + square, products, mask=inside)
    tl.store(state + WIDTH * WIDTH + columns, q_squares, mask=columns < WIDTH)
    tl.store(state + WIDTH * WIDTH + WIDTH + columns, k_squares, mask=columns < WIDTH)


@triton.jit
def _load_channel_state(
    state, heads, image, head,
    CHUNKS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    SIZE: tl.constexpr = WIDTH * WIDTH + 2 * WIDTH
    columns = tl.arange(0, PADDED)
    square, inside = _square(WIDTH, WIDTH, PADDED, PADDED)
    products = _summed(state, heads, image, head, square, inside, CHUNKS, SIZE)
    at, mask = WIDTH * WIDTH + columns, columns < WIDTH
    q_squares = _summed(state, heads, image, head, at, mask, CHUNKS, SIZE)
    k_squares = _summed(state, heads, image, head, at + WIDTH, mask, CHUNKS, SIZE)
    return products, q_squares, k_squares


@triton.jit
def _channel_weights(
    products, q_squares, k_squares, temperature, WIDTH: tl.constexpr, PADDED: tl.constexpr
):
    """The cosines of keys, down, and queries, across, and the weights of keys for each query."""
    q_factors = 1 / tl.maximum(tl.sqrt(q_squares), SMALLEST)
    k_factors = 1 / tl.maximum(tl.sqrt(k_squares), SMALLEST)
    cosines = products * k_factors[:, None] * q_factors[None, :]
    there = tl.arange(0, PADDED)[:, None] < WIDTH
    scores = tl.where(there, temperature * cosines, -float("inf"))
    powers = tl.exp(scores - tl.max(scores, 0)[None, :])
    return cosines, powers / tl.sum(powers, 0)[None, :]


@triton.jit
def _channel_state_kernel(
    q, kv, state, q_image, q_stride, kv_image, kv_stride, heads, pixels,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    image, chunk, head = _place(heads, CHUNKS)
    start = chunk * STEPS * BLOCK
    q += image * q_image + head * WIDTH
    kv += image * kv_image + head * WIDTH
    products, q_squares, k_squares = _channel_sums(
        q, kv, q_stride, kv_stride, start, pixels, WIDTH, PADDED, BLOCK, STEPS
    )
    state += ((image * CHUNKS + chunk) * heads + head) * (WIDTH * WIDTH + 2 * WIDTH)
    _store_channel_state(state, products, q_squares, k_squares, WIDTH, PADDED)


@triton.jit
def _channel_apply_kernel(
    q, kv, temperature, state, y, q_image, q_stride, kv_image, kv_stride,
    heads, pixels,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """y = weights v; where the map is WHOLE, one chunk, also sums and stores the state."""
    image, chunk, head = _place(heads, CHUNKS)
    start = chunk * STEPS * BLOCK
    q += image * q_image + head * WIDTH
    kv += image * kv_image + head * WIDTH
    if WHOLE:
        products, q_squares, k_squares = _channel_sums(
            q, kv, q_stride, kv_stride, start, pixels, WIDTH, PADDED, BLOCK, STEPS
        )
        state += (image * heads + head) * (WIDTH * WIDTH + 2 * WIDTH)
        _store_channel_state(state, products, q_squares, k_squares, WIDTH, PADDED)
    else:
        products, q_squares, k_squares = _load_channel_state(
            state, heads, image, head, CHUNKS, WIDTH, PADDED
        )
    t = tl.load(temperature + head).to(tl.float32)
    _, weights = _channel_weights(products, q_squares, k_squares, t, WIDTH, PADDED)
    weights = weights.to(kv.dtype.element_ty)
    v = kv + heads * WIDTH
    y += image * pixels * heads * WIDTH + head * WIDTH
    columns = tl.arange(0, PADDED)
    for step in range(STEPS):
        these = start + step * BLOCK + tl.arange(0, BLOCK)
        at, mask = _offsets(these, columns, pixels, kv_stride, WIDTH)
        values = tl.load(v + at, mask=mask, other=0.0)
        answers = _dot(values, weights)
        at, mask = _offsets(these, columns, pixels, heads * WIDTH, WIDTH)
        tl.store(y + at, answers.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _channel_back_sums(
    dy, v, dv, weights, dy_stride, v_stride, dv_stride, start, pixels,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Stores the gradients of values; sums those of the weights, v dy^T, over pixels."""
    columns = tl.arange(0, PADDED)
    turned = tl.trans(weights.to(v.dtype.element_ty))
    dweights = tl.zeros((PADDED, PADDED), tl.float32)
    for step in range(STEPS):
        these = start + step * BLOCK + tl.arange(0, BLOCK)
        at, mask = _offsets(these, columns, pixels, dy_stride, WIDTH)
        answers = tl.load(dy + at, mask=mask, other=0.0)
        at, mask = _offsets(these, columns, pixels, v_stride, WIDTH)
        values = tl.load(v + at, mask=mask, other=0.0)
        dweights = _dot(tl.trans(values), answers, dweights)
        found = _dot(answers, turned)
        at, mask = _offsets(these, columns, pixels, dv_stride, WIDTH)
        tl.store(dv + at, found.to(dv.dtype.element_ty), mask=mask)
    return dweights


@triton.jit
def _channel_back_state_kernel(
    dy, kv, temperature, state, dkv, dstate, dy_image, dy_stride, kv_image, kv_stride,
    heads, pixels,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """First pass backward: gradients of values, and of the weights for each chunk."""
    image, chunk, head = _place(heads, CHUNKS)
    start = chunk * STEPS * BLOCK
    products, q_squares, k_squares = _load_channel_state(
        state, heads, image, head, CHUNKS, WIDTH, PADDED
    )
    t = tl.load(temperature + head).to(tl.float32)
    _, weights = _channel_weights(products, q_squares, k_squares, t, WIDTH, PADDED)
    dy += image * dy_image + head * WIDTH
    v = kv + image * kv_image + (heads + head) * WIDTH
    dv = dkv + image * pixels * 2 * heads * WIDTH + (heads + head) * WIDTH
    dweights = _channel_back_sums(
        dy, v, dv, weights, dy_stride, kv_stride, 2 * heads * WIDTH,
        start, pixels, WIDTH, PADDED, BLOCK, STEPS,
    )  # fmt: skip
    square, inside = _square(WIDTH, WIDTH, PADDED, PADDED)
    dstate += ((image * CHUNKS + chunk) * heads + head) * (WIDTH * WIDTH)
    tl.store(dstate + square, dweights, mask=inside)


@triton.jit
def _channel_back_apply_kernel(
    dy, q, kv, temperature, state, dstate, dq, dkv, dt,
    dy_image, dy_stride, q_image, q_stride, kv_image, kv_stride, heads, pixels,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """Second pass backward: gradients of queries, keys and, for each image, the temperature. Where
    the map is WHOLE, one chunk, the first pass as well."""
    image, chunk, head = _place(heads, CHUNKS)
    start = chunk * STEPS * BLOCK
    dkv += image * pixels * 2 * heads * WIDTH + head * WIDTH
    kv += image * kv_image + head * WIDTH
    products, q_squares, k_squares = _load_channel_state(
        state, heads, image, head, CHUNKS, WIDTH, PADDED
    )
    t = tl.load(temperature + head).to(tl.float32)
    cosines, weights = _channel_weights(products, q_squares, k_squares, t, WIDTH, PADDED)
    if WHOLE:
        dy += image * dy_image + head * WIDTH
        dweights = _channel_back_sums(
            dy, kv + heads * WIDTH, dkv + heads * WIDTH, weights,
            dy_stride, kv_stride, 2 * heads * WIDTH, start, pixels, WIDTH, PADDED, BLOCK, STEPS,
        )  # fmt: skip
    else:
        square, inside = _square(WIDTH, WIDTH, PADDED, PADDED)
        dweights = _summed(dstate, heads, image, head, square, inside, CHUNKS, WIDTH * WIDTH)
    dscores = weights * (dweights - tl.sum(weights * dweights, 0)[None, :])
    along = dscores * cosines
    if chunk == 0:
        tl.store(dt + image * heads + head, tl.sum(tl.sum(along, 0), 0))
    q_norms, k_norms = tl.sqrt(q_squares), tl.sqrt(k_squares)
    q_factors, k_factors = 1 / tl.maximum(q_norms, SMALLEST), 1 / tl.maximum(k_norms, SMALLEST)
    # A channel's own part of its gradient keeps its norm; none does where the norm was too small.
    q_own = tl.where(q_norms >= SMALLEST, -t * q_factors * q_factors * tl.sum(along, 0), 0.0)
    k_own = tl.where(k_norms >= SMALLEST, -t * k_factors * k_factors * tl.sum(along, 1), 0.0)
    mixed = t * dscores * k_factors[:, None] * q_factors[None, :]
    mixed = mixed.to(q.dtype.element_ty)
    turned = tl.trans(mixed)
    q += image * q_image + head * WIDTH
    dq += image * pixels * heads * WIDTH + head * WIDTH
    columns = tl.arange(0, PADDED)
    for step in range(STEPS):
        these = start + step * BLOCK + tl.arange(0, BLOCK)
        at, mask = _offsets(these, columns, pixels, q_stride, WIDTH)
        queries = tl.load(q + at, mask=mask, other=0.0)
        at, mask = _offsets(these, columns, pixels, kv_stride, WIDTH)
        keys = tl.load(kv + at, mask=mask, other=0.0)
        found = _dot(keys, mixed)
        found += q_own[None, :] * queries.to(tl.float32)
        at, mask = _offsets(these, columns, pixels, heads * WIDTH, WIDTH)
        tl.store(dq + at, found.to(dq.dtype.element_ty), mask=mask)
        found = _dot(queries, turned)
        found += k_own[None, :] * keys.to(tl.float32)
        at, mask = _offsets(these, columns, pixels, 2 * heads * WIDTH, WIDTH)
        tl.store(dkv + at, found.to(dkv.dtype.element_ty), mask=mask)


# ---- linear


@triton.jit
def _relu(x, y):
    """y where x is above zero, else 0; as PyTorch, lets y pass where x is not a number."""
    return tl.where(x.to(tl.float32) <= 0, 0.0, y).to(y.dtype)


@triton.jit
def _linear_sums(
    k, v, stride, start, pixels,
    WIDTH: tl.constexpr, VALUES: tl.constexpr,
    PADDED: tl.constexpr, ROOM: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Sums over pixels of relu(k) v^T and of relu(k)."""
    columns, value_columns = tl.arange(0, PADDED), tl.arange(0, ROOM)
    summary = tl.zeros((PADDED, ROOM), tl.float32)
    sums = tl.zeros((BLOCK, PADDED), tl.float32)
    for step in range(STEPS):
        these = start + step * BLOCK + tl.arange(0, BLOCK)
        at, mask = _offsets(these, columns, pixels, stride, WIDTH)
        keys = tl.load(k + at, mask=mask, other=0.0)
        keys = _relu(keys, keys)
        at, mask = _offsets(these, value_columns, pixels, stride, VALUES)
        values = tl.load(v + at, mask=mask, other=0.0)
        summary = _dot(tl.trans(keys), values, summary)
        sums += keys.to(tl.float32)
    return summary, tl.sum(sums, 0)


@triton.jit
def _store_linear_state(
    state, summary, sums,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, PADDED: tl.constexpr, ROOM: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, PADDED)
    square, inside = _square(WIDTH, VALUES, PADDED, ROOM)
    tl.store(state + square, summary, mask=inside)
    tl.store(state + WIDTH * VALUES + columns, sums, mask=columns < WIDTH)


@triton.jit
def _load_linear_state(
    state, heads, image, head, CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, PADDED: tl.constexpr, ROOM: tl.constexpr,
):  # fmt: skip
    SIZE: tl.constexpr = WIDTH * VALUES + WIDTH
    columns = tl.arange(0, PADDED)
    square, inside = _square(WIDTH, VALUES, PADDED, ROOM)
    summary = _summed(state, heads, image, head, square, inside, CHUNKS, SIZE)
    at, mask = WIDTH * VALUES + columns, columns < WIDTH
    return summary, _summed(state, heads, image, head, at, mask, CHUNKS, SIZE)


@triton.jit
def _linear_state_kernel(
    kv, state, kv_image, kv_stride, heads, keys,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr, VALUES: tl.constexpr,
    PADDED: tl.constexpr, ROOM: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    image, chunk, head = _place(heads, CHUNKS)
    start = chunk * STEPS * BLOCK
    k = kv + image * kv_image + head * WIDTH
    v = kv + image * kv_image + heads * WIDTH + head * VALUES
    summary, sums = _linear_sums(
        k, v, kv_stride, start, keys, WIDTH, VALUES, PADDED, ROOM, BLOCK, STEPS
    )
    state += ((image * CHUNKS + chunk) * heads + head) * (WIDTH * VALUES + WIDTH)
    _store_linear_state(state, summary, sums, WIDTH, VALUES, PADDED, ROOM)


@triton.jit
def _linear_apply_kernel(
    q, kv, scale, state, y, q_image, q_stride, kv_image, kv_stride,
    heads, pixels, keys,
    CHUNKS: tl.constexpr, KEY_CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr, VALUES: tl.constexpr,
    PADDED: tl.constexpr, ROOM: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
    OTHER_STEPS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """y from the state; where queries and keys are WHOLE, one chunk each, also sums and stores it,
    in OTHER_STEPS over the keys."""
    image, chunk, head = _place(heads, CHUNKS)
    start = chunk * STEPS * BLOCK
    if WHOLE:
        k = kv + image * kv_image + head * WIDTH
        v = kv + image * kv_image + heads * WIDTH + head * VALUES
        summary, sums = _linear_sums(
            k, v, kv_stride, 0, keys, WIDTH, VALUES, PADDED, ROOM, BLOCK, OTHER_STEPS
        )
        state += (image * heads + head) * (WIDTH * VALUES + WIDTH)
        _store_linear_state(state, summary, sums, WIDTH, VALUES, PADDED, ROOM)
    else:
        summary, sums = _load_linear_state(
            state, heads, image, head, KEY_CHUNKS, WIDTH, VALUES, PADDED, ROOM
        )
    summary = (tl.load(scale + head).to(tl.float32) * summary).to(q.dtype.element_ty)
    q += image * q_image + head * WIDTH
    y += image * pixels * heads * VALUES + head * VALUES
    columns, value_columns = tl.arange(0, PADDED), tl.arange(0, ROOM)
    for step in range(STEPS):
        these = start + step * BLOCK + tl.arange(0, BLOCK)
        at, mask = _offsets(these, columns, pixels, q_stride, WIDTH)
        queries = tl.load(q + at, mask=mask, other=0.0)
        queries = _relu(queries, queries)
        total = tl.sum(queries.to(tl.float32) * sums[None, :], 1)
        answers = _dot(queries, summary)
        answers = answers / tl.maximum(total, LEAST)[:, None]
        at, mask = _offsets(these, value_columns, pixels, heads * VALUES, VALUES)
        tl.store(y + at, answers.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _linear_back_queries(
    dy, q, dq, summary, sums, scale, dy_stride, q_stride, dq_stride, start, pixels,
    WIDTH: tl.constexpr, VALUES: tl.constexpr,
    PADDED: tl.constexpr, ROOM: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Stores the gradients of queries; sums over pixels those of the summary times its scale and
    of the sums of keys."""
    columns, value_columns = tl.arange(0, PADDED), tl.arange(0, ROOM)
    turned = tl.trans((scale * summary).to(q.dtype.element_ty))
    dsummary = tl.zeros((PADDED, ROOM), tl.float32)
    dsums = tl.zeros((BLOCK, PADDED), tl.float32)
    for step in range(STEPS):
        these = start + step * BLOCK + tl.arange(0, BLOCK)
        at, mask = _offsets(these, columns, pixels, q_stride, WIDTH)
        queries = tl.load(q + at, mask=mask, other=0.0)
        queries = _relu(queries, queries)
        at, mask = _offsets(these, value_columns, pixels, dy_stride, VALUES)
        answers = tl.load(dy + at, mask=mask, other=0.0)
        wide = queries.to(tl.float32)
        total = tl.sum(wide * sums[None, :], 1)
        factors = 1 / tl.maximum(total, LEAST)
        back = _dot(answers, turned) * factors[:, None]
        dtotal = tl.where(total >= LEAST, -factors * tl.sum(wide * back, 1), 0.0)
        found = _relu(queries, back + dtotal[:, None] * sums[None, :])
        at, mask = _offsets(these, columns, pixels, dq_stride, WIDTH)
        tl.store(dq + at, found.to(dq.dtype.element_ty), mask=mask)
        answers = (answers.to(tl.float32) * factors[:, None]).to(q.dtype.element_ty)
        dsummary = _dot(tl.trans(queries), answers, dsummary)
        dsums += dtotal[:, None] * wide
    return dsummary, tl.sum(dsums, 0)


@triton.jit
def _linear_back_state_kernel(
    dy, q, scale, state, dq, dstate, dy_image, dy_stride, q_image, q_stride,
    heads, pixels,
    CHUNKS: tl.constexpr, KEY_CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr, VALUES: tl.constexpr,
    PADDED: tl.constexpr, ROOM: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """First pass backward: gradients of queries, and of the state for each chunk of them."""
    image, chunk, head = _place(heads, CHUNKS)
    start = chunk * STEPS * BLOCK
    summary, sums = _load_linear_state(
        state, heads, image, head, KEY_CHUNKS, WIDTH, VALUES, PADDED, ROOM
    )
    dsummary, dsums = _linear_back_queries(
        dy + image * dy_image + head * VALUES, q + image * q_image + head * WIDTH,
        dq + image * pixels * heads * WIDTH + head * WIDTH,
        summary, sums, tl.load(scale + head).to(tl.float32),
        dy_stride, q_stride, heads * WIDTH, start, pixels,
        WIDTH, VALUES, PADDED, ROOM, BLOCK, STEPS,
    )  # fmt: skip
    dstate += ((image * CHUNKS + chunk) * heads + head) * (WIDTH * VALUES + WIDTH)
    _store_linear_state(dstate, dsummary, dsums, WIDTH, VALUES, PADDED, ROOM)


@triton.jit
def _linear_back_apply_kernel(
    dy, q, kv, scale, state, dstate, dq, dkv, dscale,
    dy_image, dy_stride, q_image, q_stride, kv_image, kv_stride,
    heads, pixels, keys,
    CHUNKS: tl.constexpr, QUERY_CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr, VALUES: tl.constexpr,
    PADDED: tl.constexpr, ROOM: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
    OTHER_STEPS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Second pass backward: gradients of keys, values and, for each image, the scale. Where queries
    and keys are WHOLE, one chunk each, the first pass as well, in OTHER_STEPS over the queries.
    CHUNKS and STEPS are those of keys."""
    image, chunk, head = _place(heads, CHUNKS)
    start = chunk * STEPS * BLOCK
    t = tl.load(scale + head).to(tl.float32)
    summary, sums = _load_linear_state(
        state, heads, image, head, CHUNKS, WIDTH, VALUES, PADDED, ROOM
    )
    if WHOLE:
        dsummary, dsums = _linear_back_queries(
            dy + image * dy_image + head * VALUES, q + image * q_image + head * WIDTH,
            dq + image * pixels * heads * WIDTH + head * WIDTH, summary, sums, t,
            dy_stride, q_stride, heads * WIDTH, 0, pixels,
            WIDTH, VALUES, PADDED, ROOM, BLOCK, OTHER_STEPS,
        )  # fmt: skip
    else:
        dsummary, dsums = _load_linear_state(
            dstate, heads, image, head, QUERY_CHUNKS, WIDTH, VALUES, PADDED, ROOM
        )
    if chunk == 0:
        tl.store(dscale + image * heads + head, tl.sum(tl.sum(dsummary * summary, 0), 0))
    dsummary = (t * dsummary).to(kv.dtype.element_ty)
    turned = tl.trans(dsummary)
    k = kv + image * kv_image + head * WIDTH
    v = kv + image * kv_image + heads * WIDTH + head * VALUES
    stride = heads * (WIDTH + VALUES)
    dk = dkv + image * keys * stride + head * WIDTH
    dv = dkv + image * keys * stride + heads * WIDTH + head * VALUES
    columns, value_columns = tl.arange(0, PADDED), tl.arange(0, ROOM)
    for step in range(STEPS):
        these = start + step * BLOCK + tl.arange(0, BLOCK)
        at, mask = _offsets(these, columns, keys, kv_stride, WIDTH)
        raw = tl.load(k + at, mask=mask, other=0.0)
        at, value_mask = _offsets(these, value_columns, keys, kv_stride, VALUES)
        values = tl.load(v + at, mask=value_mask, other=0.0)
        found = _dot(values, turned) + dsums[None, :]
        found = _relu(raw, found)
        at, mask = _offsets(these, columns, keys, stride, WIDTH)
        tl.store(dk + at, found.to(dkv.dtype.element_ty), mask=mask)
        found = _dot(_relu(raw, raw), dsummary)
        at, mask = _offsets(these, value_columns, keys, stride, VALUES)
        tl.store(dv + at, found.to(dkv.dtype.element_ty), mask=mask)


# ---- launches


def _cut(pixels: int) -> tuple[int, int, int]:
    """Chunks of a map, steps in each (the last may need fewer), and pixels of one step.

    By the map alone: an image's result does not depend on how many there are.
    """
    share = triton.cdiv(pixels, triton.cdiv(pixels, CHUNK))
    block = next((few for few in (16, 32) if share <= few), BLOCK)
    steps = triton.cdiv(share, block)
    return triton.cdiv(pixels, steps * block), steps, block


def _padded(width: int) -> int:
    """Side of the tile for so many channels: a product of tiles takes 16 or more."""
    return max(16, triton.next_power_of_2(width))


def _warps(block: int, width: int) -> int:
    """So many that a thread has 8 numbers of a tile, 16 bytes in bfloat16, or a few more."""
    return min(8, max(1, block * _padded(width) // 256))


def _compiled(width: int, value_width: int, block: int, **more: int) -> dict[str, int]:
    """How a kernel for such heads and steps is compiled."""
    warps = _warps(block, max(width, value_width))
    sizes = {"WIDTH": width, "PADDED": _padded(width), "BLOCK": block, **more}
    return {**sizes, "num_warps": warps, "num_stages": 3}


def _stored(x: Tensor) -> Tensor:
    """The map with its channels next to one another and its pixels at one distance; a copy where
    they are not."""
    height, width = x.shape[2:]
    even = height == 1 or width == 1 or x.stride(2) == width * x.stride(3)
    if (x.shape[1] == 1 or x.stride(1) == 1) and even:
        return x
    copy = _empty_map(x, x.shape[1])
    return copy.copy_(x)


def _strides(x: Tensor) -> tuple[int, int]:
    """From an image to the next, and from a pixel to the next."""
    return x.stride(0), x.stride(3) if x.shape[3] > 1 else x.stride(2)


def _empty_map(like: Tensor, channels: int) -> Tensor:
    """Stored channels last, as large as `like`."""
    count, _, height, width = like.shape
    return like.new_empty((count, height, width, channels)).permute(0, 3, 1, 2)


def _widths(q: Tensor, kv: Tensor, factors: Tensor, *, square: bool) -> tuple[int, int]:
    """Channels of a head's queries and of its values. ValueError where the tensors do not fit to
    one another or no kernel is made for them; `square` attention is between channels."""
    heads, inner, values = factors.shape[0], q.shape[1], kv.shape[1] - q.shape[1]
    if q.dtype not in DTYPES or kv.dtype != q.dtype:
        raise ValueError(f"q and kv are {q.dtype} and {kv.dtype}, but must both be one of {DTYPES}")
    if inner % heads or values % heads or values < heads or q.shape[0] != kv.shape[0]:
        raise ValueError(f"q {tuple(q.shape)} and kv {tuple(kv.shape)} have no {heads} equal heads")
    if square and (values != inner or kv.shape[2:] != q.shape[2:]):
        raise ValueError(
            f"attention between channels needs keys and values like queries {tuple(q.shape)}, "
            f"not kv {tuple(kv.shape)}"
        )
    if max(inner, values) > WIDEST * heads:
        raise ValueError(f"heads have {inner // heads} and {values // heads} channels, over 64")
    return inner // heads, values // heads


def _channel_empty(q: Tensor, kv: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    heads, inner = temperature.shape[0], q.shape[1]
    width, chunks = inner // heads, _cut(q.shape[2] * q.shape[3])[0]
    wide = torch.promote_types(q.dtype, torch.float32)
    state = q.new_empty((q.shape[0], chunks, heads, width * width + 2 * width), dtype=wide)
    return _empty_map(q, inner), state


def _linear_empty(q: Tensor, kv: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    heads, inner = scale.shape[0], q.shape[1]
    width, values = inner // heads, kv.shape[1] - inner
    chunks, wide = _cut(kv.shape[2] * kv.shape[3])[0], torch.promote_types(q.dtype, torch.float32)
    size = width * (values // heads) + width
    state = q.new_empty((q.shape[0], chunks, heads, size), dtype=wide)
    return _empty_map(q, values), state


def _back_empty(
    dy: Tensor, q: Tensor, kv: Tensor, factors: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dfactors = factors.new_empty(factors.shape)
    return _empty_map(q, q.shape[1]), _empty_map(kv, kv.shape[1]), dfactors


def _launch_channel(q: Tensor, kv: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    width, _ = _widths(q, kv, temperature, square=True)
    y, state = _channel_empty(q, kv, temperature)
    if not y.numel():
        return y, state
    q, kv, temperature = _stored(q), _stored(kv), temperature.contiguous()
    heads, pixels = temperature.shape[0], q.shape[2] * q.shape[3]
    chunks, steps, block = _cut(pixels)
    sizes = _compiled(width, width, block, CHUNKS=chunks, STEPS=steps)
    grid = (q.shape[0] * chunks * heads,)
    if chunks > 1:
        _channel_state_kernel[grid](
            q, kv, state, *_strides(q), *_strides(kv), heads, pixels, **sizes
        )
    _channel_apply_kernel[grid](
        q, kv, temperature, state, y, *_strides(q), *_strides(kv),
        heads, pixels, WHOLE=chunks == 1, **sizes,
    )  # fmt: skip
    return y, state


def _launch_channel_back(
    dy: Tensor, q: Tensor, kv: Tensor, temperature: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    width, _ = _widths(q, kv, temperature, square=True)
    dq, dkv, dtemperature = _back_empty(dy, q, kv, temperature, state)
    if not dq.numel():
        return dq, dkv, dtemperature.zero_()
    dy, q, kv, temperature = (
        _stored(dy.to(q.dtype)),
        _stored(q),
        _stored(kv),
        temperature.contiguous(),
    )
    heads, pixels = temperature.shape[0], q.shape[2] * q.shape[3]
    chunks, steps, block = _cut(pixels)
    sizes = _compiled(width, width, block, CHUNKS=chunks, STEPS=steps)
    grid = (q.shape[0] * chunks * heads,)
    dstate, dt = state, state.new_empty((q.shape[0], heads))
    if chunks > 1:
        dstate = state.new_empty((q.shape[0], chunks, heads, width * width))
        _channel_back_state_kernel[grid](
            dy, kv, temperature, state, dkv, dstate, *_strides(dy), *_strides(kv),
            heads, pixels, **sizes,
        )  # fmt: skip
    _channel_back_apply_kernel[grid](
        dy, q, kv, temperature, state, dstate, dq, dkv, dt,
        *_strides(dy), *_strides(q), *_strides(kv),
        heads, pixels, WHOLE=chunks == 1, **sizes,
    )  # fmt: skip
    return dq, dkv, dtemperature.copy_(dt.sum(0))


def _launch_linear(q: Tensor, kv: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    widths = _widths(q, kv, scale, square=False)
    y, state = _linear_empty(q, kv, scale)
    if not y.numel():
        return y, state
    q, kv, scale = _stored(q), _stored(kv), scale.contiguous()
    heads, pixels, keys = scale.shape[0], q.shape[2] * q.shape[3], kv.shape[2] * kv.shape[3]
    (chunks, steps, block), (key_chunks, key_steps, key_block) = _cut(pixels), _cut(keys)
    values, others = {"VALUES": widths[1], "ROOM": _padded(widths[1])}, 0
    whole = chunks == key_chunks == 1
    if whole:
        block = max(block, key_block)
        steps, others = triton.cdiv(pixels, block), triton.cdiv(keys, block)
    else:
        _linear_state_kernel[(q.shape[0] * key_chunks * heads,)](
            kv, state, *_strides(kv), heads, keys, CHUNKS=key_chunks,
            **_compiled(*widths, key_block, STEPS=key_steps, **values),
        )  # fmt: skip
    _linear_apply_kernel[(q.shape[0] * chunks * heads,)](
        q, kv, scale, state, y, *_strides(q), *_strides(kv),
        heads, pixels, keys, CHUNKS=chunks, KEY_CHUNKS=key_chunks, WHOLE=whole,
        **_compiled(*widths, block, STEPS=steps, OTHER_STEPS=others, **values),
    )  # fmt: skip
    return y, state


def _launch_linear_back(
    dy: Tensor, q: Tensor, kv: Tensor, scale: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    widths = _widths(q, kv, scale, square=False)
    dq, dkv, dscale = _back_empty(dy, q, kv, scale, state)
    if not dq.numel():
        return dq, dkv, dscale.zero_()
    dy, q, kv, scale = _stored(dy.to(q.dtype)), _stored(q), _stored(kv), scale.contiguous()
    heads, pixels, keys = scale.shape[0], q.shape[2] * q.shape[3], kv.shape[2] * kv.shape[3]
    (chunks, steps, block), (key_chunks, key_steps, key_block) = _cut(pixels), _cut(keys)
    values, others = {"VALUES": widths[1], "ROOM": _padded(widths[1])}, 0
    whole = chunks == key_chunks == 1
    dstate, dt = state, state.new_empty((q.shape[0], heads))
    if whole:
        key_block = max(block, key_block)
        key_steps, others = triton.cdiv(keys, key_block), triton.cdiv(pixels, key_block)
    else:
        dstate = state.new_empty((q.shape[0], chunks, *state.shape[2:]))
        _linear_back_state_kernel[(q.shape[0] * chunks * heads,)](
            dy, q, scale, state, dq, dstate, *_strides(dy), *_strides(q),
            heads, pixels, CHUNKS=chunks, KEY_CHUNKS=key_chunks,
            **_compiled(*widths, block, STEPS=steps, **values),
        )  # fmt: skip
    _linear_back_apply_kernel[(q.shape[0] * key_chunks * heads,)](
        dy, q, kv, scale, state, dstate, dq, dkv, dt,
        *_strides(dy), *_strides(q), *_strides(kv),
        heads, pixels, keys, CHUNKS=key_chunks, QUERY_CHUNKS=chunks, WHOLE=whole,
        **_compiled(*widths, key_block, STEPS=key_steps, OTHER_STEPS=others, **values),
    )  # fmt: skip
    return dq, dkv, dscale.copy_(dt.sum(0))


# ---- operators


def _as(found: Tensor, empty: Tensor) -> Tensor:
    """What a definition has found, stored as a kernel would."""
    return empty.copy_(found)


def _define_channel(q: Tensor, kv: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    y, state = _channel_empty(q, kv, temperature)
    found = channel_attend_reference(q, kv, temperature)
    return _as(found, y), _as(_channel_state(q, kv, len(temperature)), state)


def _define_linear(q: Tensor, kv: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    y, state = _linear_empty(q, kv, scale)
    found = linear_attend_reference(q, kv, scale)
    return _as(found, y), _as(_linear_state(q, kv, len(scale)), state)


def _define_channel_back(*given: Tensor) -> tuple[Tensor, ...]:
    found = channel_attend_backward_reference(*given)
    return tuple(map(_as, found, _back_empty(*given)))


def _define_linear_back(*given: Tensor) -> tuple[Tensor, ...]:
    found = linear_attend_backward_reference(*given)
    return tuple(map(_as, found, _back_empty(*given)))


def _channel_flops(q: Any, kv: Any, temperature: Any, *, out_shape: Any = None, **_: Any) -> int:
    """Two products of d x d for each pixel and head."""
    count, inner, height, width = q
    return 2 * 2 * count * height * width * inner * (inner // temperature[0])


def _linear_flops(q: Any, kv: Any, scale: Any, *, out_shape: Any = None, **_: Any) -> int:
    """d x e for each key, d x (e + 1) for each query."""
    (count, inner, *sides), (_count, both, *key_sides), heads = q, kv, scale[0]
    values, queries, keys = (
        (both - inner) // heads,
        sides[0] * sides[1],
        key_sides[0] * key_sides[1],
    )
    return 2 * count * inner * (keys * values + queries * values + queries)


def _channel_back_flops(dy: Any, *given: Any, **_: Any) -> int:
    """Each product has two backward."""
    return 2 * _channel_flops(*given[:3])


def _linear_back_flops(dy: Any, *given: Any, **_: Any) -> int:
    """Each product has two backward."""
    return 2 * _linear_flops(*given[:3])


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _channel_gradients(ctx: Any, dy: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    return (None,) * 3 if dy is None else channel_attend_backward(dy, *ctx.saved_tensors)


def _linear_gradients(ctx: Any, dy: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    return (None,) * 3 if dy is None else linear_attend_backward(dy, *ctx.saved_tensors)


channel_attend_backward = register(
    "channel_attend_backward",
    "(Tensor dy, Tensor q, Tensor kv, Tensor temperature, Tensor state) "
    "-> (Tensor, Tensor, Tensor)",
    launch=_launch_channel_back,
    reference=_define_channel_back,
    fake=_back_empty,
    flops=_channel_back_flops,
)

channel_attend = register(
    "channel_attend",
    "(Tensor q, Tensor kv, Tensor temperature) -> (Tensor y, Tensor state)",
    launch=_launch_channel,
    reference=_define_channel,
    fake=_channel_empty,
    flops=_channel_flops,
    backward=_channel_gradients,
    setup_context=_keep,
)

linear_attend_backward = register(
    "linear_attend_backward",
    "(Tensor dy, Tensor q, Tensor kv, Tensor scale, Tensor state) -> (Tensor, Tensor, Tensor)",
    launch=_launch_linear_back,
    reference=_define_linear_back,
    fake=_back_empty,
    flops=_linear_back_flops,
)

linear_attend = register(
    "linear_attend",
    "(Tensor q, Tensor kv, Tensor scale) -> (Tensor y, Tensor state)",
    launch=_launch_linear,
    reference=_define_linear,
    fake=_linear_empty,
    flops=_linear_flops,
    backward=_linear_gradients,
    setup_context=_keep,
)

# ---- modules


def _served(q: Tensor, kv: Tensor, widest: int) -> bool:
    """Whether a kernel is good for these, and for heads of so many channels. Products in float32 do
    without tensor cores and would not leave registers enough for wide heads."""
    most = {torch.bfloat16: WIDEST, torch.float32: WIDEST // 2}
    return kv.dtype == q.dtype and widest <= most.get(q.dtype, 0)


class KernelChannelAttend(ChannelAttend):
    """`ChannelAttend` by the kernel."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        return True  # its forward sees how wide heads are

    def forward(self, q: Tensor, kv: Tensor, bias: None = None) -> Tensor:
        queries, both = autocast(q, kv)
        assert queries is not None
        assert both is not None
        if not _served(queries, both, q.shape[1] // self.heads):
            return super().forward(q, kv, bias)
        return channel_attend(queries, both, self.temperature)[0]


class KernelLinearAttend(LinearAttend):
    """`LinearAttend` by the kernel."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        assert isinstance(module, LinearAttend)
        return module.width <= WIDEST  # its forward sees how wide values are

    def forward(self, q: Tensor, kv: Tensor, bias: None = None) -> Tensor:
        queries, both = autocast(q, kv)
        assert queries is not None
        assert both is not None
        widest = max(q.shape[1], kv.shape[1] - q.shape[1]) // self.heads
        if not _served(queries, both, widest):
            return super().forward(q, kv, bias)
        return linear_attend(queries, both, self.scale)[0]


TWINS: dict[type[nn.Module], type[nn.Module]] = {
    ChannelAttend: KernelChannelAttend,
    LinearAttend: KernelLinearAttend,
}

# ---- ahead of time


def _variants() -> list[Variant]:
    """Every kernel in bfloat16 with heads of 32 channels, and those that do all for maps of one
    chunk with others. 56 x 56 pixels are four chunks of 13 steps, 14 x 14 four steps."""
    floats = ("state", "dstate", "dt", "dscale", "temperature", "scale")

    def variant(kernel: Any, width: int, label: str, dtype: str = "bf16", **more: Any) -> Variant:
        constants = dict.fromkeys(("CHUNKS", "KEY_CHUNKS", "QUERY_CHUNKS"), 4)
        constants |= {"STEPS": 13, "OTHER_STEPS": 0, "VALUES": width, "ROOM": _padded(width)}
        constants |= {"WIDTH": width, "PADDED": _padded(width), "BLOCK": BLOCK, **more}
        constants = {key: constants[key] for key in kernel.arg_names if key in constants}
        signature = {
            name: "*fp32" if name in floats else f"*{dtype}" if len(name) < 4 else "i32"
            for name in kernel.arg_names
            if name not in constants
        }
        warps = _warps(BLOCK, width)
        return Variant(kernel, signature, constants, warps=warps, stages=3, label=label)

    passes = [_channel_apply_kernel, _channel_back_apply_kernel]
    passes += [_linear_apply_kernel, _linear_back_apply_kernel]
    found = [
        variant(_channel_state_kernel, 32, "32, chunks"),
        variant(_channel_back_state_kernel, 32, "32, chunks"),
        variant(_linear_state_kernel, 32, "32, chunks"),
        variant(_linear_back_state_kernel, 32, "32, chunks"),
    ]
    one: dict[str, Any] = dict.fromkeys(("CHUNKS", "KEY_CHUNKS", "QUERY_CHUNKS"), 1)
    one |= {"WHOLE": True, "STEPS": 4, "OTHER_STEPS": 4}
    for kernel in passes:
        found.append(variant(kernel, 32, "32, chunks", WHOLE=False))
        found += [
            variant(kernel, width, f"{width}, whole", **one) for width in (16, 24, 32, 48, 64)
        ]
        found.append(variant(kernel, 32, "32, whole, float32", "fp32", **one))
    return found


VARIANTS = _variants()
