"""CETNet-T, S and B, rebuilt: windows of attention behind convolutional embeddings.

Source: CETNet (Wang et al., 2022), arXiv 2207.13317: the layer that embeds the tokens of each stage
is a stack of convolutions. There is no released code, and the sizes that could be had are those of
whole networks. Ours: the first stack is four 3x3 convolutions, the others are two MBConvs, with
BatchNorm and GELU; blocks are those of Swin without a shift, with a 3x3 depthwise convolution for
the position; widths and depths are near to CSWin's (2107.00652, table 1), whose networks have much
the same sizes, and such that parameters and cost come out as published.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # channels of the first stage, blocks of the four
    "CETNet-T": (64, (2, 2, 15, 2)),
    "CETNet-S": (64, (3, 4, 28, 2)),
    "CETNet-B": (96, (3, 4, 28, 2)),
}


@family
def cetnets() -> Iterator[Preset]:
    for variant, (width, depths) in _ROWS.items():
        for resolution, suffix in ((224, ""), (384, "@384")):
            yield published(
                "CETNet",
                variant + suffix,
                cetnet(resolution, width, depths),
                source="arXiv 2207.13317; rebuilt from its idea and the sizes of its networks",
                reconstruction=True,
            )


def cetnet(resolution: int, width: int, depths: Sequence[int]) -> Genome:
    """A network of the family; `depths` are blocks of the four stages without the embeddings."""
    block = Attention(region="window", context=7, position="depthwise")
    mbconv = InvertedBottleneck(norm="batch", last_norm="batch", bias="none")
    return Genome(
        resolution=resolution,
        stem=ConvolutionStem(
            channels=width,
            norm="batch",
            last_norm="layer",
            before=((3, 2, 0.5), (3, 1, 0.5), (3, 1, 0.5)),
            before_norm="batch",
        ),
        stages=tuple(
            Stage(
                channels=width << i,
                blocks=(*((mbconv,) if i else ()), *(block,) * depth),
                downsample=mbconv if i else None,
                stride=2 if i else 1,
            )
            for i, depth in enumerate(depths)
        ),
        head=PooledHead(norm_first=True),
    )
