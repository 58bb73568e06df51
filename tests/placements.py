"""Every registered part at every value of every gene, and small places where it can stand.

Not every combination of genes is a part: those that are not raise ValueError. A value is tried with
defaults first, then with the genes of published networks, then with random ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

import space  # noqa: F401  (registers the parts)
from space.genes import CATEGORIES, Flow, Numbers, Part, Rows, Site, gene_choices, registered
from space.presets import presets

KNOWN_FLOWS = ("map", "tokens", "pair_bias")
TRIES = 12  # random settings of each kind; searches for one value try more


def values_of(allowed: Any) -> Sequence[Any]:
    """All values of a gene, or a few of a long range: 0 where it is one, and small sizes."""
    if isinstance(allowed, Numbers | Rows):
        return allowed.examples
    if isinstance(allowed, range):
        some = [0, 12, 17] if len(allowed) > 1000 else [*allowed[:3], 4, 8]
        return [value for value in dict.fromkeys(some) if value in allowed]
    return allowed


@cache
def published_parts() -> dict[type[Part], list[Part]]:
    """The distinct parts of published networks, by their class."""
    found: dict[type[Part], dict[Part, None]] = {}
    for preset in presets().values():
        for placed in preset.genome.parts():
            found.setdefault(type(placed.part), {})[placed.part] = None
    return {kind: list(parts) for kind, parts in found.items()}


def sites(part: Part) -> list[Site]:
    """Small places where a part of its category may stand; sides odd, even and unequal."""
    if part.category == "stem":
        side = part.stride  # type: ignore[attr-defined]
        return [Site(3, part.channels, 4 * side, 2 * side, side)]  # type: ignore[attr-defined]
    if part.category == "head":
        return [Site(12, 5, 4, 3), Site(12, 5, 2, 3, flow=Flow("tokens", 2))]
    if part.category == "downsampling":
        return [Site(12, 36, 7, 10, 2), Site(20, 16, 8, 6, 1)]
    places = [Site(36, 36, 7, 10), Site(32, 32, 8, 8), Site(12, 20, 6, 5), Site(16, 32, 6, 8, 2)]
    beside = [Flow("tokens", 1), Flow("pair_bias", 1)]
    return [*places, *(Site(32, 32, 4, 6, flow=flow) for flow in beside)]


def valid_sites(part: Part) -> list[Site]:
    """Those of `sites` at which the part can stand; plain changes of width come last."""
    return [site for site in sites(part) if stands(part, site)]


def stands(part: Part, site: Site) -> bool:
    if site.flow.kind not in part.takes or part.gives(site).kind not in KNOWN_FLOWS:
        return False
    if site.flow.kind == "pair_bias" and getattr(part, "kv_reduction", 1) != 1:
        return False  # `inputs` makes a table with a key for each pixel
    try:
        part.blueprint(site)
    except ValueError:
        return False
    return True


def made(kind: type[Part], **genes: Any) -> Part | None:
    try:
        return kind(**genes)
    except ValueError:
        return None


def settings(kind: type[Part]) -> Iterator[Part]:
    """Starting points: defaults, and what published networks have."""
    yield kind()
    yield from published_parts().get(kind, [])


def with_value(kind: type[Part], gene: str, value: Any) -> Part | None:
    """A part that has `value` for `gene` and can stand somewhere, nearest to the defaults."""
    rng = random.Random(f"{kind.kind} {gene} {value}")
    starts = list(settings(kind))
    for start in starts:
        part = made(kind, **(genes_of(start) | {gene: value}))
        if part is not None and valid_sites(part):
            return part
    choices = {name: values_of(allowed) for name, allowed in gene_choices(kind).items()}
    for _ in range(40 * len(choices)):
        genes = genes_of(rng.choice(starts)) | {gene: value}
        for name in rng.sample(sorted(choices), min(len(choices), rng.choice((1, 2, 3)))):
            if name != gene:
                genes[name] = rng.choice(list(choices[name]))
        part = made(kind, **genes)
        if part is not None and valid_sites(part):
            return part
    return None


def genes_of(part: Part) -> dict[str, Any]:
    return {name: getattr(part, name) for name in gene_choices(type(part))}


def kinds() -> list[type[Part]]:
    return [part for category in CATEGORIES for part in registered(category).values()]


@cache
def every_part() -> tuple[Part, ...]:
    """Each kind with each value of each gene, what published networks have, and random settings."""
    found: dict[Part, None] = {}
    for kind in kinds():
        for gene, allowed in gene_choices(kind).items():
            for value in values_of(allowed):
                part = with_value(kind, gene, value)
                if part is not None:
                    found[part] = None
        rng = random.Random(kind.kind)
        starts = [part for part in settings(kind) if valid_sites(part)]
        some = rng.sample(starts, min(len(starts), TRIES))
        found.update((part, None) for part in some)
        for _ in range(TRIES if starts else 0):
            part = mutated(rng.choice(starts), rng)
            if part is not None and valid_sites(part):
                found[part] = None
    return tuple(found)


def mutated(part: Part, rng: random.Random) -> Part | None:
    """The part with some of its genes drawn anew."""
    choices = gene_choices(type(part))
    genes = genes_of(part)
    for name in rng.sample(sorted(choices), min(len(choices), 3)):
        genes[name] = rng.choice(list(values_of(choices[name])))
    return made(type(part), **genes)


@cache
def placed_parts() -> tuple[tuple[Part, Site], ...]:
    """Each part at the first site that it can stand at, and a few at every other one."""
    found: dict[tuple[Part, Site], None] = {}
    for place, part in enumerate(every_part()):
        fitting = valid_sites(part)
        if not fitting:
            continue
        found[part, fitting[0]] = None
        found[part, fitting[place % len(fitting)]] = None
        if part == type(part)():
            found.update(((part, site), None) for site in fitting)
    return tuple(found)


def name_of(value: Any) -> str:
    """A test id: `inverted_bottleneck(context=5)-36x36x7x10`."""
    if isinstance(value, Site):
        beside = f"+{value.flow.count}{value.flow.kind}" if value.flow.count else ""
        return f"{value.in_channels}to{value.channels}at{value.height}x{value.width}{beside}"
    default = type(value)()
    changed = [
        f"{name}={getattr(value, name)}"
        for name in gene_choices(type(value))
        if getattr(value, name) != getattr(default, name)
    ]
    return f"{value.kind}({','.join(changed)})"


def inputs(site: Site, images: int = 1, **options: Any) -> Any:
    """Random input of a part: a map, and what stands beside it."""
    shape = (images, site.in_channels, site.height, site.width)
    x = torch.randn(shape, **options)
    if site.flow.kind == "tokens":
        return x, torch.randn(images, site.in_channels, site.tokens, 1, **options)
    if site.flow.kind == "pair_bias":
        return x, torch.randn(images, site.flow.count, site.pixels, site.pixels, **options)
    return x


def maps(value: Any) -> tuple[Tensor, ...]:
    """The tensors of an input or output."""
    return value if isinstance(value, tuple) else (value,)


def picked(value: Any, images: Any) -> Any:
    """Some images of an input or output."""
    return tuple(t[images] for t in value) if isinstance(value, tuple) else value[images]


def smaller(part: Part, site: Site) -> Site | None:
    """A site of fewer channels and a smaller map where the part can stand, if there is one."""
    if part.category == "stem":
        return site
    ways = ((4, (2, 1)), (8, (2, 1)), (16, (0, 0)), (0, (2, 1)), (12, (0, 0)), (0, (0, 0)))
    for fewer, below in ways:
        outputs = site.channels if part.category == "head" else site.channels - fewer
        if min(outputs, site.in_channels - fewer) < 4:
            continue
        lower = replace(
            site,
            in_channels=site.in_channels - fewer,
            channels=outputs,
            height=site.height - below[0],
            width=site.width - below[1],
        )
        if stands(part, lower):
            return lower
    return None
