"""MaxViT-T to L at 224 pixels.

Source: MaxViT (Tu et al., 2022), arXiv 2204.01697, section 3 and table 1, and its released code.
Differs from it: strided 3x3 convolutions are padded on both sides, where the released weights have
TensorFlow's padding behind the map alone; so outputs with those weights would differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # channels of the stem, channels of the first stage, blocks of the four
    "MaxViT-T": (64, 64, (2, 2, 5, 2)),
    "MaxViT-S": (64, 96, (2, 2, 5, 2)),
    "MaxViT-B": (64, 96, (2, 6, 14, 2)),
    "MaxViT-L": (128, 128, (2, 6, 14, 2)),
}


@family
def maxvits() -> Iterator[Preset]:
    for variant, (stem, width, depths) in _ROWS.items():
        genome = maxvit(stem, [width, 2 * width, 4 * width, 8 * width], depths)
        yield published("MaxViT", variant, genome, source="arXiv 2204.01697; released code")


def maxvit(stem: int, channels: Sequence[int], depths: Sequence[int], *, window: int = 7) -> Genome:
    """A network of the family; `depths` are blocks of the four stages, each of three operators."""
    norm, activation = "batch-1e-3", "gelu-tanh"
    convolution = InvertedBottleneck(
        expansion_of="out",
        squeeze_excite=True,
        squeeze_style="out",
        first_norm=norm,
        norm=norm,
        activation=activation,
        shortcut="average",
    )
    attention = tuple(
        Attention(
            region=region,
            context=window,
            fit="padded",
            position="products",
            activation=activation,
        )
        for region in ("window", "grid")
    )
    return Genome(
        resolution=224,
        stem=ConvolutionStem(
            channels=stem,
            step=1,
            bias=True,
            norm="none",
            activation="none",
            before=((3, 2, 1),),
            before_bias=True,
            before_norm=norm,
            before_activation=activation,
        ),
        stages=tuple(
            Stage(
                channels=width,
                blocks=(*attention, *(convolution, *attention) * (depth - 1)),
                downsample=convolution,
                stride=2,
            )
            for width, depth in zip(channels, depths, strict=True)
        ),
        head=PooledHead(hidden="tanh"),
    )
