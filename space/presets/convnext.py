"""ConvNeXt-T to L.

Source: ConvNeXt (Liu et al., 2022), arXiv 2201.03545, sections 2.2 to 2.6, and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.downsampling.strided_convolution import StridedConvolution
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # channels of the first stage, blocks of the third
    "ConvNeXt-T": (96, 9),
    "ConvNeXt-S": (96, 27),
    "ConvNeXt-B": (128, 27),
    "ConvNeXt-L": (192, 27),
}


@family
def convnexts() -> Iterator[Preset]:
    for variant, (width, deep) in _ROWS.items():
        genome = convnext([width, 2 * width, 4 * width, 8 * width], [3, 3, deep, 3])
        yield published("ConvNeXt", variant, genome, source="arXiv 2201.03545; released code")


def convnext(channels: list[int], depths: list[int]) -> Genome:
    """A network of the family; `depths` are blocks of the four stages."""
    norm = "layer-1e-6"
    block = InvertedBottleneck(
        context=7,
        convolution="first",
        first_norm=norm,
        norm="none",
        bias="all",
        layer_scale=1e-6,
    )
    module = StridedConvolution(kernel=2, norm=norm)
    return Genome(
        resolution=224,
        stem=ConvolutionStem(
            channels=channels[0], kernel=4, step=4, bias=True, norm=norm, activation="none"
        ),
        stages=tuple(
            Stage(
                channels=width,
                blocks=(block,) * depth,
                downsample=module if i else None,
                stride=2 if i else 1,
            )
            for i, (width, depth) in enumerate(zip(channels, depths, strict=True))
        ),
        head=PooledHead(norm=norm),
    )
