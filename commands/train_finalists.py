"""Several networks of a run, trained at their own size: the worst are stopped at each rung.

As `commands.finalists` does it with proxies, but by the recipe of `run_search.py train`. Who goes
on is decided by validation images; test images are looked at when a training is over.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from commands.alone import held_out, received_images, shared_images
from commands.exported import formats_of
from commands.finalists import judged
from commands.job import share_of_gpus
from commands.own_size import OwnSize, Workshop, received_starts, shared_starts
from commands.rungs import Climbing, climb_all, log_of, training_folder
from commands.train_plan import Plan
from commands.train_result import export, report, result_of
from results.console import Console
from results.finalists import write_outcome
from results.run_folder import environment, write_text
from results.training_log import TrainingLog
from search.halving import Halving, Ladder
from space.genome import Genome
from supernet.checkpoints import Checkpoints
from supernet.network_training import NetworkTrainer, curriculum_of
from supernet.recipe import NetworkRecipe
from supernet.training import AloneTrainer


class OwnSizeWork(Climbing):
    """Trains networks at their own size; each has its own log beside its checkpoints."""

    def __init__(self, shop: Workshop, home: Path):
        super().__init__(home)
        self._shop = shop
        self._log: TrainingLog | None = None

    def make(self, genome: Genome, piece: Mapping[str, Any]) -> NetworkTrainer:
        return self._shop.trainer(genome)

    def looked(self, trainer: AloneTrainer) -> dict[str, Any]:
        found, test = self._shop.probe(trainer), None
        if trainer.step == trainer.steps:
            test = self._shop.look(trainer, held_out(self._shop.data)[1]).details["top1"]
        return {**found, "test": test}

    def begun(self, trainer: AloneTrainer, place: Path) -> None:
        about = {"name": place.name, **self._shop.how.recipe.to_plain()}
        self._log = TrainingLog(place, trainer, self._shop.how.logs, about)

    def stepped(self, trainer: AloneTrainer) -> None:
        assert self._log is not None
        self._log.stepped()

    def seen(self, trainer: AloneTrainer) -> None:
        assert self._log is not None
        self._log.looked()

    def ended(self) -> None:
        if self._log is not None:
            self._log.close()


def train_finalists(plan: Plan, options: argparse.Namespace, console: Console) -> int:
    """Trains them, exports those that came to the end, and says which one has won."""
    networks, recipe = plan.found.networks, plan.how.recipe
    steps = total_steps(recipe, plan.found.trained)
    halving = Halving.usual(steps, options.grace, options.reduction)
    home, shop = plan.folder.rungs, plan.workshop()
    pieces = [
        {"genome": genome.to_json(), "seed": plan.how.seed, "steps": steps}
        for genome in plan.found.trained
    ]
    ladder = climb_all(
        OwnSizeWork(shop, home),
        pieces,
        halving,
        log_of(home, {"halving": dataclasses.asdict(halving), **plan.settings}),
        lambda ladder, progress: train_by_tune(plan, pieces, ladder, options, progress),
        workers=options.workers,
        console=console,
    )
    outcome = judged(networks, ladder, about(plan, halving, options))
    if outcome["winner"] is None:
        first = next(net for net in outcome["networks"] if net["problem"])
        raise ValueError(
            f"no network was trained to the end; {first['name']}: {first['problem']}; what there "
            f"is of the others is in {home}"
        )
    for place in ladder.finished():
        trainer = shop.trainer(plan.found.trained[place])
        try:
            trainer.load(Checkpoints(training_folder(home, trainer.genome, steps, plan.how.seed)))
            split, images = held_out(plan.images)
            last = ladder.reached[place][-1]
            found = {"validation": last.value, split: last.details["test"]}
            shop.look(trainer, plan.images.validation)  # for running statistics
            result = result_of(
                plan, place, trainer, {"split": split, "images": len(images)} | found
            )
            folder = plan.folder.networks / plan.found.names[place]
            export(plan, place, trainer, result, folder, formats_of(options))
        finally:
            trainer.close()
    write_outcome(plan.folder, outcome)
    write_text(plan.folder.result, json.dumps(outcome, indent=2) + "\n")
    report(plan, outcome, console)
    return 0


def total_steps(recipe: NetworkRecipe, genomes: Sequence[Genome]) -> int:
    """The steps of each training; ValueError where they are not equally many, which a curriculum
    that spends equal compute may make of networks with different strides."""
    found = {curriculum_of(genome, recipe).total_steps for genome in genomes}
    if len(found) > 1:
        raise ValueError(
            f"curriculum is {recipe.curriculum!r}, by which the networks are trained for different "
            f"numbers of steps ({', '.join(map(str, sorted(found)))}); use --curriculum "
            "efficienttrain"
        )
    return found.pop()


def about(plan: Plan, halving: Halving, options: argparse.Namespace) -> dict[str, Any]:
    """What the outcome was made with."""
    assert plan.found.run is not None
    folder, job = plan.found.run
    split, images = held_out(plan.images)
    machine = environment(str(plan.device))
    del machine["command"]
    return {
        "command": options.again,
        "run": folder.path.name,
        "space": job.space.name,
        "budget": job.settings.budget,
        "rungs": list(halving.rungs),
        "reduction": halving.reduction,
        "seed": plan.how.seed,
        "chosen_by": {"split": "validation", "images": len(plan.images.validation)},
        "reported": {"split": split, "images": len(images)},
        "proxy": None,
        "recipe": plan.how.recipe.to_plain(),
        "data": plan.images.digest,
        "environment": machine,
    }


# ---- by Ray Tune


def train_by_tune(
    plan: Plan,
    pieces: Sequence[Mapping[str, Any]],
    ladder: Ladder,
    options: argparse.Namespace,
    progress: Callable[[], None],
) -> None:
    """The same on several processes, which find and leave checkpoints in the training's folder."""
    from search.ray_trials import run_asha  # Ray is wanted by nobody else

    data = plan.images
    facts, shared = shared_images(data, dict([("validation", data.validation), held_out(data)]))
    try:
        run_asha(
            "commands.train_finalists:make_work",
            {
                "how": plan.how.to_plain(),
                "facts": facts,
                "home": str(plan.folder.rungs.absolute()),
                "device": plan.device.type,  # of which Ray shows a worker its own
            },
            shared | shared_starts(plan.starts),
            pieces,
            ladder,
            workers=options.workers,
            threads=options.threads,
            gpus=share_of_gpus(options.workers, plan.device),
            progress=progress,
        )
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def make_work(
    *,
    how: Mapping[str, Any],
    facts: Mapping[str, Any],
    home: str,
    device: str,
    tensors: Mapping[str, Tensor],
) -> OwnSizeWork:
    """What a worker process trains with, from plain settings and shared tensors."""
    own = OwnSize.from_plain(how)
    data = received_images(own.source, facts, tensors)
    shop = Workshop(own, data, torch.device(device), received_starts(tensors))
    return OwnSizeWork(shop, Path(home))
