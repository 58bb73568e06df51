"""Pages that work offline: one HTML file each, which loads nothing from anywhere.

The charting code (Vega, Vega-Lite, Vega-Embed; BSD-3-Clause) is part of the page, and a content
security policy keeps the browser from fetching and from running any script but the page's own two,
named by their hash. Text (names, paths, errors) is escaped by Jinja2, and data for the charts goes
in as JSON that cannot close its element.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from results import figures, theme

TEMPLATES = Path(__file__).with_name("templates")
PACKED = 50  # points of which so many are written as a table, names of columns once


def write_page(path: Path, template: str, content: Mapping[str, Any]) -> None:
    """Writes a page; a reader sees the old file or the new, never half."""
    text = render(template, content)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # A path in the settings may hold bytes that are no text; they become question marks.
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def render(template: str, content: Mapping[str, Any]) -> str:
    """The page; `charts` of `content` are Vega-Lite specifications by name, and `data` what they
    name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        big=figures.big,
        million=figures.million,
        score=figures.score,
        percent=figures.percent,
        duration=figures.duration,
        words=figures.words,
    )
    charts, data = content["charts"], content["data"]
    library = _library() if charts else ""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    shown = {
        "data": {name: packed(found) for name, found in data.items()},
        "specs": charts,
        "themes": {"light": theme.vega(), "dark": theme.vega(dark=True)},
    }
    return environment.get_template(template).render(
        **content,
        library=Markup(library),
        script=Markup(script),
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        colours=Markup(theme.css()),
        policy=policy(*filter(None, (library, script))),
        chart_json=embedded(shown),
    )


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    return vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub forgets a default


def policy(*scripts: str) -> str:
    """A content security policy under which only these scripts run and nothing is fetched."""
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def packed(points: Any) -> Any:
    """Many points of the same fields as `columns` and `rows`; anything else as it is."""
    if not isinstance(points, list) or len(points) < PACKED or not isinstance(points[0], dict):
        return points
    columns = list(points[0])
    if any(list(point) != columns for point in points):
        return points
    return {"columns": columns, "rows": [list(point.values()) for point in points]}


def embedded(value: Any) -> Markup:
    """JSON for a `<script type="application/json">`: ASCII alone, so no line separator of
    JavaScript, and no `<`, `>` or `&` that could end the element. Infinite numbers and NaN, which
    JSON has not, become null."""
    text = json.dumps(jsonable(value), allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
