"""Softmax attention over maps. Plain PyTorch on `space.layers`: an export copies it as it is.

Shapes: N images, C channels, H x W pixels, `inner` = heads * head_dim, T queries, S keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from space.layers import Pointwise


class Attend(nn.Module):
    """softmax(q k^T / sqrt(head_dim) + bias) v in each head; no parameters.

    q (N, T, inner), keys and values side by side (N, S, 2 * inner), bias (heads, T, S) or None,
    to (N, T, inner). Source: Vaswani et al., 2017, arXiv 1706.03762, section 3.2.
    """

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads

    def forward(self, q: Tensor, kv: Tensor, bias: Tensor | None = None) -> Tensor:
        q = q.unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = kv.unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if bias is not None:
            bias = bias[None]  # fused kernels take a mask of 4 axes, but not of 3
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return y.transpose(1, 2).flatten(2)


class RelativePosition(nn.Module):
    """A learned bias for each head and each offset from query to key, (heads, T, S).

    Source: Swin (Liu et al., 2021), arXiv 2103.14030, section 3.2. With `reduction` r, key row i
    stands at input row r * i, so an offset is r * i - y for a query in row y, and the table has
    H + r * (ceil(H / r) - 1) rows, which are Swin's 2 H - 1 at r = 1; columns likewise.
    """

    def __init__(self, heads: int, height: int, width: int, reduction: int):
        super().__init__()
        self.height, self.width, self.reduction = height, width, reduction
        row_span, column_span = self.span(height, reduction), self.span(width, reduction)
        rows, columns = height + row_span - 1, width + column_span - 1
        self.table = nn.Parameter(torch.empty(heads, rows, columns))
        self.reset_parameters()

    @staticmethod
    def span(side: int, reduction: int) -> int:
        """Input pixels from the first key to the last along one side, both included."""
        return reduction * (-(-side // reduction) - 1) + 1

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, height: int, width: int) -> Tensor:
        """ValueError where the queries are not the map that the table was made for."""
        if (height, width) != (self.height, self.width):
            raise ValueError(
                f"the position table is for a map of {self.height}x{self.width}, "
                f"not of {height}x{width}"
            )
        # Row t holds offset t - (H - 1): the keys of a query in row y are a window of the table
        # that starts at H - 1 - y, so all windows, taken backwards, are all queries.
        windows = self.table.unfold(1, self.span(height, self.reduction), 1)
        windows = windows.unfold(2, self.span(width, self.reduction), 1)
        windows = windows[..., :: self.reduction, :: self.reduction]
        return windows.flip(1, 2).flatten(3, 4).flatten(1, 2)


class ReducedMap(nn.Module):
    """Strided 3x3 depthwise convolution and a norm, (N, C, H, W) to
    (N, C, ceil(H / reduction), ceil(W / reduction))."""

    def __init__(self, channels: int, reduction: int, norm: type[nn.Module]):
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels, channels, 3, reduction, padding=1, groups=channels, bias=False
        )
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.depthwise(x))


class GlobalAttention(nn.Module):
    """Every pixel attends to the whole map, (N, C, H, W) to the same.

    `position`, the (H, W) of a relative table, ties the module to that map; None leaves it out.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        head_dim: int,
        reduction: int,
        position: tuple[int, int] | None,
        norm: type[nn.Module],
    ):
        super().__init__()
        inner = heads * head_dim
        self.q = Pointwise(channels, inner)
        self.reduce: nn.Module = nn.Identity()
        if reduction > 1:
            self.reduce = ReducedMap(channels, reduction, norm)
        self.kv = Pointwise(channels, 2 * inner)
        self.position = None
        if position is not None:
            self.position = RelativePosition(heads, *position, reduction)
        self.attend = Attend(heads)
        self.project = Pointwise(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        bias = None if self.position is None else self.position(height, width)
        kv = self.kv(self.reduce(x))
        y = self.attend(self.q(x).flatten(2).mT, kv.flatten(2).mT, bias)
        return self.project(y.mT.unflatten(2, (height, width)))


class WindowAttention(nn.Module):
    """Every pixel attends to its own window of `window` = (rows, columns), (N, C, H, W) to the
    same.

    Zeros on the right and at the bottom fill the last windows; they take part as keys, as in
    Swin. Any map will do, with or without a relative table.
    """

    def __init__(
        self, channels: int, heads: int, head_dim: int, window: tuple[int, int], relative: bool
    ):
        super().__init__()
        inner = heads * head_dim
        self.window = window
        self.q = nn.Linear(channels, inner)
        self.kv = nn.Linear(channels, 2 * inner)
        self.position = RelativePosition(heads, *window, 1) if relative else None
        self.attend = Attend(heads)
        self.project = nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rows, columns = self.window
        down, across = -(-height // rows), -(-width // columns)  # windows along each side
        x = x.permute(0, 2, 3, 1)
        if (down * rows, across * columns) != (height, width):
            x = F.pad(x, (0, 0, 0, across * columns - width, 0, down * rows - height))
        # (N, down, rows, across, columns, C) to one row of tokens for each window.
        x = x.unflatten(2, (across, columns)).unflatten(1, (down, rows)).transpose(2, 3)
        x = x.flatten(3, 4).flatten(0, 2)
        bias = None if self.position is None else self.position(rows, columns)
        x = self.attend(self.q(x), self.kv(x), bias)
        x = x.unflatten(1, (rows, columns)).unflatten(0, (-1, down, across)).transpose(2, 3)
        x = x.flatten(3, 4).flatten(1, 2)[:, :height, :width]
        return self.project(x).permute(0, 3, 1, 2)
