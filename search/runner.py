"""Runs evaluations in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence

from evaluator.interfaces import Evaluator, Failed
from search.interfaces import Outcome
from space.genome import Genome


def timed(evaluator: Evaluator, genome: Genome) -> Outcome:
    """One evaluation; what it raises becomes the outcome's error, on one line."""
    start = time.perf_counter()
    try:
        score = evaluator.evaluate(genome)
    except Exception as error:
        return Outcome(None, time.perf_counter() - start, one_line(error))
    return Outcome(score, time.perf_counter() - start)


def one_line(error: Exception) -> str:
    """The kind of the error and what it says."""
    if isinstance(error, Failed):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())


class LocalRunner:
    """One candidate after the other, in this process."""

    def __init__(self, evaluator: Evaluator):
        self._evaluator = evaluator

    def run(self, genomes: Sequence[Genome]) -> list[Outcome]:
        return [timed(self._evaluator, genome) for genome in genomes]

    def close(self) -> None:
        """Holds nothing."""
