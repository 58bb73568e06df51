"""What every controller's `ask` shares: where in the budget to look, and never to look twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from search.proposals import BAND, Proposals
from space.decisions import Codes
from space.genome import Genome

Ranges = NDArray[np.float64]  # (B, 2): the lowest and highest use of the budget for each place

_ROUNDS = 8  # attempts of the controller itself to find a network that is new
_DRAWS = 256  # uniform rows that are looked through in each of as many rounds after that


class Asking:
    """Plans where in the budget an ask's networks lie, and hands out each network once.

    Of all networks asked for, the share `at_budget` uses 95 % of the budget and more: the best
    network of a search is one of these. Each of the others lies in one of the slices of the
    budget (`Proposals.slices`), which are equally likely, so that the front of score against cost
    is searched along its whole length.

    The rows in `first`, if there are any, come before all others and without a plan.

    ValueError where the space has no network at the budget.
    """

    def __init__(self, proposals: Proposals, at_budget: float, first: Sequence[Sequence[int]] = ()):
        if not 0 <= at_budget <= 1:
            raise ValueError(f"at_budget is {at_budget}, but must be from 0 to 1")
        proposals.check()
        self._proposals, self._at_budget = proposals, at_budget
        self._slices = np.array(proposals.slices())
        self._places = 0  # asked for so far
        self._known: set[str] = set()
        self._waiting = [tuple(map(int, row)) for row in first]

    def plan(self, rng: Generator, count: int) -> Ranges:
        """The ranges of use for the next `count` networks."""
        ranges = self._slices[rng.integers(0, len(self._slices), count)]
        for i in range(count):
            place = self._places + i
            if int((place + 1) * self._at_budget) > int(place * self._at_budget):
                ranges[i] = BAND, 1
            elif not self._proposals.has(*ranges[i]):
                ranges[i] = 0, 1
        self._places += count
        return ranges

    def ask(self, rng: Generator, count: int, propose: Callable[[Ranges], Codes]) -> list[Genome]:
        """`count` new networks, or fewer where next to nothing new is left.

        `propose` gives one row for each range. A row that is no news is proposed anew, in the end
        anywhere in the budget; after that uniform rows are looked through.
        """
        first = self._take_first(count)
        if len(first) == count:
            return first
        return first + self._ask(rng, count - len(first), propose)

    def _take_first(self, count: int) -> list[Genome]:
        """Up to `count` of the networks that were given to begin with."""
        found: list[Genome] = []
        while self._waiting and len(found) < count:
            genome = self._news(np.array(self._waiting.pop(0), np.int64))
            found += [genome] if genome is not None else []
        return found

    def _ask(self, rng: Generator, count: int, propose: Callable[[Ranges], Codes]) -> list[Genome]:
        ranges = self.plan(rng, count)
        found: list[Genome | None] = [None] * count
        for attempt in range(2 * _ROUNDS):
            missing = [i for i, genome in enumerate(found) if genome is None]
            if not missing:
                break
            if attempt >= _ROUNDS // 2:
                ranges[:] = 0, 1
            if attempt < _ROUNDS:
                rows = propose(ranges[missing])
                for i, row in zip(missing, rows, strict=True):
                    found[i] = self._news(row)
            else:
                rows = np.unique(self._proposals.sample(rng, _DRAWS), axis=0)
                news = (self._news(row) for row in rng.permutation(rows))
                for i, genome in zip(missing, filter(None, news), strict=False):
                    found[i] = genome
        return [genome for genome in found if genome is not None]

    def _news(self, row: Codes) -> Genome | None:
        """The network of a row if it is not known yet; from now on it is."""
        genome = self._proposals.space.decode(row)
        if genome.digest in self._known:
            return None
        self._known.add(genome.digest)
        return genome

    def learn(self, genomes: Sequence[Genome]) -> None:
        """Networks that were told are not proposed, whoever asked for them."""
        self._known.update(genome.digest for genome in genomes)

    def state_dict(self) -> dict[str, Any]:
        waiting = [list(row) for row in self._waiting]
        return {"places": self._places, "known": sorted(self._known), "waiting": waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._places, self._known = state["places"], set(state["known"])
        self._waiting = [tuple(row) for row in state.get("waiting", ())]


def fresh(proposals: Proposals, rng: Generator, ranges: Ranges) -> Codes:
    """A uniform row for each range."""
    rows = np.empty((len(ranges), len(proposals.space.variables)), np.int64)
    kinds, where = np.unique(ranges, axis=0, return_inverse=True)
    for i, (low, high) in enumerate(kinds):
        places = np.flatnonzero(where.reshape(-1) == i)
        rows[places] = proposals.sample(rng, len(places), float(low), float(high))
    return rows
