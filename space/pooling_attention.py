"""Attention whose queries, keys and values are pooled maps. Plain PyTorch, as an export copies it.

Shapes: N images, C channels in, D channels out, H x W pixels, T class tokens. Maps are (N, C, H,
W), class tokens beside one (N, C, T, 1); of queries, keys and values the heads run slowest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from space.residuals import ends_with

MapAndTokens = tuple[Tensor, Tensor]


class EachHead(nn.Module):
    """One layer on the channels of each head: (N, heads * d, H, W) to what it makes of them."""

    def __init__(self, heads: int, layer: nn.Module):
        super().__init__()
        self.heads = heads
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x.unflatten(1, (self.heads, -1)).flatten(0, 1))
        return x.unflatten(0, (-1, self.heads)).flatten(1, 2)


class PooledPosition(nn.Module):
    """q . rows[dy] + q . columns[dx] for each query q and key, from tables that the heads share.

    Queries (N, heads * d, Q, Q') to (N, heads, Q * Q', K * K'). Along a side with Q queries and K
    keys, query i and key j are i K - j Q apart in steps of 1 / max(Q, K) of that side; entry t of a
    table, of 2 max(Q, K) - 1, is for those that floor(apart / min(Q, K)) puts there, where the last
    key is 0 apart from the first query at t = 0.
    ValueError where the queries are not those of the map that the tables were made for.

    Source: MViTv2 (Li et al., 2021), arXiv 2112.01526, section 3.1, and its released code.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        queries: tuple[int, int],
        keys: tuple[int, int],
    ):
        super().__init__()
        self.heads, self.queries, self.keys = heads, queries, keys
        rows, columns = (2 * max(pair) - 1 for pair in zip(queries, keys, strict=True))
        self.rows = nn.Parameter(torch.empty(rows, head_dim))
        self.columns = nn.Parameter(torch.empty(columns, head_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for table in (self.rows, self.columns):
            nn.init.trunc_normal_(table, std=0.02)

    def along(self, side: int, table: Tensor) -> Tensor:
        """The entries for each query and key along a side, (Q, K, d)."""
        queries, keys = self.queries[side], self.keys[side]
        query = torch.arange(queries, device=table.device)[:, None] * keys
        key = torch.arange(keys, device=table.device) * queries
        places = query - key + (keys - 1) * queries
        return table[places.div(min(queries, keys), rounding_mode="floor")]

    def forward(self, q: Tensor) -> Tensor:
        if tuple(q.shape[2:]) != self.queries:
            height, width = self.queries
            raise ValueError(
                f"the position table is for queries of {height}x{width}, "
                f"not of {q.shape[2]}x{q.shape[3]}"
            )
        q = q.unflatten(1, (self.heads, -1))
        rows = torch.einsum("nhcyx,ykc->nhyxk", q, self.along(0, self.rows))
        columns = torch.einsum("nhcyx,xkc->nhyxk", q, self.along(1, self.columns))
        both = rows.unsqueeze(5) + columns.unsqueeze(4)
        return both.flatten(4, 5).flatten(2, 3)


class PoolingAttention(nn.Module):
    """Attention of three maps that are made of one: (N, C, H, W) to (N, D, H', W'), the size of the
    queries.

    `position` makes a bias of the scores from the queries; `residual` is 1 where the queries are
    added to what they are answered, else 0.
    """

    def __init__(
        self,
        q: nn.Module,
        k: nn.Module,
        v: nn.Module,
        attend: nn.Module,
        project: nn.Module,
        position: nn.Module | None = None,
        residual: int = 0,
    ):
        super().__init__()
        self.q, self.k, self.v = q, k, v
        self.position = position
        self.attend = attend
        self.residual = residual
        self.project = project

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        bias = None if self.position is None else self.position(q)
        y = self.attend(q, torch.cat([k, v], 1), bias)
        return self.project(y + q if self.residual else y)


class TokenPoolingAttention(PoolingAttention):
    """`PoolingAttention` of a map and of class tokens beside it, which ask and are asked like
    pixels, but have no position and no residual queries; `q`, `k`, `v` and `project` take both."""

    @staticmethod
    def row(x: MapAndTokens) -> Tensor:
        """(N, C, T + H * W, 1)."""
        return torch.cat([x[1].flatten(2), x[0].flatten(2)], 2).unsqueeze(3)

    def forward(self, x: MapAndTokens) -> MapAndTokens:  # type: ignore[override]
        q, k, v = self.q(x), self.k(x), self.v(x)
        tokens = q[1].shape[2]
        bias = None
        if self.position is not None:
            bias = F.pad(self.position(q[0]), (tokens, 0, tokens, 0))
        row = self.attend(self.row(q), torch.cat([self.row(k), self.row(v)], 1), bias)
        y = row[:, :, tokens:, 0].unflatten(2, q[0].shape[2:])
        return self.project((y + q[0] if self.residual else y, row[:, :, :tokens]))


class PoolingResidual(nn.Module):
    """pool(x) + scale(attention(norm(x))), or with `widen` pool(widen(norm(x))) in front:
    (N, C, H, W) to (N, D, H', W')."""

    def __init__(
        self,
        attention: nn.Module,
        norm: nn.Module | None = None,
        widen: nn.Module | None = None,
        pool: nn.Module | None = None,
        scale: nn.Module | None = None,
    ):
        super().__init__()
        self.norm = norm or nn.Identity()
        self.widen = widen
        self.pool = pool or nn.Identity()
        self.attention = attention
        self.scale = scale or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        kept = x if self.widen is None else self.widen(y)
        return self.pool(kept) + self.scale(self.attention(y))


ends_with(PoolingResidual, "scale")


class TokenPoolingResidual(PoolingResidual):
    """`PoolingResidual` of a map and of class tokens beside it, which pass by the pool; `norm`,
    `widen` and `attention` take both."""

    def forward(self, x: MapAndTokens) -> MapAndTokens:  # type: ignore[override]
        y = self.norm(x)
        kept = x if self.widen is None else self.widen(y)
        pixels, tokens = self.attention(y)
        return self.pool(kept[0]) + self.scale(pixels), kept[1] + self.scale(tokens)
