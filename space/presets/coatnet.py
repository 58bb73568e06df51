"""CoAtNet-0 to 4, with the stride of a convolution block at its start or at its depthwise filter.

Source: CoAtNet (Dai et al., 2021), arXiv 2106.04803, table 3, section 3 and appendix A.1. The paper
gives the costs with both strides. Differs from it as public reimplementations do: average pooling
in place of max-pooling, which changes no count; and the tanh layer of the head, without which the
parameters do not fit those printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_SIZES = {  # channels of the stem and of the four stages, blocks of these
    "CoAtNet-0": (64, (96, 192, 384, 768), (2, 3, 5, 2)),
    "CoAtNet-1": (64, (96, 192, 384, 768), (2, 6, 14, 2)),
    "CoAtNet-2": (128, (128, 256, 512, 1024), (2, 6, 14, 2)),
    "CoAtNet-3": (192, (192, 384, 768, 1536), (2, 6, 14, 2)),
    "CoAtNet-4": (192, (192, 384, 768, 1536), (2, 12, 28, 2)),
}


@family
def coatnets() -> Iterator[Preset]:
    for name, sizes in _SIZES.items():
        rows = [(name, 224, "expansion")]
        if name == "CoAtNet-4":
            rows += [(f"{name}@384", 384, "expansion")]
        else:
            rows += [(f"{name} (strided depthwise)", 224, "convolution")]
        for variant, resolution, stride_at in rows:
            genome = coatnet(*sizes, resolution=resolution, stride_at=stride_at)
            yield published("CoAtNet", variant, genome, source="arXiv 2106.04803")


def coatnet(
    stem: int,
    channels: Sequence[int],
    depths: Sequence[int],
    *,
    resolution: int = 224,
    stride_at: str = "expansion",
) -> Genome:
    """A network of the family; `channels` and `depths` are those of the four stages."""
    norm = "layer-1e-6"
    convolution = InvertedBottleneck(
        expansion_of="out",
        squeeze_excite=True,
        squeeze_style="out",
        first_norm="batch",
        norm="batch",
        shortcut="average",
        stride_at=stride_at,
    )
    attention = Attention(position="relative", norm=norm)
    blocks = (convolution, convolution, attention, attention)
    return Genome(
        resolution=resolution,
        stem=ConvolutionStem(
            channels=stem,
            step=1,
            norm="none",
            activation="none",
            before=((3, 2, 1),),
            before_norm="batch",
        ),
        stages=tuple(
            Stage(channels=width, blocks=(block,) * (depth - 1), downsample=block, stride=2)
            for block, width, depth in zip(blocks, channels, depths, strict=True)
        ),
        head=PooledHead(norm=norm, hidden="tanh"),
    )
