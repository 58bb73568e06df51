"""The charts of a page as files: each as SVG and as PNG, in the colours of the light theme."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import vl_convert

from results import theme
from results.page import jsonable
from results.run_folder import write_bytes

WIDTH = 640  # of a chart, without its axes
SCALE = 2  # pixels of a PNG for each of an SVG


def write_plots(folder: Path, charts: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    """Draws each chart to `<name>.svg` and `<name>.png`, and removes those of charts that are no
    more; the names of the files. Each file is written in one piece."""
    folder.mkdir(exist_ok=True)
    written = []
    for name, spec in charts.items():
        svg = vl_convert.vegalite_to_svg(standalone(spec, data))
        for suffix, content in (
            ("svg", svg.encode()),
            ("png", vl_convert.svg_to_png(svg, scale=SCALE)),
        ):
            written.append(f"{name}.{suffix}")
            write_bytes(folder / written[-1], content)
    for left in folder.iterdir():
        if left.suffix in (".svg", ".png") and left.name not in written:
            left.unlink()
    return written


def standalone(spec: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """A chart that needs nothing else; datasets of its own come before those of `data`."""
    own = spec.get("datasets", {})
    text = str(spec)
    used = {name: found for name, found in data.items() if f"'{name}'" in text}
    whole = {**spec, "datasets": jsonable({**used, **own})}
    whole |= {"width": WIDTH, "config": theme.vega(), "background": theme.LIGHT["page"]}
    title = {"text": spec.get("description", ""), "anchor": "start", "fontWeight": 500}
    return whole | {"title": title, "padding": 12}
