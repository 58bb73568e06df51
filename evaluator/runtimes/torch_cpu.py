"""PyTorch on this machine's processor, in eager mode, as an exported network runs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluator.runtimes import parts_of
from space import build
from space.device import Device
from space.genome import Genome
from space.machine import processor

WARM_UP = 2  # passes


class CpuRunner:
    def __init__(self, network: nn.Module, images: Tensor):
        self._network, self._images = network, images
        self._parts = [part for _, part in parts_of(network)]
        with torch.inference_mode():
            for _ in range(WARM_UP):
                network(images)

    def time(self) -> float:
        with torch.inference_mode():
            begun = time.perf_counter_ns()
            self._network(self._images)
            return (time.perf_counter_ns() - begun) / 1e6

    def time_parts(self) -> list[float]:
        x, taken = self._images, []
        with torch.inference_mode():
            last = time.perf_counter_ns()
            for part in self._parts:
                x = part(x)
                now = time.perf_counter_ns()
                taken.append((now - last) / 1e6)
                last = now
        return taken


class CpuRuntime:
    def __init__(self, device: Device):
        self.device, self.threads = device, device.threads or default_threads()

    def held(self) -> AbstractContextManager[None]:
        return on_cores(self.threads)

    def fresh(self, genome: Genome) -> nn.Module:
        return build(genome)

    def prepare(self, network: nn.Module, shape: tuple[int, int, int, int]) -> CpuRunner:
        dtype = getattr(torch, self.device.dtype)
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        return CpuRunner(network.to(dtype).eval(), images)

    def environment(self) -> Mapping[str, Any]:
        return {
            "device": processor(),
            "threads": self.threads,
            "torch": torch.__version__,
            "capability": torch.backends.cpu.get_cpu_capability(),
        }


def make(device: Device) -> CpuRuntime:
    """ValueError where the machine has fewer cores than the device asks for threads."""
    cores = len(allowed_cores())
    if (device.threads or 1) > cores:
        raise ValueError(
            f"device {device.name!r} asks for {device.threads} threads, but this process may use "
            f"{cores} core{'s' if cores != 1 else ''}"
        )
    return CpuRuntime(device)


def allowed_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def default_threads() -> int:
    """One for each core that this process may use, where two that share one count as one. What
    PyTorch is set to just now does not matter: a search sets it, and `cpu` means the same in it."""
    cores = {_siblings(core) for core in allowed_cores()}
    return max(1, len(cores))


def _siblings(core: int) -> str:
    """The threads of a processor that share the core, as Linux writes them; itself elsewhere."""
    place = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    with contextlib.suppress(OSError):
        return place.read_text(encoding="ascii").strip()
    return str(core)


@contextlib.contextmanager
def on_cores(threads: int) -> Iterator[None]:
    """Inside, PyTorch computes with so many threads, and all threads of this process are kept to
    as many cores, where the system can do that (Linux)."""
    before, cores = torch.get_num_threads(), allowed_cores()
    if before == threads and len(cores) == threads:
        yield
        return
    torch.set_num_threads(threads)
    try:
        with _pinned(cores, cores[:threads]):
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _pinned(cores: list[int], chosen: list[int]) -> Iterator[None]:
    if not hasattr(os, "sched_setaffinity") or len(chosen) == len(cores):
        yield
        return
    _pin(chosen)
    try:
        yield
    finally:
        _pin(cores)


def _pin(cores: list[int]) -> None:
    tasks = Path("/proc/self/task")
    for thread in [int(t.name) for t in tasks.iterdir()] if tasks.is_dir() else [0]:
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            os.sched_setaffinity(thread, cores)
