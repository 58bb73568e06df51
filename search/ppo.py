"""PPO: as REINFORCE, with several clipped steps on the same trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from search.policy_search import PolicySearch
from search.proposals import Proposals


class PPO(PolicySearch):
    """Proximal policy optimisation (Schulman et al., 2017, arXiv 1707.06347, equation 7), the
    learner of MnasNet (Tan et al., 2019, arXiv 1807.11626, section 4.2), and a replay of the best
    trials (`PolicySearch` has sources and differences).

    `rollout` trials are gathered, and then `epochs` steps taken on them, in which the ratio of a
    row's probability to what it was when it was told counts within 1 - `clip` and 1 + `clip`.
    `clip` and `epochs` are PPO's 0.2 and, of its 3 to 15, 4. Differences: the rollout is short,
    since evaluations are hundreds and not MnasNet's 8,000; there is a moving baseline and no
    critic, as a search has no states to value; what is learnt from is the order of worths.
    """

    def __init__(
        self,
        proposals: Proposals,
        seed: int,
        *,
        policy: str = "factorised",
        hidden: int = 64,
        learning_rate: float | None = None,
        entropy: float = 0.05,
        decay: float = 0.9,
        clip: float = 0.2,
        epochs: int = 4,
        rollout: int = 8,
        queue: float = 4,
        replay: float = 1.0,
        steps: int = 4,
        initial: int = 16,
        pool: int = 64,
        at_budget: float = 0.75,
        first: Sequence[Sequence[int]] = (),
    ):
        if not 0 < clip < 1:
            raise ValueError(f"clip is {clip}, but must be between 0 and 1")
        for name, value in (("epochs", epochs), ("rollout", rollout)):
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        super().__init__(
            proposals,
            seed,
            policy=policy,
            hidden=hidden,
            learning_rate=learning_rate,
            entropy=entropy,
            decay=decay,
            queue=queue,
            replay=replay,
            steps=steps,
            initial=initial,
            pool=pool,
            at_budget=at_budget,
            first=first,
        )
        self._clip, self._epochs, self._rollout = clip, epochs, rollout
        self._forget()

    def _forget(self) -> None:
        width = len(self._proposals.decisions.variables)
        self._codes = torch.zeros(0, width, dtype=torch.int64)
        self._for = torch.zeros(0, dtype=torch.int64)  # goals
        self._gained = torch.zeros(0)  # advantages
        self._before = torch.zeros(0)  # log-probabilities when they were told

    def _learn(self, codes: Tensor, goals: Tensor, advantages: Tensor) -> None:
        """Gathers a rollout, and learns from it once it is whole."""
        with torch.no_grad():
            before, _ = self._policy(codes, goals)
        self._codes = torch.cat([self._codes, codes])
        self._for = torch.cat([self._for, goals])
        self._gained = torch.cat([self._gained, advantages.float()])
        self._before = torch.cat([self._before, before])
        if len(self._codes) < self._rollout:
            return
        for _ in range(self._epochs):
            log_probability, entropy = self._policy(self._codes, self._for)
            gain = clipped(log_probability - self._before, self._gained, self._clip)
            self._step(-(gain + self._entropy * entropy).mean())
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        rollout = (self._codes, self._for, self._gained, self._before)
        return super().state_dict() | {"rollout": [part.clone() for part in rollout]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._codes, self._for, self._gained, self._before = (
            part.clone() for part in state["rollout"]
        )


def clipped(log_ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """The clipped surrogate objective of each row, (B,): equation 7."""
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
