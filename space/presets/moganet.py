"""MogaNet-XT to B.

Source: MogaNet (Li et al., 2022), arXiv 2211.03295, section 4, and its released code. Parameters
of XT and B as printed there are a little more than those of the code.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.downsampling.strided_convolution import StridedConvolution
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.operators.modulation import Modulation
from space.operators.normalise import Normalise
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # resolutions; channels and blocks of the four stages
    "MogaNet-XT": ((224, 256), (32, 64, 96, 192), (3, 3, 10, 2)),
    "MogaNet-T": ((224, 256), (32, 64, 128, 256), (3, 3, 12, 2)),
    "MogaNet-S": ((224,), (64, 128, 320, 512), (2, 3, 12, 2)),
    "MogaNet-B": ((224,), (64, 160, 320, 512), (4, 6, 22, 3)),
}
_EXPANSIONS = (8, 8, 4, 4)


@family
def moganets() -> Iterator[Preset]:
    for variant, (resolutions, channels, depths) in _ROWS.items():
        for resolution in resolutions:
            genome = moganet(resolution, channels, depths)
            yield published("MogaNet", variant, genome, source="arXiv 2211.03295; released code")


def moganet(resolution: int, channels: tuple[int, ...], depths: tuple[int, ...]) -> Genome:
    """A network of the family, from channels and blocks of its stages."""
    tokens = Modulation(
        gathering="shares",
        context=5,
        expansion=0,
        layer_scale=1e-5,
        norm="batch",
        activation="silu",
    )
    module = StridedConvolution(kernel=3, norm="batch", norm_first=False)
    return Genome(
        resolution=resolution,
        stem=ConvolutionStem(
            channels=channels[0],
            before=((3, 2, 0.5),),
            before_bias=True,
            before_norm="batch",
            bias=True,
            norm="batch",
            activation="none",
        ),
        stages=tuple(
            Stage(
                channels=width,
                blocks=(tokens, _channel_mixer(expansion)) * depth + (Normalise(norm="batch"),),
                downsample=module if i else None,
                stride=2 if i else 1,
            )
            for i, (width, depth, expansion) in enumerate(
                zip(channels, depths, _EXPANSIONS, strict=True)
            )
        ),
        head=PooledHead(norm="none"),
    )


def _channel_mixer(expansion: int) -> InvertedBottleneck:
    return InvertedBottleneck(
        expansion=expansion,
        aggregation=True,
        first_norm="batch",
        norm="none",
        activate="convolution",
        bias="all",
        layer_scale=1e-5,
    )
