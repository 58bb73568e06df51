"""Tokens-to-token stem: overlapping patches of the image, twice mixed by linear attention and cut
anew, with a class token and a fixed position.

Source: T2T-ViT (Yuan et al., 2021), arXiv 2101.11986, section 3.1 and its released code, with the
attention of Performer (Choromanski et al., 2020), arXiv 2009.14794, section 2; `feed_forward`
"local" is that of LocalViT (Li et al., 2021, arXiv 2104.05707), whose released code also keeps the
norm of the MLP that it replaces, without ever using it.
Differs: the directions of the random features, in the released code random rows at right angles,
are rows of a cosine transform. Any such rows do the same up to a rotation of queries and keys,
which are learned. The sum of weights, never below 1 here, gains no 1e-8 (see `LinearAttention`).
Shapes: N images, C channels, e = `token_channels`, T tokens; a map (N, C, H / 16, W / 16) and the
class token (N, C, 1, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from space import cost, units
from space.blueprint import Blueprint, blueprint
from space.genes import Flow, Part, Site, choice, scaled_channels, stem, whole
from space.operators.embedding import Embedding
from space.operators.inverted_bottleneck import InvertedBottleneckBranch
from space.slicing import Grid

_SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))  # side of a patch, stride, padding


class SoftSplit(nn.Module):
    """Overlapping patches: (N, C, H, W) to (N, C * side * side, H / stride, W / stride)."""

    def __init__(self, side: int, stride: int, padding: int):
        super().__init__()
        self.side, self.stride, self.padding = side, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        rows = -(-x.shape[2] // self.stride)
        x = F.unfold(x, self.side, padding=self.padding, stride=self.stride)
        return x.unflatten(2, (rows, -1))


class LinearAttention(nn.Module):
    """v + project(softmax(q k^T) v), with positive features in place of the softmax:
    (N, D, H, W) to (N, e, H, W).

    Source: Performer, arXiv 2009.14794, equation 5: exp(q . k) is the mean over directions w of
    exp(w . q - |q|^2 / 2) exp(w . k - |k|^2 / 2). `kqv` makes keys, queries and values.
    """

    def __init__(self, kqv: nn.Module, project: nn.Module):
        super().__init__()
        self.kqv = kqv
        self.project = project

    def forward(self, x: Tensor) -> Tensor:
        k, q, v = self.kqv(x).flatten(2).chunk(3, 1)
        w = self.directions(k)
        # What is taken from the exponents of all keys goes to those of the queries, and what is
        # taken from all of a query's, its length included, cancels in its weights: so none of the
        # sums is below 1.
        k, q = k.to(w.dtype), q.to(w.dtype)
        k = w @ k - k.square().sum(1, keepdim=True) / 2
        largest = k.amax(2, keepdim=True).detach()
        q = w @ q + largest
        k = torch.exp(k - largest)
        q = torch.exp(q - q.amax(1, keepdim=True).detach())
        total = (q.mT @ k.sum(2, keepdim=True)).mT
        y = v @ k.mT @ q / total
        return (v + self.project(y.unsqueeze(3)).squeeze(3)).unflatten(2, x.shape[2:])

    @staticmethod
    def directions(x: Tensor) -> Tensor:
        """(e / 2, e): rows at right angles to one another, of length sqrt(e / 2)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        place = torch.arange(x.shape[1], device=x.device, dtype=dtype) + 0.5
        rows = place[: x.shape[1] // 2, None]
        angles = math.pi / len(place) * rows * place
        return angles.cos() * math.sqrt(2 * len(rows) / len(place))


class TokenTransformer(nn.Module):
    """Linear attention and a feed-forward layer: (N, D, H, W) to (N, e, H, W)."""

    def __init__(
        self,
        norm: nn.Module,
        attention: nn.Module,
        feed_forward: nn.Module,
        unused_norm: nn.Module | None = None,
    ):
        super().__init__()
        self.norm = norm
        self.attention = attention
        self.feed_forward = feed_forward
        self.unused_norm = unused_norm

    def forward(self, x: Tensor) -> Tensor:
        return self.feed_forward(self.attention(self.norm(x)))


class SinusoidPosition(nn.Module):
    """Adds sines and cosines of the place in a row of the class token and all pixels: a map
    (N, C, H, W) and the token (N, C, 1, 1) to the same.

    Source: Vaswani et al., 2017, arXiv 1706.03762, section 3.5.
    """

    def forward(self, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        pixels, tokens = x
        table = self.table(pixels).to(pixels.dtype)
        first, others = table[:, :1, None], table[:, 1:].unflatten(1, pixels.shape[2:])
        return pixels + others, tokens + first

    @staticmethod
    def table(x: Tensor) -> Tensor:
        """(C, 1 + H * W)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        channel = torch.arange(x.shape[1], device=x.device)[:, None]
        place = torch.arange(1 + x.shape[2] * x.shape[3], device=x.device, dtype=dtype)
        angle = place * 10000.0 ** (-(channel - channel % 2).to(dtype) / x.shape[1])
        return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


@stem("tokens_to_token")
@dataclass(frozen=True, slots=True, kw_only=True)
class TokensToToken(Part):
    """Genes: `channels` out, `token_channels` (e, an even number), `feed_forward` ("mlp" with a
    norm in front, or LocalViT's "local" one; both as wide as e)."""

    channels: int = whole(1, 4096, default=256)
    token_channels: int = choice(16, 32, 48, 64, 96, 128, default=64)
    feed_forward: str = choice("mlp", "local")

    @property
    def stride(self) -> int:
        """Image pixels per pixel of the map, along one side."""
        return math.prod(stride for _, stride, _ in _SPLITS)

    def gives(self, site: Site) -> Flow:
        return Flow("tokens", 1)

    def blueprint(self, site: Site) -> Blueprint:
        layers = []
        width, place = site.in_channels, replace(site, stride=1)
        for i, split in enumerate(_SPLITS):
            side, stride, _ = split
            place = replace(
                place, height=-(-place.height // stride), width=-(-place.width // stride)
            )
            layers.append(blueprint(SoftSplit, *split))
            axis = None if i == 0 else Grid(width, side**2)
            wide = width * side**2
            if i + 1 < len(_SPLITS):
                layers.append(self._mix(wide, axis, place))
                width = self.token_channels
        here = replace(place, in_channels=self.channels, channels=self.channels)
        return units.sequence(
            *layers,
            units.linear(wide, self.channels, pixels=place.pixels),
            Embedding(position=False, tokens=1).blueprint(here),
            blueprint(SinusoidPosition),
        )

    def _mix(self, wide: int, axis: Grid | None, place: Site) -> Blueprint:
        e, tokens = self.token_channels, place.pixels
        features = e // 2
        products = 2 * cost.matmul(1, features, e, tokens)
        products += cost.matmul(1, e, tokens, features) + cost.matmul(1, e, features, tokens)
        products += cost.matmul(1, tokens, features, 1)
        attention = blueprint(
            LinearAttention,
            kqv=units.linear(wide, 3 * e, pixels=tokens, input_axis=axis, output_axis=Grid(3, e)),
            project=units.linear(e, e, pixels=tokens),
            cost=products,
        )
        given: dict[str, Any] = {"norm": units.norm("layer", wide, axis), "attention": attention}
        if self.feed_forward == "mlp":
            mlp = units.mlp(e, e, pixels=tokens, activation="gelu")
            given["feed_forward"] = units.residual(e, mlp, norm_name="layer", scale=None)
        else:
            given["feed_forward"] = _local_feed_forward(e, tokens)
            given["unused_norm"] = units.norm("layer", e)
        return blueprint(TokenTransformer, **given)

    def scaled(self, ratio: float) -> TokensToToken:
        return replace(self, channels=scaled_channels(self.channels, ratio))


def _local_feed_forward(channels: int, pixels: int) -> Blueprint:
    """LocalViT's, without a gate; all of its layers have `channels`."""

    linear = units.linear(channels, channels, pixels=pixels, bias=False)
    depthwise = units.depthwise(channels, 3, pixels=pixels, bias=False)
    norm, active = units.norm("batch", channels), units.activation("hardswish")
    branch = blueprint(
        InvertedBottleneckBranch,
        expand=units.sequence(linear, norm, active),
        mix=units.sequence(depthwise, norm, active),
        project=linear,
        last_norm=norm,
    )
    return units.residual(channels, branch, norm_name="none", scale=None)
