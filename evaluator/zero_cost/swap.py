"""SWAP: how many different patterns the images of a batch make in the units of the network.

Source: Peng et al., 2024, arXiv 2403.04161, section 3: a unit's pattern is a bit for each image,
and the score is the number of different patterns among all units of all activations. The
regularised score is that times exp(-(params - mu)^2 / sigma), as in the released code.
Differs from it: the paper's networks have ReLU alone; which bits others give is in
`shared.watch_signs`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluator.zero_cost.registry import score
from evaluator.zero_cost.shared import watch_signs


@score("swap")
def swap(
    network: nn.Module, images: Tensor, labels: Tensor, *, size: tuple[float, float] | None = None
) -> float:
    """`size`: mu and sigma of the regularisation, in parameters and parameters squared.

    At most 2^N, so that few images leave large networks without a difference. ValueError where
    sigma is not above 0.
    """
    if size is not None and not size[1] > 0:
        raise ValueError(f"sigma is {size[1]!r}, but must be above 0")
    found: list[NDArray[np.void]] = []
    watch_signs(network, images, lambda signs: found.append(_patterns(signs)))
    patterns = len(np.unique(np.concatenate(found))) if found else 0
    if size is None:
        return patterns
    params = sum(parameter.numel() for parameter in network.parameters())
    return patterns * math.exp(-((params - size[0]) ** 2) / size[1])


def _patterns(signs: Tensor) -> NDArray[np.void]:
    """Different columns of (N, units), each as its N bits: as one integer where they fit."""
    packed = np.packbits(signs.T.cpu().numpy(), axis=1)
    width = 1 << max(0, packed.shape[1] - 1).bit_length()
    packed = np.ascontiguousarray(np.pad(packed, ((0, 0), (0, width - packed.shape[1]))))
    kind = np.dtype(f"u{width}") if width <= 8 else np.dtype((np.void, width))
    return np.unique(packed.view(kind)[:, 0])
