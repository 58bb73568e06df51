"""Gene values that name a layer, and the layer that each names."""

from __future__ import annotations

from torch import nn

from space.layers import Affine, LayerNorm2d, QuickGelu, TanhGelu

# Class, arguments in front of the channels, and epsilon where it is not PyTorch's 1e-5.
NORMS: dict[str, tuple[type[nn.Module], tuple[int, ...], float | None]] = {
    "layer": (LayerNorm2d, (), None),
    "batch": (nn.BatchNorm2d, (), None),
    "group": (nn.GroupNorm, (1,), None),
    "affine": (Affine, (), None),
    "none": (nn.Identity, (), None),
    "layer-1e-6": (LayerNorm2d, (), 1e-6),
    "batch-1e-3": (nn.BatchNorm2d, (), 1e-3),
}

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "gelu-tanh": TanhGelu,
    "gelu-quick": QuickGelu,
}
