"""MViT-B for images, with a class token; its width changes in the MLP in front of a smaller map.

Source: MViT (Fan et al., 2021), arXiv 2104.11227, sections 3 and 4.4, and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.embedding import Embedding
from space.operators.pooling_attention import PoolingAttentionOperator
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem


@family
def mvits() -> Iterator[Preset]:
    variant = "MViT-B-16-CONV (image)"
    genome = mvit(96, (1, 2, 11, 2))
    yield published("MViT v1 (image)", variant, genome, source="arXiv 2104.11227; released code")


def mvit(width: int, depths: tuple[int, int, int, int]) -> Genome:
    """A network of the family; `depths` are blocks of one resolution, all but the last of which
    widen the map in their last block."""
    norm = "layer-1e-6"
    block = PoolingAttentionOperator(
        pool_norm=norm, query_pool="strided", head_dim=width, widen="mlp", norm=norm
    )
    embed = Embedding(tokens=1, token_position=True)
    stages = [Stage(channels=width, blocks=(embed,))]
    for i, depth in enumerate(depths):
        first, last = i == 0, i == len(depths) - 1
        inside = replace(block, kv_reduction=max(1, 4 >> i))
        here = width << i
        if not first:  # keys keep their distance in pixels of the map that comes in
            stages += [Stage(channels=here, blocks=(), downsample=inside, stride=2)]
        if not last:
            blocks = (inside,) * (depth - (1 if first else 2))
            stages += [Stage(channels=here, blocks=blocks)] if blocks else []
            stages += [Stage(channels=2 * here, blocks=(inside,))]
        else:
            stages += [Stage(channels=here, blocks=(inside,) * (depth - 1))]
    return Genome(
        resolution=224,
        stem=ConvolutionStem(
            channels=width, kernel=7, step=4, bias=True, norm="none", activation="none"
        ),
        stages=tuple(stages),
        head=PooledHead(norm=norm),
    )
