"""FocalNet-T to B with small and large receptive fields (SRF, LRF), and the isotropic ones.

Source: FocalNet (Yang et al., 2022), arXiv 2203.11926, sections 3 and 4, and its
released code.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.downsampling.strided_convolution import StridedConvolution
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.modulation import Modulation
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # channels of the first stage, blocks of the third
    "FocalNet-T": (96, 6),
    "FocalNet-S": (96, 18),
    "FocalNet-B": (128, 18),
}
_ISOTROPIC = {"FocalNet-T": 192, "FocalNet-S": 384, "FocalNet-B": 768}
_SOURCE = "arXiv 2203.11926; released code"


@family
def focalnets() -> Iterator[Preset]:
    for name, (width, deep) in _ROWS.items():
        for reach, levels in (("SRF", 2), ("LRF", 3)):
            genome = focalnet(4, width, [2, 2, deep, 2], Modulation(levels=levels))
            yield published("FocalNet", f"{name} ({reach})", genome, source=_SOURCE)
    for name, width in _ISOTROPIC.items():
        block = Modulation(levels=3)
        if name == "FocalNet-B":
            block = Modulation(levels=3, post_norm=True, layer_scale=1e-4)
        genome = focalnet(16, width, [12], block)
        yield published("FocalNet", f"{name} (isotropic, patch 16)", genome, source=_SOURCE)


def focalnet(patch: int, width: int, depths: list[int], block: Modulation) -> Genome:
    """A network of the family: stages of `depths` blocks, each twice as wide as the one before."""
    return Genome(
        resolution=224,
        stem=ConvolutionStem(
            channels=width, kernel=patch, step=patch, bias=True, norm="layer", activation="none"
        ),
        stages=tuple(
            Stage(
                channels=width << i,
                blocks=(block,) * depth,
                downsample=StridedConvolution(kernel=2, norm_first=False) if i else None,
                stride=2 if i else 1,
            )
            for i, depth in enumerate(depths)
        ),
        head=PooledHead(norm="layer", norm_first=True),
    )
