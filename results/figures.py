"""Numbers of a report as text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any


def finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def big(value: float | None, unit: str = "") -> str:
    """`3.98 G`, `512 MB`, `42`: three digits, a power of a thousand, and the unit."""
    if value is None:
        return "–"
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            scaled = value / scale
            digits = 2 if scaled < 10 else 1 if scaled < 100 else 0
            return f"{scaled:,.{digits}f} {prefix}{unit}"
    return f"{value:g} {unit}".rstrip()


def million(value: float) -> str:
    return f"{value / 1e6:,.1f}"


def score(value: float | None) -> str:
    value = finite(value)
    return "–" if value is None else f"{value:.4f}"


def percent(value: float | None) -> str:
    value = finite(value)
    return "–" if value is None else f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def words(name: str) -> str:
    return name.replace("_", " ")


def size(count: int | None) -> str | None:
    """`12,345`, or `1.2 × 10^20` with the exponent in superscript digits."""
    if count is None or count < 1_000_000:
        return None if count is None else f"{count:,}"
    mantissa, exponent = f"{Decimal(count):.1e}".split("e+")
    raised = exponent.translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} × 10{raised}"


def published(top1: float | None) -> float | None:
    """Published top-1 as a share; above 1 it is in percent."""
    return top1 if top1 is None or top1 <= 1 else top1 / 100


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as lines `search.seed`, `7`."""
    if isinstance(value, Mapping) and (value or not name):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        yield name, ", ".join(plain(item) for item in value) or "none"
    else:
        yield name, plain(value)


def plain(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
