"""What the search loop needs to know of controllers, runners and logs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evaluator.interfaces import Score
from search.problem import Row, Trial


class Controller(Protocol):
    """Proposes rows of a problem inside its limits and learns from what is observed of them."""

    def ask(self, count: int) -> list[Row]:
        """Up to `count` rows to evaluate; may be called before earlier ones are told.

        None was proposed or told before. Fewer than `count` means that next to nothing new is
        left inside the limits; none ends the search.
        """
        ...

    def tell(self, trials: Sequence[Trial]) -> None:
        """Takes trials in any order, of rows that were asked for or not; some that were asked for
        may never be told. Nothing is learnt from a failed one."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that a new controller, made with the same arguments, needs to go on as this one
        would: dicts and lists of JSON values, numpy arrays and tensors (`search.state`)."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one evaluation ended: with a `score`, or with the text of an `error`."""

    score: Score | None
    seconds: float
    error: str | None = None


class Subject(Protocol):
    """What is searched, in the words of those who evaluate it and of the log."""

    def candidate(self, row: Row) -> Any:
        """What a row stands for, as a runner takes it: a genome, or plain data."""
        ...

    def trial(self, row: Row, outcome: Outcome) -> Trial:
        """What the controller is told."""
        ...

    def result(self, row: Row, outcome: Outcome) -> Any:
        """What the log keeps."""
        ...


class Runner(Protocol):
    """Has candidates scored, here or elsewhere, in batches."""

    @property
    def capacity(self) -> int:
        """How many batches can be worked on at a time now, at least 1."""
        ...

    def submit(self, number: int, candidates: Sequence[Any]) -> None:
        """Takes a batch; does not wait for it."""
        ...

    def next(self) -> dict[int, list[Outcome]]:
        """Waits until a batch is done, and gives all that are: by number, one outcome for each
        candidate, in their order. Empty where instead the capacity has changed."""
        ...

    def close(self) -> None:
        """Lets go of all that was held; nothing can be run afterwards."""
        ...


class Log(Protocol):
    """Where results and the search's state are kept (`results.store.Store`)."""

    def append(self, results: Sequence[Any], origin: str, state: Callable[[], bytes]) -> None:
        """Keeps all of it, or, where the process dies on the way, nothing. `origin` is that of
        the results that have none of their own."""
        ...

    def statuses(self) -> list[str]:
        """`"ok"` or `"failed"` for each result so far, in order."""
        ...

    def state(self) -> bytes | None:
        """The state that was appended last."""
        ...
