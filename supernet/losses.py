"""What networks learn from one another. N images, K classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

RATIO_MOST = 5.0  # of teacher to student probability in `adaptive_divergence`; AlphaNet's beta


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (N, K) and probabilities (N, K)."""
    return F.cross_entropy(logits.float(), targets)


def adaptive_divergence(
    logits: Tensor, teacher: Tensor, *, low: float = -1.0, high: float = 1.0
) -> Tensor:
    """The larger of two alpha-divergences of teacher and student probabilities, image by image.

    `logits` and `teacher` (N, K). A negative alpha punishes a student that is sure where the
    teacher is not, a positive one a student that misses what the teacher sees.
    Source: AlphaNet (Wang et al., 2021, arXiv 2102.07954), equations 4 to 8: the gradient of
    D_alpha(p || q) is -E_q[rho(p / q) grad log q] with the ratio cut at beta. Values of the
    result are those of the divergences with the ratio cut; its gradient is that one.
    """
    q = logits.float().softmax(1)
    p = teacher.detach().float().softmax(1)
    ratio = (p / q.detach()).clamp(max=RATIO_MOST)
    sides = [_divergence(q, ratio, alpha) for alpha in (low, high)]
    (value_low, gradient_low), (value_high, gradient_high) = sides
    takes_low = value_low > value_high
    value = value_low.where(takes_low, value_high)
    gradient = gradient_low.where(takes_low, gradient_high)
    return (value + gradient - gradient.detach()).mean()


def _divergence(q: Tensor, ratio: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Of each image: D_alpha from p / q, and a term whose gradient is the divergence's."""
    if abs(alpha - 1) < 1e-3:  # the limit, Kullback-Leibler from teacher to student
        value = ratio * ratio.clamp_min(1e-12).log()
        rho = ratio
    elif abs(alpha) < 1e-3:  # the limit, from student to teacher
        value = -ratio.clamp_min(1e-12).log()
        rho = ratio.clamp_min(1e-12).log() - 1
    else:
        power = ratio.clamp_min(1e-12) ** alpha
        value = (power - 1) / (alpha * (alpha - 1))
        rho = power / alpha + 1 / (alpha * (alpha - 1))
    return (q.detach() * value).sum(1), -(rho * q).sum(1)
