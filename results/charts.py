"""The charts of a report, as Vega-Lite specifications without data and without a theme.

Colours come with the theme (`results.theme`): marks name its styles, series take its colours, and
shapes or dashes tell them apart as well. The front is in `results.charts_front`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import altair as alt

from results.theme import DASHES, SHAPES

CHART_HEIGHT = 320
PROBED = ("largest", "random", "smallest")  # networks that were looked at in training

TOOLTIP = [
    alt.Tooltip("name:N", title="network"),
    alt.Tooltip("macs:Q", title="MACs", format=".3s"),
    alt.Tooltip("params:Q", title="parameters", format=".3s"),
    alt.Tooltip("score:Q", title="score", format=".4f"),
    alt.Tooltip("operators:N", title="stages"),
]


def shape(field: str, names: Sequence[str]) -> alt.Shape:
    """A shape for each of the names, without a legend of its own."""
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(names))]
    return alt.Shape(f"{field}:N", scale=alt.Scale(domain=list(names), range=shapes), title=None)


def colour(field: str, names: Sequence[str]) -> alt.Color:
    """A colour of the theme for each of the names, with a legend above the chart."""
    legend = alt.Legend(orient="top", title=None)
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=list(names)), legend=legend, title=None)


def dash(field: str, names: Sequence[str]) -> alt.StrokeDash:
    dashes = [list(DASHES[i % len(DASHES)]) for i in range(len(names))]
    return alt.StrokeDash(
        f"{field}:N", scale=alt.Scale(domain=list(names), range=dashes), title=None
    )


def progress_chart(proposers: Sequence[str], failures: bool) -> dict[str, Any]:
    """Reward of each candidate in the order of evaluation, and the best so far; who proposed them
    where there are several."""
    x = alt.X("order:Q", title="evaluation", scale=alt.Scale(nice=False, padding=8))
    y = alt.Y("reward:Q", title="reward", scale=alt.Scale(zero=False, padding=12))
    base = alt.Chart(alt.NamedData("candidates"))
    series = {"color": colour("origin", proposers), "shape": shape("origin", proposers)}
    rewarded = [*TOOLTIP, alt.Tooltip("reward:Q", format=".4f")]
    points = (
        base.transform_filter("isValid(datum.reward)")
        .mark_point(style="candidate", size=30, filled=True, aria=False)
        .encode(x, y, tooltip=rewarded, **(series if len(proposers) > 1 else {}))
    )
    line = (
        base.transform_filter("isValid(datum.so_far)")
        .mark_line(style="front", interpolate="step-after", aria=False)
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
    layers = [points, line, *([failed] if failures else [])]
    return spec(alt.layer(*layers), "Reward of each candidate and the best so far")


def latency_chart() -> dict[str, Any]:
    """Measured against predicted latency of exported networks, with quartiles and the limits; on
    the line both are equal."""
    verdicts = ("within the budget", "over the budget")
    x = alt.X("predicted:Q", title="predicted (ms)", scale=alt.Scale(zero=False, padding=14))
    y_title = "measured (ms)"
    scale = alt.Scale(zero=False, padding=14)
    base = alt.Chart(alt.NamedData("latencies"))
    equal = base.mark_line(style="front", strokeWidth=1, aria=False).encode(
        x, alt.Y("predicted:Q", title=y_title, scale=scale)
    )
    limit = base.mark_rule(style="budget", aria=False).encode(
        alt.Y("limit:Q", title=y_title, scale=scale)
    )
    bars = base.mark_rule(style="candidate", strokeWidth=1.5, aria=False).encode(
        x, alt.Y("low:Q", title=y_title, scale=scale), y2="high:Q"
    )
    dots = base.mark_point(filled=True, size=70, opacity=1, cursor="pointer").encode(
        x,
        alt.Y("ms:Q", title=y_title, scale=scale),
        color=colour("verdict", verdicts),
        shape=shape("verdict", verdicts),
        tooltip=[
            alt.Tooltip("name:N", title="network"),
            alt.Tooltip("device:N"),
            alt.Tooltip("predicted:Q", title="predicted (ms)", format=".3~g"),
            alt.Tooltip("ms:Q", title="measured (ms)", format=".3~g"),
        ],
    )
    return spec(alt.layer(equal, limit, bars, dots), "Measured against predicted latency")


def growth_chart(what: str, title: str, names: Sequence[str]) -> dict[str, Any]:
    """One curve for each search over its evaluations; `what` is a field of `results.growth`."""
    chart = (
        alt.Chart(alt.NamedData("growth"))
        .transform_filter(f"isValid(datum.{what})")
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            alt.X("n:Q", title="evaluations", scale=alt.Scale(nice=False)),
            alt.Y(f"{what}:Q", title=title, scale=alt.Scale(zero=False)),
            color=colour("who", names),
            strokeDash=dash("who", names),
            tooltip=[
                alt.Tooltip("who:N", title="search"),
                alt.Tooltip("n:Q", title="evaluations"),
                alt.Tooltip(f"{what}:Q", title=title, format=".4f"),
            ],
        )
    )
    return spec(chart, f"{title} by evaluations: {', '.join(names)}")


def importance_chart(count: int) -> dict[str, Any]:
    """A bar for each gene, and how far trees differ."""
    base = alt.Chart(alt.NamedData("importance"))
    x_title = "share of the variance of scores"
    axis = alt.Axis(format=".0%", grid=True)
    y = alt.Y("gene:N", sort=None, title=None, axis=alt.Axis(labelLimit=300))
    shown = [
        alt.Tooltip("gene:N"),
        alt.Tooltip("share:Q", title=x_title, format=".1%"),
        alt.Tooltip("spread:Q", title="standard deviation over trees", format=".1%"),
    ]
    bars = base.mark_bar(style="front", height={"band": 0.6}).encode(
        alt.X("share:Q", title=x_title, axis=axis), y, tooltip=shown
    )
    spread = base.mark_rule(style="budget", strokeDash=[1, 0], aria=False).encode(
        alt.X("low:Q", title=x_title), y, x2="high:Q"
    )
    made = spec(alt.layer(bars, spread), "Share of the variance of scores that each gene explains")
    return made | {"height": 24 * count + 10}


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
        limits.transform_filter(f"isValid(datum.{axis})")
        .mark_rule(style="budget", aria=False)
        .encode(where)
        for axis, where in (("gmacs", x), ("mparams", y))
        if axis in limited
    ]
    marks = {
        "far": base.mark_circle(style="published", size=34, aria=False),
        "near": base.mark_square(style="near", size=50, aria=False),
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
        .mark_line(style="front", aria=False)
        .encode(
            alt.X("step:Q", title="training step", scale=alt.Scale(nice=False)),
            alt.Y("loss:Q", title="loss", scale=alt.Scale(zero=False)),
        )
    )
    return spec(chart, "Training loss of the supernet")


def probes_chart() -> dict[str, Any]:
    """One line for each network that was looked at while the supernet was trained."""
    chart = (
        alt.Chart(alt.NamedData("probes"))
        .mark_line(point=True)
        .encode(
            alt.X("step:Q", title="training step", scale=alt.Scale(nice=False)),
            alt.Y("share:Q", title="classified right", axis=alt.Axis(format=".0%")),
            color=colour("network", PROBED),
            strokeDash=dash("network", PROBED),
            shape=shape("network", PROBED),
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
    made: dict[str, Any] = full.to_dict()
    for entry in ("$schema", "config"):
        made.pop(entry, None)
    return made
