"""The options of a search, and what `--list` lists."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evaluator.data import data_classes
from evaluator.zero_cost import score_names
from results.console import CommandLine
from results.run_folder import (
    RunFolder,
    read_yaml,
)
from search.controllers import AUTO, CONTROLLERS, OPTUNA
from search.evolution import MUTATIONS
from search.settings import FREE_ON_RESUME, Settings
from space.budget import EXAMPLES, Budget, pieces
from space.device import Device
from space.files import check_doors, make_space, read_definition, shipped_spaces
from space.genes import CATEGORIES, Allowed, Numbers, Rows, gene_choices, registered
from space.objectives import OBJECTIVES, SCORE, resolve_objectives
from space.presets import presets
from supernet.distributed import launched_here
from supernet.recipe import Recipe, TrainingSettings

# Settings of the training -> their options. A search has a --batch, too.
TRAINING_OPTIONS = {
    setting.name: "train-batch" if setting.name == "batch" else setting.name.replace("_", "-")
    for setting in dataclasses.fields(TrainingSettings)
}
LISTINGS = ("operators", "downsampling", "stems", "heads", "spaces", "presets", "controllers")


def make_parser() -> argparse.ArgumentParser:
    """Options that are settings default to None here: what is not given is decided later."""
    parser = CommandLine(
        prog="run_search.py",
        description="Searches for a vision backbone inside a budget.",
        epilog="Other commands: 'run_search.py zoo --help' for the published networks, "
        "'run_search.py scale --help' to make a network larger and smaller.",
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what to search")
    what.add_argument("--budget", help=EXAMPLES)
    what.add_argument(
        "--objectives",
        help=f"what the front is of, joined by commas: {OBJECTIVES} (default: {SCORE} and the cost "
        "that the budget steers)",
    )
    what.add_argument("--space", help=f"a space file, or one of {', '.join(shipped_spaces())}")
    what.add_argument("--data", help="digits, a folder of class folders, or a parquet folder")
    what.add_argument("--limit", type=int, help="train on this many images only")
    what.add_argument("--resolution", type=int, help="side of the networks' input, pixels")
    what.add_argument("--classes", type=int, help="classes of the networks (default: the data's)")
    what.add_argument("--flops-per-mac", type=int, help="2 if you count a MAC as two FLOPs")
    what.add_argument("--plugin", action="append", help="a Python file with parts of your own")
    how = parser.add_argument_group("how to search")
    how.add_argument(
        "--controller",
        help=f"{', '.join(CONTROLLERS)}, {OPTUNA}tpe and other samplers of Optuna's, or {AUTO}, "
        "which chooses (the default)",
    )
    how.add_argument(
        "--mutation",
        choices=MUTATIONS,
        help="of the evolution: uniform changes any gene of a network alike, late rather those "
        f"near its end, so that more of what was computed is kept (default: {MUTATIONS[0]})",
    )
    how.add_argument(
        "--warm-start",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="score published networks first, scaled to the budget, as far as the space has them",
    )
    how.add_argument(
        "--zero-cost",
        action="append",
        metavar="SCORE",
        help="begin with networks that score well without training, by one score or several: "
        + ", ".join(score_names()),
    )
    how.add_argument("--evaluations", type=int, help="candidates to score")
    how.add_argument(
        "--batch", type=int, help="candidates asked for, and scored by one worker, at a time"
    )
    how.add_argument(
        "--in-flight", type=int, help="batches under way at a time (default: as many as workers)"
    )
    how.add_argument(
        "--in-order",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="tell results in the order in which they were asked for, so that what is found does "
        "not depend on which worker is faster (default: no)",
    )
    how.add_argument(
        "--race",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="let candidates drop out that cannot come onto the front any more (default: yes)",
    )
    how.add_argument("--race-error", type=float, help="chance of a wrong verdict on a pair")
    how.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="score as many networks of a random search, for the report (default: yes)",
    )
    how.add_argument("--seed", type=int)
    how.add_argument("--proxy-width", type=float, help="width of the proxy, 0 to 1")
    how.add_argument("--proxy-resolution", type=int, help="input side of the proxy, pixels")
    add_training(parser.add_argument_group("how to train the supernet"))
    where = parser.add_argument_group("where to run")
    where.add_argument("--device", help="cpu, cuda or cuda:N (default: what is there)")
    where.add_argument("--threads", type=int, help="CPU threads of one pass")
    where.add_argument("--chunk", type=int, help="images in memory at a time when scoring")
    where.add_argument(
        "--prefix-memory", type=int, help="MiB of activations kept for the next candidates"
    )
    for name, about in (
        ("graphs", "score by CUDA graphs"),
        ("kernels", "score with kernels of our own, which need Triton"),
    ):
        where.add_argument(
            f"--{name}",
            action=argparse.BooleanOptionalAction,
            default=None,
            help=f"{about}, on a GPU (default: no)",
        )
    where.add_argument("--workers", type=int, help="processes that score, on Ray if more than one")
    where.add_argument(
        "--train-workers", type=int, help="processes that train together, by Ray if more than one"
    )
    where.add_argument("--ray-address", help="a running Ray cluster")
    where.add_argument(
        "--gpus-per-worker", type=float, help="may be a share of one (default: shared out evenly)"
    )
    out = parser.add_argument_group("what comes out")
    out.add_argument("--name", help="of the run's folder (default: budget, space and seed)")
    out.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    out.add_argument("--exports", type=int, help="how many networks to export at most")
    out.add_argument("--onnx", action=argparse.BooleanOptionalAction, default=None)
    out.add_argument(
        "--optuna-storage",
        metavar="URL",
        help="copy every candidate to a study of Optuna, such as sqlite:///studies.db, which "
        "optuna-dashboard opens while the search runs",
    )
    out.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    out.add_argument("--json", action="store_true", help="print listings, plan and result as JSON")
    out.add_argument("--quiet", action="store_true", help="no progress")
    out.add_argument("--list", choices=LISTINGS, help="print what there is and stop")
    again = parser.add_argument_group("again")
    again.add_argument("--config", type=Path, help="take the settings of a config.yaml")
    again.add_argument("--resume", type=Path, help="go on with a run's folder")
    return parser


def add_training(
    group: argparse._ArgumentGroup,
    recipe: type[Recipe] = TrainingSettings,
    names: Mapping[str, str] = TRAINING_OPTIONS,
    *,
    defaults: bool = True,
) -> None:
    """An option for each setting of a training, by its name in `names`; with its default, unless
    that is another recipe's."""
    for setting in dataclasses.fields(recipe):
        about, default = setting.metadata["about"], setting.default
        name = names[setting.name]
        told = defaults and default not in ((), False)
        shown = f"{about} (default: {default})" if told else about
        if isinstance(default, bool):
            group.add_argument(
                f"--{name}", action=argparse.BooleanOptionalAction, default=None, help=shown
            )
        elif isinstance(default, tuple):
            group.add_argument(f"--{name}", action="append", metavar="SLOT", help=shown)
        else:
            allowed = setting.metadata["allowed"] or None
            group.add_argument(f"--{name}", type=type(default), choices=allowed, help=shown)


def given_training(
    options: argparse.Namespace, names: Mapping[str, str] = TRAINING_OPTIONS
) -> dict[str, Any]:
    """The settings of the training that the command line names."""
    values = {k: getattr(options, v.replace("-", "_"), None) for k, v in names.items()}
    return {name: value for name, value in values.items() if value is not None}


def given(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line names."""
    names = {setting.name for setting in dataclasses.fields(Settings)}
    values = {k: v for k, v in vars(options).items() if k in names and v is not None}
    if options.objectives:
        values["objectives"] = tuple(piece.strip() for piece in pieces(options.objectives))
    if options.plugin:
        values["plugins"] = tuple(options.plugin)
    if options.zero_cost:
        values["zero_cost"] = tuple(options.zero_cost)
    training = given_training(options)
    return values | ({"training": training} if training else {})


def resolve(options: argparse.Namespace) -> Settings:
    """Command line over config file over what fits the machine. Raises ValueError."""
    explicit = given(options)
    values: dict[str, Any] = {}
    if options.config is not None:
        loaded = Settings.from_plain(read_yaml(options.config, "config"))
        values = {s.name: getattr(loaded, s.name) for s in dataclasses.fields(loaded)}
        if explicit.get("space", loaded.space) != loaded.space:
            del values["space_definition"]
    elif "budget" not in explicit:
        raise ValueError(f"--budget is missing; write {EXAMPLES}")
    training = {**values.get("training", {}), **explicit.get("training", {})}
    values.update(explicit)
    load_plugins(values.get("plugins", ()))
    if not values.get("space_definition"):
        values["space_definition"] = read_definition(values.get("space", "unified"))
    check_doors(make_space(values["space_definition"]))  # says what is wrong with it
    values.setdefault("device", "cuda" if torch.cuda.is_available() else "cpu")
    values = on_device(values, values["device"])
    values.setdefault("workers", 1)
    values.setdefault("train_workers", 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # Half of the cores: in training the backward pass takes the other half. Two threads that wait
    # for each other on a busy machine cost far more than the second one gains on small proxies.
    together = max(values["train_workers"], launched_here())
    values.setdefault("threads", max(1, (cores or 1) // (2 * max(1, together))))
    proxy = values["space_definition"].get("proxy", {})
    values.setdefault("proxy_width", proxy.get("width", 1.0))
    if "proxy_resolution" not in values:
        own = max(values["space_definition"]["resolution"])
        values["proxy_resolution"] = proxy.get("resolution", own)
    photographs = values.get("data", "digits") != "digits"
    training.setdefault("flip", photographs)
    training.setdefault("shift", 0.125 if photographs else 0.04)
    values["training"] = TrainingSettings.from_plain(training).to_plain()
    settings = Settings(**values)
    if settings.classes is None:
        # The bundled digits only stand in for data of one's own: the networks are made for 1000.
        stand_in = settings.data == "digits"
        classes = 1000 if stand_in else len(data_classes(settings.data))
        settings = dataclasses.replace(settings, classes=classes)
    return settings


def at_hand(device: str) -> Device:
    """The device of a run, as one that networks run on: what a latency without a device is of."""
    kind, _, index = device.partition(":")
    if kind != "cuda" or (index and not index.isdecimal()):
        return Device()
    return Device("cuda", index=int(index or 0))


def on_device(values: Mapping[str, Any], device: str) -> dict[str, Any]:
    """The settings `values` with the device of each latency where they do not say it, so that a run
    means the same wherever it is looked at later. ValueError where they cannot be read."""
    here, budget = at_hand(device), Budget.parse(values["budget"])
    found = dict(values)
    if budget.measured:
        found["budget"] = budget.on(here).text
    if values.get("objectives"):
        found["objectives"] = resolve_objectives(values["objectives"], budget.on(here), here)
    return found


def load_plugins(paths: Sequence[str]) -> None:
    """Imports files that register parts. They are code, and are run: load only your own."""
    for path in paths:
        file = Path(path)
        if not file.is_file() or file.suffix != ".py":
            raise ValueError(f"plugin {path!r} is not a Python file (.py)")
        place = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]
        name = f"chimera_plugin_{file.stem}_{place}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise ValueError(f"plugin {path!r} fails: {type(error).__name__}: {error}") from error


def listing(what: str) -> list[dict[str, Any]]:
    """Entries of `--list`."""
    if what == "controllers":
        return [{"name": name} for name in CONTROLLERS]
    if what == "spaces":
        definitions = [read_definition(name) for name in shipped_spaces()]
        return [
            {
                "name": d["name"],
                "networks": f"{make_space(d).size:.1e}",
                "about": d.get("about", ""),
            }
            for d in definitions
        ]
    if what == "presets":
        return [preset_facts(name) for name in presets()]
    category = {"operators": "operator", "stems": "stem", "heads": "head"}.get(what, what)
    assert category in CATEGORIES, category
    return [
        {"kind": kind, "genes": {gene: _allowed(a) for gene, a in gene_choices(part).items()}}
        for kind, part in registered(category).items()
    ]


def _allowed(values: Allowed) -> list[Any] | str:
    if isinstance(values, Numbers | Rows):
        return str(values)
    return f"{values[0]}..{values[-1]}" if isinstance(values, range) else list(values)


def preset_facts(name: str) -> dict[str, Any]:
    preset = presets()[name]
    cost = preset.genome.cost()
    return {
        "name": preset.name,
        "kind": preset.kind,
        "resolution": preset.genome.resolution,
        "macs": cost.macs,
        "params": cost.params,
        "top1": preset.top1,
        "source": preset.source,
    }


def resumed_settings(options: argparse.Namespace, folder: RunFolder) -> Settings:
    """The settings of a run; ValueError where the command line asks for others."""
    if not folder.config.is_file():
        raise ValueError(f"{str(folder.path)!r} is not a run folder: it has no config.yaml")
    for other in ("config", "name"):
        if getattr(options, other) is not None:
            raise ValueError(f"--{other} cannot be given together with --resume")
    folder.check_format()
    settings = Settings.from_plain(read_yaml(folder.config, "config"))
    trained = TrainingSettings.from_plain(settings.training).to_plain()
    explicit = given(options)
    meant = on_device({"budget": settings.budget, **explicit}, settings.device)
    asked = [(k, meant[k], getattr(settings, k)) for k in explicit if k != "training"]
    asked += [(TRAINING_OPTIONS[k], v, trained[k]) for k, v in given_training(options).items()]
    for name, value, kept in asked:
        if name in FREE_ON_RESUME or value == kept:
            continue
        raise ValueError(
            f"{name} is {value!r}, but the run {folder.path} has {kept!r}; resume it without, or "
            "begin another run"
        )
    free = {name: v for name, v in given(options).items() if name in FREE_ON_RESUME}
    return dataclasses.replace(settings, **free)
