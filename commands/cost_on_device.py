"""What a device makes of one network: memory, time, and how near that is to what can be."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from commands.latency import profiles_folder
from evaluator.interleaved import Timing, TooNoisy
from evaluator.latency import Anchor, measure
from evaluator.latency_model import LatencyModel
from evaluator.latency_profile import Profile, check_environment, read_profile
from evaluator.memory import Memory, memory_of
from evaluator.roofline import Bound, Peaks, bound_of, measure_peaks
from evaluator.runtimes import Runtime, input_shape, make_runtime, parts_of
from evaluator.work import Work, work_of
from results.console import Console
from space.device import Device
from space.genome import Genome
from space.part_list import sited_parts
from space.presets import preset

ANCHOR = "edgenext_xxs"  # where no profile says what networks are compared with
LOOKS = 5  # passes in which parts are timed


class Network(Protocol):
    """A network by its genome, and how it is made."""

    @property
    def genome(self) -> Genome: ...
    def make(self) -> nn.Module: ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a profile says before anybody measures: the latency and its standard deviation, and how
    many of the network's parts were measured in others."""

    ms: float
    deviation_ms: float
    known: int
    parts: int
    profile: str


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a network in one pass, or of some of its parts: FLOPs, bytes that its operators read and
    write, bytes of memory at the peak, and where they are known milliseconds and those that it
    takes at least."""

    flops: int
    bytes_moved: int
    peak_memory: int
    ms: float | None
    bound: Bound | None

    @property
    def flops_per_byte(self) -> float:
        return self.flops / self.bytes_moved if self.bytes_moved else 0.0

    @property
    def share_of_roofline(self) -> float | None:
        """The milliseconds that it takes at least, of those that it takes."""
        return self.bound.ms / self.ms if self.bound and self.ms else None


@dataclass(frozen=True, slots=True)
class OnDevice:
    """`device` is what was asked for; `as_measured` the same, or for a profile file the device that
    it is of. `parts_ms` are medians, in the order of `Genome.parts`, and sum up to a little more
    than a pass takes: looking costs something. `unmeasured` says why there is no time."""

    device: Device
    as_measured: Device
    environment: Mapping[str, Any]
    memory: Memory
    works: Sequence[Work]
    measured: Timing | None = None
    parts_ms: Sequence[float] | None = None
    predicted: Prediction | None = None
    peaks: Peaks | None = None
    unmeasured: str = ""

    @property
    def whole(self) -> Figures:
        ms = None if self.measured is None else self.measured.ms
        return self._figures(self.works, self.memory.peak, ms)

    def of(self, numbers: Sequence[int]) -> Figures:
        """Of parts by their numbers in the order of `Genome.parts`."""
        works = [work for work in self.works if work.part in numbers]
        ms = None if self.parts_ms is None else sum(self.parts_ms[i] for i in numbers)
        return self._figures(works, max(self.memory.parts[i] for i in numbers), ms)

    def _figures(self, works: Sequence[Work], peak_memory: int, ms: float | None) -> Figures:
        flops, moved = sum(work.flops for work in works), sum(work.bytes for work in works)
        bound = None if self.peaks is None else bound_of(works, self.peaks)
        return Figures(flops, moved, peak_memory, ms, bound)


def look(source: Network, device: Device, console: Console, *, timed: bool = True) -> OnDevice:
    """All that can be said of the network there; with `timed` it is measured, if the device is at
    hand. ValueError where it is not, and no profile either, or where the network cannot run."""
    if device.profile is not None:
        model = LatencyModel(read_profile(Path(device.profile)))
        profile = model.profile
        found = _counted(source, device, profile.device, profile.environment)
        predicted = _predict(source.genome, model, device.profile)
        return replace(found, predicted=predicted, unmeasured="the device is a profile's")
    if not timed:
        return _counted(source, device, device, {})
    runtime = make_runtime(device)
    found = _counted(source, device, device, runtime.environment())
    known = find_profile(source.genome, runtime)
    if known is not None:
        found = replace(found, predicted=_predict(source.genome, *known))
    anchor = _anchor(runtime, None if known is None else known[0])
    return replace(_timed(found, source, runtime, anchor, console), peaks=measure_peaks(runtime))


def _timed(
    found: OnDevice, source: Network, runtime: Runtime, anchor: Anchor, console: Console
) -> OnDevice:
    name = runtime.device.name
    try:
        with console.progress(f"measuring on {name}", 1) as meter:
            measured = measure(
                runtime,
                {"the network": source.make},
                input_shape(source.genome, runtime.device.batch),
                anchor,
                progress=lambda done, total: meter.update(done, total=total),
            )["the network"]
        return replace(found, measured=measured, parts_ms=_time_parts(source, runtime))
    except TooNoisy as error:
        return replace(found, unmeasured=str(error))
    except torch.OutOfMemoryError:
        raise ValueError(f"{name!r} has too little memory for this network") from None
    except RuntimeError as error:
        raise ValueError(f"the network cannot run on {name!r}: {error}") from error


def _counted(
    source: Network, device: Device, as_measured: Device, environment: Mapping[str, Any]
) -> OnDevice:
    """What needs no device."""
    with torch.device("meta"):
        network = source.make()
    shape = input_shape(source.genome, as_measured.batch)
    parts = [part for _, part in parts_of(network)]
    memory = memory_of(network, parts, shape, as_measured)
    works = work_of(network, parts, shape, as_measured)
    return OnDevice(device, as_measured, environment, memory, works)


def _anchor(runtime: Runtime, model: LatencyModel | None) -> Anchor:
    """That of the profile, so that what is predicted and what is measured are at one speed."""
    if model is None:
        genome, level, batch = preset(ANCHOR).genome, None, 1
    else:
        genome, level, batch = model.profile.anchor, model.level, runtime.device.batch
    return Anchor(runtime.fresh(genome), input_shape(genome, batch), level)


def _time_parts(source: Network, runtime: Runtime) -> list[float]:
    with runtime.held():
        runner = runtime.prepare(source.make(), input_shape(source.genome, runtime.device.batch))
        runner.time_parts()
        looks = [runner.time_parts() for _ in range(LOOKS)]
    return [statistics.median(times) for times in zip(*looks, strict=True)]


# ---- profiles


def find_profile(genome: Genome, runtime: Runtime) -> tuple[LatencyModel, str] | None:
    """The profile, among those kept for searches, that was measured on this device as it is now
    and knows most of the network's parts, at least half of them; and where it lies."""
    parts, found = sited_parts(genome), list[tuple[int, str, Profile]]()
    environment = dict(runtime.environment())
    for path in sorted(profiles_folder().glob("*.json")):
        try:
            profile = read_profile(path)
            check_environment(profile, environment, path)
        except ValueError:  # of another device, or none at all
            continue
        if profile.device == runtime.device and len(profile.networks) > 1:
            seen = {part for n in profile.networks for part in sited_parts(n.genome)}
            found.append((sum(part in seen for part in parts), str(path), profile))
    if not found:
        return None
    known, place, best = max(found, key=lambda entry: entry[0])
    return (LatencyModel(best), place) if 2 * known >= len(parts) else None


def _predict(genome: Genome, model: LatencyModel, path: str) -> Prediction:
    parts = sited_parts(genome)
    ms, deviations = model.predict([parts])
    known = sum(model.knows(part) for part in parts)
    return Prediction(float(ms[0]), float(deviations[0]), known, len(parts), path)
