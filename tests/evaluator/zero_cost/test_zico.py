"""ZiCo against loops over weights, with gradients by hand."""

import math

import pytest
import torch
from torch import nn

from evaluator.zero_cost import SCORES
from evaluator.zero_cost.zico import zico


def batch(count=6):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 2, 2, generator=generator), torch.arange(count) % 4


def softmax_gradient(weight, bias, rows, labels):
    """d cross-entropy / d weight of one linear layer, (p - onehot)^T x / N, number by number."""
    gradient = torch.zeros_like(weight)
    for x, label in zip(rows, labels.tolist(), strict=True):
        logits = [float(weight[k] @ x + bias[k]) for k in range(len(weight))]
        total = sum(math.exp(v) for v in logits)
        for k in range(len(weight)):
            gradient[k] += (math.exp(logits[k]) / total - (k == label)) * x / len(rows)
    return gradient


@pytest.mark.parametrize("batches", [2, 3])
def test_zico_of_one_layer(batches):
    torch.manual_seed(0)
    network, (images, labels) = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double(), batch()
    images = images.double()
    weight, bias = network[1].weight.detach(), network[1].bias.detach()
    size = 6 // batches
    found = [
        softmax_gradient(weight, bias, images[i : i + size].flatten(1), labels[i : i + size])
        for i in range(0, 6, size)
    ]
    total = 0.0
    for place in range(48):
        values = [float(each.flatten()[place]) for each in found]
        mean = sum(values) / batches
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / batches)
        total += sum(map(abs, values)) / batches / deviation
    expected = math.log(total)
    assert zico(network, images, labels, batches=batches) == pytest.approx(expected, rel=1e-9)


def test_layers_add_up():
    """Three layers and a norm between, whose own weights do not count; gradients by autograd."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 2, 2), nn.Flatten()
    )
    network.append(nn.Linear(2, 4))
    images, labels = batch()
    layers = [network[0], network[3], network[5]]
    found = []
    for i in (0, 3):
        network.zero_grad()
        loss = nn.functional.cross_entropy(network(images[i : i + 3]), labels[i : i + 3])
        loss.backward()
        found.append([layer.weight.grad.double().flatten().tolist() for layer in layers])
    expected = 0.0
    for one, other in zip(*found, strict=True):
        ratios = []
        for a, b in zip(one, other, strict=True):
            deviation = abs(a - b) / 2
            if deviation > 0:
                ratios.append((abs(a) + abs(b)) / 2 / deviation)
        expected += math.log(sum(ratios))
    assert SCORES["zico"](network, images, labels) == pytest.approx(expected, rel=1e-6)


def test_layers_without_a_gradient_are_left_out():
    """One that is not used, and one behind which a weight is zero."""
    torch.manual_seed(0)
    images, labels = batch()
    alone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    before = SCORES["zico"](alone, images, labels)
    closed = nn.Conv2d(3, 3, 1)

    class Closed(nn.Module):
        def __init__(self):
            super().__init__()
            self.alone, self.closed, self.unused = alone, closed, nn.Linear(2, 2)

        def forward(self, x):
            return self.alone(x + 0 * self.closed(x))

    assert SCORES["zico"](Closed(), images, labels) == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("batches", [1, 7])
def test_number_of_batches(batches):
    images, labels = batch()
    with pytest.raises(ValueError, match=f"batches is {batches}, but must be from 2 to"):
        zico(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), images, labels, batches=batches)
