"""Which genes mattered for the scores, and in which the winners differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from results import charts
from results.gene_table import ABSENT, Gene, gene_columns
from results.history import Row
from results.importance import Importance, Share, importance
from results.section import Section
from results.view import View, evenly

SHOWN = 15  # genes, and
SHOWN_PAIRS = 5
LEAST = 0.005  # share of the variance below which nobody needs to see a gene
SIDE_BY_SIDE = 8  # winners
DIFFERENT = 40  # genes of the winners
POOR_FIT = 0.3  # below it, what the forest says is mostly about itself


def section(view: View) -> Section:
    found = _importance(view) if view.run.finished else None
    winners = side_by_side(view)
    important = [] if found is None else _shown(found.genes, SHOWN)
    content = {
        "fit": None if found is None else fit_says(found),
        "important": important,
        "important_pairs": [] if found is None else _shown(found.pairs, SHOWN_PAIRS),
        "differences": differences(winners, found),
        "side_by_side": winners,
    }
    if not important:
        return Section(content)
    bars = [
        {
            "gene": part["names"][0],
            "share": part["share"],
            "spread": part["spread"],
            "low": max(0.0, part["share"] - part["spread"]),
            "high": part["share"] + part["spread"],
        }
        for part in important
    ]
    plot = charts.importance_chart(len(bars))
    return Section(content, plots={"importance": plot}, data={"importance": bars})


def _importance(view: View) -> Importance | None:
    """Of all that was scored, by the search and by chance: the more rows, the surer."""
    rows = view.scored + [row for row in view.run.by_chance if row.score is not None]
    rows = list({row.digest: row for row in reversed(rows)}.values())
    genes = gene_columns([row.genome for row in rows], once=True)
    return importance(genes, [float(row.score or 0) for row in rows])


def _shown(shares: Sequence[Share], most: int) -> list[dict[str, Any]]:
    return [
        {"names": part.genes, "share": part.share, "spread": part.spread}
        for part in shares[:most]
        if part.share >= LEAST
    ]


def fit_says(found: Importance) -> str:
    """How far the shares can be trusted."""
    if found.fit is None:
        return f"The forest was fitted to {found.rows:,} networks; too few to say how well."
    said = (
        f"The forest predicts {max(0.0, found.fit):.0%} of the variance of scores of networks that "
        f"it was not fitted to ({found.rows:,} in all)."
    )
    if found.fit < POOR_FIT:
        said += " That is little: do not lean on these shares."
    return said


def side_by_side(view: View) -> list[Row]:
    """Some winners from cheap to dear, the best among them."""
    best = view.best
    others = [row for row in view.members if row is not best]
    chosen = evenly(others, SIDE_BY_SIDE - (best is not None))
    chosen += [best] if best is not None else []
    return sorted(chosen, key=lambda row: row.cost(view.costs[0]))


def differences(winners: Sequence[Row], found: Importance | None) -> dict[str, Any]:
    """The genes in which they differ: for each its name and a cell for each winner, with `text` and
    a `shade` from 0 to 1 by its place among the values of that gene; and how many are left out."""
    genes = gene_columns([row.genome for row in winners]) if len(winners) > 1 else []
    shares = {part.genes[0]: part.share for part in found.genes} if found else {}
    if len(genes) > DIFFERENT:
        kept = sorted(genes, key=lambda gene: -shares.get(gene.name, 0.0))[:DIFFERENT]
        kept = [gene for gene in genes if gene in kept]
    else:
        kept = genes
    return {
        "genes": [{"name": gene.name, "cells": _cells(gene)} for gene in kept],
        "left_out": len(genes) - len(kept),
    }


def _cells(gene: Gene) -> list[dict[str, Any]]:
    there = [level for level in gene.levels if level != ABSENT]
    last = max(1, len(there) - 1)
    return [
        {
            "text": _text(value),
            "shade": None if value == ABSENT else code / last,
        }
        for value, code in zip(gene.values, gene.codes, strict=True)
    ]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
