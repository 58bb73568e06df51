"""CvT-13, CvT-21 and CvT-W24.

Source: CvT (Wu et al., 2021), arXiv 2103.15808, section 3 and table 2, and its released code, which
divides scores by the root of the whole width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from space.downsampling.strided_convolution import StridedConvolution
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.embedding import Embedding
from space.operators.pooling_attention import PoolingAttentionOperator
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_NARROW, _WIDE = (64, 192, 384), (192, 768, 1024)
_ROWS = {  # resolution, channels and blocks of the three stages
    "CvT-13": (224, _NARROW, (1, 2, 10)),
    "CvT-21": (224, _NARROW, (1, 4, 16)),
    "CvT-13@384": (384, _NARROW, (1, 2, 10)),
    "CvT-21@384": (384, _NARROW, (1, 4, 16)),
    "CvT-W24": (384, _WIDE, (2, 2, 20)),
}


@family
def cvts() -> Iterator[Preset]:
    for variant, (resolution, channels, depths) in _ROWS.items():
        genome = cvt(resolution, channels, depths)
        yield published("CvT", variant, genome, source="arXiv 2103.15808; released code")


def cvt(resolution: int, channels: Sequence[int], depths: Sequence[int]) -> Genome:
    """A network of the family; a class token joins in the last stage."""
    block = PoolingAttentionOperator(
        pool="input",
        pool_norm="batch",
        kv_reduction=2,
        head_dim=64,
        scale="width",
        activation="gelu-quick",
    )
    token = Embedding(position=False, tokens=1)
    return Genome(
        resolution=resolution,
        stem=ConvolutionStem(
            channels=channels[0],
            kernel=7,
            step=4,
            padding="least",
            bias=True,
            norm="layer",
            activation="none",
        ),
        stages=tuple(
            Stage(
                channels=width,
                blocks=(*((token,) if i == len(channels) - 1 else ()), *(block,) * depth),
                downsample=StridedConvolution(kernel=3, norm_first=False) if i else None,
                stride=2 if i else 1,
            )
            for i, (width, depth) in enumerate(zip(channels, depths, strict=True))
        ),
        head=PooledHead(),
    )
