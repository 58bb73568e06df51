"""Costs that are not counts of layers, as columns for a search: who makes which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from commands.latency import latency_column
from evaluator.memory import memory_column
from results.console import Console
from search.networks import CostColumn
from space.budget import LATENCY, MeasuredCost
from space.search_space import Space


def make_columns(
    space: Space, wanted: Sequence[MeasuredCost], *, keep: Path | None, console: Console
) -> list[CostColumn]:
    """One column for each cost, under its own name.

    What had to be measured for them is written into the folder `keep` and read again from there, so
    that a run which goes on predicts what it predicted before; None keeps nothing. ValueError where
    a device is not here, or cannot run what it would have to.
    """
    return [_make(space, cost, keep, console) for cost in wanted]


def _make(space: Space, cost: MeasuredCost, keep: Path | None, console: Console) -> CostColumn:
    assert cost.device is not None, "a job knows which device is at hand"
    if cost.kind == LATENCY:
        return latency_column(space, cost.device, keep=keep, console=console)
    return memory_column(space, cost.device)
