"""Layers written out plainly in float64, for the formulas that operators are held against.

`w` is a module's state dict, `name` that of a layer in it; maps are (N, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

Weights = Mapping[str, Tensor]


def randomised(module: nn.Module, seed: int = 0) -> tuple[nn.Module, dict[str, Tensor]]:
    """The module in float64 and evaluation mode, with random weights, and these."""
    torch.manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(0.4 * torch.randn_like(tensor))
                if name.endswith("running_var"):
                    tensor.abs_().add_(0.5)
    return module, dict(module.state_dict())


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def per_channel(values: Tensor) -> Tensor:
    return values[None, :, None, None]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = torch.einsum("nchw,dc->ndhw", x, w[f"{name}.weight"])
    bias = w.get(f"{name}.bias")
    return y if bias is None else y + per_channel(bias)


def layer_norm(w: Weights, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    normed = centred / (centred.square().mean(1, keepdim=True) + eps).sqrt()
    return normed * per_channel(w[f"{name}.weight"]) + per_channel(w[f"{name}.bias"])


def batch_norm(w: Weights, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    mean, variance = (per_channel(w[f"{name}.running_{what}"]) for what in ("mean", "var"))
    normed = (x - mean) / (variance + eps).sqrt()
    return normed * per_channel(w[f"{name}.weight"]) + per_channel(w[f"{name}.bias"])


def convolve(
    w: Weights, name: str, x: Tensor, *, stride: int = 1, front: int | None = None
) -> Tensor:
    """Sums over taps, to ceil(side / stride) pixels; the first tap stands `front` pixels before
    the output's own (half a kernel unless given); groups follow from the weight's shape."""
    weight = w[f"{name}.weight"]
    outputs, width, taps, _ = weight.shape
    groups = x.shape[1] // width
    front = taps // 2 if front is None else front
    rows, columns = (-(-side // stride) for side in x.shape[2:])
    padded = x.new_zeros(*x.shape[:2], rows * stride + 2 * taps, columns * stride + 2 * taps)
    padded[:, :, front : front + x.shape[2], front : front + x.shape[3]] = x
    y = x.new_zeros(len(x), groups, outputs // groups, rows, columns)
    weight = weight.unflatten(0, (groups, -1))  # (group, output of it, input of it, tap, tap)
    for a in range(taps):
        for b in range(taps):
            seen = padded[:, :, a : a + rows * stride : stride, b : b + columns * stride : stride]
            seen = seen.unflatten(1, (groups, width))
            y += torch.einsum("ngchw,gdc->ngdhw", seen, weight[..., a, b])
    y = y.flatten(1, 2)
    bias = w.get(f"{name}.bias")
    return y if bias is None else y + per_channel(bias)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    return linear(w, f"{name}.project", gelu(linear(w, f"{name}.expand", x)))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """One head of one image: q (T, d), k and v (S, d), bias (T, S); one query at a time."""
    rows = []
    for t in range(len(q)):
        scores = k @ q[t] / math.sqrt(q.shape[1])
        weights = (scores if bias is None else scores + bias[t]).exp()
        rows.append(weights / weights.sum() @ v)
    return torch.stack(rows)


def self_attention(
    w: Weights, name: str, tokens: Tensor, heads: int, bias: Tensor | None = None
) -> Tensor:
    """One image's tokens (T, C) by the weights `q`, `kv` and `project`; bias (heads, T, T)."""
    x = tokens.T[None, :, :, None]
    q = linear(w, f"{name}.q", x)[0, :, :, 0].T
    k, v = linear(w, f"{name}.kv", x)[0, :, :, 0].T.chunk(2, 1)
    size = q.shape[1] // heads
    parts = [slice(h * size, (h + 1) * size) for h in range(heads)]
    mixed = [
        attend(q[:, s], k[:, s], v[:, s], None if bias is None else bias[h])
        for h, s in enumerate(parts)
    ]
    return linear(w, f"{name}.project", torch.cat(mixed, 1).T[None, :, :, None])[0, :, :, 0].T
