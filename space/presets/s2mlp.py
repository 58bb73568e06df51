"""S2-MLP-deep and -wide.

Source: S2-MLP (Yu et al., 2021), arXiv 2106.07477, sections 3 and 4. Neither code nor weights are
released; as in an unofficial implementation, on which the figures were counted, there is no norm
behind the patches and none before the classifier.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.operators.axis_mlp import AxisMlp
from space.presets.mixer import isotropic
from space.presets.published import Preset, family, published


@family
def s2mlps() -> Iterator[Preset]:
    for variant, (width, depth) in {"S2-MLP-deep": (384, 36), "S2-MLP-wide": (768, 12)}.items():
        genome = isotropic(16, width, depth, AxisMlp(mixing="spatial_shift"), "none")
        yield published("S2-MLP", variant, genome, source="arXiv 2106.07477")
