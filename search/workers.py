"""Units of work and who does them: the seam between what is evaluated and where.

A unit is some candidates and what is known of those that they run against. `Workers` have units
done, in this process or on Ray, and know nothing of what is in them; a `Worker` does one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from evaluator.interfaces import Evaluator, Failed, ImageOutcomes
from search.interfaces import Outcome
from space.genome import Genome


@dataclass(frozen=True, slots=True)
class Unit:
    """Candidates, the networks that they race, and by digest what is known of some of these.

    `costs` are what is known of all of them before they are seen, by digest: the share of the
    budget that each uses, then the costs that are objectives. They travel with the unit, so that no
    worker has to know how a cost is come by.
    """

    candidates: Sequence[Any]
    front: Sequence[Genome] = ()
    known: Mapping[str, ImageOutcomes] = field(default_factory=dict)
    costs: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def to_plain(self) -> tuple[Any, ...]:
        """With networks as JSON: another process may have to import their parts first."""
        networks = [_plain(one) for one in self.candidates], [_plain(g) for g in self.front]
        return *networks, self.known, self.costs

    @classmethod
    def from_plain(cls, plain: tuple[Any, ...]) -> Unit:
        candidates, front, *known = plain
        return cls([_candidate(one) for one in candidates], [_candidate(g) for g in front], *known)


def _plain(candidate: Any) -> Any:
    return candidate.to_json() if isinstance(candidate, Genome) else candidate


def _candidate(plain: Any) -> Any:
    return Genome.from_json(plain) if isinstance(plain, dict) else plain


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a unit: one outcome for each candidate, in their order, and by digest what was
    made of each image by those that went through all of them."""

    outcomes: list[Outcome]
    finished: Mapping[str, ImageOutcomes] = field(default_factory=dict)


class Worker(Protocol):
    """Does units, one after the other."""

    def work(self, unit: Unit) -> Done: ...


class Workers(Protocol):
    """Have units done."""

    @property
    def capacity(self) -> int:
        """How many units can be worked on at a time now, at least 1."""
        ...

    def submit(self, key: Hashable, unit: Unit) -> None:
        """Takes a unit; does not wait for it."""
        ...

    def next(self) -> list[tuple[Hashable, Done | Failed]]:
        """Waits until a unit is done, and gives all that are; `Failed` where workers died over it.
        Empty where instead the capacity has changed."""
        ...

    def close(self) -> None: ...


class OneByOne:
    """Has each candidate of a unit evaluated for itself."""

    def __init__(self, evaluator: Evaluator):
        self._evaluator = evaluator

    def work(self, unit: Unit) -> Done:
        return Done([timed(self._evaluator, candidate) for candidate in unit.candidates])


class InProcess:
    """One worker, in this process: the next unit is done when somebody waits for it."""

    capacity = 1

    def __init__(self, worker: Worker):
        self._worker = worker
        self._waiting: deque[tuple[Hashable, Unit]] = deque()

    def submit(self, key: Hashable, unit: Unit) -> None:
        self._waiting.append((key, unit))

    def next(self) -> list[tuple[Hashable, Done | Failed]]:
        key, unit = self._waiting.popleft()
        return [(key, self._worker.work(unit))]

    def close(self) -> None:
        self._waiting.clear()


def timed(evaluator: Evaluator, candidate: Any) -> Outcome:
    """One evaluation; what it raises becomes the outcome's error, on one line."""
    start = time.perf_counter()
    try:
        score = evaluator.evaluate(candidate)
    except Exception as error:
        return Outcome(None, time.perf_counter() - start, one_line(error))
    return Outcome(score, time.perf_counter() - start)


def one_line(error: Exception) -> str:
    """The kind of the error and what it says."""
    if isinstance(error, Failed):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())
