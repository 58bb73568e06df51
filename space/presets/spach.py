"""SPACH: the same network with convolutions, attention or token MLPs, and hybrids of the first two.

Source: Zhao et al., 2021, "A Battle of Network Structures", arXiv 2108.13002, section 3, and its
released code. Every block has a 3x3 depthwise convolution of its input beside the token mixer;
where the convolution is the mixer, that is all. In networks of four stages the first has
convolutions whatever the others have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from space.downsampling.strided_convolution import StridedConvolution
from space.genes import Part
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.convolution import Convolution
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.operators.token_mlp import TokenMlp
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_NORM = "layer-1e-6"
_SINGLE = {  # of one stage: channels, blocks, ratio of the channel MLP
    "SPACH-XXS conv": (384, 12, 2),
    "SPACH-XXS attn": (192, 12, 2),
    "SPACH-XXS mlp": (384, 12, 2),
    "SPACH-XS conv": (384, 24, 2),
    "SPACH-XS attn": (384, 12, 2),
    "SPACH-XS mlp": (384, 24, 2),
    "SPACH-S conv": (512, 24, 3),
    "SPACH-S attn": (512, 12, 3),
    "SPACH-S mlp": (512, 24, 3),
}
_MULTI = {  # of four stages: channels of the first, blocks, ratio
    "SPACH-MS-XXS conv": (64, (2, 2, 6, 2), 2),
    "SPACH-MS-XXS attn": (32, (2, 2, 6, 2), 2),
    "SPACH-MS-XXS mlp": (64, (2, 2, 6, 2), 2),
    "SPACH-MS-XS conv": (96, (3, 4, 12, 3), 2),
    "SPACH-MS-XS attn": (64, (3, 4, 12, 3), 2),
    "SPACH-MS-XS mlp": (96, (3, 4, 12, 3), 2),
    "SPACH-MS-S conv": (128, (3, 4, 12, 3), 3),
    "SPACH-MS-S attn": (96, (3, 4, 12, 3), 3),
    "SPACH-MS-S mlp": (128, (3, 4, 12, 3), 3),
}
_HYBRID = {  # channels of the first stage, ratio; of each stage's blocks those with attention, last
    "SPACH-Hybrid-MS-XS": (96, 2, (0, 0, 10, 2)),
    "SPACH-Hybrid-MS-S": (128, 3, (0, 2, 10, 2)),
    "SPACH-Hybrid-MS-S+": (128, 3, (0, 2, 10, 2)),
}


@family
def spachs() -> Iterator[Preset]:
    source = "arXiv 2108.13002; released code"
    for variant, (width, depth, ratio) in _SINGLE.items():
        mixers = [[variant.split()[1]] * depth]
        yield published("SPACH", variant, spach(16, width, mixers, ratio), source=source)
    for variant, (width, depths, ratio) in _MULTI.items():
        later = variant.split()[1]
        mixers = [[later if i else "conv"] * depth for i, depth in enumerate(depths)]
        yield published("SPACH", variant, spach(4, width, mixers, ratio), source=source)
    for variant, (width, ratio, last) in _HYBRID.items():
        mixers = [
            ["conv"] * (depth - count) + ["attn"] * count
            for depth, count in zip((3, 4, 12, 3), last, strict=True)
        ]
        genome = spach(4, width, mixers, ratio, deep=variant.endswith("+"))
        yield published("SPACH", variant, genome, source=source)


def spach(
    patch: int, width: int, mixers: Sequence[Sequence[str]], ratio: float, *, deep: bool = False
) -> Genome:
    """A network of the family: `mixers` names the token mixers of each stage, `deep` puts three
    convolutions before the patches. Heads are 32 wide in the first stage, and as many in all."""
    channel_mixer = InvertedBottleneck(
        expansion=ratio, context=0, first_norm=_NORM, norm="none", bias="all"
    )
    kinds = _mixers(heads=width // 32)
    return Genome(
        resolution=224,
        stem=_deep_stem(patch, width) if deep else _stem(patch, width),
        stages=tuple(
            Stage(
                channels=width << i,
                blocks=tuple(part for name in names for part in (kinds[name], channel_mixer)),
                downsample=StridedConvolution(kernel=2, norm="group", norm_first=False, bias=False)
                if i
                else None,
                stride=2 if i else 1,
            )
            for i, names in enumerate(mixers)
        ),
        head=PooledHead(norm=_NORM, norm_first=True),
    )


def _mixers(heads: int) -> dict[str, Part]:
    beside: dict[str, Any] = {"bypass": True, "expansion": 0, "layer_scale": 1e-4, "norm": _NORM}
    return {
        "conv": Convolution(activation="none", second="none", first_norm="none", expansion=0),
        "attn": Attention(heads=heads, head_dim=0, **beside),
        "mlp": TokenMlp(token_ratio_of="pixels", **beside),
    }


def _stem(patch: int, width: int) -> ConvolutionStem:
    return ConvolutionStem(
        channels=width, kernel=patch, step=patch, bias=True, norm=_NORM, activation="none"
    )


def _deep_stem(patch: int, width: int) -> ConvolutionStem:
    return ConvolutionStem(
        channels=width,
        kernel=patch // 2,
        step=patch // 2,
        bias=True,
        norm=_NORM,
        activation="none",
        before=((7, 2, 64 / width), (3, 1, 64 / width), (3, 1, 64 / width)),
        before_norm="batch",
        before_activation="relu",
    )
