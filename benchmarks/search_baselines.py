"""Controllers of other libraries, and plain ones, with the same counting beside ours.

    python -m benchmarks.search_baselines --table FILE ... --controller plain:evolution,pymoo:nsga2

takes the options of `benchmarks.search_tables`, and knows these controllers besides:

- `plain:evolution`, `plain:local`, `plain:random`: regularised evolution with a population of 20
  (Real et al., 2019, arXiv 1802.01548), local search with restarts (White et al., 2020, arXiv
  2005.02960) and random search, each in a few lines and with nothing of this project's;
- `pymoo:nsga2` (Blank and Deb, 2020, arXiv 2002.04504) with a population of 20;
- `nevergrad:NAME`, an optimiser of Nevergrad's registry, such as `nevergrad:DiscreteOnePlusOne`;
- `optuna:tpe` and the others of `search.optuna_adapter`.

What a library asks for again is not counted, and it is told what is known. Limits are known before
an evaluation: the plain ones draw anew what is outside, pymoo and Nevergrad are told how far
outside it is, which is not counted either. A library that is missing is left out with a word:
`pip install --constraint constraints.txt '.[baselines]'`.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # python benchmarks/search_baselines.py
    sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.search_tables import make_parser, run
from search.compare import Named, parse_names
from search.interfaces import Controller
from search.problem import Row, Trial
from search.proposals import Proposals

LIBRARIES = {"optuna": "optuna", "pymoo": "pymoo", "nevergrad": "nevergrad"}
_STUCK = 1000  # proposals in a row that are known or outside, before a random new row is asked for


class Baseline:
    """One row at a time; what is known or outside the limits costs nothing. A subclass proposes
    rows and learns of each what it came to."""

    def __init__(self, proposals: Proposals, seed: int):
        self.proposals, self.problem = proposals, proposals.problem
        self.sizes = proposals.decisions.cardinalities
        self.rng = np.random.default_rng(seed)
        self._known: dict[Any, tuple[float, ...] | None] = {}
        self._tokens: dict[Row, Any] = {}

    def propose(self) -> tuple[Row, Any]:
        """A row, and whatever `learn` is to have with it."""
        raise NotImplementedError

    def learn(self, row: Row, token: Any, gains: tuple[float, ...]) -> None:
        """All objectives of the row, larger is better."""

    def again(self, row: Row, token: Any, gains: tuple[float, ...]) -> None:
        """As `learn`, of a row that is known."""
        self.learn(row, token, gains)

    def refuse(self, row: Row, token: Any) -> None:
        """The row is outside the limits."""

    def ask(self, count: int) -> list[Row]:
        for _ in range(_STUCK):
            row, token = self.propose()
            if not self.proposals.fits(np.array([row], np.int64))[0]:
                self.refuse(row, token)
            elif (key := self.problem.key(row)) in self._known:
                self.again(row, token, self._gains(row, self._known[key]))
            else:
                self._tokens[row] = token
                return [row]
        everything = self.proposals.everything()
        rows = [] if everything is None else [tuple(row) for row in everything.tolist()]
        new = [row for row in rows if self.problem.key(row) not in self._known]
        return [new[self.rng.integers(0, len(new))]] if new else []

    def tell(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self._known[self.problem.key(trial.row)] = trial.values
            if trial.row in self._tokens:
                gains = self._gains(trial.row, trial.values)
                self.learn(trial.row, self._tokens.pop(trial.row), gains)

    def _gains(self, row: Row, values: tuple[float, ...] | None) -> tuple[float, ...]:
        assert values is not None, "evaluations of a table do not fail"
        return tuple(self.problem.gains([Trial(row, values)])[0].tolist())

    def excess(self, row: Row) -> float:
        """How far outside the limits a row is, from 0 on."""
        return float(self.proposals.distance(np.array([row], np.int64), 0.0, 1.0)[0])

    def uniform(self) -> Row:
        return tuple(map(int, self.proposals.sample(self.rng, 1)[0]))

    def state_dict(self) -> dict[str, Any]:
        raise NotImplementedError("a baseline is not taken up again")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError("a baseline is not taken up again")


class PlainRandom(Baseline):
    def propose(self) -> tuple[Row, Any]:
        return self.uniform(), None


class PlainEvolution(Baseline):
    """By the first objective. A mutation changes one gene to any other value; a child that is
    known already is no member a second time."""

    def __init__(
        self, proposals: Proposals, seed: int, *, population: int = 20, tournament: int = 5
    ):
        super().__init__(proposals, seed)
        self._population, self._tournament = population, tournament
        self._members: list[tuple[float, Row]] = []
        self._begun = 0

    def propose(self) -> tuple[Row, Any]:
        if self._begun < self._population:
            self._begun += 1
            return self.uniform(), None
        drawn = self.rng.integers(0, len(self._members), self._tournament)
        row = list(max(self._members[i] for i in drawn)[1])
        gene = self.rng.choice(np.flatnonzero(self.sizes > 1))
        row[gene] = int((row[gene] + self.rng.integers(1, self.sizes[gene])) % self.sizes[gene])
        return tuple(row), None

    def learn(self, row: Row, token: Any, gains: tuple[float, ...]) -> None:
        self._members.append((gains[0], row))
        del self._members[: -self._population]

    def again(self, row: Row, token: Any, gains: tuple[float, ...]) -> None:
        """Repeats would crowd out the others."""


class PlainLocalSearch(Baseline):
    """By the first objective: goes through the neighbours of a row in random order and moves to the
    first that is better; where none is, begins again from a random row."""

    def __init__(self, proposals: Proposals, seed: int):
        super().__init__(proposals, seed)
        self._here: tuple[float, Row] | None = None
        self._left: list[Row] = []

    def propose(self) -> tuple[Row, Any]:
        if not self._left:
            self._here = None
            return self.uniform(), None
        return self._left.pop(), None

    def learn(self, row: Row, token: Any, gains: tuple[float, ...]) -> None:
        if self._here is None or gains[0] > self._here[0]:
            self._here = gains[0], row
            near = self.rng.permutation(self.proposals.decisions.neighbours(row))
            self._left = [tuple(map(int, one)) for one in near]


class Pymoo(Baseline):
    """NSGA-II on integers, generation by generation."""

    def __init__(self, proposals: Proposals, seed: int, *, population: int = 20):
        super().__init__(proposals, seed)
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem as Rows
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM
        from pymoo.operators.repair.rounding import RoundingRepair
        from pymoo.operators.sampling.rnd import IntegerRandomSampling

        self._limited = bool(self.problem.limits) or self.problem.members is not None
        rows = Rows(
            n_var=len(self.sizes),
            n_obj=self.problem.objectives,
            n_ieq_constr=int(self._limited),
            xl=np.zeros(len(self.sizes)),
            xu=self.sizes - 1,
            vtype=int,
        )
        # Operators for integers as pymoo's page on discrete variables has them.
        self._algorithm = NSGA2(
            pop_size=population,
            sampling=IntegerRandomSampling(),
            crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
            mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
            eliminate_duplicates=True,
        )
        self._algorithm.setup(rows, termination=("n_gen", 10**9), seed=seed, verbose=False)
        self._people: Any = []
        self._waiting: list[int] = []
        self._losses: dict[int, tuple[list[float], float]] = {}

    def propose(self) -> tuple[Row, Any]:
        if not self._waiting:
            self._people = self._algorithm.ask()
            if self._people is None or not len(self._people):
                return self.uniform(), None
            self._waiting = list(range(len(self._people)))[::-1]
            self._losses = {}
        place = self._waiting.pop()
        return tuple(round(float(x)) for x in self._people[place].X), place

    def learn(self, row: Row, token: Any, gains: tuple[float, ...]) -> None:
        self._set(token, [-gain for gain in gains], 0.0)

    def refuse(self, row: Row, token: Any) -> None:
        self._set(token, [0.0] * self.problem.objectives, self.excess(row))

    def _set(self, place: int | None, losses: list[float], excess: float) -> None:
        if place is None:
            return
        self._losses[place] = losses, excess
        if len(self._losses) == len(self._people):
            found = [self._losses[i] for i in range(len(self._people))]
            self._people.set("F", np.array([losses for losses, _ in found]))
            if self._limited:
                self._people.set("G", np.array([[excess] for _, excess in found]))
            for one in self._people:
                one.evaluated.update(("F", "G", "H") if self._limited else ("F",))
            self._algorithm.tell(infills=self._people)


class Nevergrad(Baseline):
    """An optimiser of Nevergrad on a tuple of unordered choices."""

    def __init__(self, proposals: Proposals, seed: int, *, kind: str, budget: int = 200):
        super().__init__(proposals, seed)
        import nevergrad as ng

        if kind not in ng.optimizers.registry:
            raise ValueError(f"Nevergrad has no optimiser {kind!r}")
        space = ng.p.Tuple(*(ng.p.Choice(list(range(size))) for size in self.sizes))
        space.random_state = np.random.RandomState(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._optimiser = ng.optimizers.registry[kind](space, budget=budget, num_workers=1)

    def propose(self) -> tuple[Row, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            candidate = self._optimiser.ask()
        return tuple(map(int, candidate.value)), candidate

    def learn(self, row: Row, token: Any, gains: tuple[float, ...]) -> None:
        losses = [-gain for gain in gains]
        self._tell(token, losses[0] if len(losses) == 1 else losses)

    def refuse(self, row: Row, token: Any) -> None:
        # Worse than anything, and the more so the further outside.
        self._tell(token, [1e3 * (1 + self.excess(row))] * self.problem.objectives)

    def _tell(self, candidate: Any, losses: Any) -> None:
        if isinstance(losses, list) and len(losses) == 1:
            losses = losses[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._optimiser.tell(candidate, losses)


def plain(name: str, proposals: Proposals, seed: int, **settings: Any) -> Controller:
    kinds: dict[str, Callable[..., Controller]] = {
        "random": PlainRandom,
        "evolution": PlainEvolution,
        "local": PlainLocalSearch,
    }
    kind = name.partition(":")[2]
    if kind not in kinds:
        raise ValueError(f"unknown baseline {name!r}; there are plain:{', plain:'.join(kinds)}")
    return kinds[kind](proposals, seed, **settings)


def pymoo(name: str, proposals: Proposals, seed: int, **settings: Any) -> Controller:
    if name != "pymoo:nsga2":
        raise ValueError(f"unknown baseline {name!r}; of pymoo there is pymoo:nsga2")
    return Pymoo(proposals, seed, **settings)


def nevergrad(name: str, proposals: Proposals, seed: int, **settings: Any) -> Controller:
    return Nevergrad(proposals, seed, kind=name.partition(":")[2], **settings)


BASELINES: Mapping[str, Named] = {"plain": plain, "pymoo": pymoo, "nevergrad": nevergrad}


def installed(text: str) -> str:
    """The controllers of those that are named whose libraries are there; says which are not."""
    found = []
    for written in parse_names(text):
        library = LIBRARIES.get(written.partition(":")[0])
        if library is not None and importlib.util.find_spec(library) is None:
            print(f"{written} is left out: {library} is not installed", file=sys.stderr)
            continue
        found.append(written)
    return ",".join(found)


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser("benchmarks.search_baselines").parse_args(arguments)
    options.controllers = installed(options.controllers)
    return run(options, "search_baselines", BASELINES) if options.controllers else 0


if __name__ == "__main__":
    sys.exit(main())
