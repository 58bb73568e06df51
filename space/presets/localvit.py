"""LocalViT in four hosts: DeiT (T and S), PVT and Swin.

Source: LocalViT (Li et al., 2021), arXiv 2104.05707, section 3 and table 6, and its released code.
The hosts are DeiT with heads of 48 channels (arXiv 2012.12877), PVT-Tiny (2102.12122, table 1) and
Swin-T (2103.14030), each with a convolution inside its feed-forward layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from space.downsampling.strided_convolution import StridedConvolution
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.embedding import Embedding
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.operators.nested import feed_forward
from space.presets.published import Preset, family, published
from space.presets.swin import swin
from space.presets.vit import vit
from space.stems.convolution import ConvolutionStem

_NORM = "layer-1e-6"


@family
def localvits() -> Iterator[Preset]:
    ungated = replace(
        feed_forward(6, 0.25), squeeze_excite=False, squeeze_style="hidden", activation="relu6"
    )
    genomes = {
        "LocalViT-T": deit(192, 4, feed_forward(4, 1 / 192)),
        "LocalViT-T-SE4": deit(192, 4, feed_forward(4, 1 / 4)),
        "LocalViT-T (ratio 6, ReLU6, no SE)": deit(192, 4, ungated),
        "LocalViT-S": deit(384, 8, feed_forward(4, 1 / 384)),
        "LocalViT-PVT": pvt(),
        "LocalViT-Swin (T)": local_swin(),
    }
    for variant, genome in genomes.items():
        yield published("LocalViT", variant, genome, source="arXiv 2104.05707; released code")


def deit(channels: int, heads: int, local: InvertedBottleneck) -> Genome:
    """DeiT of 12 blocks with `local` behind each attention, which the class token passes by."""
    host = vit(channels, 12, heads=heads, patch=16)
    attention = Attention(heads=heads, head_dim=0, expansion=0, norm=_NORM)
    start = Embedding(tokens=1, token_position=True)
    stage = Stage(channels=channels, blocks=(start, *(attention, local) * 12))
    return replace(host, stages=(stage,))


def pvt() -> Genome:
    """PVT-Tiny; its class token stands in the last stage alone."""
    stages: list[Stage] = []
    rows = zip((64, 128, 320, 512), (1, 2, 5, 8), (8, 8, 4, 4), (8, 4, 2, 1), strict=True)
    for width, heads, expansion, reduction in rows:
        attention = Attention(
            heads=heads,
            head_dim=0,
            kv_reduction=reduction,
            reduction="full_patches" if reduction > 1 else "depthwise",
            expansion=0,
            norm=_NORM,
        )
        last = width == 512
        start = Embedding(tokens=1, token_position=True) if last else Embedding()
        stages.append(
            Stage(
                channels=width,
                blocks=(start, *(attention, feed_forward(expansion, 1 / width)) * 2),
                downsample=StridedConvolution(norm_first=False) if stages else None,
                stride=2 if stages else 1,
            )
        )
    return Genome(
        resolution=224,
        stem=ConvolutionStem(channels=64, kernel=4, step=4, bias=True, activation="none"),
        stages=tuple(stages),
        head=PooledHead(norm=_NORM),
    )


def local_swin() -> Genome:
    """Swin-T; squeeze-excite goes to 16 channels in every stage."""
    host = swin([96, 192, 384, 768], [2, 2, 6, 2], expansion=0)
    stages = []
    for stage in host.stages:
        local = feed_forward(4, 4 / stage.channels)
        blocks = tuple(part for attention in stage.blocks for part in (attention, local))
        stages.append(replace(stage, blocks=blocks))
    return replace(host, stages=tuple(stages))
