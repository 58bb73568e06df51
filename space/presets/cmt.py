"""CMT-Ti to L.

Source: CMT (Guo et al., 2022), arXiv 2107.06263, section 3 and table 2, and its released code,
where the bias of a stage belongs to pairs of pixels. The size that the paper prints for CMT-S
(25.1M) is not that of the code (26.3M). Neither has the shape of CMT-L: ours follows the others
(five blocks in the third stage for each one elsewhere) and fits the printed size and cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from space.downsampling.strided_convolution import StridedConvolution
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.convolution import Convolution
from space.operators.embedding import Embedding
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.operators.release import Release
from space.presets.published import Preset, family, published
from space.stems.convolution import ConvolutionStem

_SIZES = {  # resolution, channels of the stem and of the first stage, blocks, expansion
    "CMT-Ti": (160, 16, 46, (2, 2, 10, 2), 3.6),
    "CMT-Ti@224": (224, 16, 46, (2, 2, 10, 2), 3.6),
    "CMT-XS": (192, 16, 52, (3, 3, 12, 3), 3.77),
    "CMT-S": (224, 32, 64, (3, 3, 16, 3), 4),
    "CMT-B": (256, 38, 76, (4, 4, 20, 4), 4),
    "CMT-B@224": (224, 38, 76, (4, 4, 20, 4), 4),
    "CMT-L": (288, 44, 88, (5, 5, 25, 5), 4),
}


@family
def cmts() -> Iterator[Preset]:
    for variant, (resolution, stem, width, depths, expansion) in _SIZES.items():
        channels = [width, 2 * width, 4 * width, 8 * width]
        genome = cmt(resolution, stem, channels, depths, expansion=expansion)
        yield published(
            "CMT",
            variant,
            genome,
            source="arXiv 2107.06263; released code",
            reconstruction=variant == "CMT-L",
        )


def cmt(
    resolution: int,
    stem: int,
    channels: Sequence[int],
    depths: Sequence[int],
    *,
    expansion: float,
) -> Genome:
    """A network of the family; `channels` and `depths` (of blocks) are those of the four stages."""
    norm = "layer-1e-6"
    local = Convolution(first_norm="none", activation="none", second="none", expansion=0)
    feed_forward = InvertedBottleneck(
        expansion=expansion,
        inner_shortcut=True,
        first_norm=norm,
        norm="batch",
        last_norm="batch",
        activation_first=True,
        bias="all",
    )
    stages = []
    for i, (width, depth) in enumerate(zip(channels, depths, strict=True)):
        heads, reduction = 2**i, 8 // 2**i
        attention = Attention(
            heads=heads,
            head_dim=0,
            kv_reduction=reduction,
            reduction="patches" if reduction > 1 else "depthwise",
            position="shared",
            expansion=0,
            norm=norm,
        )
        pairs = Embedding(position=False, pair_heads=heads, kv_reduction=reduction)
        stages.append(
            Stage(
                channels=width,
                blocks=(pairs, *(local, attention, feed_forward) * depth, Release()),
                downsample=StridedConvolution(kernel=2, norm_first=False),
                stride=2,
            )
        )
    return Genome(
        resolution=resolution,
        stem=ConvolutionStem(
            channels=stem,
            step=1,
            bias=True,
            norm="batch",
            before=((3, 2, 1), (3, 1, 1)),
            before_bias=True,
            before_norm="batch",
            activation_first=True,
        ),
        stages=tuple(stages),
        head=PooledHead(features=1280, features_bias=True, norm="batch", activation="silu"),
    )
