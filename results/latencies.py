"""Latencies of a run: what was predicted beside what was measured, as its report says it.

An entry is one network on one device: `name`, `digest`, `column` (the cost's name), `predicted` ms,
measured `ms` with quartiles `low` and `high`, the `limit` in ms, and whether it is `within`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from space.budget import cost_figure, cost_title

Entry = Mapping[str, Any]


def by_device(run_latencies: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the report says of each device, in the order of the limits."""
    entries: Sequence[Entry] = run_latencies.get("networks") or ()
    devices = []
    for device in run_latencies.get("devices") or ():
        column = device["column"]
        own = [entry for entry in entries if entry["column"] == column]
        devices.append(
            {
                "title": cost_title(column),
                "limit": cost_figure(column, device["limit"]),
                "sentence": sentence(device, own, run_latencies.get("unmeasured") or ""),
                "networks": [
                    {
                        **entry,
                        "figures": {
                            name: cost_figure(column, entry[name])
                            for name in ("predicted", "ms", "low", "high")
                        },
                        "off": entry["ms"] / entry["predicted"] - 1,
                        "use": entry["ms"] / entry["limit"],
                    }
                    for entry in sorted(own, key=lambda entry: entry["ms"])
                ],
            }
        )
    return devices


def sentence(device: Mapping[str, Any], own: Sequence[Entry], unmeasured: str) -> str:
    """How far the latencies on a device can be trusted."""
    said = []
    accuracy = device.get("accuracy")
    if accuracy:
        said.append(
            f"When the device was profiled, half of the predictions for {accuracy['networks']} "
            f"networks that it did not know were within {accuracy['median']:.1%} of what was "
            f"measured, nine of ten within {accuracy['nine_of_ten']:.1%}."
        )
    if own:
        off = statistics.median(abs(entry["ms"] / entry["predicted"] - 1) for entry in own)
        over = sum(not entry["within"] for entry in own)
        said.append(
            f"{len(own)} networks were measured as they are exported: predictions were off by "
            f"{off:.1%} in the median. "
            + (
                f"{over} took longer than the budget allows, and are not on the front."
                if over
                else "All keep to the budget."
            )
        )
    else:
        said.append("No network was measured: latencies are predictions.")
    if unmeasured:
        said.append(f"Not all was measured: {unmeasured}.")
    return " ".join(said)


def points(run_latencies: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the chart draws, one point a measured network."""
    return [
        {
            "name": entry["name"],
            "digest": entry["digest"],
            "device": cost_title(entry["column"]),
            "predicted": entry["predicted"],
            "ms": entry["ms"],
            "low": entry["low"],
            "high": entry["high"],
            "limit": entry["limit"],
            "verdict": "within the budget" if entry["within"] else "over the budget",
        }
        for entry in run_latencies.get("networks") or ()
    ]
