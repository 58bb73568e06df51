"""Hire-MLP-Tiny, -Small and -Base.

Source: Hire-MLP (Guo et al., 2021), arXiv 2108.13341, section 3 and its table of variants, and its
released code.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.operators.axis_mlp import AxisMlp
from space.presets.cyclemlp import pyramid
from space.presets.published import Preset, family, published

_ROWS = {
    "Hire-MLP-Tiny": (2, 2, 4, 2),
    "Hire-MLP-Small": (3, 4, 10, 3),
    "Hire-MLP-Base": (4, 6, 24, 3),
}
# Of each stage: side of a region, and the steps by which the blocks shift theirs in turn.
_REGIONS = ((4, (0, 2)), (3, (0, 2)), (3, (0, 1, 2)), (2, (0, 1)))


@family
def hiremlps() -> Iterator[Preset]:
    for variant, depths in _ROWS.items():
        stages = [
            tuple(_block(side, steps[j % len(steps)]) for j in range(depth))
            for depth, (side, steps) in zip(depths, _REGIONS, strict=True)
        ]
        genome = pyramid(stages, norm="batch", activation="relu", last_norm="batch")
        yield published("Hire-MLP", variant, genome, source="arXiv 2108.13341; released code")


def _block(side: int, step: int) -> AxisMlp:
    return AxisMlp(mixing="region", context=side, step=step, norm="batch", inner_norm="batch")
