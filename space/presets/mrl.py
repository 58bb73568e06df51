"""A reconstruction of MRL.

Source: MRL (Mohta et al., 2022), arXiv 2208.13975, of which the abstract alone was at hand: regions
mixed by self-attention, then pixels, each with its region, by a convolution. All sizes are ours: at
224 pixels every stage has 7 x 7 regions, of 8, 4, 2 and 1 pixels along a side; widths are those of
PVT (arXiv 2102.12122), with 3, 3, 9 and 3 blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.downsampling.strided_convolution import StridedConvolution
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.regional_mixing import RegionalMixing
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_STAGES = ((64, 3, 8), (128, 3, 4), (320, 9, 2), (512, 3, 1))  # channels, blocks, region


@family
def mrls() -> Iterator[Preset]:
    yield published(
        "MRL (Mixing Regionally and Locally)",
        "MRL (all)",
        mrl(),
        source="arXiv 2208.13975, abstract; sizes are ours",
        reconstruction=True,
    )


def mrl() -> Genome:
    return Genome(
        resolution=224,
        stem=ConvolutionStem(channels=64, kernel=4, step=4, bias=True, activation="none"),
        stages=tuple(
            Stage(
                channels=channels,
                blocks=(RegionalMixing(region=region, fusion="concatenate"),) * depth,
                downsample=StridedConvolution() if place else None,
                stride=2 if place else 1,
            )
            for place, (channels, depth, region) in enumerate(_STAGES)
        ),
        head=PooledHead(),
    )
