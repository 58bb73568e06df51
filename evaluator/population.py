"""Scores of many networks at once: what networks begin with in common is computed once.

The networks are the leaves of a tree whose edges are their parts. It is walked depth first, so
that at any time there are the activations of one path. Every part sees the same numbers as in
`evaluator.scoring`, so scores are those of one network after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from evaluator.interfaces import Score
from evaluator.scoring import Outcomes
from space.genome import Genome, Placed


class Parts(Protocol):
    """What this needs of a supernet."""

    def branch_of(self, genome: Genome) -> str:
        """Networks of different branches share no weights."""
        ...

    def shrunk(self, images: Tensor, side: int) -> Tensor:
        """Normalised images (N, C, H, W) at `side` pixels."""
        ...

    def run(
        self,
        placed: Placed,
        x: Tensor,
        *,
        training: bool = False,
        buffers: Mapping[str, Tensor] | None = None,
        branch: str = "",
    ) -> Tensor:
        """One part on its input map."""
        ...

    def statistics(self, placed: Placed) -> dict[str, Tensor] | None:
        """Fresh running statistics of a part, None where it has none."""
        ...


@dataclass(frozen=True, slots=True)
class _Node:
    """The networks that go on from one place, and how far they have come."""

    networks: tuple[int, ...]
    depth: int
    prefix: tuple[Any, ...]  # of the walk so far, the key of its running statistics


class PopulationScorer:
    """Scores networks on fixed images, as `evaluator.scoring.SupernetEvaluator` does one by one.

    `images` (N, 3, R, R) uint8 and `labels` (N,); `calibration` uint8 images feed running
    statistics; `chunk` images are in memory at a time, once for each depth of a network.
    """

    def __init__(
        self,
        weights: Parts,
        images: Tensor,
        labels: Tensor,
        *,
        calibration: Tensor,
        normalise: Callable[[Tensor], Tensor],
        chunk: int = 512,
    ):
        self._weights, self._normalise = weights, normalise
        self._chunks = list(zip(images.split(chunk), labels.split(chunk), strict=True))
        self._calibration = calibration.split(chunk)

    @torch.no_grad()
    def scores(
        self, genomes: Sequence[Genome], *, progress: Callable[[int, int], None] | None = None
    ) -> list[Score]:
        """One score for each genome. `progress` gets chunks done, in parts of networks, and all."""
        walk = _Walk(self._weights, genomes, progress, len(self._chunks))
        seen = [self._normalise(images) for images in self._calibration] if walk.calibrates else []
        for images, labels in self._chunks:
            walk.over(self._normalise(images), labels, seen)
            seen = []  # the statistics are known now
        return [outcome.score() for outcome in walk.outcomes]


class _Walk:
    def __init__(
        self,
        weights: Parts,
        genomes: Sequence[Genome],
        progress: Callable[[int, int], None] | None,
        chunks: int,
    ):
        self._weights = weights
        self._roots = [(weights.branch_of(genome), genome.resolution) for genome in genomes]
        self._paths = [tuple(genome.parts()) for genome in genomes]
        parts = {placed for path in self._paths for placed in path}
        self.calibrates = any(weights.statistics(placed) is not None for placed in parts)
        self._statistics: dict[tuple[Any, ...], dict[str, Tensor] | None] = {}
        self._progress, self._done, self._all = progress, 0, chunks * len(genomes)
        self.outcomes = [Outcomes() for _ in genomes]

    def over(self, images: Tensor, labels: Tensor, calibration: list[Tensor]) -> None:
        roots: dict[tuple[str, int], list[int]] = {}
        for network, root in enumerate(self._roots):
            roots.setdefault(root, []).append(network)
        for (branch, side), networks in roots.items():
            node = _Node(tuple(networks), 0, (branch, side))
            at_side = [self._weights.shrunk(seen, side) for seen in calibration]
            self._go_on(node, self._weights.shrunk(images, side), labels, at_side)

    def _go_on(self, node: _Node, x: Tensor, labels: Tensor, calibration: list[Tensor]) -> None:
        groups: dict[Placed, list[int]] = {}
        for network in node.networks:
            groups.setdefault(self._paths[network][node.depth], []).append(network)
        for placed, networks in groups.items():
            child = _Node(tuple(networks), node.depth + 1, (*node.prefix, placed))
            branch = node.prefix[0]
            if child.prefix not in self._statistics:
                self._statistics[child.prefix] = self._weights.statistics(placed)
            buffers = self._statistics[child.prefix]
            below = [
                self._weights.run(placed, seen, training=True, buffers=buffers, branch=branch)
                for seen in calibration
            ]
            y = self._weights.run(placed, x, buffers=buffers, branch=branch)
            if placed.path != "head":
                self._go_on(child, y, labels, below)
                continue
            for network in networks:
                self.outcomes[network].add(y, labels)
            self._done += len(networks)
            if self._progress is not None:
                self._progress(self._done, self._all)
