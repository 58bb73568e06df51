"""Channel and linear attention: heads of 32 channels at the shapes of the stages of a network."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernel_cases import Case, Inputs
from supernet.kernels.state_attention import (
    channel_attend,
    channel_attend_reference,
    linear_attend,
    linear_attend_reference,
    split_heads,
)

STAGES = [(56, 96), (28, 192), (14, 384), (7, 768)]  # side of the map, channels
WINDOW = (7, 96)  # of a map of 56 x 56, which has 64 of them
HEAD = 32


def _inputs(
    count: int, channels: int, side: int, head: int, device: torch.device, dtype: torch.dtype
) -> Inputs:
    """Queries, keys with values, and a factor for each head, which stays in float32 as weights do
    under autocast."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(width: int) -> Tensor:
        shape = (count, side, side, width)
        made = torch.randn(shape, generator=generator, device=device).to(dtype)
        return made.permute(0, 3, 1, 2).requires_grad_()

    factors = torch.ones(channels // head, device=device).requires_grad_()
    return normal(channels), normal(2 * channels), factors


# ---- plain PyTorch


def channel_eager(q: Tensor, kv: Tensor, temperature: Tensor) -> Tensor:
    """As `space.attention_scores.ChannelAttend`, which makes unit vectors first."""
    queries, keys, values = split_heads(q, kv, temperature.shape[0])
    scores = F.normalize(queries, dim=3) @ F.normalize(keys, dim=3).mT
    y = (temperature[:, None, None] * scores).softmax(3).to(values.dtype) @ values
    return y.flatten(1, 2).unflatten(2, q.shape[2:])


def channel_norms_behind(q: Tensor, kv: Tensor, temperature: Tensor) -> Tensor:
    """Divides the products by the norms, and not each pixel."""
    queries, keys, values = split_heads(q, kv, temperature.shape[0])
    q_norms, k_norms = (
        torch.linalg.vector_norm(x, dim=3, keepdim=True, dtype=temperature.dtype).clamp(min=1e-12)
        for x in (queries, keys)
    )
    scores = (queries @ keys.mT) / (q_norms * k_norms.mT)
    y = (temperature[:, None, None] * scores).softmax(3).to(values.dtype) @ values
    return y.flatten(1, 2).unflatten(2, q.shape[2:])


def linear_eager(q: Tensor, kv: Tensor, scale: Tensor) -> Tensor:
    """As `space.attention_scores.LinearAttend`."""
    queries, keys, values = split_heads(q, kv, scale.shape[0])
    queries, keys = queries.relu(), keys.relu()
    summary = (scale[:, None, None] * (values @ keys.mT)).to(queries.dtype)
    total = keys.sum(3)[:, :, None] @ queries
    y = (summary @ queries) / total.clamp(min=100)
    return y.flatten(1, 2).unflatten(2, q.shape[2:])


def linear_one_product(q: Tensor, kv: Tensor, scale: Tensor) -> Tensor:
    """The sum of keys stands below the summary, so that one product gives answers and totals."""
    queries, keys, values = split_heads(q, kv, scale.shape[0])
    queries, keys = queries.relu(), keys.relu()
    summary = scale[:, None, None] * (values @ keys.mT)
    sums = keys.sum(3, dtype=summary.dtype)[:, :, None]
    both = torch.cat([summary, sums], 2).to(queries.dtype) @ queries
    y = both[:, :, :-1] / both[:, :, -1:].clamp(min=100)
    return y.flatten(1, 2).unflatten(2, q.shape[2:])


# ---- cases


def channel_ours(q: Tensor, kv: Tensor, temperature: Tensor) -> Tensor:
    return channel_attend(q, kv, temperature)[0]


def linear_ours(q: Tensor, kv: Tensor, scale: Tensor) -> Tensor:
    return linear_attend(q, kv, scale)[0]


def _cases(
    label: str, count: int, channels: int, side: int, head: int = HEAD, *, small: bool = False
) -> list[Case]:
    inputs = partial(_inputs, count, channels, side, head)
    moved = 2 * 4 * count * channels * side * side  # queries, keys, values and answers
    channel = Case(
        "channel_attend",
        label,
        inputs,
        channel_attend_reference,
        channel_ours,
        {"eager": channel_eager, "norms behind": channel_norms_behind},
        moved,
        small=small,
    )
    linear = Case(
        "linear_attend",
        label,
        inputs,
        linear_attend_reference,
        linear_ours,
        {"eager": linear_eager, "one product": linear_one_product},
        moved,
        small=small,
    )
    return [channel, linear]


CASES = [
    *(
        case
        for side, width in STAGES
        for case in _cases(f"{side}x{side}x{width}", 256, width, side)
    ),
    *_cases("windows 7x7 of 56x56x96", 256 * 64, WINDOW[1], WINDOW[0]),
    *_cases("28x28x192, heads of 64", 256, 192, 28, 64),
    *_cases("6x6x16", 2, 16, 6, 8, small=True),
]
