"""How far to trust the scores: the trust card, measured latencies, and the finalists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from results import charts, finalists, latencies, trust_card
from results.section import Section
from results.view import View


def section(view: View) -> Section:
    run = view.run
    made: dict[str, Any] = {}
    data: dict[str, Any] = {}
    if run.latencies.get("networks"):
        data["latencies"] = latencies.points(run.latencies)
        made["latency"] = charts.latency_chart()
    if run.trust is not None:
        data["trust"] = trust_card.points(run.trust)
        if data["trust"]:
            made["trust"] = charts.spec(
                trust_card.scatter(run.trust), "Accuracy of proxies trained alone against score"
            )
    content = {
        "trust": None if run.trust is None else card(run.trust),
        "latencies": latencies.by_device(run.latencies),
        "finalists": None if run.finalists is None else trained(run.finalists),
    }
    return Section(content, made, made, data)


def card(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the trust card says, as text."""
    return {
        "verdict": trust_card.verdict(found),
        "truth": trust_card.truth(found),
        "notes": trust_card.notes(found),
        "near": trust_card.near_level(found),
        "agreements": [
            {key: _estimate(value) if key != "name" else value for key, value in row.items()}
            for row in found["agreements"]
        ],
        "kinds": trust_card.kind_cells(found),
        "command": found["about"]["command"],
        "networks": [
            {
                "name": net["name"],
                "macs": net["macs"],
                "near": trust_card.in_band(net, found),
                "kind": net["main_kind"],
                "score": net["score"],
                "accuracy": trust_card.mean(net["accuracies"]),
                "problem": net["problem"],
            }
            for net in found["networks"]
        ],
    }


def _estimate(estimate: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": trust_card.number(estimate), "n": estimate["n"]}


def trained(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """What came of training the finalists alone, as text."""
    return {
        "verdict": finalists.verdict(outcome),
        "statement": finalists.statement(outcome),
        "notes": finalists.notes(outcome),
        "winner": outcome["winner"],
        "rungs": outcome["about"]["rungs"],
        "networks": [
            {
                **{key: net[key] for key in ("name", "digest", "macs", "score", "test")},
                "group": finalists.GROUPS[net["group"]],
                "found": finalists.accuracies_of(net),
                "stopped": finalists.stopped_at(net),
                "problem": net["problem"],
            }
            for net in outcome["networks"]
        ],
    }
