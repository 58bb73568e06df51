"""The token MLP against its formulas, one image and one channel at a time, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from space.genes import Site, part_from_json
from space.slicing import Cut, describe

Weights = dict[str, Tensor]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def layer_norm(x: Tensor, p: Weights, prefix: str, eps: float = 1e-5) -> Tensor:
    """x (pixels, C)."""
    centred = x - x.mean(1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(1, keepdim=True) + eps).sqrt()
    return scaled * p[prefix + "weight"] + p[prefix + "bias"]


def linear(x: Tensor, p: Weights, prefix: str) -> Tensor:
    return x @ p[prefix + "weight"].T + p[prefix + "bias"]


def along_the_pixels(x: Tensor, p: Weights, prefix: str) -> Tensor:
    """A linear layer on each channel of x (pixels, C)."""
    return torch.stack([linear(channel, p, prefix) for channel in x.T], 1)


def mlp(x: Tensor, p: Weights, norm=layer_norm) -> Tensor:
    y = gelu(linear(norm(x, p, "mlp.norm."), p, "mlp.branch.expand."))
    y = linear(y, p, "mlp.branch.project.")
    return x + y * p.get("mlp.scale.weight", torch.ones(1))


def depthwise(x: Tensor, site: Site, p: Weights, prefix: str) -> Tensor:
    """A 3x3 convolution of x (pixels, C), pixel by pixel."""
    grid, weight = x.unflatten(0, (site.height, site.width)), p[prefix + "weight"]
    y = torch.zeros_like(grid)
    for i in range(site.height):
        for j in range(site.width):
            for a in range(3):
                for b in range(3):
                    row, column = i + a - 1, j + b - 1
                    if 0 <= row < site.height and 0 <= column < site.width:
                        y[i, j] += grid[row, column] * weight[:, 0, a, b]
    return (y + p[prefix + "bias"]).flatten(0, 1)


@pytest.fixture
def check(randomise):
    """Holds a token MLP at a site against `formula(x (pixels, C), parameters)`."""

    def hold(site: Site, formula, **genes) -> None:
        part = part_from_json("operator", {"kind": "token_mlp", **genes})
        module = randomise(part.build(site)).double()
        p = dict(module.state_dict())
        x = torch.randn(2, site.channels, site.height, site.width, dtype=torch.float64)
        with torch.no_grad():
            y = module(x)
        for image, found in zip(x, y, strict=True):
            expected = formula(image.flatten(1).T, p).T.reshape(image.shape)
            torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)

    return hold


SITE = Site(6, 6, 3, 4)


@pytest.mark.parametrize(
    ("genes", "hidden"),
    [
        ({}, 3),
        ({"token_ratio": 2, "norm": "layer-1e-6", "layer_scale": 0.1}, 12),
        ({"token_ratio_of": "pixels", "bypass": True, "expansion": 0, "layer_scale": 1e-4}, 6),
    ],
)
def test_mlp(check, genes, hidden):
    eps = 1e-6 if genes.get("norm") == "layer-1e-6" else 1e-5

    def norm(x, p, prefix):
        return layer_norm(x, p, prefix, eps)

    def formula(x, p):
        assert p["mixer.branch.layers.0.weight"].shape == (hidden, 12)
        y = along_the_pixels(norm(x, p, "mixer.norm."), p, "mixer.branch.layers.0.")
        y = along_the_pixels(gelu(y), p, "mixer.branch.layers.2.")
        y = x + y * p.get("mixer.scale.weight", torch.ones(1))
        if genes.get("bypass"):
            y = y + depthwise(x, SITE, p, "mixer.shortcut.convolution.")
        return mlp(y, p, norm) if genes.get("expansion", 4) else y

    check(SITE, formula, **genes)


def test_linear_form_as_in_resmlp(check):
    def affine(x, p, prefix):
        return x * p[prefix + "weight"] + p[prefix + "bias"]

    def formula(x, p):
        y = along_the_pixels(affine(x, p, "mixer.norm."), p, "mixer.branch.layers.")
        return mlp(x + y * p["mixer.scale.weight"], p, affine)

    check(SITE, formula, form="linear", norm="affine", layer_scale=1e-4)


@pytest.mark.parametrize("expansion", [1, 6])
def test_gated_form_as_in_gmlp(check, expansion):
    half = 3 * expansion

    def formula(x, p):
        y = gelu(linear(layer_norm(x, p, "mixer.norm.", 1e-6), p, "mixer.branch.0."))
        u, v = y[:, :half], y[:, half:]
        v = layer_norm(v, p, "mixer.branch.2.norm.", 1e-5)
        gated = u * along_the_pixels(v, p, "mixer.branch.2.tokens.layers.")
        assert not any(name.startswith("mlp.") for name in p)
        return x + linear(gated, p, "mixer.branch.3.")

    check(SITE, formula, form="gated", norm="layer-1e-6", expansion=expansion)


def test_a_fresh_gate_is_open():
    module = part_from_json("operator", {"kind": "token_mlp", "form": "gated"}).build(SITE)
    x = torch.randn(2, 24, 3, 4)
    torch.testing.assert_close(module.mixer.branch[2](x), x[:, :12], atol=1e-3, rtol=1e-3)


def test_a_smaller_map_takes_the_weights_of_the_top_left():
    part = part_from_json("operator", {"kind": "token_mlp", "form": "linear"})
    axes = []
    for height, width in ((2, 2), (3, 4)):
        site, name = Site(6, 6, height, width), "mixer.branch.layers.weight"
        shapes = {n: tuple(p.shape) for n, p in part.build(site).named_parameters()}
        axes.append(describe(shapes, part.axes(site))[name])
    large = torch.arange(144).reshape(3, 4, 3, 4)
    small = Cut.between(*axes)(large.reshape(12, 12))
    assert torch.equal(small, large[:2, :2, :2, :2].reshape(4, 4))


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ({"form": "linear", "token_ratio": 1}, "token_ratio is 1, but makes no difference"),
        ({"form": "gated", "token_ratio_of": "pixels"}, "token_ratio_of is 'pixels', but makes no"),
        ({"form": "linear", "expansion": 0, "activation": "relu"}, "activation is 'relu', but"),
        ({"form": "gated", "expansion": 0}, "expansion is 0, but the form 'gated' needs 1 or more"),
    ],
)
def test_genes_without_meaning_are_refused(genes, message):
    with pytest.raises(ValueError, match=message):
        part_from_json("operator", {"kind": "token_mlp", **genes})


def test_a_gate_needs_an_even_number_of_channels():
    part = part_from_json("operator", {"kind": "token_mlp", "form": "gated", "expansion": 3})
    with pytest.raises(ValueError, match="expansion 3 of 5 channels is odd"):
        part.build(Site(5, 5, 2, 2))


@pytest.mark.parametrize("form", ["mlp", "linear", "gated"])
def test_another_map_is_refused(form):
    module = part_from_json("operator", {"kind": "token_mlp", "form": form}).build(SITE)
    with pytest.raises(ValueError, match=r"the weights are for a map of \(3, 4\), not \(4, 3\)"):
        module(torch.randn(1, 6, 4, 3))
