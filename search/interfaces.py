"""What the search loop needs to know of controllers, runners and logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evaluator.interfaces import Result, Score
from search.problem import Row, Trial
from space.genome import Genome


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


class Runner(Protocol):
    """Has networks scored, here or elsewhere."""

    def run(self, genomes: Sequence[Genome]) -> list[Outcome]:
        """One outcome for each genome, in the order of `genomes`."""
        ...

    def close(self) -> None:
        """Lets go of all that was held; nothing can be run afterwards."""
        ...


class Log(Protocol):
    """Where evaluated candidates and the controller's state are kept (`results.store.Store`)."""

    def append(self, results: Sequence[Result], origin: str, state: bytes) -> None:
        """Keeps all of it, or, where the process dies on the way, nothing. `origin` is that of
        the results that have none of their own."""
        ...

    def statuses(self) -> list[str]:
        """`"ok"` or `"failed"` for each candidate so far, in order."""
        ...

    def state(self) -> bytes | None:
        """The state that was appended last."""
        ...
