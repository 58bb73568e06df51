"""The trust card of a run: are networks ordered by their scores as by training each one alone?

Networks are drawn, scored as the search does it, and trained alone, at proxy size and by the recipe
of the supernet. What each of them came to is kept as it is done, so that the command can be stopped
and given again, also with more networks. `evaluator.trust` compares, `results.trust_card` shows.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from commands.alone import (
    Unfit,
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
from commands.finish import keep_training, report_anew
from commands.job import DataSource, Job, make_runner
from commands.promising import FEW_IMAGES, few_images, parts_of, scores_without_training
from commands.search import read_data, read_environment
from evaluator.data import ImageData, Split
from evaluator.trust import BAND, RESAMPLES, Card, Network, block_kinds, make_card
from evaluator.zero_cost import AZ_NAS, score_names
from results.console import CommandLine, Console
from results.run_folder import (
    RunFolder,
    environment,
    write_text,
)
from results.store import Store, network_name
from results.trust_card import show, write_card
from search.networks import NetworkProposals
from search.settings import Settings
from search.workers import one_line
from space.budget import quantity
from space.decisions import Codes
from space.genome import Genome
from space.search_space import Space
from supernet.checkpoints import Checkpoints
from supernet.distributed import Elsewhere
from supernet.training import Diverged, Trainer

FEWEST_NETWORKS = 4
SLICES = 16  # of the range of MACs, over which one half of the networks is spread
TRIES = 8  # draws of `_AT_ONCE` rows for a network that is not there yet
# MACs and parameters are rows of their own; "az_nas" brings its parts.
ZERO_COST = tuple(name for name in score_names() if name not in ("macs", "params", *AZ_NAS))
JOINED = "zero-cost scores, joined"
_AT_ONCE = 32

Outcome = dict[str, Any]


def trust_parser() -> CommandLine:
    parser = CommandLine(
        prog="run_search.py trust",
        description="Checks the scores of a run: trains some networks alone, and says whether the "
        "supernet orders them as that does.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--networks", type=int, default=24, help="how many (default: 24)")
    parser.add_argument("--steps", type=int, help="of each training (default: the supernet's)")
    parser.add_argument("--repeats", type=int, default=1, help="trainings of each (default: 1)")
    parser.add_argument("--workers", type=int, default=1, help="processes that train, on Ray Tune")
    parser.add_argument("--seed", type=int, default=0, help="of the choice and of the trainings")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: the run's)")
    parser.add_argument("--json", action="store_true", help="print the card as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(action=_trust)
    return parser


def _trust(options: argparse.Namespace, console: Console) -> int:
    check(options)
    run = open_run(options.run, options.device, console)
    try:
        options.again = command_of(options, "workers", "device")
        options.kept = "what was trained is kept"
        card = make(run, options, console)
    finally:
        run.trainer.close()
    plain = card.to_plain()
    write_card(run.folder, plain)
    report_again(run)
    console.result({"folder": str(run.folder.path), **plain}, show(run.folder, plain))
    return 0


def check(options: argparse.Namespace) -> None:
    """ValueError where a number is too small."""
    least = {"networks": FEWEST_NETWORKS, "steps": 1, "repeats": 1, "workers": 1, "seed": 0}
    check_least(options, least)


def make(run: OpenRun, options: argparse.Namespace, console: Console) -> Card:
    """Draws, scores and trains the networks, and compares."""
    networks = choose(run, options.networks, options.seed)
    near = sum(network.group == "level" for network in networks)
    console.say(
        f"{len(networks) - near} networks from all over the range of MACs, {near} within "
        f"{BAND:.0%} of {quantity(run.level)}"
    )
    scored = score(run, networks, options.seed, console)
    seeds = [run.job.settings.seed + 1 + options.seed + i for i in range(options.repeats)]
    steps = options.steps or run.job.training.steps
    outcomes = train_alone(run, networks, seeds, steps, options.workers, console)
    figures = [
        _figures(network, found, [outcomes[network.proxy.digest, seed] for seed in seeds])
        for network, found in zip(networks, scored, strict=True)
    ]
    known = {name for network in figures for name in network.zero_cost}
    joined = [name for name in parts_of(ZERO_COST) if name in known]
    return make_card(
        figures,
        run.level,
        seed=options.seed,
        joined={"AZ-NAS": [*parts_of(["az_nas"]), "MACs"], JOINED: joined},
        about=about(run, options, seeds, steps),
    )


def command_of(options: argparse.Namespace, *more: str) -> str:
    """The command line that gives the same card; where it runs is of no account, so that is in
    `more` options only."""
    return command_line("trust", options, ("networks", "steps", "repeats", "seed", *more))


# ---- the run


@dataclass(frozen=True, eq=False)
class OpenRun:
    """A run whose supernet is trained, with all that is needed to look at it again. `settings` are
    the run's own; those of `job` say where this command runs."""

    folder: RunFolder
    settings: Settings
    job: Job
    data: ImageData
    trainer: Trainer

    @cached_property
    def level(self) -> int:
        """MACs near which the second half of the networks is: the budget, or the median of the
        run's candidates where it steers another cost (of the space, where there are none)."""
        if self.at_limit:
            return int(self.job.proposals.limit)
        macs = [row.macs for row in self.rows] if self.folder.database.is_file() else []
        return int(np.median(macs) if macs else self.job.proposals.reachable().median["macs"])

    @property
    def at_limit(self) -> bool:
        """Whether it is MACs that the budget steers towards their limit."""
        return self.job.proposals.target == "macs"

    @cached_property
    def rows(self) -> list[Any]:
        with Store(self.folder.database, readonly=True) as store:
            return store.rows()

    @property
    def proxies(self) -> Space:
        return self.trainer.supernet.space

    @property
    def held_out(self) -> tuple[str, Split]:
        return held_out(self.data)


def open_run(path: Path, device: str | None, console: Console) -> OpenRun:
    """ValueError where `path` is no run, its supernet is not trained to the end, or something is
    not what the run began with."""
    folder, settings, job = open_folder(path, device, console)
    checkpoints = Checkpoints(folder.checkpoints)
    unfinished = f"; go on with: python run_search.py --resume {path}"
    if not checkpoints.paths():
        raise ValueError(f"the supernet of {str(path)!r} is not trained yet{unfinished}")
    data = read_data(job, read_environment(folder), console)
    group = Elsewhere(settings.train_workers) if settings.train_workers > 1 else None
    trainer = job.trainer(data, group)
    trainer.load(checkpoints)
    if trainer.step < trainer.steps:
        raise ValueError(
            f"the supernet of {str(path)!r} is trained for {trainer.step} of {trainer.steps} "
            f"steps{unfinished}"
        )
    for left in folder.alone.glob(".*.partial"):  # of a process that was killed
        left.unlink(missing_ok=True)
    return OpenRun(folder, settings, job, data, trainer)


def about(
    run: OpenRun, options: argparse.Namespace, seeds: Sequence[int], steps: int
) -> dict[str, Any]:
    """What the card is about, as plain data."""
    split, images = run.held_out
    machine = environment(run.job.settings.device)
    del machine["command"]
    settings = run.settings.to_plain()
    del settings["space_definition"]
    return {
        "command": command_of(options),
        "run": run.folder.path.name,
        "space": run.job.space.name,
        "budget": run.job.settings.budget,
        "level": "the budget" if run.at_limit else "the median candidate",
        "split": split,
        "images": len(images),
        "steps": steps,
        "supernet_steps": run.job.training.steps,
        "seeds": list(seeds),
        "settings": settings,
        "recipe": recipe(run.job, steps).to_plain(),
        "zero_cost_images": min(FEW_IMAGES, len(run.data.validation)),
        "resamples": RESAMPLES,
        "data": run.data.digest,
        "environment": machine,
    }


# ---- which networks


@dataclass(frozen=True, slots=True)
class Chosen:
    """A network, the one of the supernet's space that stands for it, and why it was drawn."""

    genome: Genome
    proxy: Genome
    group: str


def choose(run: OpenRun, count: int, seed: int) -> list[Chosen]:
    """`count` different networks inside the budget, with different proxies: by turns one of a slice
    of the range of MACs, and one within `BAND` of the level. A larger `count` adds to a smaller.

    Where the band or a slice has no more, others of the range take their place. ValueError where
    the space has no more.
    """
    space = run.job.space
    if count > space.size:
        raise ValueError(
            f"networks is {count}, but the space {space.name!r} has only {space.size} of them"
        )
    proposals = by_macs(run)
    highest = proposals.limit
    lowest = proposals.reachable().smallest["macs"]
    ends = [(lowest + (highest - lowest) * k / SLICES) / highest for k in range(SLICES + 1)]
    slices = [share for share in pairwise(ends) if proposals.has(*share)]
    slices = [slices[i] for i in _scattered(len(slices))] or [(0.0, 1.0)]
    band = ((1 - BAND) * run.level / highest, min(1.0, (1 + BAND) * run.level / highest))
    level = [band] if proposals.has(*band) else []
    found: list[Chosen] = []
    seen: set[str] = set()
    for i in range(count):
        turn = i // 2
        spread = [*slices[turn % len(slices) :], *slices[: turn % len(slices)], (0.0, 1.0)]
        ranges = [("level", share) for share in level] if i % 2 else []
        ranges += [("spread", share) for share in spread]
        rng = np.random.default_rng([seed, 3, i])
        chosen = next(_unseen(run, proposals, ranges, rng, seen), None)
        if chosen is None:
            raise ValueError(
                f"networks is {count}, but only {len(found)} different ones were found in space "
                f"{space.name!r} inside the budget {run.job.settings.budget!r}"
            )
        seen |= {chosen.genome.digest, chosen.proxy.digest}
        found.append(chosen)
    return found


def by_macs(run: OpenRun) -> NetworkProposals:
    """Proposals whose ranges are of MACs: up to the budget, or to the largest network."""
    job = run.job
    largest = int(job.proposals.reachable().largest["macs"])
    highest = min(largest, job.budget.macs or largest)
    if run.at_limit and highest == job.budget.macs:
        return job.proposals
    budget = dataclasses.replace(job.budget, macs=highest)
    return NetworkProposals(job.space, job.table, budget, job.columns, target="macs")


def _scattered(count: int) -> list[int]:
    """0 to count - 1 so that the first few already lie far apart: in the order of van der Corput's
    sequence."""
    width = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda i: int(f"{i:0{width}b}"[::-1], 2))


def _unseen(
    run: OpenRun,
    proposals: NetworkProposals,
    ranges: Sequence[tuple[str, tuple[float, float]]],
    rng: np.random.Generator,
    seen: set[str],
) -> Iterator[Chosen]:
    """Networks of the first range that has any which is not there yet, then of the next."""
    for group, (low, high) in ranges:
        for _ in range(TRIES):
            rows: Codes = proposals.sample(rng, _AT_ONCE, low, high)
            for row in rows:
                genome, proxy = run.job.space.decode(row), run.proxies.decode(row)
                if not {genome.digest, proxy.digest} & seen:
                    yield Chosen(genome, proxy, group)


# ---- scores


@dataclass(frozen=True, slots=True)
class Scored:
    """What is known of a network without training it."""

    score: float | None
    zero_cost: Mapping[str, float]
    error: str | None


def score(run: OpenRun, networks: Sequence[Chosen], seed: int, console: Console) -> list[Scored]:
    """The supernet's scores, by what the search scores with, and the zero-cost ones of the proxies
    on some validation images."""
    runner = make_runner(run.job, run.trainer, run.data)
    images, labels = few_images(run.data)
    found = []
    with console.progress("scoring networks", len(networks)) as meter:
        for i, network in enumerate(networks):
            (outcome,) = runner.run([network.genome])
            value = None if outcome.score is None else outcome.score.score
            others = scores_without_training(network.proxy, ZERO_COST, images, labels, seed)
            found.append(Scored(value, others, outcome.error))
            meter.update(i + 1)
    runner.close()
    return found


# ---- training alone


class AloneWork:
    """Trains proxies alone. A piece of work has a `genome` as JSON, a `seed` and `steps`; what
    comes of it `accuracy` and `probability` (mean of the true class) on held-out images, or a
    `problem`, and `seconds`."""

    def __init__(self, job: Job, data: ImageData):
        self._job, self._data = job, data

    def __call__(
        self,
        piece: Mapping[str, Any],
        progress: Callable[[int, int, float], None] | None = None,
    ) -> Outcome:
        begun = time.perf_counter()
        genome = Genome.from_json(piece["genome"])
        trainer = alone_trainer(
            self._job, self._data, genome, seed=piece["seed"], steps=piece["steps"]
        )
        try:
            trainer.run(progress=progress)
            seen = look(trainer, self._data, held_out(self._data)[1])
            found: Outcome = {"accuracy": seen.details["top1"], "probability": seen.score}
        except (Diverged, Unfit) as error:
            found = {"problem": str(error)}
        finally:
            trainer.close()
        return {**found, "seconds": time.perf_counter() - begun}


def train_alone(
    run: OpenRun,
    networks: Sequence[Chosen],
    seeds: Sequence[int],
    steps: int,
    workers: int,
    console: Console,
) -> dict[tuple[str, int], Outcome]:
    """What came of training each network with each seed, by its proxy's digest and the seed; what
    was done before is read, the rest is kept as it is done."""
    kept = Kept(run, steps)
    done: dict[tuple[str, int], Outcome] = {}
    left: list[tuple[Chosen, int]] = []
    for seed in seeds:
        for network in networks:
            found = kept.read(network, seed)
            if found is None:
                left.append((network, seed))
            else:
                done[network.proxy.digest, seed] = found
    pieces = [{"genome": n.proxy.to_json(), "seed": seed, "steps": steps} for n, seed in left]
    total, before = steps * len(networks) * len(seeds), steps * len(done)
    finished = 0

    def take(place: int, outcome: Mapping[str, Any] | None, error: str | None) -> None:
        nonlocal finished
        network, seed = left[place]
        if outcome is not None:  # else something outside went wrong, and may not do so again
            kept.write(network, seed, outcome)
        found = dict(outcome) if outcome is not None else {"problem": error, "seconds": 0.0}
        done[network.proxy.digest, seed] = found
        finished += 1
        meter.update(before + steps * finished, _note(found))

    with console.progress("training networks alone, steps", total, before) as meter:
        if workers > 1 and len(pieces) > 1:
            train_by_tune(run, pieces, workers, take)
            return done
        work = AloneWork(run.job, run.data)
        for place, piece in enumerate(pieces):
            note = f"network {len(done) + 1} of {len(networks) * len(seeds)}"

            def step(now: int, _: int, loss: float, note: str = note) -> None:
                if now < steps:
                    meter.update(before + steps * finished + now, f"{note}, loss {loss:.3f}")

            try:
                outcome = work(piece, step)
            except Exception as error:  # such as memory that is full
                take(place, None, one_line(error))
            else:
                take(place, outcome, None)
    return done


def _note(outcome: Mapping[str, Any]) -> str:
    return "failed" if "problem" in outcome else f"accuracy {outcome['accuracy']:.1%}"


class Kept:
    """The files of what was trained for a run, one for each network, seed and number of steps.

    One of another recipe, other images or another format is not looked at.
    """

    def __init__(self, run: OpenRun, steps: int):
        self._folder, self._steps = run.folder.alone, steps
        self._of = {
            "recipe": recipe(run.job, steps).to_plain(),
            "data": run.data.digest,
            "split": run.held_out[0],
        }

    def path(self, network: Chosen, seed: int) -> Path:
        return self._folder / f"{network.proxy.digest}-{self._steps}-{seed}.json"

    def read(self, network: Chosen, seed: int) -> Outcome | None:
        try:
            found = json.loads(self.path(network, seed).read_text(encoding="utf-8"))
            outcome = found["outcome"]
            numbers = [outcome["seconds"]]
            if "problem" not in outcome:
                numbers += [outcome["accuracy"], outcome["probability"]]
            sound = all(math.isfinite(number) for number in numbers)
            return outcome if sound and found["of"] == self._of else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, network: Chosen, seed: int, outcome: Mapping[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        content = {"of": self._of, "outcome": dict(outcome), "network": network.genome.to_json()}
        write_text(self.path(network, seed), json.dumps(content, indent=2) + "\n")


# ---- by Ray Tune


def train_by_tune(
    run: OpenRun,
    pieces: Sequence[Mapping[str, Any]],
    workers: int,
    take: Callable[[int, Mapping[str, Any] | None, str | None], None],
) -> None:
    """The same as trials of Ray Tune. Images that are resident go to the workers through Ray's
    object store; those that are streamed each worker reads itself."""
    from search.ray_trials import run_trials  # Ray is wanted by nobody else

    settings = run.job.settings
    facts, shared = shared_images(run.data, dict([run.held_out]))
    try:
        run_trials(
            "commands.trust:make_work",
            {"plain": settings.to_plain(), "facts": facts},
            shared,
            pieces,
            workers=min(workers, len(pieces)),
            threads=settings.threads,
            taken=take,
        )
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def make_work(
    *, plain: Mapping[str, Any], facts: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> AloneWork:
    """What a worker process trains with, from plain settings and shared tensors."""
    settings = Settings.from_plain(plain)
    return AloneWork(Job(settings), received_images(DataSource.of(settings), facts, tensors))


# ---- what comes of it


def _figures(network: Chosen, scored: Scored, outcomes: Sequence[Outcome]) -> Network:
    cost = network.genome.cost()
    kinds, main_kind = block_kinds(network.genome)
    problems = [outcome["problem"] for outcome in outcomes if "problem" in outcome]
    good = [outcome for outcome in outcomes if "problem" not in outcome]
    return Network(
        name=network_name(cost, network.genome.digest),
        digest=network.genome.digest,
        proxy=network.proxy.digest,
        group=network.group,
        macs=cost.macs,
        params=cost.params,
        kinds=kinds,
        main_kind=main_kind,
        score=scored.score,
        accuracies=tuple(outcome["accuracy"] for outcome in good),
        probabilities=tuple(outcome["probability"] for outcome in good),
        zero_cost=scored.zero_cost,
        seconds=sum(outcome["seconds"] for outcome in outcomes),
        problem=scored.error or (problems[0] if problems else None),
    )


def report_again(run: OpenRun) -> None:
    """Writes the report with the card in it, if the run has come so far as to have one."""
    keep_training(run.folder, run.trainer)
    report_anew(run.folder, run.job, run.settings)
