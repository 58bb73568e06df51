"""First-order predictions against the derivative that they stand for."""

import numpy as np
import pytest
import torch

from evaluator.swaps import swap_scores
from space.files import load_space
from supernet.network import Supernet


@pytest.fixture(scope="module")
def given():
    space = load_space("unified").scaled(width=0.0625, resolution=32, classes=10)
    supernet, generator = Supernet(space), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in supernet.weights.values():
            weight.add_(
                0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
            )
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 3, 32, 32, generator=generator)
    parent = space.sample_codes(np.random.default_rng(3), 1)[0]
    return space, supernet, parent, images, torch.arange(6)


def score(logits, labels):
    return float(logits.softmax(1).gather(1, labels[:, None]).mean())


def test_predictions_are_derivatives(given):
    """Of the score on the way from the parent's output of a part to the neighbour's."""
    space, supernet, row, images, labels = given
    parent = space.decode(row)
    near = [space.decode(r) for r in space.neighbours(row)]
    predicted = swap_scores(supernet, parent, near, images, labels)
    path, checked = list(parent.parts()), 0
    for genome, value in zip(near, predicted, strict=True):
        other = list(genome.parts())
        places = [i for i, (a, b) in enumerate(zip(path, other, strict=False)) if a != b]
        if value is None or len(other) != len(path) or len(places) != 1:
            continue
        (i,) = places

        def mixed(share, i=i, other=other):
            x = images
            with torch.no_grad():
                for j, placed in enumerate(path):
                    y = supernet.run(placed, x)
                    if j == i:
                        y = y + share * (supernet.run(other[i], x) - y)
                    x = y
            return score(x.double(), labels)

        slope = (mixed(0.004) - mixed(-0.004)) / 0.008
        assert value == pytest.approx(slope, rel=0.03, abs=3e-5)
        checked += 1
    assert checked > 5


def test_what_cannot_be_predicted(given):
    """More than one part, or another width; the parent itself changes nothing."""
    space, supernet, row, images, labels = given
    parent = space.decode(row)
    others = [space.decode(r) for r in space.sample_codes(np.random.default_rng(5), 3)]
    assert swap_scores(supernet, parent, [*others, parent], images, labels) == [
        None,
        None,
        None,
        0.0,
    ]


def test_neighbours_differ_in_one_gene(given):
    space, _, row, *_ = given
    found = space.neighbours(row)
    assert len(np.unique(found, axis=0)) == len(found) > 40
    active = space.active(row[None])[0]
    for other in found:
        assert (space.canonical(other[None])[0] == other).all()
        shared = active & space.active(other[None])[0]
        assert (other != row).any()
        assert (other[shared] != row[shared]).sum() <= 1
    expected = sum(int(space.cardinalities[v]) - 1 for v in np.flatnonzero(active))
    assert len(found) == expected
