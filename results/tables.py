"""Tables as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

# With these a spreadsheet begins a formula (OWASP, "CSV Injection").
_FORMULAS = ("=", "+", "-", "@", "\t")


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """The rows as lines. Text that a spreadsheet would take for a formula begins with an
    apostrophe; numbers are as they are. Within a cell, lines end with a newline alone: a carriage
    return would not be quoted, and end the row."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([harmless(cell) for cell in row] for row in rows)
    return out.getvalue()


def harmless(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(_FORMULAS) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
