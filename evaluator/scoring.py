"""Scores of candidates from shared weights.

The score is the mean probability that the candidate gives to the true class of the validation
images. It says how candidates compare; it is not the accuracy of a trained network. Unlike the
share of right answers it tells apart candidates that are right on the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from evaluator.interfaces import Score
from space.genome import Genome


class Weights(Protocol):
    """What scoring needs of a supernet."""

    def __call__(self, genome: Genome, images: Tensor, *, buffers: Any = None) -> Tensor:
        """Logits (N, classes) of normalised images."""
        ...

    def calibrate(self, genome: Genome, batches: Iterator[Tensor]) -> Any:
        """Running statistics for a candidate that has any."""
        ...


class Outcomes:
    """What a network made of images, one by one and in their order."""

    def __init__(self) -> None:
        self._log_probabilities: list[Tensor] = []
        self._right: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Logits (N, K) of further images with `labels` (N,). Nothing waits for a GPU here."""
        log_p = logits.double().log_softmax(1).gather(1, labels[:, None])[:, 0]
        self._log_probabilities.append(log_p)
        self._right.append(logits.argmax(1) == labels)

    def extend(self, later: Outcomes) -> None:
        """Adds those of images that come behind these."""
        self._log_probabilities += later._log_probabilities
        self._right += later._right

    def __len__(self) -> int:
        return sum(map(len, self._right))

    def log_probabilities(self) -> Tensor:
        """Of the true class, (N,) float64 on the CPU."""
        return torch.cat(self._log_probabilities).cpu()

    def probabilities(self) -> Tensor:
        """Of the true class, (N,) float64 on the CPU; their mean is the score."""
        return self.log_probabilities().exp()

    def right(self) -> Tensor:
        """Whether the largest logit is the true class's, (N,) on the CPU."""
        return torch.cat(self._right).cpu()

    def finite(self) -> bool:
        """Whether the network's outputs are numbers."""
        return not bool(self.log_probabilities().isnan().any())

    def score(self) -> Score:
        """Raises RuntimeError where the logits were not finite."""
        if not self.finite():
            raise RuntimeError("the network's outputs are not numbers (NaN)")
        top1 = float(self.right().double().mean())
        loss = -float(self.log_probabilities().mean())
        return Score(float(self.probabilities().mean()), {"top1": top1, "loss": loss})


class SupernetEvaluator:
    """Scores networks on fixed images, chunk by chunk.

    `images` (N, 3, R, R) uint8 and `labels` (N,) are the validation split; `calibration` uint8
    images feed the running statistics of networks that have BatchNorm. `proxy` maps a candidate
    to the network of the supernet's space that stands for it.
    """

    def __init__(
        self,
        weights: Weights,
        images: Tensor,
        labels: Tensor,
        *,
        calibration: Tensor,
        normalise: Callable[[Tensor], Tensor],
        proxy: Callable[[Genome], Genome],
        chunk: int = 512,
    ):
        self._weights, self._proxy, self._normalise = weights, proxy, normalise
        self._chunks = list(zip(images.split(chunk), labels.split(chunk), strict=True))
        self._calibration = calibration.split(chunk)

    @torch.no_grad()
    def evaluate(self, genome: Genome) -> Score:
        """`details`: `top1`, the share of images classified right, and the mean `loss`.

        Raises RuntimeError where the logits are not finite.
        """
        network = self._proxy(genome)
        batches = (self._normalise(images) for images in self._calibration)
        buffers = self._weights.calibrate(network, batches)
        outcomes = Outcomes()
        for images, labels in self._chunks:
            outcomes.add(self._weights(network, self._normalise(images), buffers=buffers), labels)
        return outcomes.score()
