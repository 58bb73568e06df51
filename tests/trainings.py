"""Small trainings: what several tests make, also in processes of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from space.files import make_space
from space.genome import Genome
from space.search_space import Space
from supernet.batches import Batches, ResidentImages
from supernet.network import Supernet
from supernet.recipe import TrainingSettings
from supernet.training import AloneTrainer, Group, Trainer, Training

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PLAIN = TrainingSettings(steps=4, batch=6, shift=0.0, flip=False)
# Three operators, one of them under two names; LayerNorm throughout, so that no image of a batch
# matters to another.
LAYERED: dict[str, Any] = {
    "name": "layered",
    "resolution": [16],
    "classes": 3,
    "stem": {"convolution": {"channels": [4, 8], "norm": ["layer"]}},
    "operators": {
        "narrow": {"kind": "inverted_bottleneck", "expansion": [1], "norm": ["layer"]},
        "wide": {"kind": "inverted_bottleneck", "expansion": [2, 3], "norm": ["layer"]},
        "modulation": {"expansion": [1, 2], "layer_scale": [0.1]},
    },
    "stages": [
        {
            "channels": [8, 12],
            "depth": [0, 1, 2],
            "stride": 2,
            "downsampling": {"local_dsm": {}},
            "operators": ["narrow", "wide", "modulation"],
        },
        {
            "channels": [12],
            "depth": [1, 3],
            "downsampling": {"local_dsm": {}},
            "operators": ["wide", "modulation"],
        },
    ],
    "head": {"pooled": {"norm": ["layer"]}},
}


@cache
def layered(blocks: str = "alike") -> Space:
    """352 networks, or 8,432 with free blocks, of some thousand parameters."""
    return make_space({**LAYERED, "blocks": blocks})


def settings(**changes: Any) -> TrainingSettings:
    """The plain ones with others in some places."""
    return dataclasses.replace(PLAIN, **changes)


def noise(count: int = 24, side: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random images of three classes."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count) % 3


def make_batches(
    chosen: TrainingSettings,
    data: tuple[Tensor, Tensor] | None = None,
    *,
    seed: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> Batches:
    """Of noise, unless there is `data`."""
    images, labels = data or noise()
    source = ResidentImages(images, labels, batch=chosen.batch, seed=seed, rank=rank, ranks=ranks)
    return Batches(source, MEAN, STD, chosen, classes=3, seed=seed, rank=rank)


def make_trainer(
    chosen: TrainingSettings = PLAIN,
    *,
    space: Space | None = None,
    data: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
    group: Group | None = None,
) -> Trainer:
    """Of the layered space, unless there is another."""
    supernet = Supernet(
        space or layered(), seed=seed, pooled=chosen.pooled, split_at=chosen.split_at
    )
    place = {} if group is None else {"rank": group.rank, "ranks": group.ranks}
    batches = make_batches(chosen, data, seed=seed, **place)
    return Trainer(supernet, batches, chosen, seed=seed, group=group)


def make_alone(
    chosen: TrainingSettings = PLAIN, *, genome: Genome | None = None, seed: int = 0
) -> AloneTrainer:
    """Of a network of the layered space, unless there is another."""
    genome = genome or layered().sample(np.random.default_rng(1))
    return AloneTrainer(
        genome, make_batches(chosen, noise(side=genome.resolution)), chosen, seed=seed
    )


def weights(training: Training) -> dict[str, Tensor]:
    """Copies."""
    return {name: weight.detach().clone() for name, weight in training._parameters.items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """To the last bit."""
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)
