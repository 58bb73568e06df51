"""Learned queries against their formula in float64: each pixel's window, place by place."""

from __future__ import annotations

import math

import pytest
import torch
from naive_layers import gelu, layer_norm, linear, noise, randomised
from torch import Tensor

from space.genes import Site
from space.operators.learned_query import LearnedQuery

EXACT = {"atol": 1e-9, "rtol": 0}


def answers(w: dict[str, Tensor], name: str, x: Tensor, stride: int) -> Tensor:
    """The mixer of one image without its norm and shortcut."""
    query, key = w[f"{name}.query"], w[f"{name}.key"]
    bias, weight = w[f"{name}.bias"], w[f"{name}.weight"]
    queries, heads, size = query.shape
    side = bias.shape[2]
    _, _, height, width = x.shape
    values = linear(w, f"{name}.value", x)[0].unflatten(0, (heads, size))
    rows, columns = -(-height // stride), -(-width // stride)
    out = torch.zeros(heads, size, rows, columns, dtype=x.dtype)
    for h in range(heads):
        for i in range(queries):
            asked = query[i, h] / (query[i, h].norm() + 1e-6) / math.sqrt(size)
            for r in range(rows):
                for c in range(columns):
                    above, below = torch.zeros(size, dtype=x.dtype), 0.0
                    for a in range(side):
                        for b in range(side):
                            y, z = stride * r + a - side // 2, stride * c + b - side // 2
                            if not (0 <= y < height and 0 <= z < width):
                                continue
                            score = asked @ (key[h] @ x[0, :, y, z])
                            share = torch.exp(score + bias[i, h, a, b])
                            above += weight[i, h, a, b] * share * values[h, :, y, z]
                            below += share
                    out[h, :, r, c] += above / below
    return linear(w, f"{name}.project", out.flatten(0, 1)[None])


@pytest.mark.parametrize(
    ("site", "genes"),
    [
        (Site(8, 8, 4, 5), {}),
        (Site(8, 12, 5, 4, 2), {"context": 5}),
        (Site(8, 12, 4, 3), {"queries": 3, "expansion": 0}),
        (Site(8, 8, 4, 4, 2), {"queries": 1, "layer_scale": 0.1}),
    ],
    ids=["plain", "strided", "wider", "strided alone"],
)
def test_formula(site, genes):
    part = LearnedQuery(**{"heads": 2, "head_dim": 0, "expansion": 2, **genes})
    module, w = randomised(part.build(site))
    x = noise(1, site.in_channels, site.height, site.width)
    branch = answers(w, "mixer.branch", layer_norm(w, "mixer.norm", x), site.stride)
    if part.layer_scale is not None:
        branch = branch * w["mixer.scale.weight"][:, None, None]
    kept = x
    if "mixer.shortcut.weight" in w:
        weight = w["mixer.shortcut.weight"].flatten(1)
        seen = x[:, :, :: site.stride, :: site.stride]
        kept = torch.einsum("nchw,dc->ndhw", seen, weight)
    expected = kept + branch
    if part.expansion:
        hidden = linear(w, "mlp.branch.expand", layer_norm(w, "mlp.norm", expected))
        mixed = linear(w, "mlp.branch.project", gelu(hidden))
        if part.layer_scale is not None:
            mixed = mixed * w["mlp.scale.weight"][:, None, None]
        expected = expected + mixed
    torch.testing.assert_close(module(x), expected, **EXACT)


def test_the_shortcut_changes_only_what_must_change():
    """The input itself, or a 1x1 convolution of it without a bias."""
    kept = LearnedQuery().build(Site(8, 8, 4, 4)).mixer.shortcut
    assert not list(kept.parameters())
    for site in (Site(8, 12, 4, 4), Site(8, 8, 4, 4, 2)):
        (weight,) = LearnedQuery().build(site).mixer.shortcut.parameters()
        assert weight.flatten(1).shape == (site.channels, site.in_channels)


def test_answers_are_means_of_values_where_their_weights_are_one():
    """With every value weight 1 and no value differing, the answer is that value, once a query."""
    part = LearnedQuery(heads=2, head_dim=0, queries=3, expansion=0)
    module, _ = randomised(part.build(Site(8, 8, 5, 4)))
    inner = module.mixer.branch
    with torch.no_grad():
        inner.weight.fill_(1)
        x = noise(1, 8, 1, 1).expand(-1, -1, 5, 4)
        torch.testing.assert_close(inner(x), inner.project(3 * inner.value(x)), **EXACT)


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ({"heads": 0, "head_dim": 0}, "heads and head_dim are both 0"),
        ({"heads": 5, "head_dim": 0}, "8 channels are not a multiple"),
    ],
)
def test_heads_that_do_not_fit_are_refused(genes, message):
    with pytest.raises(ValueError, match=message):
        LearnedQuery(**genes).build(Site(8, 8, 4, 4))
