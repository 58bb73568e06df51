"""Writes docs/scoring.md from the result files: `python -m benchmarks.scoring_page`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from results.run_folder import write_text

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "scoring.md"

BEGIN = """# How fast candidates are scored

One generation of an evolution (children that differ from a parent in one gene) is scored with the
weights of a trained supernet: each alone (`plain`), as a tree in which common beginnings are
computed once (`tree`), with the beginnings of their parents still there (`kept`), and in a race in
which who cannot be among the best any more drops out (`race`). All ways run in turns in one
process; times are medians over repetitions with the quartiles. Made by
`python -m benchmarks.scoring_page` from the files in
[benchmarks/results](../benchmarks/results), which hold commands, versions and seeds.
"""
TITLE = """
## {device}

[{file}](../benchmarks/results/{file}): space `{space}` at width {width:g} and {side} x {side}
pixels, {children} children, {images} images in chunks of {chunk}, after {steps} steps of training.

| way | seconds | times faster | candidates a second | kept, MiB |
|---|---|---|---|---|
"""
RACE = """
- Outcomes of `tree` are those of one network after the other, image by image: {same}.
- Races for {places} places over the same outcomes with the images in {orders} orders, at an error
  of {error:g} for a pair: {winners:.1%} found exactly those that are best on all images ({kept:.2%}
  of all winners were right), having seen {share:.0%} of the images ({low:.0%} to {high:.0%}). The
  last place is won by a lead of {gap:.2g} in a score.
- A candidate in the supernet takes {slicing:.2f} times as long as its extracted network where its
  weights are cut out in each pass ({slicing_low:.2f} to {slicing_high:.2f}), {frozen:.2f} times
  where its parts hold them ({frozen_low:.2f} to {frozen_high:.2f}).
- First-order predictions of single swaps order the neighbours of a parent with Spearman's rho of
  {rhos}.
"""


def main() -> int:
    write_text(PAGE, page())
    return 0


def page() -> str:
    """The whole page."""
    text = BEGIN
    for path in sorted(RESULTS.glob("scoring-*.json")):
        text += section(path.name, json.loads(path.read_text(encoding="utf-8")))
    for path in sorted(RESULTS.glob("search_speed-*.json")):
        text += search_section(path.name, json.loads(path.read_text(encoding="utf-8")))
    return text


def section(file: str, result: Mapping[str, Any]) -> str:
    shapes, race = result["shapes"], result["race"]
    text = TITLE.format(file=file, device=result["device"], steps=result["trained_steps"], **shapes)
    for way, found in result["ways"].items():
        seconds = found["seconds"]
        text += (
            f"| `{way}` | {seconds['median']:.1f} ({seconds['quartile_1']:.1f} to "
            f"{seconds['quartile_3']:.1f}) | {result['times_faster'][way]:.2f} | "
            f"{found['candidates_a_second']:.2f} | {found['kept_mib']:.0f} |\n"
        )
    share = race["share_of_images"]
    slicing = result["slicing"]
    text += RACE.format(
        same="yes" if result["same_outcomes_image_by_image"] else "no",
        places=race["places"],
        orders=race["orders"],
        error=race["error"],
        winners=race["same_winners"],
        kept=race["winners_kept"],
        share=share["median"],
        low=share["quartile_1"],
        high=share["quartile_3"],
        gap=abs(race["gap_at_the_last_place"]),
        slicing=slicing["supernet_over_network"]["median"],
        slicing_low=slicing["supernet_over_network"]["quartile_1"],
        slicing_high=slicing["supernet_over_network"]["quartile_3"],
        frozen=slicing["frozen_over_network"]["median"],
        frozen_low=slicing["frozen_over_network"]["quartile_1"],
        frozen_high=slicing["frozen_over_network"]["quartile_3"],
        rhos=", ".join(f"{rho:.2f}" for rho in result["swaps"]["spearman"]),
    )
    if result["processor"]:
        text += "- Time under other settings of the processor, over that as it is:\n  "
        others = {name: v for name, v in result["processor"].items() if name != "as it is"}
        text += "; ".join(f"{name} {ratio:.2f}" for name, ratio in others.items()) + ".\n"
    most = max(found["peak_mib"] for found in result["ways"].values())
    text += f"- The whole process took {most:.0f} MiB at most, kept prefixes included.\n"
    return text


SEARCH = """
## A default search, before and after

[{file}](../benchmarks/results/{file}): {evaluations} candidates of a default run with the digits on
{device}, with the same trained supernet, in one process: one after the other on all images, and as
a search scores now.

| way | seconds | candidates a second | best score at the budget |
|---|---|---|---|
"""


def search_section(file: str, result: Mapping[str, Any]) -> str:
    text = SEARCH.format(file=file, evaluations=result["evaluations"], device=result["device"])
    for way, found in result["ways"].items():
        text += (
            f"| {way} | {found['seconds']:.1f} | {result['evaluations'] / found['seconds']:.1f} | "
            f"{found['best']:.4f} |\n"
        )
    return text


if __name__ == "__main__":
    raise SystemExit(main())
