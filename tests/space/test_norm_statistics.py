"""Statistics of BatchNorms against those that the maps before them have."""

import torch
from torch import nn

from space.norm_statistics import take_statistics


def test_statistics_are_means_over_batches():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, momentum=0.2)
    network = nn.Sequential(nn.Conv2d(2, 3, 1), norm, nn.ReLU())
    norm.running_mean.fill_(7)
    batches = [5 * torch.randn(4, 2, 6, 5) + 1 for _ in range(3)]
    take_statistics(network, batches)
    with torch.no_grad():
        maps = [network[0](images) for images in batches]
    means = torch.stack([y.mean((0, 2, 3)) for y in maps]).mean(0)
    variances = torch.stack([y.var((0, 2, 3)) for y in maps]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert norm.momentum == 0.2
    assert not any(layer.training for layer in network.modules())


def test_nothing_is_computed_where_there_are_no_norms():
    network = nn.Conv2d(2, 3, 1)
    take_statistics(network, iter([torch.zeros(1, 9, 4, 4)]))  # no image of that network's
    assert not network.training
