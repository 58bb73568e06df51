"""LocalViT in two more hosts: Transformer in Transformer, and T2T-ViT.

Source: LocalViT (Li et al., 2021), arXiv 2104.05707, section 3 and its released code, whose hosts
these are: TNT (arXiv 2103.00112) and T2T-ViT (arXiv 2101.11986), each with a convolution inside its
feed-forward layers. Fixed positions and random features of T2T-ViT are not counted as parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.nested import Nested, feed_forward
from space.presets.published import Preset, family, published
from space.stems.nested import NestedStem
from space.stems.tokens_to_token import TokensToToken

_NESTED = {  # channels of patches, channels and heads of pixels
    "LocalViT-TNT (T)": (192, 12, 3),
    "LocalViT-TNT (S)": (384, 24, 4),
}


@family
def localvit_hosts() -> Iterator[Preset]:
    source = "arXiv 2104.05707; released code"
    for variant, row in _NESTED.items():
        yield published("LocalViT", variant, nested(*row), source=source)
    yield published("LocalViT", "LocalViT-T2T", tokens_to_token(), source=source)


def nested(channels: int, pixel_channels: int, inner_heads: int) -> Genome:
    """LocalViT in TNT."""
    genes: dict[str, Any] = {"inner_heads": inner_heads, "squeeze_ratio": 1 / channels}
    blocks = (Nested(**genes),) * 11 + (Nested(**genes, keep_pixels=False),)
    return Genome(
        resolution=224,
        stem=NestedStem(channels=channels, pixel_channels=pixel_channels),
        stages=(Stage(channels=channels, blocks=blocks),),
        head=PooledHead(),
    )


def tokens_to_token() -> Genome:
    """LocalViT in T2T-ViT-7."""
    block = (Attention(head_dim=64, qkv_bias=False, expansion=0), feed_forward(2, 1 / 128))
    return Genome(
        resolution=224,
        stem=TokensToToken(channels=256, feed_forward="local"),
        stages=(Stage(channels=256, blocks=block * 7),),
        head=PooledHead(),
    )
