"""What the sections of a report look at: a run, and what follows from it once for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from results.figures import finite
from results.history import FROM_PRESET, Row, Run
from space.objectives import SCORE

BAND = 0.95  # networks that use so much of the budget are at the budget
DRAWN = 12  # networks that are drawn


@dataclass(frozen=True)
class View:
    run: Run

    @cached_property
    def scored(self) -> list[Row]:
        return [row for row in self.run.rows if finite(row.score) is not None]

    @cached_property
    def failed(self) -> list[Row]:
        return [row for row in self.run.rows if row.status != "ok"]

    @cached_property
    def known(self) -> dict[str, Row]:
        """By digest; the first evaluation of each counts."""
        return {row.digest: row for row in reversed(self.scored)}

    @cached_property
    def best(self) -> Row | None:
        return self.known.get(self.run.best) if self.run.best is not None else None

    @cached_property
    def members(self) -> list[Row]:
        """The front, from cheap to dear."""
        found = (self.known[d] for d in dict.fromkeys(self.run.front) if d in self.known)
        return sorted(found, key=lambda row: row.cost(self.costs[0]))

    @cached_property
    def drawn(self) -> list[Row]:
        """The best, then members of the front: those that were exported, and others evenly."""
        best = [self.best] if self.best else []
        others = [row for row in self.members if row is not self.best]
        chosen = [row for row in others if row.digest in self.run.exported]
        rest = [row for row in others if row.digest not in self.run.exported]
        room = max(0, DRAWN - len(best) - len(chosen))
        chosen += evenly(rest, room)
        return best + sorted(chosen, key=others.index)

    @cached_property
    def ranked(self) -> list[Row]:
        return sorted(self.scored, key=reward, reverse=True)

    @cached_property
    def limits(self) -> dict[str, float]:
        return positive(self.run.budget)

    @cached_property
    def target(self) -> str:
        """The cost that the search steered towards its limit."""
        params_only = self.run.budget.get("params") and not self.run.budget.get("macs")
        return self.run.target or ("params" if params_only else "macs")

    @cached_property
    def costs(self) -> list[str]:
        """The costs that are objectives, MACs where none is."""
        return [name for name in self.run.objectives if name != SCORE] or ["macs"]

    @cached_property
    def others(self) -> list[str]:
        """Costs beside MACs and parameters that are limited or objectives, and known of all."""
        names = dict.fromkeys([*self.limits, *self.costs])
        rows = self.run.rows
        return [name for name in names if rows and all(name in row.costs for row in rows)]

    @cached_property
    def axes(self) -> list[str]:
        """Every cost that is known of all rows; those that are objectives come first."""
        rows = self.run.rows
        more = [name for name in (rows[0].costs if rows else ()) if name not in self.costs]
        known = [name for name in more if all(name in row.costs for row in rows)]
        return list(dict.fromkeys([*self.costs, "macs", "params", *known]))

    @cached_property
    def over(self) -> set[str]:
        """Networks that were measured above a limit of the budget."""
        networks = self.run.latencies.get("networks") or ()
        return {entry["digest"] for entry in networks if not entry["within"]}

    @property
    def who(self) -> str:
        """Which controller searched."""
        return str(self.run.settings.get("controller", "this search"))


def evenly(rows: list[Row], count: int) -> list[Row]:
    """At most `count` of them, the first and the last among these."""
    if len(rows) <= count:
        return list(rows)
    if count < 2:
        return rows[:count]
    return [rows[round(i * (len(rows) - 1) / (count - 1))] for i in range(count)]


def positive(budget: Mapping[str, Any]) -> dict[str, float]:
    """The limits of a budget, by cost."""
    return {
        name: limit
        for name, limit in budget.items()
        if isinstance(limit, int | float) and not isinstance(limit, bool) and limit > 0
    }


def reward(row: Row) -> float:
    value = finite(row.reward)
    return -math.inf if value is None else value


def proposer(row: Row) -> str:
    """Who proposed a candidate; all published networks are one."""
    return "published network" if row.origin.startswith(FROM_PRESET) else row.origin


def after(row: Row) -> str | None:
    """The published network that a candidate was made of."""
    return row.origin.removeprefix(FROM_PRESET) if row.origin.startswith(FROM_PRESET) else None
