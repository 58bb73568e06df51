"""What a search is after, by name: a high score, and costs that are to be small."""

from __future__ import annotations

from collections.abc import Sequence

from space.budget import LATENCY, MEMORY, Budget, MeasuredCost
from space.cost_table import COSTS
from space.device import Device

SCORE = "score"
OBJECTIVES = f"{SCORE}, {', '.join(COSTS)}, {MEMORY}, {LATENCY}, or one of these two @DEVICE"


def resolve_objectives(names: Sequence[str], budget: Budget, at_hand: Device) -> tuple[str, ...]:
    """The names of `names` as those of columns, the score first; () where there are none.

    `latency` and `memory` alone are those that the budget limits; where it limits none, those of
    the device at hand. ValueError where a name is unknown, says no one thing, or stands there
    twice, where the score is missing, or all costs are.
    """
    if not names:
        return ()
    found = [_column(name, budget, at_hand) for name in names]
    for name in found:
        if found.count(name) > 1:
            raise ValueError(f"objectives name {name} twice")
    if SCORE not in found or len(found) == 1:
        raise ValueError(
            f"objectives are {', '.join(names)!r}, but must be {SCORE} and one cost or several"
        )
    return SCORE, *(name for name in found if name != SCORE)


def measured_objectives(names: Sequence[str]) -> list[MeasuredCost]:
    """Those of resolved `names` that are no counts of layers."""
    return [MeasuredCost.parse(name) for name in names if name not in (SCORE, *COSTS)]


def _column(name: str, budget: Budget, at_hand: Device) -> str:
    said = name.strip().lower()
    if said in (SCORE, *COSTS):
        return said
    if said.partition("@")[0] not in (LATENCY, MEMORY):
        raise ValueError(f"unknown objective {name.strip()!r}; there are {OBJECTIVES}")
    if "@" in said:
        return MeasuredCost.parse(name).column
    limited = [limit.column for limit in budget.measured if limit.kind == said]
    if len(limited) > 1:
        raise ValueError(
            f"objective {said!r} may be any of {' and '.join(limited)}, which the budget limits: "
            "name one of them"
        )
    return limited[0] if limited else MeasuredCost(said).on(at_hand).column
