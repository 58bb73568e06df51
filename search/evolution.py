"""Regularised evolution: the youngest live, the winner of a tournament has the next child."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from search.asking import Asking, Ranges, fresh
from search.problem import Row, Trial, succeeded
from search.proposals import Proposals
from search.reward import absolute_reward
from space.decisions import Codes

MUTATIONS = ("uniform", "late")  # the default first
PERIOD = 4  # with "late" mutation, every fourth ask for children is of "uniform" mutation


@dataclass(frozen=True, slots=True)
class _Member:
    row: tuple[int, ...]
    use: float
    score: float
    reward: float

    def worth(self, high: float) -> float:
        """What counts in a tournament for a child that is to use at most `high` of the budget:
        the reward, for smaller networks as if `high` were the whole budget."""
        return self.reward if high == 1 else absolute_reward(self.score, self.use / high)


class RegularizedEvolution:
    """Mutate a tournament winner, retire the oldest (Real et al., 2019, "Regularized Evolution for
    Image Classifier Architecture Search", arXiv 1802.01548, algorithm 1).

    `population` is P and `tournament` is S there (64 and 16 after their section "Methods", where
    P = 100 and S = 25 for 20,000 evaluations; ours are hundreds). Differences:

    - members age in the order of `tell`; those of one `tell` are sorted by digest, so that their
      order in it does not matter;
    - a child has two parents with probability `crossover`, its winners crossed, then mutated;
    - children go where the budget's plan wants them (`search.asking`), and a tournament is held
      for that place: by reward at the budget, and for a smaller slice by the reward that a budget
      of that size would give;
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
        crossover: float = 0.25,
        mutation: str = "uniform",
        at_budget: float = 0.5,
        first: Sequence[Sequence[int]] = (),
    ):
        for name, value in (("population", population), ("tournament", tournament)):
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        if not 0 <= crossover <= 1:
            raise ValueError(f"crossover is {crossover}, but must be from 0 to 1")
        check_mutation(mutation)
        self._proposals = proposals
        self._rng = np.random.default_rng(seed)
        self._asking = Asking(proposals, at_budget, first)
        self._population, self._tournament = population, tournament
        self._crossover, self._mutation = crossover, mutation
        self._asked = 0
        self._child_asks = 0  # asks for children so far, by which the period goes
        self._members: list[_Member] = []  # oldest first

    def ask(self, count: int) -> list[Row]:
        """The first `population` networks are those of a random search."""
        first = min(count, max(0, self._population - self._asked))
        rows = self._asking.ask(self._rng, first, self._fresh) if first else []
        if first < count:
            self._child_asks += 1
            rows += self._asking.ask(self._rng, count - first, self._children)
        self._asked += count
        return rows

    def _fresh(self, ranges: Ranges) -> Codes:
        return fresh(self._proposals, self._rng, ranges)

    def _children(self, ranges: Ranges) -> Codes:
        if not self._members:
            return self._fresh(ranges)
        low, high = ranges.T
        mothers, fathers = (
            np.array([self._winner(top).row for top in high], np.int64) for _ in range(2)
        )
        late = self._mutation == "late" and self._child_asks % PERIOD != 0
        crossed = self._rng.random(len(ranges)) < self._crossover
        children = self._proposals.decisions.cross_codes(
            mothers, fathers, self._rng, one_point=late
        )
        rows = np.where(crossed[:, None], children, mothers)
        return self._proposals.mutate(rows, self._rng, low, high, late=late)

    def _winner(self, high: float) -> _Member:
        return tournament(self._members, self._tournament, high, self._rng)

    def tell(self, trials: Sequence[Trial]) -> None:
        self._asking.learn(trials)
        found = succeeded(trials)
        if not found:
            return
        uses = self._proposals.use(np.array([trial.row for trial in found], np.int64))
        for trial, use in zip(found, uses, strict=True):
            assert trial.values is not None
            score = trial.values[0]
            reward = absolute_reward(score, float(use))
            self._members.append(_Member(trial.row, float(use), score, reward))
        del self._members[: -self._population]

    def state_dict(self) -> dict[str, Any]:
        state = {
            "rng": self._rng.bit_generator.state,
            "asking": self._asking.state_dict(),
            "asked": self._asked,
            "members": [[list(m.row), m.use, m.score, m.reward] for m in self._members],
        }
        if self._mutation == "late":  # else it decides nothing
            state["child_asks"] = self._child_asks
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._asking.load_state_dict(state["asking"])
        self._asked = state["asked"]
        self._child_asks = state.get("child_asks", 0)
        self._members = [_Member(tuple(row), *numbers) for row, *numbers in state["members"]]


def check_mutation(mutation: str) -> None:
    """ValueError, with what is allowed, where `mutation` is not one of `MUTATIONS`."""
    if mutation not in MUTATIONS:
        raise ValueError(f"mutation is {mutation!r}, but must be one of {', '.join(MUTATIONS)}")


def tournament(members: Sequence[_Member], size: int, high: float, rng: Generator) -> _Member:
    """The best of `size` members drawn with replacement, for a child that uses at most `high`."""
    drawn = rng.integers(0, len(members), size)
    return max((members[i] for i in drawn), key=lambda member: member.worth(high))
