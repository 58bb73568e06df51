"""The page of runs side by side (`results.compared`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
from markupsafe import Markup

from results import charts, drawing
from results.charts_front import axes
from results.compared import Compared, agreement_says
from results.figures import finite
from results.history import Row
from results.page import write_page
from results.run_folder import front_of
from results.sections.genes import differences
from space.budget import cost_figure, cost_title
from space.genome import Genome
from space.objectives import SCORE

_POINTS = 2000  # candidates of each run in a chart


def write_comparison(path: Path, runs: Sequence[Compared], plain: Mapping[str, Any]) -> None:
    """Writes the page; a reader sees the old file or the new, never half."""
    labels = [run.label for run in runs]
    wanted = [name for name in plain["objectives"] if name != SCORE]
    made: dict[str, Any] = {}
    data: dict[str, Any] = {"growth": plain["growth"]}
    fronts = []
    for axis in axes(wanted)[1:]:
        name = f"fronts-{axis.field}"
        data[name] = _front_points(runs, axis.name)
        data[f"others-{axis.field}"] = _other_points(runs, axis.name)
        made[name] = _overlay(axis.field, axis.title, axis.format, labels)
        fronts.append({"name": name, "words": axis.words})
    if plain["growth"]:
        made["growth-volume"] = charts.growth_chart("volume", "hypervolume (share)", labels)
        if any(point["best"] is not None for point in plain["growth"]):
            made["growth-best"] = charts.growth_chart("best", "best score at the budget", labels)
    bests = [run.best for run in runs if run.best is not None]
    costs = [
        name
        for name in dict.fromkeys(["macs", "params", *wanted])
        if all(run.knows(name) for run in runs)
    ]
    content = {
        **plain,
        "charts": made,
        "data": data,
        "fronts": fronts,
        "wanted": [cost_title(name) for name in wanted],
        "agreements": [
            agreement_says(pair) for pair in plain["shared"]["agreement"] if pair["count"]
        ],
        "bests": [_best(run, costs) for run in runs],
        "costs": [cost_title(name) for name in costs],
        "differences": differences(bests, None),
        "best_labels": [run.label for run in runs if run.best is not None],
        "same_best": len({row.digest for row in bests}) < len(bests),
    }
    write_page(path, "compare.html.j2", content)


def _best(run: Compared, costs: Sequence[str]) -> dict[str, Any]:
    row = run.best
    if row is None:
        return {"label": run.label, "row": None, "problem": None, "svg": "", "figures": []}
    figures = [cost_figure(name, row.cost(name)) for name in costs]
    made = {"label": run.label, "row": row, "figures": figures, "svg": "", "problem": None}
    try:
        made["svg"] = Markup(drawing.draw_svg(Genome.from_json(row.genome)))
    except ValueError as error:
        made["problem"] = str(error)
    return made


def _front_points(runs: Sequence[Compared], cost: str) -> list[dict[str, Any]]:
    """The front of the score and one cost of each run."""
    return [
        _point(run, row, cost)
        for run in runs
        for row in front_of(run.rows, (SCORE, cost))
        if finite(row.score) is not None
    ]


def _other_points(runs: Sequence[Compared], cost: str) -> list[dict[str, Any]]:
    return [
        _point(run, row, cost)
        for run in runs
        for row in run.scored[:: math.ceil(len(run.scored) / _POINTS) or 1]
    ]


def _point(run: Compared, row: Row, cost: str) -> dict[str, Any]:
    return {"run": run.label, "name": row.name, "cost": row.cost(cost), "score": row.score}


def _overlay(field: str, title: str, number: str, labels: Sequence[str]) -> dict[str, Any]:
    """The fronts of all runs in one chart: colours, dashes and shapes are runs."""
    x = alt.X(
        "cost:Q",
        title=title,
        axis=alt.Axis(format=number),
        scale=alt.Scale(zero=False, padding=12),
    )
    y = alt.Y("score:Q", title="supernet score", scale=alt.Scale(zero=False, padding=12))
    colour = charts.colour("run", labels)
    shown = [
        alt.Tooltip("run:N"),
        alt.Tooltip("name:N", title="network"),
        alt.Tooltip("cost:Q", title=title, format=number),
        alt.Tooltip("score:Q", format=".4f"),
    ]
    every = alt.Chart(alt.NamedData(f"others-{field}"))
    front = alt.Chart(alt.NamedData(f"fronts-{field}"))
    layers = alt.layer(
        every.mark_point(filled=True, size=16, opacity=0.3, aria=False).encode(
            x, y, color=colour, shape=charts.shape("run", labels)
        ),
        front.mark_line(interpolate="step-after", strokeWidth=2, aria=False).encode(
            x, y, color=colour, strokeDash=charts.dash("run", labels)
        ),
        front.mark_point(filled=True, size=80, opacity=1).encode(
            x, y, color=colour, shape=charts.shape("run", labels), tooltip=shown
        ),
    )
    return charts.spec(layers, f"Fronts of {', '.join(labels)}: supernet score against {title}")
