"""SWAP against a set of patterns, counted one by one."""

import math

import pytest
import torch
from torch import nn

from evaluator.zero_cost import SCORES
from evaluator.zero_cost.swap import swap


def network(activation=nn.GELU):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        activation(),
        nn.Conv2d(5, 4, 3, stride=2),
        activation(),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


def batch(count):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 6, 6, generator=generator), torch.arange(count) % 3


@pytest.mark.parametrize("count", [1, 3, 8, 9, 33, 64, 65, 130])
def test_swap_counts_different_patterns(count):
    """Numbers of images that fill whole bytes and words, and that do not."""
    module, (images, labels) = network(), batch(count)
    module(images)  # gives the lazy layer its size
    patterns = set()
    x = images
    for layer in module:
        if isinstance(layer, nn.GELU):
            units = x.reshape(count, -1)
            for i in range(units.shape[1]):
                patterns.add(tuple(bool(v > 0) for v in units[:, i]))
        x = layer(x)
    found = SCORES["swap"](module, images, labels)
    assert found == len(patterns)
    assert 1 < found <= min(2**count, 5 * 36 + 4 * 4)


def test_regularised_by_size():
    module, (images, labels) = network(), batch(8)
    module(images)
    params = sum(p.numel() for p in module.parameters())
    plain = swap(module, images, labels)
    assert swap(module, images, labels, size=(params, 1e6)) == plain
    smaller = swap(module, images, labels, size=(params + 300, 4e4))
    assert smaller == pytest.approx(plain * math.exp(-(300**2) / 4e4), rel=1e-12)


def test_a_network_without_activations():
    images, labels = batch(4)
    module = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    assert SCORES["swap"](module, images, labels) == 0


def test_sigma_must_be_positive():
    images, labels = batch(4)
    with pytest.raises(ValueError, match="sigma is 0"):
        swap(nn.Sequential(nn.Flatten()), images, labels, size=(1.0, 0))
