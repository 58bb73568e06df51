"""Batches of stored images, against the functions that a training applies one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.kernel_cases import Case, Inputs
from supernet.kernels.pixels import pixels, pixels_reference


def inputs(stored: int, batch: int, side: int, device: torch.device, dtype: torch.dtype) -> Inputs:
    generator = torch.Generator().manual_seed(0)

    def whole(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    given = (
        whole(0, 256, stored, 3, side, side).to(torch.uint8),
        whole(0, stored, batch),
        whole(-side // 8, side // 8 + 1, batch),
        whole(-side // 8, side // 8 + 1, batch),
        whole(0, 2, batch).bool(),
        torch.tensor((0.49, 0.48, 0.45)),
        torch.tensor((0.25, 0.24, 0.26)),
    )
    return (*(tensor.to(device) for tensor in given), dtype)


def case(stored: int, batch: int, side: int, small: bool = False) -> Case:
    return Case(
        kernel="pixels",
        label=f"{batch} of {stored} images, {side}x{side}",
        inputs=lambda device, dtype: inputs(stored, batch, side, device, dtype),
        reference=pixels_reference,
        ours=pixels,
        stock={"eager": pixels_reference},
        moved=batch * 3 * side * side * (1 + 2),  # bytes: uint8 in, bfloat16 out
        backward=False,
        small=small,
    )


CASES = [
    case(50_000, 512, 32),
    case(5_000, 256, 160),
    case(2_000, 256, 224),
    case(6, 4, 9, small=True),
]
