"""Checks the supernet on a GPU, then measures training and scoring there.

    python -m benchmarks.gpu_check --json benchmarks/results/gpu_check-DEVICE.json

A candidate of the supernet and its exported network must agree, the scores on the GPU must be those
on the CPU, and parts recorded as graphs, with kernels of our own or without, must make the same of
each image as parts that run one by one. Beside that stands where the time of a step of training
goes: what shapes cost that the GPU's libraries have not met, what the host takes and what the
device. The file is written anew after each of these, so that it has what there was time for. It
needs torch, numpy, PyYAML, safetensors and scikit-learn, for the kernels Triton, and no data beyond
the digits that come with scikit-learn. `--device cpu` tries the script itself.
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
import torch.nn.functional as F
from torch import Tensor

from benchmarks.machine import device_name
from evaluator.data import ImageData, load_data
from evaluator.population import PopulationScorer
from evaluator.scoring import Outcomes, SupernetEvaluator
from space import build
from space.files import load_space
from space.genome import Genome
from supernet.augmentation import normalise
from supernet.batches import Batches, ResidentImages
from supernet.frozen import FrozenParts
from supernet.graphs import GraphedParts, RerunParts
from supernet.network import Supernet
from supernet.recipe import TrainingSettings
from supernet.training import Trainer

LOGITS_TOLERANCE = 1e-3  # of float32 without TF32: kernels add up in other orders
SCORE_TOLERANCE = 1e-4
STAGES = ("train", "export", "score", "graphs", "shapes", "profile", "kernels")  # compiling is last
WITH_KERNELS = 3  # networks, for each brings kernels of its own to compile
ODD_CHANNELS = (72, 88, 104)  # that no other part of this script has


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--space", default="unified")
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--networks", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10, help="of training, each done twice")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    check = Check(options)
    for name in STAGES:
        check.stage(name)
    print(json.dumps(check.result, indent=2))
    return 0 if check.result["passed"] else 1


class Check:
    """A supernet on the device, and what was found; stages fill in `result` one after the other."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.device = options, torch.device(options.device)
        self.begun = time.perf_counter()
        space = load_space(options.space).scaled(
            width=options.width, resolution=options.resolution, classes=10
        )
        self.data: ImageData = load_data("digits", resolution=options.resolution)
        rows = space.sample_codes(np.random.default_rng(0), options.networks)
        self.genomes = [space.decode(row) for row in rows]
        settings = TrainingSettings(steps=options.steps, flip=False)
        train = self.data.train
        source = ResidentImages(
            train.images.to(self.device),
            train.labels.to(self.device),
            batch=settings.batch,
            seed=0,
        )
        batches = Batches(source, self.data.mean, self.data.std, settings, classes=10, seed=0)
        self.supernet = Supernet(space, device=self.device)
        self.trainer = Trainer(self.supernet, batches, settings, seed=0)
        self.result: dict[str, Any] = {
            "benchmark": "gpu_check",
            "command": " ".join(["python -m benchmarks.gpu_check", *sys.argv[1:]]),
            "device": device_name(options.device),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "cudnn": torch.backends.cudnn.version() if self.device.type == "cuda" else None,
            },
            "seed": 0,
            "shapes": {
                "space": space.name,
                "width": options.width,
                "resolution": options.resolution,
                "batch": settings.batch,
                "networks": options.networks,
            },
            "passed": True,
            "problems": [],
            "stage_seconds": {"begin": round(time.perf_counter() - self.begun, 1)},
        }

    def stage(self, name: str) -> None:
        """One stage; what it raises is written down, and the others go on."""
        begun = time.perf_counter()
        try:
            getattr(self, name)()
        except Exception as error:
            self.problem(f"{name}: {type(error).__name__}: {error}"[:2000])
        spent = self.result["stage_seconds"][name] = round(time.perf_counter() - begun, 1)
        print(f"{name}: {spent} s", file=sys.stderr, flush=True)
        if self.options.json is not None:
            text = json.dumps(self.result, indent=2) + "\n"
            self.options.json.write_text(text, encoding="utf-8")

    def problem(self, text: str) -> None:
        print(f"FAILED {text}", file=sys.stderr, flush=True)
        self.result["problems"].append(text)
        self.result["passed"] = False

    def within(self, name: str, found: float, most: float) -> None:
        """Writes an error down, which is a problem where it is not below `most`."""
        self.result[name] = found
        if not found <= most:
            self.problem(f"{name} is {found}, but must be {most} at most")

    def timed(self, work: Callable[[], Any]) -> float:
        """Seconds, with the device idle before and after."""
        self.wait()
        begun = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - begun

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def pixels(self, images: Tensor) -> Tensor:
        return normalise(images, self.data.mean, self.data.std)

    # ---- stages

    def train(self) -> None:
        """Each step, and again: the same networks on the same images, whose shapes are known."""
        first, again = [], []
        for _ in range(self.options.steps):
            first.append(self.timed(self.trainer.train_step))
            again.append(self.timed(self.step_again))
        self.result["train_step_seconds"] = spread(first)
        self.result["train_step_again_seconds"] = spread(again)

    def step_again(self) -> None:
        self.trainer.step -= 1
        self.trainer.train_step()

    @torch.no_grad()
    def export(self) -> None:
        """The logits of candidates, and of the networks built from their genomes and weights."""
        images = self.pixels(self.data.validation.images[:64].to(self.device))
        worst = 0.0
        for genome in self.genomes:
            network = build(genome).to(self.device).eval()
            network.load_state_dict(self.supernet.state_of(genome))
            apart = float((network(images) - self.supernet(genome, images)).abs().max())
            worst = apart if not apart <= worst else worst  # also where it is not a number
        self.within("candidate_against_exported_max_abs", worst, LOGITS_TOLERANCE)

    def score(self) -> None:
        """The scores of candidates here and on the CPU, and the seconds that they take here."""
        on_device = self.evaluator(self.supernet, self.device)
        copy = Supernet(self.supernet.space)
        weights = self.supernet.weights.items()
        copy.load({name: weight.detach().cpu() for name, weight in weights})
        on_cpu = self.evaluator(copy, torch.device("cpu"))
        worst, first, again = 0.0, [], []
        for genome in self.genomes:
            found: list[float] = []
            work = scored(on_device, genome, found)
            first.append(self.timed(work))
            again.append(self.timed(work))
            worst = max(worst, abs(found[0] - on_cpu.evaluate(genome).score))
        self.within("scores_against_cpu_max_abs", worst, SCORE_TOLERANCE)
        self.result["score_seconds"] = spread(first)
        self.result["score_again_seconds"] = spread(again)

    def evaluator(self, supernet: Supernet, device: torch.device) -> SupernetEvaluator:
        split = self.data.validation
        return SupernetEvaluator(
            supernet,
            split.images.to(device),
            split.labels.to(device),
            calibration=self.data.train.images[:256].to(device),
            normalise=self.pixels,
            proxy=lambda genome: genome,
        )

    def graphs(self) -> None:
        self.recorded("graphs", self.genomes, kernels=False)

    def kernels(self) -> None:
        genomes = self.genomes[:WITH_KERNELS]
        self.recorded("graphs_with_kernels", genomes, kernels=True)

    def recorded(self, name: str, genomes: list[Genome], *, kernels: bool) -> None:
        """Log-probabilities by parts that were recorded, and by parts one by one."""
        graphed = GraphedParts if self.device.type == "cuda" else RerunParts
        plain = self.scorer(FrozenParts(self.supernet))
        ours = self.scorer(graphed(self.supernet, kernels=kernels), copies=True)
        seconds: dict[str, dict[str, float]] = {}
        for which, scorer in (("one_by_one", plain), ("recorded", ours)):
            spent = [self.timed(lambda s=scorer: s.measure(genomes)) for _ in range(2)]  # type: ignore[misc]
            seconds[which] = {"first": spent[0], "again": spent[1]}
        worst = 0.0
        for one, other in zip(plain.measure(genomes), ours.measure(genomes), strict=True):
            if not (isinstance(one, Outcomes) and isinstance(other, Outcomes)):
                raise RuntimeError(f"no outcomes: {one} and {other}")
            apart = float((one.log_probabilities() - other.log_probabilities()).abs().max())
            worst = apart if not apart <= worst else worst
        self.within(f"{name}_max_abs", worst, LOGITS_TOLERANCE)
        self.result[f"{name}_seconds"] = seconds

    def scorer(self, parts: FrozenParts, *, copies: bool = False) -> PopulationScorer:
        split = self.data.validation
        return PopulationScorer(
            parts,
            split.images.to(self.device),
            split.labels.to(self.device),
            calibration=self.data.train.images[:256].to(self.device),
            normalise=self.pixels,
            copies=copies,
        )

    def shapes(self) -> None:
        """Seconds of a forward and a backward pass of one layer, the first time that the libraries
        meet its shape, and the second."""
        layers: dict[str, Callable[[int, Tensor], Tensor]] = {
            "linear": lambda c, x: F.linear(x.permute(0, 2, 3, 1), self.parameter(c, c)),
            "convolution": lambda c, x: F.conv2d(x, self.parameter(c, c, 3, 3), padding=1),
            "depthwise": lambda c, x: F.conv2d(x, self.parameter(c, 1, 3, 3), padding=1, groups=c),
        }
        found: dict[str, Any] = {}
        for name, layer in layers.items():
            found[name] = []
            for channels in ODD_CHANNELS:
                x = torch.randn(32, channels, 14, 14, device=self.device)
                x = x.contiguous(memory_format=torch.channels_last).requires_grad_()

                def both(layer=layer, channels=channels, x=x) -> None:  # type: ignore[no-untyped-def]
                    layer(channels, x).square().sum().backward()

                found[name].append({"first": self.timed(both), "again": self.timed(both)})
        self.result["new_shape_seconds"] = found

    def parameter(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device, requires_grad=True)

    def profile(self) -> None:
        """A step whose shapes are known: what is launched, how long the device works, and which
        operators take the host longest."""
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        kinds = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            kinds.append(ProfilerActivity.CUDA)
        with profile(activities=kinds) as profiled:
            seconds = self.timed(self.step_again)
        events = profiled.key_averages()
        device = [event for event in events if event.device_type == DeviceType.CUDA]
        host = [event for event in events if event.device_type == DeviceType.CPU]
        host.sort(key=lambda event: -event.self_cpu_time_total)
        self.result["profiled_step"] = {
            "seconds": seconds,
            "launches": sum(event.count for event in device),
            "device_seconds": sum(event.self_device_time_total for event in device) / 1e6,
            "host": {
                event.key: {"count": event.count, "seconds": event.self_cpu_time_total / 1e6}
                for event in host[:12]
            },
        }


def scored(evaluator: SupernetEvaluator, genome: Genome, into: list[float]) -> Callable[[], None]:
    return lambda: into.append(evaluator.evaluate(genome).score)


def spread(seconds: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": middle, "quartile_1": low, "quartile_3": high, "count": len(seconds)}


if __name__ == "__main__":
    sys.exit(main())
