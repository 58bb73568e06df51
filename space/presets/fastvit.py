"""FastViT-T8 to MA36.

Source: FastViT (Vasu et al., 2023), arXiv 2303.14189, table 2, and its released code, in the form
that is trained. As that code has it, nothing is activated between the large-kernel convolution of a
downsampling module and the 1x1 convolution behind it.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.downsampling.large_kernel import LargeKernel
from space.genes import Part
from space.genome import Genome, Stage
from space.heads.mobileone import MobileOneHead
from space.operators.attention import Attention
from space.operators.convolution import Convolution
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.operators.rep_mixer import RepMixer
from space.presets.published import Preset, family, published
from space.stems.mobileone import MobileOneStem

_ROWS = {  # channels of the first stage, depths, expansion, attention in the last stage, scales
    "FastViT-T8": (48, (2, 2, 4, 2), 3, False, 1e-5),
    "FastViT-T12": (64, (2, 2, 6, 2), 3, False, 1e-5),
    "FastViT-S12": (64, (2, 2, 6, 2), 4, False, 1e-5),
    "FastViT-SA12": (64, (2, 2, 6, 2), 4, True, 1e-5),
    "FastViT-SA24": (64, (4, 4, 12, 4), 4, True, 1e-5),
    "FastViT-SA36": (64, (6, 6, 18, 6), 4, True, 1e-6),
    "FastViT-MA36": (76, (6, 6, 18, 6), 4, True, 1e-6),
}


@family
def fastvits() -> Iterator[Preset]:
    for variant, (width, depths, expansion, attends, scale) in _ROWS.items():
        genome = fastvit(width, depths, expansion, attends=attends, scale=scale)
        yield published("FastViT", variant, genome, source="arXiv 2303.14189; released code")


def fastvit(
    width: int,
    depths: tuple[int, ...],
    expansion: int,
    *,
    attends: bool,
    scale: float,
    modules: tuple[Part, ...] = (LargeKernel(norm="batch"),) * 3,
    classes: int = 1000,
    classifier_bias: bool = True,
) -> Genome:
    """A network of the family; `modules` are those in front of the last three stages, `scale` is
    where the layer scales start."""
    stages = []
    for i, (depth, module) in enumerate(zip(depths, (None, *modules), strict=True)):
        last = attends and i == 3
        stages.append(
            Stage(
                channels=width * 2**i,
                downsample=module,
                stride=2 if i else 1,
                blocks=(_position(),) * last + _block(last, expansion, scale) * depth,
            )
        )
    return Genome(
        resolution=256,
        classes=classes,
        stem=MobileOneStem(channels=width, norm="batch"),
        stages=tuple(stages),
        head=MobileOneHead(norm="batch", bias=classifier_bias),
    )


def _position() -> Part:
    return Convolution(context=7, first_norm="none", activation="none", second="none", expansion=0)


def _block(attends: bool, expansion: int, scale: float) -> tuple[Part, Part]:
    mixer: Part = RepMixer(norm="batch", layer_scale=scale, expansion=0)
    if attends:
        mixer = Attention(head_dim=32, norm="batch", qkv_bias=False, layer_scale=scale, expansion=0)
    ffn = InvertedBottleneck(
        expansion=expansion,
        context=7,
        convolution="first",
        first_norm="batch",
        norm="none",
        bias="linear",
        layer_scale=scale,
    )
    return mixer, ffn
