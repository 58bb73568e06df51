"""A genome as an SVG drawing: one box for each run of equal blocks, from the image down.

Works for any part, known or not: the short label of an operator is made from its kind by a rule,
and its colour from its family, or, where the kind belongs to none, from a hash of its name.
Colours are those of Okabe and Ito, "Color Universal Design" (2008), which people with the common
forms of colour blindness can tell apart; labels say the same without colour.
"""

from __future__ import annotations

import math
import textwrap
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any
from xml.sax.saxutils import escape

from space.genes import Part, part_to_json, registered
from space.genome import Genome, Placed

SKY, BLUE, GREEN, YELLOW = "#56b4e9", "#0072b2", "#009e73", "#f0e442"
ORANGE, VERMILION, PURPLE, GREY = "#e69f00", "#d55e00", "#cc79a7", "#999999"

# First match wins, so the narrower name stands before the family that it belongs to.
FAMILIES = (
    ("convnext", BLUE),
    ("window_attention", ORANGE),
    ("attention", VERMILION),
    ("bottleneck", SKY),
    ("conv", SKY),
    ("mlp", GREEN),
    ("mixer", GREEN),
    ("modulation", PURPLE),
    ("focal", PURPLE),
)
OTHERS = (YELLOW, GREY)

# Layout in SVG units; at 360 units a phone shows the text at about its nominal size.
WIDTH = 360
GUTTER = 66  # map size and channels
COLUMN = 128  # the widest box
MIDDLE = GUTTER + COLUMN / 2
TEXT = GUTTER + COLUMN + 10
LINE = 14
WRAP = 25  # characters of gene text on a line


def colour(kind: str) -> str:
    """Fill colour of an operator kind, the same in every report."""
    for word, fill in FAMILIES:
        if word in kind:
            return fill
    return OTHERS[zlib.crc32(kind.encode()) % len(OTHERS)]


def ink(fill: str) -> str:
    """Black or white, whichever has the larger contrast on `fill` (WCAG 2.2, 1.4.3)."""
    red, green, blue = (int(fill[i : i + 2], 16) / 255 for i in (1, 3, 5))
    light = 0.2126 * _linear(red) + 0.7152 * _linear(green) + 0.0722 * _linear(blue)
    return "#000000" if (light + 0.05) / 0.05 > 1.05 / (light + 0.05) else "#ffffff"


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def short_label(kind: str) -> str:
    """Initials of the kind, `IB` for `inverted_bottleneck`; of a single word its first two
    letters. Registered operators that would share a label take more letters of each word."""
    return _labels().get(kind) or _initials(kind, 1)


def _labels() -> dict[str, str]:
    return _distinct(tuple(registered("operator")))


@cache
def _distinct(kinds: tuple[str, ...]) -> dict[str, str]:
    labels: dict[str, str] = {}
    longest = max((len(word) for kind in kinds for word in kind.split("_")), default=1)
    for letters in range(1, longest + 1):
        left = [kind for kind in kinds if kind not in labels]
        tried = [_initials(kind, letters) for kind in left]
        for kind, label in zip(left, tried, strict=True):
            if tried.count(label) == 1 and label not in labels.values():
                labels[kind] = label
    return labels


def _initials(kind: str, letters: int) -> str:
    words = [word for word in kind.split("_") if word]
    letters += len(words) == 1
    return (
        "".join(word[:letters].capitalize() for word in words)
        if letters > 1
        else "".join(word[0].upper() for word in words)
    )


def stage_operators(stage: Mapping[str, Any]) -> str:
    """`IB×3`, or `IB×2+GA×1`: the blocks of a stage of `Genome.to_json()`, in order."""
    kinds = [block["kind"] for block in stage["blocks"]]
    return "+".join(f"{short_label(kind)}×{len(list(run))}" for kind, run in groupby(kinds))


def operators(genome: Mapping[str, Any]) -> str:
    """`IB×3 · GA×4`: the stages of a genome in JSON; a stage without blocks is `–`."""
    return " · ".join(stage_operators(stage) or "–" for stage in genome["stages"])


def gene_text(part: Part, *, full: bool = False) -> str:
    """`expansion 4, context 5`: the genes that are numbers and the flags that are set; with
    `full` every gene as `name=value`."""
    genes = {name: value for name, value in part_to_json(part).items() if name != "kind"}
    if full:
        return ", ".join(f"{name}={value}" for name, value in genes.items())
    shown = []
    for name, value in genes.items():
        if value is True:
            shown.append(_words(name))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            shown.append(f"{_words(name)} {value:g}")
    return ", ".join(shown)


def _words(name: str) -> str:
    return name.replace("_", " ")


def runs(genome: Genome) -> Iterator[tuple[Placed, int]]:
    """The parts in order; neighbouring blocks of a stage that are equal in genes and width count
    as one, with their number."""
    for _, same in groupby(genome.parts(), key=_same):
        parts = list(same)
        yield parts[0], len(parts)


def _same(placed: Placed) -> tuple[str, Part, int, int]:
    scope = placed.path.rpartition(".")[0]  # `stages.1.blocks`, `stages.1`, or nothing
    return scope, placed.part, placed.site.in_channels, placed.site.channels


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the drawing: a box and the text beside it."""

    placed: Placed
    count: int
    title: str
    lines: Sequence[str]
    side: Sequence[str]

    @property
    def height(self) -> int:
        return max(30, LINE * max(1 + len(self.lines), len(self.side)) + 4)


def draw_svg(genome: Genome) -> str:
    """The network from top to bottom, as one `<svg>` element that scales with its container.

    Boxes are coloured by operator and as wide as the square root of their channels; equal blocks
    in a row are one box with `×3`; a downsampling module narrows from its input's width to its
    output's. Each box has a `<title>` with all its genes. Text takes the colour of the page.
    """
    rows = [_row(placed, count, genome) for placed, count in runs(genome)]
    widest = max(row.placed.site.channels for row in rows[:-1])
    y, previous = 24, ""
    body = [_text(MIDDLE, 12, f"image, {genome.in_channels} × {_map(genome.resolution)}", "middle")]
    for row in rows:
        stage = ".".join(row.placed.path.split(".")[:2])
        y += 10 if stage != previous else 4
        previous = stage
        body.append(_draw(row, y, widest))
        y += row.height
    label = f"Network {genome.digest}: {operators(genome.to_json())}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 4}" width="{WIDTH}" '
        f'role="img" aria-label="{escape(label)}" font-family="system-ui, sans-serif" '
        f'font-size="11" fill="currentColor">{"".join(body)}</svg>'
    )


def _row(placed: Placed, count: int, genome: Genome) -> _Row:
    site, part = placed.site, placed.part
    name = _words(part.kind)
    head = part.category == "head"
    size = f"{site.out_height} × {site.out_width}"
    genes = "" if head else gene_text(part)
    if part.category == "downsampling":
        genes = ", ".join(filter(None, (f"stride {site.stride}", genes)))
    title = (
        f"{placed.path}{f' and {count - 1} more' if count > 1 else ''}: {name} ({part.category}), "
        f"{site.in_channels} to {site.channels} channels, {_map(site.height)} to {size} pixels; "
        f"{gene_text(part, full=True)}"
    )
    side = [f"{site.channels}", "classes"] if head else [size, f"{site.channels} ch"]
    repeated = placed.path.count(".") == 3 and not placed.path.endswith(".0")
    return _Row(placed, count, title, textwrap.wrap(genes, WRAP), () if repeated else side)


def _draw(row: _Row, y: float, widest: int) -> str:
    site, category = row.placed.site, row.placed.part.category
    width = _box_width(site.channels, widest)
    if category == "operator":
        shape = _blocks(row, y, width)
    elif category == "downsampling":
        shape = _trapezoid(_box_width(site.in_channels, widest), width, y, row)
    else:
        shape = _plain(row, y, _box_width(min(site.in_channels, widest), widest), width)
    name = _text(TEXT, y + LINE, _words(row.placed.part.kind), weight="600")
    genes = [_text(TEXT, y + LINE * (i + 2), line) for i, line in enumerate(row.lines)]
    side = [
        _text(GUTTER - 10, y + LINE * (i + 1), line, "end", opacity=1 if i == 0 else 0.75)
        for i, line in enumerate(row.side)
    ]
    return f"<g><title>{escape(row.title)}</title>{shape}{name}{''.join(genes + side)}</g>"


def _box_width(channels: int, widest: int) -> float:
    """Half of the column for a few channels, all of it for the widest."""
    return round(COLUMN * (0.4 + 0.6 * math.sqrt(channels / widest)), 1)


def _blocks(row: _Row, y: float, width: float) -> str:
    fill = colour(row.placed.part.kind)
    label = short_label(row.placed.part.kind) + (f" ×{row.count}" if row.count > 1 else "")
    back = min(row.count - 1, 2)  # edges of the boxes behind
    boxes = [
        f'<rect x="{MIDDLE - width / 2 + 3 * i:.1f}" y="{y + 3 * (back - i)}" width="{width - 3 * back}" '
        f'height="{row.height - 3 * back}" rx="3" fill="{fill}" stroke="{ink(fill)}" '
        f'stroke-opacity="0.45"/>'
        for i in range(back, -1, -1)
    ]
    middle = MIDDLE - 1.5 * back
    below = y + 1.5 * back + row.height / 2 + 4
    return "".join(boxes) + _text(middle, below, label, "middle", weight="700", fill=ink(fill))


def _trapezoid(above: float, below: float, y: float, row: _Row) -> str:
    bottom = y + row.height
    corners = (
        f"{MIDDLE - above / 2},{y} {MIDDLE + above / 2},{y} "
        f"{MIDDLE + below / 2},{bottom} {MIDDLE - below / 2},{bottom}"
    )
    stride = row.placed.site.stride
    label = f"↓ {stride}" if stride > 1 else "width"
    return (
        f'<polygon points="{corners}" fill="currentColor" fill-opacity="0.12" '
        f'stroke="currentColor" stroke-opacity="0.5"/>'
        + _text(MIDDLE, y + row.height / 2 + 4, label, "middle")
    )


def _plain(row: _Row, y: float, width_in: float, width_out: float) -> str:
    part = row.placed.part
    width = width_in if part.category == "head" else width_out
    return (
        f'<rect x="{MIDDLE - width / 2}" y="{y}" width="{width}" height="{row.height}" rx="3" '
        f'fill="none" stroke="currentColor" stroke-opacity="0.6"/>'
        + _text(MIDDLE, y + row.height / 2 + 4, part.category, "middle")
    )


def _text(
    x: float,
    y: float,
    text: str,
    anchor: str = "start",
    *,
    weight: str = "400",
    fill: str = "currentColor",
    opacity: float = 1,
) -> str:
    faint = f' opacity="{opacity}"' if opacity < 1 else ""
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{fill}"{faint}>{escape(text)}</text>'
    )


def _map(side: int) -> str:
    return f"{side} × {side}"
