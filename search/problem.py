"""What a controller searches: rows of decisions, what they cost, and what is wanted of them.

A controller sees rows of integers and numbers only. What a row stands for (a network, a line of a
table) is known to whoever made the problem and has the rows evaluated.

Costs are known before a row is evaluated, as MACs and parameters are; limits on them are hard.
What an evaluation observes is given in `values`, of which every one is to be large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from space.decisions import Codes, Decisions

Row = tuple[int, ...]
Floats = NDArray[np.float64]

ENUMERABLE = 100_000  # rows up to which a space may be gone through as a whole


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluated row. `values` are what was observed, larger is better; None where it failed.
    `fidelity`, above 0 and at most 1, is the share of a full evaluation that they rest on."""

    row: Row
    values: tuple[float, ...] | None
    fidelity: float = 1.0


def succeeded(trials: Sequence[Trial]) -> list[Trial]:
    """Those with numbers, sorted, so that the order of a tell does not matter: by their rows, and
    those of one row by what they rest on and what they say."""
    found = [t for t in trials if t.values is not None and all(map(math.isfinite, t.values))]
    return sorted(found, key=lambda trial: (trial.row, trial.fidelity, trial.values))


def no_costs(codes: Codes) -> Floats:
    return np.zeros((len(codes), 0))


@dataclass(frozen=True)
class Problem:
    """Rows of `decisions` within `limits`, for one aim.

    `costs` gives what rows cost, (B, V) to (B, K), with the names `cost_names`; `limits` are upper
    limits on some of them. An evaluation observes `observed` values. Costs in `wanted_small` are
    objectives beside them, so that there are `objectives` in all: with one the aim is the row that
    is best in it, with more the front.

    The *use* of a row is its `target` cost over that cost's limit, or, where it has no limit, over
    the largest there is. With `banded`, rows with a use of `BAND` and more are what is wanted most
    (networks "at the budget", `search.proposals`).

    Rows with the same `key` are evaluated once: it is the row itself unless several rows stand for
    one thing. `members` are the only rows that there are; without it, all that the decisions allow.
    `ends` are rows of the least and most cost, where they are known.
    """

    decisions: Decisions
    observed: int = 1
    costs: Callable[[Codes], NDArray[Any]] = no_costs
    cost_names: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    wanted_small: tuple[str, ...] = ()
    target: str | None = None
    banded: bool = False
    key: Callable[[Row], Hashable] = tuple
    members: Codes | None = None
    ends: Codes | None = None

    def __post_init__(self) -> None:
        for name in (*self.limits, *self.wanted_small, *filter(None, [self.target])):
            if name not in self.cost_names:
                known = ", ".join(self.cost_names) or "none"
                raise ValueError(f"unknown cost {name!r}; there are {known}")
        if self.observed < 1:
            raise ValueError(f"observed is {self.observed}, but must be at least 1")

    @property
    def objectives(self) -> int:
        return self.observed + len(self.wanted_small)

    def known_gains(self, codes: Codes) -> Floats:
        """The objectives that are known before an evaluation, larger is better, (B, K)."""
        columns = [self.cost_names.index(name) for name in self.wanted_small]
        return -self.costs(codes)[:, columns] if columns else np.zeros((len(codes), 0))

    def gains(self, trials: Sequence[Trial]) -> Floats:
        """All objectives of successful trials, larger is better, (N, `objectives`)."""
        values = np.array([trial.values for trial in trials], float)
        codes = np.array([trial.row for trial in trials], np.int64)
        values = values.reshape(len(trials), self.observed)
        codes = codes.reshape(len(trials), len(self.decisions.variables))
        return np.concatenate([values, self.known_gains(codes)], axis=1)


class GrowingRows:
    """Rows that only ever become more, as an array that is ready at any time: making one of a list
    at each tell would take longer and longer."""

    def __init__(self, width: int):
        self._data, self._count = np.empty((64, width), np.int16), 0

    def __len__(self) -> int:
        return self._count

    def append(self, row: Row) -> None:
        if self._count == len(self._data):
            self._data = np.concatenate([self._data, np.empty_like(self._data)])
        self._data[self._count] = row
        self._count += 1

    def array(self) -> NDArray[np.int16]:
        """All of them, (N, V), as a copy."""
        return self._data[: self._count].copy()
