"""Curricula: training that starts at low resolution with weak augmentation.

Sources: EfficientTrain (Wang et al., 2022, arXiv 2211.09703) and EfficientTrain++ (Wang et al.,
2024, arXiv 2405.08768). Both show a network only the lowest frequencies of its images at first,
which `supernet.augmentation.low_frequency` does, and raise the magnitude of RandAugment from phase
to phase. Side lengths are in pixels; a step is taken to cost side^2.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction

# Side lengths are the papers', for networks that work on images of 224 pixels in the end.
PUBLISHED_SIDE = 224
EFFICIENTTRAIN = (160, 160, 160, 192, 224)  # of equal numbers of steps
EFFICIENTTRAIN_MAGNITUDES = (1, 3, 5, 7, 9)
# Of equal compute. The schedule of ResNet and Swin; those of DeiT and ConvNeXt have other sides.
EFFICIENTTRAIN_PLUS = (96, 96, 160, 160, 160, 160, 224, 224, 224, 224)
EFFICIENTTRAIN_PLUS_MAGNITUDES = tuple(range(10))
NAMES = ("none", "efficienttrain", "efficienttrain++")


@dataclass(frozen=True, slots=True)
class Phase:
    """What images look like: `side` pixels, RandAugment of `magnitude`."""

    side: int
    magnitude: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curriculum:
    """Phases one after the other; a phase may be empty where there are few steps."""

    phases: tuple[Phase, ...]
    ends: tuple[int, ...]  # of each phase, the first step after it
    weights: tuple[int, ...]  # of each phase, how much a step adds to `progress`

    @property
    def total_steps(self) -> int:
        """Number of optimiser steps."""
        return self.ends[-1]

    def at(self, step: int) -> Phase:
        """The phase of `step`, which counts from 0; ValueError where there is no such step."""
        if not 0 <= step < self.total_steps:
            raise ValueError(f"step must be from 0 to {self.total_steps - 1}, not {step}")
        return self.phases[bisect_right(self.ends, step)]

    def progress(self, step: int) -> float:
        """How much is done before `step`, from 0 at the start to 1 at `total_steps`.

        The share of the compute in efficienttrain++, of the steps otherwise, as in the papers'
        learning-rate schedules.
        """
        if not 0 <= step <= self.total_steps:
            raise ValueError(f"step must be from 0 to {self.total_steps}, not {step}")
        return self._done(step) / self._done(self.total_steps)

    def _done(self, step: int) -> int:
        starts = (0, *self.ends[:-1])
        return sum(
            weight * max(0, min(step, end) - start)
            for weight, start, end in zip(self.weights, starts, self.ends, strict=True)
        )


def make_curriculum(
    name: str, *, side: int, multiple: int, steps: int, magnitude: float
) -> Curriculum:
    """The curriculum `name` for images of `side` pixels in the end.

    "none" is one phase. "efficienttrain" has 5 phases of equally many steps, `steps` in all.
    "efficienttrain++" has 10 phases that cost the same, together as much as `steps` steps at full
    resolution (up to one more), so it makes more steps than that. The papers' sides are scaled to
    `side` and rounded to multiples of `multiple`, even ones where there are any; `side` itself is
    never rounded. Their magnitudes are scaled so that the last phase has `magnitude`, 0 to 10;
    note that efficienttrain++ starts at 0, where RandAugment is weak, but off only if `magnitude`
    is 0. ValueError for what is out of range.
    """
    if name not in NAMES:
        raise ValueError(f"unknown curriculum {name!r}; known: {', '.join(NAMES)}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if not 1 <= multiple <= side:
        raise ValueError(f"multiple must be from 1 to the side of {side}, not {multiple}")
    if not 0 <= magnitude <= 10:
        raise ValueError(f"magnitude must be from 0 to 10, not {magnitude}")
    if name == "none":
        return Curriculum(phases=(Phase(side, magnitude),), ends=(steps,), weights=(1,))
    if name == "efficienttrain":
        sides = tuple(_scaled(each, side, multiple) for each in EFFICIENTTRAIN)
        ends = tuple(steps * (i + 1) // len(sides) for i in range(len(sides)))
        phases = _phases(sides, EFFICIENTTRAIN_MAGNITUDES, magnitude)
        return Curriculum(phases=phases, ends=ends, weights=(1,) * len(sides))
    sides = tuple(_scaled(each, side, multiple) for each in EFFICIENTTRAIN_PLUS)
    phases = _phases(sides, EFFICIENTTRAIN_PLUS_MAGNITUDES, magnitude)
    weights = tuple(each**2 for each in sides)
    ends = _ends_of_equal_cost(weights, steps * side**2)
    return Curriculum(phases=phases, ends=ends, weights=weights)


def _ends_of_equal_cost(costs: tuple[int, ...], budget: int) -> tuple[int, ...]:
    """Ends of phases whose steps cost `costs`; what a phase has too little of for a whole step
    goes to the next, and the last makes one step more with it, so it is never empty."""
    ends, step, spent = [], 0, 0
    for i, cost in enumerate(costs):
        due = budget * (i + 1) // len(costs) - spent
        count = due // cost if i < len(costs) - 1 else -(-due // cost)
        step, spent = step + count, spent + count * cost
        ends.append(step)
    return tuple(ends)


def _phases(
    sides: tuple[int, ...], magnitudes: tuple[int, ...], magnitude: float
) -> tuple[Phase, ...]:
    pairs = zip(sides, magnitudes, strict=True)
    return tuple(Phase(side, magnitude * (level / magnitudes[-1])) for side, level in pairs)


def _scaled(published: int, side: int, multiple: int) -> int:
    """A side of the papers for images of `side`: the nearest multiple, an even one if there is."""
    if published == PUBLISHED_SIDE:
        return side
    unit = 2 * multiple if multiple % 2 and 2 * multiple <= side else multiple
    nearest = round(Fraction(published * side, PUBLISHED_SIDE * unit))
    return unit * min(max(nearest, 1), side // unit)
