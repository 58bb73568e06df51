"""The candidates as points of charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from results import drawing
from results.charts_front import Axis
from results.figures import finite
from results.view import View, proposer

POINTS = 6000  # in a chart; more are thinned out evenly


def points(view: View, axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """One for each evaluation, in order."""
    front, best = set(view.run.front), view.run.best
    made, so_far = [], None
    for row in view.run.rows:
        reward, score = finite(row.reward), finite(row.score)
        if reward is not None:
            so_far = reward if so_far is None else max(so_far, reward)
        place = "best" if row.digest == best else "front" if row.digest in front else "other"
        made.append(
            {
                "order": row.order + 1,
                "name": row.name,
                "digest": row.digest,
                "macs": row.macs,
                "params": row.params,
                "score": score,
                "reward": reward,
                "so_far": so_far,
                "operators": drawing.operators(row.genome),
                "origin": proposer(row),
                "error": row.error,
                "place": place,
                **{axis.field: axis.value(row) for axis in axes},
            }
        )
    return made


def thinned(made: Sequence[dict[str, Any]], most: int | None = None) -> list[int]:
    """The places of at most about `most` points: an even choice, and all that charts point out."""
    step = 1 + len(made) // (POINTS if most is None else most)
    kept, high = [], None
    for i, point in enumerate(made):
        if i % step == 0 or point["place"] != "other" or point["so_far"] != high:
            kept.append(i)
        high = point["so_far"]
    return kept
