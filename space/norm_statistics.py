"""Running statistics of BatchNorms, taken from images at once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@torch.no_grad()
def take_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Makes the running statistics of all BatchNorms the mean over `batches` of images
    (N, C, H, W), and leaves the network in evaluation mode. `batches` may stay unread where there
    are no BatchNorms.

    Source: Yu et al., 2018, arXiv 1812.08928, section 3.3.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, _BATCH_NORMS)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over batches
    if norms:
        network.train()
        for images in batches:
            network(images)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    network.eval()
