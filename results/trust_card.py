"""The trust card of a run: its files, its sentence and its tables, for the terminal and the report.

A card is what `evaluator.trust.Card.to_plain` gives; here it is plain data, like everything that a
report is made of. The accuracies in it are those of proxies that were trained alone; a supernet's
score is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from results import drawing
from results.console import table
from results.run_folder import RunFolder, write_bytes, write_text
from results.tables import csv_text
from space.budget import quantity

FORMAT = 1
COLUMNS = (
    *("name", "digest", "group", "in_band", "macs", "params", "main_kind", "kinds", "score"),
    *("accuracy", "accuracies", "probability", "seconds", "problem"),
)
# Shapes beside colours: operators of one family share a colour, and some readers see few.
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
FEWEST = 5  # networks near the level for the sentence to speak of them
CHART_WIDTH, CHART_HEIGHT = 560, 380
_ENTRIES = frozenset(
    ("networks", "level", "seed", "band", "agreements", "ceiling", "kinds", "about")
)

Card = Mapping[str, Any]


def read_card(folder: RunFolder) -> dict[str, Any] | None:
    """The card of a run, None where there is none; ValueError where the file is something else."""
    if not folder.trust.is_file():
        return None
    try:
        card = json.loads(folder.trust.read_text(encoding="utf-8"))
        sound = card["format"] == FORMAT and set(card) >= _ENTRIES
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise ValueError(f"{folder.trust} is not a trust card of format {FORMAT}; remove it")
    return card


def write_card(folder: RunFolder, card: Card) -> None:
    """The card as JSON, its networks as CSV, and its chart as SVG and PNG."""
    import vl_convert  # large, as is altair below, and not needed for words

    write_text(folder.trust_table, table_of_networks(card))
    spec = standalone(card)
    write_text(folder.trust_chart, vl_convert.vegalite_to_svg(spec))
    write_bytes(folder.trust_chart.with_suffix(".png"), vl_convert.vegalite_to_png(spec, scale=2))
    # The last: whoever sees it sees the others.
    write_text(folder.trust, json.dumps(card, indent=2, allow_nan=False) + "\n")


def table_of_networks(card: Card) -> str:
    """CSV with a line for each network; zero-cost scores have columns of their own."""
    scores = list(dict.fromkeys(name for net in card["networks"] for name in net["zero_cost"]))
    lines: list[list[Any]] = [[*COLUMNS, *scores]]
    for net in card["networks"]:
        values = {
            **net,
            "in_band": "yes" if in_band(net, card) else "",
            "kinds": " ".join(net["kinds"]),
            "accuracy": mean(net["accuracies"]),
            "accuracies": " ".join(map(str, net["accuracies"])),
            "probability": mean(net["probabilities"]),
        }
        known = [net["zero_cost"].get(name) for name in scores]
        lines.append([*(values[column] for column in COLUMNS), *known])
    return csv_text(lines)


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def in_band(network: Mapping[str, Any], card: Card) -> bool:
    """Whether its MACs are near the card's level."""
    away = abs(network["macs"] - card["level"])
    return bool(away <= card["band"] * card["level"] * (1 + 1e-12))


def counted(card: Card) -> list[Mapping[str, Any]]:
    """The networks that are in the statistics."""
    return [
        net
        for net in card["networks"]
        if net["problem"] is None and net["score"] is not None and net["accuracies"]
    ]


# ---- words


def verdict(card: Card) -> str:
    """What the card says, in a sentence: (1 + tau) / 2 of the pairs are ordered alike."""
    rows = {row["name"]: row for row in card["agreements"]}
    score = card["agreements"][0]
    if score["tau"]["value"] is None:
        return (
            f"The {score['tau']['n']} networks that count do not differ enough, by score or by "
            "accuracy, to say anything about the scores."
        )
    sentence = (
        f"Of two networks that differ, the supernet orders {_pairs(score['tau'])} as training "
        "alone does"
    )
    if score["band_tau"]["value"] is not None and score["band_tau"]["n"] >= FEWEST:
        sentence += f"; of two near {quantity(card['level'])} MACs, {_pairs(score['band_tau'])}"
    macs = rows.get("MACs", {}).get("tau", {}).get("value")
    if macs is not None:
        sentence += f"; the number of MACs alone would order {_alike(macs)} so"
    return sentence + "."


def _pairs(estimate: Mapping[str, Any]) -> str:
    text = _alike(estimate["value"])
    inside = f"{estimate['n']} networks"
    if estimate["low"] is not None:
        low, high = _alike(estimate["low"]), _alike(estimate["high"])
        inside = f"{low} to {high} with 95% confidence, {inside}"
    return f"{text} ({inside})"


def _alike(tau: float) -> str:
    return f"{(1 + tau) / 2:.0%}"


def truth(card: Card) -> str:
    """What the scores are compared with."""
    about, seeds, networks = card["about"], card["about"]["seeds"], card["networks"]
    spread = sum(net["group"] == "spread" for net in networks)
    near = sum(in_band(net, card) for net in networks)
    times = {1: "once", 2: "twice"}.get(len(seeds), f"{len(seeds)} times")
    often = times if len(seeds) == 1 else f"{times} with different seeds"
    return (
        f"{len(networks)} networks inside the budget were drawn, {spread} of them from all over "
        f"the range of MACs; {near} are within {near_level(card)} ({about['level']}). The proxy of "
        f"each was trained alone, {often}, by the supernet's recipe for {about['steps']:,} steps "
        f"(the supernet: {about['supernet_steps']:,}), and its accuracy measured on "
        f"{about['images']:,} {about['split']} images. That is the accuracy of the proxy, not of "
        "the network at its own size."
    )


def near_level(card: Card) -> str:
    """`10% of 4G MACs`."""
    return f"{card['band']:.0%} of {quantity(card['level'])} MACs"


def notes(card: Card) -> list[str]:
    """What a reader has to know beside the numbers."""
    said = []
    failed = [net for net in card["networks"] if net not in counted(card)]
    if failed:
        many = "1 network is" if len(failed) == 1 else f"{len(failed)} networks are"
        first = failed[0]
        said.append(
            f"{many} left out, as something failed; {first['name']}: "
            f"{first['problem'] or 'it has no score'}."
        )
    if card["about"]["split"] == "validation":
        said.append(
            "There are no test images, so the accuracies are of the images that scores are "
            "computed from too; that makes the scores look somewhat better than they are."
        )
    if card["about"]["steps"] != card["about"]["supernet_steps"]:
        said.append("The networks were trained for another number of steps than the supernet.")
    ceiling = card["ceiling"]
    if ceiling is not None and ceiling["value"] is not None:
        said.append(
            "Two trainings of the same networks, with different seeds, agree with tau "
            f"{number(ceiling)}, n = {ceiling['n']}. A score that comes up to that tells as much "
            "as training once does."
        )
    return said


def number(estimate: Mapping[str, Any]) -> str:
    """`0.68 (0.42 to 0.83)`, or a dash."""
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if value is None:
        return "–"
    return f"{value:.2f}" + ("" if low is None else f" ({low:.2f} to {high:.2f})")


def show(folder: RunFolder, card: Card) -> list[Any]:
    """The card for a person at a terminal."""
    near = f"near {quantity(card['level'])} MACs"
    heads = ["", "tau", "rho", "n", f"tau {near}", f"rho {near}", "n "]
    rows = [
        [
            row["name"],
            number(row["tau"]),
            number(row["rho"]),
            str(row["tau"]["n"]),
            number(row["band_tau"]),
            number(row["band_rho"]),
            str(row["band_tau"]["n"]),
        ]
        for row in card["agreements"]
    ]
    shown: list[Any] = [table("Agreement with training alone, and 95% intervals", heads, rows)]
    if card["kinds"]:
        heads = ["operator", "n", "ranked too high by", "main one of", "tau of these"]
        shown.append(table("By kind of operator", heads, kind_cells(card)))
    shown += [truth(card), *notes(card), verdict(card)]
    return [*shown, f"Card:    {folder.trust}", f"Report:  {folder.report}"]


def kind_cells(card: Card) -> list[list[str]]:
    """For each kind: name, networks that have it, how far the supernet ranks them too high on the
    average (in shares of all ranks), networks of which it is the main kind, and tau of these."""
    return [
        [
            kind["kind"].replace("_", " "),
            str(kind["networks"]),
            f"{kind['bias']:+.1%}",
            str(kind["main"]),
            "–" if kind["tau"] is None else number(kind["tau"]),
        ]
        for kind in card["kinds"]
    ]


# ---- the chart


def points(card: Card) -> list[dict[str, Any]]:
    """A point for each network that counts, for the chart."""
    return [
        {
            "name": net["name"],
            "score": net["score"],
            "accuracy": mean(net["accuracies"]),
            "kind": net["main_kind"].replace("_", " ") or "none",
            "kinds": ", ".join(kind.replace("_", " ") for kind in net["kinds"]),
            "macs": f"{quantity(net['macs'])} MACs",
            "params": f"{quantity(net['params'])} parameters",
            "near": in_band(net, card),
        }
        for net in counted(card)
    ]


def scatter(card: Card) -> Any:
    """Accuracy of the proxies trained alone against the supernet's score; colours and shapes are
    main operators, rings mark the networks near the card's level of MACs."""
    import altair as alt

    kinds = sorted({point["kind"] for point in points(card)})
    colours = [drawing.colour(kind.replace(" ", "_")) for kind in kinds]
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(kinds))]
    x = alt.X("score:Q", title="supernet score", scale=alt.Scale(zero=False, padding=14))
    y = alt.Y(
        "accuracy:Q",
        title=f"accuracy of the proxy, trained alone ({card['about']['split']} images)",
        axis=alt.Axis(format=".1~%"),
        scale=alt.Scale(zero=False, padding=14),
    )
    legend = alt.Legend(orient="top", title="main operator", columns=3)
    base = alt.Chart(alt.NamedData("trust"))
    rings = (
        base.transform_filter("datum.near")
        .mark_point(style="budget", shape="circle", size=260, filled=False, aria=False)
        .encode(x, y)
    )
    dots = base.mark_point(
        filled=True, size=80, opacity=1, stroke="#444444", strokeWidth=0.8
    ).encode(
        x,
        y,
        color=alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=colours), legend=legend),
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=shapes), legend=legend),
        tooltip=[
            alt.Tooltip("name:N", title="network"),
            alt.Tooltip("macs:N", title="cost"),
            alt.Tooltip("params:N", title="size"),
            alt.Tooltip("score:Q", title="score", format=".4f"),
            alt.Tooltip("accuracy:Q", title="accuracy of the proxy", format=".1%"),
            alt.Tooltip("kinds:N", title="operators"),
        ],
    )
    return alt.layer(rings, dots)


def standalone(card: Card) -> dict[str, Any]:
    """The chart as a specification that needs nothing else."""
    title = {
        "text": f"Supernet score against training alone, {card['about']['run']}",
        "subtitle": f"rings: within {near_level(card)}",
        "anchor": "start",
    }
    chart = scatter(card).properties(width=CHART_WIDTH, height=CHART_HEIGHT, title=title)
    spec = chart.to_dict()
    spec["datasets"] = {"trust": points(card)}
    spec["background"] = "#ffffff"
    spec["config"] = {"style": {"budget": {"color": "#566072", "strokeDash": [5, 4]}}}
    return spec
