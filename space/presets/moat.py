"""MOAT-0 to 4 and tiny-MOAT-0 to 3.

Source: MOAT (Yang et al., 2022), arXiv 2210.01820, section 2 and table 8, and its released code,
whose position tables belong to maps of 14 and 7 pixels a side and are resized to others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # channels of the stem and of the first stage, blocks of the second and third
    "tiny-MOAT-0": (32, 32, 3, 7),
    "tiny-MOAT-1": (40, 40, 3, 7),
    "tiny-MOAT-2": (56, 56, 3, 7),
    "tiny-MOAT-3": (80, 80, 3, 7),
    "MOAT-0": (64, 96, 3, 7),
    "MOAT-1": (64, 96, 6, 14),
    "MOAT-2": (128, 128, 6, 14),
    "MOAT-2@384": (128, 128, 6, 14),
    "MOAT-3": (160, 160, 12, 28),
    "MOAT-4@512": (256, 256, 12, 28),
}


@family
def moats() -> Iterator[Preset]:
    for variant, (stem, width, second, third) in _ROWS.items():
        usual = "256" if variant.startswith("tiny") else "224"
        genome = moat(
            stem,
            [width, 2 * width, 4 * width, 8 * width],
            [2, second, third, 2],
            resolution=int(variant.partition("@")[2] or usual),
        )
        yield published("MOAT", variant, genome, source="arXiv 2210.01820; released code")


def moat(
    stem: int, channels: Sequence[int], depths: Sequence[int], *, resolution: int = 224
) -> Genome:
    """A network of the family; `channels` and `depths` are those of the four stages."""
    norm = "batch-1e-3"
    mobile = InvertedBottleneck(expansion_of="out", first_norm=norm, norm=norm, shortcut="average")
    gated = replace(mobile, squeeze_excite=True, squeeze_style="out")
    attentions = [Attention(position="resized", base=base, expansion=0) for base in (14, 7)]
    return Genome(
        resolution=resolution,
        stem=ConvolutionStem(
            channels=stem,
            step=1,
            bias=True,
            norm="none",
            activation="none",
            before=((3, 2, 1),),
            before_bias=True,
            before_norm=norm,
        ),
        stages=tuple(
            Stage(channels=width, blocks=(gated,) * (depth - 1), downsample=gated, stride=2)
            if i < 2
            else Stage(
                channels=width,
                blocks=(attentions[i - 2], *(mobile, attentions[i - 2]) * (depth - 1)),
                downsample=mobile,
                stride=2,
            )
            for i, (width, depth) in enumerate(zip(channels, depths, strict=True))
        ),
        head=PooledHead(),
    )
