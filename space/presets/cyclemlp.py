"""CycleMLP-B1 to B3.

Source: CycleMLP (Chen et al., 2021), arXiv 2107.10224, section 3 and its table of variants, and its
released code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from space.downsampling.strided_convolution import StridedConvolution
from space.genes import Part
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.axis_mlp import AxisMlp
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # blocks and expansion of the stages
    "CycleMLP-B1": ((2, 2, 4, 2), (4, 4, 4, 4)),
    "CycleMLP-B2": ((2, 3, 10, 3), (4, 4, 4, 4)),
    "CycleMLP-B3": ((3, 4, 18, 3), (8, 8, 4, 4)),
}


@family
def cyclemlps() -> Iterator[Preset]:
    for variant, (depths, expansions) in _ROWS.items():
        stages = [
            (AxisMlp(expansion=expansion),) * depth
            for depth, expansion in zip(depths, expansions, strict=True)
        ]
        genome = pyramid(stages)
        yield published("CycleMLP", variant, genome, source="arXiv 2107.10224; released code")


def pyramid(
    stages: Sequence[tuple[Part, ...]],
    *,
    norm: str = "none",
    activation: str = "none",
    last_norm: str = "layer",
) -> Genome:
    """Blocks on maps of 1/4 to 1/32 of the image, behind overlapping patches, with the same norm
    and activation behind each convolution; Hire-MLP and Wave-MLP have the same frame."""
    return Genome(
        resolution=224,
        stem=ConvolutionStem(
            channels=64,
            kernel=7,
            step=4,
            bias=True,
            norm=norm,
            activation=activation,
            padding="least",
        ),
        stages=tuple(
            Stage(
                channels=width,
                blocks=blocks,
                downsample=StridedConvolution(
                    kernel=3, norm=norm, activation=activation, norm_first=False
                )
                if i
                else None,
                stride=2 if i else 1,
            )
            for i, (width, blocks) in enumerate(zip((64, 128, 320, 512), stages, strict=True))
        ),
        head=PooledHead(norm=last_norm, norm_first=True),
    )
