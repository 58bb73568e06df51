"""RevCol-T to L.

Source: RevCol (Cai et al., 2022), arXiv 2212.11696, table 1 and section 3, and its released code.
The counts are those of the network with the last column's classifier alone, as it is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.column import ColumnOperator
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # channels of the first level, blocks of the levels, columns
    "RevCol-T": (64, (2, 2, 4, 2), 4),
    "RevCol-S": (64, (2, 2, 4, 2), 8),
    "RevCol-B": (72, (1, 1, 3, 2), 16),
    "RevCol-L": (128, (1, 2, 6, 2), 8),
}


@family
def revcols() -> Iterator[Preset]:
    for variant, row in _ROWS.items():
        yield published("RevCol", variant, revcol(*row), source="arXiv 2212.11696; released code")


def revcol(width: int, depths: Sequence[int], columns: int) -> Genome:
    """A network of the family; its last column is a stage of its own."""
    norm = "layer-1e-6"
    column = ColumnOperator(depths=tuple((depth,) for depth in depths), norm=norm, layer_scale=1e-6)
    ratio = 2 ** (len(depths) - 1)
    return Genome(
        resolution=224,
        stem=ConvolutionStem(
            channels=width, kernel=4, step=4, bias=True, norm=norm, activation="none"
        ),
        stages=(
            Stage(channels=width, blocks=(column,) * (columns - 1)),
            Stage(channels=ratio * width, blocks=(), downsample=column, stride=ratio),
        ),
        head=PooledHead(norm=norm),
    )
