"""The end of a search under a latency budget: what was predicted is measured.

Every network of the front is measured as it is exported. One that takes longer than the budget
allows is not reported as within it, whatever was predicted, and the search goes on to replace it,
with predictions corrected by what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import nn

from commands.job import Job
from commands.latency import kept_facts
from commands.scoring import look_for
from evaluator.data import ImageData
from evaluator.interleaved import Timing, TooNoisy
from evaluator.latency import Anchor, measure
from evaluator.latency_profile import difference
from evaluator.runtimes import Runtime, input_shape, make_runtime
from results.console import Console
from results.history import Row
from results.run_folder import RunFolder, best_at_budget, front_of, write_text
from results.store import Evaluated, Store
from search.controllers import make_controller
from search.networks import CostColumn, NetworkProposals
from search.problem import Floats, Trial
from search.proposals import BAND
from space.budget import LATENCY, MeasuredLimit
from space.decisions import Codes
from space.genome import Genome
from supernet.training import Trainer

ROUNDS = 3  # times that a search goes on because networks were over the budget
SHARE = 0.1  # of the evaluations, that each of these times takes
ORIGIN = "replacement"  # what candidates of these times are said to be from
LARGEST = 1.25  # by which predictions are corrected at most


@dataclass
class Measurements:
    """What was measured of the networks of a run: by digest and column, as `Timing`; and why not,
    where something was not measured."""

    path: Path
    networks: dict[str, dict[str, Timing]] = field(default_factory=dict)
    rounds: int = 0
    unmeasured: str = ""

    @classmethod
    def read(cls, path: Path) -> Measurements:
        """Those in a file; none where there is no file."""
        if not path.is_file():
            return cls(path)
        plain = json.loads(path.read_text(encoding="utf-8"))
        networks = {
            digest: {column: Timing(**timing) for column, timing in found.items()}
            for digest, found in plain["networks"].items()
        }
        return cls(path, networks, plain["rounds"], plain["unmeasured"])

    def save(self) -> None:
        plain = asdict(self)
        del plain["path"]
        write_text(self.path, json.dumps(plain, indent=1) + "\n")

    def of(self, row: Row, column: str) -> Timing | None:
        return self.networks.get(row.digest, {}).get(column)

    def add(self, column: str, found: Mapping[str, Timing]) -> None:
        for digest, timing in found.items():
            self.networks.setdefault(digest, {})[column] = timing
        self.save()

    def ms(self) -> dict[str, dict[str, float]]:
        """Milliseconds by digest and column."""
        return {
            digest: {column: timing.ms for column, timing in found.items()}
            for digest, found in self.networks.items()
        }

    def over(self, row: Row, limits: Iterable[MeasuredLimit]) -> bool:
        """Whether the network was measured above one of the limits."""
        found = [(limit, self.of(row, limit.column)) for limit in limits]
        return any(timing is not None and timing.ms > limit.limit for limit, timing in found)


def settle(
    folder: RunFolder, job: Job, trainer: Trainer, data: ImageData, console: Console
) -> Measurements:
    """Measures the front until every network of it is within what the budget says of devices that
    are at hand, or the search has gone on `ROUNDS` times."""
    known = Measurements.read(folder.measured)
    limits = latency_limits(job)
    if not limits:
        return known
    while True:
        try:
            over = _measure_front(folder, job, known, limits, console)
        except (TooNoisy, ValueError) as error:
            known.unmeasured = str(error)
            known.save()
            console.say(f"latencies were not all measured: {error}")
            return known
        if not over or known.rounds >= ROUNDS:
            known.unmeasured = ""
            known.save()
            return known
        _search_on(folder, job, trainer, data, known, console)
        known.rounds += 1
        known.save()


def latency_limits(job: Job) -> list[MeasuredLimit]:
    """Limits on latency that can be measured here: those that name no file."""
    return [
        limit
        for limit in job.budget.measured
        if limit.kind == LATENCY and limit.device is not None and limit.device.profile is None
    ]


def within(rows: Sequence[Row], known: Measurements, limits: Sequence[MeasuredLimit]) -> list[Row]:
    """The rows that are not known to be over the budget."""
    return [row for row in rows if not known.over(row, limits)]


def _measure_front(
    folder: RunFolder,
    job: Job,
    known: Measurements,
    limits: Sequence[MeasuredLimit],
    console: Console,
) -> list[Row]:
    """Measures what is on the front and what comes onto it where others drop out; those that were
    found to be over the budget now."""
    proposals, found = job.proposals, list[Row]()
    while True:
        with Store(folder.database, readonly=True) as store:
            rows = within(store.rows(), known, limits)
        front = front_of(rows, proposals.objectives)
        best = best_at_budget(rows, proposals.target, proposals.limit, BAND)
        wanted = {row.digest: row for row in [*front, *([best] if best else [])]}
        todo = {
            limit: [row for row in wanted.values() if known.of(row, limit.column) is None]
            for limit in limits
        }
        if not any(todo.values()):
            return found
        for limit, missing in todo.items():
            if missing:
                measure_rows(folder, limit, missing, known, console)
        found += [row for row in wanted.values() if known.over(row, limits)]


def measure_rows(
    folder: RunFolder,
    limit: MeasuredLimit,
    rows: Sequence[Row],
    known: Measurements,
    console: Console,
) -> None:
    """Measures networks as they are exported, on the device of `limit`. TooNoisy, or ValueError
    where the device is not here."""
    assert limit.device is not None
    runtime = make_runtime(limit.device)
    with TemporaryDirectory(prefix="chimera-") as aside:
        networks = {
            row.digest: partial(_exported, Genome.from_json(row.genome), Path(aside) / row.digest)
            for row in rows
        }
        batch = runtime.device.batch
        shapes = {row.digest: input_shape(Genome.from_json(row.genome), batch) for row in rows}
        title = f"measuring {len(rows)} exported networks on {limit.device.name}"
        with console.progress(title, 1) as meter:
            found = measure(
                runtime,
                networks,
                shapes,
                _anchor(folder, runtime, limit),
                progress=lambda done, total: meter.update(done, total=total),
            )
    known.add(limit.column, found)


def _anchor(folder: RunFolder, runtime: Runtime, limit: MeasuredLimit) -> Anchor:
    """The profile's own, so that milliseconds mean the same now as then."""
    assert limit.device is not None
    facts = kept_facts(folder.profiles, limit.device)
    assert facts is not None, "a search under a latency budget keeps what it goes by"
    differs = difference(facts["environment"], runtime.environment())
    if differs:
        raise ValueError(f"{limit.device.name} was profiled with {differs}")
    genome = Genome.from_json(facts["anchor"])
    return Anchor(
        runtime.fresh(genome), input_shape(genome, runtime.device.batch), facts["anchor_ms"]
    )


def _exported(genome: Genome, place: Path) -> nn.Module:
    """The network that the exported source makes."""
    from results.export import load_module
    from results.model_file import model_source

    place.mkdir(exist_ok=True)
    path = place / "model.py"
    path.write_text(model_source(genome, genome.digest), encoding="utf-8")
    network: nn.Module = load_module(path).model()
    return network


# ---- going on


@dataclass(frozen=True)
class Corrected:
    """A column whose predictions were found to be too small by a factor."""

    column: CostColumn
    factor: float

    @property
    def name(self) -> str:
        return self.column.name

    def __call__(self, codes: Codes) -> Floats:
        return self.column(codes) * self.factor


class _Onwards:
    """A store as the log of a search that begins anew behind what it holds."""

    def __init__(self, store: Store):
        self._store = store

    def statuses(self) -> list[str]:
        return self._store.statuses()

    def state(self) -> bytes | None:
        return None

    def append(self, results: Sequence[Evaluated], origin: str, state: Callable[[], bytes]) -> None:
        self._store.append(results, origin, state)


def _search_on(
    folder: RunFolder,
    job: Job,
    trainer: Trainer,
    data: ImageData,
    known: Measurements,
    console: Console,
) -> None:
    """Has the controller propose more networks, within limits that make up for what predictions
    missed. A search that was stopped here begins this anew, behind the candidates that it has."""
    settings = job.settings
    with Store(folder.database, readonly=True) as store:
        over = [row for row in store.rows() if known.over(row, latency_limits(job))]
    columns = [Corrected(c, correction(job, c, over, known)) for c in job.columns]
    said = " and ".join(f"{c.factor - 1:.1%} on {c.name}" for c in columns if c.factor > 1)
    console.say(
        f"{len(over)} networks measured above the budget; the search goes on to replace them, with "
        f"predictions raised by {said}"
    )
    own = job.proposals
    proposals = NetworkProposals(
        job.space, job.table, job.budget, columns, objectives=own.objectives[1:], target=own.target
    )
    with Store(folder.database) as store:
        rows = store.rows()
        controller = make_controller(job.controller, proposals, settings.seed + len(rows))
        controller.tell(
            [
                Trial(
                    tuple(job.space.encode(Genome.from_json(row.genome)).tolist()),
                    None if row.score is None else (row.score,),
                )
                for row in rows
            ]
        )
        wanted = len(rows) + max(1, round(SHARE * settings.evaluations))
        look_for(
            *(job, trainer, data, store, controller, proposals, console),
            what="scoring replacements",
            origin=ORIGIN,
            evaluations=wanted,
            log=_Onwards(store),
        )


def correction(job: Job, column: CostColumn, over: Sequence[Row], known: Measurements) -> float:
    """What predictions have to be multiplied by, 1 or more: by what those of networks that were
    over the budget missed, in the median, and from time to time a higher quantile of it."""
    rows = [row for row in over if known.of(row, column.name) is not None]
    if not rows:
        return 1.0
    genomes = [Genome.from_json(row.genome) for row in rows]
    predicted = column(np.stack([job.space.encode(genome) for genome in genomes]))
    ratios = [
        known.networks[r.digest][column.name].ms / p for r, p in zip(rows, predicted, strict=True)
    ]
    quantile = 0.5 + 0.5 * known.rounds / max(1, ROUNDS - 1)
    return float(np.clip(np.quantile(ratios, min(1.0, quantile)), 1.0, LARGEST))


# ---- what a report says


def report_of(
    folder: RunFolder, job: Job, known: Measurements, rows: Sequence[Row]
) -> dict[str, Any]:
    """`Run.latencies`: what is limited, how well it was predicted, and what was measured."""
    limits = [limit for limit in job.budget.measured if limit.kind == LATENCY]
    if not limits:
        return {}
    return {
        "devices": [_device(folder, limit) for limit in limits],
        "networks": [
            {
                "digest": row.digest,
                "name": row.name,
                "column": limit.column,
                "predicted": row.cost(limit.column),
                **asdict(timing),
                "limit": limit.limit,
                "within": timing.ms <= limit.limit,
            }
            for row in rows
            for limit in limits
            if (timing := known.of(row, limit.column)) is not None
        ],
        "unmeasured": known.unmeasured,
    }


def _device(folder: RunFolder, limit: MeasuredLimit) -> dict[str, Any]:
    facts = None if limit.device is None else kept_facts(folder.profiles, limit.device)
    accuracy = None if facts is None else facts["accuracy"]
    return {"column": limit.column, "limit": limit.limit, "accuracy": accuracy}
