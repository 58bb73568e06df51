"""The loop that every search runs: ask, evaluate, tell, write down."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from search.interfaces import Controller, Log, Outcome, Runner, Subject
from search.problem import Row
from search.state import pack, unpack

GIVE_UP = 4  # failures in a row, the last ones a whole batch, that end a search


@dataclass(frozen=True, slots=True)
class Progress:
    """What `on_batch` hears: the results of the last batch, and how many there are so far."""

    done: int
    evaluations: int
    results: Sequence[Any]


def search(
    controller: Controller,
    runner: Runner,
    log: Log,
    subject: Subject,
    *,
    evaluations: int,
    batch: int,
    origin: str,
    in_flight: int | None = None,
    in_order: bool = False,
    on_batch: Callable[[Progress], None] | None = None,
) -> int:
    """Evaluates rows until the log holds `evaluations` of them; gives how many it holds.

    That is fewer only where the controller has nothing new left inside the limits. `batch` rows are
    one worker's at a time, and `in_flight` batches are under way at a time, or as many as the
    runner has workers for. Whatever is there is told and written down at once, and as many batches
    as that leaves room for are asked for at once: the busier the search, the more is done in one
    go. With `in_order`, a batch is told, and the next one asked for, only once those that were
    asked for before it are told. So one in flight gives one history, and any number of them in
    order gives a history that does not depend on which worker is faster; with `in_flight` given, on
    how many there are neither. `origin` is where results are said to be from.

    Where the log holds results, the controller (new, made with the same arguments) takes up its
    state from there, and the search goes on: the results of a batch, the controller's state after
    it has been told, and the rows under way are written in one transaction. So whatever ends the
    process, no result is lost, and what was under way is evaluated again and nothing else. With one
    batch in flight, the search goes on as if it had not stopped. (A run that ended within a batch,
    because `evaluations` is not a multiple of it, goes on from there with whole batches.)

    What fails, or has a score that is not a finite number, is written down with its error.
    RuntimeError, with the first error, where a whole batch failed and before it none succeeded, or
    none of the last `GIVE_UP`: then it is not the rows' fault. That batch is not written down, so
    that a search which is started again tries it again.
    """
    if batch < 1 or evaluations < 0:
        raise ValueError(f"batch is {batch}, evaluations {evaluations}: at least 1 and 0")
    if in_flight is not None and in_flight < 1:
        raise ValueError(f"in_flight is {in_flight}, but must be at least 1")
    statuses, begun = log.statuses(), 0
    waiting: deque[list[Row]] = deque()  # to be begun, or under way when the search was stopped
    if (saved := log.state()) is not None:
        waiting.extend(_taken_up(controller, unpack(saved)))
    flight: dict[int, list[Row]] = {}  # batches under way, in the order in which they were begun
    ended: dict[int, list[Outcome]] = {}  # those that have to wait for one before them

    def state_now() -> bytes:
        batches = [*flight.values(), *waiting]
        return pack(
            {
                "controller": controller.state_dict(),
                "under_way": np.array([row for rows in batches for row in rows], np.int16),
                "batches": np.array([len(rows) for rows in batches], np.int64),
            }
        )

    def begin() -> None:
        """Hands out batches until as many are under way as should be."""
        nonlocal begun
        while (room := (in_flight or runner.capacity) - len(flight)) > 0:
            left = evaluations - len(statuses) - sum(map(len, flight.values()))
            if not waiting and left > 0:
                rows = controller.ask(min(left, batch if in_order else room * batch))
                waiting.extend(rows[i : i + batch] for i in range(0, len(rows), batch))
            if not waiting or left <= 0:
                break
            rows = waiting.popleft()
            runner.submit(begun, [subject.candidate(row) for row in rows])
            flight[begun] = rows
            begun += 1

    def told() -> list[int]:
        """The numbers of the batches that may be told now."""
        if in_order:
            first = next(iter(flight))
            return [first] if first in ended else []
        return sorted(ended)

    while len(statuses) < evaluations:
        begin()
        if not flight:
            break
        if not (numbers := told()):
            ended.update(runner.next())
            continue
        rows = [row for number in numbers for row in flight.pop(number)]
        outcomes = [_checked(outcome) for number in numbers for outcome in ended.pop(number)]
        latest = ["failed" if outcome.score is None else "ok" for outcome in outcomes]
        if "ok" not in latest and _hopeless(statuses + latest):
            raise RuntimeError(f"no candidate can be scored: {outcomes[0].error}")
        pairs = list(zip(rows, outcomes, strict=True))
        controller.tell([subject.trial(row, outcome) for row, outcome in pairs])
        results = [subject.result(row, outcome) for row, outcome in pairs]
        log.append(results, origin, state_now)
        statuses += latest
        if on_batch is not None:
            on_batch(Progress(len(statuses), evaluations, results))
    return len(statuses)


def _taken_up(controller: Controller, state: Any) -> list[list[Row]]:
    """Gives the controller its state back; the batches that were under way. ValueError where it is
    not such a state."""
    try:
        controller.load_state_dict(state["controller"])
        rows = [tuple(row) for row in state["under_way"].tolist()]
        sizes = state["batches"].tolist()
    except (KeyError, TypeError, AttributeError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            "the search was begun by another version or controller, and cannot go on from what it "
            f"kept ({said}); its candidates can still be read"
        ) from None
    ends = np.cumsum(sizes).tolist()
    return [rows[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _hopeless(statuses: Sequence[str]) -> bool:
    return "ok" not in statuses or "ok" not in statuses[-GIVE_UP:]


def _checked(outcome: Outcome) -> Outcome:
    """The outcome; as a failure where its score is not a number."""
    score = outcome.score
    if score is not None and math.isfinite(score.score):
        return outcome
    said = f"the score is {score and score.score}, but must be a finite number"
    return replace(outcome, score=None, error=outcome.error or said)
