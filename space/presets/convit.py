"""ConViT-Ti, S and B: ten blocks whose attention is gated by position, and two with a class token.

Source: ConViT (d'Ascoli et al., 2021), arXiv 2103.10697, section 3, and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.embedding import Embedding
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_HEADS = {"convit_tiny": 4, "convit_small": 9, "convit_base": 16}


@family
def convits() -> Iterator[Preset]:
    for variant, heads in _HEADS.items():
        yield published("ConViT", variant, convit(heads), source="arXiv 2103.10697; released code")


def convit(heads: int, *, gated: int = 10, plain: int = 2) -> Genome:
    """A network of the family with heads of 48 channels; `gated` and `plain` count blocks."""
    norm, width = "layer-1e-6", 48 * heads
    block = Attention(head_dim=48, qkv_bias=False, norm=norm)
    blocks = (
        Embedding(),
        *(replace(block, scoring="gated"),) * gated,
        Embedding(position=False, tokens=1),
        *(block,) * plain,
    )
    return Genome(
        resolution=224,
        stem=ConvolutionStem(
            channels=width, kernel=16, step=16, bias=True, norm="none", activation="none"
        ),
        stages=(Stage(channels=width, blocks=blocks),),
        head=PooledHead(norm=norm),
    )
