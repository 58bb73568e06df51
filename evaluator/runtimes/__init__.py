"""Devices that networks are timed on: one runtime a file.

A runtime makes a network ready for one input, and a runner times passes of it: the whole, or part
by part inside one pass, so that each part has its neighbours, cold caches and fusions as it has
them in use.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import nn

from space.device import Device
from space.genome import Genome
from space.onnx_file import EXTRA


class Runner(Protocol):
    """One network, ready to run."""

    def time(self) -> float:
        """Milliseconds of one pass."""
        ...

    def time_parts(self) -> list[float]:
        """Milliseconds that each part takes in one pass, in the order of `parts_of`. Their sum may
        be more than that of `time`: looking costs something."""
        ...


class Runtime(Protocol):
    """A device with everything that decides how fast it is."""

    device: Device

    def held(self) -> AbstractContextManager[None]:
        """Inside, the process has the threads and cores that the device says; runners are made and
        time passes there."""
        ...

    def fresh(self, genome: Genome) -> nn.Module:
        """The network of `genome` with any weights, where it is quickest to make."""
        ...

    def prepare(self, network: nn.Module, shape: tuple[int, int, int, int]) -> Runner:
        """The network in evaluation mode for inputs of `shape`, warmed up. ValueError where it
        cannot run there."""
        ...

    def environment(self) -> Mapping[str, Any]:
        """What timings depend on beside the network: device, driver, versions of libraries,
        threads. Two profiles may be compared where these are equal."""
        ...


Shape = tuple[int, int, int, int]  # (N, channels, height, width)


def input_shape(genome: Genome, batch: int) -> Shape:
    """Of `batch` images for a network."""
    return batch, genome.in_channels, genome.resolution, genome.resolution


def parts_of(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a built or exported network by their paths, in the order of `Genome.parts`."""
    yield "stem", network.get_submodule("stem")
    for i, stage in enumerate(network.get_submodule("stages").children()):
        children = dict(stage.named_children())
        if "blocks" in children:  # built, and not exported
            blocks, down = children.pop("blocks"), children.pop("downsample")
            children = {} if isinstance(down, nn.Identity) else {"downsample": down}
            children |= {f"blocks.{name}": block for name, block in blocks.named_children()}
        for name, part in children.items():
            yield f"stages.{i}.{name}", part
    yield "head", network.get_submodule("head")


def make_runtime(device: Device) -> Runtime:
    """The device, if it is at hand; ValueError where it is not. Libraries are imported here, for
    each runtime those that it needs."""
    modules = {"cpu": "torch_cpu", "cuda": "torch_cuda", "onnxruntime-cpu": "onnxruntime_cpu"}
    if device.runtime not in modules:
        raise ValueError(
            f"{device.name!r} was measured elsewhere, and cannot be measured here; this machine "
            f"can measure {', '.join(modules)}"
        )
    try:
        module = importlib.import_module(f"evaluator.runtimes.{modules[device.runtime]}")
    except ModuleNotFoundError as error:
        raise ValueError(f"device {device.name!r} needs {error.name}: {EXTRA}") from None
    runtime: Runtime = module.make(device)
    return runtime
