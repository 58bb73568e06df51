"""The most memory that a network takes at one moment of a pass: its weights, its input, and all the
tensors in between that are alive together.

It is found without running anything (`evaluator.live_memory`), for PyTorch in eager mode at the
batch and type of a device. ONNX Runtime plans its memory in another way; for it the figure is that
of PyTorch on the same processor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluator.live_memory import Kind, storages, watch
from space import build
from space.decisions import Codes
from space.device import Device
from space.genome import Genome
from space.part_list import NONE, PartList, codes_of
from space.search_space import Space

ROUNDING = 512  # bytes, of every storage, in PyTorch's allocator for GPUs

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. `weights` are parameters and buffers; `parts` the peaks while each part runs, weights
    and input included, in the order of `Genome.parts`."""

    peak: int
    weights: int
    parts: tuple[int, ...]


def peak_memory(genome: Genome, device: Device, *, rounding: int = 1) -> int:
    """Bytes of the network of `genome` at their most; `rounding=512` counts storages as PyTorch's
    allocator for GPUs hands them out. ValueError where `device` is a profile file: what memory a
    network takes is not in it."""
    with torch.device("meta"):
        network = build(genome)
    shape = (device.batch, genome.in_channels, genome.resolution, genome.resolution)
    return memory_of(network, (), shape, device, rounding=rounding).peak


def memory_of(
    network: nn.Module,
    parts: Sequence[nn.Module],
    shape: tuple[int, int, int, int],
    device: Device,
    *,
    rounding: int = 1,
) -> Memory:
    """That of any network on the meta device, which is brought to the device's type, for inputs of
    `shape`; `parts` are some of its modules, each of which runs once."""
    network = network.to(dtype_of(device)).eval()
    images = torch.empty(shape, dtype=dtype_of(device), device="meta")
    watched = watch(network, images, kind=kind_of(device), rounding=rounding, parts=parts)
    weights = _bytes([*network.parameters(), *network.buffers()], rounding)
    always = weights + _bytes(images, rounding)
    return Memory(always + watched.peak, weights, tuple(always + p for p in watched.parts))


def memory_column(space: Space, device: Device, *, rounding: int = 1) -> MemoryColumn:
    """`peak_memory` of many rows of `space` at once."""
    return MemoryColumn(space, device, rounding)


def kind_of(device: Device) -> Kind:
    if device.profile is not None:
        raise ValueError(
            f"{device.name!r} is a profile of latencies; for memory name the device that it was "
            "measured on"
        )
    return "cuda" if device.runtime == "cuda" else "cpu"


def dtype_of(device: Device) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, device.dtype)
    return dtype


def _bytes(tensors: object, rounding: int) -> int:
    return sum(storages(tensors, rounding).values())


# ---- many rows


class MemoryColumn:
    """Bytes at the peak of each row of a space, (B,).

    The peak inside a part depends on its genes, its place and the strides of its input, and is
    looked for once for each of these. Beside that are alive, as `space.network` calls the parts,
    the images; inside the stages the stem's output; inside a stage its input, and behind its
    downsampling module that module's output.
    """

    def __init__(self, space: Space, device: Device, rounding: int = 1):
        self.name, self.device, self.rounding = f"memory@{device.name}", device, rounding
        self._kind, self._dtype = kind_of(device), dtype_of(device)
        self._space, self._places = space, PartList(space)
        self._layouts: list[tuple[int, ...]] = []  # strides
        self._weights = np.zeros(len(self._places.parts), np.int64)
        # For each part and layout of its input: the most bytes that are alive beside the input,
        # those of the output's storage (NONE: it is the input's), and the layout of the output.
        self._steps = np.full((len(self._places.parts), 8, 3), _UNSEEN, np.int64)

    def __call__(self, codes: Codes) -> Floats:
        space, parts = self._space, iter(self._places.of(codes).T)
        images = [self._empty(space.in_channels, side, side) for side in space.resolution.choices]
        resolution = codes_of(space.resolution, codes)
        on_way = _OnWay(
            np.array([_bytes(x, self.rounding) for x in images])[resolution],
            np.array([self._layout(x) for x in images])[resolution],
        )
        self._run(on_way, next(parts))
        with on_way.holding():
            for stage in space.stages:
                with on_way.holding():
                    if stage.downsample is not None:
                        self._run(on_way, next(parts))
                    with on_way.holding():
                        for _ in range(max(stage.depth.choices)):
                            self._run(on_way, next(parts))
        self._run(on_way, next(parts))
        return (on_way.weights + on_way.peak).astype(np.float64)

    def _run(self, on_way: _OnWay, parts: NDArray[np.int64]) -> None:
        """Each row through one part, or past it."""
        rows = np.flatnonzero(parts != NONE)
        parts, layouts = parts[rows], on_way.layouts[rows]
        unseen = self._steps[parts, layouts, 0] == _UNSEEN
        for part, layout in sorted(set(zip(parts[unseen], layouts[unseen], strict=True))):
            self._look(int(part), int(layout))
        inner, made, layouts = self._steps[parts, layouts].T
        on_way.take(rows, inner, made)
        on_way.layouts[rows] = layouts
        on_way.weights[rows] += self._weights[parts]

    def _look(self, number: int, layout: int) -> None:
        """Watches a part."""
        part, site = self._places.parts[number].part, self._places.parts[number].site
        with torch.device("meta"):
            module = part.build(site).to(self._dtype).eval()
        x = self._empty(site.in_channels, site.height, site.width, strides=self._layouts[layout])
        watched = watch(module, x, kind=self._kind, rounding=self.rounding)
        made = storages(watched.output, self.rounding)
        same = made.keys() == storages(x).keys()
        behind = self._layout(watched.output)
        self._steps[number, layout] = watched.peak, NONE if same else sum(made.values()), behind
        self._weights[number] = _bytes([*module.parameters(), *module.buffers()], self.rounding)

    def _empty(
        self, channels: int, height: int, width: int, *, strides: Sequence[int] | None = None
    ) -> Tensor:
        """Maps for a whole batch."""
        shape = (self.device.batch, channels, height, width)
        if strides is None:
            return torch.empty(shape, dtype=self._dtype, device="meta")
        return torch.empty_strided(shape, strides, dtype=self._dtype, device="meta")

    def _layout(self, x: Tensor) -> int:
        """The number of a tensor's strides."""
        if x.stride() not in self._layouts:
            self._layouts.append(x.stride())
            if len(self._layouts) > self._steps.shape[1]:
                more = np.full_like(self._steps, _UNSEEN)
                self._steps = np.concatenate([self._steps, more], axis=1)
        return self._layouts.index(x.stride())


_UNSEEN = -2


class _OnWay:
    """The maps of many rows on their way through their networks, and what is alive beside them."""

    def __init__(self, sizes: NDArray[np.int64], layouts: NDArray[np.int64]):
        self.layouts = layouts
        self.peak, self.weights = np.zeros_like(sizes), np.zeros_like(sizes)
        self._storages = 1  # that were made so far: the images are number 0
        self._now = (np.zeros_like(sizes), sizes)  # number and bytes of the map's storage
        self._held = [self._now]  # of those that the callers hold: the images always

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Inside, the maps that are there now stay alive."""
        self._held.append(self._now)
        yield
        self._held.pop()

    def take(
        self, rows: NDArray[np.int64], inner: NDArray[np.int64], made: NDArray[np.int64]
    ) -> None:
        """`rows` go through a part; `made` is NONE where the output is in the input's storage."""
        self.peak[rows] = np.maximum(self.peak[rows], self._alive()[rows] + inner)
        numbers, sizes = (values.copy() for values in self._now)
        fresh = made != NONE
        numbers[rows[fresh]], sizes[rows[fresh]] = self._storages, made[fresh]
        self._now, self._storages = (numbers, sizes), self._storages + 1

    def _alive(self) -> NDArray[np.int64]:
        """Bytes of the storages that are held, each once, (B,)."""
        total, seen = np.zeros_like(self.peak), list[NDArray[np.int64]]()
        for numbers, sizes in [*self._held, self._now]:
            again = np.zeros(len(numbers), bool)
            for others in seen:
                again |= others == numbers
            total += np.where(again, 0, sizes)
            seen.append(numbers)
        return total
