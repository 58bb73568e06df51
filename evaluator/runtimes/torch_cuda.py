"""PyTorch on an NVIDIA GPU, as a CUDA graph: kernels one behind the other, no time of Python's.

A pass is one replay of the graph, between two events. For times of parts a second graph has an
event behind each part; such an event takes about 3 microseconds on an H100, which the fit of a
profile takes out again. Matrix products of float32 are in float32, without TF32, as PyTorch's
default has it.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluator.runtimes import parts_of
from space import build
from space.device import Device
from space.genome import Genome

WARM_UP = 2  # passes outside the graph: libraries choose their kernels and take their memory


class CudaRunner:
    def __init__(self, network: nn.Module, images: Tensor):
        self._network, self._images = network, images
        self._parts = [part for _, part in parts_of(network)]
        with torch.inference_mode(), torch.cuda.device(images.device):
            self._stream = torch.cuda.Stream()
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UP):
                    network(images)
            torch.cuda.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                network(images)
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._looking: tuple[torch.cuda.CUDAGraph, list[torch.cuda.Event]] | None = None

    def time(self) -> float:
        with torch.cuda.device(self._images.device):
            self._begin.record()
            self._graph.replay()
            self._end.record()
            self._end.synchronize()
            return self._begin.elapsed_time(self._end)

    def time_parts(self) -> list[float]:
        with torch.cuda.device(self._images.device):
            graph, events = self._looking = self._looking or self._graph_with_events()
            graph.replay()
            torch.cuda.synchronize()
            return [a.elapsed_time(b) for a, b in itertools.pairwise(events)]

    def _graph_with_events(self) -> tuple[torch.cuda.CUDAGraph, list[torch.cuda.Event]]:
        events = [
            torch.cuda.Event(enable_timing=True, external=True)  # type: ignore[call-arg]
            for _ in range(len(self._parts) + 1)
        ]
        graph, x = torch.cuda.CUDAGraph(), self._images
        with torch.inference_mode(), torch.cuda.graph(graph, stream=self._stream):
            events[0].record()
            for part, event in zip(self._parts, events[1:], strict=True):
                x = part(x)
                event.record()
        return graph, events


class CudaRuntime:
    def __init__(self, device: Device):
        self.device = device
        self._place = torch.device("cuda", device.index)

    def held(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def fresh(self, genome: Genome) -> nn.Module:
        with self._place:
            return build(genome)

    def prepare(self, network: nn.Module, shape: tuple[int, int, int, int]) -> CudaRunner:
        dtype = getattr(torch, self.device.dtype)
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return CudaRunner(network.to(self._place, dtype).eval(), images.to(self._place, dtype))

    def environment(self) -> Mapping[str, Any]:
        facts = torch.cuda.get_device_properties(self._place)
        return {
            "device": facts.name,
            "memory": facts.total_memory,
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "torch": torch.__version__,
        }


def make(device: Device) -> CudaRuntime:
    """ValueError where PyTorch sees no such GPU."""
    found = torch.cuda.device_count()
    if device.index >= found:
        raise ValueError(
            f"device {device.name!r} is not there: PyTorch sees {found or 'no'} CUDA device"
            f"{'s' if found != 1 else ''} on this machine"
        )
    return CudaRuntime(device)


def _driver() -> str | None:
    """The driver's version, where Linux says it."""
    with contextlib.suppress(OSError, AttributeError):
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
        return re.search(r"\b\d+\.\d+(\.\d+)?\b", text).group()  # type: ignore[union-attr]
    return None
