"""NASWOT against the codes of a small network, computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from evaluator.zero_cost import SCORES


def mlp(activation):
    """Two hidden layers on images of 3 x 2 x 2 pixels."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 9), activation(), nn.Linear(9, 7), activation(), nn.Linear(7, 2)
    )


def batch(count=5):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 2, 2, generator=generator), torch.arange(count) % 2


def test_naswot_equals_its_formula():
    """Equation 2 bit by bit, with every pre-activation worked out in numpy."""
    network, (images, labels) = mlp(nn.ReLU), batch()
    w = [parameter.detach().double().numpy() for parameter in network.parameters()]
    first = images.flatten(1).double().numpy() @ w[0].T + w[1]
    second = np.maximum(first, 0) @ w[2].T + w[3]
    codes = [[bit > 0 for bit in (*a, *b)] for a, b in zip(first, second, strict=True)]
    hamming = [
        [sum(p != q for p, q in zip(one, two, strict=True)) for two in codes] for one in codes
    ]
    kernel = 16 - np.array(hamming, float)
    assert len({tuple(code) for code in codes}) == 5
    expected = math.log(abs(np.linalg.det(kernel)))
    assert SCORES["naswot"](network, images, labels) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.ReLU6, nn.Hardswish])
def test_the_sign_of_the_input_is_the_bit(activation):
    """One hidden layer: its input, and so its code, is the same whatever the activation."""
    images, labels = batch()
    scores = []
    for kind in (nn.ReLU, activation):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(12, 30), kind(), nn.Linear(30, 2))
        scores.append(SCORES["naswot"](network, images, labels))
    assert scores[0] == scores[1]


def test_two_images_alike_cannot_be_told_apart():
    network, (images, labels) = mlp(nn.ReLU), batch()
    images[3] = images[1]
    assert SCORES["naswot"](network, images, labels) == -math.inf


def test_a_network_without_activations():
    network, (images, labels) = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), batch()
    assert SCORES["naswot"](network, images, labels) == -math.inf


def test_pieces_of_a_map_belong_to_their_image():
    """An activation that works on windows of the map gives the bits of one that sees it whole."""

    class Halves(nn.Module):
        def __init__(self, cut):
            super().__init__()
            self.layer, self.activation, self.cut = nn.Conv2d(3, 6, 1), nn.ReLU(), cut

        def forward(self, x):
            x = self.layer(x)
            if self.cut:  # (N, C, H, W) to (N * H, C, W): a row is a piece
                x = x.transpose(1, 2).flatten(0, 1)
            return self.activation(x).reshape(5, -1)

    images, labels = batch()
    scores = []
    for cut in (False, True):
        torch.manual_seed(0)
        scores.append(SCORES["naswot"](Halves(cut), images, labels))
    assert scores[0] == scores[1] > -math.inf
