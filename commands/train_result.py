"""What comes of `run_search.py train`: a result, exported networks, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from commands.train_plan import Plan
from results.console import Console
from results.finalists import interval, show
from supernet.network_training import NetworkTrainer


def result_of(
    plan: Plan, place: int, trainer: NetworkTrainer, accuracy: Mapping[str, Any]
) -> dict[str, Any]:
    """Of one network, as plain data; `accuracy` has shares by split, and which was held out."""
    genome = trainer.genome
    cost = genome.cost()
    return {
        "format": 1,
        "name": plan.found.names[place],
        "digest": genome.digest,
        "macs": cost.macs,
        "params": cost.params,
        "resolution": genome.resolution,
        "classes": genome.classes,
        "accuracy": dict(accuracy),
        "steps": trainer.step,
        "seconds": trainer.seconds,
        "recipe": plan.how.recipe.to_plain(),
        "data": plan.images.digest,
    }


def export(
    plan: Plan,
    place: int,
    trainer: NetworkTrainer,
    result: Mapping[str, Any],
    folder: Path,
    formats: Sequence[str],
) -> None:
    """Writes the network with its weights, and what they reach."""
    from results.export import export_network  # brings what writes networks

    data, found = plan.images, result["accuracy"]
    export_network(
        trainer.genome,
        folder,
        name=plan.found.names[place],
        facts={
            "accuracy": said_accuracy(found),
            "trained on": f"{len(data.train):,} images of {data.name}, {trainer.step:,} steps",
            "images": f"RGB from 0 to 1, less {_numbers(data.mean)}, over {_numbers(data.std)}",
            "classes in order": ", ".join(data.classes[:20]) + ", ..." * (len(data.classes) > 20),
        },
        state=trainer.network.state_dict(),
        formats=formats,
    )


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def said_accuracy(found: Mapping[str, Any]) -> str:
    share, count = found[found["split"]], found["images"]
    low, high = interval(share, count)
    return (
        f"{share:.2%} of {count:,} {found['split']} images right ({low:.1%} to {high:.1%} with 95% "
        "confidence)"
    )


def report(plan: Plan, result: Mapping[str, Any], console: Console) -> None:
    """Says what came of it."""
    if "networks" in result:  # of finalists
        shown = [*show(plan.folder, result), f"Networks: {plan.folder.networks}"]
    else:
        found = result["accuracy"]
        shown = [f"{result['name']}, trained for {result['steps']:,} steps: {said_accuracy(found)}"]
        if found["split"] == "validation":
            shown.append("There are no test images, so the accuracy is that of validation images.")
        shown.append(f"Network: {plan.folder.network}")
        shown.append(f"Curves:  {plan.folder.path / 'metrics.csv'}")
    console.result({"folder": str(plan.folder.path), **result}, shown)
