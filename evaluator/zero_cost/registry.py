"""Scores by name, and what all of them have in common.

A score looks at a network before any training: `score(network, images, labels)` with normalised
`images` (N, 3, R, R) and `labels` (N,), higher is better. It works on a copy, so that the network's
weights, gradients, buffers, hooks and mode stay as they are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

Score = Callable[[nn.Module, Tensor, Tensor], float]
F = TypeVar("F", bound=Callable[..., Any])

SCORES: dict[str, Score] = {}


def on_a_copy(function: F) -> F:
    """`function(network, images, labels, ...)` on a copy of the network, with gradients to all its
    parameters. ValueError where images and labels do not belong together."""

    @wraps(function)
    def scored(network: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Any:
        if images.ndim < 2 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels have the shape {tuple(labels.shape)}, but images {tuple(images.shape)}: "
                "there must be one label for each image"
            )
        with torch.enable_grad():
            copied = copy.deepcopy(network).requires_grad_()
            return function(copied, images.detach(), labels, **options)

    return cast(F, scored)


def score(name: str) -> Callable[[F], F]:
    """Registers a score. It gets a copy of the network; RuntimeError where it gives NaN."""

    def register(function: F) -> F:
        @wraps(function)
        def scored(network: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> float:
            return number(name, on_a_copy(function)(network, images, labels, **options))

        SCORES[name] = scored
        return cast(F, scored)

    return register


def number(name: str, value: float) -> float:
    """`value`; RuntimeError where it is NaN. It may be -inf, which is lower than any other."""
    if math.isnan(value):
        raise RuntimeError(f"the network's {name} is not a number (NaN)")
    return float(value)
