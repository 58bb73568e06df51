"""NASWOT: how differently the images of a batch switch the network's activations.

Source: Mellor et al., 2020, arXiv 2006.04647, equations 1 and 2. An image's code is a bit for each
unit of each activation; K[i, j] is the number of bits in which the codes of images i and j agree,
and the score is log |det K|.
Differs from it: the paper's networks have ReLU alone; which bits others give is in
`shared.watch_signs`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluator.zero_cost.registry import score
from evaluator.zero_cost.shared import watch_signs


@score("naswot")
def naswot(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """-inf where K is singular: two images have one code, or there is no activation at all."""
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)

    def agree(signs: Tensor) -> None:
        ones, zeros = signs.float(), (~signs).float()  # counts of a layer are exact below 2**24
        kernel.add_(ones @ ones.mT + zeros @ zeros.mT)

    watch_signs(network, images, agree)
    return float(torch.linalg.slogdet(kernel).logabsdet)
