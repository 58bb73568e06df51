"""What `benchmarks/kernels.py` measures: for each kernel a file with its `CASES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Inputs = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel at one shape.

    `inputs(device, dtype)` makes the arguments; floating tensors among them that require a
    gradient get one where `backward` is measured. `reference`, the definition, is what all are
    compared with, in float64. `ours` and each of `stock` are functions of the same arguments with
    the same results; the first of `stock` is the plain one, which is also compiled. `moved` is how
    many bytes one forward pass must read and write at least, for tensors of `dtype` bfloat16.
    `small` cases are for Triton's interpreter; the others are shapes that networks have.
    """

    kernel: str
    label: str
    inputs: Callable[[torch.device, torch.dtype], Inputs]
    reference: Callable[..., Tensor]
    ours: Callable[..., Tensor]
    stock: Mapping[str, Callable[..., Tensor]]
    moved: int
    backward: bool = True
    small: bool = False
