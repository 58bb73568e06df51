"""The finalists of a run, trained alone: the best that a search has found, of which one wins.

Their proxies are trained from scratch, by the recipe of the supernet and on its images, as `trust`
trains networks. The worst are stopped at each rung (`search.halving`): in this process rung by
rung, or on several as each comes to a rung, by Ray Tune's ASHA. `commands.rungs` keeps what is
found, so that the command can be stopped and given again.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from commands.alone import (
    alone_trainer,
    check_least,
    command_line,
    held_out,
    look,
    open_folder,
    received_images,
    recipe,
    shared_images,
)
from commands.finish import report_anew
from commands.job import DataSource, Job, gpus_of_worker
from commands.rungs import Climbing, climb_all, log_of, training_folder
from commands.search import read_data, read_environment
from commands.settle import Measurements, latency_limits, within
from commands.similarity import Finished, compare
from evaluator.data import ImageData
from results import similarity
from results.console import CommandLine, Console
from results.finalists import show, write_outcome
from results.history import Row
from results.run_folder import RunFolder, best_at_budget, environment, front_of
from results.store import Store, network_name
from search.halving import Halving, Ladder
from search.proposals import BAND
from search.settings import Settings
from space.genome import Genome
from space.search_space import Space
from supernet.training import AloneTrainer

FEWEST = 2  # networks
TRIES = 8  # draws of `_AT_ONCE` rows for random networks that are not there yet
_AT_ONCE = 32


def finalists_parser() -> CommandLine:
    parser = CommandLine(
        prog="run_search.py finalists",
        description="Trains the best networks of a run alone, at proxy size, stops the worst of "
        "them early (ASHA), says which one wins, and how alike those are that came to the end.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--networks", type=int, default=8, help="of the run (default: 8)")
    parser.add_argument(
        "--random", type=int, default=0, help="networks drawn at the same budget (default: 0)"
    )
    parser.add_argument("--steps", type=int, help="of a whole training (default: the supernet's)")
    parser.add_argument(
        "--reduction", type=int, default=3, help="one in so many goes on at a rung (default: 3)"
    )
    parser.add_argument(
        "--grace", type=int, help="steps to the first rung (default: steps / reduction squared)"
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that train, on Ray Tune (default: 2)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the trainings, and of what is drawn (default: 0)"
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: the run's)")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(action=_finalists)
    return parser


def _finalists(options: argparse.Namespace, console: Console) -> int:
    check(options)
    final = open_final(options, console)
    options.again = command_of(options, "workers", "device")
    options.kept = "what was trained is kept"
    networks = choose(final, options.networks, options.random, options.seed)
    console.say(_said_of(networks, options.networks, final.halving))
    ladder = train(final, networks, options.workers, console)
    plain = outcome(final, networks, ladder, options)
    write_outcome(final.folder, plain)
    if plain["winner"] is None:
        first = next(net for net in plain["networks"] if net["problem"])
        raise ValueError(
            f"no network was trained to the end; {first['name']}: {first['problem']}; what there "
            f"is of the others is in {final.folder.finalists}"
        )
    alike = compare_finished(final, networks, ladder, console)
    report_anew(final.folder, final.job, final.settings, final.rows)
    shown = [*show(final.folder, plain), *similarity.sentences(alike)]
    console.result({"folder": str(final.folder.path), **plain}, shown)
    return 0


def check(options: argparse.Namespace) -> None:
    """ValueError where a number is too small."""
    least = {"networks": FEWEST, "random": 0, "steps": 2, "reduction": 2, "grace": 1}
    check_least(options, {**least, "workers": 1, "seed": 0})


def command_of(options: argparse.Namespace, *more: str) -> str:
    """The command line that does the same; where it runs is in `more` options only."""
    return command_line(
        "finalists", options, ("networks", "random", "steps", "reduction", "grace", "seed", *more)
    )


# ---- the run


@dataclass(frozen=True, eq=False)
class Final:
    """A run that has searched, and how its finalists are trained. `settings` are the run's own;
    those of `job` say where this command runs."""

    folder: RunFolder
    settings: Settings
    job: Job
    data: ImageData
    rows: Sequence[Row]
    halving: Halving
    seed: int  # of the trainings

    @property
    def proxies(self) -> Space:
        return self.job.proxy_space(len(self.data.classes))


def open_final(options: argparse.Namespace, console: Console) -> Final:
    """ValueError where the options name no run, it has not searched to the end, or something is not
    what the run began with."""
    folder, settings, job = open_folder(options.run, options.device, console)
    steps = options.steps or job.training.steps
    halving = Halving.usual(steps, options.grace, options.reduction)
    rows = searched(folder, settings)
    data = read_data(job, read_environment(folder), console)
    for left in folder.alone_by_rungs.glob(".*.partial"):  # of a process that was killed
        left.unlink(missing_ok=True)
    seed = settings.seed + 1 + options.seed
    return Final(folder, settings, job, data, rows, halving, seed)


def searched(folder: RunFolder, settings: Settings) -> list[Row]:
    """The candidates of a run; ValueError where it has not searched to the end."""
    rows: list[Row] = []
    if folder.database.is_file():
        with Store(folder.database, readonly=True) as store:
            rows = store.rows()
    if len(rows) < settings.evaluations:
        raise ValueError(
            f"the search of {str(folder.path)!r} has scored {len(rows)} of {settings.evaluations} "
            f"candidates; go on with: python run_search.py --resume {folder.path}"
        )
    return rows


# ---- which networks


@dataclass(frozen=True, slots=True)
class Finalist:
    """A network, the one of the proxies' space that stands for it, why it is here (a key of
    `results.finalists.GROUPS`), and the supernet's score of it."""

    genome: Genome
    proxy: Genome
    group: str
    score: float | None


def choose(final: Final, count: int, random: int, seed: int) -> list[Finalist]:
    """Up to `count` networks of the run and `random` others at the budget, all with different
    proxies. ValueError where that are fewer than `FEWEST`, or fewer random ones."""
    space, proxies = final.job.space, final.proxies
    found: dict[str, Finalist] = {}
    for group, row in ranked(final.job, final.folder, final.rows):
        genome = Genome.from_json(row.genome)
        proxy = proxies.decode(space.encode(genome))
        if len(found) < count:
            found.setdefault(proxy.digest, Finalist(genome, proxy, group, row.score))
    drawn: dict[str, Finalist] = {}
    rng = np.random.default_rng([seed, 7])
    for _ in range(TRIES + random):
        if len(drawn) < random:
            for codes in final.job.proposals.sample(rng, _AT_ONCE, BAND):
                genome, proxy = space.decode(codes), proxies.decode(codes)
                if proxy.digest not in found and len(drawn) < random:
                    drawn.setdefault(proxy.digest, Finalist(genome, proxy, "random", None))
    if len(drawn) < random:
        raise ValueError(
            f"random is {random}, but only {len(drawn)} different networks were found at the "
            f"budget {final.settings.budget!r}"
        )
    networks = [*found.values(), *drawn.values()]
    if len(networks) < FEWEST:
        raise ValueError(
            f"there are only {len(networks)} networks to choose from in {str(final.folder.path)!r},"
            f" but at least {FEWEST} are needed"
        )
    return networks


def ranked(job: Job, folder: RunFolder, rows: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    """The best at the budget, the members of the front from dear to cheap, then whatever else is at
    the budget, by reward."""
    proposals, limits = job.proposals, latency_limits(job)
    rows = within(rows, Measurements.read(folder.measured), limits)
    target, limit = proposals.target, proposals.limit
    best = best_at_budget(rows, target, limit, BAND)
    if best is not None:
        yield "best", best
    for row in reversed(front_of(rows, proposals.objectives)):
        yield "front", row
    near = [row for row in rows if row.reward is not None and row.cost(target) >= BAND * limit]
    for row in sorted(near, key=lambda row: (-(row.reward or 0.0), row.digest)):
        yield "budget", row


def _said_of(networks: Sequence[Finalist], wanted: int, halving: Halving) -> str:
    drawn = sum(network.group == "random" for network in networks)
    own = len(networks) - drawn
    said = f"{own} networks of the run" + (f" and {drawn} random ones" if drawn else "")
    if own < wanted:
        said += f" (there are no more than {own} at the budget or on the front)"
    *rungs, last = (f"{rung:,}" for rung in halving.rungs)
    return f"{said}, with rungs after {', '.join(rungs)} and {last} steps"


# ---- training


class FinalistWork(Climbing):
    """Trains proxies. `details` of a rung have `probability` (mean of the true class), `test`
    (accuracy on the images that are held out, at the end only) and `seconds` of training."""

    def __init__(self, job: Job, data: ImageData, home: Path):
        super().__init__(home)
        self._job, self._data = job, data

    def make(self, genome: Genome, piece: Mapping[str, Any]) -> AloneTrainer:
        return alone_trainer(
            self._job, self._data, genome, seed=piece["seed"], steps=piece["steps"]
        )

    def looked(self, trainer: AloneTrainer) -> dict[str, Any]:
        found = look(trainer, self._data, self._data.validation)
        ended = trainer.step == trainer.steps
        split = held_out(self._data)[1]
        test = look(trainer, self._data, split).details["top1"] if ended else None
        return {"accuracy": found.details["top1"], "probability": found.score, "test": test}


def train(final: Final, networks: Sequence[Finalist], workers: int, console: Console) -> Ladder:
    """Trains the networks until each has come to the end, was stopped, or failed; what was done
    before is read, the rest is kept as it is done."""
    home, seed, steps = final.folder.alone_by_rungs, final.seed, final.halving.steps
    of = {
        "networks": [network.proxy.digest for network in networks],
        "halving": dataclasses.asdict(final.halving),
        "seed": seed,
        "recipe": recipe(final.job, steps).to_plain(),
        "data": final.data.digest,
    }
    pieces = [{"genome": n.proxy.to_json(), "seed": seed, "steps": steps} for n in networks]
    return climb_all(
        FinalistWork(final.job, final.data, home),
        pieces,
        final.halving,
        log_of(home, of),
        lambda ladder, progress: train_by_tune(final, pieces, ladder, workers, progress),
        workers=workers,
        console=console,
    )


# ---- by Ray Tune


def train_by_tune(
    final: Final,
    pieces: Sequence[Mapping[str, Any]],
    ladder: Ladder,
    workers: int,
    progress: Callable[[], None],
) -> None:
    """The same on several processes, which find and leave checkpoints in the run's folder."""
    from search.ray_trials import run_asha  # Ray is wanted by nobody else

    settings, data = final.job.settings, final.data
    splits = dict([("validation", data.validation), held_out(data)])
    facts, shared = shared_images(data, splits)
    here = dataclasses.replace(settings, workers=workers)
    try:
        run_asha(
            "commands.finalists:make_work",
            {
                "plain": settings.to_plain(),
                "facts": facts,
                "home": str(final.folder.alone_by_rungs.absolute()),
            },
            shared,
            pieces,
            ladder,
            workers=workers,
            threads=settings.threads,
            gpus=gpus_of_worker(here, final.job.device),
            progress=progress,
        )
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def make_work(
    *, plain: Mapping[str, Any], facts: Mapping[str, Any], home: str, tensors: Mapping[str, Tensor]
) -> FinalistWork:
    """What a worker process trains with, from plain settings and shared tensors."""
    settings = Settings.from_plain(plain)
    data = received_images(DataSource.of(settings), facts, tensors)
    return FinalistWork(Job(settings), data, Path(home))


# ---- what comes of it


def compare_finished(
    final: Final, networks: Sequence[Finalist], ladder: Ladder, console: Console
) -> dict[str, Any] | None:
    """How alike those are that came to the end, the best first; written into the run's folder."""
    home, steps, seed = final.folder.alone_by_rungs, final.halving.steps, final.seed
    finished = [
        Finished(
            network_name(networks[place].genome.cost(), networks[place].genome.digest),
            networks[place].genome.digest,
            networks[place].proxy,
            training_folder(home, networks[place].proxy, steps, seed),
        )
        for place in best_first(networks, ladder)
        if place in ladder.finished()
    ]
    found = compare(final.job, final.data, finished, seed=seed, steps=steps, console=console)
    similarity.write(final.folder, found)
    return found


def best_first(networks: Sequence[Finalist], ladder: Ladder) -> list[int]:
    """Places of the networks, those that came furthest first, of equals the best."""

    def rank(place: int) -> tuple[Any, ...]:
        reached = ladder.reached[place]
        best = (reached[-1].value, reached[-1].details["probability"]) if reached else (0.0, 0.0)
        return (reached[-1].step if reached else 0, place not in ladder.problems, *best, -place)

    return sorted(range(len(networks)), key=rank, reverse=True)


def outcome(
    final: Final, networks: Sequence[Finalist], ladder: Ladder, options: argparse.Namespace
) -> dict[str, Any]:
    """Plain data, as `results.finalists` describes it."""
    last = final.halving.steps
    split, images = held_out(final.data)
    machine = environment(final.job.settings.device)
    del machine["command"]
    about = {
        "command": command_of(options),
        "run": final.folder.path.name,
        "space": final.job.space.name,
        "budget": final.settings.budget,
        "rungs": list(final.halving.rungs),
        "reduction": final.halving.reduction,
        "seed": final.seed,
        "chosen_by": {"split": "validation", "images": len(final.data.validation)},
        "reported": {"split": split, "images": len(images)},
        "proxy": {
            "width": final.settings.proxy_width,
            "resolution": final.settings.proxy_resolution,
        },
        "recipe": recipe(final.job, last).to_plain(),
        "data": final.data.digest,
        "environment": machine,
    }
    return judged(networks, ladder, about)


def judged(
    networks: Sequence[Finalist], ladder: Ladder, about: Mapping[str, Any]
) -> dict[str, Any]:
    """The outcome of networks that were trained by rungs, those that came furthest first."""
    order = best_first(networks, ladder)
    finished = set(ladder.finished())
    return {
        "format": 1,
        "networks": [_plain(networks[place], ladder, place) for place in order],
        "winner": networks[order[0]].genome.digest if order[0] in finished else None,
        "steps": ladder.done_steps(),
        "steps_of_all": ladder.halving.steps * len(networks),
        "about": dict(about),
    }


def _plain(network: Finalist, ladder: Ladder, place: int) -> dict[str, Any]:
    cost, reached = network.genome.cost(), ladder.reached[place]
    problem = ladder.problems.get(place)
    finished = place in ladder.finished()
    details = reached[-1].details if reached else {}
    return {
        "name": network_name(cost, network.genome.digest),
        "digest": network.genome.digest,
        "proxy": network.proxy.digest,
        "group": network.group,
        "macs": cost.macs,
        "params": cost.params,
        "resolution": network.genome.resolution,
        "score": network.score,
        "rungs": [
            {
                "steps": found.step,
                "accuracy": found.value,
                "probability": found.details["probability"],
                "goes_on": bool(found.goes_on),
            }
            for found in reached
        ],
        "state": "failed" if problem else "finished" if finished else "stopped",
        "test": details.get("test"),
        "seconds": details.get("seconds", 0.0),
        "problem": problem,
    }
