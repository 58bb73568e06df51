"""Rows inside a budget: what every controller draws its proposals from.

The cost of a row is known before it is scored, so the budget is hard: nothing outside it is ever
proposed. Where chance hits the budget often enough, rows are drawn until enough of them fit, which
keeps them uniform. Where it does not (a budget near the cheapest network of the space, or several
limits at once), rows walk towards the budget by random one-variable changes. Of a problem that has
no more than certain rows (`Problem.members`), rows are drawn from these.

The *use* of a row is its cost over its limit, for the cost that the budget steers (`target`). A
range of use, `low` to `high`, is everywhere one number or one for each row. All limits of the
budget hold in any range.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from search.problem import ENUMERABLE, Problem
from space.decisions import Codes

BAND = 0.95  # networks that use at least this share of the budget are "at the budget"
SLICE = 0.05  # width of the slices of the budget that spread proposals over smaller networks

_SURVEY = 10_000  # uniform rows that tell what is easy to hit
_BATCH = 4096
_EASY_HITS = 20  # hits among the survey from which on rows are simply drawn: 1 in 500
_TRIES = 32  # mutants or children drawn at once for each that is wanted
_WALKERS = 192
_ENOUGH = 64  # walkers that have arrived end the walk
_WALK_STEPS = 400
_REPAIR_STEPS = 40
_REPAIR_TRIES = 16  # the best of many changes: few of them are needed
_MIXING_STEPS = 12  # random steps inside the range, away from a row of the pool
_HEAT = 0.05  # in units of the logarithm of a cost: 5 %
_NO_MEMBER = 100.0  # further away than any cost can be

Share = float | NDArray[np.float64]


class Proposals:
    """Rows of `problem` inside its limits: fresh ones, mutants and children.

    What is drawn depends on the arguments and the generator only, not on earlier calls, so that a
    search which was stopped and one which was not draw the same rows.
    """

    def __init__(self, problem: Problem):
        self.problem, self.decisions = problem, problem.decisions
        names = problem.cost_names
        self._limits = [(names.index(name), limit) for name, limit in problem.limits.items()]
        if problem.members is None:
            self._survey = self.decisions.sample_codes(np.random.default_rng(0), _SURVEY)
        else:
            self._survey = problem.members
        self._survey_costs = problem.costs(self._survey)
        width = len(self.decisions.variables)
        self._ends = np.empty((0, width), np.int64) if problem.ends is None else problem.ends
        self._target = None if problem.target is None else names.index(problem.target)
        self.limit = 1.0  # of the target
        if self._target is not None:
            known = [self._survey_costs, problem.costs(self._ends)]
            largest = float(max(costs[:, self._target].max(initial=0) for costs in known))
            self.limit = problem.limits.get(str(problem.target), largest) or 1.0
        nothing = np.zeros((1, width), np.int64)
        # Whether there is but one row: then there is nothing to change.
        self._single = not (
            self.decisions.active(nothing) & (self.decisions.cardinalities > 1)
        ).any()
        self._pools: dict[tuple[float, float], Codes] = {}
        self._hits: dict[tuple[float, float], int] = {}
        self._members = None if problem.members is None else _Lookup(problem.members)

    # ---- what a row uses

    def use(self, codes: Codes) -> NDArray[np.float64]:
        """Share of the target's limit that each row uses, (B,); 1 where nothing is steered."""
        return self._use(self.problem.costs(codes))

    def _use(self, costs: NDArray[Any]) -> NDArray[np.float64]:
        return np.ones(len(costs)) if self._target is None else costs[:, self._target] / self.limit

    def fits(self, codes: Codes, low: Share = 0.0, high: Share = 1.0) -> NDArray[np.bool_]:
        """Which rows are inside the budget and in the range of use, (B,)."""
        return self._fits(self.problem.costs(codes), low, high) & self._is_member(codes)

    def _fits(self, costs: NDArray[Any], low: Share, high: Share) -> NDArray[np.bool_]:
        use = self._use(costs)
        inside = (use >= low) & (use <= high)
        for column, limit in self._limits:
            inside &= costs[:, column] <= limit
        return inside

    def _is_member(self, codes: Codes) -> NDArray[np.bool_]:
        if self._members is None:
            return np.ones(len(codes), bool)
        return self._members.has(codes)

    def distance(self, codes: Codes, low: Share, high: Share) -> NDArray[np.float64]:
        """How far each row is from fitting, (B,): the sum of the logarithms of what is too much
        and too little; 0 where it fits. What is no row of the problem is further than all others.
        """
        costs = self.problem.costs(codes)
        use = self._use(costs)
        distance = np.maximum(0, np.log(np.maximum(low, 1e-12) / np.maximum(use, 1e-12)))
        distance += np.maximum(0, np.log(np.maximum(use, 1e-12) / np.maximum(high, 1e-12)))
        for column, limit in self._limits:
            if column != self._target:
                distance += np.maximum(
                    0, np.log(np.maximum(costs[:, column], 1e-12) / max(limit, 1e-12))
                )
        # Rounding of a quotient must not decide what fits: that is said by whole numbers alone.
        fits = self._fits(costs, low, high)
        distance = np.where(fits, 0.0, np.maximum(distance, 1e-12))
        return np.where(self._is_member(codes), distance, distance + _NO_MEMBER)

    # ---- what there is at all

    def slices(self) -> list[tuple[float, float]]:
        """Ranges of use, `SLICE` wide, from that of the cheapest row up to the budget. Those in
        between may be empty."""
        count = round(1 / SLICE)
        uses = self.use(self._ends if len(self._ends) else self._survey)
        return [
            (k / count, (k + 1) / count)
            for k in range(count)
            if (k + 1) / count >= uses.min() and k / count <= uses.max()
        ]

    def has(self, low: float, high: float) -> bool:
        """Whether a row in the range is known; where chance finds none, this searches for one."""
        return self._hit(low, high) >= _EASY_HITS or len(self._pool(low, high)) > 0

    def _hit(self, low: float, high: float) -> int:
        """How many rows of the survey are in the range."""
        hits = self._hits.get((low, high))
        if hits is None:
            hits = int(self._fits(self._survey_costs, low, high).sum())
            self._hits[low, high] = hits
        return hits

    def check(self) -> None:
        """ValueError where no row is wanted: at the budget, if the problem is banded."""
        for low in (0.0, BAND) if self.problem.banded else (0.0,):
            if not self.has(low, 1.0):
                raise ValueError(self.unreachable(low, 1.0))

    def unreachable(self, low: float, high: float) -> str:
        """Why there is nothing in the range."""
        limits = ", ".join(f"{name} <= {limit:g}" for name, limit in self.problem.limits.items())
        least = ", ".join(
            f"{self.problem.cost_names[column]} {self._survey_costs[:, column].min():g}"
            for column, _ in self._limits
        )
        return (
            f"nothing in {self.decisions.name!r} is within {limits or 'no limit'} and uses "
            f"{low:.0%} to {high:.0%} of it; the least that was found is {least}"
        )

    def everything(self) -> Codes | None:
        """All rows that fit; None where there are too many rows to go through."""
        if self.problem.members is not None:
            rows: Codes | None = self.problem.members
        else:
            rows = self.decisions.every_code(ENUMERABLE)
        return None if rows is None else rows[self.fits(rows)]

    # ---- rows

    def sample(self, rng: Generator, count: int, low: float = 0.0, high: float = 1.0) -> Codes:
        """`count` rows that fit; ValueError, with what the space reaches, where none is found."""
        if self.problem.members is not None:
            return self._draw(rng, count, low, high)
        hits = self._hit(low, high)
        if hits >= _EASY_HITS:
            # As many as are likely to hold what is wanted.
            batch = min(_BATCH, 16 + math.ceil(1.2 * count * len(self._survey) / hits))
            found = np.empty((0, len(self.decisions.variables)), np.int64)
            while len(found) < count:
                codes = self.decisions.sample_codes(rng, batch)
                found = np.concatenate([found, codes[self.fits(codes, low, high)]])
            return found[:count]
        pool = self._pool(low, high)
        if not len(pool):
            raise ValueError(self.unreachable(low, high))
        rows = pool[rng.integers(0, len(pool), count)]
        return self._mix(rows, rng, low, high, _MIXING_STEPS)

    def _draw(self, rng: Generator, count: int, low: float, high: float) -> Codes:
        """As `sample`, of the problem's members."""
        inside = self._pool(low, high)
        if not len(inside):
            raise ValueError(self.unreachable(low, high))
        return inside[rng.integers(0, len(inside), count)]

    def mutate(
        self,
        rows: Codes,
        rng: Generator,
        low: Share = 0.0,
        high: Share = 1.0,
        *,
        late: bool = False,
    ) -> Codes:
        """A mutant of each row that fits: one variable changed, or, where no such mutant was
        found, as many as it takes to come into the range; at worst a fresh row. With `late`, later
        variables are changed more often, see `Space.mutate_codes`."""
        if self._single:
            return rows.copy()
        mutants = self.decisions.mutate_codes(np.repeat(rows, _TRIES, axis=0), rng, late=late)
        return self._pick(mutants, len(rows), rng, low, high, late=late)

    def cross(
        self,
        mothers: Codes,
        fathers: Codes,
        rng: Generator,
        low: Share = 0.0,
        high: Share = 1.0,
        *,
        late: bool = False,
    ) -> Codes:
        """A child of each pair that fits, found as by `mutate`; with `late` by one-point
        crossover, see `Space.cross_codes`."""
        many = [np.repeat(parents, _TRIES, axis=0) for parents in (mothers, fathers)]
        children = self.decisions.cross_codes(many[0], many[1], rng, one_point=late)
        return self._pick(children, len(mothers), rng, low, high, late=late)

    def repair(self, rows: Codes, rng: Generator, low: Share = 0.0, high: Share = 1.0) -> Codes:
        """Each row as it is where it fits, else changed as little as chance finds until it does;
        at worst a fresh row."""
        return self._pick(rows, len(rows), rng, low, high)

    def nearest(self, rows: Codes, low: Share, high: Share) -> Codes:
        """For each range, (B,), the first of `rows` that fits, or the nearest; each of them is
        taken once, so there must be as many rows as ranges."""
        wanted = np.stack(np.broadcast_arrays(low, high), axis=1)
        kinds, where = np.unique(wanted, axis=0, return_inverse=True)
        orders = [
            iter(np.argsort(self.distance(rows, *kind), kind="stable").tolist()) for kind in kinds
        ]
        taken: dict[int, None] = {}  # in order
        for kind in where.reshape(-1):
            taken[next(i for i in orders[kind] if i not in taken)] = None
        return rows[list(taken)]

    def _pick(
        self,
        codes: Codes,
        count: int,
        rng: Generator,
        low: Share,
        high: Share,
        *,
        late: bool = False,
    ) -> Codes:
        """For each of `count` groups of `codes` its first row that fits, or else its nearest one
        after a walk, or else a fresh row."""
        if count == 0:
            return codes[:0]
        low, high = (np.broadcast_to(np.asarray(share, float), count) for share in (low, high))
        tries = len(codes) // count
        away = self.distance(codes, np.repeat(low, tries), np.repeat(high, tries))
        nearest = np.argmin(away.reshape(count, tries), axis=1) + tries * np.arange(count)
        rows, away = codes[nearest], away[nearest]
        far = np.flatnonzero(away)
        if self.problem.members is not None:
            for i in far:
                rows[i] = self._nearest_member(rows[i], rng, float(low[i]), float(high[i]))
            return rows
        if len(far):
            rows[far] = self._walk(
                rows[far], rng, low[far], high[far], _REPAIR_STEPS, tries=_REPAIR_TRIES, late=late
            )
            away = self.distance(rows, low, high)
        for i in np.flatnonzero(away):
            rows[i] = self.sample(rng, 1, float(low[i]), float(high[i]))[0]
        return rows

    def _nearest_member(self, row: Codes, rng: Generator, low: float, high: float) -> Codes:
        """One of the problem's members in the range that differ from the row in fewest variables,
        though in one."""
        inside = self._pool(low, high)
        if not len(inside):
            raise ValueError(self.unreachable(low, high))
        differ = (inside != row).sum(axis=1)
        if (differ > 0).any():
            inside, differ = inside[differ > 0], differ[differ > 0]
        nearest = np.flatnonzero(differ == differ.min())
        return inside[nearest[rng.integers(0, len(nearest))]]

    def _walk(
        self,
        rows: Codes,
        rng: Generator,
        low: Share,
        high: Share,
        steps: int,
        *,
        tries: int = 1,
        enough: int | None = None,
        late: bool = False,
    ) -> Codes:
        """The rows after up to `steps` changes towards the range, each the best of `tries` random
        ones; a row that fits stays, and `enough` of them end the walk.

        Simulated annealing (Kirkpatrick et al., 1983) over the distance to the range: a change
        for the worse is taken with a probability that falls with its size and with time.
        """
        rows = rows.copy()
        if self._single:
            return rows
        low, high = (np.broadcast_to(np.asarray(s, float), len(rows)) for s in (low, high))
        away = self.distance(rows, low, high)
        for step in range(steps):
            moving = np.flatnonzero(away)
            if not len(moving) or (enough and len(rows) - len(moving) >= enough):
                break
            many = np.repeat(rows[moving], tries, axis=0)
            mutants = self.decisions.mutate_codes(many, rng, late=late)
            ranges = (np.repeat(share[moving], tries) for share in (low, high))
            distance = self.distance(mutants, *ranges)
            best = distance.reshape(-1, tries).argmin(1) + tries * np.arange(len(moving))
            mutants, distance = mutants[best], distance[best]
            heat = _HEAT * (1 - step / steps)
            taken = distance <= away[moving] + heat * rng.exponential(size=len(moving))
            rows[moving[taken]] = mutants[taken]
            away[moving[taken]] = distance[taken]
        return rows

    def _mix(self, rows: Codes, rng: Generator, low: float, high: float, steps: int) -> Codes:
        """The rows after `steps` random changes, of which those that leave the range are undone."""
        rows = rows.copy()
        for _ in range(0 if self._single else steps):
            mutants = self.decisions.mutate_codes(rows, rng)
            fits = self.fits(mutants, low, high)
            rows[fits] = mutants[fits]
        return rows

    def _pool(self, low: float, high: float) -> Codes:
        """Rows that fit a range which chance rarely hits; none where none was found. Made once,
        with a generator of its own, so that it does not depend on when it is made."""
        pool = self._pools.get((low, high))
        if pool is None:
            pool = self._find_pool(np.random.default_rng(0), low, high)
            self._pools[low, high] = pool
        return pool

    def _find_pool(self, rng: Generator, low: float, high: float) -> Codes:
        """Walks from the rows that come nearest by chance, and from the ends of the space."""
        if self.problem.members is not None:
            return self.problem.members[self._fits(self._survey_costs, low, high)]
        away = self.distance(self._survey, low, high)
        near = self._survey[np.argsort(away, kind="stable")[: _WALKERS // 2]]
        ends = np.resize(
            self._ends if len(self._ends) else near, (_WALKERS - len(near), near.shape[1])
        )
        rows = self._walk(np.concatenate([near, ends]), rng, low, high, _WALK_STEPS, enough=_ENOUGH)
        rows = rows[self.fits(rows, low, high)]
        return self._mix(rows, rng, low, high, _MIXING_STEPS)


class _Lookup:
    """Which rows are among those of a table, found by sorted hashes and then compared."""

    def __init__(self, rows: Codes):
        rows = np.ascontiguousarray(rows, np.int64)
        self._factors = np.random.default_rng(0).integers(1, 2**63, rows.shape[1], np.uint64) | 1
        hashes = self._hash(rows)
        order = np.argsort(hashes, kind="stable")
        self._rows, self._hashes = rows[order], hashes[order]
        same = self._hashes[1:] == self._hashes[:-1]
        # Rows that stand there twice are found all the same; others do not collide in practice.
        assert (self._rows[1:][same] == self._rows[:-1][same]).all(), "two rows have one hash"

    def _hash(self, rows: Codes) -> NDArray[np.uint64]:
        mixed = (rows.astype(np.uint64) + np.uint64(1)) * self._factors
        return (mixed ^ (mixed >> np.uint64(31))).sum(axis=1, dtype=np.uint64)

    def has(self, rows: Codes) -> NDArray[np.bool_]:
        if not len(self._rows):
            return np.zeros(len(rows), bool)
        places = np.searchsorted(self._hashes, self._hash(rows))
        return (self._rows[np.minimum(places, len(self._rows) - 1)] == rows).all(axis=1)
