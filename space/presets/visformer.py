"""Visformer-Ti and S, and VisformerV2-Ti to M.

Source: Visformer (Chen et al., 2021), arXiv 2104.12533, section 3 and table 5, and its released
code, which alone has the second version: its attention is in windows as Swin's, of 14 and 7 pixels,
which are the whole map at 224.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from space.downsampling.strided_convolution import StridedConvolution
from space.genes import Part
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.embedding import Embedding
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_FIRST = {  # channels of the stem and of the first stage, heads
    "Visformer-Ti": (16, 96, 3),
    "Visformer-S": (32, 192, 6),
}
_SECOND = {  # channels of the stem and of the first stage, blocks, heads of the third
    "VisformerV2-Ti": (24, 48, (1, 4, 6, 3), 6),
    "VisformerV2-S": (32, 64, (1, 10, 14, 3), 8),
    "VisformerV2-M": (32, 96, (1, 8, 14, 2), 8),
}


@family
def visformers() -> Iterator[Preset]:
    source = "arXiv 2104.12533; released code"
    for variant, (stem, width, heads) in _FIRST.items():
        genome = visformer(
            stem, [width, 2 * width, 4 * width], (7, 4, 4), [0, heads, heads], first_stride=4
        )
        yield published("Visformer", variant, genome, source=source)
    for variant, (stem, width, depths, heads) in _SECOND.items():
        genome = visformer(
            stem,
            [width, 2 * width, 4 * width, 8 * width],
            depths,
            [0, 0, heads, 2 * heads],
            windows=[0, 0, 14, 7],
        )
        yield published("Visformer", variant, genome, source=source)


def visformer(
    stem: int,
    channels: Sequence[int],
    depths: Sequence[int],
    heads: Sequence[int],
    *,
    first_stride: int = 2,
    windows: Sequence[int] = (),
) -> Genome:
    """A network of the family, one entry for each stage: those of no heads have convolutions, and
    those of no windows attend to the whole map."""
    stages: list[Stage] = []
    before = 0  # blocks, of which every other has shifted windows
    for i, (width, depth, count) in enumerate(zip(channels, depths, heads, strict=True)):
        stride = 2 if stages else first_stride
        window = windows[i] if windows else 0
        blocks = [_block(count, window, shift=j % 2 == 1) for j in range(before, before + depth)]
        before += depth
        stages.append(
            Stage(
                channels=width,
                blocks=(Embedding(), *(part for block in blocks for part in block)),
                downsample=StridedConvolution(kernel=stride, norm="batch", norm_first=False),
                stride=stride,
            )
        )
    return Genome(
        resolution=224,
        stem=ConvolutionStem(channels=stem, kernel=7, norm="batch", activation="relu"),
        stages=tuple(stages),
        head=PooledHead(norm="batch", norm_first=True),
    )


def _block(heads: int, window: int, *, shift: bool) -> tuple[Part, ...]:
    mlp = InvertedBottleneck(context=0, first_norm="batch", norm="none", bias="none")
    if not heads:
        return (replace(mlp, expansion=2, context=3, groups=8),)
    attention = Attention(
        heads=heads, head_dim=0, qkv_bias=False, project="plain", expansion=0, norm="batch"
    )
    if window:
        attention = replace(
            attention,
            region="window",
            context=window,
            fit="padded",
            shift=shift,
            position="relative",
        )
    return attention, mlp
