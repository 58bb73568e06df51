"""What networks learn from one another. N images, K classes."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

WEIGHT_MOST = 5.0  # of (teacher / student probability)^alpha in `adaptive_divergence`


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (N, K) and probabilities (N, K)."""
    return F.cross_entropy(logits.float(), targets)


def taught(logits: Tensor, teacher: Tensor, how: str, temperature: float) -> Tensor:
    """What a student (N, K) has to learn yet from a teacher's logits (N, K); the mean over images.

    "hard": cross-entropy with the class that the teacher likes best (DeiT, Touvron et al., 2020,
    arXiv 2012.12877, section 4). "soft": T^2 KL(teacher || student), both at temperature T (Hinton
    et al., 2015, arXiv 1503.02531, section 2).
    """
    if how == "hard":
        return F.cross_entropy(logits.float(), teacher.argmax(1))
    log_q = (logits.float() / temperature).log_softmax(1)
    log_p = (teacher.float() / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def adaptive_divergence(
    logits: Tensor, teacher: Tensor, *, low: float = -1.0, high: float = 1.0
) -> Tensor:
    """The larger of two alpha-divergences of teacher and student probabilities, image by image.

    `logits` and `teacher` (N, K). A negative alpha punishes a student that is sure where the
    teacher is not, a positive one a student that misses what the teacher sees.
    Source: AlphaNet (Wang et al., 2021, arXiv 2102.07954), equations 4 to 8: the gradient of
    D_alpha(p || q) is -E_q[rho(p / q) grad log q] with (p / q)^alpha cut at `WEIGHT_MOST`, as in
    the released code, which leaves alpha = 1 uncut: there q * rho is p. Values of the result are
    those of the divergences with the cut; its gradient is that one.
    """
    log_q = logits.float().log_softmax(1)
    log_p = teacher.detach().float().log_softmax(1)
    sides = [_divergence(log_q, log_p, alpha) for alpha in (low, high)]
    (value_low, gradient_low), (value_high, gradient_high) = sides
    takes_low = value_low > value_high
    value = value_low.where(takes_low, value_high)
    gradient = gradient_low.where(takes_low, gradient_high)
    return (value + gradient - gradient.detach()).mean()


def _divergence(log_q: Tensor, log_p: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Of each image: D_alpha, and a term whose gradient is the divergence's."""
    q, log_ratio = log_q.detach().exp(), log_p - log_q.detach()
    if abs(alpha - 1) < 1e-3:  # the limit, Kullback-Leibler from teacher to student
        pull = log_p.exp()  # q * rho
        value = pull * log_ratio
    elif abs(alpha) < 1e-3:  # the limit, from student to teacher
        cut = log_ratio.clamp(max=math.log(WEIGHT_MOST))
        pull, value = q * (cut - 1), -q * cut
    else:
        power, scale = (alpha * log_ratio).exp().clamp(max=WEIGHT_MOST), alpha * (alpha - 1)
        pull, value = q * (power / alpha + 1 / scale), q * (power - 1) / scale
    return value.sum(1), -(pull * log_q).sum(1)
