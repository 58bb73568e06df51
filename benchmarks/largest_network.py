"""Whether the largest network of a supernet is left behind by training all others with it.

    python -m benchmarks.largest_network --data CIFAR10 --json results/largest-DEVICE.json

trains the supernet of the default space on CIFAR-10 at the proxy's size, and its largest network
alone with the same number of steps, images and recipe; several seeds. While the supernet trains,
the largest network, the smallest and one drawn at random are looked at from time to time. The
accuracies in the end are those on the test images, which were used for nothing else.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import device_name
from evaluator.data import ImageData, Split, load_data
from results.run_folder import write_text
from space.files import load_space
from space.genome import Genome
from supernet.augmentation import normalise
from supernet.batches import Batches, ResidentImages
from supernet.network import Supernet
from supernet.recipe import TrainingSettings
from supernet.training import AloneTrainer, Trainer

PROBE_IMAGES = 1000  # of the validation split


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", required=True, help="CIFAR-10 as a parquet folder, or digits")
    parser.add_argument("--json", type=Path, required=True, help="where to write the result")
    parser.add_argument("--space", default="unified")
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--side", type=int, default=32, help="of the images, pixels")
    parser.add_argument("--steps", type=int, default=430)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of one pass")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {
        "benchmark": "largest_network",
        "command": " ".join(["python -m benchmarks.largest_network", *sys.argv[1:]]),
        "device": device_name(options.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "space": options.space,
        "width": options.width,
        "side": options.side,
        "seeds": [],
    }
    data = load_data(options.data, resolution=options.side)
    for seed in range(options.seeds):
        found = measure(data, options, seed)
        result["seeds"].append(found)
        write_text(options.json, json.dumps(result, indent=1) + "\n")
        print(
            f"seed {seed}: largest {found['supernet']['largest']:.3f} in the supernet, "
            f"{found['alone']:.3f} alone; smallest {found['supernet']['smallest']:.3f}, "
            f"random {found['supernet']['random']:.3f}",
            flush=True,
        )
    return 0


def measure(data: ImageData, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Accuracies on the test images, from 0 to 1, and what was seen while training."""
    space = load_space(options.space).scaled(
        width=options.width, resolution=options.side, classes=len(data.classes)
    )
    device = torch.device(options.device)
    photographs = data.test is not None and options.data != "digits"
    settings = TrainingSettings(
        steps=options.steps, shift=0.125 if photographs else 0.04, flip=photographs
    )
    images, labels = data.train.images.to(device), data.train.labels.to(device)

    def batches() -> Batches:
        source = ResidentImages(images, labels, batch=settings.batch, seed=seed)
        classes = len(data.classes)
        return Batches(source, data.mean, data.std, settings, classes=classes, seed=seed)

    trainer = Trainer(Supernet(space, seed=seed, device=device), batches(), settings, seed=seed)
    networks = {
        "largest": trainer.largest,
        "smallest": trainer.smallest,
        "random": space.sample(np.random.default_rng(0)),
    }
    held_out = data.validation if data.test is None else data.test

    def right(genome: Genome, split: Split, count: int | None = None) -> float:
        return share_right(lambda x: trainer.supernet(genome, x), split, data, device, count)

    begun = time.process_time()
    trainer.run(
        probe=lambda: {n: right(g, data.validation, PROBE_IMAGES) for n, g in networks.items()}
    )
    middle = time.process_time()
    alone = AloneTrainer(trainer.largest, batches(), settings, seed=seed, device=device)
    alone.run()
    ended = time.process_time()
    network = alone.network.eval()
    return {
        "seed": seed,
        "settings": settings.to_plain(),
        "probes": trainer.probes,
        "supernet": {name: right(genome, held_out) for name, genome in networks.items()},
        "alone": share_right(network, held_out, data, device),
        "test_images": len(held_out),
        "cpu_seconds": {"supernet": middle - begun, "alone": ended - middle},
    }


@torch.no_grad()
def share_right(
    logits: Any, split: Split, data: ImageData, device: torch.device, count: int | None = None
) -> float:
    right = 0
    for images, labels in zip(
        split.images[:count].split(500), split.labels[:count].split(500), strict=True
    ):
        found = logits(normalise(images.to(device), data.mean, data.std))
        right += int((found.argmax(1).cpu() == labels).sum())
    return right / len(split.images[:count])


if __name__ == "__main__":
    sys.exit(main())
