"""What REINFORCE and PPO share: what they ask for, what they remember, and what they replay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.asking import Asking, Ranges
from search.policies import FactorisedPolicy, Policy, make_policy, one_thread
from search.problem import Floats, Row, Trial
from search.proposals import Proposals
from search.records import Records, order_shares
from space.decisions import Codes

_DIRECTIONS = 16  # random weights of several free objectives, beside one for each alone
_TAIL = 4  # ranks, in units of `queue`, behind which nothing is replayed
_BATCH = 64  # rows that a replay step of the recurrent policy goes through

LEARNING_RATES = {"factorised": 0.1, "recurrent": 0.01}


class PolicySearch:
    """A policy that writes rows and learns from what they were worth. A subclass says how it
    learns from the trials of a tell (`_learn`); the rest is here:

    - *Goals.* The policy has one for each slice of the budget where a cost is an objective, and
      one for each of some weights of the objectives that are left; with a single objective it has
      one. All goals share all trials: a trial is worth something for each (`Records.worth`), as in
      hindsight relabelling (Andrychowicz et al., 2017, arXiv 1707.01495; for preferences Yang et
      al., 2019, arXiv 1908.08342). At the budget the worth is the reward of TuNAS (arXiv
      2008.06120, section 3.3), everywhere else order alone counts.
    - *Masks.* Of `pool` rows that the policy draws, what is known is left out, and the first in
      the wanted range of the budget is proposed: the policy conditioned on what is new and
      allowed. Where none is, the nearest is repaired by random changes. The gradient treats all
      rows as the policy's own draws.
    - *Replay.* After each tell come `steps` steps of priority queue training (Abolafia et al.,
      2018, arXiv 1801.03526, section 3.2): the likelihood of the best trials, weighted by
      `replay`, is raised. Differs: the queue has no end, but the trial of rank r (from 0) weighs
      exp(-r / `queue`), and of goals there may be several.
    - *Entropy.* The entropy of the rows that are gone through is raised by `entropy` times its
      gradient, as in MnasNet and TuNAS.
    - The first `initial` rows are random.
    """

    def __init__(
        self,
        proposals: Proposals,
        seed: int,
        *,
        policy: str,
        hidden: int,
        learning_rate: float | None,
        entropy: float,
        decay: float,
        queue: float,
        replay: float,
        steps: int,
        initial: int,
        pool: int,
        at_budget: float,
        first: Sequence[Sequence[int]],
    ):
        for name, value in (("hidden", hidden), ("pool", pool), ("initial", initial)):
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        for name, number in (("entropy", entropy), ("replay", replay), ("steps", steps)):
            if not 0 <= number < math.inf:
                raise ValueError(f"{name} is {number}, but must be at least 0")
        if learning_rate is None:
            learning_rate = LEARNING_RATES.get(policy, 0.1)
        for name, number in (("learning_rate", learning_rate), ("queue", queue)):
            if not 0 < number < math.inf:
                raise ValueError(f"{name} is {number}, but must be above 0")
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}, but must be from 0 to below 1")
        self._proposals = proposals
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._asking = Asking(proposals, at_budget, first)
        self._records = Records(proposals)
        self._goals = goals(proposals, self._records)
        self._tops = sorted({top for top, _ in self._goals})
        self._policy: Policy = make_policy(
            policy, proposals.decisions, len(self._goals), hidden, self._generator
        )
        self._optimizer = torch.optim.Adam(
            self._policy.parameters(), lr=learning_rate, betas=(0.0, 0.999)
        )
        self._entropy, self._decay = entropy, decay
        self._queue, self._replay, self._steps = queue, replay, steps
        self._initial, self._pool = initial, pool
        self._asked = 0
        self._moments: list[float] | None = None  # moving mean and variance of the worths

    # ---- ask

    def ask(self, count: int) -> list[Row]:
        """The first `initial` rows are those of a random search."""
        random = max(0, self._initial - self._asked)
        self._asked += count
        return self._asking.ask_after(self._rng, count, random, self._propose)

    def _propose(self, ranges: Ranges, mutations: int) -> Codes:
        """A row of the policy for each range, with as many mutations where that was no news."""
        goals = self._goals_of(ranges)
        found = np.empty((len(ranges), len(self._proposals.decisions.variables)), np.int64)
        for goal in np.unique(goals):
            places = np.flatnonzero(goals == goal)
            low, high = ranges[places].T
            with one_thread():
                drawn = self._policy.sample(
                    max(self._pool, 2 * len(places)), self._generator, int(goal)
                )
            _, first = np.unique(drawn, axis=0, return_index=True)
            rows = drawn[np.sort(first)]
            known = [self._asking.knows(row) for row in map(tuple, rows.tolist())]
            rows = rows[np.argsort(known, kind="stable")]  # what is known comes last
            rows = np.concatenate([rows, drawn])[: max(len(places), len(rows))]
            new = rows[: len(known) - sum(known)]
            rows = new if len(new) >= len(places) else rows
            found[places] = self._proposals.nearest(rows, low, high)
        low, high = ranges.T
        for _ in range(mutations):
            found = self._proposals.mutate(found, self._rng, low, high)
        return found if mutations else self._proposals.repair(found, self._rng, low, high)

    def _goals_of(self, ranges: Ranges) -> NDArray[np.int64]:
        """A goal for each range: of its highest use, and with random weights."""
        each = len(self._goals) // len(self._tops)  # those of one top stand together
        tops = np.searchsorted(self._tops, ranges[:, 1] - 1e-9).clip(max=len(self._tops) - 1)
        random = self._rng.integers(0, each, len(ranges)) if each > 1 else 0
        return np.asarray(tops * each + random, np.int64)

    # ---- tell

    def tell(self, trials: Sequence[Trial]) -> None:
        """Trials are sorted, so that their order in one `tell` does not matter; how they are split
        over several does."""
        self._asking.learn(trials)
        changed = self._records.add(trials)
        if not len(changed) or not self._proposals.decisions.variables:
            return
        with one_thread():
            worths = [self._records.worth(*goal) for goal in self._goals]
            self._learn(*self._lessons(changed, worths))
            if len(self._records) >= min(self._initial, 2):
                self._rehearse(worths)

    def _learn(self, codes: Tensor, goals: Tensor, advantages: Tensor) -> None:
        """Takes rows, the goals they were told for, and how much better they were than usual."""
        raise NotImplementedError

    def _lessons(
        self, changed: NDArray[np.int64], worths: Sequence[Floats]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The rows that were told and their advantages, each for the goal of its use."""
        use = self._records.use[changed]
        goals = self._goals_of(np.stack([use, use], axis=1))
        shares = np.array(
            [
                order_shares(worths[goal][:, None])[place, 0]
                for goal, place in zip(goals, changed, strict=True)
            ]
        )
        rows = torch.from_numpy(self._records.rows[changed])
        advantages = torch.tensor(self._advantages(shares.tolist()))
        return rows, torch.from_numpy(goals), advantages

    def _advantages(self, worths: Sequence[float]) -> list[float]:
        """How much each is above the baseline, in deviations; then moves the baseline."""
        mean = math.fsum(worths) / len(worths)
        if self._moments is None:
            self._moments = [mean, math.fsum((r - mean) ** 2 for r in worths) / len(worths)]
        baseline, variance = self._moments
        spread = math.fsum((r - baseline) ** 2 for r in worths) / len(worths)
        keep = self._decay
        variance = keep * variance + (1 - keep) * spread
        self._moments = [keep * baseline + (1 - keep) * mean, variance]
        return [(worth - baseline) / (math.sqrt(variance) + 1e-8) for worth in worths]

    def _rehearse(self, worths: Sequence[Floats]) -> None:
        """The steps of priority queue training."""
        if not self._replay:
            return
        many = min(len(self._records), math.ceil(_TAIL * self._queue))
        best = np.concatenate([np.argsort(-worth, kind="stable")[:many] for worth in worths])
        goals = np.repeat(np.arange(len(worths)), many)
        shares = np.exp(-np.arange(many) / self._queue)
        weights = np.tile(shares / shares.sum(), len(worths)) / len(worths)
        exact = isinstance(self._policy, FactorisedPolicy) or len(best) <= _BATCH
        for _ in range(self._steps):
            chosen = np.arange(len(best))
            if not exact:
                chosen = self._rng.choice(len(best), _BATCH, p=weights)
            codes = torch.from_numpy(self._records.rows[best[chosen]])
            log_probability, entropy = self._policy(codes, torch.from_numpy(goals[chosen]))
            part = torch.tensor(weights[chosen] if exact else np.full(_BATCH, 1 / _BATCH))
            gain = self._replay * log_probability + self._entropy * entropy
            # Each goal learns as if it were alone.
            self._step(-(part * gain).sum() * len(worths))

    def _step(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    # ---- stop and resume

    def state_dict(self) -> dict[str, Any]:
        return {
            "rng": self._rng.bit_generator.state,
            "generator": self._generator.get_state(),
            "asking": self._asking.state_dict(),
            "asked": self._asked,
            "records": self._records.state_dict(),
            "policy": {name: value.clone() for name, value in self._policy.state_dict().items()},
            "optimizer": _copied(self._optimizer.state_dict()),
            "moments": None if self._moments is None else list(self._moments),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._generator.set_state(state["generator"])
        self._asking.load_state_dict(state["asking"])
        self._asked = state["asked"]
        self._records.load_state_dict(state["records"])
        self._policy.load_state_dict(state["policy"])
        self._optimizer.load_state_dict(_copied(state["optimizer"]))
        self._moments = None if state["moments"] is None else list(state["moments"])


def goals(proposals: Proposals, records: Records) -> list[tuple[float, Floats]]:
    """What the policy can be asked for: the highest use and the weights of the free objectives."""
    tops = [1.0]
    if records.sliced:
        tops = sorted({high for _, high in proposals.slices()} | {1.0})
    free = proposals.problem.objectives - records.sliced
    weights = np.ones((1, 1))
    if free > 1:
        random = np.random.default_rng(0).dirichlet(np.ones(free), _DIRECTIONS)
        weights = np.concatenate([np.eye(free), random])
    return list(product(tops, weights))


def _copied(value: Any) -> Any:
    """A state that does not change with what it is the state of."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value
