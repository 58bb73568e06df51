"""Successive halving: of many trainings only the best go on from rung to rung.

Rungs are numbers of steps: `grace`, then each `reduction` times the one before, then all `steps`. A
training that comes to a rung goes on where its value, of which more is better, is at least the
cutoff: the (1 - 1 / reduction) quantile, linear between two values, of the others at that rung. So
about one in `reduction` goes on, and the best of all always does.

Source: ASHA (Li et al., 2020, "A System for Massively Parallel Hyperparameter Tuning", arXiv
1810.05934), section 3.2, in the form that Ray Tune has of it (`AsyncHyperBandScheduler`, which
`search.ray_trials` uses): whoever comes to a rung is judged at once, beside those that came before.
Algorithm 2 differs: there everyone waits at its rung and may be promoted later.

`climb` does the same in one process, where nobody has to wait: one rung after the other, each
training judged by the same rule beside all others at its rung. That is successive halving (Jamieson
and Talwalkar, 2016, arXiv 1502.07943), which the asynchronous one stands in for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from search.workers import one_line

# Trains a piece: from where it has come to, through its "rungs". What it gives is plain data, of
# one of three kinds:
# - {"step": 12}: so many steps are done;
# - {"step": 48, "value": 0.8, "details": {...}}: it has come to this rung, and keeps what it needs
#   to go on from there in another process;
# - {"problem": "..."}: it cannot be trained, and could not be another time. What it raises is of
#   the world's making.
RungWork = Callable[[Mapping[str, Any]], Generator[Mapping[str, Any], None, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Halving:
    """Where the rungs are, and who goes on. ValueError where that makes no sense."""

    steps: int
    grace: int
    reduction: int

    def __post_init__(self) -> None:
        for name, least in (("steps", 2), ("reduction", 2), ("grace", 1)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} is {value}, but must be at least {least}")
        if self.grace >= self.steps:
            raise ValueError(
                f"grace is {self.grace}, but must be below the number of steps, {self.steps}"
            )

    @classmethod
    def usual(cls, steps: int, grace: int | None, reduction: int) -> Halving:
        """With three rungs, the last but one of which is a `reduction`-th of the steps, unless
        `grace` says otherwise."""
        if grace is None and steps > 1 and reduction > 1:
            grace = -(-steps // reduction**2)
        return cls(steps=steps, grace=1 if grace is None else grace, reduction=reduction)

    @property
    def rungs(self) -> tuple[int, ...]:
        """From the lowest up; the last is `steps`."""
        found, rung = [], self.grace
        while rung < self.steps:
            found.append(rung)
            rung *= self.reduction
        return (*found, self.steps)

    def goes_on(self, value: float, others: Sequence[float]) -> bool:
        """Whether a training with `value` does, where the `others` at its rung have theirs."""
        if not others:
            return True
        return bool(value >= np.percentile(others, (1 - 1 / self.reduction) * 100))


@dataclass(frozen=True, slots=True)
class Reached:
    """A training that came to a rung. `goes_on` is None until somebody has judged; from the last
    rung nobody goes on."""

    step: int
    value: float
    goes_on: bool | None
    details: Mapping[str, Any] = field(default_factory=dict)


class Ladder:
    """How far each of some trainings has come. They are known by their places, 0 to `count` - 1.

    `known` is what `reached` was before, `problems` likewise: why trainings ended that ended early.
    Those in `passing` did so by something outside, which may not happen another time. `changed` is
    called with the place of a training after each change to it.
    """

    def __init__(
        self,
        halving: Halving,
        count: int,
        *,
        known: Mapping[int, Sequence[Reached]] | None = None,
        problems: Mapping[int, str] | None = None,
        changed: Callable[[int], None] = lambda place: None,
    ):
        self.halving = halving
        self.reached: list[list[Reached]] = [list((known or {}).get(i, ())) for i in range(count)]
        self.problems = dict(problems or {})
        self.passing: set[int] = set()
        self._changed = changed
        self._steps = [max((r.step for r in reached), default=0) for reached in self.reached]

    # ---- what is known

    def wanted(self, place: int) -> tuple[int, ...]:
        """The rungs that a training still has before it, unless it is judged otherwise."""
        reached, rungs = self.reached[place], self.halving.rungs
        if place in self.problems or (reached and not reached[-1].goes_on):
            return ()
        return rungs[len(reached) :]

    def finished(self) -> list[int]:
        """The places of those that came to the last rung."""
        last = self.halving.steps
        return [i for i, reached in enumerate(self.reached) if reached and reached[-1].step == last]

    def at(self, rung: int) -> dict[int, Reached]:
        """Those that came to a rung, by their places."""
        return {i: r for i, reached in enumerate(self.reached) for r in reached if r.step == rung}

    # ---- what happens

    def reach(self, place: int, report: Mapping[str, Any], goes_on: bool | None = None) -> None:
        """Takes the report of a training that has come to its next rung. One that was taken before,
        of a training that had to begin again, changes nothing."""
        wanted = self.wanted(place)
        if report["step"] not in wanted[:1]:
            return
        if report["step"] == self.halving.steps:
            goes_on = False
        found = Reached(report["step"], report["value"], goes_on, report.get("details", {}))
        self.reached[place].append(found)
        self.step(place, found.step)
        self._changed(place)

    def step(self, place: int, done: int) -> None:
        """Takes note of so many steps."""
        self._steps[place] = max(self._steps[place], done)

    def fail(self, place: int, problem: str, *, passing: bool = False) -> None:
        self.problems[place] = problem
        if passing:
            self.passing.add(place)
        self._changed(place)

    def judge(self, rung: int) -> None:
        """Judges those at a rung that were not yet, each beside all others there."""
        there = self.at(rung)
        for place, found in there.items():
            if found.goes_on is None:
                others = [other.value for i, other in there.items() if i != place]
                self._judged(place, found, self.halving.goes_on(found.value, others))

    def revive(self) -> bool:
        """Where everyone was stopped or failed, has the best of those stopped at the highest rung
        go on after all, as algorithm 2 would; whether there was need of it and anyone to do it."""
        if self.finished() or any(map(self.wanted, range(len(self.reached)))):
            return False
        for rung in reversed(self.halving.rungs[:-1]):
            there = {
                place: found
                for place, found in self.at(rung).items()
                if found.goes_on is False and place not in self.problems
            }
            if there:
                best = max(there, key=lambda place: (there[place].value, -place))
                self._judged(best, there[best], True)
                return True
        return False

    def _judged(self, place: int, found: Reached, goes_on: bool) -> None:
        where = self.reached[place].index(found)
        judged = Reached(found.step, found.value, goes_on, found.details)
        self.reached[place][where] = judged
        self._changed(place)

    # ---- how much there is to do

    def done_steps(self) -> int:
        return sum(self._steps)

    def expected_steps(self) -> int:
        """About how many steps it will have been in the end: of those that are still to be judged
        at a rung, one in `reduction` will go on."""
        left = 0.0
        for place, now in enumerate(self._steps):
            chance = 1.0
            if self.reached[place] and self.reached[place][-1].goes_on is None:
                chance /= self.halving.reduction
            for rung in self._ahead(place):
                left += chance * max(0, rung - now)
                now, chance = max(now, rung), chance / self.halving.reduction
        return self.done_steps() + round(left)

    def _ahead(self, place: int) -> tuple[int, ...]:
        reached = self.reached[place]
        undecided = reached and reached[-1].goes_on is None and place not in self.problems
        return self.halving.rungs[len(reached) :] if undecided else self.wanted(place)


def climb(
    work: RungWork,
    pieces: Sequence[Mapping[str, Any]],
    ladder: Ladder,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Trains the pieces in this process, rung by rung. `progress` is called after every step."""
    for rung in ladder.halving.rungs:
        for place, piece in enumerate(pieces):
            if rung in ladder.wanted(place)[:1]:
                _to_rung(work, piece, place, ladder, progress)
        ladder.judge(rung)


def _to_rung(
    work: RungWork,
    piece: Mapping[str, Any],
    place: int,
    ladder: Ladder,
    progress: Callable[[], None],
) -> None:
    with closing(work({**piece, "rungs": ladder.wanted(place)[:1]})) as reports:
        while True:
            try:
                report = next(reports, None)
            except Exception as error:  # such as memory that is full
                ladder.fail(place, one_line(error), passing=True)
                progress()
                return
            if report is None:
                return
            take(report, place, ladder)
            progress()


def take(
    report: Mapping[str, Any], place: int, ladder: Ladder, goes_on: bool | None = None
) -> None:
    """Notes what a training has said of itself."""
    if "problem" in report:
        ladder.fail(place, report["problem"])
    elif "value" in report:
        ladder.reach(place, report, goes_on)
    else:
        ladder.step(place, report["step"])
