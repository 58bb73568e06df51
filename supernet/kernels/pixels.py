"""Gathers, moves, mirrors and normalises stored images: uint8 in, floating point out, one pass.

Shapes: M stored images, N of them in a batch, C channels, H x W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from supernet.kernels.registration import Variant, register

BLOCK = 256  # output pixels of one program


def pixels_reference(
    images: Tensor,
    rows: Tensor,
    down: Tensor,
    right: Tensor,
    mirrored: Tensor,
    mean: Tensor,
    std: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """The images `rows` (N,) of `images` (M, C, H, W) uint8, normalised, as (N, C, H, W) stored
    channels last.

    Pixel (i, j) of image n is stored pixel (i + down[n], j' + right[n]), j' = W - 1 - j where
    `mirrored[n]` and else j; outside of the image, its nearest pixel. `mean` and `std` (C,) are
    of pixels from 0 to 1. Computed in float32.
    """
    height, width = images.shape[2:]
    i = torch.arange(height, device=images.device)
    j = torch.arange(width, device=images.device)
    y = (i + down[:, None]).clamp(0, height - 1)
    x = torch.where(mirrored[:, None], width - 1 - j, j)
    x = (x + right[:, None]).clamp(0, width - 1)
    # Advanced indices with a slice between them come first: (N, H, W, C).
    taken = images[rows[:, None, None], :, y[:, :, None], x[:, None, :]]
    return ((taken.float() / 255 - mean) / std).to(dtype).permute(0, 3, 1, 2)


@triton.jit
def _pixels_kernel(
    images, rows, down, right, mirrored, mean, std, out,
    height, width,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program does BLOCK pixels of one image, all channels; out is (N, H, W, C)."""
    image = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < height * width
    i, j = place // width, place % width
    flip = tl.load(mirrored + image).to(tl.int32)
    j = j + flip * (width - 1 - 2 * j)
    y = tl.minimum(tl.maximum(i + tl.load(down + image).to(tl.int32), 0), height - 1)
    x = tl.minimum(tl.maximum(j + tl.load(right + image).to(tl.int32), 0), width - 1)
    stored = tl.load(rows + image).to(tl.int64) * CHANNELS * height * width
    for c in tl.static_range(CHANNELS):
        taken = tl.load(images + stored + c * height * width + y * width + x, mask=inside, other=0)
        value = (taken.to(tl.float32) / 255 - tl.load(mean + c)) / tl.load(std + c)
        where = (image * height * width + place) * CHANNELS + c
        tl.store(out + where, value.to(out.dtype.element_ty), mask=inside)


def _empty(images: Tensor, rows: Tensor, *_: Any) -> Tensor:
    dtype = _[-1]
    count, (channels, height, width) = rows.shape[0], images.shape[1:]
    made = images.new_empty((count, height, width, channels), dtype=dtype)
    return made.permute(0, 3, 1, 2)


def _launch(
    images: Tensor,
    rows: Tensor,
    down: Tensor,
    right: Tensor,
    mirrored: Tensor,
    mean: Tensor,
    std: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    out = _empty(images, rows, dtype)
    height, width = images.shape[2:]
    grid = (triton.cdiv(height * width, BLOCK), len(rows))
    if len(rows):
        _pixels_kernel[grid](
            images.contiguous(), rows, down, right, mirrored, mean, std, out,
            height, width, CHANNELS=images.shape[1], BLOCK=BLOCK,
        )  # fmt: skip
    return out


def _flops(images: Any, rows: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 0  # as PyTorch counts: element-wise work is not counted


pixels = register(
    "pixels",
    "(Tensor images, Tensor rows, Tensor down, Tensor right, Tensor mirrored, Tensor mean, "
    "Tensor std, ScalarType dtype) -> Tensor",
    launch=_launch,
    reference=pixels_reference,
    fake=_empty,
    flops=_flops,
)

VARIANTS = [
    Variant(
        _pixels_kernel,
        {
            **dict.fromkeys(("rows", "down", "right"), "*i64"),
            **dict.fromkeys(("mean", "std"), "*fp32"),
            **dict.fromkeys(("height", "width"), "i32"),
            "images": "*u8",
            "mirrored": "*i1",
            "out": "*bf16",
        },
        {"CHANNELS": 3, "BLOCK": BLOCK},
        label="bfloat16",
    )
]
