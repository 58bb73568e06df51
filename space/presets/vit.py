"""ViT and DeiT: a class token, and for DeiT with distillation two.

Sources: ViT (Dosovitskiy et al., 2021), arXiv 2010.11929, section 3.1 and table 1; DeiT (Touvron
et al., 2021), arXiv 2012.12877, section 4 and table 1; released code.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.embedding import Embedding
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # width, blocks, heads, side of a patch, class tokens
    "deit_tiny_patch16_224": (192, 12, 3, 16, 1),
    "deit_small_patch16_224": (384, 12, 6, 16, 1),
    "deit_base_patch16_224": (768, 12, 12, 16, 1),
    "deit_tiny_distilled_patch16_224": (192, 12, 3, 16, 2),
    "deit_small_distilled_patch16_224": (384, 12, 6, 16, 2),
    "deit_base_distilled_patch16_224": (768, 12, 12, 16, 2),
    "vit_base_patch32_224": (768, 12, 12, 32, 1),
    "vit_large_patch16_224": (1024, 24, 16, 16, 1),
}


@family
def vits() -> Iterator[Preset]:
    for variant, (width, depth, heads, patch, tokens) in _ROWS.items():
        genome = vit(width, depth, heads=heads, patch=patch, tokens=tokens)
        source = "arXiv 2010.11929 and 2012.12877; released code"
        yield published("ViT/DeiT", variant, genome, source=source)


def vit(
    width: int,
    depth: int,
    *,
    heads: int,
    patch: int,
    hidden: int = 0,
    tokens: int = 1,
    activation: str = "gelu",
    resolution: int = 224,
) -> Genome:
    """A network of the family: `hidden` is the width inside the MLP, 4 * `width` if 0, `patch` the
    side of a patch in pixels."""
    norm = "layer-1e-6"
    block = Attention(
        heads=heads,
        head_dim=0,
        expansion=hidden / width if hidden else 4,
        norm=norm,
        activation=activation,
    )
    return Genome(
        resolution=resolution,
        stem=ConvolutionStem(
            channels=width, kernel=patch, step=patch, bias=True, norm="none", activation="none"
        ),
        stages=(
            Stage(
                channels=width,
                blocks=(Embedding(tokens=tokens, token_position=True), *(block,) * depth),
            ),
        ),
        head=PooledHead(norm=norm, classifiers=tokens),
    )
