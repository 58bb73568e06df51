"""SynFlow against its closed form on chains of linear layers."""

import math

import pytest
import torch
from torch import nn

from evaluator.zero_cost import SCORES
from space.layers import LayerNorm2d, Pointwise

IMAGES, LABELS = torch.randn(4, 3, 1, 1), torch.zeros(4, dtype=torch.long)


def flow(*matrices):
    """1^T |W_L| ... |W_1| 1, path by path sums as matrix products."""
    ones = torch.ones(matrices[0].shape[1], dtype=torch.float64)
    for matrix in matrices:
        ones = matrix.detach().double().abs() @ ones
    return float(ones.sum())


def chain_of(*layers):
    return nn.Sequential(nn.Flatten(), *layers)


def test_a_linear_chain():
    """Every layer's sum of |w * dR/dw| is R itself (conservation, theorem 1), so L * R in all."""
    torch.manual_seed(0)
    layers = [nn.Linear(3, 5, bias=False), nn.Linear(5, 7, bias=False), nn.Linear(7, 2, bias=False)]
    expected = math.log(3 * flow(*(layer.weight for layer in layers)))
    score = SCORES["synflow"](chain_of(*layers), IMAGES, LABELS)
    assert score == pytest.approx(expected, rel=1e-12)


def test_norms_and_activations_let_pass():
    torch.manual_seed(0)
    first, last = Pointwise(3, 6, bias=False), nn.Conv2d(6, 4, 1, bias=False)
    network = nn.Sequential(
        first, nn.BatchNorm2d(6), nn.GELU(), LayerNorm2d(6), nn.GroupNorm(1, 6), nn.SiLU(), last
    )
    expected = math.log(2 * flow(first.weight, last.weight[:, :, 0, 0]))
    assert SCORES["synflow"](network, IMAGES, LABELS) == pytest.approx(expected, rel=1e-12)


def test_a_residual():
    """R = 1^T |W2| (1 + |W1|) 1: W2 carries all of it, W1 what goes through it."""

    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3, bias=False)

        def forward(self, x):
            return x + self.linear(x)

    torch.manual_seed(0)
    branch, last = Branch(), nn.Linear(3, 2, bias=False)
    through = flow(branch.linear.weight, last.weight)
    expected = math.log(2 * through + flow(last.weight))
    score = SCORES["synflow"](chain_of(branch, last), IMAGES, LABELS)
    assert score == pytest.approx(expected, rel=1e-12)


def test_depth_does_not_overflow():
    """2^1200 is beyond float64; log(L * R) is not."""
    layers = [nn.Linear(3, 3, bias=False) for _ in range(1200)]
    for layer in layers:
        layer.weight.data = -2 * torch.eye(3)
    score = SCORES["synflow"](chain_of(*layers), IMAGES, LABELS)
    assert score == pytest.approx(math.log(1200) + 1200 * math.log(2) + math.log(3), rel=1e-12)


def test_products_do_not_overflow():
    """Twelve squares one behind the other would be a power of 4096."""

    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(x) * x

    torch.manual_seed(0)
    squares = [Square() for _ in range(12)]
    for square in squares:
        square.linear.weight.data.mul_(1e9)
    assert math.isfinite(SCORES["synflow"](chain_of(*squares), IMAGES, LABELS))


def test_nothing_flows():
    closed = nn.Linear(3, 3, bias=False)
    nn.init.zeros_(closed.weight)
    network = chain_of(closed, nn.Linear(3, 2, bias=False))
    assert SCORES["synflow"](network, IMAGES, LABELS) == -math.inf


def test_images_do_not_matter():
    network = chain_of(nn.Linear(3, 2))
    assert SCORES["synflow"](network, IMAGES, LABELS) == SCORES["synflow"](
        network, torch.zeros(1, 3, 1, 1), LABELS[:1]
    )
