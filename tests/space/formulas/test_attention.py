"""Attention against its formula in float64: query by query, from lists of the keys that it sees."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from space.genes import Flow, Site
from space.operators.attention import Attention
from space.slicing import Cut, describe

Pixel = tuple[int, int]
EXACT = {"atol": 1e-9, "rtol": 0}


class Weights:
    """Parameters and buffers of a module below a prefix."""

    def __init__(self, tensors: dict[str, Tensor], prefix: str = ""):
        self.tensors, self.prefix = tensors, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.tensors

    def at(self, prefix: str) -> Weights:
        return Weights(self.tensors, f"{self.prefix}{prefix}.")


@pytest.fixture
def built(randomise: Callable[[nn.Module], nn.Module]):
    """The module of an attention in float64 with random weights, and these."""

    def build(site: Site, **genes: Any) -> tuple[nn.Module, Weights]:
        module = randomise(Attention(**{"expansion": 0, **genes}).build(site).double())
        return module, Weights({**dict(module.named_parameters()), **dict(module.named_buffers())})

    return build


def image(site: Site) -> Tensor:
    return torch.randn(1, site.in_channels, site.height, site.width, dtype=torch.float64)


# ---- layers of one image (C, H, W)


def norm(x: Tensor, p: Weights) -> Tensor:
    """BatchNorm where there are statistics, else LayerNorm."""
    if "running_mean" in p:
        mean, variance = p["running_mean"][:, None, None], p["running_var"][:, None, None]
    else:
        mean = x.mean(0)
        variance = (x - mean).pow(2).mean(0)
    return (x - mean) / (variance + 1e-5).sqrt() * p["weight"][:, None, None] + shift(p)


def shift(p: Weights) -> Tensor | float:
    return p["bias"][:, None, None] if "bias" in p else 0.0


def linear(x: Tensor, p: Weights) -> Tensor:
    return torch.einsum("dc,chw->dhw", p["weight"], x) + shift(p)


def convolution(x: Tensor, p: Weights, stride: int, front: int) -> Tensor:
    """Depthwise or full; the first tap stands `front` pixels before the output's own."""
    weight = p["weight"]
    full, side = weight.shape[1] > 1, weight.shape[2]
    _, height, width = x.shape
    y = torch.zeros(len(weight), -(-height // stride), -(-width // stride), dtype=x.dtype)
    for i, j, a, b in product(range(y.shape[1]), range(y.shape[2]), range(side), range(side)):
        row, column = stride * i + a - front, stride * j + b - front
        if 0 <= row < height and 0 <= column < width:
            pixel, taps = x[:, row, column], weight[:, :, a, b]
            y[:, i, j] += taps @ pixel if full else taps[:, 0] * pixel
    return y + shift(p)


def pooled(x: Tensor, stride: int, how: Callable[..., Tensor]) -> Tensor:
    """The mean or maximum of squares, of what is left of them at the end."""
    _, height, width = x.shape
    y = torch.empty(len(x), -(-height // stride), -(-width // stride), dtype=x.dtype)
    for i, j in product(range(y.shape[1]), range(y.shape[2])):
        rows, columns = slice(stride * i, stride * (i + 1)), slice(stride * j, stride * (j + 1))
        y[:, i, j] = how(x[:, rows, columns], (1, 2))
    return y


def answer(q: Tensor, kv: Tensor, heads: int, bias: Tensor) -> Tensor:
    """One query (inner,), the keys and values that it sees (S, inner + values), bias (heads, S)."""
    inner = len(q)
    size, values = inner // heads, (kv.shape[1] - inner) // heads
    found = []
    for h in range(heads):
        own = slice(h * size, (h + 1) * size)
        scores = kv[:, own] @ q[own] / math.sqrt(size) + bias[h]
        weights = (scores - scores.max()).exp()
        value = kv[:, inner + h * values : inner + (h + 1) * values]
        found.append(weights / weights.sum() @ value)
    return torch.cat(found)


def answers(
    q: Tensor,
    kv: Tensor,
    heads: int,
    sees: Callable[[int, int], list[Pixel]],
    bias: Callable[[Pixel, Pixel], Tensor] | None = None,
    outside: Tensor | None = None,
) -> Tensor:
    """The answers to a map of queries; keys beyond the map are `outside`, or those of a zero."""
    _, height, width = kv.shape
    zero = torch.zeros(heads, dtype=q.dtype)
    out = []
    for i, j in product(range(q.shape[1]), range(q.shape[2])):
        seen = sees(i, j)
        keys = [kv[:, r, c] if 0 <= r < height and 0 <= c < width else outside for r, c in seen]
        added = [zero if bias is None else bias((i, j), key) for key in seen]
        out.append(answer(q[:, i, j], torch.stack(keys), heads, torch.stack(added, 1)))
    return torch.stack(out, 1).unflatten(1, q.shape[1:])


def everything(height: int, width: int) -> Callable[[int, int], list[Pixel]]:
    pixels = list(product(range(height), range(width)))
    return lambda i, j: pixels


# ---- what a pixel sees

HEADS = {"heads": 2, "head_dim": 3}


@pytest.mark.parametrize(
    ("fit", "rows", "columns"), [("even", 4, 4), ("padded", 5, 5)], ids=["even", "padded"]
)
@pytest.mark.parametrize("shifted", [False, True])
def test_windows(built, fit, rows, columns, shifted):
    """7 x 10 pixels in windows of at most 5: 2 x 2 windows of 4 x 5, or of 5 x 5."""
    columns = 5
    site = Site(6, 6, 7, 10)
    genes = {"region": "window", "context": 5, "fit": fit, "shift": shifted}
    module, p = built(site, position="relative", **genes, **HEADS)
    x = image(site)
    up, left = (rows // 2, columns // 2) if shifted else (0, 0)
    height, width = 2 * rows, 2 * columns

    def window(r: int, c: int) -> Pixel:
        # A window moved down and right cuts the map at its edges instead of going round.
        return (r - up) // rows, (c - left) // columns

    def sees(i: int, j: int) -> list[Pixel]:
        pixels = product(range(height), range(width))
        return [pixel for pixel in pixels if window(*pixel) == window(i, j)]

    table = p["mixer.branch.position.table"]

    def bias(query: Pixel, key: Pixel) -> Tensor:
        return table[:, key[0] - query[0] + rows - 1, key[1] - query[1] + columns - 1]

    b = p.at("mixer.branch")
    u = norm(x[0], p.at("mixer.norm"))
    q, kv = linear(u, b.at("q")), linear(u, b.at("kv"))
    y = answers(q, kv, 2, sees, bias, outside=b["kv.bias"])
    torch.testing.assert_close(module(x)[0], x[0] + linear(y, b.at("project")), **EXACT)


def test_a_window_as_large_as_the_map_does_not_shift(built):
    site = Site(6, 6, 5, 4)
    genes = {"region": "window", "context": 5, "position": "relative", **HEADS}
    one, _ = built(site, **genes)
    other, _ = built(site, **genes, shift=True)
    other.load_state_dict(one.state_dict())
    x = image(site)
    torch.testing.assert_close(one(x), other(x), **EXACT)


@pytest.mark.parametrize("region", ["global", "window"])
def test_a_table_looked_up_by_products(built, region):
    site = Site(6, 6, 5, 4)
    one, _ = built(site, position="relative", region=region, context=3, **HEADS)
    other, _ = built(site, position="products", region=region, context=3, **HEADS)
    other.load_state_dict(one.state_dict())
    x = image(site)
    torch.testing.assert_close(one(x), other(x), **EXACT)


@pytest.mark.parametrize(("fit", "down", "across"), [("even", 2, 2), ("padded", 2, 2)])
def test_grid(built, fit, down, across):
    """7 x 10 pixels in groups of at most 5 x 5, whose pixels stand 2 apart."""
    rows, columns = (4, 5) if fit == "even" else (5, 5)
    site = Site(6, 6, 7, 10)
    module, p = built(site, region="grid", context=5, fit=fit, position="relative", **HEADS)
    x = image(site)

    def sees(i: int, j: int) -> list[Pixel]:
        own = range(i % down, rows * down, down), range(j % across, columns * across, across)
        return list(product(*own))

    table = p["mixer.branch.position.table"]

    def bias(query: Pixel, key: Pixel) -> Tensor:
        dy, dx = (key[0] - query[0]) // down, (key[1] - query[1]) // across
        return table[:, dy + rows - 1, dx + columns - 1]

    b = p.at("mixer.branch")
    u = norm(x[0], p.at("mixer.norm"))
    q, kv = linear(u, b.at("q")), linear(u, b.at("kv"))
    y = answers(q, kv, 2, sees, bias, outside=b["kv.bias"])
    torch.testing.assert_close(module(x)[0], x[0] + linear(y, b.at("project")), **EXACT)


def offset_terms(
    q: Tensor, p: Weights, heads: int, keys: Pixel, scaled: bool = False
) -> Callable[[Pixel, Pixel, Pixel], Tensor]:
    """q . rows[dy] + q . columns[dx] for a query pixel and its offset to a key."""
    size = len(q) // heads
    factor = size**-0.5 if scaled else 1.0

    def term(query: Pixel, place: Pixel, key: Pixel) -> Tensor:
        vector = factor * q[:, query[0], query[1]].unflatten(0, (heads, size))
        row = p["rows"][key[0] - place[0] + keys[0] - 1]
        column = p["columns"][key[1] - place[1] + keys[1] - 1]
        return vector @ row + vector @ column

    return term


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("position", ["none", "query"])
def test_halo(built, position, stride):
    """Blocks of 4 x 4 pixels see one pixel more on each side; beyond the map keys are zero."""
    site = Site(6, 8, 7, 9, stride)
    more = {"value_ratio": 2, "downsampled": "queries", "qkv_bias": False}
    genes = {"region": "halo", "context": 4, "halo": 1, "fit": "padded", "position": position}
    module, p = built(site, **genes, **more, **HEADS)
    x = image(site)
    b = p.at("mixer.branch" if stride == 1 else "mixer.1")
    u = norm(x[0], p.at("mixer.norm" if stride == 1 else "mixer.0"))
    q, kv = linear(u[:, ::stride, ::stride], b.at("q")), linear(u, b.at("kv"))
    block = 4 // stride

    def start(i: int) -> int:
        return i // block * 4 - 1

    def sees(i: int, j: int) -> list[Pixel]:
        sides = range(start(i), start(i) + 6), range(start(j), start(j) + 6)
        return list(product(*sides))

    bias = None
    if position == "query":
        term = offset_terms(q, b.at("position"), 2, (6, 6))

        def bias(query: Pixel, key: Pixel) -> Tensor:
            place = (query[0] % block, query[1] % block)
            return term(query, place, (key[0] - start(query[0]), key[1] - start(query[1])))

    y = answers(q, kv, 2, sees, bias, outside=torch.zeros(len(kv), dtype=torch.float64))
    y = linear(y, b.at("project"))
    if stride == 1:
        y = y + linear(x[0], p.at("mixer.shortcut.1"))
    torch.testing.assert_close(module(x)[0], y, **EXACT)


# ---- positions


@pytest.mark.parametrize("position", ["query", "scaled_query"])
@pytest.mark.parametrize("region", ["global", "window"])
def test_position_by_query(built, position, region):
    site = Site(6, 6, 3, 8)
    module, p = built(site, position=position, region=region, context=4, **HEADS)
    x = image(site)
    b = p.at("mixer.branch")
    u = norm(x[0], p.at("mixer.norm"))
    q, kv = linear(u, b.at("q")), linear(u, b.at("kv"))
    columns = 8 if region == "global" else 4
    term = offset_terms(q, b.at("position"), 2, (3, columns), position == "scaled_query")

    def sees(i: int, j: int) -> list[Pixel]:
        return [(r, c) for r, c in product(range(3), range(8)) if c // columns == j // columns]

    y = answers(q, kv, 2, sees, lambda query, key: term(query, query, key))
    torch.testing.assert_close(module(x)[0], x[0] + linear(y, b.at("project")), **EXACT)


def resized(table: Tensor, sides: Pixel) -> Tensor:
    """Each number from the four around its place, with pixels' centres at halves."""
    out = torch.empty(len(table), *sides, dtype=table.dtype)
    spots = []
    for side, known in zip(sides, table.shape[1:], strict=True):
        places = [max(0.0, (t + 0.5) * known / side - 0.5) for t in range(side)]
        spots.append([(int(s), min(int(s) + 1, known - 1), s - int(s)) for s in places])
    for (i, (a, b, f)), (j, (c, d, g)) in product(enumerate(spots[0]), enumerate(spots[1])):
        above = (1 - g) * table[:, a, c] + g * table[:, a, d]
        below = (1 - g) * table[:, b, c] + g * table[:, b, d]
        out[:, i, j] = (1 - f) * above + f * below
    return out


@pytest.mark.parametrize("sides", [(3, 5), (9, 8), (7, 7)], ids=str)
def test_a_resized_table(built, sides):
    site = Site(6, 6, *sides)
    module, p = built(site, position="resized", base=7, **HEADS)
    x = image(site)
    b = p.at("mixer.branch")
    table = resized(p["mixer.branch.position.base"], (2 * sides[0] - 1, 2 * sides[1] - 1))
    if sides == (7, 7):
        torch.testing.assert_close(table, p["mixer.branch.position.base"], **EXACT)

    def bias(query: Pixel, key: Pixel) -> Tensor:
        return table[:, key[0] - query[0] + sides[0] - 1, key[1] - query[1] + sides[1] - 1]

    u = norm(x[0], p.at("mixer.norm"))
    q, kv = linear(u, b.at("q")), linear(u, b.at("kv"))
    y = answers(q, kv, 2, everything(*sides), bias)
    torch.testing.assert_close(module(x)[0], x[0] + linear(y, b.at("project")), **EXACT)


def test_a_shared_table(built):
    """Any bias for each head, query and key, from beside the map."""
    site = Site(6, 6, 4, 6, flow=Flow("pair_bias", 2))
    genes = {"position": "shared", "kv_reduction": 2, "reduction": "patches", "expansion": 2}
    module, p = built(site, **genes, **HEADS)
    x, table = image(site), torch.randn(1, 2, 24, 6, dtype=torch.float64)
    b = p.at("mixer.branch")
    u = norm(x[0], p.at("mixer.norm"))
    below = norm(convolution(u, b.at("reduce.convolution"), 2, 0), b.at("reduce.norm"))

    def bias(query: Pixel, key: Pixel) -> Tensor:
        return table[0, :, 6 * query[0] + query[1], 3 * key[0] + key[1]]

    q, kv = linear(u, b.at("q")), linear(below, b.at("kv"))
    y = x[0] + linear(answers(q, kv, 2, everything(2, 3), bias), b.at("project"))
    m = p.at("mlp.part.branch")
    inner = nn.functional.gelu(linear(norm(y, p.at("mlp.part.norm")), m.at("expand")))
    given, passed = module((x, table))
    torch.testing.assert_close(given[0], y + linear(inner, m.at("project")), **EXACT)
    assert passed is table


@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_a_relative_table_with_fewer_keys(built, reduction):
    """Key (i, j) stands at input row and column `reduction` times these."""
    site = Site(6, 6, 5, 6)
    genes = {"kv_reduction": reduction, "position": "relative"}
    module, p = built(site, **genes, **HEADS)
    x = image(site)
    b = p.at("mixer.branch")
    u = below = norm(x[0], p.at("mixer.norm"))
    if reduction > 1:
        below = convolution(u, b.at("reduce.convolution"), reduction, 1)
        below = norm(below, b.at("reduce.norm"))
    table = p["mixer.branch.position.table"]
    assert table.shape[1] == 5 + reduction * (-(-5 // reduction) - 1)

    def bias(query: Pixel, key: Pixel) -> Tensor:
        dy, dx = (reduction * k - at for k, at in zip(key, query, strict=True))
        return table[:, dy + 4, dx + 5]

    q, kv = linear(u, b.at("q")), linear(below, b.at("kv"))
    y = answers(q, kv, 2, everything(*kv.shape[1:]), bias)
    torch.testing.assert_close(module(x)[0], x[0] + linear(y, b.at("project")), **EXACT)


def test_a_table_keeps_its_offsets_in_a_smaller_map():
    """The middle of a table serves a smaller map, reduction and stride, offset by offset."""
    large = Attention(position="relative", **HEADS)
    small = Attention(position="relative", downsampled="queries", **HEADS)
    axes = {}
    for part, site in ((large, Site(6, 6, 9, 8)), (small, Site(6, 6, 5, 4, 2))):
        with torch.device("meta"):
            module = part.build(site)
        shapes = {name: tuple(w.shape) for name, w in module.named_parameters()}
        name = next(name for name in shapes if name.endswith("position.table"))
        axes[part] = describe(shapes, part.axes(site))[name]
    offsets = torch.arange(17)[:, None] - 8 + 100.0 * (torch.arange(15) - 7)
    cut = Cut.between(axes[small], axes[large])(offsets.expand(2, -1, -1))
    rows = torch.arange(-4, 5)[:, None]  # queries 0, 2, 4 and keys 0 to 4
    columns = torch.arange(-2, 4)  # queries 0, 2 and keys 0 to 3
    assert torch.equal(cut[0], rows + 100.0 * columns)


# ---- what makes the keys


@pytest.mark.parametrize("sides", [(4, 6), (5, 7)], ids=str)
@pytest.mark.parametrize("reduction", ["depthwise", "patches", "full_patches", "row_mean"])
def test_reductions(built, reduction, sides):
    site = Site(6, 6, *sides)
    module, p = built(site, kv_reduction=2, reduction=reduction, **HEADS)
    x = image(site)
    b = p.at("mixer.branch")
    u = norm(x[0], p.at("mixer.norm"))
    if reduction == "row_mean":
        rows = u.flatten(1).split(4, 1)
        below = torch.stack([four.mean(1) for four in rows], 1)[:, :, None]
        below = norm(below, b.at("reduce.1"))
        assert "reduce.1.running_mean" in b
    else:
        below = convolution(u, b.at("reduce.convolution"), 2, int(reduction == "depthwise"))
        assert ("reduce.convolution.bias" in b) == (reduction != "depthwise")
        assert ("reduce.norm.running_mean" in b) == (reduction == "patches")
        below = norm(below, b.at("reduce.norm"))
    q, kv = linear(u, b.at("q")), linear(below, b.at("kv"))
    y = answers(q, kv, 2, everything(*kv.shape[1:]))
    torch.testing.assert_close(module(x)[0], x[0] + linear(y, b.at("project")), **EXACT)


# ---- layers


def test_a_block_of_vit(built):
    """Norm, attention, layer scale; norm, MLP, layer scale; D / heads channels each."""
    site = Site(12, 12, 3, 4)
    module, p = built(site, heads=3, head_dim=0, expansion=2.5, layer_scale=0.1)
    x = image(site)
    b = p.at("mixer.branch")
    u = norm(x[0], p.at("mixer.norm"))
    y = answers(linear(u, b.at("q")), linear(u, b.at("kv")), 3, everything(3, 4))
    y = x[0] + p["mixer.scale.weight"][:, None, None] * linear(y, b.at("project"))
    inner = linear(norm(y, p.at("mlp.norm")), p.at("mlp.branch.expand"))
    assert len(inner) == 30
    inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
    inner = linear(inner, p.at("mlp.branch.project"))
    y = y + p["mlp.scale.weight"][:, None, None] * inner
    torch.testing.assert_close(module(x)[0], y, **EXACT)


def test_class_tokens_are_pixels_without_a_place(built):
    site = Site(6, 6, 3, 4, flow=Flow("tokens", 2))
    module, _ = built(site, expansion=2, **HEADS)
    row, _ = built(Site(6, 6, 14, 1), expansion=2, **HEADS)
    row.load_state_dict({name.partition(".")[2]: w for name, w in module.state_dict().items()})
    x, tokens = image(site), torch.randn(1, 6, 2, 1, dtype=torch.float64)
    y, given = module((x, tokens))
    both = row(torch.cat([tokens, x.flatten(2)[..., None]], 2))
    torch.testing.assert_close(given, both[:, :, :2], **EXACT)
    torch.testing.assert_close(y.flatten(2), both[:, :, 2:, 0], **EXACT)


def test_depthwise_position_stands_in_front(built):
    site = Site(6, 6, 3, 4)
    module, p = built(site, position="depthwise", **HEADS)
    x = image(site)
    b = p.at("mixer.branch")
    placed = x[0] + convolution(x[0], p.at("position.convolution"), 1, 1)
    u = norm(placed, p.at("mixer.norm"))
    y = answers(linear(u, b.at("q")), linear(u, b.at("kv")), 2, everything(3, 4))
    torch.testing.assert_close(module(x)[0], placed + linear(y, b.at("project")), **EXACT)


def test_bypass_is_beside_the_attention(built):
    """SPACH: x + scale(attention(norm(x))) + depthwise 3x3 of x."""
    site = Site(6, 6, 3, 4)
    module, p = built(site, bypass=True, layer_scale=0.1, **HEADS)
    x = image(site)
    b = p.at("mixer.branch")
    u = norm(x[0], p.at("mixer.norm"))
    y = answers(linear(u, b.at("q")), linear(u, b.at("kv")), 2, everything(3, 4))
    y = p["mixer.scale.weight"][:, None, None] * linear(y, b.at("project"))
    beside = convolution(x[0], p.at("mixer.shortcut.convolution"), 1, 1)
    torch.testing.assert_close(module(x)[0], x[0] + beside + y, **EXACT)
    for site in (Site(6, 8, 4, 4), Site(6, 6, 4, 4, 2)):
        with pytest.raises(ValueError, match="bypass is True, but must be False where width or"):
            Attention(bypass=True).build(site)


def test_values_convolved(built):
    """SMT: project(attention + depthwise 3x3 of the values)."""
    site = Site(6, 6, 3, 4)
    module, p = built(site, value_position=True, value_ratio=2, **HEADS)
    x = image(site)
    b = p.at("mixer.branch")
    u = norm(x[0], p.at("mixer.norm"))
    q, kv = linear(u, b.at("q")), linear(u, b.at("kv"))
    y = answers(q, kv, 2, everything(3, 4))
    y = y + convolution(kv[6:], b.at("attend.depthwise"), 1, 1)
    torch.testing.assert_close(module(x)[0], x[0] + linear(y, b.at("project")), **EXACT)


@pytest.mark.parametrize("project", ["plain", "none"])
def test_without_biases_and_scaled_by_the_width(built, project):
    """CvT divides by the root of all channels: 8 here, where a head has 4."""
    site = Site(8, 8, 3, 4)
    module, p = built(
        site, heads=2, head_dim=0, qkv_bias=False, project=project, scale="width", norm="none"
    )
    x = image(site)
    b = p.at("mixer.branch")
    assert not [name for name in p.tensors if name.endswith("bias") or "norm" in name]
    q = linear(x[0], b.at("q.0")) * math.sqrt(4 / 8)
    y = answers(q, linear(x[0], b.at("kv")), 2, everything(3, 4))
    y = linear(y, b.at("project")) if project == "plain" else y
    torch.testing.assert_close(module(x)[0], x[0] + y, **EXACT)


LEVIT = {
    "linear_norm": True,
    "norm": "batch",
    "qkv_bias": False,
    "project": "plain",
    "inner_activation": "hardswish",
    "position": "offsets",
    "downsampled": "queries",
}


@pytest.mark.parametrize("stride", [1, 2])
def test_the_attention_of_levit(built, stride):
    """Norms behind the linear layers, hardswish; a stride asks from every second pixel, and has no
    shortcut."""
    site = Site(6, 6 if stride == 1 else 10, 5, 4, stride)
    module, p = built(site, value_ratio=2, **LEVIT, **HEADS)
    x = image(site)
    b = p.at("mixer.branch" if stride == 1 else "mixer.1")
    q = norm(linear(x[0, :, ::stride, ::stride], b.at("q.0")), b.at("q.1"))
    kv = norm(linear(x[0], b.at("kv.0")), b.at("kv.1"))
    table = b["position.distances"]

    def bias(query: Pixel, key: Pixel) -> Tensor:
        return table[:, abs(key[0] - stride * query[0]), abs(key[1] - stride * query[1])]

    y = answers(q, kv, 2, everything(5, 4), bias)
    y = y * (y + 3).clamp(0, 6) / 6
    last = ("project.linear", "project.norm") if stride == 1 else ("project.0", "project.1")
    y = norm(linear(y, b.at(last[0])), b.at(last[1]))
    torch.testing.assert_close(module(x)[0], x[0] + y if stride == 1 else y, **EXACT)


def test_a_residual_with_norms_behind_starts_as_its_shortcut():
    module = Attention(expansion=0, **LEVIT).build(Site(8, 8, 4, 4)).eval()
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(module(x), x)
    assert Attention(expansion=0, **LEVIT).build(Site(8, 8, 4, 4, 2)).eval()(x).abs().max() > 0


@pytest.mark.parametrize(
    ("downsampled", "how"),
    [("input", torch.mean), ("input_max", torch.amax), ("output", torch.mean)],
)
def test_downsampling_as_in_coatnet(built, downsampled, how):
    """The pooled map, normed before, is attended to, or the answers are pooled; the shortcut pools
    what comes in and has a linear layer where the width changes."""
    site = Site(6, 10, 5, 4, 2)
    genes = {"downsampled": downsampled, "position": "relative"}
    module, p = built(site, **genes, **HEADS)
    x = image(site)
    place = "mixer.branch.0" if downsampled == "output" else "mixer.branch.1"
    b, u = p.at(place), norm(x[0], p.at("mixer.norm"))
    if downsampled != "output":
        u = pooled(u, 2, how)
    height, width = u.shape[1:]
    table = b["position.table"]

    def bias(query: Pixel, key: Pixel) -> Tensor:
        return table[:, key[0] - query[0] + height - 1, key[1] - query[1] + width - 1]

    y = answers(linear(u, b.at("q")), linear(u, b.at("kv")), 2, everything(height, width), bias)
    y = linear(y, b.at("project"))
    if downsampled == "output":
        y = pooled(y, 2, how)
    shortcut = linear(pooled(x[0], 2, how), p.at("mixer.shortcut.1"))
    torch.testing.assert_close(module(x)[0], shortcut + y, **EXACT)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_bottleneck_of_botnet(built, stride):
    """Attention without a norm in front or a projection behind, and an average pool; norm and
    activation follow. Values are wider than the middle."""
    site = Site(8, 16, 4, 6, stride)
    genes = {"shell": "bottleneck", "ratio": 0.5, "downsampled": "output", "project": "none"}
    genes |= {"heads": 2, "head_dim": 0, "value_ratio": 1.5, "norm": "batch", "activation": "relu"}
    module, p = built(site, position="scaled_query", qkv_bias=False, **genes)
    x = image(site)
    m = p.at("mixer")
    u = norm(linear(x[0], m.at("reduce.0")), m.at("reduce.1")).relu()
    b = m.at("inner" if stride == 1 else "inner.0")
    q, kv = linear(u, b.at("q")), linear(u, b.at("kv"))
    term = offset_terms(q, b.at("position"), 2, (4, 6), scaled=True)
    y = answers(q, kv, 2, everything(4, 6), lambda query, key: term(query, query, key))
    assert len(y) == 12
    y = pooled(y, stride, torch.mean)
    y = norm(y, m.at("middle.0")).relu()
    y = norm(linear(y, m.at("expand")), m.at("last_norm"))
    first = next(name for name in p.tensors if ".shortcut." in name)
    place = int(first.split(".")[2])
    weight = p[first].flatten(1)
    shortcut = torch.einsum("dc,chw->dhw", weight, x[0, :, ::stride, ::stride])
    y = (norm(shortcut, m.at(f"shortcut.{place + 1}")) + y).relu()
    torch.testing.assert_close(module(x)[0], y, **EXACT)


def test_linear_scoring_stands_in_the_same_place(built):
    """relu(q) (t relu(k)^T v) / max(relu(q) . sum relu(k), 100) between the same layers."""
    site = Site(6, 6, 3, 4)
    module, p = built(site, scoring="linear", region="window", context=2, fit="padded", **HEADS)
    x = image(site)
    b = p.at("mixer.branch")
    u = torch.zeros(6, 4, 4, dtype=torch.float64)  # a row of padding below
    u[:, :3] = norm(x[0], p.at("mixer.norm"))
    q, kv = linear(u, b.at("q")).relu(), linear(u, b.at("kv"))
    y = torch.empty(6, 4, 4, dtype=torch.float64)
    for i, j, h in product(range(4), range(4), range(2)):
        own, values = slice(3 * h, 3 * h + 3), slice(6 + 3 * h, 9 + 3 * h)
        rows, columns = slice(i // 2 * 2, i // 2 * 2 + 2), slice(j // 2 * 2, j // 2 * 2 + 2)
        keys = kv[own, rows, columns].relu().flatten(1)
        likeness = keys.mT @ q[own, i, j]
        value = kv[values, rows, columns].flatten(1) @ likeness
        y[own, i, j] = b["attend.scale"][h] * value / max(likeness.sum().item(), 100)
    y = linear(y, b.at("project"))[:, :3]
    torch.testing.assert_close(module(x)[0], x[0] + y, **EXACT)


# ---- refusals


@pytest.mark.parametrize(
    ("genes", "words"),
    [
        ({"heads": 0, "head_dim": 0}, "heads and head_dim are both 0"),
        ({"shift": True}, "shift is True, but makes no difference without windows"),
        ({"halo": 2}, "halo is 2, but makes no difference without a halo"),
        ({"reduction": "patches"}, "reduction is 'patches', but makes no difference"),
        ({"base": 14}, "base is 14, but makes no difference"),
        ({"linear_norm": True}, "linear_norm stands in place of biases"),
        ({"shell": "bottleneck"}, "expansion is 4, but must be 0 in a bottleneck"),
        ({"region": "halo", "position": "relative"}, "region 'halo' and position 'relative'"),
        ({"kv_reduction": 2, "position": "offsets"}, "kv_reduction 2 and position 'offsets'"),
        ({"scoring": "linear", "position": "relative"}, "scoring 'linear' and position"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_make_no_sense_are_refused(genes, words):
    with pytest.raises(ValueError, match=words):
        Attention(**genes)


@pytest.mark.parametrize(
    ("genes", "site", "words"),
    [
        ({"heads": 5, "head_dim": 0}, Site(8, 8, 4, 4), "8 channels are not a multiple"),
        ({"project": "none"}, Site(48, 48, 4, 4), "32 channels of values are not the 48"),
        ({"position": "shared"}, Site(8, 8, 4, 4), "needs stride 1 and a table of pairs for 1"),
        (
            {"region": "window", "downsampled": "queries"},
            Site(8, 8, 4, 4, 2),
            "which region 'window' cannot do",
        ),
        (
            {"region": "halo", "context": 5, "downsampled": "queries", "fit": "padded"},
            Site(8, 8, 10, 10, 2),
            "blocks of 5x5 pixels",
        ),
        (
            {"position": "relative"},
            Site(8, 8, 4, 4, flow=Flow("tokens", 1)),
            "position is 'relative', but must be 'none' where class tokens",
        ),
    ],
    ids=["heads", "project", "shared", "queries", "halo", "tokens"],
)
def test_places_where_it_cannot_stand_are_refused(genes, site, words):
    with pytest.raises(ValueError, match=words):
        Attention(**genes).blueprint(site)
