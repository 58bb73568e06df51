"""AS-MLP-T, -S and -B.

Source: AS-MLP (Lian et al., 2021), arXiv 2107.08391, section 3, and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.downsampling.space_to_depth import SpaceToDepthDsm
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.axis_mlp import AxisMlp
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # channels of the first stage, blocks of the third
    "AS-MLP-T": (96, 6),
    "AS-MLP-S": (96, 18),
    "AS-MLP-B": (128, 18),
}


@family
def asmlps() -> Iterator[Preset]:
    block = AxisMlp(mixing="shift", context=5, norm="group", inner_norm="group")
    for variant, (width, deep) in _ROWS.items():
        genome = Genome(
            resolution=224,
            stem=ConvolutionStem(
                channels=width, kernel=4, step=4, bias=True, norm="group", activation="none"
            ),
            stages=tuple(
                Stage(
                    channels=width << i,
                    blocks=(block,) * depth,
                    downsample=SpaceToDepthDsm(norm="group") if i else None,
                    stride=2 if i else 1,
                )
                for i, depth in enumerate((2, 2, deep, 2))
            ),
            head=PooledHead(norm="group", norm_first=True),
        )
        yield published("AS-MLP", variant, genome, source="arXiv 2107.08391; released code")
