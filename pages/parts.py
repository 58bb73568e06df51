"""Writes the reference of parts, in docs/reference: operators, downsampling modules, stems, heads.

All of it comes from the code: what a part's file says of it, its genes with their values, the
modules that it is made of, and what these cost at one place.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from inspect import cleandoc, isclass
from pathlib import Path
from typing import Any

import space  # noqa: F401  (registers the parts)
from pages.markdown import MADE_BY, table
from space.blueprint import Blueprint
from space.budget import quantity
from space.genes import (
    Flow,
    Numbers,
    Part,
    Rows,
    Site,
    describe_allowed,
    gene_choices,
    part_to_json,
    registered,
)
from space.presets import Preset, presets

ROOT = Path(__file__).parents[1]
# Category -> its page, title, and what such a part does.
PAGES: Mapping[str, tuple[str, str, str]] = {
    "operator": (
        "operators",
        "Operators",
        "An operator mixes pixels and channels; the blocks of a network are operators.",
    ),
    "downsampling": (
        "downsampling",
        "Downsampling modules",
        "It changes resolution and width between stages. Many operators can stand there too.",
    ),
    "stem": ("stems", "Stems", "A stem reads the image."),
    "head": ("heads", "Heads", "A head makes the logits from the last map."),
}
# Where a part is shown, if it can stand there; else where a published network has it.
EXAMPLES: Mapping[str, tuple[Site, ...]] = {
    "operator": (Site(64, 64, 14, 14), Site(64, 64, 14, 14, flow=Flow("tokens", 1))),
    "downsampling": (Site(64, 128, 28, 28, 2),),
    "stem": (),
    "head": (Site(320, 1000, 7, 7),),
}
IMAGE = 224  # side of the image that a stem is shown with
MANY = 64  # values beyond which a gene is not tried one by one
HOW_TO_READ = (
    "Values and defaults are written as in a [space file](../spaces.md). A gene that a space "
    "does not name has its default. *MACs* of a gene are the least and the most that its "
    "values make at the example, the other genes being as there; it is empty where they make "
    "no difference, where the gene takes any number, or where no other value goes with these. "
    "1 MAC is one multiply-add; norms, activations and pooling do not count."
)


def page(category: str) -> str:
    """The text of a category's page."""
    _, title, about = PAGES[category]
    parts = registered(category)
    lines = [
        f"# {title}",
        "",
        f"{about} {MADE_BY}",
        "",
        HOW_TO_READ,
        "",
        *table(
            [f"{category.capitalize()}", "What it is", "Genes", "MACs", "Parameters"],
            [_row(part) for part in parts.values()],
            "llrrr",
        ),
    ]
    for part in parts.values():
        lines += ["", *section(part)]
    return "\n".join(lines) + "\n"


def _row(kind: type[Part]) -> list[str]:
    part, site, _ = example(kind)  # type: ignore[arg-type]  # mypy: a class has a hash
    cost = part.cost(site)
    return [
        f"[`{kind.kind}`](#{kind.kind})",
        " ".join(escaped(first_sentence(kind)).split()),
        f"{len(fields(kind))}",  # type: ignore[arg-type]
        quantity(cost.macs) if cost.macs else "0",
        quantity(cost.params) if cost.params else "0",
    ]


def section(kind: type[Part]) -> Iterator[str]:
    """All of one part."""
    part, site, whose = example(kind)  # type: ignore[arg-type]
    path = Path(sys.modules[kind.__module__].__file__ or "").relative_to(ROOT).as_posix()
    yield f"## {kind.kind}"
    yield ""
    yield prose(about(kind))
    yield ""
    yield f"File: [{path}](../../{path}). Works on: {_flows(kind)}."
    used = systems().get(kind, [])
    if used:
        yield f"Published networks with it: {', '.join(used)}."
    yield ""
    yield prose(cleandoc(kind.__doc__ or ""))
    yield ""
    if gene_choices(kind):
        yield from table(
            ["Gene", "Values", "Default", "MACs"], list(_genes(kind, part, site)), "lllr"
        )
        yield ""
    cost = part.cost(site)
    yield (
        f"**Example**, {whose}: {_place(part, site)}. {cost.macs:,} MACs, "
        f"{cost.params:,} parameters, {cost.activations:,} activations, "
        f"{cost.bytes_moved:,} bytes moved."
    )
    yield ""
    changed = part_to_json(part, brief=True)
    if len(changed) > 1:
        yield f"`{{{', '.join(f'{k}: {written(v)}' for k, v in changed.items())}}}`"
        yield ""
    yield "```text"
    yield from drawing(part.blueprint(site))
    yield "```"


def first_sentence(kind: type[Part]) -> str:
    return about(kind).partition("\n\n")[0].partition(". ")[0].rstrip(".")


def about(kind: type[Part]) -> str:
    """What the part's file says of it, or the part itself where its file holds several."""
    module = sys.modules[kind.__module__]
    return cleandoc(module.__doc__ or kind.__doc__ or "")


@cache
def example(kind: type[Part]) -> tuple[Part, Site, str]:
    """A part, where it stands, and what it is an example of."""
    part = kind()
    if part.category == "stem":
        channels, stride = part.channels, part.stride  # type: ignore[attr-defined]
        places: tuple[Site, ...] = (Site(3, channels, IMAGE, IMAGE, stride),)
    else:
        places = EXAMPLES[part.category]
    for site in places:
        if stands(part, site):
            return part, site, "with its defaults"
    for preset in sorted(presets().values(), key=lambda p: p.genome.cost().macs):
        for placed in preset.genome.parts():
            if type(placed.part) is kind:
                return placed.part, placed.site, f"in {preset.system} (`{preset.name}`)"
    raise ValueError(f"{kind.kind} stands nowhere: add a site for it to EXAMPLES")


def stands(part: Part, site: Site) -> bool:
    if site.flow.kind not in part.takes:
        return False
    try:
        part.blueprint(site)
    except ValueError:
        return False
    return True


@cache
def systems() -> dict[type[Part], list[str]]:
    """For each part the systems of published networks that have it."""
    found: dict[type[Part], dict[str, None]] = {}
    everything: list[Preset] = sorted(presets().values(), key=lambda preset: preset.system.lower())
    for preset in everything:
        for placed in preset.genome.parts():
            found.setdefault(type(placed.part), {})[preset.system] = None
    return {kind: list(names) for kind, names in found.items()}


def _flows(kind: type[Part]) -> str:
    words = {
        "map": "a map",
        "tokens": "a map with class tokens",
        "pair_bias": "a map with a table of pairs",
        "columns": "maps of a column's levels",
        "regions": "a map with one of regions",
        "nested": "a map of patches with their pixels",
    }
    return ", ".join(words.get(flow, flow) for flow in kind.takes)


def _place(part: Part, site: Site) -> str:
    beside = f", {site.flow.count} {site.flow.kind} beside it" if site.flow.kind != "map" else ""
    into = f"{site.in_channels} x {site.height} x {site.width}"
    if part.category == "head":
        return f"{into}{beside} to {site.channels} classes"
    if site.stride == 1 and site.in_channels == site.channels:
        return f"{into}{beside}"
    return f"{into}{beside} to {site.channels} channels, stride {site.stride}"


def _genes(kind: type[Part], part: Part, site: Site) -> Iterator[list[str]]:
    usual = {gene.name: gene.default for gene in fields(kind)}  # type: ignore[arg-type]
    for name, allowed in gene_choices(kind).items():
        if isinstance(allowed, range | Numbers | Rows):
            values = describe_allowed(allowed)
        else:
            values = ", ".join(f"`{written(value)}`" for value in allowed)
        yield [f"`{name}`", values, f"`{written(usual[name])}`", _range(part, site, name, allowed)]


def _range(part: Part, site: Site, gene: str, allowed: Any) -> str:
    """Least and most MACs over a gene's values."""
    values = allowed if isinstance(allowed, tuple | range) and len(allowed) <= MANY else ()
    counts = set()
    for value in values:
        try:
            other = replace(part, **{gene: value})  # type: ignore[type-var]
            where = site
            if part.category == "stem":
                where = replace(site, channels=other.channels, stride=other.stride)  # type: ignore[attr-defined]
            counts.add(other.cost(where).macs)
        except ValueError:
            continue
    if len(counts) < 2:
        return ""
    return f"{quantity(min(counts))} to {quantity(max(counts))}"


def written(value: Any) -> str:
    """A value as in a space file."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, float) and "e" in repr(value):
        mantissa, _, exponent = repr(value).partition("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent)}"
    return str(value)


# ---- words


def prose(text: str) -> str:
    """A docstring as Markdown: nothing in it is markup but code and lists; a formula on lines of
    its own is indented."""
    out: list[str] = []
    for block in re.split(r"(\n\n(?: {4}.*\n?)+(?:\n|\Z))", text):
        if block.startswith("\n\n    "):
            out += ["", "```text", *cleandoc(block).splitlines(), "```", ""]
        else:
            out += plain_prose(escaped(block).splitlines())
    return "\n".join(out)


def plain_prose(lines: Sequence[str]) -> list[str]:
    out: list[str] = []
    for i, line in enumerate(lines):
        begins = line.startswith("- ")
        if begins and i and lines[i - 1].strip() and not lines[i - 1].startswith(("- ", "  ")):
            out.append("")
        starts = line.startswith(("Source", "Shapes", "Differs", "Used "))
        if starts and i and lines[i - 1].strip():
            out.append("")
        out.append(line)
    return out


def escaped(text: str) -> str:
    pieces = re.split(r"(`[^`]*`)", text)
    for i in range(0, len(pieces), 2):
        piece = re.sub(r"([*\[\]])", r"\\\1", pieces[i])
        pieces[i] = piece.replace("<", "&lt;")
    return "".join(pieces)


# ---- drawing


def drawing(blueprint: Blueprint) -> list[str]:
    """The modules as a tree, each with its MACs and parameters."""
    rows = [(_call(blueprint), blueprint), *_branches(blueprint, "")]
    width = max(len(text) for text, _ in rows) + 2
    lines = [f"{'':{width}}{'MACs':>14}{'parameters':>14}"]
    for text, node in rows:
        macs = f"{node.cost.macs:,}" if node.cost.macs else ""
        params = f"{node.cost.params:,}" if node.cost.params else ""
        lines.append(f"{text:{width}}{macs:>14}{params:>14}".rstrip())
    return lines


def _branches(blueprint: Blueprint, indent: str) -> Iterator[tuple[str, Blueprint]]:
    children = list(_children(blueprint))
    for i, (name, child) in enumerate(children):
        last = i == len(children) - 1
        label = f"{name}: " if name else ""
        yield f"{indent}{'└─ ' if last else '├─ '}{label}{_call(child)}", child
        yield from _branches(child, indent + ("   " if last else "│  "))


def _children(blueprint: Blueprint) -> Iterator[tuple[str, Blueprint]]:
    named = [*(("", a) for a in blueprint.arguments), *blueprint.keywords.items()]
    for name, value in named:
        yield from _within(name, value)


def _within(name: str, value: Any) -> Iterator[tuple[str, Blueprint]]:
    if isinstance(value, Blueprint):
        yield name, value
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _within(f"{name} {i}".strip(), item)


def _call(blueprint: Blueprint) -> str:
    plain = [_plain(a) for a in blueprint.arguments if not _holds(a)]
    plain += [f"{k}={_plain(v)}" for k, v in blueprint.keywords.items() if not _holds(v)]
    name = blueprint.module.__name__
    return f"{name}({', '.join(plain)})" if plain else name


def _holds(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(map(_holds, value))
    return isinstance(value, Blueprint)


def _plain(value: Any) -> str:
    return value.__name__ if isclass(value) else repr(value)
