"""Attention inside windows of a map, read where its pixels lie: nothing is cut out or joined.

One program does some windows of one head. It computes where the pixels of a window lie in the maps
of queries and of keys with values, and writes its results to the same places. Scores never leave
it; the backward pass makes them anew, and adds up in a fixed order what several programs have part
in, so that each run gives the same.
Sources: windows and shifted windows, Swin (Liu et al., 2021, arXiv 2103.14030, section 3.2); grid,
MaxViT (Tu et al., 2022, arXiv 2204.01697, section 3.2); blocks with a halo, HaloNet (Vaswani et
al., 2021, arXiv 2103.12731, section 2.2); scores made anew, FlashAttention (Dao et al., 2022,
arXiv 2205.14135, section 3.1).

Shapes: N images, h heads of d channels in queries and keys and e in values; q (N, h * d, H, W), kv
(N, h * (d + e), H', W'), the keys in front of the values, the heads running slowest in each; B
windows, those of an image one behind the other, with T queries and S keys each; bias (1, h, T, S)
for all of them or (B, h, T, S) for each one. Maps are stored channels last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from space.attention_layers import (
    AttendMap,
    ClosedProjection,
    HaloAttention,
    HaloBlocks,
    ShiftedWindowAttention,
    ShiftedWindows,
    SpreadWindows,
    TablePosition,
    Times,
    WindowAttention,
    Windows,
)
from space.layers import Affine, LayerNorm2d, Pointwise
from space.settings import ACTIVATIONS
from supernet.kernels import twins
from supernet.kernels.registration import Variant, interpreted, register

MOST_TOKENS = 256  # queries or keys of a window
MOST_WIDTH = 64  # channels of a head
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

INTERPRETED = tl.constexpr(interpreted())
NEAR, SPREAD, HALO = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # KIND of windows
LOWEST = tl.constexpr(-1e30)  # below all scores, but no infinity, of which differences are NaN
NONE, SHARED, EACH = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # BIAS: of whom


# ---- where windows lie


@dataclass(frozen=True, slots=True)
class Places:
    """How windows lie in maps of `height` x `width` queries and `key_height` x `key_width` keys.

    `down` x `across` windows have `rows` x `columns` queries and `key_rows` x `key_columns` keys.
    The map is moved `up` and `left`; what leaves at one side comes back at the other.
    """

    kind: int
    height: int
    width: int
    key_height: int
    key_width: int
    rows: int
    columns: int
    key_rows: int
    key_columns: int
    down: int
    across: int
    up: int = 0
    left: int = 0
    halo: int = 0
    stride: int = 1

    @property
    def queries(self) -> int:
        return self.rows * self.columns

    @property
    def keys(self) -> int:
        return self.key_rows * self.key_columns

    @property
    def windows(self) -> int:
        return self.down * self.across

    @property
    def shifted(self) -> bool:
        return self.up > 0 or self.left > 0

    def arguments(self) -> tuple[int, ...]:
        """What all kernels are told, in their order."""
        return (
            self.height, self.width, self.key_height, self.key_width, self.rows, self.columns,
            self.key_rows, self.key_columns, self.down, self.across, self.up, self.left,
            self.halo, self.stride,
        )  # fmt: skip


def window_places(
    q: Tensor, kv: Tensor, rows: int, columns: int, up: int, left: int, spread: bool
) -> Places:
    """ValueError where windows do not divide the map, or are both moved and spread."""
    height, width = q.shape[2:]
    if height % rows or width % columns or kv.shape[2:] != q.shape[2:]:
        raise ValueError(
            f"windows of {rows}x{columns} do not divide maps of {height}x{width} queries and "
            f"{kv.shape[2]}x{kv.shape[3]} keys"
        )
    if not (0 <= up < height and 0 <= left < width) or (spread and (up or left)):
        raise ValueError(
            f"windows of a map of {height}x{width} cannot move {up} up and {left} left"
            + (" where they are spread" if spread else "")
        )
    kind = SPREAD.value if spread else NEAR.value
    down, across = height // rows, width // columns
    sides = (height, width, height, width, rows, columns, rows, columns)
    return Places(kind, *sides, down, across, up, left)


def halo_places(q: Tensor, kv: Tensor, rows: int, columns: int, halo: int, stride: int) -> Places:
    """ValueError where there is not one query for each `stride` keys along a side."""
    height, width = q.shape[2:]
    key_height, key_width = kv.shape[2:]
    if (height, width) != (-(-key_height // stride), -(-key_width // stride)):
        raise ValueError(
            f"{height}x{width} queries are not one for each {stride} of "
            f"{key_height}x{key_width} keys along a side"
        )
    sides = (rows, columns, stride * rows + 2 * halo, stride * columns + 2 * halo)
    down, across = -(-height // rows), -(-width // columns)
    maps = (height, width, key_height, key_width)
    return Places(HALO.value, *maps, *sides, down, across, halo=halo, stride=stride)


def _check(q: Tensor, kv: Tensor, bias: Tensor | None, heads: int, places: Places) -> None:
    """ValueError where the shapes do not go together."""
    if q.shape[1] % heads or (kv.shape[1] - q.shape[1]) % heads or kv.shape[1] <= q.shape[1]:
        raise ValueError(f"{q.shape[1]} and {kv.shape[1]} channels are not those of {heads} heads")
    if kv.shape[0] != q.shape[0] or kv.dtype != q.dtype:
        raise ValueError(f"q is {q.shape[0]} {q.dtype}, kv {kv.shape[0]} {kv.dtype}")
    if bias is not None:
        wanted = (heads, places.queries, places.keys)
        if bias.shape[1:] != wanted or bias.shape[0] not in (1, len(q) * places.windows):
            raise ValueError(f"the bias is {tuple(bias.shape)}, not one or each of {wanted}")


# ---- the definition


def _indices(places: Places, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """The pixels of each window that ask, (windows, T), and are asked, (windows, S); H * W and
    H' * W' stand for what lies outside of the map. What sees what, (windows, T, S), None for all.
    """

    def along(windows: int, pixels: int, step: int, apart: int, start: int) -> Tensor:
        window, pixel = (torch.arange(count, device=device) for count in (windows, pixels))
        return window[:, None] * step + pixel * apart + start

    def both(down: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """For each window and pixel the row and the column."""
        y, x = torch.broadcast_tensors(down[:, None, :, None], right[None, :, None, :])
        return y.flatten(2).flatten(0, 1), x.flatten(2).flatten(0, 1)

    def flat(y: Tensor, x: Tensor, height: int, width: int) -> Tensor:
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        return torch.where(inside, y * width + x, height * width)

    if places.kind == HALO.value:
        asking = both(
            along(places.down, places.rows, places.rows, 1, 0),
            along(places.across, places.columns, places.columns, 1, 0),
        )
        asked = both(
            along(places.down, places.key_rows, places.stride * places.rows, 1, -places.halo),
            along(
                places.across, places.key_columns, places.stride * places.columns, 1, -places.halo
            ),
        )
        return (
            flat(*asking, places.height, places.width),
            flat(*asked, places.key_height, places.key_width),
            None,
        )
    if places.kind == SPREAD.value:
        y, x = both(
            along(places.down, places.rows, 1, places.down, 0),
            along(places.across, places.columns, 1, places.across, 0),
        )
    else:
        y, x = both(
            along(places.down, places.rows, places.rows, 1, places.up),
            along(places.across, places.columns, places.columns, 1, places.left),
        )
    below, right = y >= places.height, x >= places.width
    index = flat(y % places.height, x % places.width, places.height, places.width)
    piece = 2 * below + right.to(torch.long)
    seen = piece[:, :, None] == piece[:, None] if places.shifted else None
    return index, index, seen


def _gathered(x: Tensor, index: Tensor, heads: int) -> Tensor:
    """(N, C, H, W) to (N, windows, pixels, heads, channels), in float32 or better."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    pixels = F.pad(x.permute(0, 2, 3, 1).flatten(1, 2), (0, 0, 0, 1))
    return pixels[:, index].unflatten(3, (heads, -1))


def _scattered(y: Tensor, index: Tensor, height: int, width: int) -> Tensor:
    """The transpose of `_gathered`."""
    y = y.flatten(3).flatten(1, 2)
    pixels = y.new_zeros(len(y), height * width + 1, y.shape[2])
    pixels = pixels.index_add(1, index.flatten(), y)[:, :-1]
    return pixels.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def _softmax(q: Tensor, k: Tensor, bias: Tensor | None, seen: Tensor | None) -> Tensor:
    """Weights (N, windows, h, T, S)."""
    scores = torch.einsum("nwthd,nwshd->nwhts", q, k) * q.shape[-1] ** -0.5
    if bias is not None:
        windows = q.shape[1] if len(bias) == q.shape[0] * q.shape[1] else 1
        scores = scores + bias.to(scores.dtype).unflatten(0, (-1, windows))
    if seen is not None:
        scores = scores.masked_fill(~seen[:, None], -torch.inf)
    return scores.softmax(-1)


def _reference(q: Tensor, kv: Tensor, bias: Tensor | None, heads: int, places: Places) -> Tensor:
    _check(q, kv, bias, heads, places)
    asking, asked, seen = _indices(places, q.device)
    keys, values = kv[:, : q.shape[1]], kv[:, q.shape[1] :]
    weights = _softmax(_gathered(q, asking, heads), _gathered(keys, asked, heads), bias, seen)
    y = torch.einsum("nwhts,nwshe->nwthe", weights, _gathered(values, asked, heads))
    y = _scattered(y, asking, *q.shape[2:])
    return y.to(q.dtype).contiguous(memory_format=torch.channels_last)


def _backward_reference(
    dy: Tensor,
    q: Tensor,
    kv: Tensor,
    bias: Tensor | None,
    heads: int,
    places: Places,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, kv and the bias; the last has no elements unless `needs_bias`."""
    _check(q, kv, bias, heads, places)
    asking, asked, seen = _indices(places, q.device)
    queries, keys = _gathered(q, asking, heads), _gathered(kv[:, : q.shape[1]], asked, heads)
    values, dys = _gathered(kv[:, q.shape[1] :], asked, heads), _gathered(dy, asking, heads)
    weights = _softmax(queries, keys, bias, seen)
    dvalues = torch.einsum("nwhts,nwthe->nwshe", weights, dys)
    dweights = torch.einsum("nwthe,nwshe->nwhts", dys, values)
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdim=True))
    scale = queries.shape[-1] ** -0.5
    dqueries = torch.einsum("nwhts,nwshd->nwthd", dscores, keys) * scale
    dkeys = torch.einsum("nwhts,nwthd->nwshd", dscores, queries) * scale
    dq = _scattered(dqueries, asking, *q.shape[2:])
    dkv = torch.cat([_scattered(x, asked, *kv.shape[2:]) for x in (dkeys, dvalues)], 1)
    dbias = q.new_empty(0)
    if bias is not None and needs_bias:
        dbias = dscores.flatten(0, 1).sum_to_size(bias.shape).to(bias.dtype)
    dq, dkv = (x.to(q.dtype).contiguous(memory_format=torch.channels_last) for x in (dq, dkv))
    return dq, dkv, dbias


def window_attention_reference(
    q: Tensor,
    kv: Tensor,
    bias: Tensor | None,
    heads: int,
    rows: int,
    columns: int,
    up: int,
    left: int,
    spread: bool,
) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v in each window of `rows` x `columns` pixels, to
    (N, h * e, H, W): `space.attention_layers.Windows`; of `ShiftedWindows` where `up` or `left`
    are not 0, where pixels of a window that do not touch do not see one another; of
    `SpreadWindows` where `spread`. Scores and sums in float32 or better, the result as q.

    ValueError where windows do not divide the map.
    """
    places = window_places(q, kv, rows, columns, up, left, spread)
    return _reference(q, kv, bias, heads, places)


def halo_attention_reference(
    q: Tensor,
    kv: Tensor,
    bias: Tensor | None,
    heads: int,
    rows: int,
    columns: int,
    halo: int,
    stride: int,
) -> Tensor:
    """The same for `space.attention_layers.HaloBlocks`: blocks of `rows` x `columns` queries, one
    for each `stride` keys along a side, see the keys below them and `halo` more on each side.
    Outside of the map keys and values are zero, and are seen."""
    return _reference(q, kv, bias, heads, halo_places(q, kv, rows, columns, halo, stride))


# ---- kernels
#
# `places` is what `Places.arguments` gives, and behind it the number of windows of all images.


@triton.jit
def _dot(a, b):
    """a @ b in float32; of float32 without tensor cores, which would round to 10 bits."""
    if INTERPRETED:  # it takes bfloat16 for whole numbers
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _asking(window, token, places, KIND: tl.constexpr):
    """Of the queries `token` of a window: the pixel of each, whether there is one, and the piece
    of the map that it comes from, where windows were moved."""
    height, width, _, _, rows, columns, _, _, down, across, up, left, _, _, windows = places
    i, j = token // columns, token % columns
    window_down, window_right = (window // across) % down, window % across
    if KIND == SPREAD:
        y, x = i * down + window_down, j * across + window_right
    else:
        y, x = window_down * rows + i + up, window_right * columns + j + left
    limit = tl.where(window < windows, rows * columns, 0)  # nothing behind the last window
    exists = token < limit
    if KIND == HALO:  # blocks reach beyond the map
        exists = exists & (y < height) & (x < width)
    below, right = (y >= height).to(tl.int32), (x >= width).to(tl.int32)
    return (y - below * height) * width + x - right * width, exists, 2 * below + right


@triton.jit
def _asked(window, token, places, KIND: tl.constexpr):
    """The same of the keys `token` of a window."""
    if KIND == HALO:
        _, _, height, width, rows, columns, key_rows, key_columns, down, across, _, _, halo, stride, windows = places  # fmt: skip  # noqa: E501
        y = (window // across) % down * stride * rows + token // key_columns - halo
        x = window % across * stride * columns + token % key_columns - halo
        limit = tl.where(window < windows, key_rows * key_columns, 0)
        exists = (token < limit) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        pixel, piece = y * width + x, token
    else:
        pixel, exists, piece = _asking(window, token, places, KIND)
    return pixel, exists, piece


@triton.jit
def _starts(window, head, heads, places, HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr):
    """Where a head of the image of a window begins in q, in keys, in values and in the result."""
    height, width, key_height, key_width, _, _, _, _, down, across, _, _, _, _, _ = places
    image = (window // (down * across)).to(tl.int64)
    inner, outer = heads * HEAD_DIM, heads * VALUE_DIM
    asking = image * (height * width * inner) + head * HEAD_DIM
    keys = image * (key_height * key_width * (inner + outer)) + head * HEAD_DIM
    values = image * (key_height * key_width * (inner + outer)) + inner + head * VALUE_DIM
    return asking, keys, values, image * (height * width * outer) + head * VALUE_DIM


@triton.jit
def _tile(pointer, pixel, exists, per_pixel, channel, WIDTH: tl.constexpr):
    """Channels of some pixels of an image, zero where there are none: (pixels, channels)."""
    offsets = pixel[:, None] * per_pixel + channel[None, :]
    mask = exists[:, None] & (channel < WIDTH)[None, :]
    return tl.load(pointer + offsets, mask=mask, other=0.0)


@triton.jit
def _put(pointer, pixel, exists, per_pixel, channel, values, WIDTH: tl.constexpr):
    """Writes what `_tile` reads."""
    offsets = pixel[:, None] * per_pixel + channel[None, :]
    mask = exists[:, None] & (channel < WIDTH)[None, :]
    tl.store(pointer + offsets, values.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _put_keys(
    dkv, window, start, own_start, s, pixel, exists, per_key, channel, values, places,
    KIND: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Writes gradients of keys or values to the map, or where blocks overlap to places of the
    block's own."""
    if KIND == HALO:
        _, _, _, _, _, _, key_rows, key_columns, _, _, _, _, _, _, windows = places
        keys = key_rows * key_columns
        limit = tl.where(window < windows, keys, 0)
        own = dkv + window.to(tl.int64) * keys * per_key + own_start
        _put(own, s, s < limit, per_key, channel, values, WIDTH)
    else:
        _put(dkv + start, pixel, exists, per_key, channel, values, WIDTH)


@triton.jit
def _shared(bias, head, t, s, FILLED_T: tl.constexpr, FILLED_S: tl.constexpr):
    """What all windows add to the scores of one head, of a bias filled up to whole tiles."""
    place = (head * FILLED_T + t)[:, None] * FILLED_S + s[None, :]
    return tl.load(bias + place).to(tl.float32)


@triton.jit
def _own(bias, window, head, heads, t, s, places):
    """Where the bias of one window and head begins in (B, h, T, S), where each number of it lies
    behind that, and which exist. Instead of others the last is meant: reading without a mask takes
    half the registers."""
    _, _, _, _, rows, columns, key_rows, key_columns, _, _, _, _, _, _, windows = places
    queries, keys = rows * columns, key_rows * key_columns
    own = (tl.minimum(window, windows - 1).to(tl.int64) * heads + head) * queries * keys
    place = tl.minimum(t, queries - 1)[:, None] * keys + tl.minimum(s, keys - 1)[None, :]
    limit = tl.where(window < windows, queries, 0)
    return bias + own, place, (t < limit)[:, None] & (s < keys)[None, :]


@triton.jit
def _scores(
    q, k, bias, window, head, heads, t, s, t_piece, s_piece, places,
    SHIFTED: tl.constexpr, BIAS: tl.constexpr, SCALE: tl.constexpr,
    FILLED_T: tl.constexpr, FILLED_S: tl.constexpr,
):  # fmt: skip
    """Scores with their bias, minus infinity where a key is not seen. Rows behind the last query
    see all keys: they are not used, but nothing may become NaN in them."""
    _, _, _, _, rows, columns, key_rows, key_columns, _, _, _, _, _, _, _ = places
    scores = _dot(q, tl.trans(k)) * SCALE
    if BIAS == SHARED:
        scores += _shared(bias, head, t, s, FILLED_T, FILLED_S)
    if BIAS == EACH:
        own, place, _exists = _own(bias, window, head, heads, t, s, places)
        scores += tl.load(own + place).to(tl.float32)
    seen = (s < key_rows * key_columns)[None, :]
    if SHIFTED:
        seen = seen & ((t_piece[:, None] == s_piece[None, :]) | (t >= rows * columns)[:, None])
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def _forward_kernel(
    q, kv, bias, out, heads, groups,
    height, width, key_height, key_width, rows, columns, key_rows, key_columns,
    down, across, up, left, halo, stride, windows,
    KIND: tl.constexpr, SHIFTED: tl.constexpr, BIAS: tl.constexpr, SCALE: tl.constexpr,
    HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, STEPS: tl.constexpr,
    BLOCKS: tl.constexpr, KEY_BLOCKS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """A program does BLOCK_T queries, one of BLOCKS, of one head in STEPS windows, `groups` apart:
    windows that lie side by side are done at the same time. Softmax goes through the keys once, in
    KEY_BLOCKS of BLOCK_S (Milakov and Gimelshein, 2018, arXiv 1805.02867)."""
    places = (
        height, width, key_height, key_width, rows, columns, key_rows, key_columns,
        down, across, up, left, halo, stride, windows,
    )  # fmt: skip
    FILLED_T: tl.constexpr = BLOCKS * BLOCK_T
    FILLED_S: tl.constexpr = KEY_BLOCKS * BLOCK_S
    ONCE: tl.constexpr = BIAS == SHARED and KEY_BLOCKS == 1  # the bias is read once
    LATER: tl.constexpr = NONE if ONCE else BIAS
    program = tl.program_id(0)
    head = program % heads
    t = (program // heads) % BLOCKS * BLOCK_T + tl.arange(0, BLOCK_T)
    first = program // heads // BLOCKS
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_E)
    per_key = heads * (HEAD_DIM + VALUE_DIM)
    if ONCE:
        added = _shared(bias, head, t, tl.arange(0, BLOCK_S), FILLED_T, FILLED_S)
    for step in range(STEPS):
        window = first + step * groups
        asking, key, value, answer = _starts(window, head, heads, places, HEAD_DIM, VALUE_DIM)
        t_pixel, t_exists, t_piece = _asking(window, t, places, KIND)
        queried = _tile(q + asking, t_pixel, t_exists, heads * HEAD_DIM, d, HEAD_DIM)
        most = tl.full([BLOCK_T], LOWEST, dtype=tl.float32)
        total = tl.zeros([BLOCK_T], dtype=tl.float32)
        y = tl.zeros([BLOCK_T, BLOCK_E], dtype=tl.float32)
        for block in range(KEY_BLOCKS):
            s = block * BLOCK_S + tl.arange(0, BLOCK_S)
            s_pixel, s_exists, s_piece = _asked(window, s, places, KIND)
            k = _tile(kv + key, s_pixel, s_exists, per_key, d, HEAD_DIM)
            v = _tile(kv + value, s_pixel, s_exists, per_key, e, VALUE_DIM)
            scores = _scores(
                queried, k, bias, window, head, heads, t, s, t_piece, s_piece, places,
                SHIFTED, LATER, SCALE, FILLED_T, FILLED_S,
            )  # fmt: skip
            if ONCE:
                scores += added
            highest = tl.maximum(most, tl.max(scores, 1))
            weights = tl.exp(scores - highest[:, None])
            kept = tl.exp(most - highest)
            total = total * kept + tl.sum(weights, 1)
            y = y * kept[:, None] + _dot(weights.to(v.dtype), v)
            most = highest
        y = y / total[:, None]
        _put(out + answer, t_pixel, t_exists, heads * VALUE_DIM, e, y, VALUE_DIM)


@triton.jit
def _backward_kernel(
    dy, q, kv, bias, dq, dkv, dbias, heads, groups,
    height, width, key_height, key_width, rows, columns, key_rows, key_columns,
    down, across, up, left, halo, stride, windows,
    KIND: tl.constexpr, SHIFTED: tl.constexpr, BIAS: tl.constexpr, DBIAS: tl.constexpr,
    SCALE: tl.constexpr, HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, STEPS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """All gradients of windows with T <= BLOCK_T and S <= BLOCK_S: a program does one head in STEPS
    windows, `groups` apart.

    Keys of blocks with a halo overlap: their gradients go to dkv (B, S, h * (d + e)), for
    `_overlap_kernel`. The gradient of a bias that each window has goes to dbias (B, h, T, S); one
    that they share is summed over a program's windows, to (groups, h, BLOCK_T, BLOCK_S).
    """
    places = (
        height, width, key_height, key_width, rows, columns, key_rows, key_columns,
        down, across, up, left, halo, stride, windows,
    )  # fmt: skip
    program = tl.program_id(0)
    head = program % heads
    first = program // heads
    t = tl.arange(0, BLOCK_T)
    s = tl.arange(0, BLOCK_S)
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_E)
    per_key = heads * (HEAD_DIM + VALUE_DIM)
    own_value = heads * HEAD_DIM + head * VALUE_DIM
    if DBIAS == SHARED:
        gathered = tl.zeros([BLOCK_T, BLOCK_S], dtype=tl.float32)
    for step in range(STEPS):
        window = first + step * groups
        asking, key, value, answer = _starts(window, head, heads, places, HEAD_DIM, VALUE_DIM)
        t_pixel, t_exists, t_piece = _asking(window, t, places, KIND)
        s_pixel, s_exists, s_piece = _asked(window, s, places, KIND)
        queried = _tile(q + asking, t_pixel, t_exists, heads * HEAD_DIM, d, HEAD_DIM)
        k = _tile(kv + key, s_pixel, s_exists, per_key, d, HEAD_DIM)
        v = _tile(kv + value, s_pixel, s_exists, per_key, e, VALUE_DIM)
        dys = _tile(dy + answer, t_pixel, t_exists, heads * VALUE_DIM, e, VALUE_DIM)
        scores = _scores(
            queried, k, bias, window, head, heads, t, s, t_piece, s_piece, places,
            SHIFTED, BIAS, SCALE, BLOCK_T, BLOCK_S,
        )  # fmt: skip
        weights = tl.exp(scores - tl.max(scores, 1)[:, None])
        weights = weights / tl.sum(weights, 1)[:, None]
        dv = _dot(tl.trans(weights.to(dys.dtype)), dys)
        _put_keys(dkv, window, value, own_value, s, s_pixel, s_exists, per_key, e, dv, places,
                  KIND, VALUE_DIM)  # fmt: skip
        dweights = _dot(dys, tl.trans(v))
        dscores = weights * (dweights - tl.sum(weights * dweights, 1)[:, None])
        if DBIAS == SHARED:
            gathered += dscores
        if DBIAS == EACH:
            own, place, mask = _own(dbias, window, head, heads, t, s, places)
            tl.store(own + place, dscores.to(dbias.dtype.element_ty), mask=mask)
        rounded = dscores.to(k.dtype)
        dqueried = _dot(rounded, k) * SCALE
        _put(dq + asking, t_pixel, t_exists, heads * HEAD_DIM, d, dqueried, HEAD_DIM)
        dk = _dot(tl.trans(rounded), queried) * SCALE
        _put_keys(dkv, window, key, head * HEAD_DIM, s, s_pixel, s_exists, per_key, d, dk, places,
                  KIND, HEAD_DIM)  # fmt: skip
    if DBIAS == SHARED:
        place = (program * BLOCK_T + t)[:, None] * BLOCK_S + s[None, :]
        tl.store(dbias + place, gathered)


@triton.jit
def _query_backward_kernel(
    dy, q, kv, bias, dq, dbias, norms, means, heads, groups,
    height, width, key_height, key_width, rows, columns, key_rows, key_columns,
    down, across, up, left, halo, stride, windows,
    KIND: tl.constexpr, SHIFTED: tl.constexpr, BIAS: tl.constexpr, DBIAS: tl.constexpr,
    SCALE: tl.constexpr, HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, STEPS: tl.constexpr,
    BLOCKS: tl.constexpr, KEY_BLOCKS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Of larger windows the gradients of BLOCK_T queries, one of BLOCKS, of one head in STEPS
    windows, `groups` apart, and of a bias where DBIAS is EACH.

    For the two kernels below it writes, each (B, h, T), the logarithms `norms` of the sums of
    exponentials, and `means`, by its weights, of the gradients of the weights of a query.
    """
    places = (
        height, width, key_height, key_width, rows, columns, key_rows, key_columns,
        down, across, up, left, halo, stride, windows,
    )  # fmt: skip
    FILLED_T: tl.constexpr = BLOCKS * BLOCK_T
    FILLED_S: tl.constexpr = KEY_BLOCKS * BLOCK_S
    program = tl.program_id(0)
    head = program % heads
    t = (program // heads) % BLOCKS * BLOCK_T + tl.arange(0, BLOCK_T)
    first = program // heads // BLOCKS
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_E)
    per_key = heads * (HEAD_DIM + VALUE_DIM)
    for step in range(STEPS):
        window = first + step * groups
        asking, key, value, answer = _starts(window, head, heads, places, HEAD_DIM, VALUE_DIM)
        t_pixel, t_exists, t_piece = _asking(window, t, places, KIND)
        queried = _tile(q + asking, t_pixel, t_exists, heads * HEAD_DIM, d, HEAD_DIM)
        dys = _tile(dy + answer, t_pixel, t_exists, heads * VALUE_DIM, e, VALUE_DIM)
        most = tl.full([BLOCK_T], LOWEST, dtype=tl.float32)
        total = tl.zeros([BLOCK_T], dtype=tl.float32)
        mean = tl.zeros([BLOCK_T], dtype=tl.float32)
        for block in range(KEY_BLOCKS):
            s = block * BLOCK_S + tl.arange(0, BLOCK_S)
            s_pixel, s_exists, s_piece = _asked(window, s, places, KIND)
            k = _tile(kv + key, s_pixel, s_exists, per_key, d, HEAD_DIM)
            v = _tile(kv + value, s_pixel, s_exists, per_key, e, VALUE_DIM)
            scores = _scores(
                queried, k, bias, window, head, heads, t, s, t_piece, s_piece, places,
                SHIFTED, BIAS, SCALE, FILLED_T, FILLED_S,
            )  # fmt: skip
            highest = tl.maximum(most, tl.max(scores, 1))
            weights = tl.exp(scores - highest[:, None])
            kept = tl.exp(most - highest)
            total = total * kept + tl.sum(weights, 1)
            mean = mean * kept + tl.sum(weights * _dot(dys, tl.trans(v)), 1)
            most = highest
        norm = most + tl.log(total)
        mean = mean / total
        dqueried = tl.zeros([BLOCK_T, BLOCK_D], dtype=tl.float32)
        for block in range(KEY_BLOCKS):
            s = block * BLOCK_S + tl.arange(0, BLOCK_S)
            s_pixel, s_exists, s_piece = _asked(window, s, places, KIND)
            k = _tile(kv + key, s_pixel, s_exists, per_key, d, HEAD_DIM)
            v = _tile(kv + value, s_pixel, s_exists, per_key, e, VALUE_DIM)
            scores = _scores(
                queried, k, bias, window, head, heads, t, s, t_piece, s_piece, places,
                SHIFTED, BIAS, SCALE, FILLED_T, FILLED_S,
            )  # fmt: skip
            weights = tl.exp(scores - norm[:, None])
            dscores = weights * (_dot(dys, tl.trans(v)) - mean[:, None])
            if DBIAS == EACH:
                own, place, mask = _own(dbias, window, head, heads, t, s, places)
                tl.store(own + place, dscores.to(dbias.dtype.element_ty), mask=mask)
            dqueried += _dot(dscores.to(k.dtype), k)
        _put(dq + asking, t_pixel, t_exists, heads * HEAD_DIM, d, dqueried * SCALE, HEAD_DIM)
        row = (window.to(tl.int64) * heads + head) * (rows * columns) + t
        limit = tl.where(window < windows, rows * columns, 0)
        tl.store(norms + row, norm, mask=t < limit)
        tl.store(means + row, mean, mask=t < limit)


@triton.jit
def _key_backward_kernel(
    dy, q, kv, bias, dkv, norms, means, heads, groups,
    height, width, key_height, key_width, rows, columns, key_rows, key_columns,
    down, across, up, left, halo, stride, windows,
    KIND: tl.constexpr, SHIFTED: tl.constexpr, BIAS: tl.constexpr,
    SCALE: tl.constexpr, HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, STEPS: tl.constexpr,
    BLOCKS: tl.constexpr, KEY_BLOCKS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Of larger windows the gradients of BLOCK_S keys and values, one of KEY_BLOCKS, of one head in
    STEPS windows, `groups` apart, to where `_backward_kernel` writes them."""
    places = (
        height, width, key_height, key_width, rows, columns, key_rows, key_columns,
        down, across, up, left, halo, stride, windows,
    )  # fmt: skip
    FILLED_T: tl.constexpr = BLOCKS * BLOCK_T
    FILLED_S: tl.constexpr = KEY_BLOCKS * BLOCK_S
    program = tl.program_id(0)
    head = program % heads
    s = (program // heads) % KEY_BLOCKS * BLOCK_S + tl.arange(0, BLOCK_S)
    first = program // heads // KEY_BLOCKS
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_E)
    per_key = heads * (HEAD_DIM + VALUE_DIM)
    own_value = heads * HEAD_DIM + head * VALUE_DIM
    for step in range(STEPS):
        window = first + step * groups
        asking, key, value, answer = _starts(window, head, heads, places, HEAD_DIM, VALUE_DIM)
        s_pixel, s_exists, s_piece = _asked(window, s, places, KIND)
        k = _tile(kv + key, s_pixel, s_exists, per_key, d, HEAD_DIM)
        v = _tile(kv + value, s_pixel, s_exists, per_key, e, VALUE_DIM)
        row = (window.to(tl.int64) * heads + head) * (rows * columns)
        limit = tl.where(window < windows, rows * columns, 0)
        dk = tl.zeros([BLOCK_S, BLOCK_D], dtype=tl.float32)
        dv = tl.zeros([BLOCK_S, BLOCK_E], dtype=tl.float32)
        for block in range(BLOCKS):
            t = block * BLOCK_T + tl.arange(0, BLOCK_T)
            t_pixel, t_exists, t_piece = _asking(window, t, places, KIND)
            queried = _tile(q + asking, t_pixel, t_exists, heads * HEAD_DIM, d, HEAD_DIM)
            dys = _tile(dy + answer, t_pixel, t_exists, heads * VALUE_DIM, e, VALUE_DIM)
            scores = _scores(
                queried, k, bias, window, head, heads, t, s, t_piece, s_piece, places,
                SHIFTED, BIAS, SCALE, FILLED_T, FILLED_S,
            )  # fmt: skip
            # Behind the last query: weights that are 0, not those of rows that do not exist.
            norm = tl.load(norms + row + t, mask=t < limit, other=float("inf"))
            mean = tl.load(means + row + t, mask=t < limit, other=0.0)
            weights = tl.exp(scores - norm[:, None])
            dv += _dot(tl.trans(weights.to(dys.dtype)), dys)
            dscores = weights * (_dot(dys, tl.trans(v)) - mean[:, None])
            dk += _dot(tl.trans(dscores.to(queried.dtype)), queried)
        _put_keys(dkv, window, key, head * HEAD_DIM, s, s_pixel, s_exists, per_key, d, dk * SCALE,
                  places, KIND, HEAD_DIM)  # fmt: skip
        _put_keys(dkv, window, value, own_value, s, s_pixel, s_exists, per_key, e, dv, places,
                  KIND, VALUE_DIM)  # fmt: skip


@triton.jit
def _bias_backward_kernel(
    dy, q, kv, bias, dbias, norms, means, heads, groups,
    height, width, key_height, key_width, rows, columns, key_rows, key_columns,
    down, across, up, left, halo, stride, windows,
    KIND: tl.constexpr, SHIFTED: tl.constexpr,
    SCALE: tl.constexpr, HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, STEPS: tl.constexpr,
    BLOCKS: tl.constexpr, KEY_BLOCKS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Of larger windows the gradient of a bias that they share: for BLOCK_T queries and BLOCK_S
    keys of one head the sum over STEPS windows, `groups` apart, to dbias
    (groups, h, BLOCKS * BLOCK_T, KEY_BLOCKS * BLOCK_S)."""
    places = (
        height, width, key_height, key_width, rows, columns, key_rows, key_columns,
        down, across, up, left, halo, stride, windows,
    )  # fmt: skip
    FILLED_T: tl.constexpr = BLOCKS * BLOCK_T
    FILLED_S: tl.constexpr = KEY_BLOCKS * BLOCK_S
    program = tl.program_id(0)
    head = program % heads
    t = (program // heads) % BLOCKS * BLOCK_T + tl.arange(0, BLOCK_T)
    s = (program // heads // BLOCKS) % KEY_BLOCKS * BLOCK_S + tl.arange(0, BLOCK_S)
    first = program // heads // BLOCKS // KEY_BLOCKS
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_E)
    per_key = heads * (HEAD_DIM + VALUE_DIM)
    added = _shared(bias, head, t, s, FILLED_T, FILLED_S)
    gathered = tl.zeros([BLOCK_T, BLOCK_S], dtype=tl.float32)
    for step in range(STEPS):
        window = first + step * groups
        asking, key, value, answer = _starts(window, head, heads, places, HEAD_DIM, VALUE_DIM)
        t_pixel, t_exists, t_piece = _asking(window, t, places, KIND)
        s_pixel, s_exists, s_piece = _asked(window, s, places, KIND)
        queried = _tile(q + asking, t_pixel, t_exists, heads * HEAD_DIM, d, HEAD_DIM)
        k = _tile(kv + key, s_pixel, s_exists, per_key, d, HEAD_DIM)
        v = _tile(kv + value, s_pixel, s_exists, per_key, e, VALUE_DIM)
        dys = _tile(dy + answer, t_pixel, t_exists, heads * VALUE_DIM, e, VALUE_DIM)
        scores = added + _scores(
            queried, k, bias, window, head, heads, t, s, t_piece, s_piece, places,
            SHIFTED, NONE, SCALE, FILLED_T, FILLED_S,
        )  # fmt: skip
        row = (window.to(tl.int64) * heads + head) * (rows * columns)
        limit = tl.where(window < windows, rows * columns, 0)
        norm = tl.load(norms + row + t, mask=t < limit, other=float("inf"))
        mean = tl.load(means + row + t, mask=t < limit, other=0.0)
        weights = tl.exp(scores - norm[:, None])
        gathered += weights * (_dot(dys, tl.trans(v)) - mean[:, None])
    place = ((first * heads + head) * FILLED_T + t)[:, None] * FILLED_S + s[None, :]
    tl.store(dbias + place, gathered)


@triton.jit
def _overlap_kernel(
    parts, dkv,
    channels, key_height, key_width, key_rows, key_columns, down, across,
    step_down, step_right, halo, most_right, blocks,
    MOST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums parts (B, S, channels) of the gradients of keys in the windows that hold a pixel, MOST
    of them and `most_right` side by side, to dkv (N, H', W', channels). A program does BLOCK
    numbers of an image, all in the same order."""
    program = tl.program_id(0)
    image = (program // blocks).to(tl.int64)
    place = program % blocks * BLOCK + tl.arange(0, BLOCK)
    size = key_height * key_width * channels
    channel, pixel = place % channels, place // channels
    y, x = pixel // key_width + halo, pixel % key_width + halo
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for near in range(MOST):
        window_down = y // step_down - near // most_right
        window_right = x // step_right - near % most_right
        row, column = y - window_down * step_down, x - window_right * step_right
        held = (place < size) & (window_down >= 0) & (window_down < down) & (row < key_rows)
        held = held & (window_right >= 0) & (window_right < across) & (column < key_columns)
        window = image * (down * across) + window_down * across + window_right
        index = (window * key_rows + row) * key_columns + column
        total += tl.load(parts + index * channels + channel, mask=held, other=0.0).to(tl.float32)
    tl.store(dkv + image * size + place, total.to(dkv.dtype.element_ty), mask=place < size)


# ---- launchers

PROGRAMS = 2112  # 16 for each multiprocessor of an H100: windows are shared out among so many
SUMMED = 1056  # the same where each holds a sum, which is read again at the end
MOST_STEPS = 8
BLOCK = 64  # queries or keys that a program holds at once, most
OVERLAP_BLOCK = 512


def _tile_side(count: int) -> int:
    return min(BLOCK, max(16, triton.next_power_of_2(count)))  # a product's sides are 16 at least


def _steps(tasks: int, programs: int, most: int = MOST_STEPS) -> int:
    """Windows of one program where each window is so many tasks in all: a power of two, since each
    means a compilation."""
    return min(most, triton.next_power_of_2(triton.cdiv(tasks, programs)))


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the launches of one call have in common."""

    heads: int
    head_dim: int
    value_dim: int
    windows: int
    bias: int  # NONE, SHARED or EACH
    places: Places
    wide: bool = False  # float32

    @classmethod
    def of(cls, q: Tensor, kv: Tensor, bias: Tensor | None, heads: int, places: Places) -> Sizes:
        windows = q.shape[0] * places.windows
        owner = NONE if bias is None else EACH if bias.shape[0] == windows else SHARED
        inner = q.shape[1]
        widths = (inner // heads, (kv.shape[1] - inner) // heads)
        return cls(heads, *widths, windows, owner.value, places, q.dtype == torch.float32)

    @property
    def tile(self) -> tuple[int, int]:
        """Queries and keys that a program holds at once."""
        return _tile_side(self.places.queries), _tile_side(self.places.keys)

    @property
    def blocks(self) -> tuple[int, int]:
        """How many of these a window has."""
        block_t, block_s = self.tile
        return triton.cdiv(self.places.queries, block_t), triton.cdiv(self.places.keys, block_s)

    @property
    def whole(self) -> bool:
        """Whether a program holds all of a window."""
        return self.blocks == (1, 1)

    def constants(self, kernel: Any, steps: int, dbias: int) -> dict[str, Any]:
        """Those of a kernel."""
        block_t, block_s = self.tile
        blocks, key_blocks = self.blocks
        known = {
            "KIND": self.places.kind,
            "SHIFTED": self.places.shifted,
            "BIAS": self.bias,
            "DBIAS": dbias,
            "SCALE": self.head_dim**-0.5,
            "HEAD_DIM": self.head_dim,
            "VALUE_DIM": self.value_dim,
            "STEPS": steps,
            "BLOCKS": blocks,
            "KEY_BLOCKS": key_blocks,
            "BLOCK_T": block_t,
            "BLOCK_S": block_s,
            "BLOCK_D": max(16, triton.next_power_of_2(self.head_dim)),
            "BLOCK_E": max(16, triton.next_power_of_2(self.value_dim)),
        }
        return {name: value for name, value in known.items() if name in kernel.arg_names}

    @property
    def options(self) -> dict[str, int]:
        """So many warps that a thread holds 32 scores. Without tensor cores, in float32, products
        take more registers, and none are left for reading the next window's tiles ahead."""
        block_t, block_s = self.tile
        warps = max(1, block_t * block_s // 1024)
        return {"num_warps": 2 * warps if self.wide else warps, "num_stages": 1 if self.wide else 2}

    def run(
        self,
        kernel: Any,
        tensors: Sequence[Tensor],
        tiles: int,
        steps: int,
        dbias: int = NONE.value,
    ) -> None:
        """Starts a kernel that does each of `tiles` of a window and head in `steps` windows."""
        groups = triton.cdiv(self.windows, steps)
        kernel[(self.heads * tiles * groups,)](
            *tensors, self.heads, groups, *self.places.arguments(), self.windows,
            **self.constants(kernel, steps, dbias), **self.options,
        )  # fmt: skip


def _empty_map(x: Tensor, channels: int) -> Tensor:
    """(N, channels, H, W) of any contents, for x (N, C, H, W)."""
    made = x.new_empty((x.shape[0], *x.shape[2:], channels))
    return made.permute(0, 3, 1, 2)


def _empty_bias(q: Tensor, bias: Tensor | None, needs_bias: bool) -> Tensor:
    return bias.new_empty(bias.shape) if bias is not None and needs_bias else q.new_empty(0)


def _last(x: Tensor) -> Tensor:
    """A map as it is stored, (N, H, W, C)."""
    return x.permute(0, 2, 3, 1).contiguous()


def _added(bias: Tensor | None, q: Tensor, sizes: Sizes) -> Tensor:
    """The bias as kernels read it: a shared one filled up to whole tiles, whose rows then begin
    where 16 bytes do."""
    if bias is None:
        return q
    if sizes.bias == EACH.value:
        return bias.contiguous()
    (block_t, block_s), (blocks, key_blocks) = sizes.tile, sizes.blocks
    below, right = blocks * block_t - bias.shape[2], key_blocks * block_s - bias.shape[3]
    return F.pad(bias, (0, right, 0, below)).contiguous()


def _fits(q: Tensor, kv: Tensor, heads: int, places: Places) -> bool:
    """Whether the kernels do windows of this size."""
    wide = max(q.shape[1], kv.shape[1] - q.shape[1]) > MOST_WIDTH * heads
    return max(places.queries, places.keys) <= MOST_TOKENS and not wide and q.dtype in DTYPES


def _refuse_unfit(q: Tensor, kv: Tensor, heads: int, places: Places) -> None:
    """ValueError where the kernels cannot do it."""
    if not _fits(q, kv, heads, places):
        raise ValueError(
            f"windows of {places.queries} queries and {places.keys} keys with {q.shape[1]} and "
            f"{kv.shape[1] - q.shape[1]} channels of {heads} heads in {q.dtype}: the kernel does "
            f"at most {MOST_TOKENS} of either, {MOST_WIDTH} channels of a head, and {DTYPES}"
        )


def _launch(q: Tensor, kv: Tensor, bias: Tensor | None, heads: int, places: Places) -> Tensor:
    _check(q, kv, bias, heads, places)
    _refuse_unfit(q, kv, heads, places)
    sizes = Sizes.of(q, kv, bias, heads, places)
    out = _empty_map(q, heads * sizes.value_dim)
    if sizes.windows:
        blocks, _ = sizes.blocks
        steps = _steps(sizes.windows * heads * blocks, PROGRAMS)
        tensors = (_last(q), _last(kv), _added(bias, q, sizes), out)
        sizes.run(_forward_kernel, tensors, blocks, steps)
    return out


def _backward_launch(
    dy: Tensor,
    q: Tensor,
    kv: Tensor,
    bias: Tensor | None,
    heads: int,
    places: Places,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(q, kv, bias, heads, places)
    _refuse_unfit(q, kv, heads, places)
    sizes = Sizes.of(q, kv, bias, heads, places)
    dq, dkv = _empty_map(q, q.shape[1]), _empty_map(kv, kv.shape[1])
    dbias = _empty_bias(q, bias, needs_bias)
    if not sizes.windows:
        return dq, dkv, dbias.zero_()
    dy, q, kv, added = _last(dy.to(q.dtype)), _last(q), _last(kv), _added(bias, q, sizes)
    parts = dkv
    if places.kind == HALO.value:
        parts = kv.new_empty((sizes.windows, places.keys, kv.shape[3]))
    asked = sizes.bias if needs_bias else NONE.value
    whole = (dy, q, kv, added, dq, parts)
    if sizes.whole:
        summed = asked == SHARED.value
        programs = (SUMMED, sizes.windows) if summed else (PROGRAMS, MOST_STEPS)
        steps = _steps(sizes.windows * heads, *programs)
        sums = _sums(sizes, steps, q) if summed else dbias
        sizes.run(_backward_kernel, (*whole, sums), 1, steps, asked)
    else:
        sums = _larger_backward(sizes, whole, dbias, asked)
    if asked == SHARED.value:
        assert bias is not None
        whole_bias = sums.sum(0, keepdim=True)[:, :, : places.queries, : places.keys]
        dbias = whole_bias.to(bias.dtype).contiguous()
    if places.kind == HALO.value:
        _overlap(parts, dkv, places)
    return dq, dkv, dbias


def _sums(sizes: Sizes, steps: int, q: Tensor) -> Tensor:
    """Place for the gradient of a shared bias in each group of windows."""
    (block_t, block_s), (blocks, key_blocks) = sizes.tile, sizes.blocks
    shape = (triton.cdiv(sizes.windows, steps), sizes.heads, blocks * block_t, key_blocks * block_s)
    return q.new_empty(shape, dtype=torch.float32)


def _larger_backward(sizes: Sizes, whole: tuple[Tensor, ...], dbias: Tensor, asked: int) -> Tensor:
    """Gradients of windows of which a program holds a part; returns those of the bias."""
    dy, q, kv, added, dq, parts = whole
    blocks, key_blocks = sizes.blocks
    norms, means = q.new_empty(
        (2, sizes.windows, sizes.heads, sizes.places.queries), dtype=torch.float32
    )
    given, told = (dy, q, kv, added), (norms, means)
    pairs = sizes.windows * sizes.heads
    own = asked if asked == EACH.value else NONE.value
    steps = _steps(pairs * blocks, PROGRAMS)
    sizes.run(_query_backward_kernel, (*given, dq, dbias, *told), blocks, steps, own)
    steps = _steps(pairs * key_blocks, PROGRAMS)
    sizes.run(_key_backward_kernel, (*given, parts, *told), key_blocks, steps)
    if asked != SHARED.value:
        return dbias
    steps = _steps(pairs * blocks * key_blocks, SUMMED, sizes.windows)
    sums = _sums(sizes, steps, q)
    sizes.run(_bias_backward_kernel, (*given, sums, *told), blocks * key_blocks, steps)
    return sums


def _overlap(parts: Tensor, dkv: Tensor, places: Places) -> None:
    """Sums the gradients of keys that several blocks see."""
    images, channels, height, width = dkv.shape
    steps = (places.stride * places.rows, places.stride * places.columns)
    most = (triton.cdiv(places.key_rows, steps[0]), triton.cdiv(places.key_columns, steps[1]))
    blocks = triton.cdiv(height * width * channels, OVERLAP_BLOCK)
    _overlap_kernel[(blocks * images,)](
        parts, dkv, channels, height, width, places.key_rows, places.key_columns,
        places.down, places.across, *steps, places.halo, most[1], blocks,
        MOST=most[0] * most[1], BLOCK=OVERLAP_BLOCK,
    )  # fmt: skip


# ---- operators


def _empty(q: Tensor, kv: Tensor, bias: Tensor | None, heads: int, *_: Any) -> Tensor:
    return _empty_map(q, kv.shape[1] - q.shape[1])


def _empty_gradients(
    dy: Tensor, q: Tensor, kv: Tensor, bias: Tensor | None, heads: int, *given: Any
) -> tuple[Tensor, Tensor, Tensor]:
    empty = _empty_bias(q, bias, given[-1])
    return _empty_map(q, q.shape[1]), _empty_map(kv, kv.shape[1]), empty


def _pairs(images: int, down: int, across: int, queries: int, keys: int) -> int:
    """Queries times keys, in all windows of some images."""
    return images * down * across * queries * keys


def _flops(q_shape: Sequence[int], kv_shape: Sequence[int], pairs: int) -> int:
    """Of the two products of the forward pass: scores, and weights times values."""
    return 2 * pairs * kv_shape[1]


def _backward_flops(q_shape: Sequence[int], kv_shape: Sequence[int], pairs: int) -> int:
    """Of five products, as PyTorch counts them for its own: scores once more, and the gradients of
    weights, values, queries and keys."""
    inner, values = q_shape[1], kv_shape[1] - q_shape[1]
    return 2 * pairs * (3 * inner + 2 * values)


def _window_pairs(q_shape: Sequence[int], rows: int, columns: int) -> int:
    down, across = q_shape[2] // rows, q_shape[3] // columns
    return _pairs(q_shape[0], down, across, rows * columns, rows * columns)


def _halo_pairs(q_shape: Sequence[int], rows: int, columns: int, halo: int, stride: int) -> int:
    down, across = -(-q_shape[2] // rows), -(-q_shape[3] // columns)
    keys = (stride * rows + 2 * halo) * (stride * columns + 2 * halo)
    return _pairs(q_shape[0], down, across, rows * columns, keys)


def _window_launch(q: Tensor, kv: Tensor, bias: Tensor | None, heads: int, *given: Any) -> Tensor:
    return _launch(q, kv, bias, heads, window_places(q, kv, *given))


def _halo_launch(q: Tensor, kv: Tensor, bias: Tensor | None, heads: int, *given: Any) -> Tensor:
    return _launch(q, kv, bias, heads, halo_places(q, kv, *given))


def _gradients(run: Any, places: Any) -> Any:
    """`run`, which takes `Places`, as a function that takes what `places` makes them of."""

    def gradients(
        dy: Tensor, q: Tensor, kv: Tensor, bias: Tensor | None, heads: int, *given: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        *numbers, needs_bias = given
        return run(dy, q, kv, bias, heads, places(q, kv, *numbers), needs_bias)

    return gradients


window_attention_backward_reference = _gradients(_backward_reference, window_places)
halo_attention_backward_reference = _gradients(_backward_reference, halo_places)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    q, kv, bias, *ctx.given = inputs
    ctx.save_for_backward(q, kv, bias)


def _derivative(operator: Any) -> Any:
    """The backward pass that calls `operator`."""

    def derivative(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        q, kv, bias = ctx.saved_tensors
        needs_bias = bias is not None and ctx.needs_input_grad[2]
        dq, dkv, dbias = operator(dy, q, kv, bias, *ctx.given, needs_bias)
        return dq, dkv, dbias if needs_bias else None, *[None] * len(ctx.given)

    return derivative


_WINDOW = "int heads, int rows, int columns, int up, int left, bool spread"
_HALO = "int heads, int rows, int columns, int halo, int stride"
_GRADIENTS = "(Tensor dy, Tensor q, Tensor kv, Tensor? bias, {}, bool needs_bias)"

window_attention_backward = register(
    "window_attention_backward",
    f"{_GRADIENTS.format(_WINDOW)} -> (Tensor, Tensor, Tensor)",
    launch=_gradients(_backward_launch, window_places),
    reference=window_attention_backward_reference,
    fake=_empty_gradients,
    flops=lambda dy, q, kv, bias, heads, rows, columns, *_, **__: _backward_flops(
        q, kv, _window_pairs(q, rows, columns)
    ),
)
window_attention = register(
    "window_attention",
    f"(Tensor q, Tensor kv, Tensor? bias, {_WINDOW}) -> Tensor",
    launch=_window_launch,
    reference=window_attention_reference,
    fake=_empty,
    flops=lambda q, kv, bias, heads, rows, columns, *_, **__: _flops(
        q, kv, _window_pairs(q, rows, columns)
    ),
    backward=_derivative(window_attention_backward),
    setup_context=_save,
)
halo_attention_backward = register(
    "halo_attention_backward",
    f"{_GRADIENTS.format(_HALO)} -> (Tensor, Tensor, Tensor)",
    launch=_gradients(_backward_launch, halo_places),
    reference=halo_attention_backward_reference,
    fake=_empty_gradients,
    flops=lambda dy, q, kv, bias, heads, rows, columns, halo, stride, *_, **__: _backward_flops(
        q, kv, _halo_pairs(q, rows, columns, halo, stride)
    ),
)
halo_attention = register(
    "halo_attention",
    f"(Tensor q, Tensor kv, Tensor? bias, {_HALO}) -> Tensor",
    launch=_halo_launch,
    reference=halo_attention_reference,
    fake=_empty,
    flops=lambda q, kv, bias, heads, rows, columns, halo, stride, **__: _flops(
        q, kv, _halo_pairs(q, rows, columns, halo, stride)
    ),
    backward=_derivative(halo_attention_backward),
    setup_context=_save,
)


# ---- twins

# Layers of which no pixel's result depends on where it lies, or in which image: they may run on the
# whole map, filled up to whole windows, where the plain modules run them on its windows.
POINTWISE = (
    Pointwise,
    LayerNorm2d,
    Affine,
    nn.BatchNorm2d,
    Times,
    nn.Identity,
    *ACTIVATIONS.values(),
)


def _pointwise(module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential | ClosedProjection):
        return all(_pointwise(layer) for layer in module.children())
    return isinstance(module, POINTWISE)


def _window_served(module: nn.Module, *regions: type[nn.Module]) -> bool:
    assert isinstance(module, WindowAttention)
    layers = (module.q, module.kv, module.activation, module.project)
    plain = all(isinstance(layer, nn.Identity) for layer in (module.subsample, module.reduce))
    kinds = type(module.attend) is AttendMap and type(module.region) in regions
    return plain and kinds and all(_pointwise(layer) for layer in layers)


def _cast(q: Tensor, kv: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """What `twins.autocast` makes of them."""
    queries, keys, added = twins.autocast(q, kv, bias)
    assert queries is not None
    assert keys is not None
    return queries, keys, added


def _in_windows(module: WindowAttention, x: Tensor) -> Tensor:
    """`WindowAttention` with its projections on the whole map."""
    region, attend, position = module.region, module.attend, module.position
    assert isinstance(attend, AttendMap)
    height, width = x.shape[2:]
    below, right = -height % region.rows, -width % region.columns
    if below or right:  # what fills the last windows is seen, as the projections make it
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, right, 0, below)).permute(0, 3, 1, 2)
    q, kv = module.q(x), module.kv(x)
    bias = None
    if isinstance(position, TablePosition):  # it asks for the shape of a window alone
        bias = position(q[:1, :, : region.rows, : region.columns])
    elif position is not None:
        bias = position(region.cut(q))
    q, kv, bias = _cast(q, kv, bias)
    up, left = (region.up, region.left) if isinstance(region, ShiftedWindows) else (0, 0)
    given = (region.rows, region.columns, up, left, isinstance(region, SpreadWindows))
    if _fits(q, kv, attend.heads, window_places(q, kv, *given)):
        y = window_attention(q, kv, bias, attend.heads, *given)
    else:
        if isinstance(region, ShiftedWindows):
            mask = region.mask(q)
            bias = mask if bias is None else mask + bias
        y = region.join(attend(region.cut(q), region.cut(kv), bias), *x.shape[2:])
    y = module.project(module.activation(y))
    return y[:, :, :height, :width] if below or right else y


class WindowAttentionTwin(WindowAttention):
    """`WindowAttention` with its projections on the whole map."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        return _window_served(module, Windows, SpreadWindows)

    def forward(self, x: Tensor) -> Tensor:
        return _in_windows(self, x)


class ShiftedWindowAttentionTwin(ShiftedWindowAttention):
    """`ShiftedWindowAttention` with its projections on the whole map."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        return _window_served(module, ShiftedWindows)

    def forward(self, x: Tensor) -> Tensor:
        return _in_windows(self, x)


class HaloAttentionTwin(HaloAttention):
    """`HaloAttention` whose blocks nothing cuts out."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        assert isinstance(module, HaloAttention)
        return type(module.attend) is AttendMap and type(module.region) is HaloBlocks

    def forward(self, x: Tensor) -> Tensor:
        region, attend = self.region, self.attend
        assert isinstance(attend, AttendMap)
        q, kv = self.q(self.subsample(x)), self.kv(x)
        added = None if self.position is None else self.position(region.cut(q))
        q, kv, added = _cast(q, kv, added)
        given = (region.rows, region.columns, region.halo, region.stride)
        if _fits(q, kv, attend.heads, halo_places(q, kv, *given)):
            y = halo_attention(q, kv, added, attend.heads, *given)
        else:
            y = attend(region.cut(q), region.cut_keys(kv), added)
            y = region.join(y, *q.shape[2:])
        return self.project(self.activation(y))


TWINS = {
    WindowAttention: WindowAttentionTwin,
    ShiftedWindowAttention: ShiftedWindowAttentionTwin,
    HaloAttention: HaloAttentionTwin,
}


# ---- compiled ahead


def _variant(
    kernel: Any,
    label: str,
    side: int,
    *,
    key_side: int = 0,
    width: int = 32,
    kind: int = NEAR.value,
    shifted: bool = False,
    bias: int = SHARED.value,
    dtype: str = "*bf16",
) -> Variant:
    """A kernel for windows of `side` x `side` queries and heads of `width` channels, as it is
    started where there are many windows."""
    maps, key_side = (56, 56, 56, 56), key_side or side
    places = Places(kind, *maps, side, side, key_side, key_side, 8, 8, up=int(shifted))
    sizes = Sizes(3, width, width, 16384, bias, places, dtype == "*fp32")
    own = kernel is _query_backward_kernel and bias == SHARED.value
    steps = 32 if kernel is _bias_backward_kernel else MOST_STEPS
    constants = sizes.constants(kernel, steps, NONE.value if own else bias)
    signature = {name: "i32" for name in kernel.arg_names if name not in constants}
    signature |= {name: dtype for name in signature if name in TENSORS}
    signature |= {name: "*fp32" for name in ("norms", "means") if name in signature}
    if "dbias" in signature:
        signature["dbias"] = "*fp32" if bias == SHARED.value else dtype
    warps, stages = sizes.options["num_warps"], sizes.options["num_stages"]
    return Variant(kernel, signature, constants, warps, stages, label)


TENSORS = ("dy", "q", "kv", "bias", "out", "dq", "dkv", "dbias")
WHOLE = (_forward_kernel, _backward_kernel)
LARGER = (_forward_kernel, _query_backward_kernel, _key_backward_kernel)

VARIANTS = [
    *(_variant(kernel, "7x7", 7) for kernel in WHOLE),
    *(_variant(kernel, "7x7 shifted", 7, shifted=True) for kernel in WHOLE),
    *(_variant(kernel, "7x7 grid", 7, kind=SPREAD.value) for kernel in WHOLE),
    *(_variant(kernel, "7x7, 64 channels", 7, width=64) for kernel in WHOLE),
    *(_variant(kernel, "7x7, float32", 7, dtype="*fp32") for kernel in WHOLE),
    *(_variant(kernel, "4x4", 4) for kernel in WHOLE),
    *(_variant(kernel, "14x14", 14) for kernel in (*LARGER, _bias_backward_kernel)),
    *(_variant(kernel, "14x14, 64 channels", 14, width=64) for kernel in LARGER),
    *(
        _variant(kernel, "7x7 halo 3", 7, key_side=13, kind=HALO.value, bias=EACH.value)
        for kernel in LARGER
    ),
    Variant(
        _overlap_kernel,
        {
            **dict.fromkeys(_overlap_kernel.arg_names[:-2], "i32"),
            **dict.fromkeys(("parts", "dkv"), "*bf16"),
        },
        {"MOST": 4, "BLOCK": OVERLAP_BLOCK},
        label="7x7 halo 3",
    ),
]
