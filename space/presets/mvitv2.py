"""MViTv2-T, S, B and L for images.

Source: MViTv2 (Li et al., 2021), arXiv 2112.01526, sections 3.1 and 4.1 and table 1, and its
released code, where the width of L changes in the MLP in front of a smaller map.
"""

from __future__ import annotations

from collections.abc import Iterator

from space.operators.pooling_attention import PoolingAttentionOperator
from space.presets.mvit import mvit
from space.presets.published import Preset, family, published

_ROWS = {  # width of the first stage, blocks of each, width of a head, where the width changes
    "MViTv2-T": (96, (1, 2, 5, 2), 96, "attention"),
    "MViTv2-S": (96, (1, 2, 11, 2), 96, "attention"),
    "MViTv2-B": (96, (2, 3, 16, 3), 96, "attention"),
    "MViTv2-L": (144, (2, 6, 36, 4), 72, "mlp"),
}


@family
def mvitv2s() -> Iterator[Preset]:
    norm = "layer-1e-6"
    for variant, (width, depths, head_dim, widen) in _ROWS.items():
        block = PoolingAttentionOperator(
            pool_norm=norm,
            head_dim=head_dim,
            position="query",
            residual_query=True,
            widen=widen,
            norm=norm,
        )
        genome = mvit(width, depths, block)
        yield published("MViTv2", variant, genome, source="arXiv 2112.01526; released code")
