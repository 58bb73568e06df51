"""Next-ViT-S, B and L.

Source: Next-ViT (Li et al., 2022), arXiv 2207.05501, table 4, and its released code. Widths change
inside a stage, so that each run of blocks of one width is a stage here.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.downsampling.pooled_projection import PooledProjection
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.convolution import Convolution
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.operators.split_transformer import SplitTransformer
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {"Next-ViT-S": 2, "Next-ViT-B": 4, "Next-ViT-L": 6}  # rounds of the third stage


@family
def nextvits() -> Iterator[Preset]:
    for variant, rounds in _ROWS.items():
        yield published(
            "Next-ViT", variant, nextvit(rounds), source="arXiv 2207.05501; released code"
        )


def nextvit(rounds: int) -> Genome:
    """A network of the family; a round of the third stage is four blocks of convolutions and one of
    attention."""
    return Genome(
        resolution=224,
        stem=ConvolutionStem(
            channels=64,
            before=((3, 2, 1), (3, 1, 0.5), (3, 1, 1)),
            before_norm="batch",
            before_activation="relu",
            norm="batch",
            activation="relu",
        ),
        stages=(
            _convolutions(96, 3),
            _convolutions(192, 3, stride=2),
            _attention(256, 4),
            *(
                stage
                for i in range(rounds)
                for stage in (_convolutions(384, 4, stride=1 if i else 2), _attention(512, 2))
            ),
            _convolutions(768, 2, stride=2),
            _attention(1024, 1),
        ),
        head=PooledHead(norm="batch", norm_first=True),
    )


def _convolutions(channels: int, depth: int, stride: int = 1) -> Stage:
    mixer = Convolution(
        group_width=32,
        first_norm="none",
        norm="batch",
        activation="relu",
        bias=False,
        expansion=0,
    )
    mlp = InvertedBottleneck(
        expansion=3, context=0, first_norm="batch", norm="none", activation="relu", bias="all"
    )
    module = PooledProjection(norm="batch")
    return Stage(channels=channels, stride=stride, downsample=module, blocks=(mixer, mlp) * depth)


def _attention(channels: int, reduction: int) -> Stage:
    block = SplitTransformer(reduction=reduction, norm="batch")
    return Stage(channels=channels, blocks=(block,))
