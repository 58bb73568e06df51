"""Swin-T to B at 224 pixels.

Source: Swin (Liu et al., 2021), arXiv 2103.14030, section 3, and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from space.downsampling.space_to_depth import SpaceToDepthDsm
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # channels of the first stage, blocks of the third
    "swin_tiny_patch4_window7_224": (96, 6),
    "swin_small_patch4_window7_224": (96, 18),
    "swin_base_patch4_window7_224": (128, 18),
}


@family
def swins() -> Iterator[Preset]:
    for variant, (width, deep) in _ROWS.items():
        genome = swin([width, 2 * width, 4 * width, 8 * width], [2, 2, deep, 2])
        yield published("Swin", variant, genome, source="arXiv 2103.14030; released code")


def swin(channels: Sequence[int], depths: Sequence[int], *, expansion: float = 4) -> Genome:
    """A network of the family; `depths` are blocks of the four stages, `expansion` that of MLPs."""
    plain, shifted = (
        Attention(
            region="window",
            fit="padded",
            shift=shift,
            position="relative",
            expansion=expansion,
        )
        for shift in (False, True)
    )
    return Genome(
        resolution=224,
        stem=ConvolutionStem(
            channels=channels[0], kernel=4, step=4, bias=True, norm="layer", activation="none"
        ),
        stages=tuple(
            Stage(
                channels=width,
                blocks=tuple(shifted if j % 2 else plain for j in range(depth)),
                downsample=SpaceToDepthDsm() if i else None,
                stride=2 if i else 1,
            )
            for i, (width, depth) in enumerate(zip(channels, depths, strict=True))
        ),
        head=PooledHead(norm_first=True),
    )
