"""What a network makes of each image: logits of the sizes that scoring has."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.kernel_cases import Case, Inputs
from supernet.kernels.outcomes import outcomes, outcomes_reference


def _inputs(images: int, classes: int, device: torch.device, dtype: torch.dtype) -> Inputs:
    generator = torch.Generator(device).manual_seed(0)
    logits = 3 * torch.randn(images, classes, generator=generator, device=device)
    labels = torch.randint(classes, (images,), generator=generator, device=device)
    return logits.to(dtype), labels


def _stacked(operator, logits, labels):  # type: ignore[no-untyped-def]
    """Both results as one tensor (2, B)."""
    log_p, right = operator(logits, labels)
    return torch.stack((log_p, right.to(log_p.dtype)))


def _eager(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """As `evaluator.scoring.Outcomes`, in float32."""
    log_p = logits.float().log_softmax(1).gather(1, labels[:, None])[:, 0]
    return log_p, logits.argmax(1) == labels


def _case(images: int, classes: int, small: bool = False) -> Case:
    return Case(
        "outcomes",
        f"{images} images, {classes} classes",
        partial(_inputs, images, classes),
        partial(_stacked, outcomes_reference),
        partial(_stacked, outcomes),
        {"eager": partial(_stacked, _eager)},
        2 * images * classes + (8 + 4 + 1) * images,
        backward=False,
        small=small,
    )


CASES = [_case(4, 10, small=True), _case(512, 1000), _case(8192, 1000), _case(512, 21841)]
