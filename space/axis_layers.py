"""Token mixers that work along one axis of the map at a time, and how their branches are joined.
Plain PyTorch on `space.layers`: an export copies it as it is.

Shapes: N images, C channels, H x W pixels; axis 2 runs down the map, axis 3 along its rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def require_side(x: Tensor, axis: int, side: int) -> None:
    """ValueError where the map is not `side` pixels long along `axis`."""
    if x.shape[axis] != side:
        name = "height" if axis == 2 else "width"
        raise ValueError(
            f"the weights along the {name} are for {side} pixels, not for {x.shape[axis]}"
        )


def pad_along(x: Tensor, axis: int, reach: int, channels: int = 0) -> Tensor:
    """Zeros: `reach` pixels at both ends of an axis, and `channels` behind the last one."""
    pixels = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
    return F.pad(x, (*pixels, 0, channels))


# ---- branches: (N, C, H, W) to the same


class AlongAxis(nn.Module):
    """A layer that sees the pixels of one axis as its channels; ValueError for another side."""

    def __init__(self, axis: int, side: int, layer: nn.Module):
        super().__init__()
        self.axis, self.side = axis, side
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        require_side(x, self.axis, self.side)
        return self.layer(x.transpose(1, self.axis)).transpose(1, self.axis)


class PermutedLinear(nn.Module):
    """A linear layer on the pixels of one axis together with a segment of the channels.

    The channels are cut into as many segments as the axis has pixels, so that all pixels with one
    segment are C numbers again, the pixel running slowest. ValueError for another side.
    Source: Vision Permutator (Hou et al., 2021), arXiv 2106.12368, section 3.
    """

    def __init__(self, axis: int, side: int, linear: nn.Module):
        super().__init__()
        self.axis, self.side = axis, side
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        require_side(x, self.axis, self.side)
        x = x.transpose(2, self.axis).unflatten(1, (self.side, -1))  # (N, segment, S, side, ...)
        y = self.linear(x.transpose(1, 3).flatten(1, 2)).unflatten(1, (self.side, -1))
        return y.transpose(1, 3).flatten(1, 2).transpose(2, self.axis)


class CycleShift(nn.Module):
    """Channel c reads the pixel ((c + K // 2) mod K) - K // 2 further along an axis, zero outside
    the map, for a `context` of K. No parameters.

    Source: CycleMLP (Chen et al., 2021), arXiv 2107.10224, section 3.
    """

    def __init__(self, axis: int, context: int):
        super().__init__()
        self.axis, self.context = axis, context

    def forward(self, x: Tensor) -> Tensor:
        channels, side, reach = x.shape[1], x.shape[self.axis], self.context // 2
        x = pad_along(x, self.axis, reach, -channels % self.context)
        # Group j: channels j, j + K, j + 2 K, ...
        groups = x.unflatten(1, (-1, self.context)).unbind(2)
        moved = [
            group.narrow(self.axis, (j + reach) % self.context, side)
            for j, group in enumerate(groups)
        ]
        return torch.stack(moved, 2).flatten(1, 2)[:, :channels]


class GroupShift(nn.Module):
    """Moves K groups of ceil(C / K) channels, the last smaller, along an axis: group k by
    k - K // 2 pixels, zeros moving in, for a `context` of K. No parameters.

    Source: AS-MLP (Lian et al., 2021), arXiv 2107.08391, section 3.
    """

    def __init__(self, axis: int, context: int):
        super().__init__()
        self.axis, self.context = axis, context

    def forward(self, x: Tensor) -> Tensor:
        side, last = x.shape[self.axis], self.context - 1
        groups = pad_along(x, self.axis, self.context // 2).chunk(self.context, 1)
        moved = [group.narrow(self.axis, last - k, side) for k, group in enumerate(groups)]
        return torch.cat(moved, 1)


class SpatialShift(nn.Module):
    """Moves four groups of C / 4 channels by one pixel: down, up, right and left. The pixels that
    nothing moves to keep what they had. No parameters.

    Source: S2-MLP (Yu et al., 2021), arXiv 2106.07477, section 3.
    """

    def forward(self, x: Tensor) -> Tensor:
        quarters = [i * x.shape[1] // 4 for i in (1, 2, 3)]
        down, up, right, left = x.tensor_split(quarters, 1)
        return torch.cat(
            (
                torch.cat((down[:, :, :1], down[:, :, :-1]), 2),
                torch.cat((up[:, :, 1:], up[:, :, -1:]), 2),
                torch.cat((right[..., :1], right[..., :-1]), 3),
                torch.cat((left[..., 1:], left[..., -1:]), 3),
            ),
            1,
        )


class RegionMlp(nn.Module):
    """Two linear layers on the channels of `region` neighbouring pixels of one axis.

    The map is first turned by `step` pixels, so that other pixels are neighbours, and continued as
    if it were a ring to a multiple of `region`; both are undone at the end.
    Source: Hire-MLP (Guo et al., 2021), arXiv 2108.13341, section 3.
    """

    def __init__(
        self,
        axis: int,
        region: int,
        step: int,
        reduce: nn.Module,
        expand: nn.Module,
        norm: nn.Module | None = None,
    ):
        super().__init__()
        self.axis, self.region, self.step = axis, region, step
        self.reduce = reduce
        self.norm = norm or nn.Identity()
        self.activation = nn.ReLU()
        self.expand = expand

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[self.axis]
        there = torch.arange(-(-side // self.region) * self.region, device=x.device)
        x = x.index_select(self.axis, (there - self.step) % side)
        x = x.unflatten(self.axis, (-1, self.region)).movedim(self.axis + 1, 2)
        y = self.expand(self.activation(self.norm(self.reduce(x.flatten(1, 2)))))
        y = y.unflatten(1, (-1, self.region)).movedim(2, self.axis + 1)
        y = y.flatten(self.axis, self.axis + 1)
        return y.index_select(self.axis, (there[:side] + self.step) % side)


class WaveMixing(nn.Module):
    """Mixes pixels as waves: an amplitude z and a phase t for each, of which `mix` sees
    [z cos t, z sin t], (N, 2 C, H, W).

    Source: Wave-MLP (Tang et al., 2021), arXiv 2111.12294, section 3.
    """

    def __init__(self, phase: nn.Module, amplitude: nn.Module, mix: nn.Module):
        super().__init__()
        self.phase = phase
        self.amplitude = amplitude
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        phase, amplitude = self.phase(x), self.amplitude(x)
        return self.mix(torch.cat((amplitude * phase.cos(), amplitude * phase.sin()), 1))


# ---- branches joined: (N, C, H, W) to the same


class ReweightedBranches(nn.Module):
    """project(a first(x) + b second(x) + c channel(x)); `weigh` makes (N, 3 C, 1, 1) of the mean
    over the map of the branches' sum, and a, b, c are a softmax over the three of each channel,
    which lie side by side.

    Source: Vision Permutator (Hou et al., 2021), arXiv 2106.12368, section 3, there from
    ResNeSt's split attention.
    """

    def __init__(
        self,
        first: nn.Module,
        second: nn.Module,
        channel: nn.Module,
        weigh: nn.Module,
        project: nn.Module,
    ):
        super().__init__()
        self.first = first
        self.second = second
        self.channel = channel
        self.weigh = weigh
        self.project = project

    def forward(self, x: Tensor) -> Tensor:
        x, y, z = self.first(x), self.second(x), self.channel(x)
        weights = self.weigh((x + y + z).mean((2, 3), keepdim=True))
        a, b, c = weights.unflatten(1, (-1, 3)).softmax(2).unbind(2)
        return self.project(a * x + b * y + c * z)


class ConcatenatedBranches(nn.Module):
    """join([u, rows(u), columns(u)]) behind a local layer, u = activation(norm(local(x))).

    Source: sMLPNet (Tang et al., 2021), arXiv 2109.05422, section 3.
    """

    def __init__(
        self,
        activation: type[nn.Module],
        local: nn.Module,
        rows: nn.Module,
        columns: nn.Module,
        join: nn.Module,
        norm: nn.Module | None = None,
    ):
        super().__init__()
        self.local = local
        self.norm = norm or nn.Identity()
        self.activation = activation()
        self.rows = rows
        self.columns = columns
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm(self.local(self.activation(x))))
        return self.join(torch.cat((x, self.rows(x), self.columns(x)), 1))


class SummedBranches(nn.Module):
    """project(norm(rows(u) + columns(u))), u = expand(x).

    Source: AS-MLP (Lian et al., 2021), arXiv 2107.08391, section 3.
    """

    def __init__(
        self,
        expand: nn.Module,
        rows: nn.Module,
        columns: nn.Module,
        project: nn.Module,
        norm: nn.Module | None = None,
    ):
        super().__init__()
        self.expand = expand
        self.rows = rows
        self.columns = columns
        self.norm = norm or nn.Identity()
        self.project = project

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x)
        return self.project(self.norm(self.rows(x) + self.columns(x)))
