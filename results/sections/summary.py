"""The top of a report in plain words: what was asked, what was found, how far to trust it, and
what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from results import finalists, trust_card
from results.figures import size
from results.history import Row
from results.section import Section
from results.view import View, positive
from space.budget import cost_figure, cost_text, cost_title

ERRORS = 10  # failed candidates that are shown with their message


def section(view: View) -> Section:
    run, best = view.run, view.best
    planned = run.evaluations
    content = {
        "evaluated": view.scored,
        "failed": view.failed,
        "errors": view.failed[:ERRORS],
        "seconds": sum(row.seconds for row in run.rows),
        "best": best,
        "controller": view.who,
        "planned": planned,
        "done": min(1.0, len(run.rows) / planned) if planned else None,
        "limits": _limits(view),
        "wanted": [cost_title(cost) for cost in view.costs],
        "tiles": [] if best is None else _tiles(view, best),
        "size": size(run.space_summary.get("size")),
        "found_how": _found_how(view),
        "cautions": cautions(view),
        "steps": next_steps(view),
    }
    return Section(content)


def _limits(view: View) -> list[dict[str, Any]]:
    """Each limit of the budget, and how much of it the best network uses where that is known."""
    best = view.best
    used = {} if best is None else {"macs": best.macs, "params": best.params, **best.costs}
    return [
        {
            "name": name,
            "limit": cost_text(name, limit),
            "share": used[name] / limit if name in used else None,
        }
        for name, limit in positive(view.run.budget).items()
    ]


def _tiles(view: View, best: Row) -> list[dict[str, Any]]:
    """What the best network costs beside MACs and parameters."""
    return [
        {
            "title": cost_title(name)[:1].upper() + cost_title(name)[1:],
            "figure": cost_figure(name, best.cost(name)),
            "share": best.cost(name) / view.limits[name] if name in view.limits else None,
        }
        for name in view.others
    ]


def _found_how(view: View) -> str:
    """When the best was found, in the order of evaluation."""
    if view.best is None:
        return ""
    place = next(i for i, row in enumerate(view.run.rows) if row.digest == view.best.digest)
    return f"It was evaluation {place + 1:,} of {len(view.run.rows):,}"


def cautions(view: View) -> list[str]:
    """How far to trust what was found: a sentence for each thing that is known about it, or not."""
    run, said = view.run, []
    if run.trust is not None:
        said.append(trust_card.verdict(run.trust))
    if run.finalists is not None:
        said.append(finalists.verdict(run.finalists))
    if view.failed:
        said.append(f"{len(view.failed):,} of {len(run.rows):,} candidates failed.")
    return said


def next_steps(view: View) -> Sequence[tuple[str, str]]:
    """The steps given, else those that fit what has been done already."""
    run, best = view.run, view.best
    if run.next_steps:
        return run.next_steps
    if not run.finished:
        resume = f"python run_search.py --resume {shlex.quote(run.folder or 'RUN')}"
        return [("Let it finish. Where it was stopped, this goes on with it:", resume)]
    if best is None:
        return []
    steps = []
    place = shlex.quote(run.folder or "RUN")
    if run.trust is None:
        text = "Check the scores: train some networks alone and see whether they rank alike."
        steps.append((text, run.trust_command))
    if run.finalists is None:
        text = "Train the best ones alone, at proxy size, and let accuracy on test images decide."
        steps.append((text, f"python run_search.py finalists {place} --networks 8 --random 4"))
    code = run.exported.get(best.digest) or f"architectures/{best.name}"
    path = f"{run.folder}/{code}" if run.folder else code
    look = (
        f"Look at {best.name}: plain PyTorch in one file, which needs nothing but torch. This "
        "counts its parameters and multiply-adds again and checks them."
    )
    steps.append((look, f"python {shlex.quote(f'{path}/model.py')}"))
    train = (
        "Train it at its own size, from scratch, which alone tells its accuracy. (By hand: "
        "its README.md has a recipe.)"
    )
    steps.append((train, f"python run_search.py train {place} --recipe deit"))
    return steps
