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
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


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
    """A learned factor for each channel.

    Source: CaiT (Touvron et al., 2021), arXiv 2103.17239.

    (N, C, H, W) to the same; section 2.1 of the source.
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


class Affine(nn.Module):
    """A learned factor and shift for each channel of (N, C, H, W), without statistics.

    Source: ResMLP (Touvron et al., 2021), arXiv 2105.03404, section 2.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class TanhGelu(nn.GELU):
    """GELU by its tanh approximation."""

    def __init__(self) -> None:
        super().__init__("tanh")


class QuickGelu(nn.Module):
    """x * sigmoid(1.702 x), an approximation of GELU (Hendrycks and Gimpel, arXiv 1606.08415)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class SqueezeExcite(nn.Module):
    """Gates each channel by the mean of all: (N, C, H, W) to the same.

    Source: Hu et al., 2018, arXiv 1709.01507, section 3. By default gate and ReLU as in
    MobileNetV3 (Howard et al., 2019, arXiv 1905.02244, section 5.3).
    """

    def __init__(
        self,
        channels: int,
        squeezed: int,
        activation: type[nn.Module] = nn.ReLU,
        gate: type[nn.Module] = nn.Hardsigmoid,
    ):
        super().__init__()
        self.reduce = Pointwise(channels, squeezed)
        self.activation = activation()
        self.expand = Pointwise(squeezed, channels)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.activation(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * self.gate(self.expand(squeezed))


class Mlp(nn.Module):
    """Channel mixer: two linear layers on each pixel, (N, C, H, W) to (N, D, H, W); D is C
    unless `out_channels` says otherwise."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        activation: type[nn.Module],
        out_channels: int | None = None,
    ):
        super().__init__()
        self.expand = Pointwise(channels, hidden)
        self.activation = activation()
        self.project = Pointwise(hidden, out_channels or channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.activation(self.expand(x)))


class Residual(nn.Module):
    """shortcut(x) + scale(branch(norm(x))), a sub-layer of a block: (N, C, H, W) to (N, D, H', W').

    The shortcut is x itself, and norm and scale are left out, unless they are given.
    """

    def __init__(
        self,
        branch: nn.Module,
        norm: nn.Module | None = None,
        scale: nn.Module | None = None,
        shortcut: nn.Module | None = None,
    ):
        super().__init__()
        self.norm = norm or nn.Identity()
        self.branch = branch
        self.scale = scale or nn.Identity()
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.scale(self.branch(self.norm(x)))


class Block(nn.Module):
    """Sub-layers one behind the other: a position code, a token mixer, a channel mixer.

    Each may be left out; each adds its own residual. (N, C, H, W) to the same, or what the mixer
    makes of it.
    """

    def __init__(
        self,
        mixer: nn.Module | None = None,
        mlp: nn.Module | None = None,
        position: nn.Module | None = None,
    ):
        super().__init__()
        self.position = position or nn.Identity()
        self.mixer = mixer or nn.Identity()
        self.mlp = mlp or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.mixer(self.position(x)))


class DepthwisePosition(nn.Module):
    """x plus a 3x3 depthwise convolution of x: tells each pixel where it stands.

    Source: the positional encoding generator of CPVT (Chu et al., 2021), arXiv 2102.10882.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolution(x)


def end_padding(side: int, kernel: int, stride: int, padding: int) -> int:
    """Zeros behind a side that has `padding` all around, for ceil(side / stride) outputs."""
    return max(0, -side % stride + (kernel - stride - 2 * padding))


class PaddedConvolution(nn.Conv2d):
    """Convolution to ceil(side / stride) pixels: (N, C, H, W) to (N, D, H', W').

    Pads (kernel - 1) // 2 in front, and behind as much as the last output needs; an even kernel
    at stride 1 takes one pixel more behind than in front.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        stride: int,
        groups: int = 1,
        bias: bool = True,
    ):
        padding = (kernel - 1) // 2 if kernel > stride or stride == 1 else 0
        super().__init__(in_channels, channels, kernel, stride, padding, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        below, right = (end_padding(side, kernel, stride, padding) for side in x.shape[2:])
        return super().forward(F.pad(x, (0, right, 0, below)) if below or right else x)


class PooledShortcut(nn.Module):
    """3x3 max-pool, where there is a stride, and a 1x1 convolution.

    (N, C, H, W) to (N, D, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.pool = nn.MaxPool2d(3, stride, padding=1) if stride > 1 else nn.Identity()
        self.linear = Pointwise(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pool(x))


class ConvolutionNorm(nn.Module):
    """activation(norm(convolution(x)))."""

    def __init__(
        self,
        convolution: nn.Module,
        norm: nn.Module | None = None,
        activation: nn.Module | None = None,
    ):
        super().__init__()
        self.convolution = convolution
        self.norm = norm or nn.Identity()
        self.activation = activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.convolution(x)))


class NormConvolution(nn.Module):
    """convolution(activation(norm(x)))."""

    def __init__(
        self,
        convolution: nn.Module,
        norm: nn.Module | None = None,
        activation: nn.Module | None = None,
    ):
        super().__init__()
        self.norm = norm or nn.Identity()
        self.activation = activation or nn.Identity()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(self.activation(self.norm(x)))


def start_at_zero(branch: nn.Module) -> None:
    """Sets the last layer with a weight to zero: a sum with the branch starts as the rest."""
    last = [layer for layer in branch.modules() if hasattr(layer, "weight")][-1]
    for parameter in last.parameters():
        nn.init.zeros_(parameter)


class ShortcutDownsampling(nn.Module):
    """A branch that starts at zero plus a shortcut: (N, C, H, W) to what both make of it.

    What starts at zero is the branch's last layer with a weight.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module):
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        start_at_zero(branch)

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.shortcut(x)


class SumOf(nn.Module):
    """The sum of what several modules make of the same map."""

    def __init__(self, branches: tuple[nn.Module, ...]):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branches[0](x)
        for branch in self.branches[1:]:
            y = y + branch(x)
        return y


class EachMap(nn.Module):
    """One layer on each of several maps: a tuple of them to a tuple."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(self.layer(x) for x in maps)


class Beside(nn.Module):
    """A part that works on the map alone, while what stands beside the map passes by."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.part(x[0]), *x[1:])
