"""Attention whose scores are not softmax(q k^T) alone: linear, between channels, gated by position.

Each stands where `attention_layers.AttendMap` does: queries (B, C, h, w), and keys with the values
behind them (B, D, h', w'), to a map of the queries' size, the heads running slowest. None takes a
position bias. Modules are plain PyTorch; the function of the same name in small letters draws up
the blueprint, `batch` being the pieces of a map.
Shapes: B images or pieces of them, h heads, T queries, S keys, d channels of a head; inside,
queries are (B, h, d, T), keys (B, h, d, S) and values (B, h, their width, S).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from space import cost
from space.blueprint import Blueprint, blueprint


def split_heads(q: Tensor, kv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Maps of queries, and of keys with values behind them, to q (B, heads, d, T),
    k (B, heads, d, S) and v (B, heads, value width, S)."""
    k, v = kv[:, : q.shape[1]], kv[:, q.shape[1] :]
    q, k, v = (x.flatten(2).unflatten(1, (heads, -1)) for x in (q, k, v))
    return q, k, v


class LinearAttend(nn.Module):
    """relu(q) (t relu(k)^T v) / max(relu(q) . sum of relu(k), 100), t a factor for each head.

    The cost is linear in queries and keys. Source: L2ViT (Zheng, 2025), arXiv 2501.16182, and its
    released code, where t starts at d^-0.5 and the denominator is at least 100.
    """

    def __init__(self, heads: int, width: int):
        super().__init__()
        self.heads, self.width = heads, width
        self.scale = nn.Parameter(torch.empty(heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.scale, self.width**-0.5)

    def forward(self, q: Tensor, kv: Tensor, bias: None = None) -> Tensor:
        queries, keys, values = split_heads(q, kv, self.heads)
        queries, keys = queries.relu(), keys.relu()
        summary = self.scale[:, None, None] * (values @ keys.mT)
        total = keys.sum(3)[:, :, None] @ queries
        y = (summary @ queries) / total.clamp(min=100)
        return y.flatten(1, 2).unflatten(2, q.shape[2:])


class ChannelAttend(nn.Module):
    """softmax(t q k^T) v between the channels of a head; q and k are of length 1.

    Queries, keys and values are channels; t is a factor for each head that starts at 1. Takes as
    many queries as keys, and values as wide as keys. Source: XCiT (El-Nouby et al., 2021), arXiv
    2106.09681, section 3.2, as EdgeNeXt (2206.10589) has it.
    """

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.empty(heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.temperature)

    def forward(self, q: Tensor, kv: Tensor, bias: None = None) -> Tensor:
        queries, keys, values = split_heads(q, kv, self.heads)
        scores = F.normalize(queries, dim=3) @ F.normalize(keys, dim=3).mT
        y = (self.temperature[:, None, None] * scores).softmax(3) @ values
        return y.flatten(1, 2).unflatten(2, q.shape[2:])


class GatedAttend(nn.Module):
    """(1 - g) softmax(q k^T / sqrt(d)) + g softmax(P r), times v; g a gate for each head.

    P r are logits from the offset r = (dx, dy, dx^2 + dy^2) of a key from a query of the same map.
    Source: ConViT (d'Ascoli et al., 2021), arXiv 2103.10697, section 3, and its released code: g is
    the sigmoid of a number that starts at 1, weights are divided by their sum, and the first K^2
    heads, K = floor(sqrt(heads)), start on the offsets of a K x K filter.
    Differs from it: values start like every linear layer, and not as the identity.
    """

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads
        self.gate = nn.Parameter(torch.empty(heads))
        self.position = nn.Linear(3, heads)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.gate)
        nn.init.trunc_normal_(self.position.weight, std=0.02)
        nn.init.zeros_(self.position.bias)
        side = int(self.heads**0.5)
        centre = (side - 1) / 2 if side % 2 == 0 else side // 2
        for head in range(side**2):
            down, right = head % side - centre, head // side - centre
            towards = torch.tensor([2.0 * right, 2.0 * down, -1.0])
            with torch.no_grad():
                self.position.weight[head] = towards.to(self.position.weight)

    @staticmethod
    def offsets(height: int, width: int, like: Tensor) -> Tensor:
        """(T, T, 3) for a map's pixels read row by row."""
        y = torch.arange(height, device=like.device).repeat_interleave(width)
        x = torch.arange(width, device=like.device).repeat(height)
        dy, dx = y - y[:, None], x - x[:, None]
        return torch.stack([dx, dy, dx**2 + dy**2], 2).to(like.dtype)

    def forward(self, q: Tensor, kv: Tensor, bias: None = None) -> Tensor:
        height, width = q.shape[2:]
        queries, keys, values = split_heads(q, kv, self.heads)
        content = ((queries.mT @ keys) * queries.shape[2] ** -0.5).softmax(3)
        position = self.position(self.offsets(height, width, q)).permute(2, 0, 1).softmax(2)
        gate = self.gate.sigmoid()[:, None, None]
        weights = (1 - gate) * content + gate * position
        y = values @ (weights / weights.sum(3, keepdim=True)).mT
        return y.flatten(1, 2).unflatten(2, (height, width))


def linear_attend(
    heads: int, width: int, value_width: int, *, batch: int, queries: int, keys: int
) -> Blueprint:
    """`LinearAttend`; `width` is that of a head's keys, `value_width` that of its values."""
    counted = cost.matmul(batch * heads, value_width, keys, width)
    counted += cost.matmul(batch * heads, value_width, width, queries)
    counted += cost.matmul(batch * heads, 1, width, queries)
    return blueprint(LinearAttend, heads, width, cost=counted + cost.parameters(heads))


def channel_attend(heads: int, width: int, *, batch: int, pixels: int) -> Blueprint:
    """`ChannelAttend` for pieces of so many pixels; ValueError where a head has one channel, which
    could only attend to itself."""
    if width < 2:
        raise ValueError("attention between channels needs heads of 2 channels or more, not 1")
    counted = cost.matmul(batch * heads, width, pixels, width)
    counted += cost.matmul(batch * heads, width, width, pixels)
    return blueprint(ChannelAttend, heads, cost=counted + cost.parameters(heads))


def gated_attend(heads: int, width: int, value_width: int, *, batch: int, pixels: int) -> Blueprint:
    """`GatedAttend` for pieces of so many pixels, in which each asks all."""
    counted = cost.matmul(batch * heads, pixels, width, pixels)
    counted += cost.matmul(batch * heads, value_width, pixels, pixels)
    counted += cost.linear(pixels**2, 3, heads)  # the offsets are those of every image
    return blueprint(GatedAttend, heads, cost=counted + cost.parameters(heads))
