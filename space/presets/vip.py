"""Vision Permutator (ViP) Small/14, Small/7, Medium/7 and Large/7.

Source: Vision Permutator (Hou et al., 2021), arXiv 2106.12368, section 3 and table 1, and its
released code.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.downsampling.strided_convolution import StridedConvolution
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.axis_mlp import AxisMlp
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # side of a patch; channels and blocks of each resolution
    "ViP-Small/14": (14, ((384, 18),)),
    "ViP-Small/7": (7, ((192, 4), (384, 14))),
    "ViP-Medium/7": (7, ((256, 7), (512, 17))),
    "ViP-Large/7": (7, ((256, 8), (512, 28))),
}


@family
def vips() -> Iterator[Preset]:
    block = AxisMlp(mixing="permute", expansion=3)
    for variant, (patch, stages) in _ROWS.items():
        genome = Genome(
            resolution=224,
            stem=ConvolutionStem(
                channels=stages[0][0],
                kernel=patch,
                step=patch,
                bias=True,
                norm="none",
                activation="none",
            ),
            stages=tuple(
                Stage(
                    channels=width,
                    blocks=(block,) * depth,
                    downsample=StridedConvolution(kernel=2, norm="none") if i else None,
                    stride=2 if i else 1,
                )
                for i, (width, depth) in enumerate(stages)
            ),
            head=PooledHead(norm_first=True),
        )
        source = "arXiv 2106.12368; released code"
        yield published("Vision Permutator (ViP)", variant, genome, source=source)
