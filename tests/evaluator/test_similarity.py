"""CKA and error consistency against their definitions, and what they must not depend on."""

import math

import pytest
import torch
from torch import nn

from evaluator.similarity import (
    MinibatchCKA,
    batch_sizes,
    centred_gram,
    chance_kappa,
    kappa,
    layer_names,
    watched,
)
from space.genes import lookup
from space.genome import Genome, Stage
from space.network import build


def hsic(gram_k, gram_l):
    """HSIC_1 as it is printed: Nguyen et al. (2020), equation 3."""
    off = 1 - torch.eye(len(gram_k), dtype=torch.float64)
    a, b = gram_k * off, gram_l * off
    n, one = len(a), torch.ones(len(a), dtype=torch.float64)
    total = (a @ b).trace()
    total += (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
    total -= 2 / (n - 2) * (one @ a @ b @ one)
    return float(total / (n * (n - 3)))


def naive_cka(batches):
    """Of minibatches, each a list of features (N, D) by layer."""
    layers = range(len(batches[0]))

    def mean(i, j):
        found = [hsic(b[i] @ b[i].T, b[j] @ b[j].T) for b in batches]
        return sum(found) / len(found)

    return torch.tensor(
        [[mean(i, j) / math.sqrt(mean(i, i) * mean(j, j)) for j in layers] for i in layers]
    )


def cka_of(batches, **settings):
    found = MinibatchCKA()
    for layers in batches:
        found.add([centred_gram(x, **settings) for x in layers])
    return found.value()


def features(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def related(seed, count=12):
    """Three layers of the same images, of which the second follows from the first in part."""
    x, noise, other = features(seed, (count, 5), (count, 7), (count, 6))
    return [x, x @ features(99, (5, 7))[0] + noise, other]


# ---- CKA


def test_hsic_is_the_printed_formula():
    for count in (4, 5, 12):
        layers = related(count, count)
        found = MinibatchCKA()
        found.add([centred_gram(x) for x in layers])
        for i, x in enumerate(layers):
            for j, y in enumerate(layers):
                assert float(found.hsic()[i, j]) == pytest.approx(hsic(x @ x.T, y @ y.T))


def test_minibatches_are_averaged_before_the_ratio():
    batches = [related(seed, count) for seed, count in enumerate((12, 12, 11))]
    torch.testing.assert_close(cka_of(batches), naive_cka(batches).double())


def test_maps_are_flattened_and_chunks_change_nothing():
    (maps,) = features(0, (9, 3, 4, 5))
    (other,) = features(1, (9, 8))
    whole = cka_of([[maps, other]])
    torch.testing.assert_close(whole, naive_cka([[maps.flatten(1), other]]).double())
    for chunk in (1, 100, 9 * 60):
        torch.testing.assert_close(cka_of([[maps, other]], chunk=chunk), whole)


def test_what_it_does_not_depend_on():
    batches = [related(seed) for seed in range(3)]
    expected = cka_of(batches)
    turn = torch.linalg.qr(features(7, (5, 5))[0])[0]
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    changed = [[x @ turn * 1e-3 + 4, -250 * y, z] for x, y, z in batches]
    torch.testing.assert_close(cka_of(changed), expected)
    torch.testing.assert_close(cka_of([[x[order] for x in b] for b in batches]), expected)
    torch.testing.assert_close(cka_of(batches[::-1]), expected)
    # It is not invariant to any invertible map: CKA would say nothing then (Kornblith et al., 3).
    stretched = [[x * torch.tensor([100.0, 1, 1, 1, 1]), y, z] for x, y, z in batches]
    assert abs(cka_of(stretched)[0, 1] - expected[0, 1]) > 0.05


def test_known_values():
    batches = [related(seed, 64) for seed in range(20)]
    found = cka_of(batches)
    torch.testing.assert_close(found.diagonal(), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(found, found.T)
    assert 0.3 < found[0, 1] < 0.98
    assert abs(found[0, 2]) < 0.03
    # Orthogonal directions of unit variance: x has all of them, y the first of 4. Their HSIC are 1
    # each, that of x with itself 4: CKA is 1 / sqrt(4).
    x = features(3, (4000, 4))[0]
    whole, one = x[:1000], x[:1000, :1]
    assert float(cka_of([[whole, one]])[0, 1]) == pytest.approx(0.5, abs=0.05)


def test_hsic_is_unbiased_for_small_minibatches():
    """The mean over minibatches of 4 is that over ones of 64; with the diagonal left in and plain
    centring, it is not."""
    (x,), (noise,) = features(0, (64 * 400, 3)), features(1, (64 * 400, 3))
    y = x + noise

    def mean(size):
        found = MinibatchCKA()
        for a, b in zip(x.split(size), y.split(size), strict=True):
            found.add([centred_gram(a), centred_gram(b)])
        return found.hsic()

    # For Gaussian features of covariance 1 it is the sum of squared cross-covariances: x has 3
    # features, each with covariance 1 with that of y, which has variance 2.
    expected = torch.tensor([[3.0, 3.0], [3.0, 12.0]], dtype=torch.float64)
    torch.testing.assert_close(mean(64), expected, rtol=0.04, atol=0)
    torch.testing.assert_close(mean(4), expected, rtol=0.08, atol=0)

    def biased(size):
        centre = torch.eye(size, dtype=torch.float64) - 1 / size
        found = [
            ((centre @ (a @ a.T) @ centre) * (centre @ (b @ b.T) @ centre)).sum() / (size - 1) ** 2
            for a, b in zip(x.split(size), y.split(size), strict=True)
        ]
        return float(torch.stack(found).mean())

    assert biased(4) > 1.3 * 3


def test_small_differences_beside_large_means():
    batches = [related(seed) for seed in range(3)]
    expected = cka_of(batches)
    moved = [[x + 1e6, y - 3e5, z] for x, y, z in batches]
    torch.testing.assert_close(cka_of(moved), expected, rtol=1e-6, atol=1e-6)
    floats = [[x.float() for x in layers] for layers in batches]
    torch.testing.assert_close(cka_of(floats), expected, rtol=1e-5, atol=1e-5)


def test_layers_that_do_not_vary():
    x, y = features(0, (8, 4), (8, 3))
    found = cka_of([[x, torch.ones(8, 2), y]])
    assert found.isnan().tolist() == [[False, True, False], [True] * 3, [False, True, False]]


def test_too_few_images():
    with pytest.raises(ValueError, match="3 images, but must have at least 4"):
        centred_gram(torch.randn(3, 2))
    with pytest.raises(ValueError, match="no minibatch"):
        MinibatchCKA().value()
    with pytest.raises(ValueError, match="there are 3 images"):
        batch_sizes(3, 128)


@pytest.mark.parametrize("images", [4, 7, 128, 129, 359, 2048])
def test_minibatches_are_as_equal_as_can_be(images):
    sizes = batch_sizes(images, 128)
    assert sum(sizes) == images
    assert max(sizes) <= 128
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 4


# ---- the layers of a network


def network(**head):
    block = lookup("operator", "inverted_bottleneck")(expansion=2, context=3)
    strided = lookup("downsampling", "strided_convolution")()
    genome = Genome(
        resolution=16,
        classes=5,
        stem=lookup("stem", "convolution")(channels=8),
        stages=(
            Stage(channels=8, blocks=(block,)),
            Stage(channels=12, blocks=(block, block), downsample=strided, stride=2),
        ),
        head=lookup("head", "pooled")(**head),
    )
    torch.manual_seed(0)
    return build(genome).eval()


@pytest.mark.parametrize("head", [{}, {"features": 24}, {"classifiers": 2}, {"hidden": "tanh"}])
@torch.no_grad()
def test_what_is_seen_of_a_network(head):
    net, images, seen = network(**head), torch.randn(6, 3, 16, 16), {}
    assert layer_names(net) == ["stem", "stage 1", "stage 2", "head input"]
    with watched(net, seen.__setitem__):
        logits = net(images)
    stem = net.stem(images)
    first = net.stages[0](stem)
    torch.testing.assert_close(seen[0], stem)
    torch.testing.assert_close(seen[1], first)
    torch.testing.assert_close(seen[2], net.stages[1](first))
    last = [module for module in net.head.modules() if isinstance(module, nn.Linear)][-1]
    if head.get("classifiers") != 2:
        torch.testing.assert_close(last(seen[3]), logits)
    assert seen[3].shape == (6, last.in_features)
    seen.clear()
    net(images)
    assert not seen  # nobody looks any more


# ---- error consistency


def naive_kappa(one, other):
    count = len(one)
    same = sum(a == b for a, b in zip(one, other, strict=True)) / count
    p, q = sum(one) / count, sum(other) / count
    chance = p * q + (1 - p) * (1 - q)
    return 1.0 if same == 1 else (same - chance) / (1 - chance)


def test_kappa_is_its_definition():
    generator = torch.Generator().manual_seed(0)
    right = (
        torch.rand(5, 83, generator=generator) < torch.tensor([0.1, 0.5, 0.7, 0.9, 0.95])[:, None]
    )
    found = kappa(right)
    for i, one in enumerate(right.tolist()):
        for j, other in enumerate(right.tolist()):
            assert float(found[i, j]) == pytest.approx(naive_kappa(one, other))


def test_kappa_where_it_is_known():
    right = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0]]).bool()
    expected = [[1, 1, -1, 0], [1, 1, -1, 0], [-1, -1, 1, 0], [0, 0, 0, 1]]
    assert kappa(right).tolist() == expected
    always, never = torch.ones(10).bool(), torch.zeros(10).bool()
    mixed = torch.arange(10) < 7
    expected = torch.eye(4, dtype=torch.float64)
    expected[0, 1] = expected[1, 0] = 1
    torch.testing.assert_close(kappa(torch.stack([always, always, never, mixed])), expected)


def test_agreement_that_accuracy_alone_explains_is_none():
    """Two independent deciders at 95% agree on 90.5% of images, and their kappa is about 0."""
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(2, 100_000, generator=generator) < 0.95
    agree = float((right[0] == right[1]).double().mean())
    assert agree == pytest.approx(0.905, abs=0.005)
    assert abs(float(kappa(right)[0, 1])) < 0.01


def test_spread_of_kappa_by_chance():
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.9, 0.7])[:, None]
    drawn = [torch.rand(2, 200, generator=generator) < shares for _ in range(2000)]
    values = torch.stack([kappa(right)[0, 1] for right in drawn])
    expected = torch.stack([chance_kappa(right)[0, 1] for right in drawn]).mean()
    assert float(values.std()) == pytest.approx(float(expected), rel=0.06)
    always = torch.ones(1, 200).bool()
    assert chance_kappa(torch.cat([drawn[0], always])).isnan()[2].all()
