"""Searches for a vision backbone: `python run_search.py --budget 4GFLOPs`.

This file wires the packages together, and is the only one that names concrete classes of several
of them. What a run does, in order: check everything that can be checked, make the run's folder,
train the supernet on the proxy of the space, score candidates inside the budget, export the best,
write the report. Each step leaves its result on disk, so `--resume` goes on from wherever a run
ended.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import hashlib
import importlib.util
import json
import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from evaluator.data import ImageData, data_classes, load_data
from evaluator.scoring import SupernetEvaluator
from results import commands
from results.console import BAD_INPUT, CommandLine, Console, duration, table
from results.history import FROM_PRESET, Row, Run
from results.run_folder import (
    RunFolder,
    best_at_budget,
    environment,
    front_of,
    read_yaml,
    write_text,
)
from results.store import Store
from search.controllers import CONTROLLERS, make_controller
from search.interfaces import Runner
from search.loop import search
from search.proposals import BAND, Proposals, Reachable
from search.runner import LocalRunner
from search.settings import FREE_ON_RESUME, Settings
from search.warm_start import Start, warm_start
from space.budget import EXAMPLES, Budget, quantity
from space.cost_table import CostTable
from space.files import check_doors, make_space, read_definition, shipped_spaces
from space.genes import CATEGORIES, Allowed, Numbers, Rows, gene_choices, registered
from space.genome import Genome
from space.presets import presets
from space.search_space import Space
from supernet.network import Supernet
from supernet.training import Batches, Trainer, TrainingSettings, normalise

INTERRUPTED = 130
# What the world does to files, and no fault of the program.
_OUTSIDE = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
        *(errno.EACCES, errno.EPERM, errno.EROFS),
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
    )
)
LONGEST_NAME = 200  # of a run, bytes; file systems allow 255, and partial files need some
CALIBRATION_IMAGES = 512  # training images for the running statistics of networks with BatchNorm
SCORE_MEANING = (
    "mean probability of the true class on the validation images, with the supernet's shared "
    "weights at proxy size; not the accuracy of a trained network"
)
LISTINGS = ("operators", "downsampling", "stems", "heads", "spaces", "presets", "controllers")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code. Bad input is one line and exit code 2."""
    options = read_words(sys.argv[1:] if arguments is None else arguments)
    console = Console(quiet=options.quiet, json_output=options.json)
    try:
        if "action" in options:
            load_plugins(getattr(options, "plugin", None) or ())
            return options.action(options, console)
        if options.list:
            load_plugins(options.plugin or ())
            console.listing(options.list, listing(options.list))
            return 0
        return run(options, console)
    except KeyboardInterrupt:
        kept = "" if "action" in options else "; what was scored is kept"
        console.error(f"stopped{kept}{_how_to_go_on(options)}")
        return INTERRUPTED
    except ValueError as error:
        console.error(str(error))
        return BAD_INPUT
    except SafetensorError as error:  # a checkpoint that cannot be written, on a full disk mostly
        console.error(f"{error}{_how_to_go_on(options)}")
        return BAD_INPUT
    except OSError as error:
        if error.errno is not None and error.errno not in _OUTSIDE:
            raise
        where = f" at {error.filename}" if error.filename else ""
        console.error(f"{error.strerror or error}{where}{_how_to_go_on(options)}")
        return BAD_INPUT


def _how_to_go_on(options: argparse.Namespace) -> str:
    folder = getattr(options, "folder", None)
    if folder is None or not folder.path.exists():
        return ""
    return f"; go on with: python run_search.py --resume {folder.path}"


# ---- the command line


def read_words(words: Sequence[str]) -> argparse.Namespace:
    """The options of a search, or of the command that the first word names."""
    if words and words[0] in commands.PARSERS:
        return commands.PARSERS[words[0]]().parse_args(words[1:])
    return make_parser().parse_args(words)


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
    what.add_argument("--space", help=f"a space file, or one of {', '.join(shipped_spaces())}")
    what.add_argument("--data", help="digits, a folder of class folders, or a parquet folder")
    what.add_argument("--limit", type=int, help="train on this many images only")
    what.add_argument("--resolution", type=int, help="side of the networks' input, pixels")
    what.add_argument("--classes", type=int, help="classes of the networks (default: the data's)")
    what.add_argument("--flops-per-mac", type=int, help="2 if you count a MAC as two FLOPs")
    what.add_argument("--plugin", action="append", help="a Python file with parts of your own")
    how = parser.add_argument_group("how to search")
    how.add_argument("--controller", help=", ".join(CONTROLLERS))
    how.add_argument(
        "--warm-start",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="score published networks first, scaled to the budget, as far as the space has them",
    )
    how.add_argument("--evaluations", type=int, help="candidates to score")
    how.add_argument("--batch", type=int, help="candidates asked for at a time")
    how.add_argument("--seed", type=int)
    how.add_argument("--proxy-width", type=float, help="width of the proxy, 0 to 1")
    how.add_argument("--proxy-resolution", type=int, help="input side of the proxy, pixels")
    how.add_argument("--steps", type=int, help="training steps of the supernet")
    how.add_argument("--train-batch", type=int, help="images in a training step")
    how.add_argument("--learning-rate", type=float)
    how.add_argument("--shift", type=float, help="move training images by up to this share")
    how.add_argument("--flip", action=argparse.BooleanOptionalAction, default=None)
    where = parser.add_argument_group("where to run")
    where.add_argument("--device", help="cpu, cuda or cuda:N (default: what is there)")
    where.add_argument("--threads", type=int, help="CPU threads of one pass")
    where.add_argument("--workers", type=int, help="processes that score, on Ray if more than one")
    where.add_argument("--ray-address", help="a running Ray cluster")
    out = parser.add_argument_group("what comes out")
    out.add_argument("--name", help="of the run's folder (default: budget, space and seed)")
    out.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    out.add_argument("--exports", type=int, help="how many networks to export at most")
    out.add_argument("--onnx", action=argparse.BooleanOptionalAction, default=None)
    out.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    out.add_argument("--json", action="store_true", help="print listings, plan and result as JSON")
    out.add_argument("--quiet", action="store_true", help="no progress")
    out.add_argument("--list", choices=LISTINGS, help="print what there is and stop")
    again = parser.add_argument_group("again")
    again.add_argument("--config", type=Path, help="take the settings of a config.yaml")
    again.add_argument("--resume", type=Path, help="go on with a run's folder")
    return parser


def given(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line names."""
    names = {setting.name for setting in dataclasses.fields(Settings)}
    values = {k: v for k, v in vars(options).items() if k in names and v is not None}
    if options.plugin:
        values["plugins"] = tuple(options.plugin)
    return values


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
    values.update(explicit)
    load_plugins(values.get("plugins", ()))
    if not values.get("space_definition"):
        values["space_definition"] = read_definition(values.get("space", "unified"))
    check_doors(make_space(values["space_definition"]))  # says what is wrong with it
    values.setdefault("device", "cuda" if torch.cuda.is_available() else "cpu")
    values.setdefault("workers", 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # Half of the cores: in training the backward pass takes the other half. Two threads that wait
    # for each other on a busy machine cost far more than the second one gains on small proxies.
    values.setdefault("threads", max(1, (cores or 1) // 2))
    proxy = values["space_definition"].get("proxy", {})
    values.setdefault("proxy_width", proxy.get("width", 1.0))
    if "proxy_resolution" not in values:
        own = max(values["space_definition"]["resolution"])
        values["proxy_resolution"] = proxy.get("resolution", own)
    photographs = values.get("data", "digits") != "digits"
    values.setdefault("flip", photographs)
    values.setdefault("shift", 0.125 if photographs else 0.04)
    settings = Settings(**values)
    if settings.classes is None:
        # The bundled digits only stand in for data of one's own: the networks are made for 1000.
        stand_in = settings.data == "digits"
        classes = 1000 if stand_in else len(data_classes(settings.data))
        settings = dataclasses.replace(settings, classes=classes)
    return settings


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
        return [_preset_facts(name) for name in presets()]
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


def _preset_facts(name: str) -> dict[str, Any]:
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


# ---- a run


class Job:
    """A run's settings and everything that follows from them alone."""

    def __init__(self, settings: Settings):
        self.settings = settings
        load_plugins(settings.plugins)
        self.device = check_device(settings.device)
        torch.set_num_threads(settings.threads)
        self.budget = Budget.parse(settings.budget, flops_per_mac=settings.flops_per_mac)
        definition = dict(settings.space_definition)
        if settings.resolution is not None:
            definition["resolution"] = [settings.resolution]
        definition["classes"] = settings.classes
        self.space = make_space(definition)
        if self.space.in_channels != 3:
            raise ValueError(
                f"in_channels is {self.space.in_channels}, but must be 3: images are read as RGB"
            )
        self.table = CostTable(self.space)
        self.proposals = Proposals(self.space, self.table, self.budget)
        if settings.controller not in CONTROLLERS:
            known = ", ".join(CONTROLLERS)
            raise ValueError(f"unknown controller {settings.controller!r}; there are {known}")
        if settings.proxy_resolution % self.space.total_stride:
            raise ValueError(
                f"proxy_resolution is {settings.proxy_resolution}, but must be a multiple of the "
                f"space's total stride, {self.space.total_stride}"
            )

    def proxy_space(self, classes: int) -> Space:
        """The space in which the supernet lives."""
        return self.space.scaled(
            width=self.settings.proxy_width,
            resolution=self.settings.proxy_resolution,
            classes=classes,
        )

    @property
    def at_own_scale(self) -> bool:
        """Whether the supernet is trained at the size of the networks themselves."""
        settings = self.settings
        return settings.proxy_width == 1 and self.space.resolution.choices == (
            settings.proxy_resolution,
        )

    @cached_property
    def starts(self) -> list[Start]:
        """The published networks that are scored first, if that was asked for."""
        return warm_start(self.proposals, presets().values()) if self.settings.warm_start else []

    def training(self) -> TrainingSettings:
        settings = self.settings
        return TrainingSettings(
            steps=settings.steps,
            batch=settings.train_batch,
            learning_rate=settings.learning_rate,
            shift=settings.shift,
            flip=settings.flip,
        )

    def trainer(self, data: ImageData) -> Trainer:
        """A supernet with fresh weights, and what trains it."""
        proxy = self.proxy_space(len(data.classes))
        supernet = Supernet(proxy, seed=self.settings.seed, device=self.device)
        images, labels = data.train.images.to(self.device), data.train.labels.to(self.device)
        settings = self.training()
        batches = Batches(images, labels, data.mean, data.std, settings, self.settings.seed)
        return Trainer(supernet, batches, settings, seed=self.settings.seed)


def check_device(name: str) -> torch.device:
    """ValueError where there is no such device on this machine."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}; write cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {name!r}, but must be cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ValueError(
            f"device {name!r} was asked for, but PyTorch sees {found or 'no'} CUDA device"
            f"{'s' if found != 1 else ''} here; use --device cpu"
        )
    return device


def check_cluster(address: str | None) -> None:
    """ValueError where nobody answers at `host:port`. Ray itself would come to that after the
    training, try for minutes, and end the process without a word."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # none, or a name that Ray looks up
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"no Ray cluster answers at {address!r}: {error}") from None


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
    place = _existing(folder.path.parent)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"no run folder can be made under {str(place)!r}; choose another --runs")


def _existing(path: Path) -> Path:
    """The nearest place above `path`, or itself, that there is."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def default_name(settings: Settings) -> str:
    """Such as `4GFLOPs-unified-seed0`."""
    safe = "".join(c if c.isalnum() or c in ".-" else "-" for c in settings.budget)
    return f"{safe}-{Path(settings.space).stem}-seed{settings.seed}"


def resumed_settings(options: argparse.Namespace, folder: RunFolder) -> Settings:
    """The settings of a run; ValueError where the command line asks for others."""
    if not folder.config.is_file():
        raise ValueError(f"{str(folder.path)!r} is not a run folder: it has no config.yaml")
    for other in ("config", "name"):
        if getattr(options, other) is not None:
            raise ValueError(f"--{other} cannot be given together with --resume")
    settings = Settings.from_plain(read_yaml(folder.config, "config"))
    for name, value in given(options).items():
        kept = getattr(settings, name)
        if name in FREE_ON_RESUME or value == kept:
            continue
        raise ValueError(
            f"{name} is {value!r}, but the run {folder.path} has {kept!r}; resume it without, or "
            "begin another run"
        )
    free = {name: v for name, v in given(options).items() if name in FREE_ON_RESUME}
    return dataclasses.replace(settings, **free)


# ---- the plan


def make_plan(job: Job, reachable: Reachable, folder: RunFolder) -> dict[str, Any]:
    """What a run would do, as plain data."""
    classes = 10 if job.settings.data == "digits" else len(data_classes(job.settings.data))
    supernet = Supernet(job.proxy_space(classes), seed=job.settings.seed)
    numbers = sum(weight.numel() for weight in supernet.weights.values())
    train_seconds, score_seconds = time_one(job, supernet)
    return {
        "settings": job.settings.to_plain(),
        "folder": str(folder.path),
        "warm_start": [start.name for start in job.starts],
        "budget": job.budget.limits(),
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
            "training_seconds": train_seconds * job.settings.steps,
            "scoring_seconds": score_seconds * job.settings.evaluations / job.settings.workers,
        },
    }


def time_one(job: Job, supernet: Supernet) -> tuple[float, float]:
    """Seconds of one training step, and of scoring one candidate on 360 images, on this machine."""
    settings, space = job.training(), supernet.space
    side = max(space.resolution.choices)
    images = torch.zeros(settings.batch, space.in_channels, side, side, dtype=torch.uint8)
    labels = torch.zeros(settings.batch, dtype=torch.long)
    normal = ((0.5,) * space.in_channels, (0.25,) * space.in_channels)
    trainer = Trainer(supernet, Batches(images, labels, *normal, settings, 0), settings, seed=0)
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        trainer.train_step()
        seconds.append(time.perf_counter() - begun)
    row = job.proposals.sample(np.random.default_rng(0), 1, BAND)[0]
    genome = space.decode(row)
    inputs = normalise(images, *normal)
    with torch.no_grad():
        buffers = supernet.calibrate(genome, [inputs[:2]])
        supernet(genome, inputs[:2], buffers=buffers)
        begun = time.perf_counter()
        supernet(genome, inputs, buffers=buffers)
    return min(seconds), (time.perf_counter() - begun) * 360 / len(inputs)


def show_plan(
    job: Job, reachable: Reachable, folder: RunFolder, plan: Mapping[str, Any]
) -> list[Any]:
    """The plan for a person."""
    settings, space = job.settings, plan["space"]
    seconds = plan["estimate"]
    rows = [
        [end, quantity(space[end]["macs"]), quantity(space[end]["params"])]
        for end in ("smallest", "median", "largest")
    ]
    costs = table("Networks of the space", ["", "MACs", "parameters"], rows)
    chosen = [[k, str(v)] for k, v in plan["settings"].items() if k != "space_definition"]
    size = f"{space['networks']:.2e} networks in {space['variables']} variables"
    inside = (
        f"{describe_budget(job.budget)}. Of uniformly drawn networks {reachable.share:.1%} lie "
        f"within it, {reachable.share_at_budget:.2%} use 95% of it or more. It can be met."
    )
    supernet = (
        f"{quantity(plan['supernet']['parameters'])} parameters at width {settings.proxy_width:g} "
        f"and {settings.proxy_resolution} pixels"
    )
    time_needed = (
        f"about {duration(seconds['training_seconds'])} for {settings.steps} training steps, "
        f"{duration(seconds['scoring_seconds'])} to score {settings.evaluations} candidates on "
        "360 images each"
    )
    return [
        f"Space {space['name']!r}: {size}",
        costs,
        f"Budget {settings.budget}: {inside}",
        *([_starts_text(plan["warm_start"])] if settings.warm_start else []),
        f"Supernet: {supernet}.",
        f"Time on this machine, measured now: {time_needed}.",
        f"Run folder: {folder.path}",
        table("Settings", ["setting", "value"], chosen),
    ]


def _starts_text(names: Sequence[str]) -> str:
    if not names:
        return "Warm start: this space has none of the published networks at this budget."
    networks = "1 published network" if len(names) == 1 else f"{len(names)} published networks"
    return f"Warm start with {networks}: {', '.join(names)}."


def describe_budget(budget: Budget) -> str:
    """Both counts of the same budget, since papers write FLOPs for MACs."""
    texts = []
    if budget.macs is not None:
        texts.append(
            f"{quantity(budget.macs)} MACs (= {quantity(2 * budget.macs)} FLOPs at 2 each)"
        )
    if budget.params is not None:
        texts.append(f"{quantity(budget.params)} parameters")
    return " and ".join(texts)


def check_disk(folder: RunFolder, supernet: Supernet) -> None:
    """ValueError where the disk cannot hold what the run is going to write."""
    numbers = sum(weight.numel() for weight in supernet.weights.values())
    needed = 2 * 12 * numbers + 64 * 2**20  # two checkpoints while one replaces the other
    place = _existing(folder.path)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ValueError(
            f"the run needs {needed / 2**20:.0f} MiB under {str(place)!r}, but only "
            f"{free / 2**20:.0f} MiB are free; free some, or choose another --runs"
        )


# ---- the steps of a run


def train(folder: RunFolder, trainer: Trainer, data: ImageData, console: Console) -> None:
    """Trains the supernet, or takes up where its checkpoint ends; then notes how good it is."""
    if folder.checkpoint.exists():
        trainer.load(folder.checkpoint)
    steps = trainer.settings.steps
    if trainer.step < steps:
        with console.progress("training the supernet", steps, trainer.step) as meter:

            def note(done: int, _: int, loss: float) -> None:
                if not math.isfinite(loss):
                    raise ValueError(
                        f"training diverged: after step {done} the loss is {loss}; begin another "
                        f"run with a learning_rate below {trainer.settings.learning_rate:g}"
                    )
                meter.update(done, f"loss {loss:.3f}")

            trainer.run(folder.checkpoint, progress=note)
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


def make_scorer(
    supernet: Supernet,
    images: Tensor,
    labels: Tensor,
    training_images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    space: Space | None = None,
) -> SupernetEvaluator:
    """Scores networks of `space` by the proxies that stand for them in the supernet's space."""
    own = supernet.space

    def proxy(genome: Genome) -> Genome:
        return genome if space is None else own.decode(space.encode(genome))

    return SupernetEvaluator(
        supernet,
        images.to(supernet.device),
        labels.to(supernet.device),
        calibration=training_images[:CALIBRATION_IMAGES].to(supernet.device),
        normalise=lambda pixels: normalise(pixels, mean, std),
        proxy=proxy,
    )


def make_evaluator(
    *,
    plain: Mapping[str, Any],
    classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    tensors: Mapping[str, Tensor],
) -> SupernetEvaluator:
    """The evaluator of a worker process, from plain settings and shared tensors."""
    job = Job(Settings.from_plain(plain))
    supernet = Supernet(job.proxy_space(classes), seed=job.settings.seed, device=job.device)
    prefix = "weight:"
    supernet.load({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    images, labels, calibration = (tensors[k] for k in ("images", "labels", "calibration"))
    return make_scorer(supernet, images, labels, calibration, mean, std, job.space)


def make_runner(job: Job, trainer: Trainer, data: ImageData) -> Runner:
    """In this process, or on Ray's workers."""
    settings, split = job.settings, data.validation
    if settings.workers == 1 and settings.ray_address is None:
        scorer = make_scorer(
            trainer.supernet,
            split.images,
            split.labels,
            data.train.images,
            data.mean,
            data.std,
            job.space,
        )
        return LocalRunner(scorer)
    from search.ray_runner import RayRunner  # Ray is wanted by nobody else

    shared = {f"weight:{name}": w.detach().cpu() for name, w in trainer.supernet.weights.items()}
    shared |= {"images": split.images, "labels": split.labels}
    shared["calibration"] = data.train.images[:CALIBRATION_IMAGES]
    return RayRunner(
        "run_search:make_evaluator",
        {
            "plain": settings.to_plain(),
            "classes": len(data.classes),
            "mean": data.mean,
            "std": data.std,
        },
        shared,
        workers=settings.workers,
        threads=settings.threads,
        address=settings.ray_address,
    )


def find(folder: RunFolder, job: Job, trainer: Trainer, data: ImageData, console: Console) -> None:
    """Searches until the database holds as many candidates as the settings ask for."""
    settings = job.settings
    with Store(folder.database) as store:
        known = len(store.statuses())
        if known >= settings.evaluations:
            return
        starts = job.starts
        if settings.warm_start and not known:
            console.say(_starts_text([start.name for start in starts]))
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


def finish(
    folder: RunFolder, job: Job, trainer: Trainer, reachable: Reachable, console: Console
) -> int:
    """Exports the best, writes front and report, and says where everything is."""
    from results.export import export_network, safe_name  # these two bring what draws and writes
    from results.report import write_report

    with Store(folder.database, readonly=True) as store:
        rows = store.rows()
    front = front_of(rows)
    best = best_at_budget(rows, job.budget.target, job.budget.limit, BAND)
    folder.write_front(front, best)
    chosen = to_export(front, best, job.settings.exports)
    with console.progress("exporting networks", len(chosen)) as meter:
        for i, row in enumerate(chosen):
            genome = Genome.from_json(row.genome)
            export_network(
                genome,
                folder.architectures / safe_name(row.name),
                name=row.name,
                facts=facts_of(row, job, folder),
                state=own_weights(genome, job, trainer),
                onnx=job.settings.onnx,
            )
            meter.update(i + 1)
    write_report(folder.report, make_run(folder, job, rows, front, best, trainer, reachable))
    console.result(
        summary(folder, job, rows, front, best, chosen), show(folder, job, rows, best, chosen)
    )
    return 0


def to_export(front: Sequence[Row], best: Row | None, most: int) -> list[Row]:
    """The best at the budget, then members of the front, evenly spread from dear to cheap."""
    chosen = [] if best is None else [best]
    others = [row for row in reversed(front) if best is None or row.digest != best.digest]
    room = max(0, most - len(chosen))
    if len(others) > room:
        places = [round(i * (len(others) - 1) / max(1, room - 1)) for i in range(room)]
        others = [others[i] for i in dict.fromkeys(places)]
    return chosen + others


def own_weights(genome: Genome, job: Job, trainer: Trainer) -> dict[str, Tensor] | None:
    """The network's weights, where the supernet was trained at the network's own size."""
    supernet = trainer.supernet
    if not job.at_own_scale or genome.classes != supernet.space.classes:
        return None
    proxy = supernet.space.decode(job.space.encode(genome))
    buffers = supernet.calibrate(proxy, [trainer.calibration_images(CALIBRATION_IMAGES)])
    return {name: weight.cpu() for name, weight in supernet.state_of(proxy, buffers).items()}


def facts_of(row: Row, job: Job, folder: RunFolder) -> dict[str, str]:
    """What an exported network says of where it comes from."""
    return {
        "search": f"run {folder.path.name}, space {job.space.name}, budget {job.settings.budget}",
        "score": f"{row.score:.4f} ({SCORE_MEANING})",
        "command": f"python run_search.py --config {folder.config}",
    }


def make_run(
    folder: RunFolder,
    job: Job,
    rows: Sequence[Row],
    front: Sequence[Row],
    best: Row | None,
    trainer: Trainer,
    reachable: Reachable,
) -> Run:
    """The run as the report wants it."""
    settings = job.settings.to_plain()
    definition = settings.pop("space_definition")
    about = json.loads(folder.environment.read_text(encoding="utf-8"))
    step = max(1, len(trainer.losses) // 200)
    curve = [
        {"step": i + 1, "loss": loss, "seconds": None}
        for i, loss in enumerate(trainer.losses)
        if i % step == 0 or i + 1 == len(trainer.losses)
    ]
    accuracies = json.loads(folder.supernet_facts.read_text(encoding="utf-8"))
    return Run(
        name=folder.path.name,
        settings=settings,
        environment={k: v for k, v in about.items() if k != "command"},
        rows=rows,
        front=[row.digest for row in front],
        best=None if best is None else best.digest,
        budget={**job.budget.limits(), "text": job.settings.budget},
        presets=[_preset_facts(name) for name in presets()],
        space_summary={
            "name": job.space.name,
            "about": definition.get("about", ""),
            "size": job.space.size,
            "smallest": reachable.smallest["macs"],
            "median": reachable.median["macs"],
            "largest": reachable.largest["macs"],
        },
        supernet={"curve": curve, "accuracies": accuracies},
        command=about["command"],
    )


def summary(
    folder: RunFolder,
    job: Job,
    rows: Sequence[Row],
    front: Sequence[Row],
    best: Row | None,
    chosen: Sequence[Row],
) -> dict[str, Any]:
    """The outcome as plain data."""

    def plain(row: Row) -> dict[str, Any]:
        values = dataclasses.asdict(row)
        return {k: values[k] for k in ("name", "digest", "score", "macs", "params", "resolution")}

    return {
        "folder": str(folder.path),
        "budget": job.budget.limits(),
        "evaluated": sum(row.score is not None for row in rows),
        "failed": sum(row.score is None for row in rows),
        "best": None if best is None else plain(best),
        "front": [plain(row) for row in front],
        "exported": [plain(row) for row in chosen],
    }


def show(
    folder: RunFolder, job: Job, rows: Sequence[Row], best: Row | None, chosen: Sequence[Row]
) -> list[Any]:
    """The outcome for a person."""
    columns = ["network", "score", "MACs", "FLOPs (2 per MAC)", "of budget", "params", ""]
    cells = [
        [
            row.name,
            f"{row.score:.4f}",
            quantity(row.macs),
            quantity(2 * row.macs),
            f"{getattr(row, job.budget.target) / job.budget.limit:.1%}",
            quantity(row.params),
            "best at the budget" if row is best else "on the front",
        ]
        for row in chosen
    ]
    shown = [
        table("", columns, cells),
        f"Score: {SCORE_MEANING}. Nobody has checked yet how well it ranks trained networks.",
        f"Report:  {folder.report}",
        f"Front:   {folder.front}",
    ]
    failed = [row for row in rows if row.score is None]
    if failed:
        shown.append(f"{len(failed)} candidates failed; the first: {failed[0].error}")
    if best is None:
        shown.append("No candidate uses 95% of the budget; run more --evaluations.")
    else:
        shown.append(f"Next:    python {folder.architectures / best.name / 'model.py'}")
    return shown


if __name__ == "__main__":
    sys.exit(main())
