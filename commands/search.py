"""A run: its folder, the supernet, the candidates. What ends it is in `commands.finish`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from commands.finish import finish
from commands.job import DataSource, Job, check_cluster, check_memory
from commands.live import LiveReport
from commands.options import resolve, resumed_settings
from commands.plan import compares, make_plan, show_plan, starts_text
from commands.promising import promising
from commands.scoring import look_for
from commands.settle import settle
from commands.study import (
    Mirror,
    Mirrored,
    make_mirror,
    remember,
    storage_of,
)
from commands.train import measure, train
from evaluator.data import ImageData
from results.console import Console
from results.history import FROM_PRESET
from results.run_folder import (
    RunFolder,
    environment,
)
from results.store import Store
from search.controllers import make_controller
from search.random_search import RANDOM
from search.settings import Settings
from supernet.checkpoints import KEPT
from supernet.distributed import Elsewhere, launched_group, launched_rank
from supernet.network import Supernet
from supernet.recipe import Recipe
from supernet.training import Trainer

LONGEST_NAME = 200  # of a run, bytes; file systems allow 255, and partial files need some


def run(options: argparse.Namespace, console: Console) -> int:
    """Plans, trains, searches and reports; the options' errors come before anything is written."""
    with TemporaryDirectory(prefix="chimera-") as aside:
        return _run(options, console, Path(aside))


def _run(options: argparse.Namespace, console: Console, aside: Path) -> int:
    """As `run`; what is measured before there is a run's folder is kept `aside`.

    Of several processes that `torchrun` has started, all train; the first alone proposes, writes,
    says something, and does what comes after.
    """
    first = launched_rank() == 0
    console = console if first else Console(quiet=True)
    if options.resume is not None:
        folder = RunFolder(options.resume)
        settings = resumed_settings(options, folder)
    else:
        settings = resolve(options)
        folder = RunFolder(options.runs / (options.name or default_name(settings)))
        check_place(folder, options.name)
        if first and not options.dry_run:
            folder.check_new()
    storage = storage_of(options, folder, console)
    profiles = aside if options.resume is None else folder.profiles
    job = Job(settings, profiles=profiles, console=console)
    job.check_training()
    if first:
        job.proposals.check()
    if options.dry_run:
        if first:
            plan = make_plan(job, folder)
            console.result(plan, show_plan(job, folder, plan))
        return 0
    check_cluster(settings.ray_address)
    check_memory(settings)
    mirror = make_mirror(options, folder, job, storage, console) if first else None
    options.folder = folder
    about = None if options.resume is None else read_environment(folder)
    data = read_data(job, about, console)
    with launched_group(job.device) as group:
        elsewhere = settings.train_workers > 1
        trainer = job.trainer(data, Elsewhere(settings.train_workers) if elsewhere else group)
        check_disk(folder, job, trainer.supernet)
        if first and about is None:
            facts = {
                "data": data.digest,
                "validation": data.validation_digest,
                "streamed": data.streamed,
            }
            about = {**environment(settings.device), **facts}
            if mirror is not None:
                about["command"] = about["command"].replace(mirror.url, mirror.shown)
            folder.create(settings.to_plain(), about, profiles=aside)
        elif first:
            folder.sweep()
        console.say(f"run folder: {folder.path}")
        train(folder, job, trainer, data, console)
    if not first:
        return 0
    measure(folder, trainer, data, console)
    if mirror is not None:
        remember(folder, mirror)
    find(folder, job, trainer, data, console, mirror)
    settle(folder, job, trainer, data, console)
    if mirror is not None:  # what came last, and what the storage did not take before
        with Store(folder.database, readonly=True) as store:
            mirror.follow(store, now=True)
    return finish(folder, job, trainer, data, console)


def read_environment(folder: RunFolder) -> dict[str, Any]:
    """What the run noted of its machine and images when it began."""
    about: dict[str, Any] = json.loads(folder.environment.read_text(encoding="utf-8"))
    return about


def read_data(job: Job, about: Mapping[str, Any] | None, console: Console) -> ImageData:
    """The images; ValueError where they are others than those that a run, by what it noted in
    `about`, began with."""
    return DataSource.of(job.settings).read(about, console)


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


def check_disk(folder: RunFolder, job: Job, supernet: Supernet) -> None:
    """ValueError where the disk cannot hold what the run is going to write."""
    numbers = sum(weight.numel() for weight in supernet.weights.values())
    check_room(folder.path, numbers * supernet.branches, job.training, "--runs")


def check_room(path: Path, weights: int, recipe: Recipe, option: str) -> None:
    """ValueError where the disk cannot hold the checkpoints of a training of so many weights;
    `option` chooses another one."""
    kept = 3 if recipe.optimiser == "adamw" else 2  # numbers for each: itself, its moments
    kept += bool(recipe.ema)
    # The checkpoints that are kept while another one is written.
    needed = (KEPT + 1) * 4 * kept * weights + 64 * 2**20
    place = existing_place(path)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ValueError(
            f"the run needs {needed / 2**20:.0f} MiB under {str(place)!r}, but only "
            f"{free / 2**20:.0f} MiB are free; free some, or choose another {option}"
        )


def find(
    folder: RunFolder,
    job: Job,
    trainer: Trainer,
    data: ImageData,
    console: Console,
    mirror: Mirror | None = None,
) -> None:
    """Searches until the database holds as many candidates as the settings ask for, which `mirror`
    follows; then searches at random, to compare with."""
    settings, starts = job.settings, job.starts
    live = LiveReport(folder, job, trainer, console)
    with Store(folder.database) as store:
        known = len(store.statuses())
        if known < settings.evaluations:
            if settings.warm_start and not known:
                console.say(starts_text([start.name for start in starts]))
            first: list[Sequence[int]] = [start.row for start in starts]
            if settings.zero_cost and not known:  # later they are part of the controller's state
                first += [row.tolist() for row in promising(job, data, settings.batch, console)]
            own = {"mutation": settings.mutation} if job.controller == "evolution" else {}
            controller = make_controller(
                job.controller, job.proposals, settings.seed, first=first, **own
            )
            origins = {
                job.space.decode(start.row).digest: f"{FROM_PRESET}{start.name}" for start in starts
            }
            look_for(
                *(job, trainer, data, store, controller, job.proposals, console),
                what="scoring candidates",
                origin=job.controller,
                evaluations=settings.evaluations,
                log=None if mirror is None else Mirrored(store, mirror),
                origins=origins,
                watch=live,
            )
    if compares(job):
        with Store(folder.by_chance) as store:
            if len(store.statuses()) < settings.evaluations:
                controller = make_controller(RANDOM, job.proposals, settings.seed)
                look_for(
                    *(job, trainer, data, store, controller, job.proposals, console),
                    what="scoring random networks, to compare",
                    origin=RANDOM,
                    evaluations=settings.evaluations,
                    watch=live,
                )
