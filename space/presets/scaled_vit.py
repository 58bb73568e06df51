"""ViT-Ti to G: the shapes of "Scaling Vision Transformers".

Source: Zhai et al., 2022, arXiv 2106.04560, table 2, and released code, which has GELU in its tanh
form; ViT-M and all patch sizes are from the code. The head reads the class token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from space.presets.published import Preset, family, published
from space.presets.vit import vit

_SHAPES = {  # width, blocks, hidden width of the MLP, heads
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
}
_VARIANTS = ("Ti/16", "S/32", "S/16", "M/16", "B/32", "B/16", "L/16", "H/14", "g/14", "G/14")


@family
def scaled_vits() -> Iterator[Preset]:
    for variant in _VARIANTS:
        shape, patch = variant.split("/")
        width, depth, hidden, heads = _SHAPES[shape]
        genome = vit(
            width, depth, heads=heads, patch=int(patch), hidden=hidden, activation="gelu-tanh"
        )
        preset = published(
            "Scaling Vision Transformers (ViT shapes)",
            f"ViT-{variant}",
            genome,
            source="arXiv 2106.04560; released code",
        )
        # Its name would be that of ViT-g.
        yield replace(preset, name="vit_gigantic_14") if shape == "G" else preset
