"""Batches of candidates, scored by workers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from evaluator.interfaces import Evaluator, Failed, ImageOutcomes
from search.interfaces import Outcome
from search.workers import Done, InProcess, OneByOne, Unit, Workers
from space.genome import Genome


class UnitRunner:
    """Hands each batch to `workers` as one unit.

    A batch over which workers die is handed out again one by one, so that only the candidate which
    kills them fails. `front` gives the networks that candidates race (`search.racing`): what
    workers have found of these travels with each unit, so that nobody measures them again. `costs`
    gives what is known of networks beforehand (`search.workers.Unit`), where they race.
    """

    def __init__(
        self,
        workers: Workers,
        front: Callable[[], Sequence[Genome]] = list,
        costs: Callable[[Sequence[Genome]], Sequence[Sequence[float]]] | None = None,
    ):
        self._workers, self._front, self._costs_of = workers, front, costs
        self._costs: dict[str, Sequence[float]] = {}
        self._known: dict[str, ImageOutcomes] = {}  # of networks that may be on the front
        self._batches: dict[int, Sequence[Any]] = {}  # under way
        self._split: dict[int, dict[int, Outcome]] = {}  # that are handed out one by one

    @property
    def capacity(self) -> int:
        return self._workers.capacity

    def submit(self, number: int, candidates: Sequence[Any]) -> None:
        self._batches[number] = candidates
        self._workers.submit(number, self._unit(candidates))

    def _unit(self, candidates: Sequence[Any]) -> Unit:
        front = list(self._front())
        digests = {genome.digest for genome in front}
        self._known = {digest: one for digest, one in self._known.items() if digest in digests}
        return Unit(candidates, front, dict(self._known), self._costs_among(candidates, front))

    def _costs_among(
        self, candidates: Sequence[Any], front: Sequence[Genome]
    ) -> dict[str, Sequence[float]]:
        if self._costs_of is None:
            return {}
        networks = {genome.digest: genome for genome in (*candidates, *front)}
        new = {digest: one for digest, one in networks.items() if digest not in self._costs}
        found = self._costs_of(list(new.values())) if new else []
        known = self._costs | dict(zip(new, found, strict=True))
        self._costs = {genome.digest: known[genome.digest] for genome in front}
        return {digest: known[digest] for digest in networks}

    def next(self) -> dict[int, list[Outcome]]:
        ended: dict[int, list[Outcome]] = {}
        while news := self._workers.next():
            for key, done in news:
                if isinstance(done, Done):
                    self._known.update(done.finished)
                number, outcomes = self._taken(key, done)
                if outcomes is not None:
                    del self._batches[number]
                    ended[number] = outcomes
            if ended:
                break
        return ended

    def _taken(self, key: Hashable, done: Done | Failed) -> tuple[int, list[Outcome] | None]:
        """The number of the batch of a unit, and its outcomes if they are all there now."""
        if isinstance(key, tuple):  # one candidate of a batch
            number, place = key
            parts = self._split[number]
            parts[place] = _failed(done) if isinstance(done, Failed) else done.outcomes[0]
            if len(parts) < len(self._batches[number]):
                return number, None
            del self._split[number]
            return number, [parts[i] for i in range(len(parts))]
        assert isinstance(key, int)
        if isinstance(done, Done):
            return key, done.outcomes
        candidates = self._batches[key]
        if len(candidates) == 1:
            return key, [_failed(done)]
        self._split[key] = {}
        for place, candidate in enumerate(candidates):
            self._workers.submit((key, place), self._unit([candidate]))
        return key, None

    def run(self, candidates: Sequence[Any]) -> list[Outcome]:
        """One batch, waited for."""
        self.submit(-1, candidates)
        while not (ended := self.next()):
            pass
        return ended[-1]

    def close(self) -> None:
        self._workers.close()


def local_runner(evaluator: Evaluator) -> UnitRunner:
    """One candidate after the other, in this process."""
    return UnitRunner(InProcess(OneByOne(evaluator)))


def _failed(error: Failed) -> Outcome:
    return Outcome(None, 0.0, str(error))
