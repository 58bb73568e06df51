"""Networks trained alone: each the proxy of one of a run, by the run's own recipe and images.

What `trust` and `finalists` share, from the run's folder to the accuracy of a trained network.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from commands.job import CALIBRATION_IMAGES, DataSource, Job
from evaluator.data import ImageData, Split
from evaluator.interfaces import Score
from evaluator.scoring import SupernetEvaluator
from results.console import Console
from results.run_folder import RunFolder, read_yaml
from search.settings import Settings
from space.genome import Genome
from space.norm_statistics import take_statistics
from supernet.augmentation import normalise
from supernet.recipe import TrainingSettings
from supernet.training import AloneTrainer


class Unfit(ValueError):
    """What a trained network gives are no numbers. Trained again, it would do the same."""


_FACTS = ("name", "classes", "mean", "std", "digest")


# ---- a run


def check_least(options: argparse.Namespace, least: Mapping[str, int]) -> None:
    """ValueError where an option that was given is smaller than it may be."""
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            raise ValueError(f"{name} is {value}, but must be at least {smallest}")


def command_line(command: str, options: argparse.Namespace, names: Sequence[str]) -> str:
    """The command on the run of `options`, with those of `names` that were given."""
    words = ["python", "run_search.py", command, str(options.run)]
    for name in names:
        value = getattr(options, name)
        if value is not None:
            words += [f"--{name}", str(value)]
    return shlex.join(words)


def open_folder(
    path: Path, device: str | None, console: Console
) -> tuple[RunFolder, Settings, Job]:
    """A run's folder, its own settings, and those by which this process works, on `device` where
    one is named; ValueError where `path` is no run."""
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise ValueError(f"{str(path)!r} is not a run folder: it has no config.yaml")
    folder.check_format()
    settings = Settings.from_plain(read_yaml(folder.config, "config"))
    here = dataclasses.replace(
        settings, workers=1, ray_address=None, device=device or settings.device
    )
    return folder, settings, Job(here, profiles=folder.profiles, console=console)


def held_out(data: ImageData) -> tuple[str, Split]:
    """The images that tell how good a network is that was trained alone, and their split: test
    images, or where there are none those that scores are computed from too."""
    return ("test", data.test) if data.test is not None else ("validation", data.validation)


# ---- a training


def recipe(job: Job, steps: int) -> TrainingSettings:
    """The recipe of the supernet for one network: `steps` steps of as many images each."""
    batch = job.training.batch * job.settings.train_workers
    return dataclasses.replace(job.training, steps=steps, batch=batch)


def alone_trainer(
    job: Job, data: ImageData, genome: Genome, *, seed: int, steps: int
) -> AloneTrainer:
    """Trains a proxy; `seed` is that of its weights, of the order of the images and of how they
    are changed."""
    own, chosen = copy.copy(job), recipe(job, steps)
    own.settings = dataclasses.replace(job.settings, seed=seed)
    own.training = chosen
    return AloneTrainer(genome, own.batches(data), chosen, seed=seed, device=job.device)


def look(
    trainer: AloneTrainer,
    data: ImageData,
    split: Split,
    *,
    seen: Tensor | None = None,
    chunk: int = 512,
) -> Score:
    """How good the network is on the images of `split`; `details` has `top1`, its accuracy. Running
    statistics become those of the training images `seen`, or of some, and stay so; `chunk` images
    are in memory at a time. `Unfit` where what it gives are no numbers."""
    device = trainer.device
    seen = data.train.sample(CALIBRATION_IMAGES) if seen is None else seen
    evaluator = SupernetEvaluator(
        Trained(trainer.network),
        split.images.to(device),
        split.labels.to(device),
        calibration=seen.to(device),
        normalise=lambda pixels: normalise(pixels, data.mean, data.std),
        proxy=lambda genome: genome,
        chunk=chunk,
    )
    try:
        with trainer.averaged():
            return evaluator.evaluate(trainer.genome)
    except torch.OutOfMemoryError:  # is not of the network's making
        raise
    except RuntimeError as error:
        raise Unfit(str(error)) from error


class Trained:
    """One trained network in the place of a supernet (`evaluator.scoring.Weights`)."""

    def __init__(self, network: nn.Module):
        self._network = network

    def __call__(self, genome: Genome, images: Tensor, *, buffers: Any = None) -> Tensor:
        return self._network.eval()(images)

    def calibrate(self, genome: Genome, batches: Iterator[Tensor]) -> None:
        """Running statistics of the trained weights: those that training left are of all the
        weights on the way there."""
        take_statistics(self._network, batches)


# ---- in another process


def shared_images(
    data: ImageData, splits: Mapping[str, Split]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `received_images` makes the data of again: facts as plain data, and the tensors of
    `splits` and of training images that are resident; each process reads others itself."""
    shown = {**splits, "train": data.train} if isinstance(data.train, Split) else splits
    tensors: dict[str, Tensor] = {}
    for name, split in shown.items():
        tensors |= {f"{name}_images": split.images, f"{name}_labels": split.labels}
    return {key: getattr(data, key) for key in _FACTS}, tensors


def received_images(
    source: DataSource, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> ImageData:
    """The data of `shared_images`. Test images that were sent alone stand for both splits."""

    def split(name: str) -> Split | None:
        images = tensors.get(f"{name}_images")
        return None if images is None else Split(images, tensors[f"{name}_labels"])

    train, test = split("train"), split("test")
    validation = split("validation") or test
    assert validation is not None
    if train is None:
        return source.again(facts["digest"], "a worker")
    return ImageData(train=train, validation=validation, test=test, skipped=0, **facts)
