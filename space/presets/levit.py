"""LeViT-128S to 384: attention with BatchNorm behind every linear layer, on maps of 14 pixels and
less.

Source: LeViT (Graham et al., 2021), arXiv 2104.01136, section 4 and table 1, and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # channels, heads and blocks of the three stages, width of a head's keys
    "LeViT-128S": ((128, 256, 384), (4, 6, 8), (2, 3, 4), 16),
    "LeViT-128": ((128, 256, 384), (4, 8, 12), (4, 4, 4), 16),
    "LeViT-192": ((192, 288, 384), (3, 5, 6), (4, 4, 4), 32),
    "LeViT-256": ((256, 384, 512), (4, 6, 8), (4, 4, 4), 32),
    "LeViT-384": ((384, 512, 768), (6, 9, 12), (4, 4, 4), 32),
}


@family
def levits() -> Iterator[Preset]:
    for variant, row in _ROWS.items():
        yield published("LeViT", variant, levit(*row), source="arXiv 2104.01136; released code")


def levit(
    channels: Sequence[int], heads: Sequence[int], depths: Sequence[int], key_dim: int
) -> Genome:
    """A network of the family; its two classifiers are averaged."""
    active = "hardswish"
    attention = Attention(
        head_dim=key_dim,
        value_ratio=2,
        position="offsets",
        qkv_bias=False,
        project="plain",
        inner_activation=active,
        linear_norm=True,
        expansion=0,
        norm="batch",
        activation=active,
    )
    mlp = InvertedBottleneck(
        expansion=2,
        context=0,
        first_norm="none",
        norm="batch",
        last_norm="batch",
        activation=active,
        bias="none",
    )
    stages = []
    for i, (width, count, depth) in enumerate(zip(channels, heads, depths, strict=True)):
        blocks = (replace(attention, heads=count), mlp) * depth
        if not i:
            stages.append(Stage(channels=width, blocks=blocks))
            continue
        door = replace(
            attention,
            heads=channels[i - 1] // key_dim,
            value_ratio=4,
            downsampled="queries",
        )
        stages.append(Stage(channels=width, blocks=(mlp, *blocks), downsample=door, stride=2))
    return Genome(
        resolution=224,
        stem=ConvolutionStem(
            channels=channels[0],
            norm="batch",
            activation="none",
            before=((3, 2, 1 / 8), (3, 2, 1 / 4), (3, 2, 1 / 2)),
            before_norm="batch",
            before_activation=active,
        ),
        stages=tuple(stages),
        head=PooledHead(norm="batch", classifiers=2),
    )
