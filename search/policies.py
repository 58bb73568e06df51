"""Policies: distributions over the rows of a problem, one for each goal, that can be learnt.

Shapes: B rows, V variables, G goals, C the most choices that a variable has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from space.decisions import Codes, Decisions

POLICIES = ("factorised", "recurrent")  # the default first


class Policy(nn.Module):
    """What both have in common: a variable that does not matter in a row has no part in it."""

    def __init__(self, space: Decisions, goals: int):
        super().__init__()
        self.goals = goals
        self._space = space
        self._sizes = [int(size) for size in space.cardinalities]

    def sample(self, count: int, generator: torch.Generator, goal: int = 0) -> Codes:
        """`count` rows for a goal, (count, V)."""
        raise NotImplementedError

    def forward(self, codes: Tensor, goals: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The log-probability of each row (B, V) for its goal, (B,), the first one if none is
        given, and the sum of its variables' entropies: (B,)."""
        raise NotImplementedError


class FactorisedPolicy(Policy):
    """A softmax of its own for each variable of a space and each goal, all logits 0 at first
    (TuNAS: Bender et al., 2020, arXiv 2008.06120, section 3, "independent multinomial variables").

    Differs: a variable that does not matter in a row has no part in its probability.
    """

    def __init__(self, space: Decisions, goals: int = 1):
        super().__init__(space, goals)
        most = max(self._sizes, default=1)
        allowed = torch.arange(most) < torch.tensor(self._sizes, dtype=torch.int64)[:, None]
        self._closed = ~allowed  # what a variable has not
        self.logits = nn.Parameter(torch.zeros(goals, len(self._sizes), most))

    def sample(self, count: int, generator: torch.Generator, goal: int = 0) -> Codes:
        """`count` rows for a goal, (count, V)."""
        with torch.no_grad():
            logits = self._logits()[goal]
            noise = torch.rand(count, *logits.shape, generator=generator)
            gumbel = -(-noise.clamp(1e-20).log()).clamp(1e-20).log()
            codes = (logits + gumbel).argmax(2)
        return self._space.canonical(codes.numpy())

    def forward(self, codes: Tensor, goals: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `Policy` says."""
        goals = torch.zeros(len(codes), dtype=torch.int64) if goals is None else goals
        matters = torch.from_numpy(self._space.active(codes.numpy()))
        log_softmax = self._logits()
        spread = -(log_softmax.exp() * log_softmax.clamp(-1e4)).sum(2)[goals]
        taken = log_softmax[goals].gather(2, codes[:, :, None])[:, :, 0]
        return torch.where(matters, taken, 0).sum(1), torch.where(matters, spread, 0).sum(1)

    def _logits(self) -> Tensor:
        """Normalised, (G, V, C); what a variable has not is at -inf."""
        return self.logits.masked_fill(self._closed, -torch.inf).log_softmax(2)


class RecurrentPolicy(Policy):
    """An LSTM that decides one variable of a space after the other (Zoph and Le, 2017, "Neural
    Architecture Search with Reinforcement Learning", arXiv 1611.01578, section 3).

    A step takes the embedding of the decision before it and gives the logits of its variable by a
    layer of that variable's own. The logits are `2.5 tanh(logits / 5)` (Pham et al., 2018, "ENAS",
    arXiv 1802.03268, there too), which keeps the policy from becoming certain too early. A
    variable that does not matter in a row takes no step in it. The first step takes the embedding
    of the goal.
    """

    def __init__(self, space: Decisions, hidden: int, generator: torch.Generator, goals: int = 1):
        super().__init__(space, goals)
        sizes = self._sizes
        self._hidden = hidden
        self._starts = [sum(sizes[:v]) for v in range(len(sizes))]
        self._conditions = [
            [(parent, _mask(sizes[parent], allowed)) for parent, allowed in variable.conditions]
            for variable in space.variables
        ]
        # skip_init: the layers' own initialisation would draw from the global generator.
        self.embedding = nn.utils.skip_init(nn.Embedding, sum(sizes) + goals, hidden)
        self.cell = nn.utils.skip_init(nn.LSTMCell, hidden, hidden)
        self.logits = nn.utils.skip_init(nn.Linear, hidden, sum(sizes))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-0.1, 0.1, generator=generator)

    def sample(self, count: int, generator: torch.Generator, goal: int = 0) -> Codes:
        """`count` rows for a goal, (count, V)."""
        with torch.no_grad():
            noise = torch.rand(count, sum(self._sizes), generator=generator)
            gumbel = -(-noise.clamp(1e-20).log()).clamp(1e-20).log()
            goals = torch.full((count,), goal, dtype=torch.int64)
            codes, _, _ = self._unroll(goals, None, gumbel)
        return codes.numpy()

    def forward(self, codes: Tensor, goals: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `Policy` says."""
        goals = torch.zeros(len(codes), dtype=torch.int64) if goals is None else goals
        _, log_probability, entropy = self._unroll(goals, codes, None)
        return log_probability, entropy

    def _unroll(
        self, goals: Tensor, given: Tensor | None, gumbel: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Goes through rows that are given, or draws them (the largest logit after Gumbel noise
        is a draw from the softmax)."""
        count = len(goals)
        hidden = cell = torch.zeros(count, self._hidden)
        inputs = self.embedding(sum(self._sizes) + goals)  # nothing is decided yet
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


def make_policy(
    name: str, space: Decisions, goals: int, hidden: int, generator: torch.Generator
) -> Policy:
    """ValueError, with what is allowed, where `name` is not one of `POLICIES`."""
    if name == "factorised":
        return FactorisedPolicy(space, goals)
    if name == "recurrent":
        return RecurrentPolicy(space, hidden, generator, goals)
    raise ValueError(f"policy is {name!r}, but must be one of {', '.join(POLICIES)}")


def _mask(size: int, allowed: frozenset[int]) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[list(allowed)] = True
    return mask


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for the policy, whose steps are tiny: beside busy workers, several threads were
    40 times as slow (2 cores). Sums also do not depend on the number of threads then."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
