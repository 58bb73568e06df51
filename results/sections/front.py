"""The front: score against cost with a switch of axes, in space where there are three objectives,
and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from results import charts_front, drawing
from results.charts_front import Axis
from results.history import Row
from results.section import Section
from results.sections.points import points, thinned
from results.view import View, after
from space.budget import cost_figure, cost_title
from space.objectives import SCORE

LISTED = 50  # candidates in the table of the best
LISTED_FRONT = 200  # of the front; a longer one is in front.csv
IN_SPACE = 1500  # candidates that are drawn in space, besides the front


def section(view: View) -> Section:
    run = view.run
    content: dict[str, Any] = {
        "front": [listing(row, view) for row in view.members],
        "listed_front": LISTED_FRONT,
        "ranked": [listing(row, view) for row in view.ranked[:LISTED]],
        "others": [{"name": name, "title": cost_title(name)} for name in view.others],
        "axes": [],
        "space": None,
        "thinned": 0,
    }
    if not run.rows:
        return Section(content, data={"candidates": []})
    sizes = sorted({row.resolution for row in run.rows})
    axes = charts_front.axes(view.axes, f" at {sizes[0]} px" if len(sizes) == 1 else "")
    made = points(view, axes)
    kept = thinned(made)
    shown = [made[i] for i in kept]
    data: dict[str, Any] = {"candidates": shown}
    content["thinned"] = len(made) - len(shown)
    if not view.scored:
        return Section(content, data=data)
    # Lines are of all candidates that may be on the front, whether they are drawn or not.
    inside = [
        i
        for i, point in enumerate(made)
        if point["score"] is not None and run.rows[i].digest not in view.over
    ]
    found = charts_front.fronts([run.rows[i] for i in inside], axes)
    on_lines = sorted({inside[i] for members in found.values() for i in members})
    places = {i: place for place, i in enumerate(on_lines)}
    lines = {pair: [places[inside[i]] for i in members] for pair, members in found.items()}
    corners = [{axis.field: made[i][axis.field] for axis in axes} for i in on_lines]
    content["axes"] = axes
    content["counts"] = {pair: len(members) for pair, members in lines.items()}
    template = charts_front.front_chart()
    data |= {"axes": [axis.plain() for axis in axes], "lines": lines, "corners": corners}
    data["limits-of"] = {
        axis.field: view.limits[axis.name] for axis in axes if axis.name in view.limits
    }
    plots: dict[str, Any] = {}
    for axis in (axis for axis in axes if axis.name in view.costs):
        spec = charts_front.choose(template, axis, axes[0])
        members = lines[f"{axes[0].field} {axis.field}"]
        spec["datasets"] = {
            "line": charts_front.line(corners, members, axis),
            "limit-x": charts_front.limit(axis, view.limits),
            "limit-y": [],
        }
        plots[axis.plot] = charts_front.without_empty(spec)
    shown_charts: dict[str, Any] = {"front": template}
    three = _three(view, axes)
    if three is not None:
        data |= _in_space(made, three)
        content["space"] = [axis.words for axis in three]
        shown_charts["space"] = plots["space"] = charts_front.space_chart(three)
    return Section(content, shown_charts, plots, data)


def listing(row: Row, view: View) -> dict[str, Any]:
    """A line of a table of candidates."""
    limit = view.limits.get(view.target)
    return {
        "row": row,
        "operators": drawing.operators(row.genome),
        "share": row.cost(view.target) / limit if limit else None,
        "others": [(row.cost(name), cost_figure(name, row.cost(name))) for name in view.others],
        "after": after(row),
        "best": row.digest == view.run.best,
        "drawn": row in view.drawn,
    }


def _three(view: View, axes: Sequence[Axis]) -> list[Axis] | None:
    """Two costs and the score, upright; None where there are no three objectives."""
    wanted = [axis for axis in axes if axis.name in view.run.objectives and axis.name != SCORE]
    return [*wanted[:2], axes[0]] if len(wanted) >= 2 else None


def _in_space(made: Sequence[Mapping[str, Any]], three: Sequence[Axis]) -> dict[str, Any]:
    """Points with places from 0 to 1 on each axis, and the cube around them."""
    scored = [point for point in made if all(point[axis.field] is not None for axis in three)]
    chosen = [scored[i] for i in thinned(scored, IN_SPACE)]  # type: ignore[arg-type]
    ends = []
    for axis in three:
        values = [point[axis.field] for point in chosen]
        ends.append((axis, min(values), max(values)))
    placed = []
    for point in chosen:
        at = {
            name: (point[axis.field] - low) / (high - low) if high > low else 0.5
            for name, (axis, low, high) in zip("uvw", ends, strict=True)
        }
        kept = {key: point[key] for key in ("name", "digest", "place")}
        placed.append(kept | {axis.field: point[axis.field] for axis in three} | at)
    return {"space": placed, **charts_front.cube(ends)}
