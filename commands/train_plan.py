"""What `run_search.py train` is asked for: networks, images, recipe and folder, all checked."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from commands.alone import check_least
from commands.exported import formats_of
from commands.inherited import Found, find, fitted, inherit
from commands.job import DataSource, check_device
from commands.options import given_training, load_plugins
from commands.own_size import OwnSize, State, Workshop, digest_of, read_teacher
from commands.search import check_room, existing_place
from evaluator.data import ImageData, data_classes
from results.console import Console
from results.formats import require
from results.run_folder import environment, read_yaml
from results.trained_folder import TrainedFolder
from results.training_log import check_logs
from space.budget import quantity
from supernet.distributed import launched_here, launched_rank, launched_ranks, own_device
from supernet.network_training import check_sides
from supernet.recipe import RECIPES, NetworkRecipe

RECIPE_OPTIONS = {
    setting.name: setting.name.replace("_", "-") for setting in dataclasses.fields(NetworkRecipe)
}


@dataclass(frozen=True, eq=False)
class Plan:
    """A training, as far as it is known. `settings` are those by which it is the same training;
    `data` is there once it has begun."""

    found: Found
    folder: TrainedFolder
    how: OwnSize
    settings: Mapping[str, Any]
    device: torch.device
    classes: int
    starts: Mapping[str, State]
    data: ImageData | None = None

    @property
    def images(self) -> ImageData:
        assert self.data is not None
        return self.data

    def workshop(self) -> Workshop:
        return Workshop(self.how, self.images, self.device, self.starts)


def make_plan(options: argparse.Namespace, console: Console) -> Plan:
    """Everything that can be known without images; ValueError for what is wrong."""
    check_options(options)
    load_plugins(options.plugin or ())
    name = own_device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    device = check_device(name)
    found = find(options, device.type, console)
    torch.set_num_threads(options.threads)  # a run has had its own
    source = options.data or (found.run[1].settings.data if found.run else "digits")
    classes = len(data_classes(source))
    found = fitted(found, classes, options.resolution)
    sides = {genome.resolution for genome in found.trained}
    if len(sides) > 1:
        raise ValueError(
            f"the networks are for images of {' and '.join(map(str, sorted(sides)))} pixels; give "
            "one --resolution for all"
        )
    recipe = read_recipe(options, source, device, processes(options))
    for genome in found.trained:
        check_sides(genome, recipe)
    teacher = None
    if options.teacher is not None:
        teacher = read_teacher(options.teacher, options.teacher_weights, classes)
    starts = inherit(found) if options.inherit else {}
    plugins = tuple(options.plugin or ())
    if found.run is not None:
        plugins += found.run[1].settings.plugins
    how = OwnSize(
        source=DataSource(
            source=source, resolution=sides.pop(), seed=options.seed, limit=options.limit
        ),
        recipe=recipe,
        seed=options.seed,
        teacher=teacher,
        started={digest: digest_of(state) for digest, state in starts.items()},
        logs=tuple(dict.fromkeys(options.log)),
        plugins=plugins,
    )
    folder = TrainedFolder(options.out or Path("trained") / default_name(found))
    settings = settings_of(found, how, options)
    folder.check_same(settings)
    if folder.known() is None:
        numbers = sum(genome.cost().params for genome in found.trained)
        check_room(folder.path, numbers, recipe, "--out")
    place = existing_place(folder.path.parent)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"no folder can be made under {str(place)!r}; choose another --out")
    return Plan(found, folder, how, settings, device, classes, starts)


def check_options(options: argparse.Namespace) -> None:
    """ValueError where some do not stand together, or one is too small. Sets what follows from the
    machine."""
    least = {"limit": 1, "resolution": 1, "networks": 1, "reduction": 2, "grace": 1, "seed": 0}
    check_least(options, {**least, "threads": 1, "workers": 1, "looks": 1})
    check_logs(options.log)
    require(formats_of(options))
    if options.teacher_weights is not None and options.teacher is None:
        raise ValueError("--teacher-weights are given, but no --teacher that they are of")
    if options.epochs is not None and options.steps is not None:
        raise ValueError("epochs and steps are both given, but either decides how long it takes")
    if options.workers > 1 and launched_ranks() > 1:
        raise ValueError(
            f"workers is {options.workers}, but must be 1 under torchrun, which starts the "
            "processes itself"
        )
    if options.networks > 1 and launched_ranks() > 1:
        raise ValueError("several networks are trained by Ray Tune, not by torchrun; use --workers")
    if options.networks > 1 and options.ray_address is not None:
        raise ValueError("several networks are trained on this machine; leave out --ray-address")
    if options.threads is None:
        together = max(options.workers, launched_here())
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        options.threads = max(1, (cores or 1) // together)


def processes(options: argparse.Namespace) -> int:
    """That train one network together."""
    return 1 if options.networks > 1 else max(options.workers, launched_ranks())


def default_name(found: Found) -> str:
    run = f"{found.run[0].path.resolve().name}-" if found.run else ""
    return run + (found.names[0] if len(found.names) == 1 else f"{len(found.names)}-finalists")


def read_recipe(
    options: argparse.Namespace, source: str, device: torch.device, together: int
) -> NetworkRecipe:
    """The recipe that is named, with what the command line says otherwise. For steps of other
    numbers of images the rate changes in proportion, unless it is given (as in DeiT, arXiv
    2012.12877, section 6)."""
    given = given_training(options, RECIPE_OPTIONS)
    named = RECIPES.get(options.recipe)
    if named is None:
        file = Path(options.recipe)
        if not file.is_file():
            raise ValueError(
                f"recipe is {options.recipe!r}, but must be one of {', '.join(RECIPES)}, or a YAML "
                "file"
            )
        plain = read_yaml(file, "recipe")
        if isinstance(plain, dict) and isinstance(plain.get("recipe"), dict):
            plain = plain["recipe"]  # of a training.yaml
        if not isinstance(plain, dict):
            raise ValueError(f"recipe {str(file)!r} must hold settings by name")
        recipe = NetworkRecipe.from_plain({**plain, **given})
    else:
        base = {**named.to_plain(), "flip": source != "digits"}  # no digit is one in a mirror
        base["bfloat16"] = device.type == "cuda"
        recipe = NetworkRecipe.from_plain({**base, **given})
        images = recipe.batch * recipe.accumulate * together
        if "learning_rate" not in given:
            rate = named.learning_rate * images / named.batch
            recipe = dataclasses.replace(recipe, learning_rate=rate)
    if "steps" in given:
        recipe = dataclasses.replace(recipe, epochs=0)
    return recipe


def settings_of(found: Found, how: OwnSize, options: argparse.Namespace) -> dict[str, Any]:
    """By which the training is the same, as plain data; that of the images comes later."""
    several = len(found.networks) > 1
    recipe = how.recipe.to_plain()
    if how.recipe.epochs:
        del recipe["steps"]  # follow from the images
    return {
        "resolution": how.source.resolution,
        "data": {"source": how.source.source, "limit": how.source.limit},
        "networks": [
            f"{name} {genome.digest}"
            for name, genome in zip(found.names, found.trained, strict=True)
        ],
        "seed": how.seed,
        "processes": processes(options),
        "halving": {"reduction": options.reduction, "grace": options.grace} if several else None,
        "teacher": how.teacher and how.teacher.digest,
        "inherited": dict(how.started) or None,
        "recipe": recipe,
    }


def begin(plan: Plan, options: argparse.Namespace, console: Console) -> Plan:
    """Reads the images and makes the folder; or finds the folder, and the images that it began
    with."""
    known = plan.folder.known()
    about = None
    if known is not None:
        about = {"data": known["data"]["digest"], "streamed": known["data"]["streamed"]}
    data = plan.how.source.read(about, console)
    ranks = processes(options)
    if len(data.train) < ranks:
        raise ValueError(f"{len(data.train)} training images are too few for {ranks} processes")
    recipe = plan.how.recipe.over(len(data.train), ranks)
    if data.streamed and recipe.batch * ranks > len(data.train):
        raise ValueError(
            f"batch is {recipe.batch}, but there are only {len(data.train)} training images"
        )
    how = dataclasses.replace(plan.how, recipe=recipe)
    facts = {"digest": data.digest, "streamed": data.streamed, "classes": list(data.classes)}
    facts |= {"mean": list(data.mean), "std": list(data.std)}
    settings = {**plan.settings, "data": {**plan.settings["data"], **facts}}
    settings["recipe"] = recipe.to_plain()
    if launched_rank() == 0 and known is None:
        plan.folder.create(settings, environment(str(plan.device)))
    console.say(f"folder of the training: {plan.folder.path}")
    console.say(said_of(plan, recipe, data))
    return dataclasses.replace(plan, how=how, data=data, settings=settings)


def said_of(plan: Plan, recipe: NetworkRecipe, data: ImageData) -> str:
    names, genome = plan.found.names, plan.found.trained[0]
    cost, title = genome.cost(), names[0] if len(names) == 1 else f"{len(names)} networks"
    said = f"{title}: {recipe.steps:,} steps on {len(data.train):,} images of {genome.resolution} "
    said += f"pixels, {len(data.classes)} classes"
    if len(names) == 1:
        said += f"; {quantity(cost.macs)} MACs, {quantity(cost.params)} parameters"
    return said
