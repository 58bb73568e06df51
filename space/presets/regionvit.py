"""RegionViT-Ti to B, with windows of 14 and with depthwise position codes.

Source: RegionViT (Chen et al., 2021), arXiv 2106.02689, table 1, and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.downsampling.regional import RegionalDsm
from space.genome import Genome, Stage
from space.heads.regional import RegionalHead
from space.operators.regional import Regional
from space.presets.published import Preset, family, published
from space.stems.regional import RegionalStem

_SIZES = {  # channels of the first stage, blocks of the third, how the local map is made
    "Ti": (64, 8, "convolutions"),
    "S": (96, 8, "convolutions"),
    "M": (96, 14, "patches"),
    "B": (128, 14, "patches"),
}
_VARIANTS = ("Ti", "S", "M", "B", "S-w14", "S-w14-peg", "B-w14", "B-w14-peg")


@family
def regionvits() -> Iterator[Preset]:
    for variant in _VARIANTS:
        size, *also = variant.split("-")
        genome = regionvit(*_SIZES[size], window=14 if "w14" in also else 7, peg="peg" in also)
        yield published(
            "RegionViT", f"RegionViT-{variant}", genome, source="arXiv 2106.02689; released code"
        )


def regionvit(width: int, deep: int, local: str, *, window: int, peg: bool) -> Genome:
    """A network of the family."""
    block = Regional(norm="layer-1e-6")
    first = Regional(norm="layer-1e-6", depthwise_position=peg)
    return Genome(
        resolution=224,
        stem=RegionalStem(channels=width, window=window, local=local),
        stages=tuple(
            Stage(
                channels=2**i * width,
                blocks=(first,) + (block,) * (depth - 1),
                downsample=RegionalDsm() if i else None,
                stride=2 if i else 1,
            )
            for i, depth in enumerate((2, 2, deep, 2))
        ),
        head=RegionalHead(norm="layer-1e-6"),
    )
