"""Softmax attention over maps. Plain PyTorch on `space.layers`: an export copies it as it is.

Shapes: N images or B pieces of them, C channels, H x W pixels, T queries, S keys. Of the channels
of queries and keys the heads run slowest; keys and values of a pixel stand side by side in one map.
A position module sees the queries and returns what is added to their scores, (1 or B, heads, T, S).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from space.layers import Residual

# ---- scores and weighted sums


class AttendMap(nn.Module):
    """softmax(q k^T / sqrt(head_dim) + bias) v in each head; no parameters.

    Queries (B, heads * head_dim, h, w), keys as wide as that and values behind them (B, ..., h',
    w'), bias (1 or B, heads, T, S) or None, to (B, heads * value_dim, h, w).
    Source: Vaswani et al., 2017, arXiv 1706.03762, section 3.2.
    """

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads

    def forward(self, q: Tensor, kv: Tensor, bias: Tensor | None = None) -> Tensor:
        size, k, v = q.shape[2:], kv[:, : q.shape[1]], kv[:, q.shape[1] :]
        q, k, v = (x.flatten(2).unflatten(1, (self.heads, -1)).mT for x in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return y.transpose(1, 2).flatten(2).mT.unflatten(2, size)


class AttendMapAndNear(AttendMap):
    """`AttendMap` plus a depthwise convolution of the values.

    Source: SMT (Lin et al., 2023), arXiv 2307.08579, released code.
    """

    def __init__(self, heads: int, depthwise: nn.Module):
        super().__init__(heads)
        self.depthwise = depthwise

    def forward(self, q: Tensor, kv: Tensor, bias: Tensor | None = None) -> Tensor:
        return super().forward(q, kv, bias) + self.depthwise(kv[:, q.shape[1] :])


# ---- the attention of a map, and of its pieces


class MapAttention(nn.Module):
    """The pixels of a map attend to one another: (B, C, H, W) to what `project` makes of it.

    `subsample` picks the pixels that ask, `reduce` makes the map that is asked.
    """

    def __init__(
        self,
        q: nn.Module,
        kv: nn.Module,
        attend: nn.Module,
        activation: nn.Module | None = None,
        project: nn.Module | None = None,
        position: nn.Module | None = None,
        subsample: nn.Module | None = None,
        reduce: nn.Module | None = None,
    ):
        super().__init__()
        self.subsample = subsample or nn.Identity()
        self.q = q
        self.reduce = reduce or nn.Identity()
        self.kv = kv
        self.position = position
        self.attend = attend
        self.activation = activation or nn.Identity()
        self.project = project or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.answers(x)

    def answers(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`bias` is added to the scores, besides that of `position`."""
        q = self.q(self.subsample(x))
        kv = self.kv(self.reduce(x))
        if self.position is not None:
            bias = self.position(q) if bias is None else bias + self.position(q)
        return self.project(self.activation(self.attend(q, kv, bias)))


class BiasedAttention(MapAttention):
    """`MapAttention` where a bias (1 or B, heads, T, S) of the scores may come with the map."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.answers(x, bias)


class WindowAttention(MapAttention):
    """Pixels attend to those of their own window: (N, C, H, W) to (N, D, H, W).

    `region` cuts the map into windows.
    """

    def __init__(self, region: Windows, **parts: nn.Module):
        super().__init__(**parts)
        self.region = region

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        y = self.answers(self.region.cut(x), self.mask(x))
        return self.region.join(y, height, width)

    def mask(self, x: Tensor) -> Tensor | None:
        """What is added to the scores in the windows of a map, if anything."""
        return None


class ShiftedWindowAttention(WindowAttention):
    """`WindowAttention` where a window may hold pieces of the map that do not touch: they do not
    see one another."""

    region: ShiftedWindows

    def mask(self, x: Tensor) -> Tensor:
        return self.region.mask(x)


class HaloAttention(WindowAttention):
    """Pixels attend to those of their block and of a halo around it: (N, C, H, W) to
    (N, D, H', W') of those that ask.

    Source: HaloNet (Vaswani et al., 2021), arXiv 2103.12731, section 2.2.
    """

    region: HaloBlocks

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(self.subsample(x))
        height, width = q.shape[2:]
        q, kv = self.region.cut(q), self.region.cut_keys(self.kv(x))
        bias = None if self.position is None else self.position(q)
        y = self.region.join(self.attend(q, kv, bias), height, width)
        return self.project(self.activation(y))


class Windows(nn.Module):
    """Cuts maps into windows.

    Source: Swin (Liu et al., 2021), arXiv 2103.14030.

    They touch one another; zeros on the right and at the bottom fill the last ones (section 3.2).
    """

    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.rows, self.columns = rows, columns

    def filled(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, H', W', C) with whole windows."""
        below, right = -x.shape[2] % self.rows, -x.shape[3] % self.columns
        x = x.permute(0, 2, 3, 1)
        return F.pad(x, (0, 0, 0, right, 0, below)) if below or right else x

    def cut(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N * windows, C, rows, columns)."""
        x = self.filled(x).unflatten(2, (-1, self.columns)).unflatten(1, (-1, self.rows))
        return x.transpose(2, 3).flatten(0, 2).permute(0, 3, 1, 2)

    def join(self, x: Tensor, height: int, width: int) -> Tensor:
        """The inverse of `cut`, for maps of `height` and `width`."""
        counts = -(-height // self.rows), -(-width // self.columns)
        x = x.permute(0, 2, 3, 1).unflatten(0, (-1, *counts))
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return x[:, :height, :width].permute(0, 3, 1, 2)


class SpreadWindows(Windows):
    """Cuts maps into windows whose pixels lie apart.

    Source: MaxViT (Tu et al., 2022), arXiv 2204.01697.

    They lie all over the map: a window's next pixel is as many pixels away as there are windows
    along that side (grid attention, section 3.2).
    """

    def cut(self, x: Tensor) -> Tensor:
        x = self.filled(x).unflatten(2, (self.columns, -1)).unflatten(1, (self.rows, -1))
        return x.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)

    def join(self, x: Tensor, height: int, width: int) -> Tensor:
        counts = -(-height // self.rows), -(-width // self.columns)
        x = x.permute(0, 2, 3, 1).unflatten(0, (-1, *counts)).permute(0, 3, 1, 4, 2, 5)
        return x.flatten(3, 4).flatten(1, 2)[:, :height, :width].permute(0, 3, 1, 2)


class ShiftedWindows(Windows):
    """`Windows` of the map moved up and to the left, as on a ring.

    Source: Swin (Liu et al., 2021), arXiv 2103.14030.

    What leaves at one side comes back at the other.
    """

    def __init__(self, rows: int, columns: int, up: int, left: int):
        super().__init__(rows, columns)
        self.up, self.left = up, left

    def cut(self, x: Tensor) -> Tensor:
        return super().cut(self.filled(x).roll((-self.up, -self.left), (1, 2)).permute(0, 3, 1, 2))

    def join(self, x: Tensor, height: int, width: int) -> Tensor:
        below, right = -height % self.rows, -width % self.columns
        x = super().join(x, height + below, width + right).permute(0, 2, 3, 1)
        return x.roll((self.up, self.left), (1, 2))[:, :height, :width].permute(0, 3, 1, 2)

    def mask(self, x: Tensor) -> Tensor:
        """-inf between pixels of a window of which one came back and the other did not, else 0:
        for maps (N, C, H, W), (N * windows, 1, T, T)."""
        height = x.shape[2] + -x.shape[2] % self.rows
        width = x.shape[3] + -x.shape[3] % self.columns
        below = torch.arange(height, device=x.device) >= height - self.up
        right = torch.arange(width, device=x.device) >= width - self.left
        came_back = (2 * below[:, None] + right)[None, None]
        piece = super().cut(came_back).flatten(1)
        mask = torch.zeros(1, dtype=x.dtype, device=x.device)
        mask = mask.where(piece[:, None] == piece[:, :, None], -torch.inf)
        return mask[:, None].repeat(x.shape[0], 1, 1, 1)


class HaloBlocks(Windows):
    """Cuts queries into blocks, and keys into larger windows around these: zeros fill what lies
    outside of the map. Blocks have `rows` x `columns` queries, one for each `stride` keys along a
    side."""

    def __init__(self, rows: int, columns: int, halo: int, stride: int):
        super().__init__(rows, columns)
        self.halo, self.stride = halo, stride

    def cut_keys(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N * blocks, C, stride * rows + 2 * halo, ...)."""
        rows, columns = self.stride * self.rows, self.stride * self.columns
        height, width = x.shape[2:]
        below, right = -height % rows + self.halo, -width % columns + self.halo
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, self.halo, right, self.halo, below))
        x = x.unfold(1, rows + 2 * self.halo, rows).unfold(2, columns + 2 * self.halo, columns)
        return x.flatten(0, 2)


class Subsample(nn.Module):
    """Every `stride`-th row and column: (N, C, H, W) to (N, C, ceil(H / stride), ...)."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride]


class RowMean(nn.Module):
    """The mean of each `count` pixels in a row, read row by row: (N, C, H, W) to (N, C, S, 1).

    Source: Next-ViT (Li et al., 2022), arXiv 2207.05501, released code.
    """

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool1d(x.flatten(2), self.count, ceil_mode=True).unsqueeze(3)


class Times(nn.Module):
    """x times a fixed factor."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class ClosedProjection(nn.Module):
    """A linear layer and a norm whose factors start at zero: a residual starts as its shortcut."""

    def __init__(self, linear: nn.Module, norm: nn.Module):
        super().__init__()
        self.linear = linear
        self.norm = norm
        nn.init.zeros_(norm.get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


# ---- positions


class TablePosition(nn.Module):
    """Base of the tables of offsets: a bias for each head and each offset from query to key.

    Queries (B, C, h, w) to (1, heads, T, S). Query row i stands at input row `stride * i`, key row
    j at `reduction * j`; `offsets()` has a row for each offset that there is, from the most
    negative. ValueError where the queries are not those of the map that the table was made for.
    """

    def __init__(self, height: int, width: int, reduction: int = 1, stride: int = 1):
        super().__init__()
        self.height, self.width = height, width
        self.reduction, self.stride = reduction, stride

    @staticmethod
    def span(side: int, step: int) -> int:
        """Input pixels from the first of every `step`-th pixel to the last, both included."""
        return step * (-(-side // step) - 1) + 1

    def offsets(self) -> Tensor:
        """(heads, rows, columns), rows = span of the queries + span of the keys - 1."""
        raise NotImplementedError

    def forward(self, q: Tensor) -> Tensor:
        size = (-(-self.height // self.stride), -(-self.width // self.stride))
        if q.shape[2:] != size:
            raise ValueError(f"the table is for a map of {size}, not {tuple(q.shape[2:])}")
        # The keys of a query are a window of the table, which starts the later the further up the
        # query stands: so all windows, taken backwards, are all queries.
        down, across = self.span(self.height, self.reduction), self.span(self.width, self.reduction)
        windows = self.offsets().unfold(1, down, 1).unfold(2, across, 1)
        windows = windows[..., :: self.reduction, :: self.reduction].flip(1, 2)
        return windows[:, :: self.stride, :: self.stride].flatten(3, 4).flatten(1, 2)[None]


class RelativePosition(TablePosition):
    """A learned bias for each offset.

    Source: Swin (Liu et al., 2021), arXiv 2103.14030.

    The table is (heads, rows, columns); row t holds offset t - (rows of queries - 1), so at stride
    and reduction 1 there are 2 H - 1 rows (section 3.2).
    """

    def __init__(self, heads: int, height: int, width: int, reduction: int = 1, stride: int = 1):
        super().__init__(height, width, reduction, stride)
        rows, columns = (
            self.span(side, stride) + self.span(side, reduction) - 1 for side in (height, width)
        )
        self.table = nn.Parameter(torch.empty(heads, rows, columns))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.table, std=0.02)

    def offsets(self) -> Tensor:
        return self.table


class ProductPosition(RelativePosition):
    """The same table, looked up by two products with matrices of zeros and ones.

    Source: MaxViT (Tu et al., 2022), arXiv 2204.01697, released code, for accelerators that gather
    slowly; the products count as any others.
    """

    def forward(self, q: Tensor) -> Tensor:
        size = (self.height, self.width)
        if q.shape[2:] != size:
            raise ValueError(f"the table is for a map of {size}, not {tuple(q.shape[2:])}")
        rows, columns = (self.chosen(side) for side in (self.height, self.width))
        picked = (rows @ self.table) @ columns.mT  # (heads, H * H, W * W)
        picked = picked.unflatten(2, (self.width, -1)).unflatten(1, (self.height, -1))
        return picked.transpose(2, 3).flatten(3, 4).flatten(1, 2)[None]

    def chosen(self, side: int) -> Tensor:
        """(side * side, 2 * side - 1): for each query and key a one at their offset."""
        place = torch.arange(side, device=self.table.device)
        offsets = place[None, :] - place[:, None] + side - 1
        return F.one_hot(offsets.flatten(), 2 * side - 1).to(self.table.dtype)


class ResizedPosition(TablePosition):
    """The table of a square map of side `base`, resized to the offsets of this one (bilinear).

    Source: MOAT (Yang et al., 2022), arXiv 2210.01820, released code.
    """

    def __init__(self, heads: int, height: int, width: int, base: int):
        super().__init__(height, width)
        self.base = nn.Parameter(torch.empty(heads, 2 * base - 1, 2 * base - 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.base, std=0.02)

    def offsets(self) -> Tensor:
        sides = (2 * self.height - 1, 2 * self.width - 1)
        return F.interpolate(self.base[None], sides, mode="bilinear")[0]


class DistancePosition(TablePosition):
    """A learned bias for each head and each distance (|dy|, |dx|): the table is (heads, H, W).

    Source: LeViT (Graham et al., 2021), arXiv 2104.01136, section 4.2.
    """

    def __init__(self, heads: int, height: int, width: int, stride: int = 1):
        super().__init__(height, width, stride=stride)
        self.distances = nn.Parameter(torch.empty(heads, height, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.distances)

    def offsets(self) -> Tensor:
        before, left = self.span(self.height, self.stride), self.span(self.width, self.stride)
        table: Tensor = self.distances
        table = torch.cat([table[:, 1:before].flip(1), table], 1)
        return torch.cat([table[:, :, 1:left].flip(2), table], 2)


class QueryPosition(nn.Module):
    """`scale` * (q . rows[dy] + q . columns[dx]) for each query q and offset, from tables that the
    heads share.

    Queries (B, heads * head_dim, height, width), keys (key_height, key_width), to (B, heads, T, S);
    entry t of a table is offset t - (keys along that side - 1), from a query's place in its block
    to a key's in its window. Sources: BoTNet (Srinivas et al., 2021), arXiv 2101.11605, figure 4,
    and HaloNet (Vaswani et al., 2021), arXiv 2103.12731, where `scale` is 1. ValueError where the
    queries are not those of the map that the tables were made for.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        height: int,
        width: int,
        key_height: int,
        key_width: int,
        scale: float = 1.0,
    ):
        super().__init__()
        self.heads, self.scale = heads, scale
        self.height, self.width = height, width
        self.rows = nn.Parameter(torch.empty(2 * key_height - 1, head_dim))
        self.columns = nn.Parameter(torch.empty(2 * key_width - 1, head_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for table in (self.rows, self.columns):
            nn.init.normal_(table, std=table.shape[1] ** -0.5)

    @staticmethod
    def by_key(scores: Tensor) -> Tensor:
        """(..., T, 2 * S - 1) by offset to (..., T, S) by key; key s of query t is at s - t."""
        queries, keys = scores.shape[-2], (scores.shape[-1] + 1) // 2
        windows = scores.flatten(-2)[..., keys - 1 :].unfold(-1, keys, max(1, 2 * keys - 2))
        return windows[..., :queries, :]

    def forward(self, q: Tensor) -> Tensor:
        size = (self.height, self.width)
        if q.shape[2:] != size:
            raise ValueError(f"the table is for a map of {size}, not {tuple(q.shape[2:])}")
        q = q.permute(0, 2, 3, 1).unflatten(3, (self.heads, -1))  # (B, height, width, heads, d)
        rows = F.linear(q, self.scale * self.rows).permute(0, 3, 2, 1, 4)
        columns = F.linear(q, self.scale * self.columns).permute(0, 3, 1, 2, 4)
        rows = self.by_key(rows).transpose(2, 3)  # (B, heads, height, width, key_height)
        both = rows.unsqueeze(5) + self.by_key(columns).unsqueeze(4)
        return both.flatten(4, 5).flatten(2, 3)


# ---- what stands beside the map


class WithTokens(nn.Module):
    """A block for pixels and class tokens alike: they stand in one row before it, (N, C, T + H * W,
    1), and are parted behind it. (map, tokens (N, C, T, 1)) to the same."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        pixels, tokens = x
        row = torch.cat([tokens.flatten(2).mT, pixels.flatten(2).mT], 1)
        y = self.block(row.mT.unsqueeze(3))
        count = tokens.shape[2]
        return y[:, :, count:, 0].unflatten(2, pixels.shape[2:]), y[:, :, :count]


class SharedBiasResidual(Residual):
    """`Residual` of a `BiasedAttention` whose bias is beside the map: (map, (N, heads, T, S)) to
    the same."""

    def forward(self, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        pixels, bias = x
        y = self.branch(self.norm(pixels), bias)
        return self.shortcut(pixels) + self.scale(y), bias
