"""Gene values that name a layer, and the layer that each names."""

from __future__ import annotations

from torch import nn

from space.layers import LayerNorm2d

NORMS: dict[str, type[nn.Module]] = {"layer": LayerNorm2d, "batch": nn.BatchNorm2d}

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}
