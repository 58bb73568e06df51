"""EdgeNeXt-XXS to B: ConvNeXt blocks with ever larger filters, and split attention at the end of
the later stages.

Source: EdgeNeXt (Maaz et al., 2022), arXiv 2206.10589, section 3, table 1, and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from space.downsampling.strided_convolution import StridedConvolution
from space.genes import Part
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.operators.split_attention import SplitAttention
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # channels and blocks of the four stages, heads
    "EdgeNeXt-XXS": ((24, 48, 88, 168), (2, 2, 6, 2), 4),
    "EdgeNeXt-XS": ((32, 64, 100, 192), (3, 3, 9, 3), 4),
    "EdgeNeXt-S": ((48, 96, 160, 304), (3, 3, 9, 3), 8),
    "EdgeNeXt-B": ((80, 160, 288, 584), (3, 3, 9, 3), 8),
}


@family
def edgenexts() -> Iterator[Preset]:
    for variant, row in _ROWS.items():
        yield published("EdgeNeXt", variant, edgenext(*row), source="arXiv 2206.10589; code")


def edgenext(channels: Sequence[int], depths: Sequence[int], heads: int) -> Genome:
    """A network of the family; the last block of each stage but the first has attention."""
    norm, scale = "layer-1e-6", 1e-6
    stages = []
    for i, (width, depth, parts) in enumerate(zip(channels, depths, (0, 2, 3, 4), strict=True)):
        block = InvertedBottleneck(
            context=3 + 2 * i,
            convolution="first",
            first_norm=norm,
            norm="none",
            bias="all",
            layer_scale=scale,
        )
        blocks: tuple[Part, ...] = (block,) * depth
        if i:
            attention = SplitAttention(
                parts=parts,
                position="fourier" if i == 1 else "none",
                heads=heads,
                head_dim=0,
                layer_scale=scale,
                norm=norm,
            )
            blocks = (*blocks[1:], attention)
        stages.append(
            Stage(
                channels=width,
                blocks=blocks,
                downsample=StridedConvolution(norm=norm) if i else None,
                stride=2 if i else 1,
            )
        )
    return Genome(
        resolution=256,
        stem=ConvolutionStem(
            channels=channels[0], kernel=4, step=4, bias=True, norm=norm, activation="none"
        ),
        stages=tuple(stages),
        head=PooledHead(norm=norm),
    )
