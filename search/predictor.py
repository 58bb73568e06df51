"""The predictor-guided controller: a surrogate says which rows are worth an evaluation."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from search.asking import Asking, Ranges, fresh
from search.guided import Candidates, Guided, Listed, Observations
from search.problem import GrowingRows, Problem, Row, Trial, succeeded
from search.proposals import BAND, Proposals
from space.decisions import Codes

_BELIEVED = 128  # rows under way, the newest, for which what is predicted is taken
_MOST = 1000  # candidates that are looked at in an ask, where rows cannot be listed
_TRIES = 2  # mutants that are made for each that is wanted, as not all of them fit
_REPAIRED = 32  # where few fit, so many are moved until they do
_CHANGES = 3  # most variables in which a mutant differs
_RENEWED = 48  # trials, after which other rows are drawn to choose from
_CROSSED = 0.25  # of the mutants, from two parents

Floats = NDArray[np.float64]


class Predictor:
    """Evaluates next what promises most by a Gaussian process over all that was observed.

    The algorithm, with its sources, is `search.guided`; here stands what is asked of it. It uses
    every trial, those of lower fidelity as such, and takes what was asked for and is not told for
    what it predicts. Candidates are all rows that fit and are new, where these can be listed;
    otherwise mutants of the best and rows drawn anew, all inside the limits. Costs known beforehand
    serve as features, and as objectives where they are wanted small.

    Of a banded problem, the share `at_budget` of rows is asked for at the budget and for the score
    alone; the others for the front, so that they grow the area that it dominates.
    """

    def __init__(
        self,
        proposals: Proposals,
        seed: int,
        *,
        at_budget: float = 0.5,
        first: Sequence[Sequence[int]] = (),
    ):
        self._proposals, problem = proposals, proposals.problem
        self._rng = np.random.default_rng(seed)
        self._asking = Asking(proposals, at_budget, first)
        self._observed = problem.observed
        self._aims = {"front": self._guided(problem, alone=False)}
        if problem.banded:
            self._aims["best"] = self._guided(problem, alone=True)
        self._seed = seed
        self._drawn = self._draws()
        self._told = GrowingRows(len(proposals.decisions.variables))
        self._values: list[tuple[float, ...]] = []
        self._fidelity: list[float] = []
        self._pending: dict[Row, None] = {}  # asked for and not told, in order
        self._lists: dict[str, Listed] | None = None
        self._aliases: dict[Hashable, list[Row]] | None = None
        self._unlisted = False

    def _guided(self, problem: Problem, *, alone: bool) -> Guided:
        """For the observed values `alone`, or for all objectives."""
        features = _Features(self._proposals) if problem.cost_names else None
        return Guided(
            problem.decisions.cardinalities,
            observed=problem.observed,
            kinds=_kinds(problem),
            active=problem.decisions.active,
            known=None if alone or not problem.wanted_small else problem.known_gains,
            features=features,
        )

    def _draws(self) -> dict[str, _Drawn]:
        lows = {"front": 0.0, "best": BAND}
        return {
            aim: _Drawn(self._proposals, self._asking, lows[aim], self._seed) for aim in self._aims
        }

    # ---- ask

    def ask(self, count: int) -> list[Row]:
        calls = 0

        def propose(ranges: Ranges) -> Codes:
            nonlocal calls
            calls += 1
            if calls > 2 or not self._proposals.decisions.variables:
                return fresh(self._proposals, self._rng, ranges)  # the surrogate has had its say
            rows = np.zeros((len(ranges), len(self._proposals.decisions.variables)), np.int64)
            banded = self._proposals.problem.banded & (ranges[:, 0] == BAND)
            for aim, places in (("best", banded), ("front", ~banded)):
                where = np.flatnonzero(places)
                if len(where):
                    found = self._suggest(aim, len(where))
                    rows[where[: len(found)]] = found
                    rest = where[len(found) :]
                    rows[rest] = fresh(self._proposals, self._rng, ranges[rest])
            return rows

        found = self._asking.ask(self._rng, count, propose)
        for row in found:
            self._pending[row] = None
            self._close(row)
        return found

    def _suggest(self, aim: str, count: int) -> Codes:
        width = len(self._proposals.decisions.variables)
        told = Observations(
            self._told.array().astype(np.int64),
            np.array(self._values, float).reshape(len(self._values), self._observed),
            np.array(self._fidelity, float),
        )
        believed = list(self._pending)[-_BELIEVED:]
        pending = np.array(believed, np.int64).reshape(len(believed), width)
        lists = self._listed()
        candidates: Candidates = self._drawn[aim] if lists is None else lists[aim]
        if lists is None:
            self._drawn[aim].renew(len(self._told))
        return self._aims[aim].suggest(told, pending, candidates, self._rng, count)

    # ---- rows that can be listed

    def _listed(self) -> dict[str, Listed] | None:
        """All rows that fit, by aim, those that are known closed; None where they are too many."""
        if self._lists is None and not self._unlisted:
            rows = self._proposals.everything()
            self._unlisted = rows is None
            if rows is not None:
                self._lists = {"front": Listed(rows)}
                if "best" in self._aims:
                    self._lists["best"] = Listed(rows[self._proposals.use(rows) >= BAND])
                self._aliases = self._same(rows)
                for row in self._asking.rows():
                    self._close(row)
        return self._lists

    def _same(self, rows: Codes) -> dict[Hashable, list[Row]] | None:
        """The rows of each key, where several may have one."""
        key = self._proposals.problem.key
        if key is tuple:
            return None
        same: dict[Hashable, list[Row]] = defaultdict(list)
        for row in map(tuple, rows.tolist()):
            same[key(row)].append(row)
        return same

    def _close(self, row: Row) -> None:
        if self._lists is None:
            return
        rows = [row]
        if self._aliases is not None:
            rows = self._aliases.get(self._proposals.problem.key(row), rows)
        for listed in self._lists.values():
            for one in rows:
                listed.close(one)

    # ---- tell

    def tell(self, trials: Sequence[Trial]) -> None:
        self._asking.learn(trials)
        for trial in trials:
            self._pending.pop(trial.row, None)
            self._close(trial.row)
        for trial in succeeded(trials):
            assert trial.values is not None
            self._told.append(trial.row)
            self._values.append(tuple(map(float, trial.values)))
            self._fidelity.append(float(trial.fidelity))

    def state_dict(self) -> dict[str, Any]:
        width = len(self._proposals.decisions.variables)
        pending = np.array(list(self._pending), np.int16).reshape(len(self._pending), width)
        return {
            "seed": self._seed,
            "rng": self._rng.bit_generator.state,
            "asking": self._asking.state_dict(),
            "told": self._told.array(),
            "values": np.array(self._values, float).reshape(len(self._values), self._observed),
            "fidelity": np.array(self._fidelity, float),
            "pending": pending,
            "aims": {name: aim.state_dict() for name, aim in self._aims.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seed = state["seed"]
        self._drawn = self._draws()
        self._rng.bit_generator.state = state["rng"]
        self._asking.load_state_dict(state["asking"])
        self._told = GrowingRows(len(self._proposals.decisions.variables))
        for row in state["told"].tolist():
            self._told.append(tuple(row))
        self._values = [tuple(values) for values in state["values"].tolist()]
        self._fidelity = state["fidelity"].tolist()
        self._pending = dict.fromkeys(tuple(row) for row in state["pending"].tolist())
        for name, aim in self._aims.items():
            aim.load_state_dict(state["aims"][name])
        self._lists = None


class _Features:
    """The logarithms of a problem's costs, of deviation 1 over rows drawn at random."""

    def __init__(self, proposals: Proposals):
        self._costs = proposals.problem.costs
        some = self._logarithms(proposals.sample(np.random.default_rng(0), 512))
        self._mean = some.mean(axis=0)
        deviation = some.std(axis=0)
        self._deviation = np.where(deviation > 0, deviation, 1.0)

    def _logarithms(self, codes: Codes) -> Floats:
        return np.log(np.maximum(np.asarray(self._costs(codes), float), 1e-12))

    def __call__(self, codes: Codes) -> Floats:
        return (self._logarithms(codes) - self._mean) / self._deviation


class _Drawn:
    """Candidates of a space that is too large to be listed: about half of them mutants, the others
    out of some that are drawn anew from time to time, since drawing them takes longer than judging
    them. Which these are depends on the seed and the number of trials alone."""

    def __init__(self, proposals: Proposals, asking: Asking, low: float, seed: int):
        self._proposals, self._asking = proposals, asking
        self._low, self._seed = low, seed
        self._others, self._turn = np.empty((0, 0), np.int64), -1

    def renew(self, told: int) -> None:
        """To be called before each draw, with the number of trials so far."""
        turn = told // _RENEWED
        if turn == self._turn:
            return
        self._turn = turn
        rng = np.random.default_rng([self._seed, turn, int(1000 * self._low)])
        if self._low:
            rows = self._proposals.sample(rng, _MOST // 2, self._low)
        else:
            rows = fresh(self._proposals, rng, self._asking.anywhere(rng, _MOST // 2))
        self._others = np.unique(rows, axis=0)

    def draw(self, rng: Generator, parents: Codes, count: int) -> Codes:
        count = min(count, _MOST)
        mutants = self._mutants(rng, parents, count // 2) if len(parents) else parents
        others = self._others
        if len(others) + len(mutants) > count:
            others = others[rng.permutation(len(others))[: count - len(mutants)]]
        rows = np.unique(np.concatenate([mutants, others]), axis=0)
        new = [not self._asking.knows(tuple(row)) for row in rows.tolist()]
        return rows[np.array(new, bool)]

    def _mutants(self, rng: Generator, parents: Codes, count: int) -> Codes:
        """Of the parents and of their crosses, with one to some changes; those that fit, and some
        that are moved until they do."""
        decisions = self._proposals.decisions
        if not (decisions.active(parents) & (decisions.cardinalities > 1)).any(axis=1).all():
            return parents[:0]  # a parent without anything to change
        many = _TRIES * count
        mothers, fathers = (parents[rng.integers(0, len(parents), many)] for _ in range(2))
        crossed = rng.random(many) < _CROSSED
        rows = np.where(crossed[:, None], decisions.cross_codes(mothers, fathers, rng), mothers)
        changes = rng.integers(1, _CHANGES + 1, many)
        for step in range(_CHANGES):
            moving = changes > step
            rows[moving] = decisions.mutate_codes(rows[moving], rng)
        fits = self._proposals.fits(rows, self._low)
        found = rows[fits][:count]
        if len(found) >= count // 4:
            return found
        moved = self._proposals.repair(rows[~fits][:_REPAIRED], rng, self._low)
        return np.concatenate([found, moved])


def _kinds(problem: Problem) -> list[int]:
    """The same number for variables that decide the same thing in different places: their names
    are equal but for digits, and so are their choices."""
    numbers: dict[tuple[str, tuple[Any, ...]], int] = {}
    found = []
    for variable in problem.decisions.variables:
        name = (re.sub(r"\d+", "", variable.name), tuple(map(repr, variable.choices)))
        found.append(numbers.setdefault(name, len(numbers)))
    return found
