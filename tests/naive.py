"""Layers written out pixel by pixel, for tests of formulas: one image (C, H, W) in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

EPS = {"layer-1e-6": 1e-6, "batch-1e-3": 1e-3}


class Weights:
    """Parameters and buffers of a module below a prefix."""

    def __init__(self, tensors: dict[str, Tensor], prefix: str = ""):
        self.tensors, self.prefix = tensors, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.tensors

    def at(self, *names: str | int) -> Weights:
        """Those of a submodule, and of a submodule of that."""
        return Weights(self.tensors, self.prefix + "".join(f"{name}." for name in names))

    @property
    def names(self) -> set[str]:
        """All below the prefix but the count of batches."""
        found = {n.removeprefix(self.prefix) for n in self.tensors if n.startswith(self.prefix)}
        return {name for name in found if not name.endswith("num_batches_tracked")}


def held_against(
    formula: Callable[[Tensor, Weights], Tensor], module: nn.Module, x: Tensor
) -> None:
    """Fails where the module, in float64, is not the formula for each of the images x."""
    module = module.double().eval()
    weights = Weights(dict(module.state_dict()))
    with torch.no_grad():
        found = module(x.double())
        expected = torch.stack([formula(image, weights) for image in x.double()])
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def norm(x: Tensor, p: Weights, kind: str) -> Tensor:
    """One of `settings.NORMS`; a BatchNorm by its running statistics."""
    if kind == "none":
        return x
    if kind.startswith("batch"):
        mean, variance = p["running_mean"][:, None, None], p["running_var"][:, None, None]
    else:
        axes = {"l": (0,), "g": (0, 1, 2)}[kind[0]]
        mean = x.mean(axes, keepdim=True)
        variance = (x - mean).pow(2).mean(axes, keepdim=True)
    y = (x - mean) / (variance + EPS.get(kind, 1e-5)).sqrt()
    return y * p["weight"][:, None, None] + p["bias"][:, None, None]


def batch(x: Tensor, p: Weights) -> Tensor:
    return norm(x, p, "batch")


def linear(x: Tensor, p: Weights, *, bias: bool = True) -> Tensor:
    """A 1x1 convolution, with a bias or without."""
    assert ("bias" in p) == bias
    y = torch.einsum("dc,chw->dhw", p["weight"].flatten(1), x)
    return y + p["bias"][:, None, None] if bias else y


def convolution(
    x: Tensor, p: Weights, *, stride: int = 1, groups: int = 1, bias: bool = True
) -> Tensor:
    """A centred convolution of odd side."""
    assert ("bias" in p) == bias
    weight = p["weight"].unflatten(0, (groups, -1))  # group, channel out, channel in, row, column
    side = weight.shape[-1]
    height, width = (-(-n // stride) for n in x.shape[1:])
    padded = torch.zeros(x.shape[0], x.shape[1] + 2 * side, x.shape[2] + 2 * side, dtype=x.dtype)
    padded[:, side:-side, side:-side] = x
    y = torch.zeros(weight.shape[0] * weight.shape[1], height, width, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            top, left = i * stride - side // 2 + side, j * stride - side // 2 + side
            patch = padded[:, top : top + side, left : left + side].unflatten(0, (groups, -1))
            y[:, i, j] = torch.einsum("goikl,gikl->go", weight, patch).flatten()
    return y + p["bias"][:, None, None] if bias else y


def mean_pool(x: Tensor, side: int) -> Tensor:
    """Means of squares; those at the end are of the pixels that there are."""
    height, width = (-(-n // side) for n in x.shape[1:])
    squares = [
        x[:, side * i : side * i + side, side * j : side * j + side].mean((1, 2))
        for i in range(height)
        for j in range(width)
    ]
    return torch.stack(squares, 1).unflatten(1, (height, width))


def relu(x: Tensor) -> Tensor:
    return x * (x > 0)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def squeeze_excite(x: Tensor, p: Weights, activation: Callable[[Tensor], Tensor] = relu) -> Tensor:
    """The gate with a sigmoid."""
    squeezed = activation(linear(x.mean((1, 2))[:, None, None], p.at("reduce")))
    return x * sigmoid(linear(squeezed, p.at("expand")))


def mlp_behind(x: Tensor, p: Weights, activation, kind: str) -> Tensor:
    """x plus a pre-norm MLP of it, with a layer scale where there is one."""
    y = linear(norm(x, p.at("norm"), kind), p.at("branch", "expand"))
    y = linear(activation(y), p.at("branch", "project"))
    return x + (y * p["scale.weight"][:, None, None] if "scale.weight" in p else y)
