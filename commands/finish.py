"""The end of a run: front, exported networks, report, and what is said of them."""

from __future__ import annotations

import copy
import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from commands.job import CALIBRATION_IMAGES, SCORE_MEANING, Job
from commands.options import preset_facts
from commands.settle import Measurements, latency_limits, report_of, within
from evaluator.data import ImageData
from results import similarity
from results.console import Console, table
from results.finalists import read_outcome
from results.history import Row, Run
from results.latencies import by_device
from results.run_folder import (
    RunFolder,
    best_at_budget,
    front_of,
    write_text,
)
from results.store import Store
from results.trust_card import read_card, verdict
from search.networks import Reachable
from search.proposals import BAND
from search.settings import Settings
from space.budget import cost_figure, cost_text, cost_title, quantity
from space.genome import Genome
from space.presets import presets
from supernet.augmentation import normalise
from supernet.training import Trainer

CURVE_POINTS = 200  # of the loss, about, that are kept


def finish(
    folder: RunFolder,
    job: Job,
    trainer: Trainer,
    data: ImageData,
    console: Console,
) -> int:
    """Exports the best, writes front and report, and says where everything is."""
    from results.export import export_network, safe_name  # these two bring what draws and writes
    from results.report import write_report

    with Store(folder.database, readonly=True) as store:
        rows = store.rows()
    proposals = job.proposals
    known = Measurements.read(folder.measured)
    inside = within(rows, known, latency_limits(job))
    front = front_of(inside, proposals.objectives)
    best = best_at_budget(inside, proposals.target, proposals.limit, BAND)
    folder.write_front(front, best, proposals.cost_names, known.ms())
    chosen = to_export(front, best, job.settings.exports)
    with console.progress("exporting networks", len(chosen)) as meter:
        for i, row in enumerate(chosen):
            genome = Genome.from_json(row.genome)
            export_network(
                genome,
                folder.architectures / safe_name(row.name),
                name=row.name,
                facts=facts_of(row, job, folder) | latency_facts(row, job, known),
                state=own_weights(genome, job, trainer, data),
                formats=("onnx",) if job.settings.onnx else (),
            )
            meter.update(i + 1)
    keep_training(folder, trainer)
    run = make_run(folder, job, rows, front, best, proposals.reachable())
    write_report(folder.report, run, plots=folder.plots)
    measured = by_device(run.latencies)
    console.result(
        summary(folder, job, rows, front, best, chosen) | {"latencies": run.latencies},
        [
            *show(folder, job, rows, best, chosen),
            *(f"{d['title']}: {d['sentence']}" for d in measured),
        ],
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


def own_weights(
    genome: Genome, job: Job, trainer: Trainer, data: ImageData
) -> dict[str, Tensor] | None:
    """The network's weights, where the supernet was trained at the network's own size."""
    supernet = trainer.supernet
    if not job.at_own_scale or genome.classes != supernet.space.classes:
        return None
    proxy = supernet.space.decode(job.space.encode(genome))
    seen = data.train.sample(CALIBRATION_IMAGES).to(supernet.device)
    buffers = supernet.calibrate(proxy, [normalise(seen, data.mean, data.std)])
    return {name: weight.cpu() for name, weight in supernet.state_of(proxy, buffers).items()}


def facts_of(row: Row, job: Job, folder: RunFolder) -> dict[str, str]:
    """What an exported network says of where it comes from."""
    return {
        "search": f"run {folder.path.name}, space {job.space.name}, budget {job.settings.budget}",
        "score": f"{row.score:.4f} ({SCORE_MEANING})",
        "command": f"python run_search.py --config {folder.config}",
    }


def latency_facts(row: Row, job: Job, known: Measurements) -> dict[str, str]:
    """What an exported network says of its latency, where that was measured."""
    found = [(limit.column, known.of(row, limit.column)) for limit in latency_limits(job)]
    said = [cost_text(name, timing.ms) for name, timing in found if timing is not None]
    return {"latency": f"{' and '.join(said)}, measured as exported"} if said else {}


def keep_training(folder: RunFolder, trainer: Trainer) -> None:
    """Notes how the training went: what a report shows of it, without the weights."""
    step = max(1, len(trainer.losses) // CURVE_POINTS)
    curve = [
        {"step": i + 1, "loss": loss, "seconds": None}
        for i, loss in enumerate(trainer.losses)
        if i % step == 0 or i + 1 == len(trainer.losses)
    ]
    content = {"curve": curve, "probes": trainer.probes}
    write_text(folder.training, json.dumps(content, indent=2) + "\n")


def make_run(
    folder: RunFolder,
    job: Job,
    rows: Sequence[Row],
    front: Sequence[Row],
    best: Row | None,
    reachable: Reachable,
) -> Run:
    """The run as the report wants it, from what is in its folder."""
    settings = job.settings.to_plain()
    definition = settings.pop("space_definition")
    settings["controller"] = job.controller
    about = json.loads(folder.environment.read_text(encoding="utf-8"))
    training = json.loads(folder.training.read_text(encoding="utf-8"))
    by_chance: list[Row] = []
    if folder.by_chance.is_file():
        with Store(folder.by_chance, readonly=True) as store:
            by_chance = store.rows()
    accuracies = json.loads(folder.supernet_facts.read_text(encoding="utf-8"))
    return Run(
        name=folder.path.name,
        settings=settings,
        environment={k: v for k, v in about.items() if k != "command"},
        rows=rows,
        front=[row.digest for row in front],
        best=None if best is None else best.digest,
        budget={**job.budget.limits(), "text": job.settings.budget},
        presets=[preset_facts(name) for name in presets()],
        space_summary={
            "name": job.space.name,
            "about": definition.get("about", ""),
            "size": job.space.size,
            "smallest": reachable.smallest["macs"],
            "median": reachable.median["macs"],
            "largest": reachable.largest["macs"],
        },
        supernet={**training, "accuracies": accuracies},
        command=about["command"],
        by_chance=by_chance,
        latencies=report_of(folder, job, Measurements.read(folder.measured), rows),
        trust=read_card(folder),
        trust_command=trust_command(folder),
        similarity=similarity.read(folder),
        finalists=read_outcome(folder),
        folder=str(folder.path),
        exported=exported(folder, [*front, *([best] if best else [])]),
        evaluations=job.settings.evaluations,
        target=job.proposals.target,
        objectives=job.proposals.objectives,
    )


def exported(folder: RunFolder, rows: Sequence[Row]) -> Mapping[str, str]:
    """Where the rows that were exported are, beside the report, by digest."""
    from results.export import safe_name

    places = {row.digest: folder.architectures / safe_name(row.name) for row in rows}
    return {
        digest: str(place.relative_to(folder.path))
        for digest, place in places.items()
        if (place / "model.py").is_file()
    }


def report_anew(
    folder: RunFolder,
    job: Job,
    settings: Settings,
    rows: Sequence[Row] | None = None,
    *,
    finished: bool | None = None,
) -> None:
    """Writes the report anew, with what has come to the folder since, if the run has come so far as
    to have one. `settings` are the run's own, where those of `job` say where this command runs. A
    run is `finished` where it has all its evaluations, unless the caller knows better; before, its
    charts are not drawn to files."""
    from results.report import write_report  # brings what draws and writes

    if not folder.database.is_file() or not folder.training.is_file():
        return
    if rows is None:
        with Store(folder.database, readonly=True) as store:
            rows = store.rows()
    own = copy.copy(job)
    own.settings = settings
    proposals = own.proposals
    inside = within(rows, Measurements.read(folder.measured), latency_limits(own))
    best = best_at_budget(inside, proposals.target, proposals.limit, BAND)
    front = front_of(inside, proposals.objectives)
    made = make_run(folder, own, rows, front, best, proposals.reachable())
    if finished is None:
        finished = len(rows) >= settings.evaluations
    write_report(
        folder.report,
        dataclasses.replace(made, finished=finished),
        plots=folder.plots if finished else None,
    )


def trust_command(folder: RunFolder) -> str:
    """What checks the scores of a run."""
    return f"python run_search.py trust {shlex.quote(str(folder.path))}"


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
        names = ("name", "digest", "score", "macs", "params", "resolution", "costs")
        return {name: values[name] for name in names}

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
    proposals = job.proposals
    others = [name for name in proposals.cost_names if name not in ("macs", "params")]
    columns = ["network", "score", "MACs", "FLOPs (2 per MAC)", "of budget", "params"]
    cells = [
        [
            row.name,
            f"{row.score:.4f}",
            quantity(row.macs),
            quantity(2 * row.macs),
            f"{row.cost(proposals.target) / proposals.limit:.1%}",
            quantity(row.params),
            *(cost_figure(name, row.cost(name)) for name in others),
            "best at the budget" if row is best else "on the front",
        ]
        for row in chosen
    ]
    columns += [*map(cost_title, others), ""]
    shown = [
        table("", columns, cells),
        f"Score: {SCORE_MEANING}.",
        _trusted(folder),
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


def _trusted(folder: RunFolder) -> str:
    """How far to trust the scores, in a sentence."""
    card = read_card(folder)
    if card is not None:
        return verdict(card)
    return (
        "Nobody has checked yet how well scores rank trained networks; this does: "
        f"{trust_command(folder)}"
    )
