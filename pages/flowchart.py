"""Draws the diagrams of the documents as SVG, from the little of Mermaid's language that they use.

    flowchart TD
        a["a label"] --> b --> c
        b -- "says" --> d

A platform that knows Mermaid draws the same text by itself; on the site no script has to be loaded.
Nodes stand in layers, each below (TD) or right of (LR) all that lead to it, as in Sugiyama, Tagawa
and Toda (1981), "Methods for visual understanding of hierarchical system structures": edges over
several layers get a bend in each, and layers are put in order by the means of their neighbours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

NODE = re.compile(r'\s*(?P<name>\w+)(?:\["(?P<label>[^"]*)"\])?\s*')
ARROW = re.compile(r'--(?: "(?P<text>[^"]*)" --)?>')
CHARACTER, HEIGHT, MARGIN = 7.4, 34.0, 12.0  # pixels
BETWEEN, LAYERS = 26.0, 46.0  # gaps inside a layer, and from layer to layer
BACK = 9.0  # beside the middle of a box, where an edge against the direction comes and goes
SWEEPS = 12


@dataclass
class Chart:
    """Nodes by name with their labels, and edges with their texts, in the order of the source."""

    across: bool = False  # from left to right
    labels: dict[str, str] = field(default_factory=dict)
    edges: list[tuple[str, str, str]] = field(default_factory=list)


def parse(text: str) -> Chart:
    """ValueError with the line that cannot be read."""
    first, *lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if first not in ("flowchart TD", "flowchart LR"):
        raise ValueError(f"a diagram begins with 'flowchart TD' or 'flowchart LR', not {first!r}")
    chart = Chart(across=first.endswith("LR"))
    for line in lines:
        position, last, said = 0, None, ""
        while True:
            node = NODE.match(line, position)
            if node is None:
                raise ValueError(f"cannot read {line!r} from {line[position:]!r} on")
            name = node["name"]
            if node["label"] is not None or name not in chart.labels:
                chart.labels[name] = node["label"] or name
            if last is not None:
                chart.edges.append((last, name, said))
            if node.end() == len(line):
                break
            arrow = ARROW.match(line, node.end())
            if arrow is None:
                raise ValueError(f"cannot read {line!r} from {line[node.end() :]!r} on")
            position, last, said = arrow.end(), name, arrow["text"] or ""
    return chart


def layers_of(chart: Chart) -> dict[str, int]:
    """The layer of each node: one more than that of the last that leads to it. An edge that closes
    a circle does not count."""
    after: dict[str, list[str]] = {name: [] for name in chart.labels}
    for source, target, _ in chart.edges:
        after[source].append(target)
    done: list[str] = []
    path: list[str] = []
    counted: list[tuple[str, str]] = []

    def visit(name: str) -> None:
        path.append(name)
        for target in after[name]:
            if target in path:
                continue
            counted.append((name, target))
            if target not in done:
                visit(target)
        path.pop()
        done.append(name)

    for name in chart.labels:
        if name not in done:
            visit(name)
    layer = dict.fromkeys(chart.labels, 0)
    for name in reversed(done):  # each after all that lead to it
        for source, target in counted:
            if source == name:
                layer[target] = max(layer[target], layer[name] + 1)
    sources = {target for _, target in counted}
    for name in chart.labels:  # what nothing leads to stands right above what it leads to
        below = [layer[target] for source, target in counted if source == name]
        if name not in sources and below:
            layer[name] = min(below) - 1
    return layer


def svg(text: str) -> str:
    """The diagram; its colours are those of the page around it."""
    chart = parse(text)
    layer = layers_of(chart)
    rows: list[list[str]] = [[] for _ in range(max(layer.values()) + 1)]
    for name in chart.labels:
        rows[layer[name]].append(name)
    paths = []
    for i, (source, target, _) in enumerate(chart.edges):
        step = 1 if layer[target] >= layer[source] else -1
        bends = [f"{i}:{row}" for row in range(layer[source] + step, layer[target], step)]
        for bend in bends:
            rows[int(bend.split(":")[1])].append(bend)
        paths.append([source, *bends, target])
    neighbours: dict[str, list[str]] = {name: [] for row in rows for name in row}
    for path in paths:
        for one, other in pairwise(path):
            neighbours[one].append(other)
            neighbours[other].append(one)
    width = {name: CHARACTER * len(chart.labels[name]) + 24 for name in chart.labels}
    side = {n: 8.0 if ":" in n else (HEIGHT if chart.across else width[n]) for n in neighbours}
    place = _places(rows, neighbours, side)
    deep = 0.0
    depth: dict[str, float] = {}
    for row in rows:
        thick = max(width.get(n, 0.0) for n in row) if chart.across else HEIGHT
        texts = (t for s, _, t in chart.edges if s in row)
        gap = max([LAYERS, *(CHARACTER * len(t) + 24 for t in texts if chart.across)])
        depth |= dict.fromkeys(row, deep + thick / 2)
        deep += thick + gap
    at = {n: (depth[n], place[n]) if chart.across else (place[n], depth[n]) for n in neighbours}
    return _drawn(chart, paths, at, width)


def _places(
    rows: list[list[str]], neighbours: dict[str, list[str]], side: dict[str, float]
) -> dict[str, float]:
    """Where each node stands along its layer; rows are put in order on the way."""
    place = {name: float(i) for row in rows for i, name in enumerate(row)}
    for sweep in range(SWEEPS):
        order = range(len(rows)) if sweep % 2 == 0 else reversed(range(len(rows)))
        for index in order:
            rows[index].sort(key=lambda name: _mean(name, neighbours, place))
            place |= {name: float(i) for i, name in enumerate(rows[index])}
    for row in rows:
        _spread(row, side, place, dict.fromkeys(row, 0.0))
    for sweep in range(4 * SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            _spread(row, side, place, {n: _mean(n, neighbours, place) for n in row})
    return place


def _mean(name: str, neighbours: dict[str, list[str]], place: dict[str, float]) -> float:
    found = [place[other] for other in neighbours[name]]
    return sum(found) / len(found) if found else place[name]


def _spread(
    row: list[str], side: dict[str, float], place: dict[str, float], wanted: dict[str, float]
) -> None:
    """Puts the nodes of a row where they want to be, as far as their order and sizes allow: those
    that would overlap stand side by side around the mean of what they want."""
    offset, total = {}, 0.0
    for name in row:
        offset[name] = total + side[name] / 2
        total += side[name] + BETWEEN
    groups: list[list[str]] = []
    for name in row:
        groups.append([name])
        while len(groups) > 1 and _goal(groups[-2], offset, wanted) > _goal(
            groups[-1], offset, wanted
        ):
            groups[-2:] = [groups[-2] + groups[-1]]
    for group in groups:
        goal = _goal(group, offset, wanted)
        place |= {name: goal + offset[name] for name in group}


def _goal(group: list[str], offset: dict[str, float], wanted: dict[str, float]) -> float:
    return sum(wanted[name] - offset[name] for name in group) / len(group)


def _drawn(
    chart: Chart,
    paths: list[list[str]],
    at: dict[str, tuple[float, float]],
    width: dict[str, float],
) -> str:
    left = min(at[n][0] - width.get(n, 0) / 2 for n in at) - MARGIN
    top = min(y for _, y in at.values()) - HEIGHT / 2 - MARGIN
    right = max(at[n][0] + width.get(n, 0) / 2 for n in at) + MARGIN
    bottom = max(y for _, y in at.values()) + HEIGHT / 2 + MARGIN
    lines, texts = [], []
    # Two edges between the same nodes, there and back, stand beside each other.
    pairs = {(source, target) for source, target, _ in chart.edges}
    for path, (source, target, said) in zip(paths, chart.edges, strict=True):
        shift = 14.0 if (target, source) in pairs else 0.0
        forth = at[source][not chart.across] < at[target][not chart.across]
        if not forth:  # and one that goes back leaves room for those that come
            shift = -shift if shift else BACK
        points = [at[name] for name in path]
        if not chart.across:  # straight where a layer is passed
            ahead = HEIGHT / 2 if forth else -HEIGHT / 2
            passed = [[(x, y - ahead), (x, y + ahead)] for x, y in points[1:-1]]
            points = [points[0], *(point for pair in passed for point in pair), points[-1]]
        points = [(x, y + shift) if chart.across else (x + shift, y) for x, y in points]
        points[0] = _edge_of(points[0], width[source], chart.across, forth)
        points[-1] = _edge_of(points[-1], width[target], chart.across, not forth)
        lines.append(f'<path d="{_curve(points, chart.across)}" marker-end="url(#tip)"/>')
        if said:
            (x, y), (u, v) = points[0], points[1]
            x, y, end = (x + u) / 2, (y + v) / 2 + 4, "middle"
            if not chart.across and shift:
                x, end = x + (6 if shift > 0 else -6), "start" if shift > 0 else "end"
            texts.append(
                f'<text class="said" style="text-anchor:{end}" x="{x:.1f}" y="{y:.1f}">'
                f"{escape(said)}</text>"
            )
            # Words beside the outermost line need room of their own.
            if end == "start":
                right = max(right, x + CHARACTER * len(said) + MARGIN)
            elif end == "end":
                left = min(left, x - CHARACTER * len(said) - MARGIN)
    boxes = [
        f'<rect x="{at[n][0] - width[n] / 2:.1f}" y="{at[n][1] - HEIGHT / 2:.1f}" '
        f'width="{width[n]:.1f}" height="{HEIGHT:g}" rx="5"/>'
        f'<text x="{at[n][0]:.1f}" y="{at[n][1] + 5:.1f}">{escape(label)}</text>'
        for n, label in chart.labels.items()
    ]
    view = f"{left:.1f} {top:.1f} {right - left:.1f} {bottom - top:.1f}"
    return (
        f'<svg class="flowchart" viewBox="{view}" width="{right - left:.0f}" role="img">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>'
        f'<g class="lines">{"".join(lines)}</g>{"".join(boxes)}{"".join(texts)}</svg>'
    )


def _edge_of(
    point: tuple[float, float], width: float, across: bool, forth: bool
) -> tuple[float, float]:
    """Where a line leaves a box, or comes to it."""
    sign = 1 if forth else -1
    if across:
        return point[0] + sign * width / 2, point[1]
    return point[0], point[1] + sign * HEIGHT / 2


def _curve(points: list[tuple[float, float]], across: bool) -> str:
    drawn = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x, y), (u, v) in pairwise(points):
        if across:
            middle = (x + u) / 2
            drawn += f"C{middle:.1f} {y:.1f} {middle:.1f} {v:.1f} {u:.1f} {v:.1f}"
        else:
            middle = (y + v) / 2
            drawn += f"C{x:.1f} {middle:.1f} {u:.1f} {middle:.1f} {u:.1f} {v:.1f}"
    return drawn
