"""Attention in windows of 7x7 and 14x14 pixels, moved, spread and with a halo, at the sizes of the
four stages of a network for 224 pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernel_cases import Case, Inputs
from space.attention_layers import (
    AttendMap,
    HaloBlocks,
    QueryPosition,
    ShiftedWindows,
    SpreadWindows,
    Windows,
)
from supernet.kernels.window_attention import (
    halo_attention,
    halo_attention_reference,
    window_attention,
    window_attention_reference,
)

BATCH, HEAD_DIM, BYTES = 256, 32, 2
Bias = Tensor | None


def _region(
    rows: int, columns: int, up: int, left: int, spread: bool
) -> Windows | SpreadWindows | ShiftedWindows:
    if up or left:
        return ShiftedWindows(rows, columns, up, left)
    return SpreadWindows(rows, columns) if spread else Windows(rows, columns)


def _cut(q: Tensor, kv: Tensor, bias: Bias, heads: int, *numbers: int) -> Tensor:
    """As the plain modules do it."""
    region = _region(*numbers)  # type: ignore[arg-type]
    if isinstance(region, ShiftedWindows):
        mask = region.mask(q)
        bias = mask if bias is None else mask + bias
    y = AttendMap(heads)(region.cut(q), region.cut(kv), bias)
    return region.join(y, *q.shape[2:])


def _aligned(q: Tensor, kv: Tensor, bias: Bias, heads: int, *numbers: int) -> Tensor:
    """The same with a bias whose rows begin where 16 bytes do: PyTorch's memory-efficient kernel
    else copies it."""
    if bias is not None:
        bias = F.pad(bias, (0, -bias.shape[3] % 8))[..., : bias.shape[3]]
    return _cut(q, kv, bias, heads, *numbers)


def _written(q: Tensor, kv: Tensor, bias: Bias, heads: int, *numbers: int) -> Tensor:
    """The same with all scores and weights in memory."""
    region = _region(*numbers)  # type: ignore[arg-type]
    queries, keys = region.cut(q).flatten(2), region.cut(kv).flatten(2)
    inner, sides = q.shape[1], q.shape[2:]
    queries, k, v = (
        x.unflatten(1, (heads, -1)) for x in (queries, keys[:, :inner], keys[:, inner:])
    )
    scores = queries.mT @ k * queries.shape[2] ** -0.5
    if bias is not None:
        scores = scores + bias
    if isinstance(region, ShiftedWindows):
        scores = scores + region.mask(q)
    y = v @ scores.softmax(3).mT
    return region.join(y.flatten(1, 2).unflatten(2, (region.rows, region.columns)), *sides)


def _cut_halo(q: Tensor, kv: Tensor, bias: Bias, heads: int, *numbers: int) -> Tensor:
    """As the plain modules do it."""
    rows, columns, halo, stride = numbers
    region = HaloBlocks(rows, columns, halo=halo, stride=stride)
    y = AttendMap(heads)(region.cut(q), region.cut_keys(kv), bias)
    return region.join(y, *q.shape[2:])


def _maps(
    device: torch.device, dtype: torch.dtype, images: int, channels: int, side: int
) -> tuple[Tensor, Tensor]:
    """Queries, and keys with values, for heads of HEAD_DIM."""
    generator = torch.Generator(device).manual_seed(0)
    q, kv = (
        torch.randn(images, side, side, width, generator=generator, device=device)
        .to(dtype)
        .permute(0, 3, 1, 2)
        .requires_grad_()
        for width in (channels, 2 * channels)
    )
    return q, kv


def _case(
    label: str,
    *,
    channels: int,
    side: int,
    window: int,
    move: int = 0,
    spread: bool = False,
    images: int = BATCH,
    small: bool = False,
) -> Case:
    heads = channels // HEAD_DIM

    def inputs(device: torch.device, dtype: torch.dtype) -> Inputs:
        q, kv = _maps(device, dtype, images, channels, side)
        generator = torch.Generator(device).manual_seed(1)
        size = (1, heads, window**2, window**2)
        bias = torch.randn(size, generator=generator, device=device).to(dtype).requires_grad_()
        return (q, kv, bias, heads, window, window, move, move, spread)

    stock: Mapping[str, Callable[..., Tensor]] = {
        "cut, SDPA, joined": _cut,
        "cut, SDPA with aligned bias, joined": _aligned,
        "cut, scores written out, joined": _written,
    }
    return Case(
        "window_attention",
        label,
        inputs,
        reference=window_attention_reference,
        ours=window_attention,
        stock=stock,
        moved=4 * BYTES * images * channels * side**2,
        small=small,
    )


def _halo_case(
    label: str,
    *,
    channels: int,
    side: int,
    block: int,
    halo: int,
    images: int = BATCH,
    small: bool = False,
) -> Case:
    """With the bias of a position that looks at the query, made before, one for each block."""
    heads = channels // HEAD_DIM
    wide = block + 2 * halo

    def inputs(device: torch.device, dtype: torch.dtype) -> Inputs:
        q, kv = _maps(device, dtype, images, channels, side)
        torch.manual_seed(1)
        position = QueryPosition(heads, HEAD_DIM, block, block, wide, wide).to(device, dtype)
        with torch.no_grad():
            bias = position(HaloBlocks(block, block, halo=halo, stride=1).cut(q))
        return (q, kv, bias.contiguous().requires_grad_(), heads, block, block, halo, 1)

    blocks = images * (-(-side // block)) ** 2
    return Case(
        "halo_attention",
        label,
        inputs,
        reference=halo_attention_reference,
        ours=halo_attention,
        stock={"cut, SDPA, joined": _cut_halo},
        moved=BYTES * (4 * images * channels * side**2 + blocks * heads * block**2 * wide**2),
        small=small,
    )


CASES = [
    _case("56x56x96, 7x7", channels=96, side=56, window=7),
    _case("28x28x192, 7x7", channels=192, side=28, window=7),
    _case("14x14x384, 7x7", channels=384, side=14, window=7),
    _case("7x7x768, 7x7", channels=768, side=7, window=7),
    _case("56x56x96, 7x7 moved by 3", channels=96, side=56, window=7, move=3),
    _case("56x56x96, 7x7 spread", channels=96, side=56, window=7, spread=True),
    _case("56x56x96, 14x14", channels=96, side=56, window=14),
    _case("14x14x384, 14x14", channels=384, side=14, window=14),
    _halo_case("28x28x192, blocks of 7x7, halo 3", channels=192, side=28, block=7, halo=3),
    _case("4x4x32, 2x2 moved by 1", channels=32, side=4, window=2, move=1, images=1, small=True),
    _halo_case(
        "3x3x32, blocks of 2x2, halo 1",
        channels=32,
        side=3,
        block=2,
        halo=1,
        images=1,
        small=True,
    ),
]
