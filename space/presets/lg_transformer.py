"""A reconstruction of LG-Transformer.

Source: LG-Transformer (Li et al., 2021), arXiv 2107.04735, of which the abstract alone was at hand:
attention in local windows at several granularities at once, in every stage. All sizes are ours, and
those of Swin-T (arXiv 2103.14030): windows of 7, 2, 2, 6 and 2 blocks, 96 channels at stride 4. A
stage has as many paths as make the coarsest one see the whole map at 224 pixels: 4, 3, 2 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.downsampling.space_to_depth import SpaceToDepthDsm
from space.genes import Part
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.multi_path import MultiPath
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_STAGES = ((96, 2, 4), (192, 2, 3), (384, 6, 2), (768, 2, 1))  # channels, blocks, paths


@family
def lg_transformers() -> Iterator[Preset]:
    yield published(
        "LG-Transformer",
        "LG-Transformer (all)",
        lg_transformer(),
        source="arXiv 2107.04735, abstract; sizes of Swin-T",
        reconstruction=True,
    )


def lg_transformer() -> Genome:
    return Genome(
        resolution=224,
        stem=ConvolutionStem(channels=96, kernel=4, step=4, bias=True, activation="none"),
        stages=tuple(
            Stage(
                channels=channels,
                blocks=tuple(_block(paths, shift=i % 2 == 1) for i in range(depth)),
                downsample=SpaceToDepthDsm() if place else None,
                stride=2 if place else 1,
            )
            for place, (channels, depth, paths) in enumerate(_STAGES)
        ),
        head=PooledHead(norm_first=True),
    )


def _block(paths: int, *, shift: bool) -> Part:
    if paths == 1:
        return Attention(region="window", position="relative", shift=shift)
    return MultiPath(paths=paths, position="relative", shift=shift)
