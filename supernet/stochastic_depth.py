"""Stochastic depth: in training, images skip residual branches at random.

Source: Huang et al., 2016, arXiv 1603.09382, section 3: branch l of L is kept with probability
p_l, which falls linearly with depth (equation 4). Differs from it, as timm does: images are dropped
one by one and not in batches, all branches of a block share its probability, the first block's is
1, and what is kept is divided by p_l in training, so that nothing changes at test time.

It comes from outside: hooks on the ends of the branches (`space.residuals`). So neither the
network's state dict nor its exported source know of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from space.genome import Genome
from space.residuals import branch_ends


class StochasticDepth:
    """The branches of the networks that it is attached to; all of them are `genome`'s, but may be
    for images of several sizes. Blocks are the parts between stem and head that have branches: the
    last one's images skip each of its branches with probability `rate`."""

    def __init__(self, genome: Genome, rate: float):
        self._genome, self._rate = genome, rate
        self._rates: list[float] = []
        self._factors: Tensor | None = None  # (branches, N)

    def attach(self, network: nn.Module) -> None:
        """From now on what goes through `network` skips branches while some are `drawn`."""
        if not self._rate:
            return
        paths = [p.path for p in self._genome.parts() if p.path.startswith("stages.")]
        ends = [list(branch_ends(network.get_submodule(path))) for path in paths]
        rates = linear(self._rate, [len(inside) for inside in ends])
        assert not self._rates or rates == self._rates
        self._rates = rates
        for k, end in enumerate(end for inside in ends for end in inside):
            end.register_forward_hook(self._hook(k))

    @property
    def rates(self) -> tuple[float, ...]:
        """Of each branch, from the image down, the probability that it is skipped."""
        return tuple(self._rates)

    @contextmanager
    def drawn(self, rng: np.random.Generator, images: int, device: torch.device) -> Iterator[None]:
        """Draws who skips what, for the passes of `images` images in the block."""
        if self._rates:
            rates = np.array(self._rates)[:, None]
            kept = rng.random((len(rates), images)) >= rates
            self._factors = torch.from_numpy((kept / (1 - rates)).astype(np.float32)).to(device)
        try:
            yield
        finally:
            self._factors = None

    def _hook(self, branch: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            if self._factors is None:
                return output
            factors = self._factors[branch]
            if isinstance(output, tuple):
                return tuple(_scaled(each, factors) for each in output)
            return _scaled(output, factors)

        return hook


def linear(rate: float, branches: Sequence[int]) -> list[float]:
    """The probability of each branch, where block i has `branches[i]`: from 0 at the first block
    that has any to `rate` at the last one."""
    having = [count for count in branches if count]
    steps = max(1, len(having) - 1)
    shares = [i / steps if len(having) > 1 else 1.0 for i in range(len(having))]
    return [rate * share for share, count in zip(shares, having, strict=True) for _ in range(count)]


def _scaled(y: Tensor, factors: Tensor) -> Tensor:
    """y (N * M, ...) times `factors` (N,), where M rows that follow one another are an image's."""
    each = factors.repeat_interleave(len(y) // len(factors))
    return y * each.to(y.dtype).view(-1, *[1] * (y.ndim - 1))
