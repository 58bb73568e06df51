"""Puts kernels into modules: a layer that a kernel can do takes the class of its twin.

The modules of operators are plain PyTorch, so that an export can copy them. A *twin* is a subclass
of such a module with another `forward`, and with the same parameters under the same names; it lives
in the file of its kernel, which lists it in `TWINS`.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn

from supernet import kernels


class Twin(Protocol):
    """What a class in `TWINS` has besides being a module."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        """Whether the kernel can do what `module`, of the class that it is listed for, does."""
        ...


@cache
def twins() -> dict[type[nn.Module], type[nn.Module]]:
    """The twin of each class of modules that has one. ImportError where Triton is missing."""
    found: dict[type[nn.Module], type[nn.Module]] = {}
    for info in pkgutil.iter_modules(kernels.__path__):
        if info.name != "ahead":
            file = importlib.import_module(f"supernet.kernels.{info.name}")
            found.update(getattr(file, "TWINS", {}))
    return found


def accelerate(module: nn.Module) -> nn.Module:
    """`module` with every layer that a kernel can do as its twin, in place."""
    for layer in module.modules():
        twin = twins().get(type(layer))
        if twin is not None and twin.serves(layer):  # type: ignore[attr-defined]
            layer.__class__ = twin
    return module


def autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors as autocast, where it is on, would hand them to a convolution."""
    kind = next(tensor.device.type for tensor in tensors if tensor is not None)
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return list(tensors)
    dtype = torch.get_autocast_dtype(kind)
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors]
