"""What a run would do, before it does it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from commands.job import Job
from evaluator.data import data_classes
from results.console import duration, table
from results.run_folder import (
    RunFolder,
)
from search.proposals import BAND
from search.random_search import RANDOM
from space.budget import Budget, cost_figure, cost_text, cost_title, quantity
from supernet.augmentation import normalise
from supernet.batches import Batches, ResidentImages
from supernet.network import Supernet
from supernet.training import Trainer


def make_plan(job: Job, folder: RunFolder) -> dict[str, Any]:
    """What a run would do, as plain data."""
    classes = 10 if job.settings.data == "digits" else len(data_classes(job.settings.data))
    supernet = job.supernet(classes)
    numbers = sum(weight.numel() for weight in supernet.weights.values())
    train_seconds, score_seconds = time_one(job, supernet)
    proposals, reachable = job.proposals, job.proposals.reachable()
    return {
        "settings": job.settings.to_plain(),
        "folder": str(folder.path),
        "warm_start": [start.name for start in job.starts],
        "budget": job.budget.limits(),
        "target": proposals.target,
        "objectives": list(proposals.objectives),
        "space": {
            "name": job.space.name,
            "networks": job.space.size,
            "variables": len(job.space.variables),
            "smallest": dict(reachable.smallest),
            "median": dict(reachable.median),
            "largest": dict(reachable.largest),
            "share_within_budget": reachable.share,
            "share_at_budget": reachable.share_at_budget,
        },
        "supernet": {"parameters": numbers, "checkpoint_bytes": 12 * numbers},
        "estimate": {
            "training_seconds": train_seconds * job.training.steps,
            "scoring_seconds": (1 + compares(job))
            * score_seconds
            * job.settings.evaluations
            / job.settings.workers,
        },
    }


def compares(job: Job) -> bool:
    """Whether a random search follows, to compare with."""
    return job.settings.compare and job.controller != RANDOM


def time_one(job: Job, supernet: Supernet) -> tuple[float, float]:
    """Seconds of one training step, and of scoring one candidate on 360 images, on this machine."""
    settings, space = dataclasses.replace(job.training, curriculum="none"), supernet.space
    side = max(space.resolution.choices)
    images = torch.zeros(settings.batch, space.in_channels, side, side, dtype=torch.uint8)
    labels = torch.zeros(settings.batch, dtype=torch.long)
    normal = ((0.5,) * space.in_channels, (0.25,) * space.in_channels)
    source = ResidentImages(
        images.to(job.device), labels.to(job.device), batch=settings.batch, seed=0
    )
    batches = Batches(source, *normal, settings, classes=space.classes, seed=0)
    trainer = Trainer(supernet, batches, settings, seed=0)
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        trainer.train_step()
        seconds.append(time.perf_counter() - begun)
    row = job.proposals.sample(np.random.default_rng(0), 1, BAND)[0]
    genome = space.decode(row)
    inputs = normalise(images.to(job.device), *normal)
    with torch.no_grad():
        buffers = supernet.calibrate(genome, [inputs[:2]])
        supernet(genome, inputs[:2], buffers=buffers)
        begun = time.perf_counter()
        supernet(genome, inputs, buffers=buffers)
    return min(seconds), (time.perf_counter() - begun) * 360 / len(inputs)


def show_plan(job: Job, folder: RunFolder, plan: Mapping[str, Any]) -> list[Any]:
    """The plan for a person."""
    settings, space = job.settings, plan["space"]
    seconds = plan["estimate"]
    names = list(space["smallest"])
    rows = [
        [end, *(cost_figure(name, space[end][name]) for name in names)]
        for end in ("smallest", "median", "largest")
    ]
    costs = table("Networks of the space", ["", *map(cost_title, names)], rows)
    chosen = [[k, str(v)] for k, v in plan["settings"].items() if k != "space_definition"]
    size = f"{space['networks']:.2e} networks in {space['variables']} variables"
    inside = (
        f"{describe_budget(job.budget)}. Of uniformly drawn networks "
        f"{space['share_within_budget']:.1%} lie within it, {space['share_at_budget']:.2%} use 95% "
        f"of it or more{_steered(job)}. It can be met."
    )
    supernet = (
        f"{quantity(plan['supernet']['parameters'])} parameters at width {settings.proxy_width:g} "
        f"and {settings.proxy_resolution} pixels"
    )
    time_needed = (
        f"about {duration(seconds['training_seconds'])} for {job.training.steps} training steps, "
        f"{duration(seconds['scoring_seconds'])} to score {settings.evaluations} candidates "
        f"{'and as many of a random search ' if compares(job) else ''}on 360 images each"
    )
    return [
        f"Space {space['name']!r}: {size}",
        costs,
        f"Budget {settings.budget}: {inside}",
        *([starts_text(plan["warm_start"])] if settings.warm_start else []),
        f"Supernet: {supernet}.",
        f"Time on this machine, measured now: {time_needed}.",
        f"Run folder: {folder.path}",
        table("Settings", ["setting", "value"], chosen),
    ]


def starts_text(names: Sequence[str]) -> str:
    if not names:
        return "Warm start: this space has none of the published networks at this budget."
    networks = "1 published network" if len(names) == 1 else f"{len(names)} published networks"
    return f"Warm start with {networks}: {', '.join(names)}."


def describe_budget(budget: Budget) -> str:
    """All limits; of MACs both counts, since papers write FLOPs for them."""
    texts = {name: cost_text(name, limit) for name, limit in budget.limits().items()}
    if budget.macs is not None:
        texts["macs"] += f" (= {quantity(2 * budget.macs)} FLOPs at 2 each)"
    return " and ".join(texts.values())


def _steered(job: Job) -> str:
    """By which cost the use is measured, where that is not the only one that is limited."""
    target = job.proposals.target
    return f" (by {cost_title(target)})" if len(job.budget.limits()) > 1 else ""
