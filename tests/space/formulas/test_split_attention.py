"""Split attention against its formula in float64, channel by channel."""

from __future__ import annotations

import math

import pytest
import torch
from naive_layers import convolve, gelu, layer_norm, linear, noise, randomised
from torch import Tensor

from space.genes import Site
from space.operators.split_attention import SplitAttention

EXACT = {"atol": 1e-9, "rtol": 0}
Weights = dict[str, Tensor]


def split(w: Weights, x: Tensor, parts: int) -> Tensor:
    width = math.ceil(x.shape[1] / parts)
    made: list[Tensor] = []
    for i in range(parts - 1):
        part = x[:, i * width : (i + 1) * width]
        made.append(convolve(w, f"split.convolutions.{i}", part + made[-1] if made else part))
    return torch.cat([*made, x[:, (parts - 1) * width :]], 1)


def code(height: int, width: int) -> Tensor:
    """64 channels: sines and cosines of the row in turns, then of the column."""
    x = torch.zeros(1, 64, height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            for axis, share in enumerate(((i + 1) / height, (j + 1) / width)):
                for channel in range(32):
                    angle = 2 * math.pi * share / 10000 ** (2 * (channel // 2) / 32)
                    wave = math.cos(angle) if channel % 2 else math.sin(angle)
                    x[0, 32 * axis + channel, i, j] = wave
    return x


def attention(w: Weights, x: Tensor, heads: int) -> Tensor:
    q = linear(w, "attention.branch.q", x)[0].flatten(1)
    k, v = linear(w, "attention.branch.kv", x)[0].flatten(1).chunk(2)
    size, temperature = len(q) // heads, w["attention.branch.attend.temperature"]
    out = torch.zeros_like(q)
    for a in range(len(q)):
        head = a // size
        own = range(head * size, (head + 1) * size)
        cosines = torch.stack([q[a] @ k[b] / (q[a].norm() * k[b].norm()) for b in own])
        weights = (temperature[head] * cosines).exp()
        out[a] = sum(p * v[b] for p, b in zip(weights / weights.sum(), own, strict=True))
    return linear(w, "attention.branch.project", out.reshape(1, -1, *x.shape[2:]))


@pytest.mark.parametrize(
    ("channels", "genes"),
    [
        (12, {}),
        (11, {"parts": 3, "position": "fourier", "heads": 0, "head_dim": 4, "context": 5}),
        (12, {"parts": 4, "layer_scale": 0.1, "position": "fourier"}),
    ],
    ids=["plain", "uneven parts", "scaled"],
)
def test_formula(channels, genes):
    part = SplitAttention(**{"heads": 2, "head_dim": 0, "expansion": 2, **genes})
    module, w = randomised(part.build(Site(channels, channels, 4, 5)))
    x = noise(1, channels, 4, 5)
    y = split(w, x, part.parts)
    if part.position == "fourier":
        y = y + linear(w, "position.linear", code(4, 5))
    attended = attention(w, layer_norm(w, "attention.norm", y), 2)
    scale = part.layer_scale is not None
    if scale:
        attended = attended * w["attention.scale.weight"][:, None, None]
    y = layer_norm(w, "mlp.0", y + attended)
    y = linear(w, "mlp.1.project", gelu(linear(w, "mlp.1.expand", y)))
    if scale:
        y = y * w["mlp.2.weight"][:, None, None]
    torch.testing.assert_close(module(x), x + y, **EXACT)


def test_the_input_alone_passes_by():
    """With an MLP of zeros nothing else is left."""
    module, _ = randomised(SplitAttention(heads=2, head_dim=0).build(Site(12, 12, 4, 5)))
    with torch.no_grad():
        for parameter in module.mlp[1].project.parameters():
            parameter.zero_()
    x = noise(1, 12, 4, 5)
    assert torch.equal(module(x), x)


def test_any_map_will_do():
    module = SplitAttention(position="fourier").build(Site(32, 32, 8, 8))
    assert module(torch.randn(1, 32, 5, 11)).shape == (1, 32, 5, 11)


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ({"heads": 0, "head_dim": 0}, "heads and head_dim are both 0"),
        ({"heads": 4, "head_dim": 0}, "5 channels are not a multiple"),
        ({"parts": 4}, "parts is 4, too many for 5 channels in parts of 2"),
    ],
)
def test_what_does_not_fit_is_refused(genes, message):
    with pytest.raises(ValueError, match=message):
        SplitAttention(**genes).build(Site(5, 5, 4, 4))
