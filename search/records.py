"""What a controller without a model remembers of its trials, and which of them are good for what.

Scores have any scale here, so everything but the product's reward goes by order alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from search.problem import Floats, Row, Trial, succeeded
from search.proposals import Proposals
from search.reward import absolute_reward
from space.decisions import Codes

_SECOND = 0.05  # weight of the sum beside the worst objective, as in ParEGO


class Records:
    """The successful trials, oldest first; of `newest`, if it is given, no more than those.

    Trials of one `tell` are sorted by row, so that their order in it does not matter. A row that
    is told again keeps its age; what counts is the trial of highest fidelity, the last of equal.
    """

    def __init__(self, proposals: Proposals, newest: int | None = None):
        self._proposals, self._newest = proposals, newest
        self.problem = proposals.problem
        self._clear()

    def _clear(self) -> None:
        width, problem = len(self.problem.decisions.variables), self.problem
        self._count = 0
        self._places: dict[Row, int] = {}
        self._rows = np.empty((0, width), np.int64)
        self._values = np.empty((0, problem.observed))
        self._fidelity = np.empty(0)
        self._gains = np.empty((0, problem.objectives))
        self._use = np.empty(0)

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> Codes:
        return self._rows[: self._count]

    @property
    def gains(self) -> Floats:
        """All objectives, larger is better, (N, `objectives`)."""
        return self._gains[: self._count]

    @property
    def use(self) -> Floats:
        """The share of the target's limit, (N,)."""
        return self._use[: self._count]

    def add(self, trials: Sequence[Trial]) -> Codes:
        """Remembers those that succeeded; the places of what is new or has changed."""
        changed: dict[int, None] = {}
        found = succeeded(trials)
        if not found:
            return np.empty(0, np.int64)
        gains = self.problem.gains(found)
        use = self._proposals.use(np.array([trial.row for trial in found], np.int64))
        for trial, gain, share in zip(found, gains, use, strict=True):
            place = self._places.setdefault(trial.row, self._count)
            if place == self._count:
                self._count += 1
                self._grow()
            elif trial.fidelity < self._fidelity[place]:
                continue
            self._rows[place], self._values[place] = trial.row, trial.values
            self._fidelity[place], self._gains[place] = trial.fidelity, gain
            self._use[place] = share
            changed[place] = None
        over = 0 if self._newest is None else max(0, self._count - self._newest)
        if over:
            self._forget(over)
        return np.array([place - over for place in changed if place >= over], np.int64)

    def _grow(self) -> None:
        if self._count <= len(self._rows):
            return
        more = max(64, len(self._rows))
        for name in ("_rows", "_values", "_fidelity", "_gains", "_use"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros((more, *old.shape[1:]), old.dtype)]))

    def _forget(self, count: int) -> None:
        """The oldest so many."""
        for name in ("_rows", "_values", "_fidelity", "_gains", "_use"):
            setattr(self, name, getattr(self, name)[count : self._count].copy())
        self._count -= count
        self._places = {tuple(row): i for i, row in enumerate(self.rows.tolist())}

    def place(self, row: Row) -> int | None:
        """Where a row stands, if it is remembered."""
        return self._places.get(row)

    # ---- what is good

    @property
    def sliced(self) -> bool:
        """Whether places in the budget take care of the target as an objective."""
        return self.problem.target in self.problem.wanted_small

    def free_gains(self) -> Floats:
        """The objectives that places in the budget do not take care of, (N, F)."""
        if not self.sliced:
            return self.gains
        assert self.problem.target is not None
        column = self.problem.observed + self.problem.wanted_small.index(self.problem.target)
        return np.delete(self.gains, column, axis=1)

    def weights(self, rng: Generator, count: int) -> Floats:
        """Random weights of the free objectives, uniform over all that add up to 1, (count, F)."""
        free = self.problem.objectives - self.sliced
        if free == 1:
            return np.ones((count, 1))
        return rng.dirichlet(np.ones(free), count)

    def worth(self, high: float, weights: Floats, among: Codes | None = None) -> Floats:
        """How good the records (or those at the places `among`) are for a row that is to use at
        most `high`, under such weights of the free objectives; larger is better, (N,).

        - Banded, with one observed score: the reward (`search.reward`), for smaller networks as
          if `high` were the whole budget.
        - One free objective: that objective.
        - Several: the augmented Chebyshev scalarisation of Knowles, 2006, "ParEGO", equation 2, of
          ranks instead of normalised values, so that scales do not matter.

        Where the target is an objective, those that use more than `high` come behind all others,
        those that use more behind those that use less.
        """
        chosen: Any = slice(None) if among is None else among
        use = self.use[chosen]
        if self.problem.banded and self.problem.objectives == 2 and self.sliced:
            scores = self.gains[chosen, 0]
            # As `absolute_reward` has it, of many.
            return np.asarray(absolute_reward(scores, use / high))  # type: ignore[arg-type]
        free = self.free_gains()[chosen]
        if free.shape[1] == 1:
            worth = free[:, 0]
        else:
            ranks = order_shares(free)
            worth = -((1 - ranks) * weights).max(axis=1, initial=0) + _SECOND * (ranks @ weights)
        if not self.sliced:
            return worth
        inside = use <= high
        order = np.lexsort([worth, np.where(inside, 0.0, -use)])
        ranked = np.empty(len(order))
        ranked[order] = _dense(np.where(inside, 0.0, -use)[order], worth[order])
        return ranked

    # ---- stop and resume

    def state_dict(self) -> dict[str, Any]:
        kept = slice(self._count)
        return {
            "rows": self._rows[kept].astype(np.int32),
            "values": self._values[kept].copy(),
            "fidelity": self._fidelity[kept].copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._clear()
        rows = np.asarray(state["rows"], np.int64).reshape(-1, self._rows.shape[1])
        self._rows, self._count = rows, len(rows)
        self._values = np.array(state["values"], float).reshape(-1, self.problem.observed)
        self._fidelity = np.array(state["fidelity"], float)
        self._places = {tuple(row): i for i, row in enumerate(rows.tolist())}
        self._gains = np.concatenate([self._values, self.problem.known_gains(rows)], axis=1)
        self._use = self._proposals.use(rows)


def order_shares(values: Floats) -> Floats:
    """Each column's order as a number from 0, the smallest, to 1, the largest; equal values get
    equal numbers."""
    shares = np.ones(values.shape)
    for column, found in enumerate(values.T):
        kinds, where = np.unique(found, return_inverse=True)
        if len(kinds) > 1:
            shares[:, column] = where / (len(kinds) - 1)
    return shares


def _dense(*keys: NDArray[Any]) -> Floats:
    """Numbers 0, 1, ... of sorted rows of keys, the same for equal ones."""
    if not len(keys[0]):
        return np.zeros(0)
    differ = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return np.concatenate([[0.0], np.cumsum(differ)])
