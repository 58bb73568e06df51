"""Global downsampling (G-DSM): queries from a convolution along the sequence of all pixels.

Source: UniNet (Liu et al., 2022), arXiv 2207.05420, has it in its space; the released
networks and code have none, and the text gives no sizes. Our choice: a depthwise convolution of 9
taps (as many as the 3x3 of LG-DSM) over the pixels read row by row, one query for every stride**2
of them, padded so that there is one query for each output pixel. All else is as in LG-DSM.
"""

from __future__ import annotations

from dataclasses import dataclass

from space.attention_layers import SequenceDepthwise
from space.downsampling.local_global import CrossAttentionDsm
from space.genes import choice, downsampling
from space.settings import NORMS


@downsampling("global_dsm")
@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalDsm(CrossAttentionDsm):
    """Genes: `head_dim`, `norm` (of the convolution)."""

    depthwise = SequenceDepthwise

    head_dim: int = choice(16, 32, 48, 64, default=32)
    norm: str = choice(*NORMS)
