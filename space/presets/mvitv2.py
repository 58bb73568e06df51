"""MViTv2-T, S, B and L for images.

Source: MViTv2 (Li et al., 2021), arXiv 2112.01526, sections 3.1 and 4.1 and table 1, and its
released code, where the width of L changes in the MLP in front of a smaller map.
"""

from __future__ import annotations

from collections.abc import Iterator
