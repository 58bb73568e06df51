"""What a search needs to know of whoever scores its candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from space.cost import Cost
from space.genome import Genome


@dataclass(frozen=True, slots=True)
class Score:
    """What an evaluator found out about one network.

    `score` is what the search compares, higher is better, in 0..1. `details` are further numbers
    for the log, such as `top1` and `loss`; they never steer a search.
    """

    score: float
    details: Mapping[str, float] = field(default_factory=dict)


class Evaluator(Protocol):
    """Scores networks. The score of a network must not depend on what was scored before it."""

    def evaluate(self, genome: Genome) -> Score:
        """Raises any exception where the network cannot be scored; the search records it."""
        ...


@dataclass(frozen=True, slots=True)
class Result:
    """One evaluated candidate, as controllers and logs see it.

    `score` and `reward` are None where the evaluation failed; `error` then says why. `origin` says
    where it is from, where that is not the controller itself.
    """

    genome: Genome
    cost: Cost
    score: float | None = None
    reward: float | None = None
    seconds: float = 0.0
    details: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    origin: str | None = None
