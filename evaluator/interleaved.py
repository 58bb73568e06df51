"""Timing several things against an anchor, so that a machine that drifts does not decide.

Clock speeds change and neighbours come and go. So what is timed takes turns, in a new order each
round, and between any two turns stands the anchor, one thing that never changes. What counts is
the ratio of a turn to the anchor's time before and behind it; times the anchor's reference it is
milliseconds again. A turn in which the anchor, or the thing itself, jumps about is taken again.
Where that does not end, there is no answer, and none is given.

It needs the standard library alone, since it also runs where nothing else of this project does.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

ROUNDS = 7  # turns of each thing
PASSES = 3  # of a turn that count; one more before them brings caches and clocks back
CALM = 0.10  # between two looks at the anchor, or between the quartiles of a turn, relative
SLOWER = 1.25  # times its reference: a slower anchor says that the machine is busy
UNSURE = 0.03  # of the median of a thing's ratios to the anchor: its standard error, relative
TRIES = 3  # of things of which more is unsure
PATIENCE = 60.0  # seconds for which one turn is tried while the machine is restless
PAUSE = 0.25  # seconds between two tries, more and more
LOOKS = 4  # passes as a whole, and as many part by part, of what is measured once

# The standard error of the median of n normal numbers is this times their quartiles' distance,
# divided by the root of n: 1.2533 times the deviation, which is the distance divided by 1.349.
_MEDIAN = 0.929

T = TypeVar("T")
Pass = Callable[[], float]  # runs once, and gives the milliseconds that it took


class TooNoisy(RuntimeError):
    """The machine is too restless to say how long something takes, and why that is believed."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one pass: the median, and the quartiles, of `passes` passes."""

    ms: float
    low: float
    high: float
    passes: int


class Ruler:
    """The anchor. `reference` are the milliseconds that it takes when the machine is quiet; without
    it, what it took so far says that, `levels` from earlier on included."""

    def __init__(self, anchor: Pass, reference: float | None = None, levels: Sequence[float] = ()):
        self._anchor, self._reference, self.looks = anchor, reference, list(levels)
        self._last = self._look()

    @property
    def level(self) -> float:
        """What the anchor takes when nothing disturbs it, ms."""
        return self._reference or level_of(self.looks)

    def around(self, take: Callable[[], T], restless: Callable[[T], str]) -> tuple[T, float]:
        """What `take` gives, once the machine held still meanwhile, and what the anchor took before
        and behind it, ms. `restless` says what speaks against what was taken, if anything does.

        TooNoisy where the machine is restless for longer than `PATIENCE`.
        """
        begun, pause = time.monotonic(), PAUSE
        while True:
            taken = take()
            before, self._last = self._last, self._look()
            reason = self._moved(before) or restless(taken)
            if not reason:
                return taken, (before + self._last) / 2
            if time.monotonic() - begun > PATIENCE:
                raise TooNoisy(
                    f"{reason}: the machine is busy with something else, or changes its clock; "
                    "measure again when it is quiet"
                )
            time.sleep(pause)
            pause *= 1.5
            self._last = self._look()

    def _moved(self, before: float) -> str:
        behind, level = self._last, self.level
        if abs(behind - before) > CALM * min(behind, before):
            return f"the anchor network takes {before:.3g} ms and then {behind:.3g}"
        if behind > SLOWER * level:
            return f"the anchor network takes {behind:.3g} ms, and took {level:.3g} before"
        return ""

    def _look(self) -> float:
        found = statistics.median(take_turn(self._anchor))
        self.looks.append(found)
        return found


@dataclass(frozen=True, slots=True)
class Look:
    """Milliseconds of one pass, and of its parts, between two looks at the anchor: medians, and the
    quartiles of the whole."""

    ms: float
    low: float
    high: float
    parts: tuple[float, ...]
    anchor: float


class Bench:
    """Measures things one after the other, each between two looks at the anchor."""

    def __init__(self, anchor: Pass, levels: Sequence[float] = ()):
        """`levels` are milliseconds of the anchor from earlier on."""
        self._ruler = Ruler(anchor, levels=levels)

    def measure(self, whole: Pass, parts: Callable[[], Sequence[float]]) -> Look:
        """TooNoisy where the machine does not hold still for long enough."""

        def take() -> tuple[tuple[float, ...], tuple[float, ...]]:
            passes = take_turn(whole, LOOKS)
            parts()
            looks = zip(*(parts() for _ in range(LOOKS)), strict=True)
            return passes, tuple(statistics.median(times) for times in looks)

        (passes, medians), anchor = self._ruler.around(
            take, lambda taken: apart("a network", taken[0], CALM, "ms")
        )
        low, middle, high = quartiles(passes)
        return Look(middle, low, high, medians, anchor)


def interleave(
    runners: Mapping[str, Pass],
    anchor: Pass,
    *,
    reference: float | None = None,
    rounds: int = ROUNDS,
    passes: int = PASSES,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Timing]:
    """How long a pass of each takes, by name, on a machine on which the anchor takes `reference`
    (see `Ruler`).

    Raises TooNoisy where the machine does not hold still, or the median of a thing's ratios to the
    anchor is unsure after three tries.
    """
    order, ruler = random.Random(seed), Ruler(anchor, reference)
    ratios: dict[str, list[float]] = {name: [] for name in runners}
    wanted, left = list(runners), rounds * len(runners)
    for _ in range(TRIES):
        for _ in range(rounds):
            order.shuffle(wanted)
            for name in wanted:
                taken, around = ruler.around(
                    lambda run=runners[name]: take_turn(run, passes),  # type: ignore[misc]
                    lambda taken, name=name: apart(name, taken, CALM, "ms"),  # type: ignore[misc]
                )
                ratios[name] += [ms / around for ms in taken]
                left = max(0, left - 1)
                progress(rounds * len(runners) - left, rounds * len(runners))
        reasons = {
            name: apart(
                name,
                found,
                UNSURE * math.sqrt(len(found)) / _MEDIAN,
                "times as long as the anchor network",
            )
            for name, found in ratios.items()
        }
        wanted = [name for name, reason in reasons.items() if reason]
        if not wanted:
            return {name: _timing(found, ruler.level) for name, found in ratios.items()}
    raise TooNoisy(f"{reasons[wanted[0]]}; measure again when the machine is quiet")


def take_turn(run: Pass, passes: int = PASSES) -> tuple[float, ...]:
    """Milliseconds of some passes, behind one that does not count."""
    run()
    return tuple(run() for _ in range(passes))


def apart(name: str, taken: Sequence[float], share: float, unit: str) -> str:
    """What there is to say where the quartiles are further apart than a share of the median."""
    low, middle, high = quartiles(taken)
    if high - low <= share * middle:
        return ""
    return f"{name} takes {low:.3g} to {high:.3g} {unit} (quartiles), over {share:.0%} apart"


def _timing(ratios: Sequence[float], level: float) -> Timing:
    low, middle, high = quartiles(ratios)
    return Timing(middle * level, low * level, high * level, len(ratios))


def level_of(anchors: Sequence[float]) -> float:
    """What the anchor takes when nothing disturbs it: the lower quartile of many looks."""
    return quartiles(anchors)[0]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile; of one value three times itself."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
