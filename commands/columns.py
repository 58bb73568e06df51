"""Costs that are not counts of layers, as columns for a search: who makes which."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from commands.latency import latency_column
from results.console import Console
from search.networks import CostColumn
from search.problem import Floats
from space.budget import LATENCY, MeasuredCost
from space.decisions import Codes
from space.device import Device
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
    device = cost.device or Device()
    made = (
        latency_column(space, device, keep=keep, console=console)
        if cost.kind == LATENCY
        else memory_column(space, device)
    )
    return made if made.name == cost.column else Renamed(cost.column, made)


@dataclass(frozen=True)
class Renamed:
    """A column under another name."""

    name: str
    column: CostColumn

    def __call__(self, codes: Codes) -> Floats:
        return self.column(codes)


def memory_column(space: Space, device: Device) -> CostColumn:
    """Bytes at the peak of one pass, traced."""
    memory = importlib.import_module("evaluator.memory")  # only where memory is asked for
    column: CostColumn = memory.memory_column(space, device)
    return column
