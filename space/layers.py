"""Layers that several parts use. Plain PyTorch, torch alone: an export copies them as they are.

Maps are (N, C, H, W). Everything that works on the channels of one pixel sees the map as
(N, H, W, C), which costs nothing when the map is stored channels last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each pixel: (N, C, H, W) to the same."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Pointwise(nn.Linear):
    """1x1 convolution as a linear layer on the channels: (N, C, H, W) to (N, D, H, W).

    A linear layer reads a slice of a larger weight where it lies; a convolution copies it first.
    Outputs start with the variance of the inputs and without a bias (LeCun et al., 1998,
    "Efficient BackProp", section 4.6), so that signals neither fade nor drown along the way.
    """

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, std=self.in_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    """A learned factor for each channel of (N, C, H, W).

    Source: CaiT (Touvron et al., 2021), arXiv 2103.17239, section 2.1.
    """

    def __init__(self, channels: int, start: float):
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.start)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None]


class SqueezeExcite(nn.Module):
    """Gates each channel by the mean of all: (N, C, H, W) to the same.

    Source: Hu et al., 2018, arXiv 1709.01507, section 3; gate and ReLU as in MobileNetV3
    (Howard et al., 2019, arXiv 1905.02244, section 5.3).
    """

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.reduce = Pointwise(channels, squeezed)
        self.expand = Pointwise(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = x.mean((2, 3), keepdim=True)
        gate = self.expand(F.relu(self.reduce(gate)))
        return x * F.hardsigmoid(gate)


class Mlp(nn.Module):
    """Channel mixer: two linear layers on each pixel, (N, C, H, W) to the same."""

    def __init__(self, channels: int, hidden: int, activation: type[nn.Module]):
        super().__init__()
        self.expand = Pointwise(channels, hidden)
        self.activation = activation()
        self.project = Pointwise(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.activation(self.expand(x)))


class Residual(nn.Module):
    """x + scale * branch(norm(x)), a sub-layer of a block: (N, C, H, W) to the same.

    `layer_scale` is where the factor of each channel starts; None leaves the factors out.
    """

    def __init__(
        self, channels: int, branch: nn.Module, norm: type[nn.Module], layer_scale: float | None
    ):
        super().__init__()
        self.norm = norm(channels)
        self.branch = branch
        self.scale: nn.Module = nn.Identity()
        if layer_scale is not None:
            self.scale = LayerScale(channels, layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale(self.branch(self.norm(x)))


class DepthwisePosition(nn.Module):
    """x plus a 3x3 depthwise convolution of x: tells each pixel where it stands.

    Source: the positional encoding generator of CPVT (Chu et al., 2021), arXiv 2102.10882.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolution(x)


class StridedDepthwise(nn.Conv2d):
    """3x3 depthwise convolution: (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, channels: int, stride: int):
        super().__init__(channels, channels, 3, stride, padding=1, groups=channels)


class PooledShortcut(nn.Module):
    """3x3 max-pool and a 1x1 convolution, without the pool at stride 1:
    (N, C, H, W) to (N, D, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.pool: nn.Module = nn.Identity()
        if stride > 1:
            self.pool = nn.MaxPool2d(3, stride, padding=1)
        self.linear = Pointwise(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pool(x))
