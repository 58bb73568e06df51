"""AZ-NAS: expressivity, progressivity, trainability and complexity, joined by ranks.

Source: Lee and Ham, 2024, arXiv 2403.19232, section 3, and its released code. Of the maps behind
the stem and behind each downsampling module and operator, l = 1 .. L (`shared.chain` without the
head):

- expressivity: the sum over l of e_l, the entropy of the eigenvalues, divided by their sum, of the
  covariance of the channels over all images and pixels;
- progressivity: the least e_l - e_(l-1);
- trainability: the mean over l > 1 of 2 - s_l - 1 / s_l. A random gradient of +1 and -1 at map l,
  taken back to map l - 1, estimates the Jacobian of the part between them by the mean over images
  and pixels of the outer products of both, and s_l is the spectral norm of that;
- complexity: MACs, see `sizes.macs`.

Where a part has a stride, each of its output pixels goes with the block of input pixels in its
place, zeros filling the last ones. Where several maps or tokens travel together the first counts:
the map beside tokens; between the columns of RevCol the stem's, which says little.
Differs from it: weights and images are what the caller gives; the released code draws weights with
Kaiming's deviation and takes noise for images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluator.zero_cost.ranks import log_rank_sum
from evaluator.zero_cost.registry import number, on_a_copy, score
from evaluator.zero_cost.shared import Flow, chain, each, map_of, matrix_norm

EXPRESSIVITY, PROGRESSIVITY = "az_nas_expressivity", "az_nas_progressivity"
TRAINABILITY, COMPLEXITY = "az_nas_trainability", "az_nas_complexity"
AZ_NAS = (EXPRESSIVITY, PROGRESSIVITY, TRAINABILITY, COMPLEXITY)


def join_az_nas(table: Mapping[str, Sequence[float]]) -> NDArray[np.float64]:
    """The joined score of each network of a population, from columns of the four names of `AZ_NAS`
    (others are not looked at): section 3.5. KeyError where one is missing."""
    return log_rank_sum({name: table[name] for name in AZ_NAS})


@on_a_copy
def az_nas_parts(
    network: nn.Module, images: Tensor, labels: Tensor, *, seed: int = 0
) -> dict[str, float]:
    """All but the complexity, in one forward and one backward pass; `seed` is that of the random
    gradients. RuntimeError where one is NaN, ValueError where the network has fewer than two maps.
    """
    body = chain(network.train())[:-1]
    if len(body) < 2:
        raise ValueError(
            f"AZ-NAS compares the parts of a Network or Sequential, but {type(network).__name__} "
            f"has {len(body)} in front of its last one, and needs 2"
        )
    generator = torch.Generator().manual_seed(seed)
    entropies, trainable = [], []
    x: Flow = images
    for i, part in enumerate(body):
        before = each(x, lambda y: y.detach().requires_grad_(i > 0))  # noqa: B023
        x = part(before)
        entropies.append(entropy(map_of(x).detach()))
        if i > 0:
            trainable.append(_trainability(map_of(before), map_of(x), generator))
    found = {
        EXPRESSIVITY: float(np.sum(entropies)),
        PROGRESSIVITY: float(np.min(np.diff(entropies))),
        TRAINABILITY: float(np.mean(trainable)),
    }
    return {name: number(name, value) for name, value in found.items()}


@score(EXPRESSIVITY)
def expressivity(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The network's, alone; `az_nas_parts` has the others for the same price."""
    return az_nas_parts(network, images, labels)[EXPRESSIVITY]


@score(PROGRESSIVITY)
def progressivity(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The network's, alone."""
    return az_nas_parts(network, images, labels)[PROGRESSIVITY]


@score(TRAINABILITY)
def trainability(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The network's, alone."""
    return az_nas_parts(network, images, labels)[TRAINABILITY]


def entropy(x: Tensor) -> float:
    """Of the normalised eigenvalues of the channels' covariance; x (N, C, ...). 0 where the
    channels never change."""
    pixels = x.movedim(1, -1).flatten(0, -2).double()
    if not pixels.isfinite().all():
        return math.nan
    pixels = pixels - pixels.mean(0)
    values = torch.linalg.eigvalsh(pixels.mT @ pixels).clamp(min=0)
    total = values.sum()
    return float(torch.special.entr(values / total).sum()) if total != 0 else 0.0


def _trainability(before: Tensor, after: Tensor, generator: torch.Generator) -> float:
    """2 - s - 1 / s of the part between two maps."""
    signs = torch.randint(0, 2, after.shape, generator=generator).to(after) * 2 - 1
    (gradient,) = torch.autograd.grad(after, before, signs)
    step = max(_step(before.shape[2:], after.shape[2:]), 1)
    back = max(_step(after.shape[2:], before.shape[2:]), 1)  # where a part makes the map larger
    inputs, outputs = _pixels(gradient, step), _pixels(signs, back)
    jacobian = inputs.mT @ outputs / len(outputs)
    size = matrix_norm(jacobian, 2)
    return 2 - size - 1 / (size + 1e-6)


def _step(large: Sequence[int], small: Sequence[int]) -> int:
    return -(-max(large, default=1) // max(small, default=1))


def _pixels(x: Tensor, step: int) -> Tensor:
    """(N, C, H, W) to (pixels, C * step^2); (N, C) is a map of one pixel."""
    x = x if x.ndim == 4 else x.reshape(*x.shape[:2], -1, 1)
    if step > 1:
        x = F.pixel_unshuffle(F.pad(x, (0, -x.shape[3] % step, 0, -x.shape[2] % step)), step)
    return x.permute(0, 2, 3, 1).flatten(0, 2)
