"""A run: its folder, the supernet, the candidates. What ends it is in `commands.finish`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from commands.finish import finish
from commands.job import Job, check_cluster, make_runner, make_scorer
from commands.options import resolve, resumed_settings
from commands.plan import make_plan, show_plan, starts_text
from evaluator.data import ImageData, load_data
from results.console import Console
from results.history import FROM_PRESET
from results.run_folder import (
    RunFolder,
    best_at_budget,
    environment,
    write_text,
)
from results.store import Store
from search.controllers import make_controller
from search.loop import search
from search.proposals import BAND
from search.settings import Settings
from supernet.checkpoints import Checkpoints
from supernet.network import Supernet
from supernet.training import Trainer

PROBE_IMAGES = 256  # of the validation split, looked at while the supernet trains
LONGEST_NAME = 200  # of a run, bytes; file systems allow 255, and partial files need some


def run(options: argparse.Namespace, console: Console) -> int:
    """Plans, trains, searches and reports; the options' errors come before anything is written."""
    if options.resume is not None:
        folder = RunFolder(options.resume)
        settings = resumed_settings(options, folder)
    else:
        settings = resolve(options)
        folder = RunFolder(options.runs / (options.name or default_name(settings)))
        check_place(folder, options.name)
        if not options.dry_run:
            folder.check_new()
    job = Job(settings)
    reachable = job.proposals.reachable()
    job.proposals.check()
    if options.dry_run:
        plan = make_plan(job, reachable, folder)
        console.result(plan, show_plan(job, reachable, folder, plan))
        return 0
    check_cluster(settings.ray_address)
    options.folder = folder
    with console.progress("reading images", 1) as meter:
        data = load_data(
            settings.data,
            resolution=settings.proxy_resolution,
            seed=settings.seed,
            limit=settings.limit,
            progress=lambda done, total: meter.update(done, total=total),
        )
    if data.skipped:
        console.say(f"{data.skipped} corrupt images were left out")
    trainer = job.trainer(data)
    check_disk(folder, trainer.supernet)
    facts = {**environment(settings.device), "data": data.digest}
    if options.resume is None:
        folder.create(settings.to_plain(), facts)
    elif json.loads(folder.environment.read_text(encoding="utf-8"))["data"] != data.digest:
        raise ValueError(f"the images of {settings.data!r} are not those that the run began with")
    else:
        folder.sweep()
    console.say(f"run folder: {folder.path}")
    train(folder, trainer, data, console)
    find(folder, job, trainer, data, console)
    return finish(folder, job, trainer, reachable, console)


def check_place(folder: RunFolder, name: str | None) -> None:
    """ValueError where a run's folder cannot be made."""
    if name is not None and (name in ("", ".", "..") or Path(name).name != name):
        raise ValueError(f"name is {name!r}, but must be the name of a folder, without a path")
    length = len(os.fsencode(folder.path.name))
    if length > LONGEST_NAME:
        raise ValueError(
            f"the name of the run's folder has {length} bytes, but must have at most "
            f"{LONGEST_NAME}; choose a shorter --name"
        )
    place = existing_place(folder.path.parent)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"no run folder can be made under {str(place)!r}; choose another --runs")


def existing_place(path: Path) -> Path:
    """The nearest place above `path`, or itself, that there is."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def default_name(settings: Settings) -> str:
    """Such as `4GFLOPs-unified-seed0`."""
    safe = "".join(c if c.isalnum() or c in ".-" else "-" for c in settings.budget)
    return f"{safe}-{Path(settings.space).stem}-seed{settings.seed}"


def check_disk(folder: RunFolder, supernet: Supernet) -> None:
    """ValueError where the disk cannot hold what the run is going to write."""
    numbers = sum(weight.numel() for weight in supernet.weights.values())
    needed = 2 * 12 * numbers + 64 * 2**20  # two checkpoints while one replaces the other
    place = existing_place(folder.path)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ValueError(
            f"the run needs {needed / 2**20:.0f} MiB under {str(place)!r}, but only "
            f"{free / 2**20:.0f} MiB are free; free some, or choose another --runs"
        )


def train(folder: RunFolder, trainer: Trainer, data: ImageData, console: Console) -> None:
    """Trains the supernet, or takes up where its checkpoint ends; then notes how good it is."""
    checkpoints = Checkpoints(folder.checkpoints)
    trainer.load(checkpoints)
    if trainer.step < trainer.steps:
        look = make_probe(trainer, data)
        with console.progress("training the supernet", trainer.steps, trainer.step) as meter:
            trainer.run(
                checkpoints,
                progress=lambda done, _, loss: meter.update(done, f"loss {loss:.3f}"),
                probe=look,
            )
    if not folder.supernet_facts.exists():
        count = len(data.validation) + len(data.test or ())
        console.say(f"measuring the trained supernet on {count} images")
        accuracies = supernet_accuracies(trainer, data)
        write_text(folder.supernet_facts, json.dumps(accuracies, indent=2) + "\n")
    accuracies = json.loads(folder.supernet_facts.read_text(encoding="utf-8"))
    for name, found in accuracies.items():
        shares = ", ".join(f"{share:.1%} of the {split} images" for split, share in found.items())
        console.say(f"the supernet's {name} network classifies {shares} right")


def make_probe(trainer: Trainer, data: ImageData) -> Callable[[], dict[str, float]]:
    """What shows, while training goes on, whether a kind of network is left behind: the share of
    some validation images that the largest, the smallest and a random network classify right."""
    seen = np.linspace(0, len(data.validation) - 1, min(PROBE_IMAGES, len(data.validation)))
    rows = torch.from_numpy(seen.astype(np.int64))
    scorer = make_scorer(
        trainer.supernet,
        data.validation.images[rows],
        data.validation.labels[rows],
        data.train.images,
        data.mean,
        data.std,
    )
    networks = {
        "largest": trainer.largest,
        "smallest": trainer.smallest,
        "random": trainer.supernet.space.sample(np.random.default_rng(0)),
    }

    def look() -> dict[str, float]:
        return {name: scorer.evaluate(net).details["top1"] for name, net in networks.items()}

    return look


def supernet_accuracies(trainer: Trainer, data: ImageData) -> dict[str, dict[str, float]]:
    """Share of images that the largest and the smallest network classify right. The test images
    are looked at here only, after training, and decide nothing."""
    splits = {"validation": data.validation, "test": data.test}
    evaluators = {
        name: make_scorer(
            trainer.supernet, split.images, split.labels, data.train.images, data.mean, data.std
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


def find(folder: RunFolder, job: Job, trainer: Trainer, data: ImageData, console: Console) -> None:
    """Searches until the database holds as many candidates as the settings ask for."""
    settings = job.settings
    with Store(folder.database) as store:
        known = len(store.statuses())
        if known >= settings.evaluations:
            return
        starts = job.starts
        if settings.warm_start and not known:
            console.say(starts_text([start.name for start in starts]))
        controller = make_controller(
            settings.controller,
            job.proposals,
            settings.seed,
            first=[start.row for start in starts],
        )
        runner = make_runner(job, trainer, data)
        try:
            with console.progress("scoring candidates", settings.evaluations, known) as meter:
                search(
                    controller,
                    runner,
                    store,
                    evaluations=settings.evaluations,
                    batch=settings.batch,
                    budget=job.budget,
                    origin=settings.controller,
                    origins={
                        job.space.decode(start.row).digest: f"{FROM_PRESET}{start.name}"
                        for start in starts
                    },
                    on_batch=lambda progress: meter.update(progress.done, best_so_far(job, store)),
                )
        except RuntimeError as error:  # nothing can be scored, or no worker is left
            raise ValueError(str(error)) from error
        finally:
            runner.close()


def best_so_far(job: Job, store: Store) -> str:
    best = best_at_budget(store.rows(), job.budget.target, job.budget.limit, BAND)
    return "" if best is None else f"best {best.name} score {best.score:.4f}"
