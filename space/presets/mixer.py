"""MLP-Mixer S/32, S/16, B/32 and B/16.

Source: MLP-Mixer (Tolstikhin et al., 2021), arXiv 2105.01601, section 2 and table 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.genes import Part
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.token_mlp import TokenMlp
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_ROWS = {  # side of a patch, channels, blocks
    "Mixer-S/32": (32, 512, 8),
    "Mixer-S/16": (16, 512, 8),
    "Mixer-B/32": (32, 768, 12),
    "Mixer-B/16": (16, 768, 12),
}


@family
def mixers() -> Iterator[Preset]:
    for variant, (patch, width, depth) in _ROWS.items():
        genome = isotropic(patch, width, depth, TokenMlp(norm="layer-1e-6"), "layer-1e-6")
        yield published("MLP-Mixer", variant, genome, source="arXiv 2105.01601; released code")


def isotropic(patch: int, width: int, depth: int, block: Part, norm: str) -> Genome:
    """Patches, one stage of equal blocks, a norm and the mean."""
    return Genome(
        resolution=224,
        stem=ConvolutionStem(
            channels=width, kernel=patch, step=patch, bias=True, norm="none", activation="none"
        ),
        stages=(Stage(channels=width, blocks=(block,) * depth),),
        head=PooledHead(norm=norm, norm_first=True),
    )
