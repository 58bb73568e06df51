"""Runs side by side: whether they can be compared, and what comes of it, for programs and people.

Everything is read from the runs' folders as plain data, so that runs of older versions, with
operators that are no longer there, can be compared as well.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from results.console import table
from results.figures import finite, flat, score
from results.growth import growth
from results.history import Row
from results.run_folder import FRONT, RunFolder, best_at_budget, front_of, read_yaml
from results.store import Store
from results.view import BAND, positive
from space.budget import Budget, cost_title
from space.objectives import SCORE

# Settings by which a supernet, and so the scores, come out as they do.
_OF_SUPERNETS = ("space_definition", "training", "seed", "limit", "train_workers")
_OF_SCORES = ("classes", "proxy_width", "proxy_resolution")
_SHARED = 12  # networks in both that are listed


@dataclass(frozen=True)
class Compared:
    """One of the runs: its `label` on the page, its settings and environment as they were written,
    its candidates, limits and objectives, its front, and its best network."""

    label: str
    path: Path
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    rows: Sequence[Row]
    limits: Mapping[str, float]
    objectives: tuple[str, ...]
    front: Sequence[Row]
    best: Row | None

    @property
    def scored(self) -> list[Row]:
        return [row for row in self.rows if finite(row.score) is not None]

    def knows(self, cost: str) -> bool:
        return cost in ("macs", "params") or all(cost in row.costs for row in self.rows)


def read_runs(paths: Sequence[Path]) -> list[Compared]:
    """ValueError where one is no run, or cannot be read, or the same one stands there twice."""
    places = [path.resolve() for path in paths]
    for path in paths:
        if places.count(path.resolve()) > 1:
            raise ValueError(f"run {str(path)!r} is named twice; compare it with another")
    names = [path.resolve().name for path in paths]
    labels = [
        str(path) if names.count(name) > 1 else name
        for path, name in zip(paths, names, strict=True)
    ]
    return [_read(path, label) for path, label in zip(paths, labels, strict=True)]


def _read(path: Path, label: str) -> Compared:
    folder = RunFolder(path)
    if not folder.config.is_file() or not folder.environment.is_file():
        missing = "config.yaml" if not folder.config.is_file() else "environment.json"
        raise ValueError(f"{str(path)!r} is not a run folder: it has no {missing}")
    folder.check_format()
    settings = read_yaml(folder.config, "config")
    if not isinstance(settings, dict) or "budget" not in settings:
        raise ValueError(f"{folder.config} does not hold the settings of a run")
    about = json.loads(folder.environment.read_text(encoding="utf-8"))
    with Store(folder.database, readonly=True) as store:
        rows = store.rows()
    limits = Budget.parse(
        settings["budget"], flops_per_mac=settings.get("flops_per_mac", 1)
    ).limits()
    target = next(iter(positive(limits)), "macs")
    objectives = tuple(settings.get("objectives") or ()) or (SCORE, target)
    known = {row.digest: row for row in reversed(rows)}
    noted = _noted_front(folder)
    front = [known[digest] for digest in noted if digest in known]
    best = next((known[d] for d, is_best in noted.items() if is_best and d in known), None)
    if not noted:
        try:
            front = front_of(rows, objectives)
        except ValueError:  # an older run, which did not keep such a cost
            front = front_of(rows)
    kept = all(target in ("macs", "params", *row.costs) for row in rows)
    if best is None and target in limits and kept:  # it need not be on the front
        best = best_at_budget(rows, target, limits[target], BAND)
    return Compared(label, path, settings, about, rows, limits, objectives, front, best)


def _noted_front(folder: RunFolder) -> dict[str, bool]:
    """What the run itself says is its front, and which of it is the best; empty before its end."""
    try:
        with folder.front.open(encoding="utf-8", newline="") as file:
            return {line["hash"]: line["best"] == "yes" for line in csv.DictReader(file)}
    except (OSError, KeyError, csv.Error):
        return {}


# ---- whether they can be compared


def check_comparable(runs: Sequence[Compared]) -> None:
    """ValueError, with every reason, where scores of the runs do not mean the same."""
    reasons = []
    for run in runs:
        if not run.scored:
            reasons.append(f"{run.label} has no candidate with a score")
    # Runs of older versions note one digest, of all images.
    noted = all("validation" in run.environment for run in runs)
    key, which = ("validation", "validation images") if noted else ("data", "images")
    if len({run.environment.get(key) for run in runs}) > 1:
        said = (
            f"{run.label}: {run.settings.get('data', 'digits')!r} "
            f"(digest {str(run.environment.get(key))[:12]})"
            for run in runs
        )
        reasons.append(f"their {which} differ ({', '.join(said)})")
    for name in _OF_SCORES:
        if len({run.settings.get(name) for run in runs}) > 1:
            said = (f"{run.label}: {run.settings.get(name)}" for run in runs)
            reasons.append(f"{name} differs ({', '.join(said)})")
    if reasons:
        raise ValueError(
            f"these runs cannot be compared: {'; '.join(reasons)}. Scores compare networks only "
            "where images, classes and the size of the proxy are the same"
        )


def cautions(runs: Sequence[Compared]) -> list[str]:
    """What a reader has to know of runs that can be compared."""
    said = []
    other = [
        name
        for name in _OF_SUPERNETS
        if len({json.dumps(run.settings.get(name), sort_keys=True) for run in runs}) > 1
    ]
    if len({run.environment.get("data") for run in runs}) > 1:
        other.append("training images")
    if other:
        names = ", ".join(name.replace("_definition", "").replace("_", " ") for name in other)
        said.append(
            f"Each run scored with a supernet of its own, and these differ in {names}: a "
            "difference of scores is one of networks and of supernets. run_search.py trust and "
            "run_search.py finalists train networks alone, which settles it."
        )
    else:
        said.append("The supernets were trained alike, so that scores mean the same in each run.")
    if len({json.dumps(dict(run.limits), sort_keys=True) for run in runs}) > 1:
        said.append(
            "Their budgets differ; hypervolumes reach up to the smaller limit of each cost."
        )
    if len({run.objectives for run in runs}) > 1:
        said.append("Their objectives differ; fronts are compared by those named here.")
    counts = {len(run.rows) for run in runs}
    if len(counts) > 1:
        said.append(
            f"They have {' and '.join(f'{n:,}' for n in sorted(counts))} evaluations; what is "
            f"compared at equal evaluations is compared at {min(counts):,}."
        )
    return said


# ---- what comes of it


def compare(runs: Sequence[Compared], objectives: Sequence[str] = ()) -> dict[str, Any]:
    """The comparison as plain data. `objectives` are those of the hypervolume; none: the first
    run's, as far as all runs know them. ValueError where one is unknown."""
    check_comparable(runs)
    wanted = tuple(objectives) or common_objectives(runs)
    for name in wanted:
        for run in runs:
            if name != SCORE and not run.knows(name):
                raise ValueError(
                    f"objectives name {name!r}, which the candidates of {run.label} do not have"
                )
    if SCORE not in wanted or len(wanted) < 2:
        raise ValueError(f"objectives are {', '.join(wanted)!r}, but must be score and some cost")
    limits = _smaller_limits(runs)
    target = next((name for name in wanted if name in limits), "macs")
    same = min(len(run.rows) for run in runs)
    equal = growth({run.label: run.rows[:same] for run in runs}, limits, target, BAND, wanted)
    whole = growth({run.label: run.rows for run in runs}, limits, target, BAND, wanted)
    shared = _shared(runs)
    return {
        "runs": [
            {
                "label": run.label,
                "folder": str(run.path),
                "budget": run.settings["budget"],
                "controller": run.settings.get("controller"),
                "space": (run.settings.get("space_definition") or {}).get("name")
                or run.settings.get("space"),
                "seed": run.settings.get("seed"),
                "evaluated": len(run.rows),
                "failed": len(run.rows) - len(run.scored),
                "front": len(run.front),
                "best": None if run.best is None else _facts(run.best),
                "at_equal": {
                    key: equal["final"].get(run.label, {}).get(key)
                    for key in ("n", "best", "volume")
                },
            }
            for run in runs
        ],
        "objectives": list(wanted),
        "equal_evaluations": same,
        "cautions": cautions(runs),
        "shared": shared,
        "settings": settings_that_differ(runs),
        "growth": whole["curves"],
    }


def common_objectives(runs: Sequence[Compared]) -> tuple[str, ...]:
    found = tuple(
        name for name in runs[0].objectives if name == SCORE or all(r.knows(name) for r in runs)
    )
    return found if len(found) > 1 else FRONT


def _smaller_limits(runs: Sequence[Compared]) -> dict[str, float]:
    """Of each cost that all runs limit."""
    names = [name for name in positive(runs[0].limits) if all(name in r.limits for r in runs)]
    return {name: min(run.limits[name] for run in runs) for name in names}


def _facts(row: Row) -> dict[str, Any]:
    names = ("name", "digest", "score", "macs", "params", "resolution")
    return {name: getattr(row, name) for name in names} | {"costs": dict(row.costs)}


def _shared(runs: Sequence[Compared]) -> dict[str, Any]:
    """Networks that more than one run has scored: how many, the best of them with their scores, and
    for each two runs how far their scores agree."""
    scores = [{row.digest: row for row in reversed(run.scored)} for run in runs]
    counts: dict[str, int] = {}
    for found in scores:
        for digest in found:
            counts[digest] = counts.get(digest, 0) + 1
    several = [digest for digest, count in counts.items() if count > 1]
    several.sort(key=lambda d: -max(f[d].score or 0.0 for f in scores if d in f))

    def name(digest: str) -> str:
        return next(found[digest].name for found in scores if digest in found)

    return {
        "count": len(several),
        "networks": [
            {
                "name": name(digest),
                "digest": digest,
                "scores": [f[digest].score if digest in f else None for f in scores],
            }
            for digest in several[:_SHARED]
        ],
        "on_both_fronts": [
            {"name": name(digest), "digest": digest}
            for digest in several
            if sum(digest in {row.digest for row in run.front} for run in runs) > 1
        ],
        "agreement": [
            {"runs": [runs[a].label, runs[b].label], **agreement(scores[a], scores[b])}
            for a, b in combinations(range(len(runs)), 2)
        ],
    }


def agreement(one: Mapping[str, Row], other: Mapping[str, Row]) -> dict[str, Any]:
    """Of networks that both have: `count`, the `median` difference of scores, and `alike`, the
    share of pairs with different scores that both put in the same order."""
    both = [(float(one[d].score or 0), float(other[d].score or 0)) for d in one if d in other]
    if not both:
        return {"count": 0, "median": None, "alike": None}
    orders = [
        (a[0] - b[0]) * (a[1] - b[1])
        for a, b in combinations(both[:300], 2)  # enough to tell
    ]
    told = [order for order in orders if order]
    return {
        "count": len(both),
        "median": statistics.median(abs(a - b) for a, b in both),
        "alike": sum(order > 0 for order in told) / len(told) if told else None,
    }


def settings_that_differ(runs: Sequence[Compared]) -> list[dict[str, Any]]:
    """Settings, and what of the environment results depend on, that are not the same in all."""
    found: list[dict[str, Any]] = []
    for what in ("settings", "environment"):
        lines = [dict(flat(_without_space(getattr(run, what)))) for run in runs]
        for name in dict.fromkeys(name for line in lines for name in line):
            values = [line.get(name, "not set") for line in lines]
            if len(set(values)) > 1 and name not in ("command", "format"):
                found.append({"name": name, "of": what, "values": values})
    spaces = [json.dumps(r.settings.get("space_definition"), sort_keys=True) for r in runs]
    if len(set(spaces)) > 1:
        names = [str((r.settings.get("space_definition") or {}).get("name")) for r in runs]
        found.insert(0, {"name": "space", "of": "settings", "values": names})
    return found


def _without_space(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k not in ("space_definition", "space")}


# ---- for the terminal


def show(plain: Mapping[str, Any]) -> list[Any]:
    """The comparison for a person."""
    costs = [cost_title(name) for name in plain["objectives"] if name != SCORE]
    heads = ["run", "controller", "evaluated", "front", "best score at the budget"]
    heads += [f"hypervolume after {plain['equal_evaluations']:,}", "best network"]
    cells = [
        [
            run["label"],
            str(run["controller"]),
            f"{run['evaluated']:,}",
            str(run["front"]),
            "-" if run["at_equal"]["best"] is None else score(run["at_equal"]["best"]),
            "-" if run["at_equal"]["volume"] is None else f"{run['at_equal']['volume']:.1%}",
            "-" if run["best"] is None else f"{run['best']['name']} {score(run['best']['score'])}",
        ]
        for run in plain["runs"]
    ]
    said: list[Any] = [table("", heads, cells)]
    said.append(
        f"Scores and hypervolumes are those after {plain['equal_evaluations']:,} evaluations of "
        f"each; the hypervolume is that of score and {' and '.join(costs)}, as a share of the "
        "largest."
    )
    said += plain["cautions"]
    said += [agreement_says(pair) for pair in plain["shared"]["agreement"] if pair["count"]]
    if not plain["shared"]["count"]:
        said.append("No network is in more than one of the runs.")
    settings = [
        [line["name"], *(_short(value) for value in line["values"])]
        for line in plain["settings"]
        if line["of"] == "settings"
    ]
    if settings:
        labels = [run["label"] for run in plain["runs"]]
        said.append(table("Settings that differ", ["setting", *labels], settings))
    return said


def _short(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:39]}…"


def agreement_says(pair: Mapping[str, Any]) -> str:
    one, other = pair["runs"]
    many = "1 network is" if pair["count"] == 1 else f"{pair['count']:,} networks are"
    said = f"{many} in both {one} and {other}; their scores differ by {pair['median']:.4f} in the "
    said += "median"
    if pair["alike"] is not None:
        said += f", and {pair['alike']:.0%} of their pairs stand in the same order"
    return said + "."
