"""How well a supernet ranks networks that others trained: NAS-Bench-Macro on CIFAR-10.

    python -m benchmarks.ranking_nasbench_macro --data CIFAR10 --table nasbench_macro.csv.gz \\
        --json benchmarks/results/ranking_nasbench_macro-cpu.json

trains the supernet of the space `nasbench_macro` and scores all 3,969 distinct networks of the
table (Su et al., 2021, arXiv 2105.11871; github.com/xiusu/NAS-Bench-Macro, Apache-2.0) on images
that were not trained on. It prints and writes Kendall's tau against the table's mean accuracies,
over all networks and among those within 10% of 50 million MACs, beside the tau of MACs, parameters
and the number of layers, and that of one run of the table with another.

`--preset reduced` (the default without a GPU) is for two CPU cores and an hour: a quarter of the
width and 24 x 24 pixels. `--preset full` is the published networks at full size, for one GPU and
9 minutes. Every setting of the training is an option. With `--checkpoints FOLDER` a run can be
stopped with Ctrl-C and goes on when it is started again. The test images of CIFAR-10 are not looked
at: the networks are compared on images that are held out of the training images.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.machine import device_name
from commands.options import add_training, given_training
from evaluator.data import ImageData, load_data
from evaluator.effects import main_effects
from evaluator.population import PopulationScorer
from evaluator.trust import interval, kendall, spearman
from space.cost_table import CostTable
from space.decisions import Codes
from space.files import load_space
from space.search_space import Space
from supernet.augmentation import normalise
from supernet.batches import Batches, ResidentImages
from supernet.checkpoints import Checkpoints
from supernet.network import Supernet
from supernet.recipe import TrainingSettings
from supernet.training import Trainer

LAYERS = (2, 3, 3)  # of the stages; the first of each changes width and resolution
BAND_MACS, BAND = 50e6, 0.1
CALIBRATION = 1000  # images for the running statistics of BatchNorm

PRESETS: dict[str, dict[str, Any]] = {
    "reduced": {
        "width": 0.25,
        "side": 24,
        "images": 2000,
        "training": {
            "steps": 6_000,
            "batch": 64,
            "learning_rate": 0.1,
            "curriculum": "efficienttrain",
        },
    },
    "full": {
        "width": 1.0,
        "side": 32,
        "images": 5000,
        "training": {
            "steps": 6_000,
            "batch": 256,
            "learning_rate": 0.2,
            "curriculum": "efficienttrain",
            "bfloat16": True,
        },
    },
}
COMMON = {
    "optimiser": "sgd",
    "weight_decay": 5e-4,
    "clip": 0.0,
    "warmup": 0.05,
    "sandwich": False,
    "sampling": "even",
    "sampled": 6,
    "shift": 0.125,
    "flip": True,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as a parquet folder")
    parser.add_argument("--table", type=Path, required=True, help="nasbench_macro.csv.gz")
    parser.add_argument("--preset", choices=PRESETS, help="default: full where there is a GPU")
    parser.add_argument("--width", type=float, help="of the networks, 1 for the published ones")
    parser.add_argument("--side", type=int, help="of the images, pixels")
    parser.add_argument("--images", type=int, help="held-out images that networks are scored on")
    parser.add_argument("--networks", type=int, help="score a random sample of the networks only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of one pass")
    parser.add_argument("--checkpoints", type=Path, help="folder to go on from")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--scores", type=Path, help="where to write all scores, as .npz")
    add_training(parser.add_argument_group("how to train"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = measure(options)
    print(json.dumps(result, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Trains, scores and compares."""
    preset = options.preset or ("full" if options.device.startswith("cuda") else "reduced")
    chosen = PRESETS[preset]
    width, side = options.width or chosen["width"], options.side or chosen["side"]
    settings = TrainingSettings.from_plain(
        {**COMMON, **chosen["training"], **given_training(options)}
    )
    data = load_data(options.data, resolution=side)
    space = published_space().scaled(width=width, resolution=side, classes=10)
    supernet, seconds = train(space, data, settings, options)
    trained = time.perf_counter()
    rows, truth = read_table(options.table)
    if options.networks:
        kept = np.random.default_rng(0).choice(len(rows), options.networks, replace=False)
        rows, truth = rows[kept], truth.iloc[kept].reset_index(drop=True)
    images = options.images or chosen["images"]
    found = score(supernet, space, rows, data, images)
    found["main_effects"] = main_effects(published_space(), rows, found["log_likelihood"])
    scored = time.perf_counter()
    if options.scores is not None:
        np.savez_compressed(options.scores, rows=rows, **found)
    return {
        "benchmark": "ranking_nasbench_macro",
        "command": " ".join(["python -m benchmarks.ranking_nasbench_macro", *sys.argv[1:]]),
        "device": device_name(options.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "preset": preset,
        "seed": options.seed,
        "networks": len(rows),
        "in_band": int(in_band(truth).sum()),
        "width": width,
        "side": side,
        "scored_on_images": images,
        "training": settings.to_plain(),
        "epochs": settings.steps * settings.batch * settings.accumulate / len(data.train),
        "seconds": {"training": seconds, "scoring": scored - trained},
        "supernet": {name: compare(values, truth, options.seed) for name, values in found.items()},
        "others": baselines(rows, space, truth),
        "mean_top1": float(np.mean(found["top1"])),
    }


def train(
    space: Space, data: ImageData, settings: TrainingSettings, options: argparse.Namespace
) -> tuple[Supernet, float]:
    """The trained supernet, and the seconds that its training took, interruptions left out."""
    device = torch.device(options.device)
    supernet = Supernet(
        space,
        seed=options.seed,
        device=device,
        pooled=settings.pooled,
        split_at=settings.split_at,
    )
    images, labels = data.train.images.to(device), data.train.labels.to(device)
    source = ResidentImages(images, labels, batch=settings.batch, seed=options.seed)
    batches = Batches(source, data.mean, data.std, settings, classes=10, seed=options.seed)
    trainer = Trainer(supernet, batches, settings, seed=options.seed)
    checkpoints = None if options.checkpoints is None else Checkpoints(options.checkpoints)
    if checkpoints is not None:
        trainer.load(checkpoints)
    begun, first = time.monotonic(), trainer.step

    def note(done: int, total: int, loss: float) -> None:
        if done % 50 == 0 or done == total:
            left = (time.monotonic() - begun) / (done - first) * (total - done)
            print(
                f"\rstep {done}/{total}  loss {loss:.3f}  {left:.0f} s left ",
                end="",
                file=sys.stderr,
            )

    trainer.run(checkpoints, every_seconds=60, progress=note)
    print(file=sys.stderr)
    return supernet, trainer.seconds


def read_table(path: Path) -> tuple[Codes, pd.DataFrame]:
    """The row of each distinct network, and the table's entries in the same order."""
    table = pd.read_csv(path, dtype={"arch": str})
    rows = np.stack([row_of(arch) for arch in table.arch])
    _, first = np.unique(rows, axis=0, return_index=True)
    first.sort()
    return rows[first], table.iloc[first].reset_index(drop=True)


@cache
def published_space() -> Space:
    return load_space("nasbench_macro")


def row_of(arch: str) -> Codes:
    """The network of eight digits (0 identity, 1 and 2 the blocks): an identity behind the first
    layer of a stage does nothing, so several encodings are one network."""
    space = published_space()
    row, place = np.zeros(len(space.variables), np.int64), 0
    for stage, layers in zip(space.stages, LAYERS, strict=True):
        first, *rest = (int(digit) for digit in arch[place : place + layers])
        working = [digit for digit in rest if digit]
        assert stage.downsample is not None
        row[stage.downsample.kind.index] = first
        row[stage.depth.index] = len(working)
        for slot, digit in zip(stage.blocks, working, strict=False):
            row[slot.kind.index] = digit - 1
        place += layers
    return row


def score(
    supernet: Supernet, space: Space, rows: Codes, data: ImageData, images: int
) -> dict[str, NDArray[np.float64]]:
    """Of each network: the mean probability of the true class (what searches use), the share of
    right answers, and the mean log-likelihood."""
    device = supernet.device
    scorer = PopulationScorer(
        supernet,
        data.validation.images[:images].to(device),
        data.validation.labels[:images].to(device),
        calibration=data.train.images[:CALIBRATION].to(device),
        normalise=lambda pixels: normalise(pixels, data.mean, data.std),
        chunk=1000,
    )
    begun = time.monotonic()

    def note(done: int, total: int) -> None:
        if done % 100 == 0 or done == total:
            left = (time.monotonic() - begun) / done * (total - done)
            print(f"\rscored {done / total:.0%}  {left:.0f} s left ", end="", file=sys.stderr)

    scores = scorer.scores([space.decode(row) for row in rows], progress=note)
    print(file=sys.stderr)
    return {
        "probability": np.array([found.score for found in scores]),
        "top1": np.array([found.details["top1"] for found in scores]),
        "log_likelihood": np.array([-found.details["loss"] for found in scores]),
    }


def in_band(truth: pd.DataFrame) -> NDArray[np.bool_]:
    return (np.abs(truth.flops / BAND_MACS - 1) <= BAND).to_numpy()


def compare(
    values: NDArray[np.float64], truth: pd.DataFrame, seed: int
) -> dict[str, dict[str, Any]]:
    """Agreement with the table's mean accuracy, over all networks and inside the band, with 95%
    bootstrap intervals over the networks."""
    found = {}
    for name, kept in (("all", np.ones(len(truth), bool)), ("band", in_band(truth))):
        mine, theirs = values[kept], truth.mean_acc.to_numpy()[kept]
        found[name] = {
            "tau": kendall(mine, theirs),
            "tau_interval": interval(kendall, mine, theirs, seed=seed, resamples=200),
            "rho": spearman(mine, theirs),
        }
    return found


def baselines(rows: Codes, space: Space, truth: pd.DataFrame) -> dict[str, Any]:
    """The same for what needs no training, and of the table's single runs with each other."""
    costs = CostTable(published_space()).costs(rows)
    assert (costs[:, 0] == truth.flops).all(), "MACs must be the table's"
    assert (costs[:, 1] == truth.params).all(), "parameters must be the table's"
    layers = np.array([sum(digit != "0" for digit in arch) for arch in truth.arch], float)
    found = {
        "macs": compare(costs[:, 0].astype(float), truth, 0),
        "params": compare(costs[:, 1].astype(float), truth, 0),
        "layers": compare(layers, truth, 0),
    }
    kept = in_band(truth)
    one, other = truth.acc_seed0.to_numpy(), truth.acc_seed1.to_numpy()
    found["one run with another"] = {
        "all": {"tau": kendall(one, other), "rho": spearman(one, other)},
        "band": {
            "tau": kendall(one[kept], other[kept]),
            "rho": spearman(one[kept], other[kept]),
        },
    }
    return found


if __name__ == "__main__":
    sys.exit(main())
