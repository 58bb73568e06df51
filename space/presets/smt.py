"""SMT-T to L.

Source: SMT (Lin et al., 2023), arXiv 2307.08579, section 3, and its released code. Parameters of S
as printed there are less than those of the code; L has layer scale, as its configuration says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from space.downsampling.strided_convolution import StridedConvolution
from space.genes import Part
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.operators.modulation import Modulation
from space.operators.normalise import Normalise
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_NORM = "layer-1e-6"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """Blocks and expansions of the four stages, channels of the first, kernel of the stem."""

    depths: tuple[int, int, int, int]
    expansions: tuple[int, int, int, int]
    kernel: int
    width: int = 64
    layer_scale: float | None = None


_ROWS = {
    "SMT-T": _Row(depths=(2, 2, 8, 1), expansions=(4, 4, 4, 2), kernel=3),
    "SMT-S": _Row(depths=(3, 4, 18, 2), expansions=(4, 4, 4, 2), kernel=3),
    "SMT-B": _Row(depths=(4, 6, 28, 2), expansions=(8, 6, 4, 2), kernel=7),
    "SMT-L": _Row(
        depths=(4, 6, 28, 4), expansions=(8, 6, 4, 2), kernel=7, width=96, layer_scale=1e-4
    ),
}


@family
def smts() -> Iterator[Preset]:
    for variant, row in _ROWS.items():
        yield published("SMT", variant, _smt(row), source="arXiv 2307.08579; released code")


def _smt(row: _Row) -> Genome:
    module = StridedConvolution(kernel=3, norm_first=False)
    return Genome(
        resolution=224,
        stem=ConvolutionStem(
            channels=row.width,
            before=((row.kernel, 2, 1),),
            before_norm="batch",
            before_activation="relu",
            kernel=2,
            step=2,
            bias=True,
            activation="none",
        ),
        stages=tuple(
            Stage(
                channels=row.width << i,
                blocks=(*_blocks(row, i), Normalise(norm=_NORM)),
                downsample=module if i else None,
                stride=2 if i else 1,
            )
            for i in range(4)
        ),
        head=PooledHead(norm="none"),
    )


def _blocks(row: _Row, stage: int) -> list[Part]:
    """Modulation in the first two stages, attention in the last, in the third one after another,
    modulation first; a channel mixer behind each."""
    modulation = Modulation(
        gathering="heads",
        levels=4,
        inner_norm="batch",
        expansion=0,
        layer_scale=row.layer_scale,
        norm=_NORM,
    )
    attention = Attention(
        heads=8 if stage == 2 else 16,
        head_dim=0,
        value_position=True,
        expansion=0,
        layer_scale=row.layer_scale,
        norm=_NORM,
    )
    channel_mixer = InvertedBottleneck(
        expansion=row.expansions[stage],
        inner_shortcut=True,
        first_norm=_NORM,
        norm="none",
        activate="convolution",
        bias="all",
        layer_scale=row.layer_scale,
    )
    blocks: list[Part] = []
    for place in range(row.depths[stage]):
        attends = stage == 3 or (stage == 2 and place % 2 == 1)
        blocks += [attention if attends else modulation, channel_mixer]
    return blocks
