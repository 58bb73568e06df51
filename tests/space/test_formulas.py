"""Each operator and downsampling module against its formula, written out plainly in float64.

The formulas are those of the papers named in the files of the parts; they share no code with the
modules beyond the names of the parameters.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from space.genes import Site, part_from_json

EPS = 1e-5


class Parameters:
    """The tensors of a module below a prefix: `p["mlp.norm.weight"]`, `p.at("mlp.")`."""

    def __init__(self, tensors: dict[str, Tensor], prefix: str = ""):
        self.tensors, self.prefix = tensors, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def get(self, name: str) -> Tensor | None:
        return self.tensors.get(self.prefix + name)

    def at(self, prefix: str) -> Parameters:
        return Parameters(self.tensors, self.prefix + prefix)


def norm(x: Tensor, p: Parameters) -> Tensor:
    """BatchNorm with running statistics where there are some, else LayerNorm over channels."""
    if p.get("running_mean") is not None:
        mean, variance = p["running_mean"][:, None, None], p["running_var"][:, None, None]
    else:
        mean = x.mean(1, keepdim=True)
        variance = ((x - mean) ** 2).mean(1, keepdim=True)
    scale, shift = p["weight"][:, None, None], p["bias"][:, None, None]
    return (x - mean) / torch.sqrt(variance + EPS) * scale + shift


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def pointwise(x: Tensor, p: Parameters) -> Tensor:
    y = torch.einsum("nchw,dc->ndhw", x, p["weight"])
    return y if p.get("bias") is None else y + p["bias"][:, None, None]


def patches(x: Tensor, side: int, stride: int, front: int, fill: float = 0.0) -> Tensor:
    """(N, C, h, w, side, side) with h = ceil(H / stride): what each output pixel sees, where its
    first tap stands `front` pixels before its own pixel, and `fill` outside the map."""
    n, c, height, width = x.shape
    h, w = -(-height // stride), -(-width // stride)
    seen = torch.full((n, c, h, w, side, side), fill, dtype=x.dtype)
    for i in range(h):
        for j in range(w):
            for a in range(side):
                for b in range(side):
                    row, column = i * stride + a - front, j * stride + b - front
                    if 0 <= row < height and 0 <= column < width:
                        seen[:, :, i, j, a, b] = x[:, :, row, column]
    return seen


def depthwise(x: Tensor, p: Parameters, stride: int = 1) -> Tensor:
    weight = p["weight"][:, 0]
    side = weight.shape[-1]
    y = torch.einsum("nchwab,cab->nchw", patches(x, side, stride, side // 2), weight)
    return y if p.get("bias") is None else y + p["bias"][:, None, None]


def pooled_shortcut(x: Tensor, p: Parameters, stride: int) -> Tensor:
    if stride > 1:
        x = patches(x, 3, stride, 1, -math.inf).amax((4, 5))
    return pointwise(x, p.at("linear."))


def scale(x: Tensor, p: Parameters) -> Tensor:
    factor = p.get("scale.weight")
    return x if factor is None else x * factor[:, None, None]


def add_mlp(x: Tensor, p: Parameters) -> Tensor:
    y = gelu(pointwise(norm(x, p.at("norm.")), p.at("branch.expand.")))
    return x + scale(pointwise(y, p.at("branch.project.")), p)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """q (T, inner), k and v (S, inner), bias (heads, T, S), one query and head at a time."""
    size = q.shape[1] // heads
    out = torch.zeros_like(q)
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        for t in range(len(q)):
            scores = k[:, part] @ q[t, part] / math.sqrt(size)
            scores = scores if bias is None else scores + bias[h, t]
            weights = scores.exp() / scores.exp().sum()
            out[t, part] = weights @ v[:, part]
    return out


def tokens(x: Tensor) -> Tensor:
    """One image (C, H, W) as rows (H * W, C)."""
    return x.permute(1, 2, 0).reshape(-1, x.shape[0])


def rows(x: Tensor, p: Parameters) -> Tensor:
    return x @ p["weight"].T + p["bias"]


@pytest.fixture
def built(randomise):
    """Module in float64, its parameters, an input of two images."""

    def make(category: str, site: Site, **genes):
        part = part_from_json(category, genes)
        module = randomise(part.build(site)).double()
        x = torch.randn(2, site.in_channels, site.height, site.width, dtype=torch.float64)
        return part, module, Parameters(module.state_dict()), x

    return make


def same(module, x: Tensor, expected: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("genes", [{}, {"context": 5, "layer_scale": None, "norm": "batch"}])
def test_convnext(built, genes):
    _, module, p, x = built("operator", Site(8, 8, 5, 6), kind="convnext", **genes)
    y = norm(depthwise(x, p.at("depthwise.")), p.at("norm."))
    y = pointwise(gelu(pointwise(y, p.at("mlp.expand."))), p.at("mlp.project."))
    same(module, x, x + scale(y, p))


@pytest.mark.parametrize("expansion", [1, 3])
@pytest.mark.parametrize("channels", [8, 12])
def test_inverted_bottleneck_as_in_uninet(built, channels, expansion):
    genes = {"squeeze_excite": True, "norm": "batch", "expansion": expansion}
    site = Site(8, channels, 5, 4)
    _, module, p, x = built("operator", site, kind="inverted_bottleneck", **genes)
    y = x
    if expansion != 1:
        y = pointwise(norm(y, p.at("expand.first_norm.")), p.at("expand.linear."))
        y = gelu(norm(y, p.at("expand.norm.")))
    y = gelu(norm(depthwise(y, p.at("depthwise.")), p.at("norm.")))
    gate = pointwise(y.mean((2, 3), keepdim=True), p.at("squeeze_excite.reduce.")).clamp(min=0)
    gate = pointwise(gate, p.at("squeeze_excite.expand."))
    y = pointwise(y * (gate + 3).clamp(0, 6) / 6, p.at("project."))
    shortcut = x
    if channels != 8:
        pool = patches(x, 3, 1, 1, -math.inf).amax((4, 5))
        shortcut = pointwise(pool, p.at("shortcut.1."))
    same(module, x, shortcut + norm(y, p.at("last_norm.")))


@pytest.mark.parametrize("channels", [8, 48])  # heads narrower than the width, and wider
@pytest.mark.parametrize("position", ["none", "relative", "depthwise"])
@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_global_attention(built, channels, position, reduction):
    height, width = 5, 6
    genes = {"head_dim": 16, "position": position, "kv_reduction": reduction, "expansion": 2}
    site = Site(channels, channels, height, width)
    _, module, p, x = built("operator", site, kind="global_attention", **genes)
    heads = max(1, channels // 16)
    if position == "depthwise":
        x_in, x = x, x + depthwise(x, p.at("position.convolution."))
    else:
        x_in = x
    a = p.at("attention.branch.")
    bias = None
    if position == "relative":
        table = a["position.table"]
        keys = [(i, j) for i in range(0, height, reduction) for j in range(0, width, reduction)]
        queries = [(y, z) for y in range(height) for z in range(width)]
        bias = torch.zeros(heads, len(queries), len(keys), dtype=x.dtype)
        for t, (y, z) in enumerate(queries):
            for s, (i, j) in enumerate(keys):  # the zero offset is at (height - 1, width - 1)
                bias[:, t, s] = table[:, i - y + height - 1, j - z + width - 1]
    normed = norm(x, p.at("attention.norm."))
    source = normed
    if reduction > 1:
        source = norm(depthwise(normed, a.at("reduce.depthwise."), reduction), a.at("reduce.norm."))
    mixed = torch.zeros_like(x)
    for n in range(2):
        q = rows(tokens(normed[n]), a.at("q."))
        k, v = rows(tokens(source[n]), a.at("kv.")).chunk(2, dim=1)
        y = rows(attend(q, k, v, heads, bias), a.at("project."))
        mixed[n] = y.T.reshape(channels, height, width)
    y = x + scale(mixed, p.at("attention."))
    same(module, x_in, add_mlp(y, p.at("mlp.")))


@pytest.mark.parametrize(
    ("context", "window"), [(7, (5, 6)), (4, (3, 3)), (5, (5, 3))], ids=["one", "padded", "both"]
)
@pytest.mark.parametrize("position", ["none", "relative", "depthwise"])
def test_window_attention(built, context, window, position):
    """A map of 5 x 6: contexts of 4 make windows of 3 x 3, with a row of padding at the bottom."""
    channels, height, width = 32, 5, 6
    genes = {"context": context, "head_dim": 16, "position": position, "expansion": 2}
    site = Site(channels, channels, height, width)
    _, module, p, x = built("operator", site, kind="window_attention", **genes)
    x_in = x
    if position == "depthwise":
        x = x + depthwise(x, p.at("position.convolution."))
    a = p.at("attention.branch.")
    normed = norm(x, p.at("attention.norm."))
    mixed = torch.zeros_like(x)
    down, across = window
    inside = [(i, j) for i in range(down) for j in range(across)]
    for n in range(2):
        for top in range(0, height, down):
            for left in range(0, width, across):
                cell = torch.zeros(len(inside), channels, dtype=x.dtype)
                for t, (i, j) in enumerate(inside):
                    if top + i < height and left + j < width:
                        cell[t] = normed[n, :, top + i, left + j]
                bias = None
                if position == "relative":
                    bias = torch.zeros(2, len(inside), len(inside), dtype=x.dtype)
                    for t, (y, z) in enumerate(inside):
                        for s, (i, j) in enumerate(inside):
                            offset = i - y + down - 1, j - z + across - 1
                            bias[:, t, s] = a["position.table"][:, offset[0], offset[1]]
                k, v = rows(cell, a.at("kv.")).chunk(2, dim=1)
                out = rows(attend(rows(cell, a.at("q.")), k, v, 2, bias), a.at("project."))
                for t, (i, j) in enumerate(inside):
                    if top + i < height and left + j < width:
                        mixed[n, :, top + i, left + j] = out[t]
    y = x + scale(mixed, p.at("attention."))
    same(module, x_in, add_mlp(y, p.at("mlp.")))


@pytest.mark.parametrize("genes", [{}, {"token_ratio": 0.25, "layer_scale": 0.1, "norm": "batch"}])
def test_token_mlp(built, genes):
    site = Site(12, 12, 4, 5)
    _, module, p, x = built("operator", site, kind="token_mlp", **genes)
    t = p.at("tokens.branch.")
    y = norm(x, p.at("tokens.norm.")).reshape(2, 12, 20)
    hidden = torch.einsum("ncs,ts->nct", y, t["expand.weight"]) + t["expand.bias"]
    assert hidden.shape[2] == (4 if genes else 6)  # at least 4; else token_ratio * channels
    y = torch.einsum("nct,st->ncs", gelu(hidden), t["project.weight"]) + t["project.bias"]
    y = x + scale(y.reshape(x.shape), p.at("tokens."))
    same(module, x, add_mlp(y, p.at("mlp.")))


@pytest.mark.parametrize("genes", [{}, {"levels": 3, "context": 5, "layer_scale": 0.1}])
def test_focal_modulation(built, genes):
    channels, levels = 8, genes.get("levels", 2)
    site = Site(channels, channels, 5, 6)
    _, module, p, x = built("operator", site, kind="focal_modulation", **genes)
    f = p.at("modulation.branch.")
    y = pointwise(norm(x, p.at("modulation.norm.")), f.at("expand."))
    query, context = y[:, :channels], y[:, channels : 2 * channels]
    gates = y[:, 2 * channels :]
    total = torch.zeros_like(query)
    for level in range(levels):
        weight = f[f"levels.{level}.depthwise.weight"]
        assert weight.shape[-1] == genes.get("context", 3) + 2 * level
        context = gelu(depthwise(context, f.at(f"levels.{level}.depthwise.")))
        total = total + gates[:, level : level + 1] * context
    total = total + gates[:, levels:] * gelu(context.mean((2, 3), keepdim=True))
    assert gates.shape[1] == levels + 1
    y = pointwise(query * pointwise(total, f.at("modulator.")), f.at("project."))
    y = x + scale(y, p.at("modulation."))
    same(module, x, add_mlp(y, p.at("mlp.")))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("shortcut", [False, True])
def test_strided_convolution(built, stride, norm_first, kernel, shortcut):
    site = Site(6, 8, 5, 6, stride)
    genes = {"kernel": kernel, "norm_first": norm_first, "shortcut": shortcut}
    _, module, p, x = built("downsampling", site, kind="strided_convolution", **genes)
    y = norm(x, p.at("norm.")) if norm_first else x
    seen = patches(y, kernel, stride, (kernel - 1) // 2)
    y = torch.einsum("nchwab,dcab->ndhw", seen, p["convolution.weight"])
    y = y + p["convolution.bias"][:, None, None]
    y = y if norm_first else norm(y, p.at("norm."))
    same(module, x, y + pooled_shortcut(x, p.at("shortcut."), stride) if shortcut else y)


@pytest.mark.parametrize(
    ("kernel", "stride", "front"), [(3, 2, 1), (4, 4, 0), (7, 4, 3), (4, 2, 1), (4, 1, 1)]
)
def test_convolution_stem(built, kernel, stride, front):
    genes = {"channels": 5, "kernel": kernel, "stride": stride, "bias": True}
    site = Site(3, 5, 8, 12, stride)
    _, module, p, x = built("stem", site, kind="convolution", **genes)
    seen = patches(x, kernel, stride, front)
    y = torch.einsum("nchwab,dcab->ndhw", seen, p["convolution.weight"])
    same(module, x, gelu(norm(y + p["convolution.bias"][:, None, None], p.at("norm."))))


@pytest.mark.parametrize("stride", [1, 2])
def test_local_dsm(built, stride):
    _, module, p, x = built("downsampling", Site(6, 8, 5, 6, stride), kind="local_dsm")
    y = pointwise(norm(depthwise(x, p.at("depthwise."), stride), p.at("norm.")), p.at("linear."))
    same(module, x, y + pooled_shortcut(x, p.at("shortcut."), stride))


def along_the_sequence(x: Tensor, p: Parameters, stride: int) -> Tensor:
    """9 taps around the middle of every stride**2 pixels in reading order."""
    n, c, height, width = x.shape
    h, w = -(-height // stride), -(-width // stride)
    sequence, step = x.reshape(n, c, -1), stride**2
    y = p["bias"].repeat(n, h * w, 1).transpose(1, 2).clone()
    for query in range(h * w):
        for tap in range(9):
            place = query * step + tap - (9 - step) // 2
            if 0 <= place < height * width:
                y[:, :, query] += sequence[:, :, place] * p["weight"][:, 0, tap]
    return y.reshape(n, c, h, w)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("channels", [8, 40])
@pytest.mark.parametrize("kind", ["local_global_dsm", "global_dsm"])
def test_cross_attention_dsm(built, kind, channels, stride):
    site = Site(6, channels, 5, 6, stride)
    genes = {"head_dim": 16, "norm": "batch"}
    _, module, p, x = built("downsampling", site, kind=kind, **genes)
    convolve = depthwise if kind == "local_global_dsm" else along_the_sequence
    queries = norm(convolve(x, p.at("depthwise."), stride), p.at("norm."))
    queries = norm(pointwise(queries, p.at("q.")), p.at("q_norm."))
    normed = norm(x, p.at("kv_norm."))
    expected = pooled_shortcut(x, p.at("shortcut."), stride)
    for n in range(2):
        k, v = rows(tokens(normed[n]), p.at("kv.")).chunk(2, dim=1)
        y = attend(tokens(queries[n]), k, v, max(1, channels // 16))
        y = rows(y, p.at("project.")).T
        expected[n] += y.reshape(expected.shape[1:])
    same(module, x, expected)
