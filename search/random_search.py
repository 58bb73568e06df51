"""Random search: the yardstick of every other controller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from search.asking import Asking, fresh
from search.problem import Row, Trial
from search.proposals import Proposals

RANDOM = "random"  # its name


class RandomSearch:
    """Uniform rows of the space: `at_budget` of them at the budget, the others in slices of it
    that are equally likely (`search.asking`). It learns nothing.

    A plain uniform sample of the space would put nearly all networks near the median cost; the
    slices make the front as wide as the space.
    """

    def __init__(
        self,
        proposals: Proposals,
        seed: int,
        *,
        at_budget: float = 0.5,
        first: Sequence[Sequence[int]] = (),
    ):
        self._proposals = proposals
        self._rng = np.random.default_rng(seed)
        self._asking = Asking(proposals, at_budget, first)

    def ask(self, count: int) -> list[Row]:
        return self._asking.ask(
            self._rng, count, lambda ranges: fresh(self._proposals, self._rng, ranges)
        )

    def tell(self, trials: Sequence[Trial]) -> None:
        self._asking.learn(trials)

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self._rng.bit_generator.state, "asking": self._asking.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._asking.load_state_dict(state["asking"])
