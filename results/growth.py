"""How the best and the front of searches grow with their evaluations, on equal terms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from results.history import Row
from results.pareto import front, hypervolume
from space.objectives import SCORE

POINTS = 100  # of each curve, about
FEWER = 12  # where there are more than three objectives, and a volume takes longer


def growth(
    searches: Mapping[str, Sequence[Row]],
    limits: Mapping[str, float],
    target: str,
    band: float,
    objectives: Sequence[str],
    points: int | None = None,
) -> dict[str, Any]:
    """`curves`: for each search, at some numbers of evaluations (about `points` of them), `best`,
    the highest score of a network that uses at least `band` of the limit on `target` (None where
    there is none yet), and `volume`, what its front dominates, as a share of what the best of all
    dominates in the end. `final`: the last entry of each search, by name. Empty where one has no
    score.

    The volume is that of the objectives (`results.pareto.hypervolume`), up to the limit of each
    cost, or the most that any has found where it has none, and down to the lowest score that any
    has found.
    """
    costs = [name for name in objectives if name != SCORE]
    known = {name: _points(rows, costs, target) for name, rows in searches.items()}
    if not known or not all(any(point for point in found) for found in known.values()):
        return {"curves": [], "final": {}}
    scored = [point for found in known.values() for point in found if point]
    worst = [max(values) for values in zip(*(point.values for point in scored), strict=True)]
    corner = [
        *(
            math.nextafter(limits.get(name, most), math.inf)
            for name, most in zip(costs, worst, strict=False)
        ),
        worst[-1],
    ]
    least = band * limits.get(target, math.inf)
    curves: list[dict[str, Any]] = []
    final: dict[str, Mapping[str, Any]] = {}
    for name, found in known.items():
        best: float | None = None
        unbeaten: list[tuple[float, ...]] = []
        for first, n in pairwise((0, *_places(len(found), points or _enough(costs)))):
            new = [point for point in found[first:n] if point]
            inside = [point.score for point in new if point.target >= least]
            best = max([*inside, *([] if best is None else [best])], default=None)
            unbeaten += [point.values for point in new]
            unbeaten = [unbeaten[i] for i in front(unbeaten)]
            volume = hypervolume(unbeaten, corner)
            curves.append({"n": n, "who": name, "best": best, "volume": volume})
        final[name] = curves[-1]
    whole = max(point["volume"] for point in final.values())
    for point in curves:
        point["volume"] = point["volume"] / whole if whole else 0.0
    return {"curves": curves, "final": final}


def _enough(costs: Sequence[str]) -> int:
    return POINTS if len(costs) < 3 else FEWER


class _Point(NamedTuple):
    """What is to be small of a candidate (the score negated, and last), and what it uses."""

    values: tuple[float, ...]
    score: float
    target: float


def _points(rows: Sequence[Row], costs: Sequence[str], target: str) -> list[_Point | None]:
    """Of each evaluation; None where it failed."""
    return [
        _Point((*map(row.cost, costs), -row.score), row.score, row.cost(target))
        if row.score is not None and math.isfinite(row.score)
        else None
        for row in rows
    ]


def _places(count: int, points: int) -> list[int]:
    """Numbers of evaluations, evenly spread, the last among them."""
    step = max(1, count // points)
    return sorted({*range(step, count + 1, step), count})
