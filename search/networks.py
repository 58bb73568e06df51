"""Networks of a space under a budget, as a problem for controllers and as what the loop records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evaluator.interfaces import Result
from search.interfaces import Outcome
from search.problem import Problem, Row, Trial
from search.proposals import BAND, Proposals
from search.reward import absolute_reward
from space.budget import Budget, quantity
from space.cost import Cost
from space.cost_table import COSTS, CostTable
from space.genome import Genome
from space.search_space import Space


@dataclass(frozen=True, slots=True)
class Reachable:
    """What networks of a space cost, and how many of them a budget allows.

    `smallest` and `largest` are exact; `median` and the shares are those of 10,000 networks whose
    variables are uniform. `share` fits the budget, `share_at_budget` uses 95 % of it and more.
    """

    smallest: Mapping[str, int]
    median: Mapping[str, int]
    largest: Mapping[str, int]
    share: float
    share_at_budget: float


class NetworkProposals(Proposals):
    """Rows of `space` that are networks inside `budget`, for the front of score against the cost
    that the budget steers; those that use all of it are wanted most."""

    def __init__(self, space: Space, table: CostTable, budget: Budget):
        self.space, self.table, self.budget = space, table, budget
        ends = [
            table.extreme(name, largest=largest)
            for name in budget.limits()
            for largest in (False, True)
        ]
        super().__init__(
            Problem(
                decisions=space,
                costs=table.costs,
                cost_names=COSTS,
                limits=budget.limits(),
                wanted_small=(budget.target,),
                target=budget.target,
                banded=True,
                ends=np.stack(ends),
            )
        )

    def reachable(self) -> Reachable:
        """The costs of the space and the share of it that the budget allows."""
        names = ("macs", "params")
        ends = [
            {
                name: int(self.table.column(row[None], name)[0])
                for name in names
                for row in [self.table.extreme(name, largest=largest)]
            }
            for largest in (False, True)
        ]
        costs = self._survey_costs
        median = {name: int(np.median(costs[:, COSTS.index(name)])) for name in names}
        share = float(self._fits(costs, 0.0, 1.0).mean())
        at_budget = float(self._fits(costs, BAND, 1.0).mean())
        return Reachable(ends[0], median, ends[1], share, at_budget)

    def unreachable(self, low: float, high: float) -> str:
        """Why there is nothing in the range, and what the space reaches."""
        names = {"macs": "MACs", "params": "parameters"}
        reach = " and ".join(
            f"{quantity(ends[0])} to {quantity(ends[1])} {names[name]}"
            for i, name in enumerate(self.budget.limits())
            for ends in [self.table.column(self._ends[2 * i : 2 * i + 2], name)]
        )
        wanted = "fits" if low == 0 and high == 1 else f"uses {low:.0%} to {high:.0%} of"
        known = np.concatenate([self._survey, self._ends])
        inside = self.use(known)[self.fits(known)]
        closest = f"; the most that was found uses {inside.max():.1%}" if len(inside) else ""
        return (
            f"no network of space {self.space.name!r} {wanted} the budget {self.budget.text!r}: "
            f"the space has networks of {reach}{closest}"
        )


class Networks:
    """What the loop records of networks. `origins` (digest -> text) says where some are from that
    are not the controller's own."""

    def __init__(self, proposals: NetworkProposals, origins: Mapping[str, str] | None = None):
        self._proposals, self._origins = proposals, origins or {}
        self._under_way: dict[Row, tuple[Genome, Cost]] = {}

    def candidate(self, row: Row) -> Genome:
        genome, cost = self._under_way[row] = self._made(row)
        budget = self._proposals.budget
        assert budget.allows(cost), f"{genome.digest} costs {cost}, above {budget.text}"
        return genome

    def _made(self, row: Row) -> tuple[Genome, Cost]:
        costs = self._proposals.table.costs(np.array([row], np.int64))[0]
        return self._proposals.space.decode(row), Cost(
            **dict(zip(COSTS, costs.tolist(), strict=True))
        )

    def trial(self, row: Row, outcome: Outcome) -> Trial:
        if outcome.score is None:
            return Trial(row, None)
        return Trial(row, (outcome.score.score,), outcome.score.fidelity)

    def result(self, row: Row, outcome: Outcome) -> Result:
        """With its reward, see `search.reward`."""
        known = row in self._under_way
        genome, cost = self._under_way.pop(row) if known else self._made(row)
        origin = self._origins.get(genome.digest)
        score, seconds = outcome.score, outcome.seconds
        if score is None:
            return Result(genome, cost, seconds=seconds, error=outcome.error, origin=origin)
        reward = absolute_reward(score.score, self._proposals.budget.use(cost))
        return Result(genome, cost, score.score, reward, seconds, score.details, origin=origin)
