"""MViT-B for images, with a class token; its width changes in the MLP in front of a smaller map.

Source: MViT (Fan et al., 2021), arXiv 2104.11227, sections 3 and 4.4, and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.embedding import Embedding
from space.operators.pooling_attention import PoolingAttentionOperator
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_NORM = "layer-1e-6"


@family
def mvits() -> Iterator[Preset]:
    variant = "MViT-B-16-CONV (image)"
    block = PoolingAttentionOperator(
        pool_norm=_NORM, query_pool="strided", head_dim=96, widen="mlp", norm=_NORM
    )
    genome = mvit(96, (1, 2, 11, 2), block, embed=Embedding(tokens=1, token_position=True))
    yield published("MViT v1 (image)", variant, genome, source="arXiv 2104.11227; released code")


def mvit(
    width: int,
    depths: Sequence[int],
    block: PoolingAttentionOperator,
    *,
    embed: Embedding | None = None,
) -> Genome:
    """A network of the family; `depths` are blocks of one resolution. The keys' distance is 4
    pixels at first, and halves with the resolution until it is 1."""
    stages = [Stage(channels=width, blocks=(embed,))] if embed else []
    for i, depth in enumerate(depths):
        inside, here = replace(block, kv_reduction=max(1, 4 >> i)), width << i
        door = inside if i else None
        last = i == len(depths) - 1
        widens = block.widen == "mlp" and not last
        plain = (inside,) * (depth - (1 if door else 0) - (1 if widens else 0))
        if door or plain:
            stages.append(
                Stage(channels=here, blocks=plain, downsample=door, stride=2 if door else 1)
            )
        if widens:
            stages.append(Stage(channels=2 * here, blocks=(inside,)))
    return Genome(
        resolution=224,
        stem=ConvolutionStem(
            channels=width, kernel=7, step=4, bias=True, norm="none", activation="none"
        ),
        stages=tuple(stages),
        head=PooledHead(norm=_NORM, norm_first=embed is None),
    )
