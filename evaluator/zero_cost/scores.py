"""Scores of a genome, without training: the network is built with fresh weights, and measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from evaluator.zero_cost import dss, naswot, sizes, swap, synflow, zico  # noqa: F401  (register)
from evaluator.zero_cost.az_nas import AZ_NAS, COMPLEXITY, az_nas_parts
from evaluator.zero_cost.registry import SCORES
from evaluator.zero_cost.shared import NORM_LAYERS
from space.genome import Genome
from space.layers import LayerScale
from space.network import build


def score_names() -> list[str]:
    """What `zero_cost_scores` can be asked for."""
    return sorted({*SCORES, COMPLEXITY, "az_nas"})


def zero_cost_scores(
    genome: Genome,
    names: Sequence[str],
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    network: nn.Module | None = None,
) -> dict[str, float]:
    """The scores of one network by name, higher is better.

    `images` (N, 3, R, R) are normalised and of the genome's resolution, `labels` (N,). "az_nas"
    stands for the four scores of `az_nas.AZ_NAS`, which `join_az_nas` joins over a population;
    MACs and parameters are those of `genome.cost()`. `seed` is that of the fresh weights
    (`fresh_network`), unless a `network` is given, which is taken as it is and stays so.

    ValueError where a name is unknown; RuntimeError where a score is NaN. -inf is a score.
    """
    unknown = [name for name in names if name not in score_names()]
    if unknown:
        known = ", ".join(score_names())
        raise ValueError(f"unknown score {unknown[0]!r}; there are: {known}")
    wanted = [part for name in names for part in (AZ_NAS if name == "az_nas" else (name,))]
    cost = genome.cost()
    found: dict[str, float] = {"params": cost.params, "macs": cost.macs, COMPLEXITY: cost.macs}
    if network is None and not set(wanted) <= set(found):
        network = fresh_network(genome, seed=seed)
    for name in wanted:
        if name in found:
            continue
        assert network is not None
        if name in AZ_NAS:
            found |= az_nas_parts(network, images, labels, seed=seed)
        else:
            found[name] = SCORES[name](network, images, labels)
    return {name: float(found[name]) for name in wanted}


def fresh_network(genome: Genome, *, seed: int) -> nn.Module:
    """The network with weights of a seed, and nothing closed: what networks start small or at zero,
    so that training begins at the shortcut, would hide the branch behind it from every score.

    So layer scales start at 1, norms whose factors are all zero at 1, and convolutions and linear
    layers whose weights are all zero as their kind usually does. The papers' networks have none.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = build(genome)
        for layer in network.modules():
            weight: Any = getattr(layer, "weight", None)
            if isinstance(layer, LayerScale):
                weight.fill_(1)
            elif weight is not None and not weight.any():
                if isinstance(layer, NORM_LAYERS):
                    weight.fill_(1)
                elif isinstance(layer, _ConvNd | nn.Linear):
                    layer.reset_parameters()
    return network
