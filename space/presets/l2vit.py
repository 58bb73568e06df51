"""L2ViT-T, S and B: attention in windows and linear attention of the whole map, in turns.

Source: L2ViT (Zheng, 2025), arXiv 2501.16182, and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.downsampling.strided_convolution import StridedConvolution
from space.genes import Part
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.convolution import Convolution
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # resolution, channels of the first stage, blocks of the third, side of a window
    "L2ViT-T": (224, 96, 6, 7),
    "L2ViT-S": (224, 96, 18, 7),
    "L2ViT-B": (224, 128, 18, 7),
    # At 384 pixels windows of 12 explain the published cost, and windows of 7 do not.
    "L2ViT-B-384 (IN-22k pre-trained)": (384, 128, 18, 12),
}

# Each block is a chain of residual sub-layers, the first with a 3x3 depthwise convolution in front.
_LOCAL: tuple[Part, ...] = (
    Convolution(context=3, second="none", first_norm="none", activation="none", expansion=0),
    InvertedBottleneck(context=0, norm="none", bias="all"),
)
_GLOBAL: tuple[Part, ...] = (
    Attention(scoring="linear", position="depthwise", expansion=0),
    Convolution(context=7, norm="batch", activation_first=True, second="convolution"),
)


@family
def l2vits() -> Iterator[Preset]:
    for variant, (resolution, width, deep, window) in _ROWS.items():
        genome = l2vit(resolution, width, [2, 2, deep, 2], window)
        yield published("L2ViT", variant, genome, source="arXiv 2501.16182; released code")


def l2vit(resolution: int, width: int, depths: list[int], window: int) -> Genome:
    """A network of the family; `depths` are blocks of the four stages, `width` is the first's."""
    attend = Attention(
        region="window", context=window, fit="padded", position="depthwise", expansion=0
    )
    local = (attend, *_LOCAL)
    return Genome(
        resolution=resolution,
        stem=ConvolutionStem(
            channels=width,
            bias=True,
            norm="batch",
            activation="none",
            last_norm="layer",
            before=((3, 2, 0.5),),
            before_bias=True,
            before_norm="batch",
            before_activation="relu",
        ),
        stages=tuple(
            Stage(
                channels=width << i,
                blocks=tuple(part for j in range(depth) for part in (_GLOBAL if j % 2 else local)),
                downsample=StridedConvolution() if i else None,
                stride=2 if i else 1,
            )
            for i, depth in enumerate(depths)
        ),
        head=PooledHead(norm_first=True),
    )
