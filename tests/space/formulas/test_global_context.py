"""Global context against its formula, one image (C, H, W) at a time, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from space.genes import Site, part_from_json

Weights = dict[str, Tensor]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def linear(x: Tensor, p: Weights, name: str) -> Tensor:
    return torch.einsum("chw,dc->dhw", x, p[name + "weight"]) + p[name + "bias"][:, None, None]


def norm(x: Tensor, p: Weights, name: str, over: str) -> Tensor:
    axes = (0,) if over == "layer" else (0, 1, 2)
    mean = x.mean(axes, keepdim=True)
    normed = (x - mean) / ((x - mean).pow(2).mean(axes, keepdim=True) + 1e-5).sqrt()
    return normed * p[name + "weight"][:, None, None] + p[name + "bias"][:, None, None]


def depthwise(x: Tensor, p: Weights, name: str) -> Tensor:
    weight, y = p[name + "weight"], torch.zeros_like(x)
    side, (_, height, width) = weight.shape[-1], x.shape
    for a in range(side):
        for b in range(side):
            for i in range(height):
                for j in range(width):
                    row, column = i + a - side // 2, j + b - side // 2
                    if 0 <= row < height and 0 <= column < width:
                        y[:, i, j] += weight[:, 0, a, b] * x[:, row, column]
    return y + p[name + "bias"][:, None, None]


def global_context(x: Tensor, p: Weights, name: str, heads: int) -> Tensor:
    """s * context of each head, pixel by pixel."""
    c, height, width = x.shape
    d = c // heads
    gap = x.flatten(1).mean(1)
    pair = p[name + "compete.weight"] @ gap + p[name + "compete.bias"]
    winner = torch.maximum(pair[: len(pair) // 2], pair[len(pair) // 2 :])
    context = p[name + "expand.weight"] @ winner + p[name + "expand.bias"]
    similar = torch.zeros(heads, height, width, dtype=x.dtype)
    for h in range(heads):
        own = slice(h * d, (h + 1) * d)
        for i in range(height):
            for j in range(width):
                similar[h, i, j] = x[own, i, j] @ gap[own] / math.sqrt(d)
    count = similar.numel()
    centre = similar.sum() / count
    spread = ((similar - centre).pow(2).sum() / (count - 1)).sqrt()
    similar = (similar - centre) / (spread + 1e-5)
    out = torch.zeros_like(x)
    for channel in range(c):
        h = channel // d
        scaled = similar[h] * p[name + "scale"][h] + p[name + "shift"][h]
        out[channel] = scaled * context[channel]
    return out


def mixer(x: Tensor, p: Weights, heads: int) -> Tensor:
    for turn in (0, 1):
        here = f"mixer.branch.{turn}."
        x = x + global_context(x, p, here + "0.branch.", heads)
        x = linear(depthwise(x, p, here + "1."), p, here + "2.")
        x = gelu(linear(gelu(x), p, here + "4."))
    return x


def scaled(x: Tensor, p: Weights, name: str) -> Tensor:
    return x * p.get(name, torch.ones(len(x)))[:, None, None]


@pytest.mark.parametrize(
    "genes",
    [
        {"heads": 2, "norm": "group", "layer_scale": 1e-5, "expansion": 0},
        {"heads": 4, "reduction": 2, "context": 5, "expansion": 0},
        {"heads": 4, "reduction": 16, "expansion": 2},
    ],
    ids=["published", "small filters", "mlp"],
)
@pytest.mark.parametrize("side", [(3, 4), (2, 2)])
def test_global_context_is_its_formula(genes, side, randomise):
    site = Site(8, 8, *side)
    part = part_from_json("operator", {"kind": "global_context", **genes})
    module = randomise(part.build(site)).double()
    p = dict(module.state_dict())
    x = torch.randn(2, 8, *side, dtype=torch.float64)
    expected = []
    for image in x:
        y = mixer(norm(image, p, "mixer.norm.", part.norm), p, part.heads)
        y = image + scaled(y, p, "mixer.scale.weight")
        if part.expansion:
            z = gelu(linear(norm(y, p, "mlp.norm.", part.norm), p, "mlp.branch.expand."))
            y = y + scaled(linear(z, p, "mlp.branch.project."), p, "mlp.scale.weight")
        expected.append(y)
    with torch.no_grad():
        torch.testing.assert_close(module(x), torch.stack(expected), atol=1e-9, rtol=1e-9)


def test_widths_of_the_summary_and_behind_the_filters():
    part = part_from_json("operator", {"kind": "global_context"})
    for channels, summary, squeezed in ((64, 8, 16), (256, 32, 32)):
        site = Site(channels, channels, 4, 4)
        shapes = {n: tuple(p.shape) for n, p in part.build(site).named_parameters()}
        assert shapes["mixer.branch.0.0.branch.compete.weight"] == (2 * summary, channels)
        assert shapes["mixer.branch.0.0.branch.expand.weight"] == (channels, summary)
        assert shapes["mixer.branch.1.2.weight"] == (squeezed, channels)


def test_a_width_that_is_not_a_multiple_of_the_heads_is_refused():
    part = part_from_json("operator", {"kind": "global_context"})
    with pytest.raises(ValueError, match="12 channels, but must be a multiple of heads, 8"):
        part.blueprint(Site(12, 12, 4, 4))
