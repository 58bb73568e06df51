"""ZiCo: how large and how steady each weight's gradient is from batch to batch.

Source: Li et al., 2023, arXiv 2301.11300, equation 18: the sum over layers of
log(sum over a layer's weights of mean |g| / std g), g being the gradients of the cross-entropy over
several batches.
As in the released code layers are convolutions and linear layers (`shared.weight_layers`), the
deviation is that of the gradient with its sign, and weights whose gradient never changes and layers
without any other are left out.
Differs from it: the batches are shares of one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluator.zero_cost.registry import score
from evaluator.zero_cost.shared import gradients, weight_layers


@score("zico")
def zico(network: nn.Module, images: Tensor, labels: Tensor, *, batches: int = 2) -> float:
    """In training mode; each of the `batches` has the norms' statistics of its own. ValueError
    where there are fewer than two, or fewer images than batches."""
    if not 2 <= batches <= len(images):
        raise ValueError(
            f"batches is {batches}, but must be from 2 to the number of images, {len(images)}"
        )
    network.train()
    layers = weight_layers(network).values()
    found = []
    for share, right in zip(
        images.tensor_split(batches), labels.tensor_split(batches), strict=True
    ):
        found.append(gradients(F.cross_entropy(network(share), right), layers))
    return sum(_layer(torch.stack(each).double()) for each in zip(*found, strict=True))


def _layer(gradient: Tensor) -> float:
    """From the gradients (batches, ...) of one layer's weight."""
    if not gradient.isfinite().all():
        return math.nan
    mean, deviation = gradient.abs().mean(0), gradient.std(0, correction=0)
    steady = (mean[deviation > 0] / deviation[deviation > 0]).sum()
    return float(steady.log()) if steady > 0 else 0.0
