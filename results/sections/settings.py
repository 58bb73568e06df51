"""How to repeat a run: its command, seeds, settings and environment, and how its supernet was
trained."""

from __future__ import annotations

from itertools import chain
from typing import Any

from results import charts
from results.figures import finite, flat
from results.section import Section
from results.view import View

POINTS = 1000  # of a curve
_SHOWN_APART = frozenset(("curve", "accuracies", "probes"))


def section(view: View) -> Section:
    run = view.run
    curve = [step for step in run.supernet.get("curve") or () if finite(step["loss"]) is not None]
    probes = [
        {"step": probe["step"], "network": name, "share": probe[name]}
        for probe in run.supernet.get("probes") or ()
        for name in charts.PROBED
        if name in probe
    ]
    made: dict[str, Any] = {}
    data: dict[str, Any] = {"curve": curve[:: 1 + len(curve) // POINTS]}
    if len(curve) > 1:
        made["supernet"] = charts.supernet_chart()
    if probes:
        data["probes"] = probes
        made["probes"] = charts.probes_chart()
    settings, environment = list(flat(run.settings)), list(flat(run.environment))
    content = {
        "settings": settings,
        "environment": environment,
        "seeds": [
            entry
            for entry in chain(settings, environment)
            if entry[0].rpartition(".")[2] in ("seed", "seeds")
        ],
        "supernet": list(flat({k: v for k, v in run.supernet.items() if k not in _SHOWN_APART})),
        "accuracies": run.supernet.get("accuracies") or {},
    }
    return Section(content, made, made, data)
