"""Checks the supernet on a GPU, then measures training and scoring there.

    python -m benchmarks.gpu_check --json benchmarks/results/gpu_check-DEVICE.json

Correctness comes first: a candidate of the supernet and its exported network must agree, and the
scores on the GPU must be those on the CPU. It needs torch, numpy, PyYAML, safetensors and
scikit-learn, and no data beyond the digits that come with the last. `--device cpu` tries the script
itself.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluator.data import ImageData, load_data
from evaluator.scoring import SupernetEvaluator
from space import build
from space.files import load_space
from supernet.augmentation import normalise
from supernet.batches import Batches, ResidentImages
from supernet.network import Supernet
from supernet.recipe import TrainingSettings
from supernet.training import Trainer

LOGITS_TOLERANCE = 1e-3  # of float32 without TF32: kernels add up in other orders
SCORE_TOLERANCE = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--space", default="unified")
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--networks", type=int, default=24)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    space = load_space(options.space).scaled(
        width=options.width, resolution=options.resolution, classes=10
    )
    data = load_data("digits", resolution=options.resolution)
    rows = space.sample_codes(np.random.default_rng(0), options.networks)
    genomes = [space.decode(row) for row in rows]
    trainer = make_trainer(space, data, device, options.steps)
    seconds = timed(trainer.train_step, options.steps, device)
    difference = largest_difference(trainer.supernet, genomes, data, device)
    on_device, score_seconds = scores(trainer.supernet, genomes, data, device)
    copy = Supernet(space)
    copy.load({name: weight.detach().cpu() for name, weight in trainer.supernet.weights.items()})
    on_cpu, _ = scores(copy, genomes, data, torch.device("cpu"))
    apart = max(abs(a - b) for a, b in zip(on_device, on_cpu, strict=True))
    result = {
        "benchmark": "gpu_check",
        "command": " ".join(["python -m benchmarks.gpu_check", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seed": 0,
        "shapes": {"space": space.name, "resolution": options.resolution, "batch": 32},
        "candidate_against_exported_max_abs": difference,
        "scores_against_cpu_max_abs": apart,
        "train_step_seconds": spread(seconds[options.steps // 4 :]),
        "score_seconds": spread(score_seconds),
        "passed": difference <= LOGITS_TOLERANCE and apart <= SCORE_TOLERANCE,
    }
    print(json.dumps(result, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if result["passed"] else 1


def make_trainer(space: Any, data: ImageData, device: torch.device, steps: int) -> Trainer:
    settings = TrainingSettings(steps=steps, flip=False)
    images, labels = data.train.images.to(device), data.train.labels.to(device)
    source = ResidentImages(images, labels, batch=settings.batch, seed=0)
    batches = Batches(source, data.mean, data.std, settings, classes=10, seed=0)
    return Trainer(Supernet(space, device=device), batches, settings, seed=0)


def timed(work: Callable[[], Any], times: int, device: torch.device) -> list[float]:
    """Seconds of each call, with the device idle before and after it."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return seconds


@torch.no_grad()
def largest_difference(
    supernet: Supernet, genomes: list[Any], data: ImageData, device: torch.device
) -> float:
    """Of the logits of candidates and of the networks built from their genomes and weights."""
    images = normalise(data.validation.images[:64].to(device), data.mean, data.std)
    worst = 0.0
    for genome in genomes:
        network = build(genome).to(device).eval()
        network.load_state_dict(supernet.state_of(genome))
        worst = max(worst, float((network(images) - supernet(genome, images)).abs().max()))
    return worst


def scores(
    supernet: Supernet, genomes: list[Any], data: ImageData, device: torch.device
) -> tuple[list[float], list[float]]:
    """The score of each candidate, and the seconds that each took (the second time)."""
    split = data.validation
    evaluator = SupernetEvaluator(
        supernet,
        split.images.to(device),
        split.labels.to(device),
        calibration=data.train.images[:256].to(device),
        normalise=lambda pixels: normalise(pixels, data.mean, data.std),
        proxy=lambda genome: genome,
    )
    found = [evaluator.evaluate(genome).score for genome in genomes]
    seconds = [timed(lambda g=genome: evaluator.evaluate(g), 1, device)[0] for genome in genomes]
    return found, seconds


def spread(seconds: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(seconds, n=4)
    return {"median": middle, "quartile_1": low, "quartile_3": high, "count": len(seconds)}


if __name__ == "__main__":
    sys.exit(main())
