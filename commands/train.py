"""The training of a run: in this process, in those that torchrun started, or by Ray Train."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from commands.job import CALIBRATION_IMAGES, DataSource, Job, make_scorer, scorer_of
from evaluator.data import ImageData, Split
from results.console import Console
from results.run_folder import RunFolder, write_text
from search.settings import Settings
from space.genome import Genome
from supernet.checkpoints import Checkpoints
from supernet.distributed import Processes
from supernet.training import Trainer

PROBE_IMAGES = 256  # of the validation split, looked at while the supernet trains
Progress = Callable[[int, int, float], None]


def train(folder: RunFolder, job: Job, trainer: Trainer, data: ImageData, console: Console) -> None:
    """Trains the supernet, or takes up where its checkpoint ends. The first process of several
    looks how good its networks are meanwhile."""
    checkpoints = Checkpoints(folder.checkpoints)
    try:
        trainer.load(checkpoints)
        if trainer.step == trainer.steps:
            return
        with console.progress("training the supernet", trainer.steps, trainer.step) as meter:

            def progress(done: int, total: int, loss: float) -> None:
                meter.update(done, f"loss {loss:.3f}", total)

            if job.settings.train_workers == 1:
                look = make_probe(trainer, data) if trainer.group.rank == 0 else None
                trainer.run(checkpoints, progress=progress, probe=look)
                return
            train_by_ray(folder, job, data, progress)
            trainer.load(checkpoints)
        if trainer.step < trainer.steps:
            raise ValueError(
                f"there is no finished checkpoint in {folder.checkpoints}: it must be on a file "
                "system that all machines of the training see"
            )
    finally:
        trainer.close()


def make_probe(trainer: Trainer, data: ImageData) -> Callable[[], dict[str, float]]:
    """What shows, while training goes on, whether a kind of network is left behind: the share of
    some validation images that the largest, the smallest and a random network classify right."""
    scorer = scorer_of(trainer.supernet, some(data.validation), data)
    networks = {
        "largest": trainer.largest,
        "smallest": trainer.smallest,
        "random": trainer.supernet.space.sample(np.random.default_rng(0)),
    }

    def right(network: Genome) -> float:
        try:
            return scorer.evaluate(network).details["top1"]
        except RuntimeError:  # its outputs are not numbers; the next step says so, if all are
            return 0.0

    def look() -> dict[str, float]:
        return {name: right(network) for name, network in networks.items()}

    return look


def some(split: Split) -> Split:
    """At most `PROBE_IMAGES` of a split, evenly spread."""
    places = np.linspace(0, len(split) - 1, min(PROBE_IMAGES, len(split)))
    rows = torch.from_numpy(places.astype(np.int64))
    return Split(split.images[rows], split.labels[rows])


# ---- what came of it


def measure(folder: RunFolder, trainer: Trainer, data: ImageData, console: Console) -> None:
    """Notes how good the trained supernet is, once, and says so."""
    if not folder.supernet_facts.exists():
        count = len(data.validation) + len(data.test or ())
        console.say(f"measuring the trained supernet on {count} images")
        accuracies = supernet_accuracies(trainer, data)
        write_text(folder.supernet_facts, json.dumps(accuracies, indent=2) + "\n")
    accuracies = json.loads(folder.supernet_facts.read_text(encoding="utf-8"))
    for name, found in accuracies.items():
        shares = ", ".join(f"{share:.1%} of the {split} images" for split, share in found.items())
        console.say(f"the supernet's {name} network classifies {shares} right")


def supernet_accuracies(trainer: Trainer, data: ImageData) -> dict[str, dict[str, float]]:
    """Share of images that the largest and the smallest network classify right. The test images
    are looked at here only, after training, and decide nothing."""
    splits = {"validation": data.validation, "test": data.test}
    calibration = data.train.sample(CALIBRATION_IMAGES)  # once: streamed images are read for it
    evaluators = {
        name: make_scorer(
            trainer.supernet, split.images, split.labels, calibration, data.mean, data.std
        )
        for name, split in splits.items()
        if split is not None
    }
    networks = {"largest": trainer.largest, "smallest": trainer.smallest}
    return {
        name: {
            split: scorer.evaluate(genome).details["top1"] for split, scorer in evaluators.items()
        }
        for name, genome in networks.items()
    }


# ---- by Ray Train


def train_by_ray(folder: RunFolder, job: Job, data: ImageData, progress: Progress) -> None:
    """Trains in `train_workers` processes, which leave their checkpoints in the run's folder.

    Images that are resident here go to them through Ray's object store; those that are streamed
    each process reads itself. ValueError with what went wrong, and how to go on.
    """
    from search.ray_train import WorkerDied, train_together  # Ray is wanted by nobody else

    settings, seen = job.settings, some(data.validation)
    shared = {"seen": seen.images, "seen_labels": seen.labels}
    if isinstance(data.train, Split):
        shared |= {"images": data.train.images, "labels": data.train.labels}
    try:
        train_together(
            "commands.train:train_in_process",
            {
                "plain": settings.to_plain(),
                "facts": {
                    "name": data.name,
                    "classes": data.classes,
                    "mean": data.mean,
                    "std": data.std,
                    "digest": data.digest,
                },
                "checkpoints": str(folder.checkpoints.absolute()),
            },
            shared,
            folder=folder.state.absolute(),
            workers=settings.train_workers,
            threads=settings.threads,
            cuda=job.device.type == "cuda",
            address=settings.ray_address,
            progress=progress,
        )
    except WorkerDied as error:
        raise ValueError(
            f"{error}; go on with: python run_search.py --resume {folder.path}"
        ) from error


def train_in_process(
    *,
    plain: Mapping[str, Any],
    facts: Mapping[str, Any],
    checkpoints: str,
    tensors: Mapping[str, Tensor],
    device: str,
    progress: Progress,
) -> None:
    """One of the processes of `train_by_ray`."""
    settings = Settings.from_plain(plain)
    job = Job(settings, device)
    data = data_of(settings, facts, tensors)
    trainer = job.trainer(data, Processes())
    kept, first = Checkpoints(Path(checkpoints)), trainer.group.rank == 0
    try:
        trainer.load(kept)
        trainer.run(
            kept,
            progress=progress if first else None,
            probe=make_probe(trainer, data) if first else None,
        )
    finally:
        trainer.close()


def data_of(
    settings: Settings, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> ImageData:
    """The images of such a process, with the part of the validation split that it looks at."""
    seen = Split(tensors["seen"], tensors["seen_labels"])
    if "images" in tensors:
        train = Split(tensors["images"], tensors["labels"])
        return ImageData(train=train, validation=seen, test=None, skipped=0, **facts)
    return DataSource.of(settings).again(facts["digest"], "a process")
