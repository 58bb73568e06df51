"""The size of a network as a score: the baseline that every other score has to beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from evaluator.zero_cost.registry import score


@score("macs")
def macs(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Multiply-adds of one image, traced; equal to `Genome.cost().macs`, which takes no trace."""
    network.to("meta").eval()
    image = torch.empty_like(images[:1], device="meta")
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops() / 2


@score("params")
def params(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
