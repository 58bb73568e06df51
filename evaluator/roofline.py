"""How fast a device can be at best, and how long a network takes there at least.

Source: the roofline model (Williams, Waterman and Patterson, 2009, "Roofline: An Insightful Visual
Performance Model for Multicore Architectures", Communications of the ACM 52(4), section 3). Its two
roofs are measured: a product of two large matrices, by the library that is quickest at it, and a
copy of more numbers than caches hold.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from evaluator.memory import dtype_of
from evaluator.runtimes import Runtime
from evaluator.work import Work
from space.device import Device

ROUNDS = 7  # of products and a copy, by turns; the quickest of each counts
PATIENCE = 5.0  # seconds, for a processor that lacks a type
# Side of the matrices, and bytes that are copied.
SIDE = {"cpu": 1024, "cuda": 8192}
COPIED = {"cpu": 2**27, "cuda": 2**30}


@dataclass(frozen=True, slots=True)
class Peaks:
    """FLOPs a second, and bytes read and written a second."""

    flops: float
    bytes: float

    @property
    def ridge(self) -> float:
        """FLOPs for each byte, above which computing takes longer than moving."""
        return self.flops / self.bytes

    def ms(self, flops: float, moved: float) -> float:
        """Milliseconds that at least pass while so much is computed and moved."""
        return 1e3 * max(flops / self.flops, moved / self.bytes)


@dataclass(frozen=True, slots=True)
class Bound:
    """Milliseconds that some operators take at least, one behind the other, and how many of these
    are of operators that compute for longer than they move."""

    ms: float
    computing_ms: float

    @property
    def computes(self) -> bool:
        """Whether most of the time is bound by computing, and not by moving."""
        return 2 * self.computing_ms > self.ms


def bound_of(works: Iterable[Work], peaks: Peaks) -> Bound:
    """The sum over the operators of max(FLOPs / peak, bytes / bandwidth)."""
    total = computing = 0.0
    for work in works:
        ms = peaks.ms(work.flops, work.bytes)
        total += ms
        if work.flops > peaks.ridge * work.bytes:
            computing += ms
    return Bound(total, computing)


def measure_peaks(runtime: Runtime, *, rounds: int = ROUNDS) -> Peaks:
    """Those of the device of `runtime` at its type and threads, by PyTorch."""
    device = runtime.device
    kind = "cuda" if device.runtime == "cuda" else "cpu"
    timed = _on_gpu if kind == "cuda" else _on_processor
    here = torch.cuda.device(device.index) if kind == "cuda" else contextlib.nullcontext()
    with runtime.held(), torch.inference_mode(), here:
        runs = [_copy(device, COPIED[kind]), *_products(device, SIDE[kind])]
        for run in runs:
            timed(run)
        seconds, until = list[list[float]](), time.monotonic() + PATIENCE
        while len(seconds) < rounds and (not seconds or time.monotonic() < until):
            seconds.append([timed(run) for run in runs])
    copy, *products = (min(times) for times in zip(*seconds, strict=True))
    return Peaks(2 * SIDE[kind] ** 3 / min(products), 2 * COPIED[kind] / copy)


def _products(device: Device, side: int) -> Iterator[Callable[[], object]]:
    """2 side^3 FLOPs each: PyTorch's own product, and on processors that of oneDNN, which runs
    convolutions, and is quicker than MKL where that does not know the processor."""
    dtype = dtype_of(device)
    a, b = (torch.randn(side, side, device=_place(device)).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    yield lambda: torch.mm(a, b, out=out)
    if device.runtime != "cuda" and torch.backends.mkldnn.is_available():
        with contextlib.suppress(RuntimeError):  # of a processor that lacks the type
            packed, weight = (x.float().to_mkldnn(dtype) for x in (a, b))
            F.linear(packed, weight)
            yield lambda: F.linear(packed, weight)


def _copy(device: Device, count: int) -> Callable[[], object]:
    """Reads `count` bytes and writes as many."""
    source = torch.ones(count // 4, device=_place(device))
    to = torch.zeros_like(source)
    return lambda: to.copy_(source)


def _place(device: Device) -> torch.device:
    return torch.device("cuda", device.index) if device.runtime == "cuda" else torch.device("cpu")


def _on_processor(run: Callable[[], object]) -> float:
    """Seconds."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _on_gpu(run: Callable[[], object]) -> float:
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    run()
    ended.record()
    ended.synchronize()
    return begun.elapsed_time(ended) / 1e3
