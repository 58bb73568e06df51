"""A genome as an SVG drawing: one box for each run of equal blocks, from the image down, and a
frame around blocks that repeat together.

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
from dataclasses import dataclass, fields
from functools import cache
from html import escape
from itertools import groupby
from typing import Any

from space.genes import Part, part_to_json, registered
from space.genome import Genome, Placed
from space.repeats import spans

SKY, BLUE, GREEN, YELLOW = "#56b4e9", "#0072b2", "#009e73", "#f0e442"
ORANGE, VERMILION, PURPLE, GREY = "#e69f00", "#d55e00", "#cc79a7", "#999999"

# First match wins, so the narrower name stands before the family that it belongs to.
FAMILIES = (
    ("local_global_dsm", PURPLE),
    ("global_dsm", VERMILION),
    ("local_dsm", GREEN),
    ("attention", VERMILION),
    ("bottleneck", SKY),
    ("conv", BLUE),
    ("axis", ORANGE),
    ("mlp", GREEN),
    ("mixer", GREEN),
    ("modulation", PURPLE),
    ("focal", PURPLE),
    ("embedding", GREY),
    ("release", GREY),
    ("normalise", GREY),
)
OTHERS = (YELLOW, GREY)

# Genes that a drawing always shows.
SIZES = ("channels", "kernel", "step", "expansion", "context", "heads", "head_dim", "features")

# Layout in SVG units; at 360 units a phone shows the text at about its nominal size.
WIDTH = 360
GUTTER = 74  # map size and channels
COLUMN = 120  # the widest box
MIDDLE = GUTTER + COLUMN / 2
TEXT = GUTTER + COLUMN + 10
LINE = 14
WRAP = 25  # characters of gene text on a line


def colour(kind: str) -> str:
    """Fill colour of an operator or downsampling module, the same in every report."""
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
    return "".join(word[: letters + (len(words) == 1)].capitalize() for word in words)


def stage_operators(stage: Mapping[str, Any]) -> str:
    """`IB×3`, `IB×2+GA×1` or `(At+IB)×6`: the blocks of a stage of `Genome.to_json()`, in order."""
    kinds = [block["kind"] for block in stage["blocks"]]
    said, start = [], 0
    for length, times in spans(kinds):
        pattern = "+".join(short_label(kind) for kind in kinds[start : start + length])
        said.append(f"({pattern})×{times}" if length > 1 else f"{pattern}×{times}")
        start += length * times
    return "+".join(said)


def operators(genome: Mapping[str, Any]) -> str:
    """`IB×3 · At×4`: the stages of a genome in JSON; a stage without blocks is `–`."""
    return " · ".join(stage_operators(stage) or "–" for stage in genome["stages"])


def gene_text(part: Part, *, full: bool = False) -> str:
    """`expansion 4, context 5, no bias`: the sizes that most parts have, and of the other genes
    those that are not at their default, but for norms and activations; with `full` every gene as
    `name=value`."""
    genes = {name: value for name, value in part_to_json(part).items() if name != "kind"}
    if full:
        return ", ".join(f"{name}={value}" for name, value in genes.items())
    usual = {gene.name: gene.default for gene in fields(part)}  # type: ignore[arg-type]
    shown = []
    for name, value in genes.items():
        if _is_layer(name) or (value == usual[name] and (name not in SIZES or not value)):
            continue
        if value is True:
            shown.append(_words(name))
        elif value in (False, None, "none"):  # 0 too
            shown.append(f"no {_words(name)}")
        elif isinstance(value, int | float | str):
            shown.append(f"{_words(name)} {value}")
    return ", ".join(shown)


def _is_layer(gene: str) -> bool:
    return gene.endswith(("norm", "activation"))


def _words(name: str) -> str:
    return name.replace("_", " ")


def runs(genome: Genome) -> Iterator[list[Placed]]:
    """The parts from the image down; blocks of a stage with equal genes that stand in a row, or in
    the same place of a pattern that repeats, are one run."""
    for pattern in patterns(genome):
        yield from pattern


def patterns(genome: Genome) -> Iterator[list[list[Placed]]]:
    """The runs, those together whose blocks repeat together: one, or several of equal length."""
    for _, scope in groupby(genome.parts(), key=lambda placed: placed.path.rpartition(".")[0]):
        parts, start = list(scope), 0
        for length, times in spans([placed.part for placed in parts]):
            end = start + length * times
            yield [parts[start + i : end : length] for i in range(length)]
            start = end


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the drawing: a box, said to stand there `count` times, and the text beside it."""

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

    Boxes are coloured by kind and wider with the square root of their channels; equal blocks
    in a row are one box with `×3`, and blocks that repeat together stand in a frame with it; what
    changes the width or resolution before a stage narrows from its input's width to its output's.
    Each box has a `<title>` with all its genes. Text takes the colour of the page.
    """
    groups, previous = [], ""
    for pattern in patterns(genome):
        rows = []
        for same in pattern:
            stage = ".".join(same[0].path.split(".")[:2])
            rows.append(_row(same, first=stage != previous, framed=len(pattern) > 1))
            previous = stage
        groups.append((rows, len(pattern[0])))
    widest = max(row.placed.site.channels for rows, _ in groups[:-1] for row in rows)
    image = f"image, {genome.in_channels} × {genome.resolution} × {genome.resolution}"
    y, body = 16.0, [_text(MIDDLE, 12, image, "middle")]
    for rows, times in groups:
        top = y
        for row in rows:
            y += 12 if row.side else 4  # a gap before each stage
            if len(rows) > 1 and row is rows[0]:
                y += 4
                top = y
            body.append(_draw(row, y, widest))
            y += row.height
        if len(rows) > 1:
            y += LINE + 2
            body.append(_frame(top - 3, y, times))
    label = f"Network {genome.digest}: {operators(genome.to_json())}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 4:g}" width="{WIDTH}" '
        f'role="img" aria-label="{escape(label)}" font-family="system-ui, sans-serif" '
        f'font-size="11" fill="currentColor">{"".join(body)}</svg>'
    )


def _frame(top: float, bottom: float, times: int) -> str:
    """Around blocks that repeat together."""
    return (
        f'<rect x="{GUTTER - 4}" y="{top:g}" width="{COLUMN + 8}" height="{bottom - top:g}" '
        'rx="5" fill="none" stroke="currentColor" stroke-opacity="0.5" stroke-dasharray="3 2"/>'
        + _text(MIDDLE, bottom - 4, f"×{times}", "middle", weight="700")
    )


def _row(same: Sequence[Placed], *, first: bool, framed: bool) -> _Row:
    placed, count = same[0], len(same)
    site, part = placed.site, placed.part
    macs = sum(one.cost().macs for one in same)
    size = f"{site.out_height} × {site.out_width}"
    genes = gene_text(part)
    if _is_between_stages(placed):
        genes = ", ".join(filter(None, (f"stride {site.stride}", genes)))
    title = (
        f"{placed.path}{f' and {count - 1} more' if count > 1 else ''}: {_words(part.kind)} "
        f"({part.category}), {site.in_channels} to {site.channels} channels, "
        f"{site.height} × {site.width} to {size} pixels, {macs / 1e6:,.1f} million MACs; "
        f"{gene_text(part, full=True)}"
    )
    side: tuple[str, ...] = ()
    if part.category == "head":
        side = ("head", f"{site.channels}", "classes")
    elif first:
        number = placed.path.split(".")[1:2]
        side = (f"stage {int(number[0]) + 1}" if number else "stem", size, f"{site.channels} ch")
    return _Row(placed, 1 if framed else count, title, textwrap.wrap(genes, WRAP), side)


def _is_between_stages(placed: Placed) -> bool:
    """Whether it stands where a downsampling module does; it may be an operator."""
    return placed.path.endswith(".downsample")


def _draw(row: _Row, y: float, widest: int) -> str:
    site, category = row.placed.site, row.placed.part.category
    if _is_between_stages(row.placed):
        above, below = (_box_width(c, widest) for c in (site.in_channels, site.channels))
        shape = _trapezoid(row, y, above, below)
    elif category == "operator":
        shape = _blocks(row, y, _box_width(site.channels, widest))
    else:
        out = site.in_channels if category == "head" else site.channels
        shape = _plain(row, y, _box_width(out, widest))
    name = _text(TEXT, y + LINE, _words(row.placed.part.kind), weight="600")
    genes = [_text(TEXT, y + LINE * (i + 2), line) for i, line in enumerate(row.lines)]
    side = [
        _text(GUTTER - 8, y + LINE * (i + 1), line, "end", weight="400" if i else "600")
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
    size = f'width="{width - 3 * back:g}" height="{row.height - 3 * back}" rx="3"'
    edge = f'fill="{fill}" stroke="{ink(fill)}" stroke-opacity="0.45"'
    boxes = [
        f'<rect x="{MIDDLE - width / 2 + 3 * i:g}" y="{y + 3 * (back - i):g}" {size} {edge}/>'
        for i in range(back, -1, -1)
    ]
    middle = MIDDLE - 1.5 * back
    below = y + 1.5 * back + row.height / 2 + 4
    return "".join(boxes) + _text(middle, below, label, "middle", weight="700", fill=ink(fill))


def _trapezoid(row: _Row, y: float, above: float, below: float) -> str:
    bottom = y + row.height
    corners = (
        f"{MIDDLE - above / 2:g},{y:g} {MIDDLE + above / 2:g},{y:g} "
        f"{MIDDLE + below / 2:g},{bottom:g} {MIDDLE - below / 2:g},{bottom:g}"
    )
    stride = row.placed.site.stride
    label = f"↓ {stride}" if stride > 1 else "width"
    return (
        f'<polygon points="{corners}" fill="{colour(row.placed.part.kind)}" fill-opacity="0.3" '
        'stroke="currentColor" stroke-opacity="0.5"/>'
        + _text(MIDDLE, y + row.height / 2 + 4, label, "middle")
    )


def _plain(row: _Row, y: float, width: float) -> str:
    return (
        f'<rect x="{MIDDLE - width / 2:g}" y="{y:g}" width="{width:g}" height="{row.height}" '
        f'rx="3" fill="none" stroke="currentColor" stroke-opacity="0.6"/>'
        + _text(MIDDLE, y + row.height / 2 + 4, row.placed.part.category, "middle")
    )


def _text(
    x: float,
    y: float,
    text: str,
    anchor: str = "start",
    *,
    weight: str = "400",
    fill: str = "currentColor",
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{fill}">{escape(text)}</text>'
    )
