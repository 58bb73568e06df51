"""gMLP-Ti, -S and -B.

Source: gMLP (Liu et al., 2021), arXiv 2105.08050, section 2 and table 1. The epsilons are those of
timm, which has the weights: 1e-6 before a block and 1e-5 inside the gate.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.operators.token_mlp import TokenMlp
from space.presets.mixer import isotropic
from space.presets.published import Preset, family, published


@family
def gmlps() -> Iterator[Preset]:
    block = TokenMlp(form="gated", expansion=6, norm="layer-1e-6")
    for variant, width in {"gMLP-Ti": 128, "gMLP-S": 256, "gMLP-B": 512}.items():
        genome = isotropic(16, width, 30, block, "layer-1e-6")
        yield published("gMLP", variant, genome, source="arXiv 2105.08050; timm")
