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
    """What a network made of images, summed up batch by batch."""

    def __init__(self) -> None:
        self._probability, self._loss, self._right, self._count = 0.0, 0.0, 0, 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Logits (N, K) of images with `labels` (N,)."""
        log_p = logits.double().log_softmax(1).gather(1, labels[:, None])[:, 0]
        self._probability += float(log_p.exp().sum())
        self._loss -= float(log_p.sum())
        self._right += int((logits.argmax(1) == labels).sum())
        self._count += len(labels)

    def score(self) -> Score:
        """Raises RuntimeError where the logits were not finite."""
        if self._loss != self._loss:
            raise RuntimeError("the network's outputs are not numbers (NaN)")
        details = {"top1": self._right / self._count, "loss": self._loss / self._count}
        return Score(self._probability / self._count, details)


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
