"""HaloNet-H0 to H3, and timm's: bottlenecks whose convolutions are attention of blocks with a halo,
all of them or some.

Sources: HaloNet (Vaswani et al., 2021), arXiv 2103.12731, section 4 and table 2; timm's code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from space.genome import Genome
from space.heads.pooled import PooledHead
from space.operators.attention import Attention
from space.operators.convolution import Convolution
from space.presets.botnet import bottleneck_stages, residual_stem, tiered_stem
from space.presets.published import Preset, family, published

_Block = Attention | Convolution
_HALO = Attention(
    region="halo",
    context=8,
    fit="padded",
    shell="bottleneck",
    heads=8,
    head_dim=0,
    position="query",
    qkv_bias=False,
    project="none",
    downsampled="queries",
    norm="batch",
    expansion=0,
)
_CONVOLUTION = Convolution(shell="bottleneck", group_width=0, norm="batch", expansion=0)
_HS = {  # resolution, side of a block, width out over that of the middle, blocks of stage 3, head
    "halonet_h0": (256, 8, 0.5, 7, 0),
    "halonet_h1": (256, 8, 1, 10, 0),
    "halonet_h2": (256, 8, 1.25, 11, 0),
    "halonet_h3": (320, 10, 1.5, 12, 1024),
}


@family
def halonets() -> Iterator[Preset]:
    source = "arXiv 2103.12731"
    for variant, row in _HS.items():
        yield published("HaloNet", variant, halonet(*row), source=source)
    of_timm = {
        "halonet_h1_timm": halonet(256, 8, 1, 10, 0, heads=(8, 8, 8, 8), activation="relu"),
        "halonet26t": _halonet26t(),
        "halonet50ts": _halonet50ts(),
        "sehalonet33ts": _sehalonet33ts(),
        "eca_halonext26ts": _eca_halonext26ts(),
    }
    for variant, genome in of_timm.items():
        yield published("HaloNet", variant, genome, source=f"{source}; timm")


def halonet(
    resolution: int,
    context: int,
    widening: float,
    deep: int,
    features: int,
    *,
    heads: Sequence[int] = (4, 8, 8, 8),
    activation: str = "silu",
) -> Genome:
    """A network of the paper; `features` is the width of a 1x1 convolution in front of the head."""
    block = replace(_HALO, context=context, ratio=1 / widening, activation=activation)
    blocks = [
        (replace(block, heads=count),) * depth
        for count, depth in zip(heads, (3, 3, deep, 3), strict=True)
    ]
    return Genome(
        resolution=resolution,
        stem=residual_stem(activation),
        stages=bottleneck_stages([int(widening * width) for width in (64, 128, 256, 512)], blocks),
        head=_head(features, activation),
    )


def _halonet26t() -> Genome:
    plain, halo = _CONVOLUTION, replace(_HALO, halo=2)
    blocks: list[tuple[_Block, ...]] = [(plain, plain), (plain, plain), (plain, halo), (halo, halo)]
    return _of_timm("relu", blocks)


def _halonet50ts() -> Genome:
    plain, halo = _CONVOLUTION, _HALO
    second = (plain, plain, plain, replace(halo, heads=4))
    return _of_timm("silu", [(plain,) * 3, second, (plain, halo) * 3, (plain, halo, plain)])


def _sehalonet33ts() -> Genome:
    """With squeeze-excite behind the convolutions, and a narrower last stage."""
    gated, halo = replace(_CONVOLUTION, gate="squeeze_excite"), _HALO
    last = (replace(halo, ratio=1 / 3),) * 2
    blocks: list[tuple[_Block, ...]] = [
        (gated, gated),
        (gated, gated, halo),
        (gated, gated, halo),
        last,
    ]
    return _of_timm("silu", blocks, last_width=1536, pool=False, features=1280)


def _eca_halonext26ts() -> Genome:
    """With groups of 16 channels and ECA in the convolutions, and queries of 16 channels a head."""
    grouped = replace(_CONVOLUTION, group_width=16, gate="eca")
    halo = replace(_HALO, halo=2, head_dim=16)
    third, fourth = replace(halo, value_ratio=2), replace(halo, value_ratio=4)
    blocks: list[tuple[_Block, ...]] = [
        (grouped, grouped),
        (grouped, grouped),
        (grouped, third),
        (fourth, fourth),
    ]
    return _of_timm("silu", blocks)


def _of_timm(
    activation: str,
    blocks: Sequence[tuple[_Block, ...]],
    *,
    last_width: int = 2048,
    pool: bool = True,
    features: int = 0,
) -> Genome:
    active = [tuple(replace(part, activation=activation) for part in parts) for parts in blocks]
    return Genome(
        resolution=256,
        stem=tiered_stem(activation, pool=pool),
        stages=bottleneck_stages((256, 512, 1024, last_width), active),
        head=_head(features, activation),
    )


def _head(features: int, activation: str) -> PooledHead:
    if not features:
        return PooledHead(norm="none")
    return PooledHead(features=features, norm="batch", activation=activation)
