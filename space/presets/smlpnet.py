"""sMLPNet-T, -S and -B.

Source: sMLPNet (Tang et al., 2021), arXiv 2109.05422, section 3, and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.downsampling.strided_convolution import StridedConvolution
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.axis_mlp import AxisMlp
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # channels of the first stage, blocks of the stages
    "sMLPNet-T": (80, (2, 8, 14, 2)),
    "sMLPNet-S": (96, (2, 10, 24, 2)),
    "sMLPNet-B": (112, (2, 10, 24, 2)),
}


@family
def smlpnets() -> Iterator[Preset]:
    # BatchNorm in the token mixer, LayerNorm before the channel mixer: two operators.
    block = (
        AxisMlp(mixing="dense", expansion=0, norm="batch", inner_norm="batch"),
        InvertedBottleneck(expansion=3, context=0, norm="none", bias="all"),
    )
    for variant, (width, depths) in _ROWS.items():
        genome = Genome(
            resolution=224,
            stem=ConvolutionStem(channels=width, kernel=4, step=4, norm="none", activation="none"),
            stages=tuple(
                Stage(
                    channels=width << i,
                    blocks=block * depth,
                    downsample=StridedConvolution(kernel=2, norm="none", bias=False) if i else None,
                    stride=2 if i else 1,
                )
                for i, depth in enumerate(depths)
            ),
            head=PooledHead(norm="batch", norm_first=True),
        )
        source = "arXiv 2109.05422; released code"
        yield published("sMLPNet (same repo as SPACH)", variant, genome, source=source)
