"""What is known of a published network, and the table of all of them.

`figures.json` holds the figures of each variant: `params` and `gmacs` counted on reference code
(convolutions, linear layers and matrix products, as `space.cost` counts), `published_params_m` and
`published_gmacs` as printed by its authors, `top1` in percent on ImageNet-1K without other data;
null where not known. A system's file says how its networks are built, and where that is from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from space.genome import Genome


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A published network.

    `system` and `variant` are the names that its authors use. `params` and `gmacs` are those of
    reference code, `published_*` as printed (papers mostly write FLOPs for MACs), for one image at
    the genome's resolution. A `reconstruction` follows the published idea where neither code nor
    all sizes could be had.
    """

    name: str
    system: str
    variant: str
    kind: str
    genome: Genome
    source: str
    params: int | None
    gmacs: float | None
    published_params_m: float | None
    published_gmacs: float | None
    top1: float | None
    reconstruction: bool = False


@cache
def figures() -> dict[str, dict[str, Any]]:
    """System -> its kind and the rows of its variants."""
    return json.loads(Path(__file__).with_name("figures.json").read_text(encoding="utf-8"))


def published(
    system: str, variant: str, genome: Genome, *, source: str, reconstruction: bool = False
) -> Preset:
    """The preset of a variant in `figures.json` at the genome's resolution; ValueError if none."""
    known = figures()[system]
    rows = [row for row in known["rows"] if row["variant"] == variant]
    fitting = [row for row in rows if row["resolution"] in (genome.resolution, None)]
    if len(fitting) != 1:
        raise ValueError(f"no single row of {system} {variant!r} at {genome.resolution} pixels")
    spoken = variant.lower().replace("+", " plus").replace("*", " star")
    name = re.sub(r"[^a-z0-9]+", "_", spoken).strip("_")
    if fitting[0] is not rows[0]:
        name += f"_{genome.resolution}"
    facts = {k: v for k, v in fitting[0].items() if k not in ("variant", "resolution")}
    return Preset(
        name=name,
        system=system,
        variant=variant,
        kind=known["kind"],
        genome=genome,
        source=source,
        reconstruction=reconstruction,
        **facts,
    )


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
        near = [other for other in known if other.startswith(name[:4])] or list(known)
        raise ValueError(
            f"unknown preset {name!r}; like it there are: {', '.join(near[:8])}; "
            "`run_search.py zoo` lists all"
        )
    return known[name]
