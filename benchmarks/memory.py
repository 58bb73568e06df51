"""Predicted peak memory against what PyTorch allocates, of published and of drawn networks.

    python -m benchmarks.memory --json benchmarks/results/memory-DEVICE.json

On a GPU a pass is measured by the allocator's own peaks: the bytes that were asked for, which are
those of tensors and of libraries' workspaces, and the bytes that were handed out, which are
rounded. Then every operator is looked at alone: what it allocates beside its output, and how that
lies, against its rule in `evaluator.operator_memory`. On a processor the profiler tells. It needs
torch, numpy and PyYAML, and on a GPU less than a minute.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from benchmarks.machine import device_name
from evaluator.live_memory import storages
from evaluator.memory import ROUNDING, memory_of
from evaluator.operator_memory import KERNELS, Kind
from space import build
from space.device import Device
from space.files import load_space
from space.genome import Genome
from space.presets import preset, presets

PRESETS = (
    "convnext_t",
    "swin_tiny_patch4_window7_224",
    "deit_tiny_patch16_224",
    "maxvit_t",
    "moganet_xt",
    "edgenext_xxs",
    "fastvit_t8",
    "levit_128s",
    "smt_t",
    "hornet_t_gf",
    "as_mlp_t",
    "mvitv2_t",
)
SETTINGS = {
    "cuda": ("batch=8", "batch=32,dtype=bf16", "batch=1,dtype=bf16"),
    "cpu": ("batch=2", "batch=2,dtype=bf16"),
}
WORTH_SAYING = 4096  # bytes beside a rule; below are numbers that PyTorch wraps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=list(SETTINGS)
    )
    parser.add_argument("--networks", nargs="*", default=PRESETS, help="presets")
    parser.add_argument(
        "--every-system", action="store_true", help="the smallest preset of each, instead"
    )
    parser.add_argument("--drawn", type=int, default=4, help="networks of the space `unified`")
    parser.add_argument("--settings", nargs="*", help="batch and type, as devices have them")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    space = load_space("unified")
    drawn = space.sample_codes(np.random.default_rng(0), options.drawn)
    names = smallest() if options.every_system else options.networks
    genomes = {name: preset(name).genome for name in names}
    genomes |= {genome.digest: genome for genome in map(space.decode, drawn)}
    rows, operators = [], Operators(options.device)
    for setting in options.settings or SETTINGS[options.device]:
        device = Device.parse(f"{options.device}:{setting}")
        for name, genome in genomes.items():
            try:
                found = compare(genome, device)
                if options.device == "cuda":
                    operators.look(genome, device)
            except (ValueError, RuntimeError) as error:  # some operators refuse 16 bits
                found = {"error": str(error).splitlines()[0]}
            rows.append({"network": name, "device": device.name, **found})
            print(json.dumps(rows[-1]), flush=True)
    result = {
        "benchmark": "memory",
        "command": " ".join(["python -m benchmarks.memory", *sys.argv[1:]]),
        "device": device_name(options.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seed": 0,
        "off": {
            f"{measure}, {dtype}": spread(
                [
                    row["predicted"] / row[measure] - 1
                    for row in rows
                    if "error" not in row and Device.parse(row["device"]).dtype == dtype
                ]
            )
            for measure in ("tensors", "whole")
            for dtype in ("float32", "bfloat16")
        },
        "operators": operators.found(),
        "networks": rows,
    }
    print(json.dumps({k: v for k, v in result.items() if k != "networks"}, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def smallest() -> list[str]:
    """The preset of least MACs of each published system."""
    ordered = sorted(presets().values(), key=lambda found: -found.genome.cost().macs)
    return sorted({found.system: found.name for found in ordered}.values())


def spread(values: list[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"least": min(values), "quartile_1": low, "median": middle, "quartile_3": high} | {
        "most": max(values)
    }


def compare(genome: Genome, device: Device) -> dict[str, Any]:
    """Bytes: `predicted`, and measured with and without what libraries take for themselves."""
    shape = (device.batch, genome.in_channels, genome.resolution, genome.resolution)
    with torch.device("meta"):
        network = build(genome)
    predicted = memory_of(network, (), shape, device)
    dtype = getattr(torch, device.dtype)
    images = torch.zeros(shape, dtype=dtype, device=device.runtime)
    with torch.device(device.runtime):
        network = build(genome).to(dtype).eval()
    if device.runtime == "cuda":
        measured = allocated_on_gpu(network, images)
        rounded = memory_of(build_on_meta(genome), (), shape, device, rounding=ROUNDING).peak
        return {"predicted": predicted.peak, "predicted_rounded": rounded, **measured}
    always = predicted.weights + images.numel() * images.element_size()
    whole, outside = allocated(network, images)
    return {
        "predicted": predicted.peak,
        "tensors": always + outside,
        "whole": always + whole,
    }


def build_on_meta(genome: Genome) -> nn.Module:
    with torch.device("meta"):
        return build(genome)


# ---- a processor


def allocated(network: nn.Module, images: Tensor) -> tuple[int, int]:
    """The most bytes that a pass on a processor allocates beside what is there: altogether, and as
    far as it is not inside a convolution, where oneDNN reorders inputs as it likes."""
    with torch.inference_mode():
        network(images)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with (
        torch.profiler.profile(activities=activities, profile_memory=True) as profile,
        torch.inference_mode(),
    ):
        network(images)
    happened = []
    for event in profile.profiler.kineto_results.events():
        begun = event.start_ns()
        if event.name() == "[memory]":
            happened.append((begun, 1, event.nbytes(), 0))
        elif event.name() == "aten::convolution":
            happened.append((begun, 0, 0, 1))
            happened.append((begun + event.duration_ns(), 2, 0, -1))
    live = depth = whole = outside = 0
    for _, _, count, deeper in sorted(happened):
        live, depth = live + count, depth + deeper
        whole = max(whole, live)
        outside = outside if depth else max(outside, live)
    return whole, outside


# ---- a GPU


def allocated_on_gpu(network: nn.Module, images: Tensor) -> dict[str, int]:
    """Bytes at the peak of a pass, weights and images included. `tensors` are those that were asked
    for outside of convolutions and matrix products, whose libraries ask for working memory;
    `whole` all of them, and `handed_out` as the allocator rounds them. What libraries keep from
    pass to pass (`kept`) is in none of them."""
    own = [*network.parameters(), *network.buffers(), images]
    with torch.inference_mode():
        for _ in range(2):
            network(images)
        torch.cuda.synchronize()
        kept = _stat("requested_bytes", "current") - sum(storages(own).values())
        rounded_kept = _stat("allocated_bytes", "current") - sum(storages(own, ROUNDING).values())
        torch.cuda.reset_peak_memory_stats()
        network(images)
        whole = _stat("requested_bytes", "peak") - kept
        handed_out = _stat("allocated_bytes", "peak") - rounded_kept
        with _Outside() as outside:
            network(images)
    return {
        "tensors": outside.peak - kept,
        "whole": whole,
        "handed_out": handed_out,
        "kept": kept,
    }


def _stat(name: str, which: str) -> int:
    return int(torch.cuda.memory_stats()[f"{name}.all.{which}"])


LIBRARIES = ("conv", "cudnn", "linear", "matmul", "einsum", "mm", "fft")


class _Outside(TorchDispatchMode):
    """The most bytes that are asked for outside of libraries: before and behind their operators.

    What these copy is missing too, so this may be below the prediction."""

    peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        torch.cuda.reset_peak_memory_stats()
        output = func(*args, **(kwargs or {}))
        of_library = any(name in str(func) for name in LIBRARIES)
        which = "current" if of_library else "peak"
        self.peak = max(self.peak, _stat("requested_bytes", which))
        return output


class Operators:
    """What each operator allocates beside its output on a GPU, against its rule."""

    def __init__(self, kind: Kind):
        self.kind = kind
        self._wrong: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._calls: dict[str, int] = defaultdict(int)

    def look(self, genome: Genome, device: Device) -> None:
        dtype = getattr(torch, device.dtype)
        with torch.device(device.runtime):
            network = build(genome).to(dtype).eval()
            shape = (device.batch, genome.in_channels, genome.resolution, genome.resolution)
            images = torch.zeros(shape, dtype=dtype)
        with torch.no_grad():
            network(images)
            with _EachOperator(self._compare):
                network(images)

    def found(self) -> dict[str, Any]:
        """By operator: how often it was called, how often its rule is off, and the worst cases."""
        return {
            name: {
                "calls": self._calls[name],
                "off": len(cases),
                "worst": sorted(cases, key=lambda case: -abs(case["off"]))[:3],
            }
            for name, cases in sorted(self._wrong.items())
        }

    def _compare(self, func: Any, args: Any, kwargs: Any, output: Any, beside: int) -> None:
        name = str(func)
        self._calls[name] += 1
        try:
            expected, made = self._by_rule(
                func, tree_map(_to_meta, args), tree_map(_to_meta, kwargs)
            )
        except (RuntimeError, NotImplementedError, TypeError) as error:
            self._wrong[name].append({"off": 0, "error": str(error)[:200]})
            return
        off = beside - sum(storages(made).values())
        lies, expected_lies = (
            [(tuple(x.shape), _strides(x)) for x in tree_leaves(y) if isinstance(x, Tensor)]
            for y in (output, expected)
        )
        # What stands behind the first output, such as states of random numbers, is small.
        if abs(off) >= WORTH_SAYING or lies[:1] != expected_lies[:1]:
            inputs = [
                (list(x.shape), list(x.stride()), str(x.dtype))
                for x in tree_leaves(args)
                if isinstance(x, Tensor)
            ]
            case = {"off": off, "beside": beside, "inputs": inputs}
            if lies[:1] != expected_lies[:1]:
                case |= {"output": lies[:1], "by_rule": expected_lies[:1]}
            self._wrong[name].append(case)

    def _by_rule(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        rule = KERNELS.get(func)
        if rule is None:
            return func(*args, **kwargs), ()
        return rule(self.kind, func, *args, **kwargs)


class _EachOperator(TorchDispatchMode):
    """Tells of every operator what it allocates beside its output, in bytes."""

    def __init__(self, tell: Callable[[Any, Any, Any, Any, int], None]):
        super().__init__()
        self._tell = tell

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        torch.cuda.reset_peak_memory_stats()
        before = _stat("requested_bytes", "current")
        output = func(*args, **kwargs)
        peak, after = (_stat("requested_bytes", which) for which in ("peak", "current"))
        self._tell(func, args, kwargs, output, peak - max(before, after))
        return output


def _to_meta(value: Any) -> Any:
    """A tensor as it lies, without its numbers; the device that an operator is told."""
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return torch.device("meta") if isinstance(value, torch.device) else value


def _strides(x: Tensor) -> tuple[int, ...]:
    """Of sides longer than 1: the others' say nothing."""
    return tuple(step for side, step in zip(x.shape, x.stride(), strict=True) if side > 1)


if __name__ == "__main__":
    sys.exit(main())
