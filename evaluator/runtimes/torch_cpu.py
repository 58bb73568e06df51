"""PyTorch on this machine's processor, in eager mode, as an exported network runs in a server."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator, Mapping
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

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        with on_cores(self.threads), memory_kept():
            yield

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
            "memory": "kept by the process" if _glibc() else "as the system has it",
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


@contextlib.contextmanager
def memory_kept() -> Iterator[None]:
    """Inside, memory that a pass frees stays with the process for the next one.

    By default glibc gives it back whenever the end of the heap is free, and takes large pieces
    from the system one by one: then every pass has thousands of page faults, and takes up to half
    as long again, depending on what else is on the heap. Allocators made for servers (jemalloc,
    tcmalloc) keep it, and so does glibc with two settings (`mallopt`, malloc.h; also as
    environment variables `MALLOC_TRIM_THRESHOLD_` and `MALLOC_MMAP_MAX_`). Elsewhere than in
    glibc nothing is changed.
    """
    glibc = _glibc()
    if glibc is None:
        yield
        return
    glibc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    glibc.mallopt(_MMAP_MAX, 0)
    try:
        yield
    finally:
        glibc.mallopt(_MMAP_MAX, 65_536)  # its defaults
        glibc.mallopt(_TRIM_THRESHOLD, 128 * 1024)
        glibc.malloc_trim(0)


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h


def _glibc() -> Any:
    """The C library, if it is GNU's."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # only glibc has it
        return library
    return None


def _pin(cores: list[int]) -> None:
    tasks = Path("/proc/self/task")
    for thread in [int(t.name) for t in tasks.iterdir()] if tasks.is_dir() else [0]:
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            os.sched_setaffinity(thread, cores)
