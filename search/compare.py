"""Controllers compared on equal terms: one way to count, one way to judge, for all of them.

What is compared on is a `Ground`: a problem, what an evaluation of a row observes, and how good the
row is in truth. A table is one (`search.tables`); so is anything else with these few attributes.

An evaluation is counted for each different network (key of the problem) that is evaluated. Asking
for one that is known is free, whoever asks: a controller is then told at once what is known.

What is measured, at any number of evaluations:

- `chosen`: how good the row is, in truth, that has looked best so far by what was observed;
- `seen`: how good the best row is that was evaluated, whether or not anything showed that;
- `until`: evaluations until one of the best (`Truth.best`) was evaluated;
- `hypervolume`: of the rows that were evaluated, by their true values, as a share of what the true
  front has; and `front`, that of those rows only that are on the front by what was observed. The
  reference point is the worst that is feasible in each objective;
- seconds that a controller takes for a suggestion, in `ask` and `tell` together.

With `confirm`, the last evaluations of the budget are spent on rows that were evaluated already:
each goes to the row with the highest mean so far that has something new to observe, and what is
chosen in the end is the row with the highest mean of those that were looked at again.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from scipy.stats import t as student

from evaluator.interfaces import Score
from search.acquisition import hypervolume, unbeaten
from search.controllers import OPTUNA, make_controller
from search.interfaces import Controller, Outcome
from search.loop import search
from search.problem import Problem, Row, Trial
from search.proposals import Proposals

BEST = 0.001  # of all that is feasible: "one of the best"
CURVE = 40  # points of a curve
_FRUITLESS = 100  # asks in a row that bring nothing new end a search
_NAME = re.compile(r"\s*([^(),]+?)\s*(?:\(([^()]*)\))?\s*(?:,|$)")

Maker = Callable[[Proposals, int], Controller]
Named = Callable[..., Controller]  # of a name, proposals, a seed and settings
Game = dict[str, Any]  # one search, as plain data


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of all feasible rows; larger is better. `area` is the hypervolume of their
    front beyond `reference`, the worst of each of two objectives. Where nobody knows all rows,
    `optimum` and `best` are None, and `area` is all that there is beyond the reference."""

    optimum: float | None
    best: float | None  # one that is at least so good is one of the best
    best_count: int
    reference: tuple[float, ...] | None = None
    area: float | None = None


class Ground(Protocol):
    """What controllers are compared on."""

    @property
    def problem(self) -> Problem: ...

    @property
    def sign(self) -> float:
        """1, or -1 where the first objective is shown with the other sign."""
        ...

    @property
    def truth(self) -> Truth | None:
        """None where nobody knows all rows; then neither `until` nor shares are measured."""
        ...

    @property
    def observations(self) -> int:
        """How many evaluations of one row may observe something new."""
        ...

    def observe(self, row: Row, times: int = 0) -> tuple[float, ...]:
        """What an evaluation observes of a row that was evaluated `times` before. What this raises
        is a failed evaluation."""
        ...

    def judge(self, row: Row) -> tuple[float, ...]:
        """All objectives in truth, larger is better."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How long searches are and when they are looked at. `marks` are numbers of evaluations."""

    evaluations: int
    batch: int = 1
    confirm: int = 0
    marks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("evaluations", 1), ("batch", 1), ("confirm", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least {least}")
        if self.confirm >= self.evaluations:
            raise ValueError(
                f"confirm is {self.confirm}, but must be below evaluations, {self.evaluations}"
            )
        if wrong := [mark for mark in self.marks if not 1 <= mark <= self.evaluations]:
            raise ValueError(f"mark {wrong[0]} must be from 1 to {self.evaluations}")

    @property
    def points(self) -> list[int]:
        """The marks and the end; without marks, points enough for a curve."""
        step = max(1, self.evaluations // CURVE)
        marks = self.marks or range(step, self.evaluations, step)
        return sorted({*marks, self.evaluations})


# ---- controllers by name


def parse_names(text: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """`"evolution,random(at_budget=0.5)"`: name and settings of each, by what was written."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    at = 0
    while at < len(text):
        match = _NAME.match(text, at)
        if match is None:
            raise ValueError(
                f"controllers {text!r} must read like 'evolution,random' or "
                "'evolution(population=20,tournament=5),random'"
            )
        at = match.end()
        settings = {}
        for part in filter(None, (match[2] or "").split(",")):
            name, equals, value = part.partition("=")
            if not equals:
                raise ValueError(f"setting {part!r} of {match[1]} must read 'name=value'")
            settings[name.strip()] = _value(value.strip())
        written = match[1] + (f"({match[2].replace(' ', '')})" if settings else "")
        found[written] = match[1], settings
    if not found:
        raise ValueError("no controller is named")
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def make_named(
    name: str,
    proposals: Proposals,
    seed: int,
    more: Mapping[str, Named] | None = None,
    **settings: Any,
) -> Controller:
    """The controller of a name; one with a colon is from elsewhere, such as `optuna:tpe`. `more`
    are makers by what stands before the colon."""
    prefix, colon, _ = name.partition(":")
    others = more or {}
    if colon and prefix in others:
        return others[prefix](name, proposals, seed, **settings)
    if colon and f"{prefix}:" != OPTUNA:
        known = ", ".join(f"{other}:" for other in ("optuna", *others))
        raise ValueError(f"unknown controller {name!r}; those from elsewhere begin with {known}")
    return make_controller(name, proposals, seed, **settings)


# ---- one search


class _Counted:
    """A controller as the loop sees it: what it asks for is new. Rows that it asks for again it is
    told at once, free of charge; `seconds` are what it took in all."""

    def __init__(self, controller: Controller, key: Callable[[Row], Hashable]):
        self._controller, self._key = controller, key
        self._known: dict[Hashable, Trial | None] = {}  # None: under way
        self.seconds, self.repeats = 0.0, 0

    def ask(self, count: int) -> list[Row]:
        rows: list[Row] = []
        for _ in range(_FRUITLESS):
            asked = self._timed(lambda: self._controller.ask(count - len(rows)))
            again = []
            for row in asked:
                key = self._key(row)
                if key not in self._known:
                    self._known[key] = None
                    rows.append(row)
                elif (trial := self._known[key]) is not None:
                    again.append(Trial(row, trial.values, trial.fidelity))
            self.repeats += len(again)
            if again:
                self._timed(lambda: self._controller.tell(again))  # noqa: B023
            if len(rows) == count or not asked:
                break
        return rows

    def tell(self, trials: Sequence[Trial]) -> None:
        self._known.update((self._key(trial.row), trial) for trial in trials)
        self._timed(lambda: self._controller.tell(trials))

    def _timed(self, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        try:
            return work()
        finally:
            self.seconds += time.perf_counter() - begun

    def state_dict(self) -> dict[str, Any]:
        raise NotImplementedError("a game is played from its beginning")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError("a game is played from its beginning")


class _Now:
    """Evaluates a batch when it is handed in."""

    capacity = 1

    def __init__(self, ground: Ground):
        self._ground = ground
        self._done: dict[int, list[Outcome]] = {}

    def submit(self, number: int, candidates: Sequence[Any]) -> None:
        self._done[number] = [self._outcome(row) for row in candidates]

    def _outcome(self, row: Row) -> Outcome:
        begun = time.perf_counter()
        try:
            first, *others = self._ground.observe(row)
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            return Outcome(None, time.perf_counter() - begun, said)
        details = {str(i): value for i, value in enumerate(others, 1)}
        return Outcome(Score(first, details), time.perf_counter() - begun)

    def next(self) -> dict[int, list[Outcome]]:
        done, self._done = self._done, {}
        return done

    def close(self) -> None:
        pass


class PlainRows:
    """Rows as the loop takes them; what it writes down of one is its trial."""

    def candidate(self, row: Row) -> Row:
        return row

    def trial(self, row: Row, outcome: Outcome) -> Trial:
        if outcome.score is None:
            return Trial(row, None)
        return Trial(row, (outcome.score.score, *outcome.score.details.values()))

    def result(self, row: Row, outcome: Outcome) -> Trial:
        return self.trial(row, outcome)


class InMemory:
    """A log that keeps results and no state: a game that was stopped is played again."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []

    def append(self, results: Sequence[Trial], origin: str, state: Callable[[], bytes]) -> None:
        self.trials += results

    def statuses(self) -> list[str]:
        return ["failed" if trial.values is None else "ok" for trial in self.trials]

    def state(self) -> None:
        return None


def play(ground: Ground, proposals: Proposals, make: Maker, seed: int, plan: Plan) -> Game:
    """One search by a controller, and what it came to at each of the plan's points."""
    if plan.confirm and ground.observations < 2:
        raise ValueError(
            "confirm needs at least two observed columns: there is nothing new in looking again"
        )
    problem = ground.problem
    controller = _Counted(make(proposals, seed), problem.key)
    log = InMemory()
    search(
        controller,
        _Now(ground),
        log,
        PlainRows(),
        evaluations=plan.evaluations - plan.confirm,
        batch=plan.batch,
        origin="",
        in_flight=1,
    )
    trials = log.trials
    asked = np.array([trial.row for trial in trials], np.int64)
    if len(trials) and not (inside := proposals.fits(asked)).all():
        raise RuntimeError(f"row {trials[int(np.argmin(inside))].row} is outside the limits")
    winner, confirmed = (None, 0)
    if plan.confirm:
        winner, confirmed = _confirm(ground, trials, plan.confirm)
    return {
        "seed": seed,
        "evaluated": len(trials) + confirmed,
        "repeats": controller.repeats,
        "seconds_a_suggestion": controller.seconds / max(1, len(trials)),
        **_measures(ground, trials, plan, winner),
    }


def _confirm(ground: Ground, trials: Sequence[Trial], count: int) -> tuple[int | None, int]:
    """Which trial is best after `count` more evaluations of those that lead, and how many of these
    there were something for. Without any there is no such trial."""
    seen = {i: [trial.values[0]] for i, trial in enumerate(trials) if trial.values is not None}
    means = {i: values[0] for i, values in seen.items()}
    left = set(seen)
    done = 0
    while left and done < count:
        done += 1
        leader = max(left, key=lambda i: (means[i], -i))
        seen[leader].append(ground.observe(trials[leader].row, len(seen[leader]))[0])
        means[leader] = float(np.mean(seen[leader]))
        if len(seen[leader]) == ground.observations:
            left.remove(leader)
    again = [i for i, values in seen.items() if len(values) > 1]
    return max(again, key=lambda i: (means[i], -i), default=None), done


def _measures(
    ground: Ground, trials: Sequence[Trial], plan: Plan, winner: int | None
) -> dict[str, Any]:
    sign, truth = ground.sign, ground.truth
    judged = [ground.judge(t.row) if t.values is not None else None for t in trials]
    chosen: list[float] = []
    seen: list[float] = []
    leading, until = -math.inf, None
    goal = None if truth is None else truth.best
    for n, (trial, true) in enumerate(zip(trials, judged, strict=True), 1):
        ahead = trial.values is not None and trial.values[0] > leading
        if trial.values is not None and ahead:
            leading = trial.values[0]
        best = seen[-1] if seen else math.nan
        choice = chosen[-1] if chosen else math.nan
        seen.append(best if true is None or true[0] <= best else true[0])
        chosen.append(true[0] if true is not None and ahead else choice)
        if goal is not None and until is None and true is not None and true[0] >= goal:
            until = n
    found: dict[str, Any] = {"until": until}
    points = plan.points
    at = [min(point, len(trials)) - 1 for point in points]
    found["chosen"] = [_number(sign * chosen[i]) if i >= 0 else None for i in at]
    found["seen"] = [_number(sign * seen[i]) if i >= 0 else None for i in at]
    if winner is not None:
        true = judged[winner]
        assert true is not None
        found["chosen"][-1] = _number(sign * true[0])
    if ground.problem.objectives == 2 and truth is not None and truth.reference is not None:
        found |= _areas(ground, trials, judged, at, truth)
    return found


def _areas(
    ground: Ground,
    trials: Sequence[Trial],
    judged: Sequence[tuple[float, ...] | None],
    at: Sequence[int],
    truth: Truth,
) -> dict[str, list[float | None]]:
    good = [i for i, true in enumerate(judged) if true is not None]
    reference = np.array(truth.reference)
    values = np.array([judged[i] for i in good], float).reshape(len(good), 2)
    looks = ground.problem.gains([trials[i] for i in good])
    shares: dict[str, list[float | None]] = {"hypervolume": [], "front": []}
    for last in at:
        count = int(np.searchsorted(good, last, side="right"))
        on_front = values[:count][unbeaten(looks[:count])]
        for name, points in (("hypervolume", values[:count]), ("front", on_front)):
            area = hypervolume(points, reference)
            shares[name].append(_number(area / truth.area) if truth.area else None)
    return shares


def _number(value: float) -> float | None:
    """As JSON has it."""
    return round(value, 10) if math.isfinite(value) else None


# ---- all of them


def compare(
    ground: Ground,
    makers: Mapping[str, Maker],
    seeds: int,
    plan: Plan,
    games: dict[str, list[Game]],
    keep: Callable[[], None],
) -> Iterator[tuple[str, int]]:
    """Plays all that `games` lacks, seed by seed, so that whenever it ends each controller has been
    at as many as the others. Each game is added to `games`, and `keep` is called after it. Gives
    the name and the seed of what it plays next, before it does."""
    proposals = Proposals(ground.problem)
    done = {(name, game["seed"]) for name, played in games.items() for game in played}
    for seed in range(seeds):
        for name, make in makers.items():
            if (name, seed) in done:
                continue
            yield name, seed
            games.setdefault(name, []).append(play(ground, proposals, make, seed, plan))
            keep()


def settings_of(plan: Plan, facts: Mapping[str, Any]) -> dict[str, Any]:
    """All that games must have in common to be compared, as plain data."""
    return {**asdict(plan), "marks": list(plan.marks), "points": plan.points, "ground": dict(facts)}


@dataclass(frozen=True, slots=True)
class Spread:
    """Of numbers over seeds: a 95 % interval of the mean by Student's t, and quartiles."""

    count: int
    mean: float | None
    error: float | None  # of the mean
    interval: tuple[float, float] | None
    median: float | None
    quartiles: tuple[float | None, float | None] = field(default=(None, None))

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread:
        known = np.array([value for value in values if value is not None], float)
        if not len(known):
            return cls(0, None, None, None, None)
        low, middle, high = map(float, np.quantile(known, [0.25, 0.5, 0.75]))
        mean, error, interval = float(known.mean()), None, None
        if len(known) > 1:
            error = float(known.std(ddof=1) / math.sqrt(len(known)))
            half = float(student.ppf(0.975, len(known) - 1)) * error
            interval = mean - half, mean + half
        return cls(len(known), mean, error, interval, middle, (low, high))

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def summary(games: Mapping[str, Sequence[Game]], points: Sequence[int]) -> dict[str, Any]:
    """Of each controller: each measure at each point, over seeds."""
    return {name: _summary(played, points) for name, played in games.items() if played}


def _summary(games: Sequence[Game], points: Sequence[int]) -> dict[str, Any]:
    found: dict[str, Any] = {"seeds": len(games)}
    for measure in ("chosen", "seen", "hypervolume", "front"):
        if measure in games[0]:
            found[measure] = {
                str(point): Spread.of([game[measure][i] for game in games]).plain()
                for i, point in enumerate(points)
            }
    found["until"] = _times([game["until"] for game in games])
    found["evaluated"] = Spread.of([game["evaluated"] for game in games]).plain()
    found["repeats"] = Spread.of([game["repeats"] for game in games]).plain()
    seconds = [game["seconds_a_suggestion"] for game in games]
    found["seconds_a_suggestion"] = Spread.of(seconds).plain()
    return found


def _times(until: Sequence[int | None]) -> dict[str, Any]:
    """Median and quartiles over all seeds, with an interval of the median by order statistics; a
    miss is later than all else, and null."""
    times = np.sort([math.inf if n is None else n for n in until])
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75], method="higher")
    # The ranks between which the median is with 95 %, by the normal approximation of the binomial.
    half = 0.98 * math.sqrt(len(times))
    ranks = [math.floor(len(times) / 2 - half), math.ceil(len(times) / 2 + half)]
    ends = [times[min(max(rank, 0), len(times) - 1)] for rank in ranks]
    return {
        "median": _number(float(middle)),
        "interval_of_the_median": [_number(float(end)) for end in ends],
        "quartiles": [_number(float(low)), _number(float(high))],
        "misses": int(np.isinf(times).sum()),
        "seeds": len(times),
    }
