"""Measures a device: which networks of a space, and how, until enough is known of it.

Each part of the space should be seen several times, in the company that it has in networks. So
networks are chosen that have what was seen least; every third is drawn uniformly, as what tells how
good predictions are. Each stands between two turns of the anchor.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluator.interleaved import Bench
from evaluator.latency_profile import Measured, Profile, check_environment, read_profile
from evaluator.runtimes import Runner, Runtime
from space.genome import Genome
from space.part_list import NONE, PartList
from space.search_space import Space

SEEN = 3  # times that each part should have been measured
UNIFORM = 3  # every so manieth network is drawn uniformly
POOL = 256  # rows that the next network is chosen from
SAVE_EVERY = 10.0  # seconds


def profile_device(
    space: Space,
    runtime: Runtime,
    path: Path,
    *,
    minutes: float,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Profile:
    """Measures networks of `space` until each part was seen `SEEN` times or the time is over, and
    writes the profile to `path`, which it goes on with if it is there and not finished.

    ValueError where the file is of another device, space or version; TooNoisy where the machine is
    too restless.
    """
    environment = dict(runtime.environment())
    anchor = anchor_of(space)
    profile = Profile(runtime.device, environment, space.name, anchor, ())
    if path.is_file():
        profile = read_profile(path)
        check_environment(profile, environment, path)
        if profile.finished:
            return profile
    until = time.monotonic() + 60 * minutes
    saved = time.monotonic()
    design = Design(space, seed)
    for network in profile.networks:
        design.see(network.genome)
    found = list(profile.networks)
    try:
        with runtime.held():
            bench = Bench(_runner(runtime, anchor).time)
            while not design.enough and time.monotonic() < until:
                genome = design.next(len(found))
                runner = _runner(runtime, genome)
                look = bench.measure(runner.time, runner.time_parts)
                found.append(
                    Measured(genome, look.ms, look.low, look.high, look.parts, look.anchor)
                )
                design.see(genome)
                progress(*design.progress)
                if time.monotonic() - saved > SAVE_EVERY:
                    dataclasses.replace(profile, networks=tuple(found)).save(path)
                    saved = time.monotonic()
    except BaseException:  # whatever ends it: what was measured is kept
        dataclasses.replace(profile, networks=tuple(found)).save(path)
        raise
    profile = dataclasses.replace(profile, networks=tuple(found), finished=True)
    profile.save(path)
    return profile


def anchor_of(space: Space) -> Genome:
    """The network that all others are compared with: a usual one of the space, always the same."""
    rows = space.sample_codes(np.random.default_rng(0), 33)
    genomes = [space.decode(row) for row in rows]
    return sorted(genomes, key=lambda genome: genome.cost().macs)[len(genomes) // 2]


class Design:
    """Which networks are measured: a sequence that depends on the seed and on what was seen."""

    def __init__(self, space: Space, seed: int):
        self._space, self._places, self._seed = space, PartList(space), seed
        self._seen = np.zeros(len(self._places.parts), np.int64)

    def see(self, genome: Genome) -> None:
        numbers = self._places.of(self._space.encode(genome)[None])[0]
        np.add.at(self._seen, numbers[numbers != NONE], 1)

    @property
    def enough(self) -> bool:
        return bool(self._seen.min() >= SEEN)

    @property
    def progress(self) -> tuple[int, int]:
        """How many of the sightings that are wanted there have been, and how many are wanted."""
        return int(np.minimum(self._seen, SEEN).sum()), SEEN * len(self._seen)

    def next(self, number: int) -> Genome:
        rng = np.random.default_rng([self._seed, number])
        rows = self._space.sample_codes(rng, POOL)
        if number % UNIFORM == 0:
            return self._space.decode(rows[0])
        return self._space.decode(rows[int(np.argmax(self._news(self._places.of(rows))))])

    def _news(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """How much each network would show that was seen little, (B,)."""
        worth = np.append(np.where(self._seen < SEEN, 1.0 / (1 + self._seen), 0.0), 0.0)
        ordered = np.sort(numbers, axis=1)
        again = np.zeros(ordered.shape, bool)
        again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
        return np.where(again, 0.0, worth[ordered]).sum(axis=1)


def _runner(runtime: Runtime, genome: Genome) -> Runner:
    side = genome.resolution
    shape = (runtime.device.batch, genome.in_channels, side, side)
    return runtime.prepare(runtime.fresh(genome), shape)
