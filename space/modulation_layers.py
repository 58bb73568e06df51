"""What modulation gathers its contexts with. Plain PyTorch on `space.layers`: an export copies it
as it is.

Shapes: N images, C channels, L levels, H x W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from space.residuals import ends_with


class PostNormResidual(nn.Module):
    """x + scale(norm(branch(x))), a sub-layer with its norm behind it: (N, C, H, W) to the same.

    Source: Swin V2 (Liu et al., 2022), arXiv 2111.09883, section 3.2.
    """

    def __init__(self, branch: nn.Module, norm: nn.Module, scale: nn.Module | None = None):
        super().__init__()
        self.branch = branch
        self.norm = norm
        self.scale = scale or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale(self.norm(self.branch(x)))


ends_with(PostNormResidual, "scale")


class FocalModulation(nn.Module):
    """query * modulator(contexts).

    Source: FocalNet (Yang et al., 2022), arXiv 2203.11926.

    (N, C, H, W) to the same; the contexts are of growing size, and added, each times its gate.
    `expand` makes the query, the first map, a gate of each pixel for each of the L `levels`, and
    one for the mean of the last level. Each level makes its context from the one before
    (section 3.2).
    """

    def __init__(
        self,
        expand: nn.Module,
        levels: tuple[nn.Module, ...],
        activation: nn.Module,
        modulator: nn.Module,
        project: nn.Module,
    ):
        super().__init__()
        self.expand = expand
        self.levels = nn.ModuleList(levels)
        self.activation = activation
        self.modulator = modulator
        self.project = project

    def forward(self, x: Tensor) -> Tensor:
        query, context, gates = self.expand(x).tensor_split((x.shape[1], 2 * x.shape[1]), 1)
        gathered = 0
        for i, level in enumerate(self.levels):
            context = level(context)
            gathered = gathered + gates[:, i : i + 1] * context
        mean = self.activation(context.mean((2, 3), keepdim=True))
        return self.project(query * self.modulator(gathered + gates[:, -1:] * mean))


class ScaleAwareModulation(nn.Module):
    """value * mix(filtered scales): (N, C, H, W) to the same.

    The channels that `scales` makes are shared out among the heads, each a filter of its own size.
    They go to `mix` interleaved: the first channel of each head, then the second of each.
    Source: SMT (Lin et al., 2023), arXiv 2307.08579, section 3.2.
    """

    def __init__(
        self,
        value: nn.Module,
        scales: nn.Module,
        heads: tuple[nn.Module, ...],
        mix: nn.Module,
        project: nn.Module,
    ):
        super().__init__()
        self.value = value
        self.scales = scales
        self.heads = nn.ModuleList(heads)
        self.mix = mix
        self.project = project

    def forward(self, x: Tensor) -> Tensor:
        shares = self.scales(x).chunk(len(self.heads), dim=1)
        filtered = [head(share) for head, share in zip(self.heads, shares, strict=True)]
        modulator = self.mix(torch.stack(filtered, 2).flatten(1, 2))
        return self.project(self.value(x) * modulator)


class Decomposition(nn.Module):
    """x + s * (x - mean of x over the map), s for each channel: (N, C, H, W) to the same.

    Source: MogaNet (Li et al., 2022), arXiv 2211.03295, section 4.2.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale[:, None, None] * (x - x.mean((2, 3), keepdim=True))


class SharesContext(nn.Module):
    """A `common` filter on all channels; behind it wider ones on the second and third of three
    shares: (N, C, H, W) to the same, with C the sum of `shares`.

    Source: MogaNet (Li et al., 2022), arXiv 2211.03295, section 4.2.
    """

    def __init__(
        self, shares: tuple[int, int, int], common: nn.Module, second: nn.Module, third: nn.Module
    ):
        super().__init__()
        self.shares = shares
        self.common = common
        self.second = second
        self.third = third

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.common(x).split(self.shares, dim=1)
        return torch.cat((first, self.second(second), self.third(third)), 1)


class GatedAggregation(nn.Module):
    """x + project(gate(y) * value(y)), y = expand(x): (N, C, H, W) to the same.

    Source: MogaNet (Li et al., 2022), arXiv 2211.03295, section 4.2. Behind a norm, x is what
    leaves the norm.
    """

    def __init__(self, expand: nn.Module, gate: nn.Module, value: nn.Module, project: nn.Module):
        super().__init__()
        self.expand = expand
        self.gate = gate
        self.value = value
        self.project = project

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(x)
        return x + self.project(self.gate(y) * self.value(y))


class RecursiveModulation(nn.Module):
    """Products with one context after another, the channels doubling in between:
    (N, C, H, W) to the same.

    `widths` are C / 2**(n - 1), ..., C / 2, C at order n. `split` makes a query of the first
    width and, side by side, the contexts of all. `steps` go from one width to the next; the last
    comes first, so that networks of different orders have the steps in common that both have.
    Source: HorNet (Rao et al., 2022), arXiv 2207.14284, section 3.1.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        split: nn.Module,
        context: nn.Module,
        steps: tuple[nn.Module, ...],
        project: nn.Module,
    ):
        super().__init__()
        self.widths = widths
        self.split = split
        self.context = context
        self.steps = nn.ModuleList(steps)
        self.project = project

    def forward(self, x: Tensor) -> Tensor:
        query, rest = self.split(x).tensor_split((self.widths[0],), 1)
        # The third steadies training (the paper's alpha; its size is that of the released code).
        first, *contexts = (self.context(rest) / 3).split(self.widths, dim=1)
        y = query * first
        for step, context in zip(reversed(self.steps), contexts, strict=True):
            y = step(y) * context
        return self.project(y)


class GlobalFilter(nn.Module):
    """Multiplies the spectrum of each channel by learned numbers: (N, C, H, W) to the same.

    The weight holds real and imaginary parts for a map of `height` x `width`, (C, height,
    width // 2 + 1, 2), and is resized to the spectrum of any other map, bilinearly, its corners
    to the corners. The transform is never done in less than float32.
    Source: GFNet (Rao et al., 2021), arXiv 2107.00645, section 3.2; the resizing is HorNet's.
    """

    def __init__(self, channels: int, height: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, height, width // 2 + 1, 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x.to(torch.promote_types(x.dtype, torch.float32)), norm="ortho")
        weight = self.weight.to(spectrum.real.dtype)
        if weight.shape[1:3] != spectrum.shape[2:]:
            parts = weight.permute(3, 0, 1, 2)
            size = spectrum.shape[2:]
            parts = F.interpolate(parts, size=size, mode="bilinear", align_corners=True)
            weight = parts.permute(1, 2, 3, 0)
        spectrum = spectrum * torch.view_as_complex(weight.contiguous())
        return torch.fft.irfft2(spectrum, s=x.shape[2:], norm="ortho").to(x.dtype)


class LocalGlobalFilter(nn.Module):
    """One half of the channels through `local`, the other through `spectral`, then channel by
    channel from either half in turn: (N, C, H, W) to the same.

    Source: HorNet (Rao et al., 2022), arXiv 2207.14284, section 3.1 and released code.
    """

    def __init__(
        self,
        local: nn.Module,
        spectral: nn.Module,
        norm: nn.Module | None = None,
        last_norm: nn.Module | None = None,
    ):
        super().__init__()
        self.norm = norm or nn.Identity()
        self.local = local
        self.spectral = spectral
        self.last_norm = last_norm or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        near, far = self.norm(x).chunk(2, dim=1)
        x = torch.stack((self.local(near), self.spectral(far)), 2).flatten(1, 2)
        return self.last_norm(x)
