"""The networks that were found: drawings, costs by stage, genes, and links to their code."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from results import drawing
from results.history import Row
from results.section import Section
from results.view import View, after
from space.cost import Cost
from space.genome import Genome

FILES = ("model.py", "genome.json", "README.md")  # of an exported network, that are linked to


def section(view: View) -> Section:
    drawn = [_network(row, view) for row in view.drawn]
    left = len({row.digest for row in view.members} - {row.digest for row in view.drawn})
    return Section({"winners": drawn, "undrawn": left})


def _network(row: Row, view: View) -> dict[str, Any]:
    """Drawing, cost by stage and genes; only `problem` where the genome cannot be read."""
    shared = {"row": row, "files": code_links(row, view)}
    try:
        anatomy = _anatomy(Genome.from_json(row.genome))
    except ValueError as error:
        return {**shared, "problem": str(error)}
    return {**shared, "problem": None, "after": after(row), **anatomy}


def code_links(row: Row, view: View) -> list[dict[str, str]]:
    """Links to the files of an exported network, beside the report."""
    folder = view.run.exported.get(row.digest)
    if folder is None:
        return []
    return [{"name": name, "href": f"{quote(folder)}/{name}"} for name in FILES]


def _anatomy(genome: Genome) -> dict[str, Any]:
    return {
        "svg": Markup(drawing.draw_svg(genome)),
        "stages": stage_costs(genome),
        "total": genome.cost(),
        "genes": [
            {
                "path": same[0].path,
                "count": len(same),
                "kind": same[0].part.kind,
                "genes": drawing.gene_text(same[0].part, full=True),
            }
            for same in drawing.runs(genome)
        ],
    }


def stage_costs(genome: Genome) -> list[dict[str, Any]]:
    """The cost of stem, stages (each with the downsampling module before it) and head."""
    costs: dict[str, Cost] = {}
    for placed in genome.parts():
        where = ".".join(placed.path.split(".")[:2])
        costs[where] = costs.get(where, Cost()) + placed.cost()
    whole = genome.cost().macs
    stages = genome.to_json()["stages"]
    return [
        {
            "name": where if "." not in where else f"stage {int(where[7:]) + 1}",
            "operators": drawing.stage_operators(stages[int(where[7:])]) if "." in where else "",
            "cost": cost,
            "share": cost.macs / whole if whole else 0,
        }
        for where, cost in costs.items()
    ]
