"""Writes docs/latency_tables.md from the results: `python -m benchmarks.latency_tables_page`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from results.run_folder import write_text

RESULT = Path(__file__).parent / "results" / "latency_tables.json"
PAGE = Path(__file__).parents[1] / "docs" / "latency_tables.md"
OURS, GOAL, NEAR = "sums over parts", 0.98, 0.001
FITTED = ("spearman_fitted",)
PLAIN = ("MACs", "linear", "random forest", "gradient boosting", "Gaussian process")

BEGIN = """# Latencies that others measured

How well the predictor of [evaluator/latency_regression.py](../evaluator/latency_regression.py)
says latencies of networks that nobody here measured: {known} random rows of a published table are
known, the others are predicted, for seeds {seeds}. It writes a latency as a sum over the network's
parts and learns what parts cost from sums alone. Made by `make latency-tables TABLES=DIR`:
[latency_tables.json](../benchmarks/results/latency_tables.json), `{command}`, {device}, {versions}.

The goal is a Spearman correlation of {goal}, or what the table's own repeated measurements allow.

"""
OVERVIEW = (
    *("device", "rows", "Spearman", "median error", "within 10%", "best plain", "can be reached"),
    *("from more rows", "goal"),
)
NOTES = """
- Means over seeds, in brackets the lowest and the highest. Errors are relative to the measurement.
- Best plain: that of the predictors of scikit-learn which correlates best, on the same rows. They
  predict the logarithm of the latency from the table's codes and the logarithms of its numbers
  (MACs, parameters); the tables below have all of them.
- What can be reached: the correlation of latencies with themselves once more, with errors drawn
  from those of repeated measurements (`repeats`), or with the deviations that the table states for
  each row (`stated`). The higher number takes the measurements for the truth, which spread more
  than that; the lower one takes what is predicted from 2,000 rows.
- From more rows: the better one of our predictor from 2,000 rows and of gradient boosting from 80%
  of all, but at most 20,000.
- The goal is met where the correlation is {goal}. Else it is missed, unless it is below neither
  what can be reached nor what is reached from more rows, to three digits.
"""
SECTIONS = {
    "accel_nasbench": """A row is written as its MBConv blocks. Widths and strides are published
with the benchmark; that stem, head and image size are those of EfficientNet-B0 follows from
counting: parameters are exactly those of the table in {params:,} of {rows:,} rows and MACs in
{macs:,}, if 4 MACs are counted for each normalised element, as the table does. Milliseconds are
1000 over images a second. Repeats are 13 networks that were measured twice; a100, 3090 and the TPUs
state deviations.

tpuv3 cannot be ranked as the others can. Three of ten of its networks wait for something else than
the device and are all as fast (about 1,620 images/s), so that their order is that of noise: the
three repeats there have a standard deviation of 4%, the ten others one of 1.4%. And it was measured
in several runs: from row 3,719 on such networks have no more than 1,450 images/s, and later 1,350.
The rows of the first run and of the last one alone are beside it. Tried:

- the sum alone, which misses latencies by half as much again and more (`no floor`, below);
- a floor below which no network comes, which is in all that is shown here;
- the stated deviations as errors of the known rows, which does not change the order;
- gradient boosting on top of our sums (`boosting on sums`): it finds from the codes in which run a
  network was measured, as only the last one has four layers in stage 5. It is the best on all rows
  and says nothing of the device.
""",
    "nasbench_graph": """A row is written as its four operators, with what tells their cost:
whether the input is that of the network, whether the output is, the place in the order, and whether
a later operator makes the host wait for the device. The last is not published and matters most:
`gat`, `gcn` and `cheb` look at the edges before they compute, and latencies count what was computed
before the last of them, and of the rest only the launches. Four ways to say which parts are of one
kind are averaged, by their errors in a cross-validation on the known rows.

All 59,049 encodings lead to 26,206 rows, and no two rows are the same network, also not when
operators that skip are taken out: nothing was measured twice. Nearest to it are 720 pairs of chains
that have their second and third operator exchanged, neither of which makes the host wait; their
differences stand for errors (`repeats`). On physics, photo and arxiv the order of operators
matters, as predictions come closer than that; there the pairs bound nothing. The largest errors are
of networks without a waiting operator that take ten times as long as others like them, as happens
in physics and arxiv. What stands under MACs is the number of parameters.

Tried for cora, pubmed and physics: operators alone; with whether a later operator waits; rooflines
of their own for each of four combinations of these; parents, number of outputs and links as further
settings, which change nothing; Gaussian processes and trees on counts of operators, which are
worse; boosting on our sums, which is better on physics and arxiv and worse on the others.
""",
    "v100_conv_latency": """A row is one convolution and so one part; latencies span four decades.
A roofline of MACs, input, output and weights, and of tiles of 64 channels by 128 pixels in turns of
80 at once, is the prior mean. Nothing is repeated. fp16 misses the goal: tried were padded MACs,
alignment of channels, kinds of convolution with rooflines of their own, batches as categories. From
2,000 rows it is met.
""",
    "timm_imagenet": """A row is one model at one resolution, of which no more is known than MACs,
activations, parameters, resolution and the words of its name; it is one part. Rows that differ in
their weights alone have the same speed to the last digit, so nothing is repeated. Tried where the
goal is missed: ratios of activations and parameters to MACs, classes of families with rooflines of
their own or as a setting, families without words, words chosen by hand (which are as good).
""",
    "proxyless_pixel_lut": """69 blocks, each predicted from the other 68. Each is the mean of many
measurements, which state their variance.
""",
}
COVERED = """
## Standard deviations

The share of rows that are not further from the prediction than one and two of its standard
deviations; of normal errors it would be 68% and 95%. Where a table has several forms, of the first.

"""
WITHOUT = """
## What each idea is worth

Our predictor without one of its ideas, and of several forms with the first alone: mean Spearman
correlation and median error over the devices of each table.

"""


def main() -> int:
    write_text(PAGE, page(json.loads(RESULT.read_text(encoding="utf-8"))))
    return 0


def page(found: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    seeds = f"{found['seeds'][0]} to {found['seeds'][-1]}"
    text = BEGIN.format(
        known=found["known"],
        seeds=seeds,
        command=found["command"],
        device=found["device"],
        versions=versions,
        goal=GOAL,
    )
    text += row(*OVERVIEW) + row("---", *7 * ["--:"], "---")
    for table in found["tables"].values():
        for name, device in table["devices"].items():
            text += overview_row(f"{table['title']}: {name}", device)
    text += NOTES.format(goal=GOAL)
    for name, table in found["tables"].items():
        text += section(name, table)
    text += COVERED + "".join(covered(found["tables"].values()))
    return text + WITHOUT + "".join(without(found["tables"].values()))


def overview_row(title: str, device: Mapping[str, Any]) -> str:
    ours = device["methods"][OURS]
    best = max(PLAIN, key=lambda name: device["methods"][name]["spearman"]["mean"])
    value = device["methods"][best]["spearman"]["mean"]
    more = device["reachable"]
    larger = [more[name]["spearman"] for name in ("ours", "boosting") if name in more]
    return row(
        title,
        f"{device['rows']:,}",
        ranged(ours["spearman"]),
        f"{ours['median_error']['mean']:.1%}",
        f"{ours['within_10']['mean']:.1%}",
        f"{value:.3f} {best}",
        bounds(more),
        f"{max(larger):.3f}" if larger else "",
        verdict(ours["spearman"]["mean"], more),
    )


def ranged(score: Mapping[str, float]) -> str:
    if score["low"] == score["high"]:
        return f"{score['mean']:.4f}"
    return f"{score['mean']:.4f} ({score['low']:.4f} to {score['high']:.4f})"


def bounds(more: Mapping[str, Any]) -> str:
    words = []
    for name in ("repeats", "stated"):
        if name in more:
            ends = {f"{more[name][key]:.3f}" for key in (*FITTED, "spearman") if key in more[name]}
            words.append(f"{' to '.join(sorted(ends))} {name}")
    return ", ".join(words)


def verdict(spearman: float, more: Mapping[str, Any]) -> str:
    if round(spearman, 3) >= GOAL:
        return "met"
    larger = max(more[name]["spearman"] for name in ("ours", "boosting"))
    limits = [more[name]["spearman"] for name in ("repeats", "stated") if name in more]
    if limits and round(spearman, 3) >= round(max(min(limits), larger), 3):
        return "as measured"
    return "missed; more rows do not help" if spearman > larger - NEAR else "missed"


def section(name: str, table: Mapping[str, Any]) -> str:
    counts = table.get("counts", {})
    text = f"\n## {table['title'][0].upper()}{table['title'][1:]}\n\n"
    text += f"`{name}`, {table['rows']:,} rows; {table['source']}, {table['licence']}.\n\n"
    text += SECTIONS[name].format(**counts)
    methods = list(next(iter(table["devices"].values()))["methods"])
    text += "\nSpearman's correlation:\n\n"
    text += row("device", *methods) + row("---", *["--:"] * len(methods))
    for device, found in table["devices"].items():
        text += row(device, *(f"{found['methods'][m]['spearman']['mean']:.4f}" for m in methods))
    text += "\nMedian error:\n\n"
    text += row("device", *methods) + row("---", *["--:"] * len(methods))
    for device, found in table["devices"].items():
        text += row(
            device, *(f"{found['methods'][m]['median_error']['mean']:.1%}" for m in methods)
        )
    return text


def covered(tables: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield row("device", "one", "two") + row("---", "--:", "--:")
    for table in tables:
        for name, device in table["devices"].items():
            if device["covered"]:
                shares = (device["covered"][many]["mean"] for many in ("one", "two"))
                yield row(f"{table['title']}: {name}", *(f"{share:.0%}" for share in shares))


def without(tables: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    tables = [table for table in tables if any(d["without"] for d in table["devices"].values())]
    yield row("", *(table["title"] for table in tables)) + row("---", *["--:"] * len(tables))
    names = list(
        dict.fromkeys(n for t in tables for d in t["devices"].values() for n in d["without"])
    )
    for name in names:
        cells = []
        for table in tables:
            devices = [
                d["without"][name] for d in table["devices"].values() if name in d["without"]
            ]
            cells.append(
                f"{mean(devices, 'spearman'):.4f}, {mean(devices, 'median_error'):.1%}"
                if devices
                else ""
            )
        yield row(name, *cells)


def mean(devices: list[Mapping[str, Any]], score: str) -> float:
    return sum(device[score]["mean"] for device in devices) / len(devices)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    raise SystemExit(main())
