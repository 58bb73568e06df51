"""HorNet-T to B, with 7x7 filters or, in the last two stages, with global-local ones (GF).

Source: HorNet (Rao et al., 2022), arXiv 2207.14284, sections 3.1 and 3.2, and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from space.downsampling.strided_convolution import StridedConvolution
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.modulation import Modulation
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_WIDTHS = {"HorNet-T": 64, "HorNet-S": 96, "HorNet-B": 128}  # channels of the first stage
_DEPTHS = (2, 3, 18, 2)
_NORM = "layer-1e-6"


@family
def hornets() -> Iterator[Preset]:
    for name, width in _WIDTHS.items():
        for filters in ("7x7", "GF"):
            genome = hornet(width, filters == "GF")
            source = "arXiv 2207.14284; released code"
            yield published("HorNet", f"{name} ({filters})", genome, source=source)


def hornet(width: int, global_filter: bool) -> Genome:
    """A network of the family; the order grows from 2 in the first stage to 5 in the last."""
    plain = Modulation(gathering="recursive", context=7, layer_scale=1e-6, norm=_NORM)
    last = plain
    if global_filter:
        last = replace(plain, gathering="recursive_filter", context=3, inner_norm=_NORM)
    return Genome(
        resolution=224,
        stem=ConvolutionStem(
            channels=width, kernel=4, step=4, bias=True, norm=_NORM, activation="none"
        ),
        stages=tuple(
            Stage(
                channels=width << i,
                blocks=(replace(block, levels=2 + i),) * depth,
                downsample=StridedConvolution(kernel=2, norm=_NORM) if i else None,
                stride=2 if i else 1,
            )
            for i, (depth, block) in enumerate(
                zip(_DEPTHS, (plain, plain, last, last), strict=True)
            )
        ),
        head=PooledHead(norm=_NORM),
    )
