"""How the search went: its progress, what its front dominates beside a random search of as many
evaluations, and which operators it chose stage by stage."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from results import charts, drawing
from results.figures import finite
from results.growth import growth
from results.history import Row
from results.section import Section
from results.view import BAND, View, proposer

RANDOM = "random"


def section(view: View) -> Section:
    rows = view.run.rows
    proposers = list(dict.fromkeys(proposer(row) for row in rows))
    made: dict[str, Any] = {}
    grown = against_chance(view)
    names = list(grown["final"])
    if grown["curves"]:
        made["growth-volume"] = charts.growth_chart("volume", "hypervolume (share)", names)
        if any(point["best"] is not None for point in grown["curves"]):
            made["growth-best"] = charts.growth_chart("best", "best score at the budget", names)
    if any(finite(row.reward) is not None for row in rows):
        failures = any(finite(row.reward) is None for row in rows)
        made["progress"] = charts.progress_chart(proposers, failures)
    content = {
        "several": len(proposers) > 1,
        "chance": grown["final"] if len(names) > 1 else {},
        "chance_says": against_chance_says(view, grown["final"]),
        "shares": operator_shares(view.scored, view.ranked, view.members),
        "legend": legend(view.scored),
    }
    return Section(content, made, made, {"growth": grown["curves"]})


def against_chance(view: View) -> dict[str, Any]:
    """`results.growth` of this search and, where there was one, of a random one."""
    run = view.run
    by_chance = run.by_chance if view.target in view.limits else ()
    searches = {view.who: run.rows, **({RANDOM: by_chance} if by_chance else {})}
    if by_chance and view.who == RANDOM:  # it is one itself
        searches = {f"{RANDOM}, this run": run.rows, RANDOM: by_chance}
    return growth(searches, view.limits, view.target, BAND, run.objectives)


def against_chance_says(view: View, final: dict[str, Any]) -> str:
    """Whether the search found more than chance, in a sentence; empty without a random search."""
    if len(final) < 2:
        return ""
    mine, other = final.values()
    if mine["n"] != other["n"]:
        return f"Random search has made {other['n']:,} of {mine['n']:,} evaluations so far."
    if not other["volume"] or not mine["volume"]:
        return ""
    ratio = mine["volume"] / other["volume"] - 1
    return (
        f"After {mine['n']:,} evaluations the front dominates {abs(ratio):.1%} "
        f"{'more' if ratio >= 0 else 'less'} than that of a random search after as many."
    )


def operator_shares(
    rows: Sequence[Row], ranked: Sequence[Row], members: Sequence[Row]
) -> list[dict[str, Any]]:
    """For each stage, how often each operator and downsampling module stands there, among all
    candidates, the tenth of largest reward, and the front; and which of them `won`: the most
    frequent on the front, or in the best tenth where there is none. Empty where there was no
    choice."""
    groups = {"all": rows, "best tenth": ranked[: math.ceil(len(ranked) / 10)], "front": members}
    table = []
    for i in range(max((len(row.genome["stages"]) for row in rows), default=0)):
        for what, kinds in (("downsampling", _downsampling_kinds), ("operators", _block_kinds)):
            found = {name: Counter(kinds(group, i)) for name, group in groups.items()}
            if len(found["all"]) > 1:
                bars = {name: _bar(counts) for name, counts in found.items()}
                won = _winner(bars)
                table.append({"stage": i + 1, "what": what, "bars": bars, "won": won})
    return table


def _winner(bars: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    where = "front" if bars["front"] else "best tenth"
    won = max(bars[where], key=lambda part: part["share"])
    before = next(part["share"] for part in bars["all"] if part["kind"] == won["kind"])
    return {**won, "where": where, "before": before}


def _block_kinds(rows: Iterable[Row], i: int) -> Iterator[str]:
    for row in rows:
        for stage in row.genome["stages"][i : i + 1]:
            yield from (block["kind"] for block in stage["blocks"])


def _downsampling_kinds(rows: Iterable[Row], i: int) -> Iterator[str]:
    for row in rows:
        for stage in row.genome["stages"][i : i + 1]:
            yield (stage["downsample"] or {"kind": "none"})["kind"]


def _bar(counts: Counter[str]) -> list[dict[str, Any]]:
    whole = sum(counts.values())
    return [{**_look(kind), "share": counts[kind] / whole} for kind in sorted(counts)]


def _look(kind: str) -> dict[str, Any]:
    fill = drawing.colour(kind)
    label = drawing.short_label(kind)
    return {"kind": kind, "label": label, "fill": fill, "ink": drawing.ink(fill)}


def legend(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every operator and downsampling module that occurs, by name."""
    kinds: set[str] = set()
    for row in rows:
        for stage in row.genome["stages"]:
            kinds.update(block["kind"] for block in stage["blocks"])
            kinds.update([stage["downsample"]["kind"]] if stage["downsample"] else [])
    return [_look(kind) for kind in sorted(kinds)]
