"""Policy gradient search: a recurrent policy writes networks, and learns from their rewards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from search.asking import Asking, Ranges
from search.problem import Row, Trial, succeeded
from search.proposals import BAND, Proposals
from search.reward import absolute_reward
from space.decisions import Codes, Decisions


class Policy(nn.Module):
    """An LSTM that decides one variable of a space after the other (Zoph and Le, 2017, "Neural
    Architecture Search with Reinforcement Learning", arXiv 1611.01578, section 3).

    A step takes the embedding of the decision before it and gives the logits of its variable by a
    layer of that variable's own. The logits are `2.5 tanh(logits / 5)` (Pham et al., 2018, "ENAS",
    arXiv 1802.03268, there too), which keeps the policy from becoming certain too early. A
    variable that does not matter in a row takes no step in it.
    """

    def __init__(self, space: Decisions, hidden: int, generator: torch.Generator):
        super().__init__()
        sizes = [int(size) for size in space.cardinalities]
        self._sizes, self._hidden = sizes, hidden
        self._starts = [sum(sizes[:v]) for v in range(len(sizes))]
        self._conditions = [
            [(parent, _mask(sizes[parent], allowed)) for parent, allowed in variable.conditions]
            for variable in space.variables
        ]
        # skip_init: the layers' own initialisation would draw from the global generator.
        self.embedding = nn.utils.skip_init(nn.Embedding, sum(sizes) + 1, hidden)
        self.cell = nn.utils.skip_init(nn.LSTMCell, hidden, hidden)
        self.logits = nn.utils.skip_init(nn.Linear, hidden, sum(sizes))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-0.1, 0.1, generator=generator)

    def sample(self, count: int, generator: torch.Generator) -> Codes:
        """`count` rows, (count, V)."""
        with torch.no_grad():
            noise = torch.rand(count, sum(self._sizes), generator=generator)
            gumbel = -(-noise.clamp(1e-20).log()).clamp(1e-20).log()
            codes, _, _ = self._unroll(count, None, gumbel)
        return codes.numpy()

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The log-probability of each row (B, V), and the sum of its steps' entropies: (B,)."""
        _, log_probability, entropy = self._unroll(len(codes), codes, None)
        return log_probability, entropy

    def _unroll(
        self, count: int, given: Tensor | None, gumbel: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Goes through rows that are given, or draws them (the largest logit after Gumbel noise
        is a draw from the softmax)."""
        hidden = cell = torch.zeros(count, self._hidden)
        inputs = self.embedding.weight[-1].expand(count, -1)  # "nothing decided yet"
        codes: list[Tensor] = []
        active: list[Tensor] = []
        log_probability = entropy = torch.zeros(count)
        for v, (start, size) in enumerate(zip(self._starts, self._sizes, strict=True)):
            matters = torch.ones(count, dtype=torch.bool)
            for parent, allowed in self._conditions[v]:
                matters = matters & active[parent] & allowed[codes[parent]]
            new_hidden, new_cell = self.cell(inputs, (hidden, cell))
            own = slice(start, start + size)
            logits = nn.functional.linear(
                new_hidden, self.logits.weight[own], self.logits.bias[own]
            )
            log_softmax = (2.5 * torch.tanh(logits / 5)).log_softmax(1)
            if given is not None:
                code = given[:, v]
            else:
                assert gumbel is not None, "rows are given or drawn"
                code = (log_softmax + gumbel[:, own]).argmax(1)
            code = torch.where(matters, code, 0)
            taken = log_softmax.gather(1, code[:, None])[:, 0]
            log_probability = log_probability + torch.where(matters, taken, 0)
            spread = -(log_softmax.exp() * log_softmax).sum(1)
            entropy = entropy + torch.where(matters, spread, 0)
            steps = matters[:, None]
            hidden = torch.where(steps, new_hidden, hidden)
            cell = torch.where(steps, new_cell, cell)
            inputs = torch.where(steps, self.embedding(start + code), inputs)
            codes.append(code)
            active.append(matters)
        rows = torch.stack(codes, 1) if codes else torch.zeros(count, 0, dtype=torch.int64)
        return rows, log_probability, entropy


def _mask(size: int, allowed: frozenset[int]) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[list(allowed)] = True
    return mask


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for the policy, whose steps are tiny: beside busy workers, several threads were
    40 times as slow (2 cores). Sums also do not depend on the number of threads then."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Reinforce:
    """REINFORCE (Williams, 1992) with a moving-average baseline, an entropy bonus and Adam.

    The reward is `Result.reward` (`search.reward`: TuNAS, arXiv 2008.06120, section 3.3), the
    policy that of ENAS and its forerunners. Where we differ, because our evaluations are hundreds
    and not tens of thousands, and our budgets are hard:

    - Of `pool` rows that the policy draws, the first that lie in the wanted range of the budget
      are proposed. Where there are too few, the nearest rows are repaired by random changes. The
      gradient treats all of them as the policy's own draws, with the log-probability of the row
      that was evaluated: for repaired rows it is off-policy, without importance weights.
    - Only networks at the budget teach the policy: those of the smaller slices, there for the
      front (`search.asking`), would teach it to avoid small networks and nothing else.
    - Advantages are divided by their own moving deviation, so that `entropy` and `learning_rate`
      mean the same whatever the spread of the scores.
    - A policy that repeats itself has its rows mutated, since no network is scored twice.
    """

    def __init__(
        self,
        proposals: Proposals,
        seed: int,
        *,
        hidden: int = 64,
        learning_rate: float = 0.01,
        entropy: float = 0.01,
        decay: float = 0.9,
        pool: int = 256,
        at_budget: float = 0.75,
        first: Sequence[Sequence[int]] = (),
    ):
        for name, value in (("hidden", hidden), ("pool", pool)):
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        if learning_rate <= 0 or entropy < 0 or not 0 <= decay < 1:
            raise ValueError(
                f"learning_rate {learning_rate} must be above 0, entropy {entropy} at least 0 "
                f"and decay {decay} from 0 to below 1"
            )
        self._proposals = proposals
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._asking = Asking(proposals, at_budget, first)
        self._policy = Policy(proposals.decisions, hidden, self._generator)
        self._optimizer = torch.optim.Adam(self._policy.parameters(), lr=learning_rate)
        self._entropy, self._decay, self._pool = entropy, decay, pool
        self._moments: list[float] | None = None  # moving mean and variance of the rewards

    def ask(self, count: int) -> list[Row]:
        calls = 0

        def propose(ranges: Ranges) -> Codes:
            nonlocal calls
            calls += 1
            low, high = ranges.T
            with _one_thread():
                drawn = self._policy.sample(max(self._pool, len(ranges)), self._generator)
            rows = self._proposals.nearest(drawn, low, high)
            if calls > 1:
                return self._proposals.mutate(rows, self._rng, low, high)
            return self._proposals.repair(rows, self._rng, low, high)

        return self._asking.ask(self._rng, count, propose)

    def tell(self, trials: Sequence[Trial]) -> None:
        """One step of the policy. Trials are sorted, so that their order in one `tell` does not
        matter; how they are split over several does."""
        self._asking.learn(trials)
        found = succeeded(trials)
        if not found or not self._proposals.decisions.variables:
            return
        codes = np.array([trial.row for trial in found], np.int64)
        use = self._proposals.use(codes)
        wanted = use >= BAND
        if not wanted.any():
            return
        codes = codes[wanted]
        advantages = self._advantages(
            [
                absolute_reward(trial.values[0], float(share))
                for trial, share in zip(found, use, strict=True)
                if share >= BAND and trial.values is not None
            ]
        )
        with _one_thread():
            log_probability, entropy = self._policy(torch.from_numpy(codes))
            gain = torch.tensor(advantages) * log_probability + self._entropy * entropy
            self._optimizer.zero_grad()
            (-gain.mean()).backward()
            self._optimizer.step()

    def _advantages(self, rewards: Sequence[float]) -> list[float]:
        """How much each reward is above the baseline, in deviations; then moves the baseline."""
        mean = math.fsum(rewards) / len(rewards)
        if self._moments is None:
            self._moments = [mean, math.fsum((r - mean) ** 2 for r in rewards) / len(rewards)]
        baseline, variance = self._moments
        spread = math.fsum((r - baseline) ** 2 for r in rewards) / len(rewards)
        keep = self._decay
        variance = keep * variance + (1 - keep) * spread
        self._moments = [keep * baseline + (1 - keep) * mean, variance]
        return [(reward - baseline) / (math.sqrt(variance) + 1e-8) for reward in rewards]

    def state_dict(self) -> dict[str, Any]:
        return {
            "rng": self._rng.bit_generator.state,
            "generator": self._generator.get_state(),
            "asking": self._asking.state_dict(),
            "policy": dict(self._policy.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "moments": self._moments,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._generator.set_state(state["generator"])
        self._asking.load_state_dict(state["asking"])
        self._policy.load_state_dict(state["policy"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._moments = state["moments"]
