"""Writes docs/ranking.md from the result files: `python -m benchmarks.ranking_page`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from results.run_folder import write_text

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "ranking.md"

BEGIN = """# How well scores rank networks

A supernet is worth what its ranking is worth. Kendall's tau says how far two orders agree: 1 where
every pair of networks is ordered alike, 0 where half of the pairs are. (1 + tau) / 2 is the share
of pairs that are ordered alike. Intervals are 95% bootstrap intervals over networks; they do not
cover what another seed would do to the training. Made by `python -m benchmarks.ranking_page` from
the files in [benchmarks/results](../benchmarks/results), which hold commands, devices, versions and
seeds.
"""
MACRO = """
## Against networks that others trained

NAS-Bench-Macro (Su et al., 2021, arXiv 2105.11871): 6,561 encodings of 3,969 distinct networks of
inverted bottlenecks, each trained alone three times on CIFAR-10 by its authors. The space
`nasbench_macro` has one genome for each distinct network, and reproduces the parameters and the
multiply-adds of all rows of the table; its `flops` are the multiply-adds of convolutions and of the
classifier, without norms and biases. A supernet of ours is trained on 40,000 of the 50,000 training
images and scores all networks on others of them. The band holds the 893 networks within 10% of 50
million MACs, among which MACs hardly help.

| ranked by | tau, all | tau, band |
|---|---|---|
"""
ABLATION = """
## What each setting does

One supernet for each row, with one setting changed; `python -m benchmarks.ablation`. On the default
space the truth are networks trained alone at the size of the proxy; on NAS-Bench-Macro the table.
"Above" is by how much tau is above that of the recipe as it is, for the same networks, with an
interval over networks. **Another seed of the same recipe moves tau as well**: the row "again" shows
by how much, and what is not clearly beyond that means nothing. Time is seconds of the processor for
the training, and accuracies are those of networks with shared weights.
"""
ABLATION_TABLE = """
### {space}: {networks} networks, {steps} steps of {batch} images

{file}, {device}.

| variant | tau | above | time | largest | mean | smallest |
|---|---|---|---|---|---|---|
"""


def main() -> int:
    write_text(PAGE, page())
    return 0


def page() -> str:
    """The whole page."""
    macro = load("ranking_nasbench_macro-*.json")
    text = BEGIN
    if macro:
        text += MACRO + macro_rows(macro) + "".join(describe(found) for found in macro)
    for found in load("trust-*.json"):
        text += trust_section(found)
    for found in load("largest-*.json"):
        text += largest_section(found)
    for found in load("ablation-[!t]*.json"):
        text += ABLATION
        for space in dict.fromkeys(row["space"] for row in found["variants"]):
            text += ablation_table(found, space)
    return text


def load(pattern: str) -> list[dict[str, Any]]:
    paths = sorted(RESULTS.glob(pattern))
    return [json.loads(path.read_text(encoding="utf-8")) | {"file": path.name} for path in paths]


def macro_rows(results: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for name, found in results[0]["others"].items():
        lines.append([name, tau_of(found["all"]), tau_of(found["band"])])
    for result in results:
        for name, found in result["supernet"].items():
            label = f"supernet, {name.replace('_', ' ')} ({result['file']})"
            lines.append([label, tau_of(found["all"]), tau_of(found["band"])])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def describe(result: Mapping[str, Any]) -> str:
    training, seconds = result["training"], result["seconds"]
    return (
        f"\n[{result['file']}](../benchmarks/results/{result['file']}): width {result['width']:g}, "
        f"{result['side']} x {result['side']} pixels, {training['steps']} steps of "
        f"{training['batch']} images through {training['sampled']} networks each "
        f"({result['epochs']:.1f} epochs), {seconds['training'] / 60:.0f} minutes of training and "
        f"{seconds['scoring'] / 60:.0f} of scoring on {result['device']}, seed {result['seed']}. "
        f"Networks have {result['mean_top1']:.1%} of {result['scored_on_images']} images right, on "
        "average.\n"
    )


def tau_of(found: Mapping[str, Any]) -> str:
    interval = found.get("tau_interval")
    text = f"{found['tau']:.3f}"
    return text if interval is None else f"{text} ({interval[0]:.3f} to {interval[1]:.3f})"


LARGEST = """
## Whether the largest network is left behind

{file}: the supernet of `{space}` on CIFAR-10 at the size of the proxy, and its largest network
alone with the same {steps} steps of {batch} images. Share of the test images that is classified
right; and while the supernet trains, of some validation images (largest / random / smallest).

| seed | largest | the same alone | random | smallest | while training |
|---|---|---|---|---|---|
"""


def largest_section(result: Mapping[str, Any]) -> str:
    settings = result["seeds"][0]["settings"]
    text = LARGEST.format(
        file=f"[{result['file']}](../benchmarks/results/{result['file']})",
        space=result["space"],
        steps=settings["steps"],
        batch=settings["batch"],
    )
    for found in result["seeds"]:
        seen = "; ".join(
            f"{look['step']}: {look['largest']:.0%} / {look['random']:.0%} / {look['smallest']:.0%}"
            for look in found["probes"][2::3]
        )
        shared = found["supernet"]
        text += (
            f"| {found['seed']} | {shared['largest']:.1%} | {found['alone']:.1%} | "
            f"{shared['random']:.1%} | {shared['smallest']:.1%} | {seen} |\n"
        )
    return text


TRUST = """
## On a space of all kinds of operators

{file}: the trust card of a run on the space `{space}` with CIFAR-10, at the size of the proxy.
{networks} networks were trained alone by the recipe of the supernet ({steps} steps of {batch}
images), and compared by their accuracy on the {split} images with what the supernet says. The band
is within {band:.0%} of {level:.3g} multiply-adds. `{command}`, {device}.

| ranked by | tau | tau, band |
|---|---|---|
"""


def trust_section(card: Mapping[str, Any]) -> str:
    """The trust card of a run, as `run_search.py trust` writes it."""
    about = card["about"]
    machine = about["environment"]
    text = TRUST.format(
        file=f"[{card['file']}](../benchmarks/results/{card['file']})",
        networks=sum(network["problem"] is None for network in card["networks"]),
        band=card["band"],
        level=card["level"],
        space=about["space"],
        steps=about["recipe"]["steps"],
        batch=about["recipe"]["batch"],
        command=about["command"],
        split=about["split"],
        device=f"{machine['processor']}, {machine['cores']} cores, {machine['device']}",
    )
    for row in card["agreements"]:
        text += f"| {row['name']} | {estimate(row['tau'])} | {estimate(row['band_tau'])} |\n"
    return text


def estimate(found: Mapping[str, Any]) -> str:
    """A value with its interval and the number of networks."""
    if found["value"] is None:
        return f"none ({found['n']} networks)"
    ends = "" if found["low"] is None else f", {found['low']:.2f} to {found['high']:.2f}"
    return f"{found['value']:.2f} ({found['n']} networks{ends})"


def ablation_table(result: Mapping[str, Any], space: str) -> str:
    rows = [row for row in result["variants"] if row["space"] == space]
    settings = rows[0]["settings"]
    text = ABLATION_TABLE.format(
        space=space,
        networks=rows[0]["networks"],
        steps=settings["steps"],
        batch=settings["batch"],
        file=f"[{result['file']}](../benchmarks/results/{result['file']})",
        device=result["device"],
    )
    for row in rows:
        low, high = row["difference_interval"]
        above = f"{row['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
        text += (
            f"| {row['variant']} | {tau_of(row)} | {above if row['difference'] else ''} | "
            f"{row['cpu_seconds']:.0f} s | {row['largest_top1']:.1%} | {row['mean_top1']:.1%} | "
            f"{row['smallest_top1']:.1%} |\n"
        )
    return text


if __name__ == "__main__":
    raise SystemExit(main())
