"""ResMLP-12, -24 and -36.

Source: ResMLP (Touvron et al., 2021), arXiv 2105.03404, section 2, and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.operators.token_mlp import TokenMlp
from space.presets.mixer import isotropic
from space.presets.published import Preset, family, published

_ROWS = {"ResMLP-12": (12, 1e-4), "ResMLP-24": (24, 1e-5), "ResMLP-36": (36, 1e-6)}


@family
def resmlps() -> Iterator[Preset]:
    for variant, (depth, start) in _ROWS.items():
        block = TokenMlp(form="linear", norm="affine", layer_scale=start)
        genome = isotropic(16, 384, depth, block, "affine")
        yield published("ResMLP", variant, genome, source="arXiv 2105.03404; released code")
