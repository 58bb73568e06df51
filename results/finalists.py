"""The finalists of a run, trained alone: their files, their tables and what is said of them.

Everything here is plain data. `commands.finalists` makes the outcome:

- `networks`: for each its `name`, `digest`, `proxy` (the proxy's digest), `group` (a key of
  `GROUPS`), `macs`, `params`, `resolution` and `score` (None where it was not scored); `rungs`, a
  list of `{"steps", "accuracy", "probability", "goes_on"}` on the images that were chosen by;
  `state` (finished, stopped or failed), `test` (accuracy on the images that are reported; None
  where it did not come to the end), `seconds` of training, and the `problem` where it failed.
- `winner`: the digest of the best that came to the end, None where nobody did.
- `steps`: of all trainings together, and `steps_of_all`, what training all to the end would take.
- `about`: what it was made with; `chosen_by` and `reported` name a split and its number of images;
  `proxy` says how large the proxies are, and is None where the networks themselves were trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from results.console import table
from results.run_folder import RunFolder, write_text
from results.tables import csv_text
from space.budget import quantity

FORMAT = 1
GROUPS = {
    "best": "best at the budget",
    "front": "on the front",
    "budget": "next best at the budget",
    "random": "random, at the budget",
}
COLUMNS = (
    "name",
    "digest",
    "group",
    "macs",
    "params",
    "resolution",
    "score",
    "state",
    "stopped_at",
)
_SURE = 1.96  # standard deviations on either side of a mean that hold 95%

Outcome = Mapping[str, Any]


# ---- what is written as it happens


class Log:
    """What came of each training so far: one file, written anew in one piece at every change.

    `networks` has for each key `reached`, a list of `[steps, value, goes_on, details]`, and a
    `problem` or None. Nothing is there where the file is missing, broken, or `of` something else.
    """

    def __init__(self, path: Path, of: Mapping[str, Any]):
        self._path, self._of = path, json.loads(json.dumps(of))
        self.networks: dict[str, dict[str, Any]] = {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["format"] == FORMAT and found["of"] == self._of:
                self.networks = {key: _checked(entry) for key, entry in found["networks"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.networks = {}

    def write(self, key: str, entry: Mapping[str, Any]) -> None:
        self.networks[key] = dict(entry)
        content = {"format": FORMAT, "of": self._of, "networks": self.networks}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _checked(entry: Any) -> dict[str, Any]:
    """ValueError or TypeError where it is not an entry of a log."""
    for steps, value, goes_on, details in entry["reached"]:
        sound = isinstance(steps, int) and isinstance(details, dict) and math.isfinite(value)
        if not sound or goes_on not in (True, False, None):
            raise ValueError(f"{entry!r} is no entry of a log")
    return {"reached": entry["reached"], "problem": entry["problem"]}


# ---- files at the end


class Files(Protocol):
    """Where an outcome is written to."""

    finalists: Path
    finalists_table: Path


def write_outcome(folder: Files, outcome: Outcome) -> None:
    """As CSV, a line for each network, and as JSON."""
    write_text(folder.finalists_table, as_csv(outcome))
    # The last: whoever sees it sees the other.
    write_text(folder.finalists, json.dumps(outcome, indent=2, allow_nan=False) + "\n")


def read_outcome(folder: RunFolder) -> dict[str, Any] | None:
    """The outcome of a run's finalists, None where there is none that can be read."""
    try:
        outcome = json.loads(folder.finalists.read_text(encoding="utf-8"))
        entries = ("networks", "winner", "steps", "steps_of_all", "about")
        return outcome if all(name in outcome for name in entries) else None
    except (OSError, ValueError, TypeError):
        return None


def as_csv(outcome: Outcome) -> str:
    """Accuracies after so many steps have a column each."""
    rungs = outcome["about"]["rungs"]
    split = outcome["about"]["chosen_by"]["split"]
    accuracies = [f"{split}_after_{steps}" for steps in rungs]
    lines: list[list[Any]] = [[*COLUMNS, *accuracies, "test", "winner", "seconds", "problem"]]
    for net in outcome["networks"]:
        values = {**net, "stopped_at": stopped_at(net)}
        found = accuracies_of(net)
        won = "yes" if net["digest"] == outcome["winner"] else ""
        lines.append(
            [
                *(values[column] for column in COLUMNS),
                *(found.get(steps) for steps in rungs),
                *(net["test"], won, round(net["seconds"], 3), net["problem"]),
            ]
        )
    return csv_text(lines)


def accuracies_of(network: Mapping[str, Any]) -> dict[int, float]:
    """Accuracy by steps, on the images that were chosen by."""
    return {rung["steps"]: rung["accuracy"] for rung in network["rungs"]}


def stopped_at(network: Mapping[str, Any]) -> int | None:
    """After how many steps it was stopped; None where it was not."""
    return network["rungs"][-1]["steps"] if network["state"] == "stopped" else None


# ---- words


def show(folder: Files, outcome: Outcome) -> list[Any]:
    """The outcome for a person."""
    rungs = outcome["about"]["rungs"]
    columns = ["network", "", "MACs", "params", "score"]
    columns += [f"after {steps:,}" for steps in rungs] + ["test", ""]
    shown: list[Any] = [table("", columns, [_cells(net, outcome) for net in outcome["networks"]])]
    shown += [verdict(outcome), statement(outcome), *notes(outcome)]
    return [*shown, f"Results: {folder.finalists}", f"Table:   {folder.finalists_table}"]


def _cells(network: Mapping[str, Any], outcome: Outcome) -> list[str]:
    found = accuracies_of(network)
    state = network["state"]
    if network["digest"] == outcome["winner"]:
        state = "winner"
    elif state == "stopped":
        state = f"stopped after {stopped_at(network):,} steps"
    return [
        network["name"],
        GROUPS[network["group"]],
        quantity(network["macs"]),
        quantity(network["params"]),
        "-" if network["score"] is None else f"{network['score']:.4f}",
        *(_share(found.get(steps)) for steps in outcome["about"]["rungs"]),
        _share(network["test"]),
        state,
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def verdict(outcome: Outcome) -> str:
    """Who won, and what its proxy can do."""
    won = [net for net in outcome["networks"] if net["digest"] == outcome["winner"]]
    if not won:
        return "No network was trained to the end, so there is no winner."
    (net,), reported = won, outcome["about"]["reported"]
    low, high = interval(net["test"], reported["images"])
    return (
        f"The winner is {net['name']}, {GROUPS[net['group']]}: trained alone, "
        f"{'its proxy' if outcome['about']['proxy'] else 'it'} classifies "
        f"{net['test']:.1%} of the {reported['images']:,} {reported['split']} images right "
        f"({low:.1%} to {high:.1%} with 95% confidence)."
    )


def interval(share: float, count: int) -> tuple[float, float]:
    """Ends of the 95% interval of a share of `count` images (Wilson, 1927)."""
    z = _SURE**2 / count
    middle = (share + z / 2) / (1 + z)
    half = _SURE / (1 + z) * math.sqrt(share * (1 - share) / count + z / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def statement(outcome: Outcome) -> str:
    """What was used to choose, what to report, and of what the accuracies are."""
    about = outcome["about"]
    chosen, reported, proxy = about["chosen_by"], about["reported"], about["proxy"]
    said = (
        f"Who goes on and who wins was chosen by the accuracy on {chosen['images']:,} "
        f"{chosen['split']} images (of two equals, by the mean probability of the true class), on "
        "which the search had scored the candidates, too. "
    )
    if reported["split"] == chosen["split"]:
        said += (
            "There are no test images, so the accuracy that is reported is of the same images, "
            "which flatters the winner. "
        )
    else:
        said += (
            f"The accuracies that are reported are of {reported['images']:,} {reported['split']} "
            "images, by which nobody chose. "
        )
    if proxy is None:
        return said + (
            "All of them are accuracies of the networks at their own size, each trained alone for "
            f"up to {about['rungs'][-1]:,} steps."
        )
    return said + (
        f"All of them are accuracies of proxies ({proxy['width']:g} of the width, images of "
        f"{proxy['resolution']} pixels), each trained alone for up to {about['rungs'][-1]:,} steps "
        "by the supernet's recipe; none is that of a network at its own size."
    )


def notes(outcome: Outcome) -> list[str]:
    """What a reader has to know beside the numbers."""
    said = []
    said += [text for text in (not_told_apart(outcome), against_random(outcome)) if text]
    failed = [net for net in outcome["networks"] if net["state"] == "failed"]
    if failed:
        many = "1 network" if len(failed) == 1 else f"{len(failed)} networks"
        said.append(f"{many} failed; {failed[0]['name']}: {failed[0]['problem']}.")
    said.append(
        f"{outcome['steps']:,} steps were trained, where training all of them to the end takes "
        f"{outcome['steps_of_all']:,}."
    )
    return said


def not_told_apart(outcome: Outcome) -> str:
    """Who else came to the end with an accuracy inside the interval of the winner's, on the images
    that were chosen by; empty where nobody did."""
    ended = [net for net in outcome["networks"] if net["state"] == "finished"]
    won = [net for net in ended if net["digest"] == outcome["winner"]]
    if not won:
        return ""
    images = outcome["about"]["chosen_by"]["images"]
    low, high = interval(won[0]["rungs"][-1]["accuracy"], images)
    names = [
        net["name"]
        for net in ended
        if net is not won[0] and low <= net["rungs"][-1]["accuracy"] <= high
    ]
    if not names:
        return ""
    return (
        f"By {images:,} images it can hardly be told from {', '.join(names)}: the accuracy is "
        f"within the 95% interval of the winner's ({low:.1%} to {high:.1%})."
    )


def against_random(outcome: Outcome) -> str:
    """The finalists beside random networks, at the highest rung to which all came that did not
    fail; empty where there are none, or no such rung."""
    split, there = outcome["about"]["chosen_by"]["split"], outcome["networks"]
    sound = [(net["group"], accuracies_of(net)) for net in there if net["state"] != "failed"]
    common = [r for r in outcome["about"]["rungs"] if all(r in found for _, found in sound)]
    own = [found for group, found in sound if group != "random"]
    by_chance = [found for group, found in sound if group == "random"]
    if not own or not by_chance or not common:
        return ""
    rung = common[-1]
    means = [_mean([found[rung] for found in group]) for group in (own, by_chance)]
    return (
        f"After {rung:,} steps, to which all came, the proxies of the {len(own)} finalists are "
        f"right on {means[0]:.1%} of the {split} images on the average, those of {len(by_chance)} "
        f"random networks at the same budget on {means[1]:.1%}."
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
