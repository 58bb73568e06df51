"""Writes the tables of docs/controllers.md from the result files of `benchmarks.search_rows`:

    python -m benchmarks.search_page

What stands between the markers is replaced; all else on the page is somebody's own words. Where
there is no page yet, one is begun.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.search_rows import COUNTED, RESULTS, ROWS
from results.run_folder import write_text

PAGE = Path(__file__).parents[1] / "docs" / "controllers.md"
BEGIN = "<!-- made by benchmarks/search_page.py: begin -->"
END = "<!-- made by benchmarks/search_page.py: end -->"
NEW = "# Controllers compared\n\n" + BEGIN + "\n" + END + "\n"

INTRODUCTION = """
Means over searches with their standard errors; `until` is the median (quartiles) of evaluations
until one of the best was evaluated, over all searches, `never` in how many that was not so. What is
known already is evaluated for free by everybody. Made by `python -m benchmarks.search_page` from
the files in [benchmarks/results](../benchmarks/results), which hold commands, versions and seeds;
`make search-tables TABLES=DIR` plays all of it.
"""
TITLES = {
    "macro": "NAS-Bench-Macro, accuracy",
    "macro-small": "NAS-Bench-Macro, accuracy at no more than the median of FLOPs",
    "macro-front": "NAS-Bench-Macro, front of accuracy against FLOPs",
    "macro-known-front": "NAS-Bench-Macro, front of accuracy against FLOPs, which are known",
    "graph": "NAS-Bench-Graph, task arxiv, test accuracy",
    "graph-valid": "NAS-Bench-Graph, task arxiv, validation accuracy",
    "graph-small": "NAS-Bench-Graph, task arxiv, at no more than the median of parameters",
    "graph-front": "NAS-Bench-Graph, task arxiv, front of test accuracy against parameters",
    "graph-known-front": "NAS-Bench-Graph, task arxiv, the same with parameters that are known",
}


def main() -> int:
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else NEW
    write_text(PAGE, replaced(text, tables(RESULTS)))
    return 0


def replaced(text: str, made: str) -> str:
    """The page with what is between the markers made anew. ValueError where they are not there."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} lacks a line {BEGIN if not begin else END!r}")
    return f"{before}{BEGIN}\n{made}{END}{after}"


def tables(folder: Path) -> str:
    """All that is between the markers."""
    text = INTRODUCTION + overview(folder) + long_ones(folder)
    for row in ROWS:
        for counted in COUNTED:
            path = folder / f"search_tables-{row}-{counted}.json"
            if path.is_file():
                text += section(row, path.name, json.loads(path.read_text(encoding="utf-8")))
    return text + "\n"


OVERVIEW = """
### The predictor beside the best of the others

Evaluations until one of the best 0.1% was evaluated (median; those of Optuna, pymoo, nevergrad and
plain methods of which half of the searches came there), and medians of the hypervolume after 100
and 200 evaluations, as a share of the true front's.

| | counting | searches | predictor | best of the others |
|---|---|--:|--:|--:|
"""


def overview(folder: Path) -> str:
    """A line for each row in which the predictor has played."""
    lines = ""
    for row in ROWS:
        for counted in COUNTED:
            path = folder / f"search_tables-{row}-{counted}.json"
            found = (
                json.loads(path.read_text(encoding="utf-8"))["summary"] if path.is_file() else {}
            )
            if "predictor" not in found:
                continue
            others = {name: one for name, one in found.items() if ":" in name}
            if row.endswith("front"):
                # Costs that are known are no use to the others: they played the plain row.
                if "known" in row:
                    plain = folder / path.name.replace("-known", "")
                    others = json.loads(plain.read_text(encoding="utf-8"))["summary"]
                    others = {name: one for name, one in others.items() if ":" in name}
                cells = [_areas(found["predictor"]), _best_areas(others)]
            else:
                cells = [_n(found["predictor"]["until"]["median"]), _soonest(others)]
            seeds = found["predictor"]["seeds"]
            lines += f"| {TITLES[row]} | {counted} | {seeds} | {cells[0]} | {cells[1]} |\n"
    return OVERVIEW + lines if lines else ""


def _areas(found: Mapping[str, Any]) -> str:
    return " / ".join(f"{found['hypervolume'][n]['median']:.3f}" for n in ("100", "200"))


def _best_areas(others: Mapping[str, Mapping[str, Any]]) -> str:
    said = []
    for n in ("100", "200"):
        name = max(others, key=lambda name: others[name]["hypervolume"][n]["median"])
        said.append(f"{others[name]['hypervolume'][n]['median']:.3f} (`{name}`)")
    return " / ".join(said)


def _soonest(others: Mapping[str, Mapping[str, Any]]) -> str:
    known = {
        name: one["until"]["median"]
        for name, one in others.items()
        if one["until"]["median"] is not None
    }
    if not known:
        return "-"
    name = min(known, key=lambda name: known[name])
    return f"{known[name]:g} (`{name}`)"


LONG = """
### Longer searches by controllers without a model

NAS-Bench-Macro, counting encodings: medians after 50 / 100 / 200 / 400 evaluations of the accuracy
of what looks best, judged by the mean of three trainings, where one is seen; all networks, and
those with at most the median of FLOPs; and of the hypervolume as a share of the true front's, FLOPs
being observed.

| controller | searches | accuracy | within the limit | hypervolume |
|---|--:|--:|--:|--:|
"""


def long_ones(folder: Path) -> str:
    """From `search_long-*.json`; empty where these are missing."""
    found: dict[str, dict[str, tuple[str, int]]] = {}
    for name, measure, digits in (
        ("macro", "chosen", 3),
        ("macro-small", "chosen", 3),
        ("macro-front", "hypervolume", 3),
    ):
        path = folder / f"search_long-{name}.json"
        if not path.is_file():
            return ""
        for controller, one in json.loads(path.read_text(encoding="utf-8"))["summary"].items():
            numbers = [one[measure][n]["median"] for n in ("50", "100", "200", "400")]
            cell = " / ".join(f"{number:.{digits}f}" for number in numbers)
            found.setdefault(controller, {})[name] = cell, one["seeds"]
    text = LONG
    for controller, cells in found.items():
        seeds = max(seeds for _, seeds in cells.values())
        shown = [cells.get(name, ("-", 0))[0] for name in ("macro", "macro-small", "macro-front")]
        text += f"| `{controller}` | {seeds} | {' | '.join(shown)} |\n"
    return text


def section(row: str, file: str, result: Mapping[str, Any]) -> str:
    settings, truth, sign = result["settings"], result["truth"], result["sign"]
    ground, points = settings["ground"], [str(point) for point in settings["points"]]
    digits = 3 if abs(truth["optimum"]) >= 10 else 4
    two = truth["area"] is not None
    limits = "".join(f", {one['text']} ({one['value']:g})" for one in ground["limits"])
    best = f"{sign * truth['optimum']:.{digits}f}"
    text = (
        f"\n### {TITLES[row]}, counting {ground['counted']}\n\n"
        f"[{file}](../benchmarks/results/{file}): observed `{', '.join(ground['observed'])}`, "
        f"judged `{ground['objective']}`{limits}; {ground['feasible']:,} {ground['counted']}"
    )
    if two:
        reference = ", ".join(f"{abs(value):g}" for value in truth["reference"])
        text += f". Hypervolume as a share of the true front's, beyond ({reference}).\n"
        columns = {"hypervolume": "hypervolume"}
    else:
        text += (
            f", the best has {best}. One of the best: {truth['best_count']} with "
            f"{sign * truth['best']:.{digits}f} or better.\n"
        )
        columns = {"chosen": "chosen"}
    heads = [f"{word}, {point}" for word in columns.values() for point in points]
    heads += [] if two else ["until", "never"]
    text += f"\n| controller | searches | {' | '.join(heads)} | ms a suggestion |\n"
    text += "|---|" + "--:|" * (len(heads) + 2) + "\n"
    order = sorted(
        result["summary"].items(),
        key=lambda item: -sign * (item[1][next(iter(columns))][points[-1]]["mean"] or 0.0),
    )
    for name, found in order:
        cells = [f"`{name}`", str(found["seeds"])]
        for measure in columns:
            cells += [_mean(found[measure][point], 4 if two else digits) for point in points]
        if not two:
            until = found["until"]
            low, high = (_n(quartile) for quartile in until["quartiles"])
            cells += [f"{_n(until['median'])} ({low} to {high})", str(until["misses"])]
        cells.append(f"{1e3 * found['seconds_a_suggestion']['median']:.1f}")
        text += f"| {' | '.join(cells)} |\n"
    return text


def _mean(spread: Mapping[str, Any], digits: int) -> str:
    if spread["mean"] is None:
        return "-"
    error = "" if spread["error"] is None else f" ± {spread['error']:.{digits}f}"
    return f"{spread['mean']:.{digits}f}{error}"


def _n(count: float | None) -> str:
    return "-" if count is None else f"{count:g}"


if __name__ == "__main__":
    raise SystemExit(main())
