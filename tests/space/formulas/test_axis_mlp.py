"""The axis MLP against its formulas in float64: pixel by pixel, without shifting any tensor."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from space.genes import Site, part_from_json
from space.operators.axis_mlp import AxisMlp
from space.slicing import Cut, describe

SITES = [Site(10, 10, 5, 4), Site(8, 8, 1, 7), Site(6, 6, 4, 2)]


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


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def norm(x: Tensor, p: Weights, kind: str) -> Tensor:
    """One image (C, H, W)."""
    if kind == "none":
        return x
    if kind == "batch":
        mean, variance = p["running_mean"][:, None, None], p["running_var"][:, None, None]
    else:
        axes = (0, 1, 2) if kind == "group" else (0,)
        mean = x.mean(axes, keepdim=True)
        variance = (x - mean).pow(2).mean(axes, keepdim=True)
    y = (x - mean) / (variance + 1e-5).sqrt()
    return y * p["weight"][:, None, None] + p["bias"][:, None, None]


def pointwise(x: Tensor, p: Weights, *, bias: bool = True) -> Tensor:
    """A linear layer on the first axis."""
    assert ("bias" in p) == bias
    y = torch.einsum("dc,chw->dhw", p["weight"], x)
    return y + p["bias"][:, None, None] if bias else y


def depthwise(x: Tensor, weight: Tensor) -> Tensor:
    """x (C, H, W), weight (C, rows, columns), zeros outside the map."""
    _, height, width = x.shape
    _, rows, columns = weight.shape
    y = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            for a in range(rows):
                for b in range(columns):
                    row, column = i + a - rows // 2, j + b - columns // 2
                    if 0 <= row < height and 0 <= column < width:
                        y[:, i, j] += weight[:, a, b] * x[:, row, column]
    return y


def read(x: Tensor, offset: Callable[[int], tuple[int, int]]) -> Tensor:
    """Channel c at (i, j) is that of the pixel `offset(c)` further down and right; 0 outside."""
    channels, height, width = x.shape
    y = torch.zeros_like(x)
    for c in range(channels):
        down, right = offset(c)
        for i in range(height):
            for j in range(width):
                if 0 <= i + down < height and 0 <= j + right < width:
                    y[c, i, j] = x[c, i + down, j + right]
    return y


def reweighted(first: Tensor, second: Tensor, channel: Tensor, p: Weights) -> Tensor:
    branches, channels = (first, second, channel), len(first)
    mean = sum(branches).mean((1, 2), keepdim=True)
    assert len(p.at("weigh.0")["weight"]) == max(1, channels // 4)
    scores = pointwise(gelu(pointwise(mean, p.at("weigh.0"))), p.at("weigh.2"))[:, 0, 0]
    y = torch.zeros_like(first)
    for c in range(channels):
        shares = scores[3 * c : 3 * c + 3].exp()
        for share, branch in zip(shares / shares.sum(), branches, strict=True):
            y[c] += share * branch[c]
    return pointwise(y, p.at("project"))


@pytest.fixture
def check(randomise):
    """Holds an axis MLP at a site against `formula(one normed image, parameters)` of its mixer."""

    def hold(site: Site, formula, **genes) -> None:
        part = AxisMlp(**genes)
        module = randomise(part.build(site)).double()
        p = Weights(dict(module.state_dict()))
        x = torch.randn(2, site.channels, site.height, site.width, dtype=torch.float64)
        with torch.no_grad():
            y = module(x)
        for image, found in zip(x, y, strict=True):
            mixed = formula(norm(image, p.at("mixer.norm"), part.norm), p.at("mixer.branch"))
            expected = image + mixed * scale_of(p.at("mixer.scale"))
            if part.expansion:
                inner = norm(expected, p.at("mlp.norm"), part.norm)
                inner = gelu(pointwise(inner, p.at("mlp.branch.expand")))
                inner = pointwise(inner, p.at("mlp.branch.project"))
                expected = expected + inner * scale_of(p.at("mlp.scale"))
            torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)

    return hold


def scale_of(p: Weights) -> Tensor | int:
    return p["weight"][:, None, None] if "weight" in p else 1


@pytest.mark.parametrize("site", [Site(12, 12, 4, 4), Site(12, 12, 6, 2)])
def test_permute_as_in_vip(check, site):
    channels, height, width = site.channels, site.height, site.width

    def down(x, p):
        segments, per = height, channels // height
        y = torch.zeros_like(x)
        for g in range(segments):
            part = slice(g * per, (g + 1) * per)
            for j in range(width):
                stacked = torch.cat([x[part, i, j] for i in range(height)])
                mixed = p["linear.weight"] @ stacked
                for i in range(height):
                    y[part, i, j] = mixed[i * per : (i + 1) * per]
        return y

    def along(x, p):
        segments, per = width, channels // width
        y = torch.zeros_like(x)
        for g in range(segments):
            part = slice(g * per, (g + 1) * per)
            for i in range(height):
                stacked = torch.cat([x[part, i, j] for j in range(width)])
                mixed = p["linear.weight"] @ stacked
                for j in range(width):
                    y[part, i, j] = mixed[j * per : (j + 1) * per]
        return y

    def formula(x, p):
        channel = pointwise(x, p.at("channel"), bias=False)
        return reweighted(down(x, p.at("first")), along(x, p.at("second")), channel, p)

    check(site, formula, mixing="permute", expansion=3)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("context", [3, 5, 13])
def test_cycle(check, site, context):
    def further(c):
        return (c + context // 2) % context - context // 2

    def formula(x, p):
        along = pointwise(read(x, lambda c: (0, further(c))), p.at("first.1"))
        down = pointwise(read(x, lambda c: (further(c), 0)), p.at("second.1"))
        return reweighted(along, down, pointwise(x, p.at("channel"), bias=False), p)

    check(site, formula, context=context, layer_scale=0.1)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(
    ("context", "step", "inner_norm"), [(3, 0, "batch"), (2, 1, "none"), (4, 6, "layer")]
)
def test_region_as_in_hire_mlp(check, site, context, step, inner_norm):
    """A region is `context` pixels on a ring of the axis that has been turned by `step`."""

    def regional(x, p):
        """Along the first axis of the map, x (C, side, other)."""
        channels, side, _ = x.shape
        y = torch.zeros_like(x)
        for start in range(0, side, context):
            places = [(start + k - step) % side for k in range(context)]
            stacked = torch.stack([x[:, place] for place in places], 1).flatten(0, 1)
            inner = pointwise(stacked[:, None], p.at("reduce"), bias=False)
            inner = norm(inner, p.at("norm"), inner_norm).clamp(min=0)
            out = pointwise(inner, p.at("expand"))[:, 0].unflatten(0, (channels, context))
            for k, place in enumerate(places):
                if start + k < side:  # the last region may go round to pixels of the first
                    y[:, place] = out[:, k]
        return y

    def formula(x, p):
        down = regional(x, p.at("first"))
        along = regional(x.mT, p.at("second")).mT
        return reweighted(down, along, pointwise(x, p.at("channel")), p)

    genes = {"context": context, "step": step, "inner_norm": inner_norm}
    check(site, formula, mixing="region", norm="batch", **genes)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("phase", ["linear", "depthwise"])
def test_wave(check, site, phase):
    def waves(x, p, axis):
        if phase == "linear":
            angle = pointwise(x, p.at("phase.0"))
        else:
            angle = depthwise(x, p.at("phase.0.0")["weight"][:, 0])
        angle = norm(angle, p.at("phase.1"), "batch").clamp(min=0)
        amplitude = pointwise(x, p.at("amplitude"), bias=False)
        wave = torch.cat([amplitude * angle.cos(), amplitude * angle.sin()])
        filters = p["mix.weight"]
        assert filters.shape[2:] == ((1, 7) if axis == "width" else (7, 1))
        return depthwise(wave[0::2], filters[:, 0]) + depthwise(wave[1::2], filters[:, 1])

    def formula(x, p):
        first, second = waves(x, p.at("first"), "width"), waves(x, p.at("second"), "height")
        return reweighted(first, second, pointwise(x, p.at("channel"), bias=False), p)

    genes = {"context": 7, "phase": phase, "inner_norm": "batch"}
    check(site, formula, mixing="wave", norm="group", **genes)


@pytest.mark.parametrize("site", SITES)
def test_dense_as_in_smlpnet(check, site):
    def formula(x, p):
        u = depthwise(gelu(x), p["local.weight"][:, 0])
        u = gelu(norm(u, p.at("norm"), "batch"))
        along = torch.einsum("vw,chw->chv", p["rows.layer.weight"], u) + p["rows.layer.bias"]
        down = torch.einsum("uh,chw->cuw", p["columns.layer.weight"], u)
        down = down + p["columns.layer.bias"][:, None]
        return pointwise(torch.cat([u, along, down]), p.at("join"), bias=False)

    check(site, formula, mixing="dense", norm="batch", inner_norm="batch", expansion=0)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("context", [3, 5, 13])
def test_shift_as_in_as_mlp(check, site, context):
    size = math.ceil(site.channels / context)

    def back(c):
        return context // 2 - c // size  # group k moves by k - context // 2, so it reads before

    def formula(x, p):
        u = gelu(norm(pointwise(x, p.at("expand.0")), p.at("expand.1"), "group"))
        along = gelu(pointwise(read(u, lambda c: (0, back(c))), p.at("rows.1")))
        down = gelu(pointwise(read(u, lambda c: (back(c), 0)), p.at("columns.1")))
        return pointwise(norm(along + down, p.at("norm"), "group"), p.at("project"))

    check(site, formula, mixing="shift", context=context, norm="group", inner_norm="group")


@pytest.mark.parametrize("site", SITES)
def test_spatial_shift_as_in_s2_mlp(check, site):
    def formula(x, p):
        y = gelu(pointwise(x, p.at("0")))
        moved, c = y.clone(), site.channels
        a, b, d = c // 4, c // 2, 3 * c // 4
        moved[:a, 1:] = y[:a, :-1]
        moved[a:b, :-1] = y[a:b, 1:]
        moved[b:d, :, 1:] = y[b:d, :, :-1]
        moved[d:, :, :-1] = y[d:, :, 1:]
        return pointwise(moved, p.at("3"))

    check(site, formula, mixing="spatial_shift")


# ---- what is cut out of larger weights


def all_axes(part: AxisMlp, site: Site) -> dict[str, tuple]:
    with torch.device("meta"):
        module = part.build(site)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    return describe(shapes, part.axes(site))


def cut(small: tuple[AxisMlp, Site], large: tuple[AxisMlp, Site], name: str, weight: Tensor):
    return Cut.between(all_axes(*small)[name], all_axes(*large)[name])(weight)


def test_a_narrower_dense_mixer_takes_the_first_channels_of_each_branch():
    small, large = ((AxisMlp(mixing="dense"), Site(c, c, 4, 4)) for c in (4, 6))
    weight = torch.arange(6 * 18).reshape(6, 3, 6)
    found = cut(small, large, "mixer.branch.join.weight", weight.flatten(1))
    assert torch.equal(found, weight[:4, :, :4].flatten(1))


def test_a_smaller_region_takes_the_weights_of_its_first_pixels():
    small = AxisMlp(mixing="region", context=2), Site(8, 8, 4, 4)
    large = AxisMlp(mixing="region", context=3), Site(12, 12, 4, 4)
    weight = torch.arange(12 * 3 * 6).reshape(12, 3, 6)
    found = cut(small, large, "mixer.branch.first.expand.weight", weight.flatten(0, 1))
    assert torch.equal(found, weight[:8, :2, :4].flatten(0, 1))


def test_all_settings_fit_into_the_weights_of_the_widest_place():
    """A supernet has one weight of each name, whatever the genes of a place are."""
    mixings: dict[str, list[dict]] = {
        "permute": [{}],
        "cycle": [{"context": 3}, {"context": 7}],
        "region": [{"context": 2, "step": 1}, {"context": 4}],
        "wave": [{"phase": "linear"}, {"phase": "depthwise", "context": 5}],
        "dense": [{}],
        "shift": [{"context": 3}, {"context": 5}],
        "spatial_shift": [{}],
    }
    parts = [AxisMlp(mixing=mixing, **genes) for mixing in mixings for genes in mixings[mixing]]
    largest: dict[str, tuple] = {}
    for part in parts:
        for name, axes in all_axes(part, Site(16, 16, 8, 8)).items():
            known = largest.get(name, axes)
            largest[name] = tuple(a.union(b) for a, b in zip(axes, known, strict=True))
    for part in parts:
        for width, side in ((16, 4), (10, 5), (10, 8), (6, 3)):
            if part.mixing != "permute" or width % side == 0:
                for name, axes in all_axes(part, Site(width, width, side, side)).items():
                    Cut.between(axes, largest[name])


# ---- what is refused


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ({"mixing": "permute", "context": 5}, "context is 5, but makes no difference"),
        ({"mixing": "dense", "context": 7}, "context is 7, but makes no difference"),
        ({"mixing": "spatial_shift", "inner_norm": "batch"}, "inner_norm is 'batch', but makes no"),
        ({"mixing": "cycle", "step": 1}, "step is 1, but makes no difference to the mixing"),
        ({"mixing": "region", "phase": "depthwise"}, "phase is 'depthwise', but makes no"),
        ({"mixing": "wave", "context": 4}, "context is 4, but must be odd for the mixing 'wave'"),
        ({"mixing": "swirl"}, "mixing is 'swirl', but must be one of 'permute', 'cycle'"),
    ],
)
def test_genes_without_meaning_are_refused(genes, message):
    with pytest.raises(ValueError, match=message):
        part_from_json("operator", {"kind": "axis_mlp", **genes})


def test_permute_needs_as_many_segments_as_pixels():
    with pytest.raises(ValueError, match="has rows, and as columns, but 10 is no multiple of 4"):
        AxisMlp(mixing="permute").build(Site(10, 10, 5, 4))


@pytest.mark.parametrize("mixing", ["permute", "dense"])
def test_weights_of_an_axis_refuse_another_map(mixing):
    module = AxisMlp(mixing=mixing).build(Site(8, 8, 4, 2))
    with pytest.raises(ValueError, match=r"along the (height|width) are for (4|2) pixels, not for"):
        module(torch.randn(1, 8, 2, 4))
    with pytest.raises(ValueError, match="along the height are for 4 pixels, not for 8"):
        module(torch.randn(1, 8, 8, 2))


@pytest.mark.parametrize("mixing", ["cycle", "region", "wave", "shift", "spatial_shift"])
def test_other_mixings_run_on_any_map(mixing):
    module = AxisMlp(mixing=mixing).build(Site(6, 6, 4, 4))
    for shape in ((1, 6, 7, 3), (2, 6, 1, 1)):
        assert module(torch.randn(shape)).shape == shape
