"""UniNet-B0 to B6: convolution in the first four stages, attention in the last two.

Source: UniNet (Liu et al., 2022), arXiv 2207.05420 (ECCV 2022), and its released code, which
alone has the sizes. The preprint arXiv 2110.04035 has other networks of the same names.
B0 and B1 are one network at two resolutions. The published MACs are a counter's total, which adds
estimates for norms and pooling to the products that `space.cost` counts (about 2%).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from space.downsampling.local import LocalDsm
from space.downsampling.local_global import LocalGlobalDsm
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.global_attention import GlobalAttentionOperator
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.presets.published import Preset, family
from space.stems.convolution import ConvolutionStem


@dataclass(frozen=True, slots=True)
class _Row:
    """One network of the table; sizes in millions of parameters and 1e9 MACs as printed."""

    name: str
    resolution: int
    depths: tuple[int, ...]
    channels: tuple[int, ...]
    params_m: float
    gmacs: float
    top1: float | None
    source: str


_FIGURE = "released code; top-1 read off the repository's performance figure (+-0.1)"

# fmt: off
_ROWS = (
    _Row("uninet_b0", 160, (1, 2, 4, 4, 4, 8), (24, 48, 80, 128, 128, 256),
         11.5, 0.555, None, "released code; no top-1 of this network is published"),
    _Row("uninet_b1", 224, (1, 2, 4, 4, 4, 8), (24, 48, 80, 128, 128, 256),
         11.5, 1.1, 81.0, "released code and the repository's table (300 epochs)"),
    _Row("uninet_b2", 256, (2, 3, 6, 6, 6, 12), (24, 48, 80, 128, 128, 256),
         16.2, 2.159, 82.5, _FIGURE),
    _Row("uninet_b3", 288, (2, 3, 7, 7, 7, 14), (24, 56, 96, 160, 160, 288),
         24.0, 4.258, 83.5, _FIGURE),
    _Row("uninet_b4", 320, (2, 4, 9, 9, 9, 18), (32, 64, 112, 192, 192, 352),
         43.8, 9.429, 84.4, _FIGURE),
    _Row("uninet_b5", 384, (3, 5, 10, 10, 10, 20), (32, 64, 112, 224, 224, 448),
         72.9, 20.4, 84.9, "released code and the paper's abstract"),
    _Row("uninet_b6", 448, (4, 6, 12, 12, 12, 24), (48, 96, 160, 256, 256, 512),
         117, 51.0, 85.6, _FIGURE),
)
# fmt: on

_EXPANSIONS = (1, 4, 6, 3)  # of the convolution stages
_ATTENTION_EXPANSIONS = (2, 5)
_STRIDES = (1, 2, 2, 2, 1, 2)


@family
def uninets() -> Iterator[Preset]:
    """UniNet-B0 to B6."""
    for row in _ROWS:
        yield Preset(
            name=row.name,
            system="UniNet",
            genome=uninet(row.resolution, row.depths, row.channels),
            published_params=round(row.params_m * 1e6),
            published_macs=round(row.gmacs * 1e9),
            top1=row.top1,
            source=row.source,
        )


def uninet(resolution: int, depths: tuple[int, ...], channels: tuple[int, ...]) -> Genome:
    """A network of the family; `depths` (blocks) and `channels` of the six stages."""
    local, local_global = LocalDsm(norm="batch"), LocalGlobalDsm(norm="batch", head_dim=32)
    convolutions = [
        InvertedBottleneck(
            expansion=expansion, context=3, squeeze_excite=True, norm="batch", norm_first=True
        )
        for expansion in _EXPANSIONS
    ]
    attentions = [
        GlobalAttentionOperator(
            head_dim=32,
            position="depthwise",
            expansion=expansion,
            layer_scale=1e-6,
            norm="layer",
        )
        for expansion in _ATTENTION_EXPANSIONS
    ]
    modules = (None, local, local, local, local_global, local_global)
    stages = zip(modules, _STRIDES, (*convolutions, *attentions), depths, channels, strict=True)
    return Genome(
        resolution=resolution,
        stem=ConvolutionStem(
            channels=32, kernel=3, stride=2, bias=False, norm="batch", activation="gelu"
        ),
        stages=tuple(
            Stage(downsample=module, stride=stride, channels=width, blocks=(block,) * depth)
            for module, stride, block, depth, width in stages
        ),
        head=PooledHead(features=1280, norm="batch", activation="gelu"),
    )
