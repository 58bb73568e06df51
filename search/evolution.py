"""Regularised evolution: the youngest live, the winner of a tournament has the next child."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator

from search.asking import Asking, Ranges, fresh
from search.problem import Floats, Row, Trial
from search.proposals import Proposals
from search.records import Records
from space.decisions import Codes

MUTATIONS = ("uniform", "late")  # the default first
PERIOD = 4  # with "late" mutation, every fourth ask for children is of "uniform" mutation


class RegularizedEvolution:
    """Mutate a tournament winner, retire the oldest (Real et al., 2019, "Regularized Evolution for
    Image Classifier Architecture Search", arXiv 1802.01548, algorithm 1).

    `population` is P and `tournament` is S there (64 and 16 after their section "Methods", where
    P = 100 and S = 25 for 20,000 evaluations; ours are hundreds). Differences:

    - only the first `initial` rows are random, not P of them: until P are there, nobody retires;
    - members age in the order of `tell`; those of one `tell` are sorted by row, so that their
      order in it does not matter;
    - a child has two parents with probability `crossover`, its winners crossed, then mutated; one
      that is no news is mutated further;
    - children go where the budget's plan wants them (`search.asking`), and a tournament is held
      for that place (`search.records`): by reward at the budget, and for a smaller slice by the
      reward that a budget of that size would give; for several objectives that no place takes
      care of, by random weights of them, drawn for each child;
    - with `mutation` "late", children begin as their mother does for longer, so that a scorer that
      knows how she begins has less to compute: the changed variable is the later of two that are
      drawn, and crossover has one point. So that early variables go on being explored, every
      `PERIOD`-th ask for children is of "uniform" mutation.
    """

    def __init__(
        self,
        proposals: Proposals,
        seed: int,
        *,
        population: int = 64,
        tournament: int = 16,
        initial: int = 16,
        crossover: float = 0.5,
        mutation: str = "uniform",
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
        check_mutation(mutation)
        self._proposals = proposals
        self._rng = np.random.default_rng(seed)
        self._asking = Asking(proposals, at_budget, first)
        self._initial, self._tournament = min(initial, population), tournament
        self._crossover, self._mutation = crossover, mutation
        self._asked = 0
        self._child_asks = 0  # asks for children so far, by which the period goes
        self._members = Records(proposals, newest=population)

    def ask(self, count: int) -> list[Row]:
        """The first `initial` rows are those of a random search."""
        random = max(0, self._initial - self._asked)
        self._asked += count
        self._child_asks += random < count
        return self._asking.ask_after(self._rng, count, random, self._children)

    def _children(self, ranges: Ranges, calls: int) -> Codes:
        """A child for each range; what was no news is mutated further with each second call."""
        if not len(self._members):
            return fresh(self._proposals, self._rng, ranges)
        low, high = ranges.T
        weights = self._members.weights(self._rng, len(ranges))
        mothers, fathers = (
            np.stack([self._winner(*place) for place in zip(high, weights, strict=True)])
            for _ in range(2)
        )
        late = self._mutation == "late" and self._child_asks % PERIOD != 0
        crossed = self._rng.random(len(ranges)) < self._crossover
        children = self._proposals.decisions.cross_codes(
            mothers, fathers, self._rng, one_point=late
        )
        rows = np.where(crossed[:, None], children, mothers)
        for _ in range(1 + (calls + 1) // 2):
            rows = self._proposals.mutate(rows, self._rng, low, high, late=late)
        return rows

    def _winner(self, high: float, weights: Floats) -> Codes:
        return self._members.rows[
            tournament(self._members, self._tournament, high, weights, self._rng)
        ]

    def tell(self, trials: Sequence[Trial]) -> None:
        self._asking.learn(trials)
        self._members.add(trials)

    def state_dict(self) -> dict[str, Any]:
        state = {
            "rng": self._rng.bit_generator.state,
            "asking": self._asking.state_dict(),
            "asked": self._asked,
            "members": self._members.state_dict(),
        }
        if self._mutation == "late":  # else it decides nothing
            state["child_asks"] = self._child_asks
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._asking.load_state_dict(state["asking"])
        self._asked = state["asked"]
        self._child_asks = state.get("child_asks", 0)
        self._members.load_state_dict(state["members"])


def check_mutation(mutation: str) -> None:
    """ValueError, with what is allowed, where `mutation` is not one of `MUTATIONS`."""
    if mutation not in MUTATIONS:
        raise ValueError(f"mutation is {mutation!r}, but must be one of {', '.join(MUTATIONS)}")


def tournament(members: Records, size: int, high: float, weights: Floats, rng: Generator) -> int:
    """The place of the best of `size` members drawn with replacement, for a child that uses at
    most `high`; of equal ones, the first that was drawn."""
    drawn = rng.integers(0, len(members), size)
    return int(drawn[members.worth(high, weights, drawn).argmax()])
