"""What each setting of the training does to the ranking, and what it costs.

    python -m benchmarks.ablation truth --data CIFAR10 --json FILE
    python -m benchmarks.ablation run --data CIFAR10 --truth FILE \\
        --table nasbench_macro.csv.gz --json benchmarks/results/ablation-cpu.json

`truth` trains networks of the default space alone, at the proxy's size, and notes their accuracy on
held-out images. `run` trains one supernet for each variant of the recipe, changes one setting at a
time, and compares its scores with that truth; with `--table`, also a supernet of `nasbench_macro`
at a quarter of its width with the accuracies of NAS-Bench-Macro, where more networks are known.
Both write after each network or variant, and go on where they were stopped.

With 48 networks an interval of tau is about 0.2 wide. What a setting changes is known better than
that, because all variants rank the same networks: the scores of each are kept, and
`benchmarks.ranking_page` draws networks again for the difference of two taus. Times are seconds of
the processor, which other processes on the machine do not change much.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import ranking_nasbench_macro as macro
from benchmarks.machine import device_name
from evaluator.data import ImageData, load_data
from evaluator.population import PopulationScorer
from evaluator.trust import interval, kendall
from results.run_folder import write_text
from space.files import load_space
from space.genome import Genome
from space.search_space import Space
from supernet.augmentation import normalise
from supernet.batches import Batches, ResidentImages
from supernet.network import Supernet
from supernet.recipe import TrainingSettings
from supernet.training import AloneTrainer, Trainer

SIDE, WIDTH = 32, 0.125  # of the default space's proxy
MACRO_SIDE, MACRO_WIDTH = 16, 0.25
IMAGES = 2000  # held-out, on which supernets are asked
SHIFT = {"shift": 0.125, "flip": True}
SPLIT = {"unified": "stages.2.blocks", "nasbench_macro": "stages.2.downsample"}

# One change at a time, and what it changes in settings; `learning_rate` and `steps` are factors. A
# variant that a space's recipe has already is left out there.
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "again, seed 1": {"seed": 1},
    "sandwich off": {"sandwich": False, "sampled": 4},
    "smallest off": {"smallest": False, "sampled": 3},
    "sampling uniform": {"sampling": "uniform"},
    "sampling even": {"sampling": "even"},
    "sampling fair": {"sampling": "fair"},
    "distillation none": {"distillation": "none"},
    "distillation soft": {"distillation": "soft"},
    "distillation adaptive": {"distillation": "adaptive"},
    "conflict": {"conflict": True},
    "pooled off": {"pooled": False},
    "split": {"split_at": "SPLIT"},
    "ema 0.99": {"ema": 0.99},
    "warmup 0": {"warmup": 0.0},
    "clip 0": {"clip": 0.0},
    "clip 1": {"clip": 1.0},
    "half the learning rate": {"learning_rate": 0.5},
    "twice the learning rate": {"learning_rate": 2.0},
    "half the steps": {"steps": 0.5},
    "twice the steps": {"steps": 2},
    "shift 0": {"shift": 0.0},
    "flip off": {"flip": False},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "mixup 0.2": {"mixup": 0.2},
    "cutmix 1": {"cutmix": 1.0},
    "RandAugment 5": {"randaugment": 5.0},
    "erasing 0.25": {"erasing": 0.25},
    "EfficientTrain": {"curriculum": "efficienttrain"},
    "EfficientTrain++": {"curriculum": "efficienttrain++"},
    "layer scale 1": {"layer_scale": 1.0},
    "bfloat16": {"bfloat16": True},
    "checkpointing": {"checkpointing": True},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=("truth", "run"))
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as a parquet folder")
    parser.add_argument("--json", type=Path, required=True, help="where the results are kept")
    parser.add_argument("--networks", type=int, default=48, help="that are trained alone")
    parser.add_argument("--steps", type=int, default=800, help="of a network alone")
    parser.add_argument("--supernet-steps", type=int, default=430)
    parser.add_argument("--truth", type=Path, help="the result of 'truth'")
    parser.add_argument("--table", type=Path, help="nasbench_macro.csv.gz")
    parser.add_argument("--macro-steps", type=int, default=600)
    parser.add_argument("--macro-networks", type=int, default=400)
    parser.add_argument("--only", action="append", choices=VARIANTS, help="this variant")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of one pass")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return make_truth(options) if options.what == "truth" else run(options)


def kept(path: Path, fresh: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier call has left, or the beginning of a new file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else dict(fresh)


def keep(path: Path, result: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(result, indent=1) + "\n")


def about() -> dict[str, Any]:
    return {
        "command": " ".join(["python -m benchmarks.ablation", *sys.argv[1:]]),
        "device": device_name("cpu"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def unified() -> Space:
    return load_space("unified").scaled(width=WIDTH, resolution=SIDE, classes=10)


def batches(data: ImageData, settings: TrainingSettings, seed: int) -> Batches:
    source = ResidentImages(data.train.images, data.train.labels, batch=settings.batch, seed=seed)
    return Batches(source, data.mean, data.std, settings, classes=10, seed=seed)


# ---- networks alone


def make_truth(options: argparse.Namespace) -> int:
    """Trains networks alone; each by the recipe's defaults and its own seed."""
    data, space = load_data(options.data, resolution=SIDE), unified()
    settings = TrainingSettings(steps=options.steps, **SHIFT)
    result = kept(
        options.json,
        {"benchmark": "ablation truth", **about(), "settings": settings.to_plain(), "networks": []},
    )
    rows = space.sample_codes(np.random.default_rng(2), options.networks)
    for i, row in enumerate(rows[len(result["networks"]) :], len(result["networks"])):
        begun = time.process_time()
        trainer = AloneTrainer(space.decode(row), batches(data, settings, i), settings, seed=i)
        trainer.run()
        accuracy = accuracy_of(trainer, data)
        seconds = time.process_time() - begun
        result["networks"].append(
            {"row": row.tolist(), "seed": i, "accuracy": accuracy, "seconds": seconds}
        )
        keep(options.json, result)
        print(f"{i + 1}/{len(rows)}  accuracy {accuracy:.3f}  {seconds:.0f} s", flush=True)
    return 0


@torch.no_grad()
def accuracy_of(trainer: AloneTrainer, data: ImageData) -> float:
    """Share of the held-out images (the validation split) that are classified right."""
    network = trainer.network.eval()
    right = 0
    for images, labels in zip(
        data.validation.images.split(1000), data.validation.labels.split(1000), strict=True
    ):
        logits = network(normalise(images, data.mean, data.std))
        right += int((logits.argmax(1) == labels).sum())
    return right / len(data.validation)


# ---- supernets


def run(options: argparse.Namespace) -> int:
    """One supernet a variant, on each of the spaces that there is truth for."""
    truths = {}
    if options.truth is not None:
        found = json.loads(options.truth.read_text(encoding="utf-8"))["networks"]
        rows = np.array([network["row"] for network in found])
        accuracies = np.array([network["accuracy"] for network in found])
        data = load_data(options.data, resolution=SIDE)
        truths["unified"] = (unified(), rows, accuracies, data)
    if options.table is not None:
        rows, table = macro.read_table(options.table)
        some = np.random.default_rng(0).choice(len(rows), options.macro_networks, replace=False)
        space = load_space("nasbench_macro").scaled(
            width=MACRO_WIDTH, resolution=MACRO_SIDE, classes=10
        )
        small = load_data(options.data, resolution=MACRO_SIDE)
        truths["nasbench_macro"] = (space, rows[some], table.mean_acc.to_numpy()[some], small)
    result = kept(options.json, {"benchmark": "ablation", **about(), "variants": []})
    result["accuracies"] = {
        **result.get("accuracies", {}),
        **{name: truth.tolist() for name, (_, _, truth, _) in truths.items()},
    }
    done = {(row["space"], row["variant"]) for row in result["variants"]}
    for variant in options.only or VARIANTS:
        for name, (space, rows, accuracies, data) in truths.items():
            if (name, variant) in done or not applies(name, variant, options):
                continue
            row = measure(name, variant, space, rows, accuracies, data, options)
            result["variants"].append(row)
            compare(result)
            keep(options.json, result)
            print(
                f"{name:15} {variant:24} tau {row['tau']:.3f}  {row['cpu_seconds']:.0f} s",
                flush=True,
            )
    compare(result)
    keep(options.json, result)
    return 0


def compare(result: Mapping[str, Any], resamples: int = 1000) -> None:
    """Adds to each variant by how much its tau is above that of the recipe as it is, with a 95%
    bootstrap interval: networks are drawn again, the same ones for both."""
    base = {row["space"]: row for row in result["variants"] if row["variant"] == "as it is"}
    for row in result["variants"]:
        if row["space"] not in base:
            continue
        truth = np.array(result["accuracies"][row["space"]])
        ours, others = np.array(row["scores"]), np.array(base[row["space"]]["scores"])
        rng = np.random.default_rng(0)
        drawn = [rng.integers(0, len(truth), len(truth)) for _ in range(resamples)]
        apart = [kendall(ours[i], truth[i]) - kendall(others[i], truth[i]) for i in drawn]
        row["difference"] = row["tau"] - base[row["space"]]["tau"]
        row["difference_interval"] = [float(end) for end in np.percentile(apart, (2.5, 97.5))]


def recipe(space: str, variant: str, options: argparse.Namespace) -> tuple[TrainingSettings, int]:
    """The settings of a variant and its seed."""
    changes = {k: v for k, v in VARIANTS[variant].items() if k != "layer_scale"}
    seed = changes.pop("seed", 0)
    if "split_at" in changes:
        changes["split_at"] = [SPLIT[space]]
    base: dict[str, Any] = {**SHIFT, "steps": options.supernet_steps}
    if space == "nasbench_macro":
        base = {
            **macro.COMMON,
            "sandwich": True,
            "smallest": False,
            "sampled": 4,
            "batch": 64,
            "learning_rate": 0.1,
            "steps": options.macro_steps,
        }
    plain = {**TrainingSettings().to_plain(), **base}
    for setting in ("learning_rate", "steps"):
        if setting in changes:
            changes[setting] = type(plain[setting])(changes[setting] * plain[setting])
    return TrainingSettings.from_plain({**plain, **changes}), seed


def applies(space: str, variant: str, options: argparse.Namespace) -> bool:
    """Whether the variant is another recipe than the space's own."""
    if not VARIANTS[variant] or "seed" in VARIANTS[variant]:
        return True
    if "layer_scale" in VARIANTS[variant]:
        return space == "unified"
    return recipe(space, variant, options) != recipe(space, "as it is", options)


def measure(
    name: str,
    variant: str,
    space: Space,
    rows: Any,
    accuracies: Any,
    data: ImageData,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Trains a supernet and compares its scores with the accuracies."""
    settings, seed = recipe(name, variant, options)
    supernet = Supernet(space, seed=seed, pooled=settings.pooled, split_at=settings.split_at)
    if VARIANTS[variant].get("layer_scale"):
        restart_layer_scales(supernet, VARIANTS[variant]["layer_scale"])
    trainer = Trainer(supernet, batches(data, settings, seed), settings, seed=seed)
    begun = time.process_time()
    trainer.run()
    cpu_seconds = time.process_time() - begun
    genomes = [space.decode(row) for row in rows]
    scores = scored(supernet, [*genomes, trainer.largest, trainer.smallest], data)
    values = np.array([score.score for score in scores[: len(rows)]])
    top1 = [score.details["top1"] for score in scores]
    return {
        "space": name,
        "variant": variant,
        "seed": seed,
        "changes": VARIANTS[variant],
        "settings": settings.to_plain(),
        "networks": len(rows),
        "tau": kendall(values, accuracies),
        "tau_interval": interval(kendall, values, accuracies, seed=0, resamples=500),
        "scores": [round(float(value), 6) for value in values],
        "cpu_seconds": cpu_seconds,
        "largest_top1": top1[-2],
        "smallest_top1": top1[-1],
        "mean_top1": float(np.mean(top1[:-2])),
    }


def scored(supernet: Supernet, genomes: list[Genome], data: ImageData) -> list[Any]:
    scorer = PopulationScorer(
        supernet,
        data.validation.images[:IMAGES],
        data.validation.labels[:IMAGES],
        calibration=data.train.images[: macro.CALIBRATION],
        normalise=lambda pixels: normalise(pixels, data.mean, data.std),
        chunk=1000,
    )
    return scorer.scores(genomes)


@torch.no_grad()
def restart_layer_scales(supernet: Supernet, start: float) -> None:
    """What the operators' branches begin with, instead of what the space says."""
    for name, weight in supernet.weights.items():
        if name.endswith("scale.weight"):
            weight.fill_(start)


if __name__ == "__main__":
    sys.exit(main())
