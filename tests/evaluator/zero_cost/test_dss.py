"""DSS against numpy's singular values, on layers whose gradients are known in closed form."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from evaluator.zero_cost import SCORES
from evaluator.zero_cost.dss import attention_layers
from evaluator.zero_cost.shared import weight_layers
from space.attention_layers import AttendMap, MapAttention
from space.genes import Site
from space.layers import Pointwise
from space.operators.attention import Attention
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.operators.learned_query import LearnedQuery

LABELS = torch.zeros(2, dtype=torch.long)


def nuclear(matrix):
    return float(np.linalg.svd(np.asarray(matrix), compute_uv=False).sum())


def test_a_plain_layer_has_saliency():
    """R = 1^T |W| 1, so dR/d|W| is all ones."""
    layer = nn.Linear(12, 5, bias=False)
    score = SCORES["dss"](nn.Sequential(nn.Flatten(), layer), torch.zeros(2, 3, 2, 2), LABELS)
    assert score == pytest.approx(float(layer.weight.detach().double().abs().sum()), rel=1e-12)


def test_attention_has_diversity():
    """On a map of one pixel softmax has nothing to choose, so attention is project(v(x)): with
    x = 1 the gradients are outer products, and queries and keys have none."""
    torch.manual_seed(0)
    q, kv, project = (Pointwise(3, n, bias=False) for n in (4, 8, 4))
    project = Pointwise(4, 5, bias=False)
    attention = MapAttention(q=q, kv=kv, attend=AttendMap(2), project=project)
    last = nn.Conv2d(5, 2, 1, bias=False)
    score = SCORES["dss"](nn.Sequential(attention, last), torch.zeros(2, 3, 1, 1), LABELS)

    w = [layer.weight.detach().double().abs().numpy() for layer in (kv, project)]
    v, p, c = w[0][4:], w[1], last.weight.detach().double().abs().numpy()[:, :, 0, 0]
    one = np.ones(3)
    back = c.T @ np.ones(2)  # dR / d(output of the attention)
    of_kv = np.zeros((8, 3))
    of_kv[4:] = np.outer(p.T @ back, one)
    of_project = np.outer(back, v @ one)
    of_last = np.outer(np.ones(2), p @ v @ one)
    expected = nuclear(w[0]) * nuclear(of_kv) + nuclear(p) * nuclear(of_project)
    expected += float(np.abs(c * of_last).sum())
    assert score == pytest.approx(expected, rel=1e-9)


def test_batchnorm_normalises_the_channels_of_a_pixel():
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 1, bias=False)
    network = nn.Sequential(first, nn.BatchNorm2d(4, eps=0), last)
    score = SCORES["dss"](network, torch.zeros(2, 3, 1, 1), LABELS)

    w1, w2 = (x.weight.detach().double().abs().numpy()[:, :, 0, 0] for x in (first, last))
    y = w1 @ np.ones(3)
    centred, deviation = y - y.mean(), y.std()
    normed, back = centred / deviation, w2.sum(0)
    # Layer norm's gradient: (g - mean(g) - n * mean(g n)) / deviation
    of_y = (back - back.mean() - normed * (back * normed).mean()) / deviation
    expected = np.abs(w2 * normed).sum() + np.abs(w1 * of_y[:, None]).sum()
    assert score == pytest.approx(float(expected), rel=1e-9)


def test_which_layers_are_attention():
    site = Site(16, 16, 4, 4)
    for part, inside in (
        (Attention(region="global", expansion=2, head_dim=8), {"q", "kv", "project"}),
        (LearnedQuery(expansion=2, head_dim=8), {"value", "project"}),
        (InvertedBottleneck(), set()),
    ):
        module = part.build(site)
        attention = attention_layers(module)
        named = weight_layers(module)
        found = {name.split("branch.")[-1] for name, layer in named.items() if layer in attention}
        assert found == inside
        assert len(found) < len(named)


def test_nuclear_norms_of_filters():
    """A filter of an attention is the matrix (outputs, inputs * taps)."""
    torch.manual_seed(0)
    v = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    attention = MapAttention(q=Pointwise(3, 4, bias=False), kv=v, attend=AttendMap(1))
    images = torch.zeros(2, 3, 1, 1)
    score = SCORES["dss"](nn.Sequential(attention, nn.Flatten()), images, LABELS)
    weight = v.weight.detach().double().abs().numpy().reshape(8, 27)
    gradient = np.zeros((8, 3, 9))
    gradient[4:, :, 4] = 1  # the middle tap sees the pixel, the others what pads it
    expected = nuclear(weight) * nuclear(gradient.reshape(8, 27))
    assert math.isclose(score, expected, rel_tol=1e-9)


def test_attention_of_a_map():
    """Pixels that differ, as padding makes them, so that gradients have several singular values;
    the network once more as products, with autograd's gradients."""
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    q, kv = Pointwise(4, 4, bias=False), Pointwise(4, 8, bias=False)
    last = nn.Linear(36, 2, bias=False)
    attention = MapAttention(q=q, kv=kv, attend=AttendMap(1))
    network = nn.Sequential(stem, attention, nn.Flatten(), last)
    score = SCORES["dss"](network, torch.zeros(2, 3, 3, 3), LABELS)

    w = [x.weight.detach().double().abs().requires_grad_() for x in (stem, q, kv, last)]
    image = torch.ones(1, 3, 3, 3, dtype=torch.float64)
    x = nn.functional.conv2d(image, w[0], padding=1)[0].flatten(1)  # (C, pixels)
    keys, values = (w[2] @ x).split(4)
    weights = ((w[1] @ x).T @ keys / 2).softmax(1)
    flow = (w[3] @ (weights @ values.T).T.flatten()).sum()
    found = [g.numpy() for g in torch.autograd.grad(flow, w)]
    w = [x.detach().numpy() for x in w]
    expected = sum(nuclear(w[i]) * nuclear(found[i]) for i in (1, 2))
    expected += sum(np.abs(w[i] * found[i]).sum() for i in (0, 3))
    assert np.linalg.matrix_rank(found[2]) > 1
    assert score == pytest.approx(float(expected), rel=1e-9)
