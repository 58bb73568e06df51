"""The charts of the front: any two of its measures, with a switch, and three of them in space.

`front_chart` is written for any two measures: `{x}` and `{y}` stand in it for the fields of the two
axes, and `choose` puts them in. The page's script does the same when a reader chooses others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import altair as alt

from results import pareto
from results.charts import CHART_HEIGHT, TOOLTIP, spec
from results.figures import finite
from results.history import Row
from space.budget import LATENCY, MEMORY, cost_figure, cost_title
from space.objectives import SCORE

SPACE_HEIGHT = 420
TURN, TILT = 35, 25  # degrees from which the space is seen at first


@dataclass(frozen=True, slots=True)
class Axis:
    """A measure as an axis: its `field` in the points, a `title` with the unit, and in `words`.
    `better` is which end is wanted."""

    name: str
    field: str
    title: str
    words: str
    better: str
    format: str

    @property
    def plot(self) -> str:
        """The name of its chart against the score."""
        return "front-" + "".join(c if c.isalnum() or c in ".-_" else "-" for c in self.name)

    @property
    def name_in_space(self) -> str:
        """Short, as the space may be turned until it stands at the edge of a phone."""
        return "score" if self.name == SCORE else self.words

    def value(self, row: Row) -> float | None:
        return finite(row.score) if self.name == SCORE else row.cost(self.name)

    def wanted(self, row: Row) -> float:
        """What is to be small."""
        value = self.value(row)
        assert value is not None
        return -value if self.better == "high" else value

    def figure(self, value: float) -> str:
        return f"{value:.4f}" if self.name == SCORE else cost_figure(self.name, value)

    def plain(self) -> dict[str, str]:
        return asdict(self)


def axes(costs: Sequence[str], side: str = "") -> list[Axis]:
    """The score, then the costs; `side` says at which size of images they are."""
    made = [Axis(SCORE, "m0", "supernet score", "supernet score", "high", ".4~g")]
    for i, name in enumerate(costs):
        title = cost_title(name)
        unit = " (ms)" if name.startswith(LATENCY) else side
        if name.startswith((MEMORY, "bytes")):
            unit = " (bytes)"
        number = ".3~g" if name.startswith(LATENCY) else ".3~s"
        made.append(Axis(name, f"m{i + 1}", f"{title}{unit}", title, "low", number))
    return made


def front_chart() -> dict[str, Any]:
    """One measure against another, for every candidate, with the front of these two alone."""
    x = alt.X(
        field="{x}",
        type="quantitative",
        title="{x title}",
        axis=alt.Axis(format="{x format}"),
        scale=alt.Scale(zero=False, padding=12),
    )
    y = alt.Y(
        field="{y}",
        type="quantitative",
        title="{y title}",
        axis=alt.Axis(format="{y format}"),
        scale=alt.Scale(zero=False, padding=12),
    )
    base = alt.Chart(alt.NamedData("candidates")).transform_filter("isValid(datum.score)")
    every = base.mark_circle(style="candidate", size=30, aria=False).encode(x, y)
    # Easier to hit than the points. Vega-Lite 6.4 cannot show text in the tooltip of a `nearest`
    # selection: it looks for the fields in the Voronoi cell and not in the row.
    targets = base.mark_circle(opacity=0, size=160, aria=False).encode(x, y, tooltip=TOOLTIP)
    across = alt.Chart(alt.NamedData("limit-x"))
    budget = across.mark_rule(style="budget", aria=False).encode(
        alt.X(field="{x}", type="quantitative", title="{x title}")
    )
    label = across.mark_text(
        style="budget-text", align="right", baseline="bottom", dx=-5, aria=False
    ).encode(
        alt.X(field="{x}", type="quantitative", title="{x title}"),
        y=alt.value(CHART_HEIGHT - 4),
        text="text:N",
    )
    along = alt.Chart(alt.NamedData("limit-y"))
    also = along.mark_rule(style="budget", aria=False).encode(
        alt.Y(field="{y}", type="quantitative", title="{y title}")
    )
    line = (
        alt.Chart(alt.NamedData("line"))
        .mark_line(style="front", interpolate="step-after", aria=False)
        .encode(x, y)
    )
    members = (
        base.transform_filter("datum.place == 'front'")
        .mark_circle(style="member", size=80, cursor="pointer")
        .encode(x, y, tooltip=TOOLTIP)
    )
    best = base.transform_filter("datum.place == 'best'")
    star = best.mark_point(style="best", shape="diamond", size=260, filled=True, cursor="pointer")
    name = best.mark_text(style="best-text", align="right", dx=-12, dy=-8, aria=False)
    layers = alt.layer(
        budget,
        label,
        also,
        line,
        every,
        targets,
        members,
        star.encode(x, y, tooltip=TOOLTIP),
        name.encode(x, y, text="name:N"),
    )
    return spec(layers, "{y words} against {x words} of every candidate, with the front")


def choose(template: Mapping[str, Any], x: Axis, y: Axis) -> dict[str, Any]:
    """The chart of two axes."""
    text = json.dumps(template)
    for letter, axis in (("x", x), ("y", y)):
        for key in ("title", "format", "words"):
            said = json.dumps(getattr(axis, key))[1:-1]
            text = text.replace(f"{{{letter} {key}}}", said)
        text = text.replace(f"{{{letter}}}", axis.field)
    chosen: dict[str, Any] = json.loads(text)
    return chosen


def without_empty(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The chart without layers whose dataset is there and empty."""
    own = spec["datasets"]
    layers = [layer for layer in spec["layer"] if own.get(layer["data"]["name"]) != []]
    return {**spec, "layer": layers}


def fronts(rows: Sequence[Row], found: Sequence[Axis]) -> dict[str, list[int]]:
    """For each two axes, by their fields as `m0 m1`, the places of the rows that no other beats on
    these two; the earlier axis comes first in a name."""
    return {
        f"{a.field} {b.field}": pareto.front([(a.wanted(row), b.wanted(row)) for row in rows])
        for a, b in combinations(found, 2)
    }


def line(points: Sequence[Mapping[str, Any]], members: Sequence[int], x: Axis) -> list[Any]:
    """The points of a front in the order of `x`."""
    return sorted((points[i] for i in members), key=lambda point: point[x.field])


def limit(axis: Axis, limits: Mapping[str, float]) -> list[dict[str, Any]]:
    """What the chart draws of a limit on an axis."""
    return [{axis.field: limits[axis.name], "text": "budget"}] if axis.name in limits else []


# ---- three measures


_EDGES = [
    ((i >> 2 & 1, i >> 1 & 1, i & 1), (j >> 2 & 1, j >> 1 & 1, j & 1))
    for i in range(8)
    for j in range(i + 1, 8)
    if (i ^ j).bit_count() == 1
]


def cube(ends: Sequence[tuple[Axis, float, float]]) -> dict[str, list[dict[str, Any]]]:
    """Edges of the cube and the words at its axes, for axes with the values at their ends."""
    edges = [dict(zip(("u", "v", "w", "u2", "v2", "w2"), a + b, strict=True)) for a, b in _EDGES]
    places = (
        ((0.5, -0.12, -0.13), (0.1, -0.06, -0.07), (0.9, -0.06, -0.07)),
        ((1.32, 0.5, -0.1), (1.16, 0.08, -0.05), (1.2, 0.92, -0.05)),
        ((-0.08, 1.1, 0.5), (-0.08, 1.1, 0.03), (-0.08, 1.1, 0.97)),
    )
    texts = [
        {**dict(zip("uvw", place, strict=True)), "text": text, "title": i == 0}
        for (axis, low, high), at in zip(ends, places, strict=True)
        for i, (place, text) in enumerate(
            zip(at, (axis.name_in_space, axis.figure(low), axis.figure(high)), strict=True)
        )
    ]
    return {"edges": edges, "words": texts}


def _seen(u: str, v: str, w: str) -> tuple[str, str]:
    """Where a point of the cube is on the screen: turned about the upright axis, then tilted."""
    u, v, w = (f"(datum.{name} - 0.5)" for name in (u, v, w))
    turn, tilt = "(turn * PI / 180)", "(tilt * PI / 180)"
    deep = f"({u} * sin({turn}) + {v} * cos({turn}))"
    return (
        f"{u} * cos({turn}) - {v} * sin({turn})",
        f"{w} * cos({tilt}) + {deep} * sin({tilt})",
    )


def space_chart(three: Sequence[Axis]) -> dict[str, Any]:
    """Three measures as places in a cube (fields `u`, `v`, `w`, 0 to 1; `w` upright); the signals
    `turn` and `tilt` are the angles from which it is seen."""
    px, py = _seen("u", "v", "w")
    px2, py2 = _seen("u2", "v2", "w2")
    scale = alt.Scale(domain=[-0.95, 0.95], nice=False, zero=False)
    x = alt.X("px:Q", scale=scale, axis=None)
    y = alt.Y("py:Q", scale=scale, axis=None)
    shown = [
        alt.Tooltip("name:N", title="network"),
        *(alt.Tooltip(f"{a.field}:Q", title=a.words, format=a.format) for a in three),
    ]

    def placed(data: str) -> alt.Chart:
        chart = alt.Chart(alt.NamedData(data))
        return chart.transform_calculate(as_="px", calculate=px).transform_calculate(
            as_="py", calculate=py
        )

    edges = (
        placed("edges")
        .transform_calculate(as_="px2", calculate=px2)
        .transform_calculate(as_="py2", calculate=py2)
        .mark_rule(style="frame", opacity=0.6, aria=False)
        .encode(x, y, x2="px2:Q", y2="py2:Q")
    )
    words = placed("words")
    text = words.transform_filter("!datum.title").mark_text(style="text", aria=False)
    title = words.transform_filter("datum.title").mark_text(style="best-text", aria=False)
    every = placed("space").transform_filter("datum.place == 'other'")
    members = placed("space").transform_filter("datum.place == 'front'")
    best = placed("space").transform_filter("datum.place == 'best'")
    layers = alt.layer(
        edges,
        every.mark_circle(style="candidate", size=24, aria=False).encode(x, y, tooltip=shown),
        members.mark_circle(style="member", size=80, cursor="pointer").encode(x, y, tooltip=shown),
        best.mark_point(
            style="best", shape="diamond", size=260, filled=True, cursor="pointer"
        ).encode(x, y, tooltip=shown),
        text.encode(x, y, text="text:N"),
        title.encode(x, y, text="text:N"),
    )
    said = f"{three[0].words}, {three[1].words} and {three[2].words} of candidates, in space"
    made = spec(layers.add_params(alt.param(name="turn", value=TURN)), said)
    made["params"] = [{"name": "turn", "value": TURN}, {"name": "tilt", "value": TILT}]
    return made | {"height": SPACE_HEIGHT}
