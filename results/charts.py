"""The charts of a report, as Vega-Lite specifications without data and without a theme."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from results import drawing
from space.budget import LATENCY, MEMORY, cost_title

CHART_HEIGHT = 320
PROBED = ("largest", "random", "smallest")  # networks that were looked at in training

TOOLTIP = [
    alt.Tooltip("name:N", title="network"),
    alt.Tooltip("digest:N", title="identity"),
    alt.Tooltip("cost:N", title="cost"),
    alt.Tooltip("params:N", title="parameters"),
    alt.Tooltip("score:Q", title="score", format=".4f"),
    alt.Tooltip("top1:N", title="supernet top-1"),
    alt.Tooltip("operators:N", title="stages"),
]


def tooltip(several: bool) -> list[alt.Tooltip]:
    """Of a candidate; with `several`, with costs beside MACs and parameters."""
    return [*TOOLTIP, *([alt.Tooltip("others:N", title="also")] if several else [])]


@dataclass(frozen=True, slots=True)
class Axis:
    """How a chart shows a cost: divided by `scale`, under a `title`, in the field `field` of its
    points; `words` say what it is."""

    cost: str
    field: str
    title: str
    words: str
    scale: float

    def at(self, value: float) -> float:
        return value / self.scale


def axis(cost: str, number: int, largest: float, side: str = "") -> Axis:
    """The axis of chart `number`, from 0, for costs up to `largest`; `side` says at which size of
    images they are."""
    words, field = cost_title(cost), f"x{number + 1}" if number else "x"
    if cost.startswith(LATENCY):
        return Axis(cost, field, f"{words} (ms)", words, 1.0)
    large = largest >= 1e9
    scale = 1e9 if large else 1e6
    if cost.startswith((MEMORY, "bytes")):
        return Axis(cost, field, f"{words} ({'GB' if large else 'MB'})", words, scale)
    unit = "billions" if large else "millions"
    return Axis(cost, field, f"{words}{side} ({unit})", words, scale)


def front_chart(axis: Axis, data: str, several: bool) -> dict[str, Any]:
    """Score against one cost, with the front of these two alone, which is in the dataset
    `front<data>`. Colours come with the page's theme, by the style names."""
    x = alt.X(f"{axis.field}:Q", title=axis.title, scale=alt.Scale(zero=False, padding=12))
    y = alt.Y("score:Q", title="supernet score", scale=alt.Scale(zero=False, padding=12))
    base = alt.Chart(alt.NamedData("candidates")).transform_filter("isValid(datum.score)")
    every = base.mark_circle(style="candidate", size=34, aria=False).encode(x, y)
    shown = tooltip(several)
    # Easier to hit than the points. Vega-Lite 6.4 cannot show text in the tooltip of a `nearest`
    # selection: it looks for the fields in the Voronoi cell and not in the row.
    targets = base.mark_circle(opacity=0, size=180, aria=False).encode(x, y, tooltip=shown)
    limit = alt.Chart(alt.NamedData(f"budget{data}"))
    budget = limit.mark_rule(style="budget").encode(x)
    label = limit.mark_text(style="budget-text", align="right", baseline="bottom", dx=-5).encode(
        x, y=alt.value(CHART_HEIGHT - 4), text="text:N"
    )
    line = (
        alt.Chart(alt.NamedData(f"front{data}"))
        .mark_line(style="front", interpolate="step-after")
        .encode(x, y)
    )
    members = (
        base.transform_filter("datum.place == 'front'")
        .mark_circle(style="member", size=80, cursor="pointer")
        .encode(x, y, tooltip=shown)
    )
    best = base.transform_filter("datum.place == 'best'")
    star = best.mark_point(style="best", shape="diamond", size=260, filled=True, cursor="pointer")
    name = best.mark_text(style="best-text", align="right", dx=-12, dy=-8)
    layers = alt.layer(
        budget,
        label,
        line,
        every,
        targets,
        members,
        star.encode(x, y, tooltip=shown),
        name.encode(x, y, text="name:N"),
    )
    return spec(layers, f"Supernet score against {axis.words} of every candidate, with the front")


def progress_chart(several: bool) -> dict[str, Any]:
    """Reward of each candidate in the order of evaluation, and the best so far."""
    x = alt.X("order:Q", title="evaluation", scale=alt.Scale(nice=False, padding=8))
    y = alt.Y("reward:Q", title="reward", scale=alt.Scale(zero=False, padding=12))
    base = alt.Chart(alt.NamedData("candidates"))
    colour = alt.Color(
        "origin:N",
        title="proposed by",
        scale=alt.Scale(range=[drawing.ORANGE, drawing.GREEN, drawing.PURPLE, drawing.SKY]),
        legend=alt.Legend(orient="top"),
    )
    points = base.transform_filter("isValid(datum.reward)").mark_circle(
        style="candidate", size=30, aria=False
    )
    rewarded = [*TOOLTIP, alt.Tooltip("reward:Q", format=".4f")]
    points = points.encode(x, y, tooltip=rewarded, **({"color": colour} if several else {}))
    line = (
        base.transform_filter("isValid(datum.so_far)")
        .mark_line(style="front", interpolate="step-after")
        .encode(x, alt.Y("so_far:Q", title="reward"))
    )
    failed = (
        base.transform_filter("!isValid(datum.reward)")
        .mark_tick(style="failed", orient="vertical", size=12, thickness=2)
        .encode(
            x,
            y=alt.value(CHART_HEIGHT - 6),
            tooltip=[alt.Tooltip("name:N", title="network"), alt.Tooltip("error:N")],
        )
    )
    return spec(alt.layer(points, line, failed), "Reward of each candidate and the best so far")


def latency_chart() -> dict[str, Any]:
    """Measured against predicted latency of exported networks, with quartiles and the limits; on
    the line both are equal."""
    colours = alt.Scale(
        domain=["within the budget", "over the budget"], range=[drawing.BLUE, drawing.ORANGE]
    )
    shapes = alt.Scale(domain=["within the budget", "over the budget"], range=["circle", "cross"])
    legend = alt.Legend(orient="top", title=None)
    x = alt.X("predicted:Q", title="predicted (ms)", scale=alt.Scale(zero=False, padding=14))
    y_title = "measured (ms)"
    scale = alt.Scale(zero=False, padding=14)
    base = alt.Chart(alt.NamedData("latencies"))
    equal = base.mark_line(style="front", strokeWidth=1).encode(
        x, alt.Y("predicted:Q", title=y_title, scale=scale)
    )
    limit = base.mark_rule(style="budget").encode(alt.Y("limit:Q", title=y_title, scale=scale))
    bars = base.mark_rule(style="candidate", strokeWidth=1.5).encode(
        x, alt.Y("low:Q", title=y_title, scale=scale), y2="high:Q"
    )
    dots = base.mark_point(filled=True, size=70, opacity=1, cursor="pointer").encode(
        x,
        alt.Y("ms:Q", title=y_title, scale=scale),
        color=alt.Color("verdict:N", scale=colours, legend=legend),
        shape=alt.Shape("verdict:N", scale=shapes, legend=legend),
        tooltip=[
            alt.Tooltip("name:N", title="network"),
            alt.Tooltip("device:N"),
            alt.Tooltip("predicted:Q", title="predicted (ms)", format=".3~g"),
            alt.Tooltip("ms:Q", title="measured (ms)", format=".3~g"),
        ],
    )
    return spec(alt.layer(equal, limit, bars, dots), "Measured against predicted latency")


def chance_chart(what: str, title: str, names: Sequence[str]) -> dict[str, Any]:
    """One curve for each search over its evaluations; lines differ without colour as well."""
    colours = alt.Scale(domain=names, range=[drawing.BLUE, drawing.ORANGE])
    chart = (
        alt.Chart(alt.NamedData("chance"))
        .transform_filter(f"isValid(datum.{what})")
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            alt.X("n:Q", title="evaluations", scale=alt.Scale(nice=False)),
            alt.Y(f"{what}:Q", title=title, scale=alt.Scale(zero=False)),
            color=alt.Color(
                "who:N", title="search", scale=colours, legend=alt.Legend(orient="top")
            ),
            strokeDash=alt.StrokeDash("who:N", scale=alt.Scale(domain=names), legend=None),
            tooltip=[
                alt.Tooltip("who:N", title="search"),
                alt.Tooltip("n:Q", title="evaluations"),
                alt.Tooltip(f"{what}:Q", title=title, format=".4f"),
            ],
        )
    )
    return spec(chart, f"{title} of this search and of a random one by evaluations")


NETWORK_TOOLTIP = [
    alt.Tooltip("name:N", title="network"),
    alt.Tooltip("kind:N", title="kind"),
    alt.Tooltip("cost:N", title="cost"),
    alt.Tooltip("size:N", title="parameters"),
    alt.Tooltip("top1:N", title="published top-1"),
]


def published_chart(limited: Collection[str]) -> dict[str, Any]:
    """Parameters against MACs of published networks and of the front; `limited` are the axes that
    the budget limits."""
    log = alt.Scale(type="log", nice=False, padding=12)
    x = alt.X("gmacs:Q", title="MACs for one image (billions)", scale=log)
    y = alt.Y("mparams:Q", title="parameters (millions)", scale=log, axis=alt.Axis(grid=False))
    base = alt.Chart(alt.NamedData("networks"))
    limits = alt.Chart(alt.NamedData("limits"))
    rules = [
        limits.transform_filter(f"isValid(datum.{axis})").mark_rule(style="budget").encode(where)
        for axis, where in (("gmacs", x), ("mparams", y))
        if axis in limited
    ]
    marks = {
        "far": base.mark_circle(style="published", size=34),
        "near": base.mark_circle(style="near", size=50),
        "front": base.mark_circle(style="member", size=80, cursor="pointer"),
        "best": base.mark_point(
            style="best", shape="diamond", size=260, filled=True, cursor="pointer"
        ),
    }
    layers = [
        mark.transform_filter(f"datum.place == '{place}'").encode(x, y, tooltip=NETWORK_TOOLTIP)
        for place, mark in marks.items()
    ]
    return spec(
        alt.layer(*rules, *layers), "Parameters against MACs of published networks and of the front"
    )


def supernet_chart() -> dict[str, Any]:
    chart = (
        alt.Chart(alt.NamedData("curve"))
        .mark_line(style="front")
        .encode(
            alt.X("step:Q", title="training step", scale=alt.Scale(nice=False)),
            alt.Y("loss:Q", title="loss", scale=alt.Scale(zero=False)),
        )
    )
    return spec(chart, "Training loss of the supernet")


def probes_chart() -> dict[str, Any]:
    """One line for each network that was looked at while the supernet was trained."""
    colours = [drawing.BLUE, drawing.ORANGE, drawing.GREEN]
    scale = alt.Scale(domain=list(PROBED), range=colours)
    chart = (
        alt.Chart(alt.NamedData("probes"))
        .mark_line(point=True)
        .encode(
            alt.X("step:Q", title="training step", scale=alt.Scale(nice=False)),
            alt.Y("share:Q", title="classified right", axis=alt.Axis(format=".0%")),
            color=alt.Color(
                "network:N", title="network", scale=scale, legend=alt.Legend(orient="top")
            ),
            strokeDash=alt.StrokeDash("network:N", scale=alt.Scale(domain=list(PROBED))),
            tooltip=[
                alt.Tooltip("network:N"),
                alt.Tooltip("step:Q"),
                alt.Tooltip("share:Q", title="classified right", format=".1%"),
            ],
        )
    )
    return spec(chart, "Share of images that networks of the supernet classify right, by step")


def spec(chart: Any, description: str) -> dict[str, Any]:
    """The Vega-Lite specification, as wide as its place on the page and without a theme."""
    full = chart.properties(width="container", height=CHART_HEIGHT, description=description)
    spec = full.to_dict()
    for entry in ("$schema", "config"):
        spec.pop(entry, None)
    return spec
