"""What a search may begin with: networks that scores without training like."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from commands.job import Job
from commands.train import some
from evaluator.data import ImageData
from evaluator.zero_cost import AZ_NAS, fresh_network, log_rank_sum, zero_cost_scores
from evaluator.zero_cost.az_nas import COMPLEXITY
from results.console import Console
from search.proposals import BAND
from space.decisions import Codes
from space.genome import Genome
from supernet.augmentation import normalise

POOL = 4  # networks looked at for each that is taken
FEW_IMAGES = 64  # for a score


def promising(job: Job, data: ImageData, count: int, console: Console) -> list[Codes]:
    """`count` rows at the budget, the best of `POOL` times as many by the scores that the settings
    name, joined by their ranks over these.

    What is scored is the proxy with fresh weights. A network that has one of the scores not, as
    where a score is NaN, ranks last in it.
    """
    names, seed = job.settings.zero_cost, job.settings.seed
    rng = np.random.default_rng([seed, 6])
    rows = np.unique(job.proposals.sample(rng, POOL * count, BAND), axis=0)
    rng.shuffle(rows)
    proxies = job.proxy_space(len(data.classes))
    images, labels = few_images(data)
    columns: dict[str, list[float]] = {name: [] for name in parts_of(names)}
    with console.progress("looking for promising networks", len(rows)) as meter:
        for i, row in enumerate(rows):
            proxy = proxies.decode(row)
            found = scores_without_training(proxy, names, images, labels, seed)
            for name, column in columns.items():
                column.append(found.get(name, -math.inf))
            meter.update(i + 1)
    best = np.argsort(-log_rank_sum(columns), kind="stable")
    return list(rows[best[:count]])


def few_images(data: ImageData) -> tuple[Tensor, Tensor]:
    """Normalised validation images for scores without training, and their labels."""
    seen = some(data.validation)
    places = torch.linspace(0, len(seen) - 1, min(FEW_IMAGES, len(seen))).long()
    return normalise(seen.images[places], data.mean, data.std), seen.labels[places]


def scores_without_training(
    proxy: Genome, names: Sequence[str], images: Tensor, labels: Tensor, seed: int
) -> dict[str, float]:
    """The scores that this network has, by `parts_of(names)`; one that it has not does not stop the
    others."""
    found: dict[str, float] = {}
    network = fresh_network(proxy, seed=seed)
    for name in names:
        try:
            values = zero_cost_scores(proxy, [name], images, labels, seed=seed, network=network)
        except (RuntimeError, ValueError):  # NaN, or a network that is too short for it
            continue
        found |= {part: value for part, value in values.items() if part in parts_of([name])}
    return found


def parts_of(names: Sequence[str]) -> list[str]:
    """The scores that stand for `names`; MACs, a part of AZ-NAS, have a name of their own."""
    return [
        part
        for name in names
        for part in (AZ_NAS if name == "az_nas" else (name,))
        if part != COMPLEXITY
    ]
