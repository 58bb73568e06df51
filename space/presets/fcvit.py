"""FCViT-tiny to S48.

Source: FCViT (Ma et al., 2022), arXiv 2212.12552, and its released code, which calls S12 to S48
B12 to B48. Its printed parameters are in units of 2**20.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.downsampling.strided_convolution import StridedConvolution
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.global_context import GlobalContextOperator
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_WIDTHS = (64, 128, 320, 512)
_ROWS = {  # channels and blocks of the four stages
    "FCViT-tiny": ((32, 64, 160, 320), (3, 3, 5, 2)),
    "FCViT-S12 (called B12 in the repo)": (_WIDTHS, (2, 2, 6, 2)),
    "FCViT-S24 (B24)": (_WIDTHS, (4, 4, 12, 4)),
    "FCViT-S48 (B48)": (_WIDTHS, (8, 8, 24, 8)),
}
_EXPANSIONS = (8, 8, 4, 4)


@family
def fcvits() -> Iterator[Preset]:
    for variant, (channels, depths) in _ROWS.items():
        genome = fcvit(channels, depths)
        yield published("FCViT", variant, genome, source="arXiv 2212.12552; released code")


def fcvit(channels: tuple[int, ...], depths: tuple[int, ...]) -> Genome:
    """A network of the family, from channels and blocks of its stages."""
    tokens = GlobalContextOperator(expansion=0, layer_scale=1e-5, norm="group")
    module = StridedConvolution(kernel=3, norm="batch", norm_first=False)
    return Genome(
        resolution=224,
        stem=ConvolutionStem(
            channels=channels[0], kernel=7, step=4, bias=True, norm="batch", activation="none"
        ),
        stages=tuple(
            Stage(
                channels=width,
                blocks=(tokens, _channel_mixer(expansion)) * depth,
                downsample=module if i else None,
                stride=2 if i else 1,
            )
            for i, (width, depth, expansion) in enumerate(
                zip(channels, depths, _EXPANSIONS, strict=True)
            )
        ),
        head=PooledHead(norm="group", norm_first=True),
    )


def _channel_mixer(expansion: int) -> InvertedBottleneck:
    return InvertedBottleneck(
        expansion=expansion,
        first_norm="group",
        norm="none",
        activate="convolution",
        bias="all",
        layer_scale=1e-5,
    )
