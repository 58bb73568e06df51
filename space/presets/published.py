"""What is known of a published network, and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from space.genome import Genome


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A published network. Its figures are as printed: `published_params` rounded,
    `published_macs` for one image at the genome's resolution (papers mostly write FLOPs), `top1`
    in percent on ImageNet-1K without other data, None where it is not known."""

    name: str
    system: str
    genome: Genome
    published_params: int
    published_macs: int
    top1: float | None
    source: str


Family = Callable[[], Iterable[Preset]]
_FAMILIES: list[Family] = []


def family(make: Family) -> Family:
    """Registers a function that makes the presets of one system."""
    _FAMILIES.append(make)
    presets.cache_clear()
    return make


@cache
def presets() -> dict[str, Preset]:
    """Every preset by its name, in alphabetical order; the genomes are made at the first call."""
    made = [preset for make in _FAMILIES for preset in make()]
    names = [preset.name for preset in made]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two presets are named {twice[0]!r}")
    return {preset.name: preset for preset in sorted(made, key=lambda preset: preset.name)}


def preset(name: str) -> Preset:
    """ValueError names what there is."""
    known = presets()
    if name not in known:
        raise ValueError(f"unknown preset {name!r}; there are: {', '.join(known)}")
    return known[name]
