"""UniNet-B0 to B6: convolution in the first four stages, attention in the last two.

Source: UniNet (Liu et al., 2022), arXiv 2207.05420 (ECCV 2022), and its released code, which
alone has the sizes. The preprint arXiv 2110.04035 has other networks of the same names. B0 and B1
are one network at two resolutions; no top-1 of B0 is published, and those of B2, B3, B4 and B6 are
read off a figure (+-0.1). The published MACs are a counter's total, which adds estimates for norms
and pooling to the products that `space.cost` counts (about 2%).
"""

from __future__ import annotations

from collections.abc import Iterator

from space.downsampling.local import LocalDsm
from space.downsampling.local_global import LocalGlobalDsm
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # resolution, blocks and channels of the six stages
    "UniNet-B0": (160, (1, 2, 4, 4, 4, 8), (24, 48, 80, 128, 128, 256)),
    "UniNet-B1": (224, (1, 2, 4, 4, 4, 8), (24, 48, 80, 128, 128, 256)),
    "UniNet-B2": (256, (2, 3, 6, 6, 6, 12), (24, 48, 80, 128, 128, 256)),
    "UniNet-B3": (288, (2, 3, 7, 7, 7, 14), (24, 56, 96, 160, 160, 288)),
    "UniNet-B4": (320, (2, 4, 9, 9, 9, 18), (32, 64, 112, 192, 192, 352)),
    "UniNet-B5": (384, (3, 5, 10, 10, 10, 20), (32, 64, 112, 224, 224, 448)),
    "UniNet-B6": (448, (4, 6, 12, 12, 12, 24), (48, 96, 160, 256, 256, 512)),
}
_EXPANSIONS = (1, 4, 6, 3)  # of the convolution stages
_ATTENTION_EXPANSIONS = (2, 5)
_STRIDES = (1, 2, 2, 2, 1, 2)


@family
def uninets() -> Iterator[Preset]:
    """UniNet-B0 to B6."""
    for variant, row in _ROWS.items():
        yield published("UniNet", variant, uninet(*row), source="arXiv 2207.05420; released code")


def uninet(resolution: int, depths: tuple[int, ...], channels: tuple[int, ...]) -> Genome:
    """A network of the family; `depths` (blocks) and `channels` of the six stages."""
    local, local_global = LocalDsm(norm="batch"), LocalGlobalDsm(norm="batch")
    convolutions = [
        InvertedBottleneck(
            expansion=expansion,
            squeeze_excite=True,
            first_norm="batch",
            norm="batch",
            last_norm="batch",
        )
        for expansion in _EXPANSIONS
    ]
    attentions = [
        Attention(position="depthwise", expansion=expansion, layer_scale=1e-6)
        for expansion in _ATTENTION_EXPANSIONS
    ]
    modules = (None, local, local, local, local_global, local_global)
    stages = zip(modules, _STRIDES, (*convolutions, *attentions), depths, channels, strict=True)
    return Genome(
        resolution=resolution,
        stem=ConvolutionStem(norm="batch"),
        stages=tuple(
            Stage(downsample=module, stride=stride, channels=width, blocks=(block,) * depth)
            for module, stride, block, depth, width in stages
        ),
        head=PooledHead(features=1280, norm="batch"),
    )
