"""Wave-MLP-T*, -T, -S and -M.

Source: Wave-MLP (Tang et al., 2021), arXiv 2111.12294, sections 3 and 4, and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.operators.axis_mlp import AxisMlp
from space.presets.cyclemlp import pyramid
from space.presets.published import Preset, family, published

_ROWS = {  # blocks, expansion of the first two stages, norm, and that behind convolutions
    "Wave-MLP-T*": ((2, 2, 4, 2), 4, "batch", "batch"),
    "Wave-MLP-T": ((2, 2, 4, 2), 4, "batch", "batch"),
    "Wave-MLP-S": ((2, 3, 10, 3), 4, "group", "group"),
    "Wave-MLP-M": ((3, 4, 18, 3), 8, "group", "none"),
}


@family
def wavemlps() -> Iterator[Preset]:
    for variant, (depths, early, norm, patch_norm) in _ROWS.items():
        phase = "depthwise" if variant.endswith("*") else "linear"
        stages = [
            (
                AxisMlp(
                    mixing="wave",
                    context=7,
                    phase=phase,
                    expansion=early if i < 2 else 4,
                    norm=norm,
                    inner_norm="batch",
                ),
            )
            * depth
            for i, depth in enumerate(depths)
        ]
        genome = pyramid(stages, norm=patch_norm, last_norm=norm)
        yield published("Wave-MLP", variant, genome, source="arXiv 2111.12294; released code")
