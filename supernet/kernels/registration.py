"""How a kernel becomes an operator that PyTorch knows: `torch.ops.chimera.<name>`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

LIBRARY = torch.library.Library("chimera", "DEF")


def interpreted() -> bool:
    """Whether Triton runs kernels in Python, on tensors of a CPU. It is decided when a kernel's
    file is imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def register(
    name: str,
    schema: str,
    *,
    launch: Callable[..., Any],
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    flops: Callable[..., int],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
) -> Any:
    """The operator `chimera::name`; `schema` is its arguments and results, "(Tensor x) -> Tensor".

    `launch` runs the kernel, `reference` defines what it computes, `fake` makes empty results of
    the same shape, dtype and strides, and `flops` counts (2 for a multiply-add) from shapes, as
    `torch.utils.flop_counter` does. `backward` and `setup_context` are those of
    `torch.library.register_autograd`; without them the operator has no gradient.
    """
    LIBRARY.define(f"{name}{schema}")
    LIBRARY.impl(name, launch, "CUDA")
    LIBRARY.impl(name, launch if interpreted() else reference, "CPU")
    full = f"chimera::{name}"
    torch.library.register_fake(full, fake, lib=LIBRARY)
    if backward is not None:
        torch.library.register_autograd(full, backward, setup_context=setup_context, lib=LIBRARY)
    operator = getattr(torch.ops.chimera, name).default
    register_flop_formula(getattr(torch.ops.chimera, name))(flops)
    return operator


@dataclass(frozen=True, slots=True)
class Variant:
    """One way in which a kernel is compiled ahead of time (`supernet.kernels.ahead`).

    `signature` has the type of each argument that is not a constant, as Triton writes it
    ("*bf16", "i32"); `constants` the values of the others.
    """

    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    warps: int = 4
    stages: int = 2
    label: str = ""
