"""What the operators share besides their layers: gene values and checks of their site."""

from __future__ import annotations

from dataclasses import fields

from space.genes import Part, Site

EXPANSIONS = (0, 1, 2, 3, 4, 5, 6, 8)  # 0: no channel mixer
CONTEXTS = (3, 5, 7, 9, 11, 13)  # sides of a filter, pixels
LAYER_SCALES = (None, 1e-6, 1e-5, 1e-4, 1e-2, 0.1, 1.0)
HEAD_DIMS = (16, 24, 32, 48, 64)


def same_width(part: Part, site: Site) -> int:
    """The width at `site`; ValueError where the part would have to change width or resolution."""
    if site.in_channels != site.channels:
        raise ValueError(
            f"{part.kind} keeps its width, but {site.in_channels} channels come in and "
            f"{site.channels} must go out; inverted_bottleneck can change the width"
        )
    no_stride(part, site)
    return site.channels


def no_stride(part: Part, site: Site) -> None:
    """ValueError where the part would have to change the resolution."""
    if site.stride != 1:
        raise ValueError(f"{part.kind} keeps its resolution, but the stride is {site.stride}")


def heads_of(channels: int, head_dim: int) -> int:
    """As many heads of `head_dim` as fit into `channels`, at least one."""
    return max(1, channels // head_dim)


def refuse_unused(part: Part, where: str, *genes: str) -> None:
    """ValueError where one of `genes`, which make no difference `where`, is not at its default:
    one network would have several genomes."""
    usual = {gene.name: gene.default for gene in fields(part)}  # type: ignore[arg-type]
    for name in genes:
        if getattr(part, name) != usual[name]:
            raise ValueError(
                f"{part.kind}: {name} is {getattr(part, name)!r}, but makes no difference {where}; "
                f"leave it at {usual[name]!r}"
            )


def groups_of(channels: int, group_width: int) -> int:
    """Groups of `group_width` channels (0: all in one), or of as few more as divides `channels`."""
    if group_width == 0:
        return 1
    groups = max(1, channels // group_width)
    while channels % groups:
        groups -= 1
    return groups


def tokens_keep_width(part: Part, site: Site) -> None:
    """ValueError where the part would change the map's width, but not that of class tokens."""
    if site.tokens and site.in_channels != site.channels:
        raise ValueError(
            f"{part.kind} leaves class tokens as they are, so the width must stay "
            f"{site.in_channels}, not become {site.channels}"
        )
