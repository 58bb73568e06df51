"""What a search needs to know of whoever scores its candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from space.cost import Cost
from space.genome import Genome


@dataclass(frozen=True, slots=True)
class Score:
    """What an evaluator found out about one network.

    `score` is what the search compares, higher is better, in 0..1. `details` are further numbers
    for the log, such as `top1` and `loss`; they never steer a search. `fidelity` is the share of a
    full evaluation that the score rests on, above 0 and at most 1.
    """

    score: float
    details: Mapping[str, float] = field(default_factory=dict)
    fidelity: float = 1.0


class Evaluator(Protocol):
    """Scores networks. The score of a network must not depend on what was scored before it."""

    def evaluate(self, genome: Genome) -> Score:
        """Raises any exception where the network cannot be scored; the search records it."""
        ...


class ImageOutcomes(Protocol):
    """What a network made of images, one by one (`evaluator.scoring.Outcomes`)."""

    def extend(self, later: Any) -> None:
        """Adds those of images that come behind these."""
        ...

    def probabilities(self) -> Tensor:
        """Of the true class, (N,); their mean is the score."""
        ...

    def finite(self) -> bool:
        """Whether the network's outputs are numbers."""
        ...

    def score(self) -> Score:
        """Over these images. RuntimeError where outputs are not numbers."""
        ...


Measured = ImageOutcomes | Exception  # of one network: what it made of images, or what went wrong


class GroupEvaluator(Protocol):
    """Measures several networks on the same images. What is found of a network must not depend on
    the others, nor on what was measured before."""

    def measure(self, genomes: Sequence[Genome], first: int, last: int) -> Sequence[Measured]:
        """One for each genome, on the images from `first` up to but without `last`."""
        ...


class Failed(Exception):
    """Why a network could not be measured, where only the words of it came through."""


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
    costs: Mapping[str, float] = field(default_factory=dict)
