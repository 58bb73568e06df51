"""AZ-NAS against numpy, and against networks whose Jacobians are known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from evaluator.zero_cost import AZ_NAS, SCORES, join_az_nas, log_rank_sum
from evaluator.zero_cost.az_nas import az_nas_parts
from space.layers import Pointwise


def batch(count=8, side=8):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, side, side, generator=generator), torch.zeros(count).long()


def entropy(x):
    """Of numpy's covariance of the channels, eigenvalue by eigenvalue."""
    pixels = np.moveaxis(x.detach().double().numpy(), 1, -1).reshape(-1, x.shape[1])
    values = np.linalg.eigvals(np.cov(pixels.T)).real
    return -sum(v / values.sum() * math.log(v / values.sum()) for v in values if v > 1e-12)


def test_expressivity_and_progressivity():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 6, 3),
        nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 10, 3, stride=2)),
        nn.Sequential(nn.GELU(), Pointwise(10, 4)),
    ]
    images, labels = batch()
    found = az_nas_parts(nn.Sequential(*layers, nn.Flatten()), images, labels)
    entropies, x = [], images
    for layer in layers:
        x = layer(x)
        entropies.append(entropy(x))
    assert found["az_nas_expressivity"] == pytest.approx(sum(entropies), rel=1e-6)
    steps = [entropies[1] - entropies[0], entropies[2] - entropies[1]]
    assert found["az_nas_progressivity"] == pytest.approx(min(steps), rel=1e-5)


def test_a_constant_map_has_no_entropy():
    stem, images = nn.Conv2d(3, 4, 1), batch()
    nn.init.zeros_(stem.weight)
    found = az_nas_parts(nn.Sequential(stem, nn.Conv2d(4, 4, 1), nn.Flatten()), *images)
    assert found["az_nas_expressivity"] == 0


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_trainability_of_a_multiple_of_an_orthogonal_matrix(factor):
    """Its spectral norm is the factor; with many pixels the estimate comes near."""
    torch.manual_seed(0)
    layer = Pointwise(4, 4, bias=False)
    nn.init.orthogonal_(layer.weight, gain=factor)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), layer, nn.Flatten())
    found = az_nas_parts(network, *batch(64, 32))
    expected = 2 - factor - 1 / factor
    # The norm of 65,536 pixels' mean is above that of the Jacobian by about 2 sqrt(4 / 65536).
    assert found["az_nas_trainability"] == pytest.approx(expected, abs=0.05)


def test_trainability_equals_its_formula():
    """Outer products of the two gradients pixel by pixel, with the signs that the seed gives; the
    second part has a stride of 2, on a map of 7 x 7 whose last blocks are filled with zeros."""
    torch.manual_seed(0)
    stem, linear, strided = nn.Conv2d(3, 2, 2), Pointwise(2, 3), nn.Conv2d(3, 5, 3, 2, 1)
    images, labels = batch(4)
    network = nn.Sequential(stem, linear, nn.Sequential(nn.SiLU(), strided), nn.Flatten())
    found = az_nas_parts(network, images, labels, seed=7)

    generator = torch.Generator().manual_seed(7)
    signs = [
        torch.randint(0, 2, s, generator=generator) * 2.0 - 1 for s in [(4, 3, 7, 7), (4, 5, 4, 4)]
    ]
    first = torch.zeros(2, 3, dtype=torch.float64)
    for n in range(4):
        for i in range(7):
            for j in range(7):
                g = signs[0][n, :, i, j]
                first += torch.outer(linear.weight.T @ g, g).double() / (4 * 49)
    x = linear(stem(images)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network[2](x), x, signs[1])
    padded = torch.zeros(4, 3, 8, 8)
    padded[:, :, :7, :7] = gradient
    second = torch.zeros(12, 5, dtype=torch.float64)
    for n in range(4):
        for i in range(4):
            for j in range(4):
                block = padded[n, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten()
                second += torch.outer(block, signs[1][n, :, i, j]).double() / (4 * 16)
    norms = [np.linalg.svd(m.detach().numpy(), compute_uv=False)[0] for m in (first, second)]
    expected = sum(2 - s - 1 / s for s in norms) / 2
    assert found["az_nas_trainability"] == pytest.approx(expected, rel=1e-4)


def test_what_does_nothing_is_no_part():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Flatten()]
    plain = nn.Sequential(*layers)
    padded = nn.Sequential(layers[0], nn.Identity(), layers[1], nn.Identity(), layers[2])
    assert az_nas_parts(plain, *batch()) == az_nas_parts(padded, *batch())


def test_each_alone_is_that_of_all():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Flatten())
    for name, value in az_nas_parts(network, *batch()).items():
        assert SCORES[name](network, *batch()) == value


def test_too_few_parts():
    with pytest.raises(ValueError, match="Sequential has 1 in front of its last one"):
        az_nas_parts(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), *batch())


def test_joined_as_in_the_paper():
    rng = np.random.default_rng(0)
    table = {name: rng.normal(size=6) for name in (*AZ_NAS, "other")}
    expected = log_rank_sum({name: table[name] for name in AZ_NAS})
    np.testing.assert_array_equal(join_az_nas(table), expected)
    with pytest.raises(KeyError):
        join_az_nas({"other": table["other"]})
