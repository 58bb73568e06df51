"""QnA-ViT-T, S and B: learned queries on the larger maps, attention in windows on the smaller.

Source: QnA-ViT (Arar et al., 2022), arXiv 2112.11435, sections 4 and 5, and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.learned_query import LearnedQuery
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_FEW, _MANY = ((0, 0, 4, 2), (2, 3, 2, 0)), ((0, 0, 12, 2), (2, 3, 6, 0))
_ROWS = {  # channels of the first stage, window, width of a learned query, blocks of each kind
    "qna_vit_tiny": (64, 3, 8, *_FEW),
    "qna_vit_tiny_7x7": (64, 7, 8, *_FEW),
    "qna_vit_small": (64, 3, 8, *_MANY),
    "qna_vit_base": (96, 3, 16, *_MANY),
}


@family
def qna_vits() -> Iterator[Preset]:
    for variant, row in _ROWS.items():
        yield published("QnA-ViT", variant, qna_vit(*row), source="arXiv 2112.11435; released code")


def qna_vit(
    width: int, context: int, head_dim: int, attended: Sequence[int], asked: Sequence[int]
) -> Genome:
    """A network of the family; `attended` and `asked` count the blocks of each stage that attend
    in windows, and then those with learned queries."""
    norm, active = "layer-1e-6", "gelu-tanh"
    query = LearnedQuery(context=context, head_dim=head_dim, norm=norm, activation=active)
    stages = []
    for i, (first, then) in enumerate(zip(attended, asked, strict=True)):
        window = Attention(
            region="window",
            context=14 if i == 2 else 7,
            position="relative",
            qkv_bias=False,
            project="plain",
            norm=norm,
            activation=active,
        )
        stages.append(
            Stage(
                channels=width << i,
                blocks=(window,) * first + (query,) * then,
                downsample=query if i else None,
                stride=2 if i else 1,
            )
        )
    return Genome(
        resolution=224,
        stem=ConvolutionStem(channels=width, kernel=4, step=4, norm="none", activation="none"),
        stages=tuple(stages),
        head=PooledHead(norm=norm, norm_first=True),
    )
