"""NSGA-II: the front of several objectives, by non-dominated ranks and crowding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.asking import Asking, Ranges, fresh
from search.problem import Floats, Row, Trial
from search.proposals import Proposals
from search.records import Records
from space.decisions import Codes

CROSSOVERS = ("uniform", "one-point")  # the default first


def ranks(gains: Floats) -> NDArray[np.int64]:
    """The front that each row of gains, (N, K), lies on; 0 is not dominated by any other row.

    Source: Deb et al., 2002, "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE
    TEC 6(2), section III-A, in matrices. Equal rows do not dominate one another.
    """
    better_or_equal = np.asarray((gains[:, None] >= gains[None]).all(axis=2))
    dominates = better_or_equal & ~better_or_equal.T
    found = np.full(len(gains), -1, np.int64)
    dominators = dominates.sum(axis=0)
    front = 0
    while (found < 0).any():
        here = (found < 0) & (dominators == 0)
        found[here] = front
        dominators -= dominates[here].sum(axis=0)
        front += 1
    return found


def crowding(gains: Floats) -> Floats:
    """The crowding distance of each row of one front, (N,): the sum over objectives of the gap
    between its neighbours over the whole width; infinite at the ends.

    Source: as above, section III-B. Of rows that are equal in all objectives one has a distance,
    the others have none (Fortin and Parizeau, 2013, "Revisiting the NSGA-II crowding-distance
    computation", count each vector of objectives once), so that copies do not fill a front.
    """
    distance = np.zeros(len(gains))
    kinds, first = np.unique(gains, axis=0, return_index=True)
    found = np.zeros(len(kinds))
    for column in kinds.T:
        order = np.argsort(column, kind="stable")
        values = column[order]
        width = values[-1] - values[0]
        gaps = np.full(len(kinds), np.inf)
        if width > 0:
            gaps[1:-1] = (values[2:] - values[:-2]) / width
        else:
            gaps[:] = 0.0  # nobody stands out where all are equal
        found[order] += gaps
    distance[first] = found
    return distance


def survivors(gains: Floats, count: int) -> NDArray[np.int64]:
    """The places of the `count` best rows, in their order: front by front, the last one by
    crowding (as above, section III-C)."""
    if len(gains) <= count:
        return np.arange(len(gains))
    return np.sort(np.lexsort([-crowding_of_all(gains), ranks(gains)])[:count])


def crowding_of_all(gains: Floats) -> Floats:
    """The crowding distance of each row in its own front."""
    fronts, distance = ranks(gains), np.zeros(len(gains))
    for front in range(fronts.max(initial=-1) + 1):
        here = fronts == front
        distance[here] = crowding(gains[here])
    return distance


class NSGA2:
    """NSGA-II (Deb et al., 2002, IEEE TEC 6(2), section III) for any number of objectives.

    Parents win a tournament of `tournament` by front, then crowding distance; a child is crossed
    with probability `crossover` and mutated. Differences:

    - steady state: the population, which is the best `population` of all trials so far, is sorted
      anew with each `tell`, however few that tells (Durillo et al., 2009, "On the effect of the
      steady-state selection scheme in multi-objective genetic algorithms"). NSGA-II proper is what
      comes of it where a whole generation is asked for and told at once;
    - tournaments are of 8, not 2, and only the first `initial` rows are random, not a population
      of them, since evaluations are hundreds. On NAS-Bench-Macro (accuracy and multiply-adds, both
      observed, 30 seeds) the share of the front's hypervolume after 50, 100, 200 and 400 is 0.929,
      0.978, 0.993 and 0.998; with tournaments of 4 it is 0.901, 0.958, 0.988 and 0.998, with
      tournaments of 2 and a population of 64, 0.879, 0.928, 0.967 and 0.991;
    - variables are categories: `crossing` is uniform or one-point (0.879, 0.922, 0.959 and 0.993
      beside the last), a mutation changes one variable; a child that is no news is mutated further;
    - children go where the plan wants them (`search.asking`). Where the plan wants a range of the
      target's use, of members of one front the nearest to the range wins, and crowding comes last.
    """

    def __init__(
        self,
        proposals: Proposals,
        seed: int,
        *,
        population: int = 32,
        tournament: int = 8,
        initial: int = 16,
        crossover: float = 0.5,
        crossing: str = "uniform",
        at_budget: float = 0.5,
        first: Sequence[Sequence[int]] = (),
    ):
        for name, value in (
            ("population", population),
            ("tournament", tournament),
            ("initial", initial),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        if not 0 <= crossover <= 1:
            raise ValueError(f"crossover is {crossover}, but must be from 0 to 1")
        if crossing not in CROSSOVERS:
            raise ValueError(
                f"crossing is {crossing!r}, but must be one of {', '.join(CROSSOVERS)}"
            )
        self._proposals = proposals
        self._rng = np.random.default_rng(seed)
        self._asking = Asking(proposals, at_budget, first)
        self._population, self._tournament, self._initial = population, tournament, initial
        self._crossover, self._one_point = crossover, crossing == "one-point"
        self._asked = 0
        self._records = Records(proposals)
        self._members = np.empty(0, np.int64)  # places of the records that live
        self._fronts, self._crowding = np.empty(0, np.int64), np.empty(0)

    def ask(self, count: int) -> list[Row]:
        """The first `initial` rows are those of a random search."""
        random = max(0, self._initial - self._asked)
        self._asked += count
        return self._asking.ask_after(self._rng, count, random, self._children)

    def _children(self, ranges: Ranges, calls: int) -> Codes:
        """A child for each range; what was no news is mutated further with each second call."""
        if not len(self._members):
            return fresh(self._proposals, self._rng, ranges)
        low, high = ranges.T
        mothers, fathers = (
            self._records.rows[[self._winner(*place) for place in ranges]] for _ in range(2)
        )
        crossed = self._rng.random(len(ranges)) < self._crossover
        children = self._proposals.decisions.cross_codes(
            mothers, fathers, self._rng, one_point=self._one_point
        )
        rows = np.where(crossed[:, None], children, mothers)
        for _ in range(1 + (calls + 1) // 2):
            rows = self._proposals.mutate(rows, self._rng, low, high)
        return rows

    def _winner(self, low: float, high: float) -> int:
        drawn = self._rng.integers(0, len(self._members), self._tournament)
        use = self._records.use[self._members[drawn]]
        away = np.maximum(0, np.maximum(low - use, use - high))
        if not self._records.sliced:
            away[:] = 0
        order = np.lexsort([-self._crowding[drawn], away, self._fronts[drawn]])
        return int(self._members[drawn[order[0]]])

    def tell(self, trials: Sequence[Trial]) -> None:
        self._asking.learn(trials)
        changed = self._records.add(trials)
        self._select(np.union1d(self._members, changed))

    def _select(self, places: NDArray[np.int64]) -> None:
        gains = self._records.gains[places]
        self._members = places[survivors(gains, self._population)]
        gains = self._records.gains[self._members]
        self._fronts, self._crowding = ranks(gains), crowding_of_all(gains)

    def state_dict(self) -> dict[str, Any]:
        return {
            "rng": self._rng.bit_generator.state,
            "asking": self._asking.state_dict(),
            "asked": self._asked,
            "records": self._records.state_dict(),
            "members": self._members.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._asking.load_state_dict(state["asking"])
        self._asked = state["asked"]
        self._records.load_state_dict(state["records"])
        self._select(np.array(state["members"], np.int64))
