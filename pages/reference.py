"""Writes the pages that are made from the code and from results: `python -m pages.reference`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from pages import numbers, options, parts

DOCS = Path(__file__).parents[1] / "docs"


def pages() -> Mapping[Path, Callable[[], str]]:
    """Where each page lies, and what makes its text."""
    made: dict[Path, Callable[[], str]] = {
        DOCS / "reference" / "commands.md": options.page,
        DOCS / "measured.md": numbers.page,
    }
    for category, (name, *_) in parts.PAGES.items():
        made[DOCS / "reference" / f"{name}.md"] = partial(parts.page, category)
    return made


def main() -> int:
    for path, make in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
