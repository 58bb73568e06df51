"""REINFORCE: a policy writes rows, and those that were better than usual become more likely."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from search.policy_search import PolicySearch
from search.proposals import Proposals


class Reinforce(PolicySearch):
    """REINFORCE (Williams, 1992) with a moving-average baseline, an entropy bonus and Adam without
    momentum (TuNAS: Bender et al., 2020, arXiv 2008.06120, section 3 and appendix), and a replay
    of the best trials (`PolicySearch` has sources and differences).

    `policy` is "factorised", as in TuNAS, or "recurrent", as in NASNet and ENAS, with `hidden`
    units. Differences from TuNAS, whose steps are tens of thousands and ours hundreds:

    - the `learning_rate` is 0.1 for the factorised policy and 0.01 for the recurrent one, and the
      baseline forgets faster: `decay` is 0.9;
    - what is learnt from is the order of worths, not their size, and advantages are divided by
      their own moving deviation, so that settings mean the same whatever the scale of a score.
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
        queue: float = 4,
        replay: float = 1.0,
        steps: int = 4,
        initial: int = 16,
        pool: int = 64,
        at_budget: float = 0.75,
        first: Sequence[Sequence[int]] = (),
    ):
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

    def _learn(self, codes: Tensor, goals: Tensor, advantages: Tensor) -> None:
        """One step of the policy."""
        log_probability, entropy = self._policy(codes, goals)
        self._step(-(advantages * log_probability + self._entropy * entropy).mean())
