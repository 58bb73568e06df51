"""BoTNet-T3 to T7 and BoTNet-50, and two of timm's: bottlenecks with attention of the whole map in
place of some of their convolutions.

Sources: BoTNet (Srinivas et al., 2021), arXiv 2101.11605, figure 4 and appendix; timm's code.
Differs from the text of it: T3 to T7 have squeeze-excite in blocks with attention too, as the
published numbers of parameters ask for. The number of parameters goes with the resolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from space.genes import Part
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.convolution import Convolution
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_CONVOLUTION = Convolution(shell="bottleneck", group_width=0, norm="batch", expansion=0)
_ATTENTION = Attention(
    shell="bottleneck",
    heads=4,
    head_dim=0,
    position="query",
    qkv_bias=False,
    project="none",
    downsampled="output",
    norm="batch",
    expansion=0,
)
_TS = {  # resolution, blocks of the four stages
    "BoTNet-T3": (224, (3, 4, 6, 6)),
    "BoTNet-T4": (224, (3, 4, 23, 6)),
    "BoTNet-T5": (256, (3, 4, 23, 12)),
    "BoTNet-T6": (320, (3, 4, 6, 12)),
    "BoTNet-T7": (384, (3, 4, 23, 12)),
}
_WIDTHS = (256, 512, 1024, 2048)


@family
def botnets() -> Iterator[Preset]:
    source = "arXiv 2101.11605"
    for variant, (resolution, depths) in _TS.items():
        genome = botnet(resolution, depths, activation="silu", squeeze_ratio=1 / 16)
        yield published("BoTNet", variant, genome, source=source)
    for stride in (1, 2):
        genome = botnet(224, (3, 4, 6, 3), activation="relu", last_stride=stride)
        yield published("BoTNet", f"BoTNet-50 (stride {stride} in c5)", genome, source=source)
    for variant, activation, letters in (
        ("botnet26t_256 (timm)", "relu", ("cc", "cc", "ca", "aa")),
        ("botnet50ts_256 (timm)", "silu", ("ccc", "ccca", "cacaca", "cac")),
    ):
        kinds = {
            "c": replace(_CONVOLUTION, activation=activation),
            "a": replace(_ATTENTION, activation=activation),
        }
        blocks = [tuple(kinds[letter] for letter in stage) for stage in letters]
        genome = Genome(
            resolution=256,
            stem=tiered_stem(activation),
            stages=bottleneck_stages(_WIDTHS, blocks),
            head=PooledHead(norm="none"),
        )
        yield published("BoTNet", variant, genome, source=f"{source}; timm")


def botnet(
    resolution: int,
    depths: Sequence[int],
    *,
    activation: str,
    squeeze_ratio: float = 0,
    last_stride: int = 1,
) -> Genome:
    """A network of the paper: all blocks of the last stage attend."""
    convolution = replace(_CONVOLUTION, activation=activation, shortcut_activation=True)
    attention = replace(
        _ATTENTION,
        position="scaled_query",
        squeeze_ratio=squeeze_ratio,
        activation=activation,
        shortcut_activation=True,
    )
    if squeeze_ratio:
        convolution = replace(convolution, gate="squeeze_excite_last", squeeze_ratio=squeeze_ratio)
    kinds: tuple[Part, ...] = (convolution, convolution, convolution, attention)
    blocks = [(kind,) * depth for kind, depth in zip(kinds, depths, strict=True)]
    return Genome(
        resolution=resolution,
        stem=residual_stem(activation),
        stages=bottleneck_stages(_WIDTHS, blocks, strides=(1, 2, 2, last_stride)),
        head=PooledHead(norm="none"),
    )


def bottleneck_stages(
    widths: Sequence[int],
    blocks: Sequence[tuple[Part, ...]],
    strides: Sequence[int] = (1, 2, 2, 2),
) -> tuple[Stage, ...]:
    """Stages whose first block changes width and resolution."""
    return tuple(
        Stage(channels=width, blocks=parts)
        if stride == 1
        else Stage(channels=width, blocks=parts[1:], downsample=parts[0], stride=stride)
        for width, parts, stride in zip(widths, blocks, strides, strict=True)
    )


def residual_stem(activation: str) -> ConvolutionStem:
    """ResNet's: 7x7, stride 2, and a max-pool."""
    return ConvolutionStem(channels=64, kernel=7, norm="batch", activation=activation, pool=True)


def tiered_stem(activation: str, *, pool: bool = True) -> ConvolutionStem:
    """timm's: three of 3x3, the first of stride 2, and a max-pool or stride 2 in the last."""
    return ConvolutionStem(
        channels=64,
        step=1 if pool else 2,
        norm="batch",
        activation=activation,
        before=((3, 2, 3 / 8), (3, 1, 1 / 2)),
        before_norm="batch",
        before_activation=activation,
        pool=pool,
    )
