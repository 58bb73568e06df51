"""`run_search.py train`: a network that was found, trained at its own size from scratch.

One network is trained by this process, by those that torchrun started, or by Ray Train; several of
a run are trained side by side by Ray Tune (`commands.train_finalists`). The command makes a folder,
and the same command goes on with what is in it.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from commands.alone import held_out, received_images, shared_images
from commands.exported import formats_of
from commands.options import add_training
from commands.own_size import (
    OwnSize,
    Workshop,
    received_starts,
    shared_starts,
)
from commands.train_finalists import train_finalists
from commands.train_plan import RECIPE_OPTIONS, Plan, begin, make_plan
from commands.train_result import export, report, result_of
from results.console import CommandLine, Console
from results.formats import FILES
from results.run_folder import write_text
from results.trained_folder import TrainedFolder
from results.training_log import OPTIONAL, TrainingLog
from space.genome import Genome
from supernet.checkpoints import Checkpoints
from supernet.distributed import (
    Elsewhere,
    Processes,
    launched_group,
    launched_rank,
)
from supernet.network_training import NetworkTrainer
from supernet.recipe import RECIPES, NetworkRecipe
from supernet.training import Group

Progress = Callable[[int, int, float], None]


def train_parser() -> CommandLine:
    parser = CommandLine(
        prog="run_search.py train",
        description="Trains a network at its own size, and exports it with its weights and its "
        "accuracy. The same command goes on with a training that was stopped.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "network",
        help="an exported folder, a genome.json, the name of a preset, or the folder of a run, of "
        "which the best network is trained",
    )
    what = parser.add_argument_group("what is trained, and on what")
    what.add_argument(
        "--data",
        help="digits, a folder of class folders, or a parquet folder (default: the run's, or else "
        "digits)",
    )
    what.add_argument("--limit", type=int, help="train on this many images only")
    what.add_argument("--resolution", type=int, help="side of its input, pixels (default: its own)")
    what.add_argument(
        "--networks", type=int, default=1, help="of the run, as finalists (default: 1)"
    )
    what.add_argument(
        "--reduction",
        type=int,
        default=3,
        help="of finalists one in so many goes on at a rung (default: 3)",
    )
    what.add_argument(
        "--grace",
        type=int,
        help="steps of finalists to the first rung (default: steps / reduction squared)",
    )
    what.add_argument(
        "--inherit", action="store_true", help="start from the supernet's weights, or the export's"
    )
    what.add_argument(
        "--seed", type=int, default=0, help="of weights, order and augmentation (default: 0)"
    )
    what.add_argument("--plugin", action="append", help="a Python file with parts of your own")
    how = parser.add_argument_group("how it is trained")
    how.add_argument(
        "--recipe",
        default="plain",
        help=f"{', '.join(RECIPES)}, or a YAML file with settings, such as a training.yaml; "
        "the options below change single ones (default: plain)",
    )
    add_training(how, NetworkRecipe, RECIPE_OPTIONS, defaults=False)
    how.add_argument(
        "--teacher",
        help="to learn from: an exported folder with weights, or a genome or preset",
    )
    how.add_argument("--teacher-weights", type=Path, metavar="FILE", help="of the teacher")
    where = parser.add_argument_group("where to run")
    where.add_argument("--device", help="cpu, cuda or cuda:N (default: what is there)")
    where.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    where.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes: that train one network together, or finalists side by side, by Ray "
        "(default: 1)",
    )
    where.add_argument("--ray-address", help="a running Ray cluster, to train one network on")
    out = parser.add_argument_group("what comes out")
    out.add_argument("--out", type=Path, help="folder of the training (default: trained/NAME)")
    out.add_argument(
        "--looks", type=int, default=20, help="times that it is looked at meanwhile (default: 20)"
    )
    out.add_argument(
        "--log", action="append", choices=OPTIONAL, default=[], help="tell it of the training, too"
    )
    out.add_argument(
        "--formats", default="", help=f"besides model.py, joined by commas: {', '.join(FILES)}"
    )
    out.add_argument("--json", action="store_true", help="print the result as JSON")
    out.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(action=_train)
    return parser


def _train(options: argparse.Namespace, console: Console) -> int:
    """The options' errors come before anything is written."""
    first = launched_rank() == 0
    console = console if first else Console(quiet=True)
    options.again, options.kept = again(options), "what was trained is kept"
    plan = make_plan(options, console)
    result = plan.folder.read_result()
    if result is not None:
        if first:
            console.say(f"{plan.folder.path} was trained before")
            report(plan, result, console)
        return 0
    plan = begin(plan, options, console)
    if len(plan.found.networks) > 1:
        return train_finalists(plan, options, console)
    return train_one(plan, options, console)


def again(options: argparse.Namespace) -> str:
    """The command line that does the same."""
    parser, words = train_parser(), ["python", "run_search.py", "train", options.network]
    for action in parser._actions:
        value = getattr(options, action.dest, None)
        if not action.option_strings or value == action.default or action.dest == "help":
            continue
        option = action.option_strings[0]
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option.removeprefix('--')}")
        else:
            for one in value if isinstance(value, list) else [value]:
                words += [option, str(one)]
    return shlex.join(words)


# ---- one network


def train_one(plan: Plan, options: argparse.Namespace, console: Console) -> int:
    (genome,) = plan.found.trained
    shop, data = plan.workshop(), plan.images
    checkpoints = Checkpoints(plan.folder.checkpoints)
    apart = options.workers > 1
    with launched_group(plan.device) as group:
        trainer = shop.trainer(genome, Elsewhere(options.workers) if apart else group)
        try:
            trainer.load(checkpoints)
            if trainer.step < trainer.steps:
                title = f"training {plan.found.names[0]}"
                with console.progress(title, trainer.steps, trainer.step) as meter:

                    def progress(done: int, total: int, loss: float) -> None:
                        meter.update(done, _note(trainer, loss), total)

                    if apart:
                        train_by_ray(plan, options, progress)
                        trainer.load(checkpoints)
                    else:
                        run(shop, trainer, plan.folder.path, options.looks, progress)
            if trainer.step < trainer.steps:
                raise ValueError(
                    f"there is no finished checkpoint in {checkpoints.folder}: it must be on a "
                    "file system that all machines of the training see"
                )
        finally:
            trainer.close()
    if launched_rank() > 0:
        return 0
    split, images = held_out(data)
    with console.progress("measuring the trained network", 1) as meter:
        found = {"validation": shop.look(trainer, data.validation).details["top1"]}
        found[split] = shop.look(trainer, images).details["top1"]
        meter.update(1)
    count = len(images)
    result = result_of(plan, 0, trainer, {"split": split, "images": count, **found})
    export(plan, 0, trainer, result, plan.folder.network, formats_of(options))
    write_text(plan.folder.result, json.dumps(result, indent=2) + "\n")
    report(plan, result, console)
    return 0


def _note(trainer: NetworkTrainer, loss: float) -> str:
    seen = f", accuracy {trainer.probes[-1]['accuracy']:.1%}" if trainer.probes else ""
    return f"loss {loss:.3f}{seen}"


def run(
    shop: Workshop,
    trainer: NetworkTrainer,
    folder: Path,
    looks: int,
    progress: Progress | None = None,
) -> None:
    """Trains to the end; the first process of several looks and writes down what it sees."""
    checkpoints = Checkpoints(TrainedFolder(folder).checkpoints)
    if trainer.group.rank:
        trainer.run(checkpoints)
        return
    about = {"name": folder.name, "network": trainer.genome.digest, "seed": shop.how.seed}
    with ExitStack() as stack:
        log = stack.enter_context(
            TrainingLog(folder, trainer, shop.how.logs, about | shop.how.recipe.to_plain())
        )

        def step(done: int, total: int, loss: float) -> None:
            log.stepped()
            if trainer.probes and trainer.probes[-1]["step"] == done:
                log.looked()
            if progress is not None:
                progress(done, total, loss)

        trainer.run(checkpoints, progress=step, probe=lambda: shop.probe(trainer), probes=looks)


# ---- by Ray Train


def train_by_ray(plan: Plan, options: argparse.Namespace, progress: Progress) -> None:
    """In `workers` processes, which leave their checkpoints and logs in the training's folder."""
    from search.ray_train import WorkerDied, train_together  # Ray is wanted by nobody else

    (genome,) = plan.found.trained
    facts, shared = shared_images(plan.images, {"validation": plan.images.validation})
    try:
        train_together(
            "commands.train_network:train_in_process",
            {
                "how": plan.how.to_plain(),
                "genome": genome.to_json(),
                "facts": facts,
                "folder": str(plan.folder.path.absolute()),
                "looks": options.looks,
            },
            shared | shared_starts(plan.starts),
            folder=plan.folder.state.absolute(),
            workers=options.workers,
            threads=options.threads,
            cuda=plan.device.type == "cuda",
            address=options.ray_address,
            progress=progress,
        )
    except WorkerDied as error:
        raise ValueError(f"{error}; go on with: {options.again}") from error


def train_in_process(
    *,
    how: Mapping[str, Any],
    genome: Mapping[str, Any],
    facts: Mapping[str, Any],
    folder: str,
    looks: int,
    tensors: Mapping[str, Tensor],
    device: str,
    progress: Progress,
) -> None:
    """One of the processes of `train_by_ray`."""
    own = OwnSize.from_plain(how)
    data = received_images(own.source, facts, tensors)
    shop = Workshop(own, data, torch.device(device), received_starts(tensors))
    group: Group = Processes()
    trainer = shop.trainer(Genome.from_json(genome), group)
    try:
        trainer.load(Checkpoints(TrainedFolder(Path(folder)).checkpoints))
        run(shop, trainer, Path(folder), looks, None if group.rank else progress)
    finally:
        trainer.close()
