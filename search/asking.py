"""What every controller's `ask` shares: where in the budget to look, and never to look twice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from search.problem import GrowingRows, Row, Trial
from search.proposals import BAND, Proposals
from space.decisions import Codes

Ranges = NDArray[np.float64]  # (B, 2): the lowest and highest use of the budget for each place

_ROUNDS = 8  # attempts of the controller itself to find a row that is new
_DRAWS = 256  # uniform rows that are looked through in each of as many rounds after that


class Asking:
    """Plans where in the budget an ask's rows lie, and hands out each once.

    Of all networks asked for, the share `at_budget` uses 95 % of the budget and more: the best
    network of a search is one of these. Each of the others lies in one of the slices of the
    budget (`Proposals.slices`), which are equally likely, so that the front of score against cost
    is searched along its whole length. Of a problem that is not banded, with a cost for an
    objective, all lie in slices; without one, anywhere.

    The rows in `first`, if there are any, come before all others and without a plan.

    ValueError where the problem has no row that is wanted.
    """

    def __init__(self, proposals: Proposals, at_budget: float, first: Sequence[Sequence[int]] = ()):
        if not 0 <= at_budget <= 1:
            raise ValueError(f"at_budget is {at_budget}, but must be from 0 to 1")
        proposals.check()
        problem = proposals.problem
        self._proposals, self._key = proposals, problem.key
        self._at_budget = at_budget if problem.banded else 0.0
        sliced = problem.target is not None and (problem.banded or problem.wanted_small)
        self._slices = np.array(proposals.slices() if sliced else [(0.0, 1.0)])
        self._places = 0  # asked for so far
        self._rows = GrowingRows(len(proposals.decisions.variables))  # asked for or told
        self._known: set[Hashable] = set()  # their keys
        self._waiting: list[Row] = [tuple(map(int, row)) for row in first]
        self._too_many = False  # rows to go through them all
        self._rest: _Rest | None = None  # made where little is left, or there is little at all

    def __len__(self) -> int:
        """How many rows were asked for or told."""
        return len(self._rows)

    def knows(self, row: Row) -> bool:
        return self._key(row) in self._known

    def plan(self, rng: Generator, count: int) -> Ranges:
        """The ranges of use for the next `count` rows."""
        ranges = self._slices[rng.integers(0, len(self._slices), count)]
        for i in range(count):
            place = self._places + i
            if int((place + 1) * self._at_budget) > int(place * self._at_budget):
                ranges[i] = BAND, 1
            elif not self._proposals.has(*ranges[i]):
                ranges[i] = 0, 1
        self._places += count
        return ranges

    def anywhere(self, rng: Generator, count: int) -> Ranges:
        """Ranges over the whole budget, each slice of it equally likely."""
        ranges = self._slices[rng.integers(0, len(self._slices), count)]
        for low, high in np.unique(ranges, axis=0):
            if not self._proposals.has(low, high):
                ranges[(ranges == (low, high)).all(axis=1)] = 0, 1
        return ranges

    def rows(self) -> list[Row]:
        """All that were asked for or told."""
        return [tuple(row) for row in self._rows.array().tolist()]

    def ask(self, rng: Generator, count: int, propose: Callable[[Ranges], Codes]) -> list[Row]:
        """`count` new rows, or fewer where no more are left; where there are too many rows to go
        through them all, where next to nothing new is left.

        `propose` gives one row for each range. A row that is no news is proposed anew, in the end
        anywhere in the budget; after that uniform rows are looked through.
        """
        found = self.first(count)
        return found if len(found) == count else found + self._ask(rng, count - len(found), propose)

    def ask_after(
        self, rng: Generator, count: int, random: int, propose: Callable[[Ranges, int], Codes]
    ) -> list[Row]:
        """As `ask`, but `random` rows come first that are drawn at random. `propose` also gets how
        often it was called before in this ask."""
        begun = min(count, random)
        rows: list[Row] = []
        if begun:
            rows = self.ask(rng, begun, lambda ranges: fresh(self._proposals, rng, ranges))
        if begun < count:
            calls = itertools.count()
            rows += self.ask(rng, count - begun, lambda ranges: propose(ranges, next(calls)))
        return rows

    def first(self, count: int) -> list[Row]:
        """Up to `count` of the rows that were given to begin with."""
        found: list[Row] = []
        while self._waiting and len(found) < count:
            row = self.news(self._waiting.pop(0))
            found += [row] if row is not None else []
        return found

    def _ask(self, rng: Generator, count: int, propose: Callable[[Ranges], Codes]) -> list[Row]:
        ranges = self.plan(rng, count)
        found: list[Row | None] = [None] * count
        for attempt in range(2 * _ROUNDS):
            missing = [i for i, row in enumerate(found) if row is None]
            if not missing:
                break
            if attempt >= _ROUNDS // 2:
                ranges[:] = 0, 1
            if attempt < _ROUNDS:
                for i, row in zip(missing, propose(ranges[missing]), strict=True):
                    found[i] = self.news(row)
            elif (rest := self._remaining()) is not None:
                for i in missing:
                    row = rest.draw(rng)
                    if row is None:
                        return [row for row in found if row is not None]
                    found[i] = self.news(row)
            else:
                rows = np.unique(self._proposals.sample(rng, _DRAWS), axis=0)
                news = (self.news(row) for row in rng.permutation(rows))
                for i, row in zip(missing, filter(None, news), strict=False):
                    found[i] = row
        return [row for row in found if row is not None]

    def _remaining(self) -> _Rest | None:
        """All rows that are new; None where there are too many to go through."""
        if self._rest is None and not self._too_many:
            everything = self._proposals.everything()
            self._too_many = everything is None
            if everything is not None:
                self._rest = _Rest(everything, self._key, self._known)
        return self._rest

    def news(self, row: Sequence[int] | Codes) -> Row | None:
        """The row if it is not known yet; from now on it is."""
        plain = tuple(map(int, row))
        if self.knows(plain):
            return None
        self._add(plain)
        return plain

    def learn(self, trials: Sequence[Trial]) -> None:
        """Rows that were told are not proposed, whoever asked for them."""
        for row in sorted(trial.row for trial in trials):
            self.news(row)

    def _add(self, row: Row) -> None:
        key = self._key(row)
        self._known.add(key)
        self._rows.append(row)
        if self._rest is not None:
            self._rest.take(key)

    def state_dict(self) -> dict[str, Any]:
        return {
            "places": self._places,
            "rows": self._rows.array(),
            "waiting": [list(row) for row in self._waiting],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._places = state["places"]
        self._rows = GrowingRows(len(self._proposals.decisions.variables))
        self._known, self._rest = set(), None
        for row in state["rows"].tolist():
            self._add(tuple(row))
        self._waiting = [tuple(row) for row in state["waiting"]]


def fresh(proposals: Proposals, rng: Generator, ranges: Ranges) -> Codes:
    """A uniform row for each range."""
    rows = np.empty((len(ranges), len(proposals.decisions.variables)), np.int64)
    kinds, where = np.unique(ranges, axis=0, return_inverse=True)
    for i, (low, high) in enumerate(kinds):
        places = np.flatnonzero(where.reshape(-1) == i)
        rows[places] = proposals.sample(rng, len(places), float(low), float(high))
    return rows


class _Rest:
    """The rows that are new, out of all there are. What is drawn depends on which are left only,
    not on how it came to that, so that a search that was stopped goes on as it would have."""

    def __init__(self, rows: Codes, key: Callable[[Row], Hashable], known: set[Hashable]):
        self._rows = rows
        self._places: dict[Hashable, list[int]] = {}
        for place, row in enumerate(map(tuple, rows.tolist())):
            self._places.setdefault(key(row), []).append(place)
        self._new = np.ones(len(rows), bool)
        for found in known:
            self.take(found)

    def take(self, key: Hashable) -> None:
        self._new[self._places.get(key, [])] = False

    def draw(self, rng: Generator) -> Codes | None:
        """One of them, all equally likely; None where there are none."""
        left = np.flatnonzero(self._new)
        return self._rows[left[rng.integers(0, len(left))]] if len(left) else None
