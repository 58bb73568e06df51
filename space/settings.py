"""Gene values that name a layer, and the layer that each names."""

from __future__ import annotations

from torch import nn

from space.layers import Affine, LayerNorm2d, QuickGelu, TanhGelu

# Class, whether it wants the number of groups first, and the keywords where they are not the
# class's own. Papers differ in epsilon; 1e-5 is PyTorch's.
NORMS: dict[str, tuple[type[nn.Module], tuple[int, ...], dict[str, float]]] = {
    "layer": (LayerNorm2d, (), {}),
    "batch": (nn.BatchNorm2d, (), {}),
    "group": (nn.GroupNorm, (1,), {}),
    "affine": (Affine, (), {}),
    "none": (nn.Identity, (), {}),
    "layer-1e-6": (LayerNorm2d, (), {"eps": 1e-6}),
    "batch-1e-3": (nn.BatchNorm2d, (), {"eps": 1e-3}),
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
