"""Timing several things against an anchor, so that a machine that drifts does not decide.

Clock speeds change and neighbours come and go. So what is timed takes turns, in a new order each
round, and between any two turns stands the anchor, one thing that never changes. What counts is
the ratio of a turn to the anchor's time before and behind it; times the anchor's reference it is
milliseconds again. Where the anchor itself jumps about, there is no answer, and none is given.

It needs the standard library alone, since it also runs where nothing else of this project does.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ROUNDS = 7  # turns of each thing
PASSES = 3  # of a turn that count; one more before them brings caches and clocks back
CALM = 0.10  # of the anchor's median: the largest distance of its quartiles that is accepted
RATIO = 0.10  # the same of a thing's ratios to the anchor
SLOWER = 1.25  # times its reference: a slower anchor says that the machine is busy
TRIES = 3
PATIENCE = 60.0  # seconds for which one thing is tried while the machine is restless
PAUSE = 0.5  # seconds between two tries, more and more
LOOKS = 4  # passes as a whole, and as many part by part, of what is measured once

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


@dataclass(frozen=True, slots=True)
class Turn:
    """Milliseconds of one turn, and of the anchor around it."""

    name: str
    passes: tuple[float, ...]
    anchor: float


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
    """How long a pass of each takes, by name. `reference` are the milliseconds that the anchor
    takes when the machine is quiet; without it, the lower quartile of those measured now.

    Raises TooNoisy where, after three tries, the anchor or a ratio to it is not steady.
    """
    order = random.Random(seed)
    kept: dict[str, list[Turn]] = {name: [] for name in runners}
    total, wanted, reason = rounds * len(runners), list(runners), ""

    def tell(turns_left: int) -> None:
        progress(max(0, total - turns_left), total)

    for attempt in range(TRIES):
        chosen = {name: runners[name] for name in wanted}
        turns = _turns(chosen, anchor, rounds, passes, order, tell)
        for turn in turns:
            kept[turn.name].append(turn)
        wanted, reason = _restless(kept, rounds * (attempt + 1), reference)
        if not wanted:
            break
    else:
        raise TooNoisy(reason)
    level = reference or level_of([turn.anchor for turns in kept.values() for turn in turns])
    return {name: timing_of(turns, level) for name, turns in kept.items()}


def _turns(
    runners: Mapping[str, Pass],
    anchor: Pass,
    rounds: int,
    passes: int,
    order: random.Random,
    left: Callable[[int], None],
) -> list[Turn]:
    turns: list[Turn] = []
    before = take_turn(anchor, passes)
    for _ in range(rounds):
        names = list(runners)
        order.shuffle(names)
        for name in names:
            taken = take_turn(runners[name], passes)
            behind = take_turn(anchor, passes)
            around = statistics.median([*before, *behind])
            turns.append(Turn(name, taken, around))
            before = behind
            left(rounds * len(runners) - len(turns))
    return turns


def take_turn(run: Pass, passes: int = PASSES) -> tuple[float, ...]:
    """Milliseconds of some passes, behind one that does not count."""
    run()
    return tuple(run() for _ in range(passes))


def _restless(
    kept: Mapping[str, Sequence[Turn]], turns: int, reference: float | None
) -> tuple[list[str], str]:
    """What has to be timed again, and why."""
    anchors = [turn.anchor for found in kept.values() for turn in found]
    low, middle, high = quartiles(anchors)
    if high - low > CALM * middle:
        return list(kept), (
            f"the anchor network takes {low:.3g} to {high:.3g} ms (quartiles), which is more than "
            f"{CALM:.0%} apart: the machine is busy with something else, or changes its clock; "
            "measure again when it is quiet"
        )
    if reference is not None and middle > SLOWER * reference:
        return list(kept), (
            f"the anchor network takes {middle:.3g} ms, and took {reference:.3g} ms when the "
            "device was profiled: the machine is busy or throttled; measure again when it is "
            "quiet, or profile it anew"
        )
    for name, found in kept.items():
        low, middle, high = quartiles(ratios_of(found))
        if high - low > RATIO * middle:
            return [name for name, turns in kept.items() if _apart(turns)], (
                f"{name} takes {low:.3g} to {high:.3g} times as long as the anchor network "
                f"(quartiles), which is more than {RATIO:.0%} apart; measure again when the "
                "machine is quiet"
            )
    return [], ""


def _apart(turns: Sequence[Turn]) -> bool:
    low, middle, high = quartiles(ratios_of(turns))
    return high - low > RATIO * middle


@dataclass(frozen=True, slots=True)
class Look:
    """Milliseconds of one pass, and of its parts, between two turns of the anchor: medians, and the
    quartiles of the whole."""

    ms: float
    low: float
    high: float
    parts: tuple[float, ...]
    anchor: float


class Bench:
    """Measures things one after the other, each between two turns of the anchor."""

    def __init__(self, anchor: Pass, levels: Sequence[float] = ()):
        """`levels` are milliseconds of the anchor from earlier on."""
        self._anchor, self._levels = anchor, list(levels)
        self._last = self._turn()

    def measure(self, whole: Pass, parts: Callable[[], Sequence[float]]) -> Look:
        """TooNoisy where the machine does not hold still for long enough."""
        begun, pause = time.monotonic(), PAUSE
        while True:
            low, middle, high = quartiles(take_turn(whole, LOOKS))
            parts()
            looks = zip(*(parts() for _ in range(LOOKS)), strict=True)
            before, behind = self._last, self._turn()
            self._last = behind
            reason = self._restless(before, behind, low, middle, high)
            if not reason:
                medians = tuple(statistics.median(times) for times in looks)
                return Look(middle, low, high, medians, (before + behind) / 2)
            if time.monotonic() - begun > PATIENCE:
                raise TooNoisy(
                    f"{reason}: the machine is busy with something else, or changes its clock; go "
                    "on when it is quiet"
                )
            time.sleep(pause)
            pause *= 1.5
            self._last = self._turn()

    def _restless(
        self, before: float, behind: float, low: float, middle: float, high: float
    ) -> str:
        """What speaks against a measurement; nothing where it holds."""
        level = level_of(self._levels)
        if abs(behind - before) > CALM * min(behind, before):
            return f"the anchor network takes {before:.3g} ms and then {behind:.3g}"
        if high - low > CALM * middle:
            return f"a network takes {low:.3g} to {high:.3g} ms (quartiles)"
        if behind > SLOWER * level:
            return f"the anchor network takes {behind:.3g} ms, and took {level:.3g} before"
        return ""

    def _turn(self) -> float:
        level = statistics.median(take_turn(self._anchor))
        self._levels.append(level)
        return level


def ratios_of(turns: Sequence[Turn]) -> list[float]:
    return [ms / turn.anchor for turn in turns for ms in turn.passes]


def timing_of(turns: Sequence[Turn], level: float) -> Timing:
    """In milliseconds of a machine on which the anchor takes `level`."""
    ratios = ratios_of(turns)
    low, middle, high = quartiles(ratios)
    return Timing(middle * level, low * level, high * level, len(ratios))


def level_of(anchors: Sequence[float]) -> float:
    """What the anchor takes when nothing disturbs it."""
    return quartiles(anchors)[0]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile; of one value three times itself."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
