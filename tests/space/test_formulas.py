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


ACTIVATIONS = {
    "gelu": gelu,
    "relu": lambda x: x.clamp(min=0),
    "silu": lambda x: x / (1 + (-x).exp()),
    "hardswish": lambda x: x * (x + 3).clamp(0, 6) / 6,
}


def convolve(x: Tensor, p: Parameters, groups: int, stride: int = 1) -> Tensor:
    """A centred convolution in `groups` groups of channels."""
    weight = p["weight"]
    seen = patches(x, weight.shape[-1], stride, weight.shape[-1] // 2)
    size, out = x.shape[1] // groups, weight.shape[0] // groups
    y = torch.cat(
        [
            torch.einsum(
                "nchwab,dcab->ndhw",
                seen[:, g * size : (g + 1) * size],
                weight[g * out : (g + 1) * out],
            )
            for g in range(groups)
        ],
        1,
    )
    return y if p.get("bias") is None else y + p["bias"][:, None, None]


def test_inverted_bottleneck_as_an_mlp(built):
    genes = {"context": 0, "norm": "none", "bias": "all", "layer_scale": 0.1, "expansion": 2}
    _, module, p, x = built("operator", Site(6, 6, 3, 4), kind="inverted_bottleneck", **genes)
    same(module, x, add_mlp(x, p))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("first_norm", ["layer", "batch"])
def test_inverted_bottleneck_with_the_convolution_first(built, first_norm, stride):
    """ConvNeXt's block; with a stride the shortcut is averaged."""
    genes = {"convolution": "first", "first_norm": first_norm, "norm": "none", "bias": "all"}
    genes |= {"context": 5, "layer_scale": 0.1, "shortcut": "average"}
    site = Site(8, 8, 6, 8, stride)
    _, module, p, x = built("operator", site, kind="inverted_bottleneck", **genes)
    b = p.at("branch.")
    y = norm(depthwise(x, b.at("lead."), stride), b.at("norm."))
    y = pointwise(gelu(pointwise(y, b.at("expand.0."))), b.at("project."))
    shortcut = x.unfold(2, stride, stride).unfold(3, stride, stride).mean((4, 5))
    same(module, x, shortcut + scale(y, p))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [8, 12])
@pytest.mark.parametrize("style", ["hidden", "out"])
def test_inverted_bottleneck_as_in_uninet_and_coatnet(built, channels, style, stride):
    genes = {"squeeze_excite": True, "norm": "batch", "first_norm": "batch", "expansion": 3}
    genes |= {"squeeze_style": style, "last_norm": "batch" if style == "hidden" else "none"}
    genes |= {"expansion_of": "in" if style == "hidden" else "out"}
    genes |= {"shortcut": "max" if style == "hidden" else "average"}
    site = Site(8, channels, 5, 4, stride)
    _, module, p, x = built("operator", site, kind="inverted_bottleneck", **genes)
    b = p.at("branch.")
    y = gelu(norm(pointwise(norm(x, p.at("norm.")), b.at("expand.0.")), b.at("expand.1.")))
    assert y.shape[1] == 3 * (8 if style == "hidden" else channels)
    y = gelu(norm(depthwise(y, b.at("mix.0."), stride), b.at("mix.1.")))
    inner = ACTIVATIONS["relu" if style == "hidden" else "silu"]
    gate = inner(pointwise(y.mean((2, 3), keepdim=True), b.at("gate.reduce.")))
    gate = pointwise(gate, b.at("gate.expand."))
    gate = (gate + 3).clamp(0, 6) / 6 if style == "hidden" else 1 / (1 + (-gate).exp())
    y = pointwise(y * gate, b.at("project."))
    y = norm(y, b.at("last_norm.")) if style == "hidden" else y
    shortcut = x
    if style == "hidden" and (channels != 8 or stride > 1):
        pool = patches(x, 3, stride, 1, -math.inf).amax((4, 5))
        shortcut = pointwise(pool, p.at("shortcut.1."))
    if style == "out":
        if stride > 1:  # the last row's patch holds one row of pixels
            seen = patches(x, 2, 2, 0, math.nan)
            shortcut = seen.nanmean((4, 5))
        if channels != 8:
            where = p.at("shortcut.1." if stride > 1 else "shortcut.")
            shortcut = pointwise(shortcut, where)
    same(module, x, shortcut + y)


@pytest.mark.parametrize("groups", [0, 2])
@pytest.mark.parametrize("form", ["cmt", "smt", "moganet", "visformer"])
def test_inverted_bottleneck_as_a_feed_forward_layer(built, form, groups):
    genes = {
        "cmt": {"norm": "batch", "last_norm": "batch", "activation_first": True, "bias": "all"},
        "smt": {"norm": "none", "bias": "all", "activate": "convolution"},
        "moganet": {"norm": "none", "bias": "all", "activate": "convolution"},
        "visformer": {"norm": "none", "bias": "none"},
    }[form]
    genes |= {"inner_shortcut": form in ("cmt", "smt"), "aggregation": form == "moganet"}
    site = Site(6, 6, 4, 5)
    _, module, p, x = built(
        "operator", site, kind="inverted_bottleneck", expansion=2, groups=groups, **genes
    )
    b, u = p.at("branch."), norm(x, p.at("norm."))
    expand = "expand." if form in ("smt", "moganet") else "expand.0."
    u = pointwise(u, b.at(expand))
    u = gelu(u) if form in ("cmt", "visformer") else u
    u = norm(u, b.at("expand.2.")) if form == "cmt" else u
    mix = {"cmt": "mix.0.branch.", "smt": "mix.0.branch.", "moganet": "mix.0.0."}.get(
        form, "mix.0."
    )
    y = convolve(u, b.at(mix), groups or 12)
    y = gelu(y + u if form in ("cmt", "smt") else y)
    y = norm(y, b.at("mix.2.")) if form == "cmt" else y
    if form == "moganet":
        a = b.at("mix.1.")
        y = y + a["scale"][:, None, None] * (y - gelu(pointwise(y, a.at("reduce."))))
    y = pointwise(y, b.at("project."))
    y = norm(y, b.at("last_norm.")) if form == "cmt" else y
    same(module, x, x + y)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("kernel", [2, 3, 4])
@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_strided_convolution(built, stride, norm_first, kernel, shortcut, activation):
    site = Site(6, 12, 5, 6, stride)
    genes = {"kernel": kernel, "norm_first": norm_first, "shortcut": shortcut}
    genes |= {"activation": activation, "grouped": kernel == 4}
    _, module, p, x = built("downsampling", site, kind="strided_convolution", **genes)
    b = p.at("branch.") if shortcut else p
    weight = b["convolution.weight"]
    active = ACTIVATIONS.get(activation, lambda x: x)
    y = active(norm(x, b.at("norm."))) if norm_first else x
    front = 0 if (kernel, stride) == (2, 2) else (kernel - 1) // 2
    seen = patches(y, kernel, stride, front)
    if kernel == 4:  # as many groups as channels come in: each gives two
        y = torch.einsum("nchwab,cdab->ncdhw", seen, weight.unflatten(0, (6, 2))[:, :, 0])
        y = y.flatten(1, 2)
    else:
        y = torch.einsum("nchwab,dcab->ndhw", seen, weight)
    y = y + b["convolution.bias"][:, None, None]
    y = y if norm_first else active(norm(y, b.at("norm.")))
    same(module, x, y + pooled_shortcut(x, p.at("shortcut."), stride) if shortcut else y)


@pytest.mark.parametrize(
    ("kernel", "step", "front"), [(3, 2, 1), (4, 4, 0), (7, 4, 3), (4, 2, 1), (4, 1, 1)]
)
def test_convolution_stem(built, kernel, step, front):
    genes = {"channels": 5, "kernel": kernel, "step": step, "bias": True}
    site = Site(3, 5, 8, 12, step)
    _, module, p, x = built("stem", site, kind="convolution", **genes)
    seen = patches(x, kernel, step, front)
    y = torch.einsum("nchwab,dcab->ndhw", seen, p["0.weight"])
    same(module, x, gelu(norm(y + p["0.bias"][:, None, None], p.at("1."))))


def test_convolution_stem_of_several(built):
    genes = {"channels": 6, "before": [[3, 2, 0.5], [3, 1, 0.5]], "before_norm": "batch"}
    genes |= {"before_activation": "relu", "activation": "none", "norm": "none", "pool": True}
    genes |= {"last_norm": "layer"}
    _, module, p, x = built("stem", Site(3, 6, 16, 24, 8), kind="convolution", **genes)
    y = x
    for i, stride in ((0, 2), (3, 1)):
        y = norm(convolve(y, p.at(f"{i}."), 1, stride), p.at(f"{i + 1}.")).clamp(min=0)
    y = norm(convolve(y, p.at("6."), 1, 2), p.at("9."))
    same(module, x, patches(y, 3, 2, 1, -math.inf).amax((4, 5)))


@pytest.mark.parametrize("stride", [1, 2])
def test_local_dsm(built, stride):
    _, module, p, x = built("downsampling", Site(6, 8, 5, 6, stride), kind="local_dsm")
    b = p.at("branch.")
    y = pointwise(norm(depthwise(x, b.at("0."), stride), b.at("1.")), b.at("2."))
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
    queries = norm(convolve(x, p.at("query.0."), stride), p.at("query.1."))
    queries = norm(pointwise(queries, p.at("query.2.")), p.at("query.3."))
    normed = norm(x, p.at("key_value.0."))
    expected = pooled_shortcut(x, p.at("shortcut."), stride)
    for n in range(2):
        k, v = rows(tokens(normed[n]), p.at("key_value.1.")).chunk(2, dim=1)
        y = attend(tokens(queries[n]), k, v, max(1, channels // 16))
        y = rows(y, p.at("project.")).T
        expected[n] += y.reshape(expected.shape[1:])
    same(module, x, expected)


@pytest.mark.parametrize("hidden", ["none", "tanh"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_pooled_head(built, norm_first, hidden):
    genes = {"norm_first": norm_first, "hidden": hidden}
    _, module, p, x = built("head", Site(6, 5, 3, 4), kind="pooled", **genes)
    mean = {"dim": (2, 3), "keepdim": True}
    y = (
        norm(x, p.at("features.")).mean(**mean)
        if norm_first
        else norm(x.mean(**mean), p.at("norm."))
    )
    y = y.flatten(1)
    if hidden == "tanh":
        y = rows(y, p.at("classifier.0.")).tanh()
    same(module, x, rows(y, p.at("classifier.2." if hidden == "tanh" else "classifier.")))


def test_pooled_head_of_two_classifiers(built):
    genes = {"norm": "batch", "classifiers": 2}
    _, module, p, x = built("head", Site(6, 5, 3, 4), kind="pooled", **genes)
    mean, logits = x.mean((2, 3), keepdim=True), []
    for branch in range(2):
        b = p.at(f"classifier.branches.{branch}.")
        logits.append(rows(norm(mean, b.at("0.")).flatten(1), b.at("2.")))
    same(module, x, (logits[0] + logits[1]) / 2)
