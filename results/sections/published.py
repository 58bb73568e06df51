"""The published networks near the budget."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from results import charts
from results.figures import big, percent, published
from results.section import Section
from results.view import View
from space.budget import cost_title

NEAR = 0.2  # published networks within this share of the budget are near it
FEWEST = 3  # published networks that are listed, however far


def section(view: View) -> Section:
    compared = comparison(view)
    content = {"comparison": compared}
    if not view.run.presets:
        return Section(content)
    limits = _chart_limits(view.run.budget)
    chart = charts.published_chart([axis for limit in limits for axis in limit])
    made = {"published": chart}
    data = {"networks": _networks(view, compared["names"]), "limits": limits}
    return Section(content, made, made, data)


def comparison(view: View) -> dict[str, Any]:
    """The published networks near the budget, or near the best network where there is no budget,
    and at least the nearest three; the best network stands among them."""
    run, best = view.run, view.best
    target = view.target if view.target == "params" else "macs"
    limit = run.budget.get(target) if run.target in (None, target) else None
    centre = limit or (getattr(best, target) if best else None)
    whose = "the budget's" if limit or not best else "the best network's"
    presets = list(run.presets)
    if centre:
        presets.sort(key=lambda preset: abs(math.log(preset[target] / centre)))
        close = [preset for preset in presets if abs(preset[target] / centre - 1) <= NEAR]
        presets = close if len(close) >= FEWEST else presets[:FEWEST]
    entries = [
        {
            "name": preset["name"],
            "resolution": preset["resolution"],
            "macs": preset["macs"],
            "params": preset["params"],
            "top1": published(preset["top1"]),
            "source": preset["source"],
            "found": False,
        }
        for preset in presets
    ]
    if best:
        found = {"name": best.name, "resolution": best.resolution, "macs": best.macs}
        found |= {"params": best.params, "top1": None, "source": "this search", "found": True}
        entries.append(found)
    return {
        "entries": sorted(entries, key=lambda entry: entry[target]),
        "left_out": len(run.presets) - len(presets),
        "near": f"{whose} {cost_title(target)}",
        "names": {preset["name"] for preset in presets},
    }


def _networks(view: View, near: Collection[str]) -> list[dict[str, Any]]:
    """Published networks and the front, by their cost."""
    best = view.best
    networks: list[dict[str, Any]] = [
        {
            "name": preset["name"],
            "kind": preset.get("kind"),
            "macs": preset["macs"],
            "params": preset["params"],
            "top1": percent(published(preset["top1"])),
            "place": "near" if preset["name"] in near else "far",
        }
        for preset in view.run.presets
    ]
    networks += [
        {
            "name": row.name,
            "kind": "found here",
            "macs": row.macs,
            "params": row.params,
            "top1": "not trained yet",
            "place": "best" if best and row.digest == best.digest else "front",
            "digest": row.digest,
        }
        for row in [*view.members, *([best] if best and best not in view.members else [])]
    ]
    for network in networks:
        network["gmacs"], network["mparams"] = network["macs"] / 1e9, network["params"] / 1e6
        network["cost"] = big(network["macs"], "MACs")
        network["size"] = big(network["params"])
    return networks


def _chart_limits(budget: Mapping[str, Any]) -> list[dict[str, float]]:
    """The limits of the budget in the units of the chart of networks."""
    places = (("macs", "gmacs", 1e9), ("params", "mparams", 1e6))
    return [{axis: budget[name] / unit} for name, axis, unit in places if budget.get(name)]
