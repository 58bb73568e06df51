"""The report of a run: one HTML file that works offline (`results.page`), and its charts as files.

What each section says is in `results/sections`, what it looks like in `results/templates`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from results import similarity
from results.history import Run
from results.page import write_page
from results.plots import write_plots
from results.section import Section
from results.sections import (
    front,
    genes,
    networks,
    published,
    search,
    settings,
    summary,
    trust,
)
from results.view import View

SECTIONS = (summary, front, search, genes, trust, networks, published, settings)


def write_report(path: Path, run: Run, *, plots: Path | None = None) -> None:
    """Writes the report of `run` to `path`; a reader sees the old file or the new, never half.
    With `plots`, its charts go into that folder as well, before it.

    Links lead to files beside it: `candidates.sqlite`, `front.csv`, `plots/` and
    `architectures/<name>/`.
    """
    view = View(run)
    sections = [section.section(view) for section in SECTIONS]
    drawn: list[str] = []
    if plots is not None:
        drawn = write_plots(plots, _joined(sections, "plots"), _joined(sections, "data"))
    write_page(path, "report.html.j2", _content(run, sections, drawn))


def _content(run: Run, sections: list[Section], drawn: list[str]) -> dict[str, Any]:
    return {
        "run": run,
        "charts": _joined(sections, "charts"),
        "data": _joined(sections, "data"),
        "drawn": drawn,
        "written": time.strftime("%Y-%m-%d %H:%M:%S"),
        "similarity": similarity.section(run.similarity),
        **_joined(sections, "content"),
    }


def _joined(sections: list[Section], what: str) -> dict[str, Any]:
    return {k: v for section in sections for k, v in getattr(section, what).items()}
