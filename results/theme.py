"""Colours of a page and of its charts, in light and in dark.

Series take the colours of Okabe and Ito, "Color Universal Design" (2008), made darker or lighter
where they would not stand out: text has a contrast of at least 4.5 to what it stands on, marks of a
chart at least 3 (WCAG 2.2, 1.4.3 and 1.4.11). Charts tell series apart by shapes or dashes as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LIGHT: Mapping[str, str] = {
    "page": "#ffffff",
    "panel": "#f3f5f8",
    "ink": "#1a2029",
    "soft": "#525c6d",
    "line": "#d9dde4",
    "edge": "#768191",
    "accent": "#005a94",
    "front": "#0072b2",
    "candidate": "#7a8494",
    "best": "#c14f00",
    "bad": "#b3261e",
    "known": "#007f5c",
    "note": "#fff6e0",
    "note-edge": "#b37a00",
}
DARK: Mapping[str, str] = {
    "page": "#14171c",
    "panel": "#1d2128",
    "ink": "#e7eaef",
    "soft": "#a9b3c1",
    "line": "#363d48",
    "edge": "#7b8696",
    "accent": "#7cc4f4",
    "front": "#56b4e9",
    "candidate": "#8792a2",
    "best": "#ff9a4d",
    "bad": "#ff8a80",
    "known": "#4dd3ad",
    "note": "#2b2412",
    "note-edge": "#c58f12",
}
# Of series: blue, orange, green, purple, brown, and a grey.
LIGHT_SERIES = ("#0072b2", "#c14f00", "#007f5c", "#a24e7d", "#7a5c00", "#5b6675")
DARK_SERIES = ("#56b4e9", "#e69f00", "#4dd3ad", "#dc92ba", "#f0e442", "#a9b3c1")
SHAPES = ("circle", "triangle-up", "square", "diamond", "cross", "triangle-down")
DASHES = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3), (12, 4), (4, 4))
SANS = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

# What text and marks stand on, and the least contrast that they need with it.
CONTRASTS = (
    *((name, on, 4.5) for name in ("ink", "soft", "accent") for on in ("page", "panel")),
    *(("page", "best", 4.5), ("ink", "note", 4.5), ("accent", "note", 4.5)),
    *((name, "page", 3.0) for name in ("front", "candidate", "best", "bad", "known", "edge")),
    ("note-edge", "page", 3.0),
)


def contrast(one: str, other: str) -> float:
    """The ratio of luminances of two colours (WCAG 2.2, "contrast ratio")."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2), 0 to 1."""
    red, green, blue = (_linear(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def css() -> str:
    """The colours as custom properties, dark ones where the reader's system is dark."""
    dark = f"@media (prefers-color-scheme: dark) {{ :root {{ {_properties(DARK)} }} }}"
    return f":root {{ --sans: {SANS}; {_properties(LIGHT)} }}\n{dark}"


def _properties(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def vega(*, dark: bool = False) -> dict[str, Any]:
    """The same as a configuration of Vega-Lite; charts name these styles."""
    of = DARK if dark else LIGHT
    ring = {"opacity": 1, "stroke": of["page"], "strokeWidth": 1.5}
    return {
        "background": "transparent",
        "font": SANS,
        "view": {"stroke": None},
        "axis": {
            "labelColor": of["soft"],
            "titleColor": of["ink"],
            "gridColor": of["line"],
            "domainColor": of["line"],
            "tickColor": of["line"],
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": 500,
            "titlePadding": 10,
            "labelFlush": False,
            "labelOverlap": True,
        },
        "axisX": {"tickCount": {"expr": "ceil(width / 90)"}, "grid": False},
        "axisY": {"tickCount": 6, "domain": False, "ticks": False},
        "legend": {
            "labelColor": of["ink"],
            "titleColor": of["ink"],
            "labelFontSize": 12,
            "symbolOpacity": 1,
        },
        "title": {"color": of["ink"], "subtitleColor": of["soft"], "anchor": "start"},
        "range": {"category": list(DARK_SERIES if dark else LIGHT_SERIES)},
        "style": {
            "candidate": {"color": of["candidate"], "opacity": 0.55},
            "front": {"color": of["front"], "strokeWidth": 2},
            "member": {"color": of["front"], **ring},
            "best": {"color": of["best"], **ring},
            "best-text": {"color": of["ink"], "fontSize": 12, "fontWeight": 600},
            "text": {"color": of["soft"], "fontSize": 12},
            "budget": {"color": of["soft"], "strokeDash": [5, 4], "strokeWidth": 1.5},
            "budget-text": {"color": of["soft"], "fontSize": 12},
            "published": {"color": of["candidate"], "opacity": 0.6},
            "near": {"color": of["known"], "opacity": 0.9},
            "failed": {"color": of["bad"], "opacity": 1},
            "frame": {"color": of["edge"], "strokeWidth": 1},
        },
    }
