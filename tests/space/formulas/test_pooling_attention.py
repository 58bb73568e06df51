"""Attention between pooled maps against its formula in float64, query by query in each head."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from naive_layers import batch_norm, convolve, gelu, layer_norm, linear, noise, randomised
from torch import Tensor

from space.genes import Flow, Site
from space.operators.pooling_attention import PoolingAttentionOperator

EXACT = {"atol": 1e-9, "rtol": 0}
Weights = dict[str, Tensor]
Both = tuple[Tensor, Tensor | None]  # a map and class tokens (1, C, T, 1)


def both(layer: Any, x: Both) -> Both:
    return layer(x[0]), None if x[1] is None else layer(x[1])


def row(x: Both) -> Tensor:
    """Class tokens and then pixels, (T + H W, C)."""
    pixels = x[0][0].flatten(1).T
    return pixels if x[1] is None else torch.cat([x[1][0, :, :, 0].T, pixels])


def pooled(w: Weights, name: str, x: Both, stride: int, genes: dict[str, Any]) -> Both:
    """Queries, keys or values of one image."""
    kind, heads = genes["pool"], genes["heads"]
    if kind == "input":
        local = convolve(w, f"{name}.0.0", x[0], stride=stride)
        local = batch_norm(w, f"{name}.0.1", local)
        last = f"{name}.1" if f"{name}.1.weight" in w else f"{name}.1.0"
        return both(lambda y: linear(w, last, y), (local, x[1]))
    first = f"{name}.0" if f"{name}.0.weight" in w else name
    made = both(lambda y: linear(w, first, y), x)
    if first == name:  # queries without a pool
        return made
    size = made[0].shape[1] // heads
    pixels, tokens = [], []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        part = convolve(w, f"{name}.1.layer", made[0][:, own], stride=stride)
        pixels.append(layer_norm(w, f"{name}.2.layer", part))
        if made[1] is not None:
            tokens.append(layer_norm(w, f"{name}.2.layer", made[1][:, own]))
    return torch.cat(pixels, 1), torch.cat(tokens, 1) if tokens else None


def entry(query: int, key: int, queries: int, keys: int) -> int:
    """The row of a table, as the paper's code has it."""
    wide, narrow = max(Fraction(keys, queries), Fraction(1)), max(Fraction(queries, keys), 1)
    return math.floor(query * wide - key * narrow + (keys - 1) * narrow)


def bias(w: Weights, q: Tensor, asks: tuple[int, int], keys: tuple[int, int], place: int) -> Tensor:
    """For the query q (d,) of pixel number `place` and each key."""
    y, x = divmod(place, asks[1])
    found = []
    for i in range(keys[0]):
        for j in range(keys[1]):
            down = w["mixer.attention.position.rows"][entry(y, i, asks[0], keys[0])]
            across = w["mixer.attention.position.columns"][entry(x, j, asks[1], keys[1])]
            found.append(q @ down + q @ across)
    return torch.stack(found)


def attention(w: Weights, x: Both, stride: int, genes: dict[str, Any]) -> Both:
    q = pooled(w, "mixer.attention.q", x, stride, genes)
    k, v = (pooled(w, f"mixer.attention.{name}", x, genes["kv_reduction"], genes) for name in "kv")
    asks, keys = tuple(q[0].shape[2:]), tuple(k[0].shape[2:])
    queries, heads = row(q), genes["heads"]
    inner, beside = queries.shape[1], 0 if x[1] is None else x[1].shape[2]
    size = inner // heads
    scale = inner if genes.get("scale") == "width" else size
    answers = torch.zeros_like(queries)
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        for place, query in enumerate(queries[:, own]):
            scores = row(k)[:, own] @ query / math.sqrt(scale)
            if genes.get("position") == "query" and place >= beside:
                scores[beside:] += bias(w, query, asks, keys, place - beside)
            weights = scores.exp()
            answers[place, own] = weights / weights.sum() @ row(v)[:, own]
            if genes.get("residual_query") and place >= beside:
                answers[place, own] += query
    tokens = answers[:beside].T[None, :, :, None] if beside else None
    pixels = answers[beside:].T.reshape(1, inner, *asks)
    return both(lambda y: linear(w, "mixer.attention.project", y), (pixels, tokens))


def max_pool(x: Tensor, stride: int) -> Tensor:
    """Of 3x3, to ceil(side / stride)."""
    _, _, height, width = x.shape
    y = x.new_empty(*x.shape[:2], -(-height // stride), -(-width // stride))
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            rows = slice(max(0, stride * i - 1), stride * i + 2)
            columns = slice(max(0, stride * j - 1), stride * j + 2)
            y[:, :, i, j] = x[:, :, rows, columns].amax((2, 3))
    return y


def block(w: Weights, x: Both, stride: int, genes: dict[str, Any]) -> Both:
    normed = both(lambda y: layer_norm(w, "mixer.norm", y), x)
    kept = normed if "mixer.widen.weight" in w else x
    if "mixer.widen.weight" in w:
        kept = both(lambda y: linear(w, "mixer.widen", y), kept)
    if stride > 1:
        kept = (max_pool(kept[0], stride), kept[1])
    found = attention(w, normed, stride, genes)
    x = tuple(None if a is None else a + b for a, b in zip(kept, found, strict=True))
    if not genes["expansion"]:
        return x

    def mlp(y: Tensor) -> Tensor:
        if "mlp.0.weight" not in w:
            normed = layer_norm(w, "mlp.norm", y)
            hidden = gelu(linear(w, "mlp.branch.expand", normed))
            return y + linear(w, "mlp.branch.project", hidden)
        normed = layer_norm(w, "mlp.0", y)
        hidden = gelu(linear(w, "mlp.1.branch.expand", normed))
        return linear(w, "mlp.1.shortcut", normed) + linear(w, "mlp.1.branch.project", hidden)

    return both(mlp, x)


CVT = {"pool": "input", "pool_norm": "batch", "kv_reduction": 2, "scale": "width"}
MVIT = {"pool": "heads", "query_pool": "strided", "widen": "mlp", "kv_reduction": 2}
MVITV2 = {"pool": "heads", "position": "query", "residual_query": True}


@pytest.mark.parametrize("tokens", [0, 2])
@pytest.mark.parametrize(
    ("site", "genes"),
    [
        (Site(12, 12, 5, 6), CVT),
        (Site(12, 12, 5, 6, 2), CVT),
        (Site(12, 18, 5, 6), MVIT),
        (Site(12, 12, 5, 6, 2), MVIT),
        (Site(12, 18, 5, 7, 2), MVITV2),
        (Site(12, 12, 7, 5), {**MVITV2, "kv_reduction": 2}),
        (Site(12, 12, 5, 7, 2), {**MVITV2, "kv_reduction": 4}),
        (Site(12, 20, 4, 4), {**MVITV2, "widen": "mlp", "context": 5}),
        (Site(12, 18, 4, 3), {**MVITV2, "expansion": 0}),
    ],
    ids=[
        "CvT",
        "CvT, strided",
        "MViT, wider",
        "MViT, strided",
        "MViTv2, strided and wider",
        "MViTv2, fewer keys than queries",
        "MViTv2, sides that do not divide",
        "MViTv2, wider in the MLP",
        "MViTv2, wider and alone",
    ],
)
def test_formula(site, genes, tokens):
    genes = {"heads": 3, "head_dim": 0, "expansion": 2, "kv_reduction": 1, **genes}
    if tokens:
        site = replace(site, flow=Flow("tokens", tokens))
    module, state = randomised(PoolingAttentionOperator(**genes).build(site))
    w = {name.replace(".block.", ".").replace(".part.", "."): t for name, t in state.items()}
    x = noise(1, site.in_channels, site.height, site.width)
    beside = noise(1, site.in_channels, tokens, 1, seed=2) if tokens else None
    expected = block(w, (x, beside), site.stride, genes)
    found = module((x, beside) if tokens else x)
    for one, other in zip(found if tokens else (found,), expected, strict=False):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize(
    ("genes", "site", "message"),
    [
        ({"heads": 0, "head_dim": 0}, None, "heads and head_dim are both 0"),
        ({"pool": "input", "position": "query"}, None, "position is 'query', but makes no"),
        ({"pool": "heads", "scale": "width"}, None, "scale is 'width', but makes no difference"),
        ({"heads": 5, "head_dim": 0}, Site(12, 12, 4, 4), "12 channels are not a multiple"),
        ({"heads": 12, "head_dim": 0}, Site(12, 12, 4, 4), "a head has 1 channel"),
        ({"widen": "mlp", "expansion": 0}, Site(12, 16, 4, 4), "expansion is 0 and 12 channels"),
    ],
)
def test_what_makes_no_sense_is_refused(genes, site, message):
    with pytest.raises(ValueError, match=message):
        PoolingAttentionOperator(**genes).build(site)


def test_a_table_is_for_one_map():
    module = PoolingAttentionOperator(position="query").build(Site(8, 8, 4, 6))
    with pytest.raises(ValueError, match="for queries of 4x6, not of 6x4"):
        module(torch.randn(1, 8, 6, 4))


def test_without_tables_any_map_will_do():
    module = PoolingAttentionOperator(kv_reduction=2).build(Site(8, 8, 4, 6))
    assert module(torch.randn(1, 8, 7, 3)).shape == (1, 8, 7, 3)
