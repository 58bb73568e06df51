"""The split transformer against Next-ViT's formula, token by token, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from naive import convolution, gelu, held_against, linear, mean_pool, norm, relu

from space.genes import Site
from space.operators.split_transformer import SplitTransformer
from space.slicing import Grid, Parts


def attention(x, p, head_dim, reduction, kind):
    """Every pixel asks the means of `reduction ** 2` pixels that follow one another."""
    q = linear(x, p.at("q")).flatten(1)
    keys, run = x, reduction**2
    if reduction > 1:
        row = x.flatten(1)
        means = [row[:, i : i + run].mean(1) for i in range(0, row.shape[1], run)]
        keys = norm(torch.stack(means, 1)[:, :, None], p.at("reduce", 1), kind)
    k, v = linear(keys, p.at("kv")).flatten(1).chunk(2)
    y = torch.zeros_like(q)
    for first in range(0, len(q), head_dim):
        head = slice(first, first + head_dim)
        for token in range(q.shape[1]):
            scores = torch.exp(q[head, token] @ k[head] / math.sqrt(head_dim))
            y[head, token] = v[head] @ (scores / scores.sum())
    return linear(y.unflatten(1, x.shape[1:]), p.at("project"))


def alone(p, place):
    """A layer among others, or by itself."""
    return p if "weight" in p else p.at(place)


FORMS = {
    "Next-ViT": (
        Site(24, 32, 4, 3),
        {"head_dim": 24, "reduction": 2, "norm": "batch"},
        (24, 1, 8),
    ),
    "strided": (
        Site(10, 32, 5, 3, 2),
        {"share": 0.5, "head_dim": 16, "group_width": 8, "norm": "batch"},
        (16, 2, 8),
    ),
    "narrow": (
        Site(8, 8, 5, 3),
        {"reduction": 2, "context": 5, "group_width": 1, "activation": "gelu", "expansion": 3},
        (6, 2, 1),
    ),
    "no norms": (Site(12, 20, 1, 3), {"norm": "none", "expansion": 0, "head_dim": 16}, (16, 1, 4)),
}


@pytest.mark.parametrize("form", FORMS)
def test_is_its_formula(form, randomise):
    site, genes, (attended, groups, group_width) = FORMS[form]
    part = SplitTransformer(**genes)
    activation = relu if part.activation == "relu" else gelu
    assert part.attended(site) == attended

    def formula(x, p):
        if (site.in_channels, site.stride) != (attended, 1):
            first = int(site.stride > 1)
            embed = alone(p.at("embed"), first)
            x = linear(mean_pool(x, site.stride), embed, bias=False)
            x = norm(x, p.at("embed", first + 1), part.norm)
        y = norm(x, p.at("attention", "norm"), part.norm)
        x = x + attention(y, p.at("attention", "branch"), part.head_dim, part.reduction, part.norm)
        z = linear(x, alone(p.at("split"), 0), bias=False)
        z = norm(z, p.at("split", 1), part.norm)
        y, branch = z, p.at("convolution", "branch")
        y = convolution(y, branch.at(0), groups=groups, bias=False)
        assert len(y) == groups * group_width
        y = activation(norm(y, branch.at(1), part.norm))
        x = torch.cat([x, z + linear(y, branch.at(3), bias=False)])
        if part.expansion:
            y = linear(norm(x, p.at("mlp", "norm"), part.norm), p.at("mlp", "branch", 0))
            x = x + linear(activation(y), p.at("mlp", "branch", 2))
        return x

    module = randomise(part.build(site))
    held_against(formula, module, torch.randn(2, site.in_channels, site.height, site.width))


@pytest.mark.parametrize(
    ("channels", "attended"),
    [(256, 192), (512, 384), (1024, 768), (48, 32), (64, 48), (32, 24), (2, 1)],
)
def test_attended_channels_are_whole_heads_where_there_is_room(channels, attended):
    assert SplitTransformer().attended(Site(8, channels, 4, 4)) == attended


def test_one_channel_cannot_be_split():
    with pytest.raises(ValueError, match=r"1 channel\(s\) go out, but at least 2"):
        SplitTransformer().build(Site(8, 1, 4, 4))


def test_a_narrower_one_takes_from_both_parts():
    axes = SplitTransformer().axes(Site(64, 64, 4, 4))
    assert axes["mlp.branch.0.weight"] == (128, Parts(48, 16))
    assert axes["mlp.branch.2.weight"] == (Parts(48, 16), 128)
    assert axes["mlp.norm.bias"] == (Parts(48, 16),)
    assert axes["attention.branch.kv.weight"] == (Grid(2, 1, 32), 48)
