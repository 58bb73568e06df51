"""Networks of a space under a budget, as a problem for controllers and as what the loop records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evaluator.interfaces import Result
from search.interfaces import Outcome
from search.problem import Floats, Problem, Row, Trial
from search.proposals import BAND, Proposals
from search.reward import absolute_reward
from space.budget import Budget, cost_figure, cost_text
from space.cost import Cost
from space.cost_table import COSTS, CostTable
from space.decisions import Codes
from space.genome import Genome
from space.objectives import SCORE
from space.search_space import Space

_STARTS = 64  # rows from which the ends of a column are looked for
_STEPS = 48
_TRIES = 16  # changes of each row in a step, of which the best is kept


class CostColumn(Protocol):
    """A cost of networks beside the counts of their layers, known before any is scored."""

    @property
    def name(self) -> str:
        """That of the column (`space.budget.MeasuredCost.column`)."""
        ...

    def __call__(self, codes: Codes) -> Floats:
        """What rows of the space cost, (B, V) to (B,), in the unit of the column."""
        ...


@dataclass(frozen=True, slots=True)
class Reachable:
    """What networks of a space cost, and how many of them a budget allows.

    `smallest` and `largest` of counts are exact, those of other columns the ends that a search
    found; `median` and the shares are those of 10,000 networks whose variables are uniform. `share`
    fits the budget, `share_at_budget` uses 95 % of it and more.
    """

    smallest: Mapping[str, float]
    median: Mapping[str, float]
    largest: Mapping[str, float]
    share: float
    share_at_budget: float


class NetworkProposals(Proposals):
    """Rows of `space` that are networks inside `budget`.

    `columns` are the costs beside those of the table, at least those that the budget limits. The
    cost that is steered (`target`) is the first of `Budget.targets` of which networks use 95 % and
    more within the other limits, unless one is named: so MACs where their limit can be met, and
    otherwise the limit that binds. `objectives` are the costs that are to be small beside a high
    score, the target unless others are named; of the front, those that use all of the target are
    wanted most.
    """

    def __init__(
        self,
        space: Space,
        table: CostTable,
        budget: Budget,
        columns: Sequence[CostColumn] = (),
        *,
        objectives: Sequence[str] = (),
        target: str | None = None,
    ):
        self.space, self.table, self.budget, self.columns = space, table, budget, tuple(columns)
        self._wanted = tuple(objectives)
        self._known_ends = self._find_ends()
        targets = budget.targets if target is None else (target,)
        for steered in targets:
            super().__init__(self._problem(steered))
            if len(targets) == 1 or self.has(BAND, 1.0):
                return
        super().__init__(self._problem(targets[0]))

    def _problem(self, target: str) -> Problem:
        return Problem(
            decisions=self.space,
            costs=self._costs,
            cost_names=(*COSTS, *(column.name for column in self.columns)),
            limits=self.budget.limits(),
            wanted_small=self._wanted or (target,),
            target=target,
            banded=True,
            ends=self._known_ends,
        )

    def _costs(self, codes: Codes) -> NDArray[Any]:
        counts = self.table.costs(codes)
        if not self.columns:
            return counts
        others = [np.asarray(column(codes), float)[:, None] for column in self.columns]
        return np.concatenate([counts.astype(float), *others], axis=1)

    def _find_ends(self) -> Codes:
        """Rows of the least and most of every cost that is limited: exact for counts, of other
        columns the ends that are found. MACs stand in where no count is limited."""
        counts = [name for name in self.budget.limits() if name in COSTS] or ["macs"]
        ends = [
            self.table.extreme(name, largest=largest)
            for name in counts
            for largest in (False, True)
        ]
        known = np.stack(ends)
        found = [
            self._found_end(column, largest, known)
            for column in self.columns
            for largest in (False, True)
        ]
        return np.concatenate([known, np.stack(found)]) if found else known

    def _found_end(self, column: CostColumn, largest: bool, known: Codes) -> Codes:
        """The row of least or most cost that climbing comes to, from random rows and the ends that
        are known: of `_TRIES` changes of each row the best one is taken where it is better."""
        rng, sign = np.random.default_rng(0), -1.0 if largest else 1.0
        rows = np.concatenate([self.space.sample_codes(rng, _STARTS), known])
        costs = sign * column(rows)
        rows = rows[np.argsort(costs, kind="stable")[: max(1, len(rows) // 4)]]
        costs = np.sort(costs)[: len(rows)]
        if not (self.space.active(rows) & (self.space.cardinalities > 1)).any(axis=1).all():
            return rows[0]
        for _ in range(_STEPS):
            changed = self.space.mutate_codes(np.repeat(rows, _TRIES, axis=0), rng)
            found = sign * column(changed)
            best = found.reshape(len(rows), _TRIES).argmin(1) + _TRIES * np.arange(len(rows))
            better = found[best] < costs
            rows[better], costs[better] = changed[best[better]], found[best[better]]
        return rows[int(costs.argmin())]

    # ---- what is steered and wanted

    @property
    def target(self) -> str:
        """The cost that is steered towards its limit, `limit`."""
        assert self.problem.target is not None
        return self.problem.target

    @property
    def objectives(self) -> tuple[str, ...]:
        """The score, and the costs that are to be small."""
        return SCORE, *self.problem.wanted_small

    @property
    def cost_names(self) -> tuple[str, ...]:
        """The costs that a person wants to see: MACs, parameters, and whatever else is limited or
        an objective."""
        return tuple(dict.fromkeys(["macs", "params", *self.budget.limits(), *self.objectives[1:]]))

    def racing_costs(self, genomes: Sequence[Genome]) -> list[tuple[float, ...]]:
        """Of each network the use of the budget, and the costs that are objectives, as races want
        them (`search.workers.Unit`)."""
        codes = np.array([self.space.encode(genome) for genome in genomes], np.int64)
        codes = codes.reshape(len(genomes), len(self.space.variables))
        known = np.concatenate([self.use(codes)[:, None], -self.problem.known_gains(codes)], axis=1)
        return [tuple(row) for row in known.tolist()]

    # ---- what there is

    @cached_property
    def _known_costs(self) -> NDArray[Any]:
        """Of the survey and the ends."""
        return np.concatenate([self._survey_costs, self.problem.costs(self._ends)])

    def reachable(self) -> Reachable:
        """The costs of the space and the share of it that the budget allows."""
        names = self.problem.cost_names
        shown = ["macs", "params", *(column.name for column in self.columns)]
        ends = [
            {
                name: int(self.table.column(row[None], name)[0])
                for name in ("macs", "params")
                for row in [self.table.extreme(name, largest=largest)]
            }
            | {
                column.name: float(values.max() if largest else values.min())
                for column in self.columns
                for values in [self._known_costs[:, names.index(column.name)]]
            }
            for largest in (False, True)
        ]
        medians = np.median(self._survey_costs, axis=0)
        median = {
            name: int(value) if name in COSTS else float(value)
            for name in shown
            for value in [medians[names.index(name)]]
        }
        share = float(self._fits(self._survey_costs, 0.0, 1.0).mean())
        at_budget = float(self._fits(self._survey_costs, BAND, 1.0).mean())
        return Reachable(ends[0], median, ends[1], share, at_budget)

    def unreachable(self, low: float, high: float) -> str:
        """Why there is nothing in the range, and what the space reaches."""
        reach = " and ".join(self._reach())
        wanted = "fits" if low == 0 and high == 1 else f"uses {low:.0%} to {high:.0%} of"
        known = np.concatenate([self._survey, self._ends])
        inside = self.use(known)[self.fits(known)]
        closest = f"; the most that was found uses {inside.max():.1%}" if len(inside) else ""
        return (
            f"no network of space {self.space.name!r} {wanted} the budget {self.budget.text!r}: "
            f"the space has networks of {reach}{closest}"
        )

    def _reach(self) -> Iterator[str]:
        """From what to what each limited cost goes."""
        for name in self.budget.limits():
            costs = self._known_costs[:, self.problem.cost_names.index(name)]
            least, most = float(costs.min()), float(costs.max())
            yield f"{cost_figure(name, least)} to {cost_text(name, most)}"


class Networks:
    """What the loop records of networks. `origins` (digest -> text) says where some are from that
    are not the controller's own."""

    def __init__(self, proposals: NetworkProposals, origins: Mapping[str, str] | None = None):
        self._proposals, self._origins = proposals, origins or {}
        self._under_way: dict[Row, _Known] = {}
        self._kept = [name for name in proposals.cost_names if name not in ("macs", "params")]

    def candidate(self, row: Row) -> Genome:
        known = self._under_way[row] = self._known(row)
        budget = self._proposals.budget
        assert budget.allows(known.cost, known.costs), f"{known} is above {budget.text}"
        return known.genome

    def _known(self, row: Row) -> _Known:
        codes, problem = np.array([row], np.int64), self._proposals.problem
        values = dict(zip(problem.cost_names, problem.costs(codes)[0].tolist(), strict=True))
        cost = Cost(**{name: int(values[name]) for name in COSTS})
        costs = {name: float(values[name]) for name in self._kept}
        use = values[self._proposals.target] / self._proposals.limit
        return _Known(self._proposals.space.decode(row), cost, costs, use)

    def trial(self, row: Row, outcome: Outcome) -> Trial:
        if outcome.score is None:
            return Trial(row, None)
        return Trial(row, (outcome.score.score,), outcome.score.fidelity)

    def result(self, row: Row, outcome: Outcome) -> Result:
        """With its reward, see `search.reward`."""
        known = self._under_way.pop(row) if row in self._under_way else self._known(row)
        score = outcome.score
        return Result(
            genome=known.genome,
            cost=known.cost,
            costs=known.costs,
            score=None if score is None else score.score,
            reward=None if score is None else absolute_reward(score.score, known.use),
            seconds=outcome.seconds,
            details={} if score is None else score.details,
            error=None if score is not None else outcome.error,
            origin=self._origins.get(known.genome.digest),
        )


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a row before it is scored; `costs` are those beside MACs and parameters
    that are limited or objectives, `use` is that of the budget."""

    genome: Genome
    cost: Cost
    costs: Mapping[str, float]
    use: float
