"""The image encoders MCi0 to MCi2 of MobileCLIP; their 512 outputs are an embedding.

Source: MobileCLIP (Vasu et al., 2023), arXiv 2311.17049, section 4.2 and appendix A, and its
released code. They are FastViTs with attention in the last stage, an activation and, in front of
the last two stages, a gate behind the large-kernel convolution.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.downsampling.large_kernel import LargeKernel
from space.presets.fastvit import fastvit
from space.presets.published import Preset, family, published

_ROWS = {  # channels of the first stage, depths
    "MCi0": (64, (2, 6, 10, 2)),
    "MCi1": (64, (4, 12, 20, 4)),
    "MCi2": (80, (4, 12, 24, 4)),
}


@family
def image_encoders() -> Iterator[Preset]:
    modules = tuple(
        LargeKernel(norm="batch", activate="both", squeeze_ratio=ratio) for ratio in (0, 0.25, 0.25)
    )
    for variant, (width, depths) in _ROWS.items():
        genome = fastvit(
            width,
            depths,
            3,
            attends=True,
            scale=1e-5,
            modules=modules,
            classes=512,
            classifier_bias=False,
        )
        yield published("MobileCLIP MCi", variant, genome, source="arXiv 2311.17049; released code")
