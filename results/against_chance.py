"""A search beside a random one of as many evaluations: how the best and the front grow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from results.history import Row
from results.pareto import hypervolume_2d

POINTS = 100  # of each curve, about


def against_chance(
    rows: Sequence[Row], by_chance: Sequence[Row], who: str, target: str, limit: float, band: float
) -> dict[str, Any]:
    """`curves`: for each search, at some numbers of evaluations, `best`, the highest score of a
    network that uses at least `band` of the `limit` on `target` (None where there is none yet), and
    `volume`, the area that its front dominates, as a share of what the better of both dominates in
    the end. `final`: the last entry of each search, by name. Empty where one has no score.

    The area is that of score against `target`, up to the limit and down to the lowest score that
    either has found (`results.pareto.hypervolume_2d`).
    """
    searches = {who: _points(rows, target), "random": _points(by_chance, target)}
    scores = [score for found in searches.values() for _, score in found if score is not None]
    if not all(any(score is not None for _, score in found) for found in searches.values()):
        return {"curves": [], "final": {}}
    corner = (math.nextafter(limit, math.inf), -min(scores))
    curves: list[dict[str, Any]] = []
    final: dict[str, Mapping[str, Any]] = {}
    for name, found in searches.items():
        for n in _places(len(found)):
            known = [(cost, score) for cost, score in found[:n] if score is not None]
            best = max((score for cost, score in known if cost >= band * limit), default=None)
            volume = hypervolume_2d([(cost, -score) for cost, score in known], corner)
            curves.append({"n": n, "who": name, "best": best, "volume": volume})
        final[name] = curves[-1]
    whole = max(point["volume"] for point in final.values())
    for point in curves:
        point["volume"] = point["volume"] / whole if whole else 0.0
    return {"curves": curves, "final": final}


def _points(rows: Sequence[Row], target: str) -> list[tuple[float, float | None]]:
    """Cost and score of each evaluation; the score is None where it failed."""
    return [
        (float(getattr(row, target)), row.score if _is_number(row.score) else None) for row in rows
    ]


def _is_number(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def _places(count: int) -> list[int]:
    """Numbers of evaluations, evenly spread, the last among them."""
    step = max(1, count // POINTS)
    return sorted({*range(step, count + 1, step), count})
