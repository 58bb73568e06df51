"""How alike the finalists of a run are: what their layers see, and on which images they err.

Their trained weights are in the checkpoints that `finalists` has left; those that were stopped
early are no finalists any more, and are left out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from commands.alone import Trained, alone_trainer, held_out
from commands.job import CALIBRATION_IMAGES, Job
from evaluator.data import ImageData
from evaluator.similarity import (
    LEAST_IMAGES,
    MinibatchCKA,
    batch_sizes,
    centred_gram,
    chance_kappa,
    kappa,
    layer_names,
    watched,
)
from results.console import Console
from results.similarity import FORMAT
from space.genome import Genome
from space.network import Network
from supernet.augmentation import normalise
from supernet.checkpoints import Checkpoints

BATCH = 128  # images of which products are held at a time, for every layer of every network
CKA_IMAGES = 2048  # of those that are held out, at most: more change CKA by less than is shown
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Finished:
    """A network that was trained to the end: what it is called, its proxy, and where its
    checkpoints are."""

    name: str
    digest: str
    proxy: Genome
    checkpoints: Path


def compare(
    job: Job,
    data: ImageData,
    finished: Sequence[Finished],
    *,
    seed: int,
    steps: int,
    console: Console,
) -> dict[str, Any] | None:
    """Plain data, as `results.similarity` describes it; None where fewer than two networks can be
    compared. `seed` and `steps` are those of the trainings."""
    split, images = held_out(data)
    if len(finished) < 2 or len(images) < LEAST_IMAGES:
        return None
    networks: list[Network] = []
    there: list[Finished] = []
    for one in finished:
        network = _trained(job, data, one, seed, steps)
        if network is None:
            console.say(f"{one.name} is not compared: its checkpoint cannot be read")
        else:
            networks.append(network)
            there.append(one)
    if len(there) < 2:
        return None
    with console.progress("comparing finalists, images", len(images)) as meter:
        cka, right, seen = _look(networks, images.images, images.labels, data, job, meter.update)
    return {
        "format": FORMAT,
        "networks": [
            {
                "name": one.name,
                "digest": one.digest,
                "accuracy": float(decisions.double().mean()),
                "layers": layer_names(network),
            }
            for one, network, decisions in zip(there, networks, right, strict=True)
        ],
        "cka": _plain(cka),
        "kappa": _plain(kappa(right)),
        "kappa_by_chance": _plain(chance_kappa(right)),
        "about": {
            "split": split,
            "images": len(images),
            "cka_images": seen,
            "minibatch": max(batch_sizes(seen, BATCH)),
            "steps": steps,
            "seed": seed,
        },
    }


def _trained(job: Job, data: ImageData, one: Finished, seed: int, steps: int) -> Network | None:
    """The network as it was looked at when its training ended; None where it is not there."""
    trainer = alone_trainer(job, data, one.proxy, seed=seed, steps=steps)
    try:
        if not trainer.load(Checkpoints(one.checkpoints)) or trainer.step < steps:
            return None
        with trainer.averaged():
            seen = data.train.sample(CALIBRATION_IMAGES).to(trainer.device)
            batches = (normalise(images, data.mean, data.std) for images in seen.split(512))
            Trained(trainer.network).calibrate(one.proxy, batches)
            return copy.deepcopy(trainer.network).eval()
    except (ValueError, KeyError):
        return None
    finally:
        trainer.close()


@torch.no_grad()
def _look(
    networks: Sequence[Network],
    images: Tensor,
    labels: Tensor,
    data: ImageData,
    job: Job,
    progress: Any,
) -> tuple[Tensor, Tensor, int]:
    """CKA of all layers of all networks, what each got right of all images in their order, and how
    many images CKA is of.

    Minibatches are drawn at random: images often lie class by class, and of one class alone they
    would say how alike layers see that class. One layer's features are in memory at a time.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    compared = min(len(images), CKA_IMAGES)
    parts = [*order[:compared].split(batch_sizes(compared, BATCH))]
    last = len(parts)  # of those that CKA is of
    parts += order[compared:].split(BATCH) if compared < len(images) else []
    right = torch.zeros(len(networks), len(images), dtype=torch.bool)
    cka, done = MinibatchCKA(), 0
    for place, part in enumerate(parts):
        pixels = normalise(images[part].to(job.device), data.mean, data.std)
        wanted = place < last
        grams: list[Tensor] = []
        for i, network in enumerate(networks):
            own: dict[int, Tensor] = {}
            with ExitStack() as watching:
                if wanted:
                    watching.enter_context(watched(network, partial(_keep, own)))
                logits = network(pixels)
            right[i, part] = logits.argmax(1).cpu() == labels[part]
            grams += [own[layer] for layer in sorted(own)]
        if wanted:
            cka.add(grams)
        done += len(part)
        progress(done)
    return cka.value(), right, compared


def _keep(grams: dict[int, Tensor], layer: int, features: Tensor) -> None:
    grams[layer] = centred_gram(features)


def _plain(values: Tensor) -> list[list[float | None]]:
    """Rows of numbers; None where there is none."""
    return [
        [round(v, _DIGITS) if math.isfinite(v) else None for v in row] for row in values.tolist()
    ]
