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
from numpy.random import Generator
from numpy.typing import NDArray

from evaluator.interleaved import Bench
from evaluator.latency_profile import Measured, Profile, check_environment, read_profile
from evaluator.runtimes import Runner, Runtime, input_shape
from space.genome import Genome, Stage
from space.part_list import PartList, SlotPlaces, StagePlaces
from space.search_space import Space

SEEN = 2  # times that each part should have been measured
UNIFORM = 3  # every so manieth network is drawn uniformly
SAVE_EVERY = 10.0  # seconds

Floats = NDArray[np.float64]


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
    """Which networks are measured: a sequence that depends on the seed and on what was seen.

    Those that are not drawn need not be of the space: in a network of a space the blocks of a stage
    are often all alike, and here they are all different, so that fewer networks show all parts.
    """

    def __init__(self, space: Space, seed: int):
        self._space, self._places, self._seed = space, PartList(space), seed
        self._seen = np.zeros(len(self._places.parts), np.int64)

    def see(self, genome: Genome) -> None:
        np.add.at(self._seen, self._places.numbers_of(genome), 1)

    @property
    def enough(self) -> bool:
        return bool(self._seen.min() >= SEEN)

    @property
    def progress(self) -> tuple[int, int]:
        """How many of the sightings that are wanted there have been, and how many are wanted."""
        return int(np.minimum(self._seen, SEEN).sum()), SEEN * len(self._seen)

    def next(self, number: int) -> Genome:
        rng = np.random.default_rng([self._seed, number])
        if number % UNIFORM == 0:
            return self._space.decode(self._space.sample_codes(rng, 1)[0])
        return self._newest(rng)

    def _newest(self, rng: Generator) -> Genome:
        """A network of parts that were seen least, stage by stage."""
        # What is worth seeing: much where it was never seen; chance decides between equals.
        chance = rng.random(len(self._seen))
        worth = np.where(self._seen < SEEN, 1.0 / (1 + self._seen), 0.0) + 1e-3 * chance
        space, places, parts = self._space, self._places, self._places.parts
        r = int(rng.integers(len(space.resolution.choices)))
        stem = _best(_numbers(places.stem, (r,)), worth, 1)[0]
        width = next(
            int(widths.ravel()[i])
            for kind, widths in zip(places.stem.kinds, places.stem_width, strict=True)
            for i in np.flatnonzero(kind.numbers[r].ravel() == stem)
        )
        stages = []
        for stage in places.stages:
            outs = range(len(stage.slot.channels.choices))
            options = [_stage(stage, (r, width, out), worth) for out in outs]
            width = int(np.argmax([worth[option].sum() for option in options]))
            chosen = [parts[number].part for number in options[width]]
            downsample = chosen.pop(0) if stage.downsample is not None else None
            stages.append(
                Stage(
                    channels=stage.slot.channels.choices[width],
                    blocks=tuple(chosen),
                    downsample=downsample,
                    stride=stage.slot.stride if downsample is not None else 1,
                )
            )
        head = _best(_numbers(places.head, (r, width)), worth, 1)[0]
        return Genome(
            resolution=space.resolution.choices[r],
            stem=parts[stem].part,
            stages=tuple(stages),
            head=parts[head].part,
            in_channels=space.in_channels,
            classes=space.classes,
        )


def _stage(stage: StagePlaces, door: tuple[int, int, int], worth: Floats) -> list[int]:
    """Parts for a stage of the largest depth, each the newest in its place, no two alike where
    there are others."""
    r, _, out = door
    chosen: list[int] = []
    if stage.downsample is not None:
        chosen += _best(_numbers(stage.downsample, door), worth, 1)
    for slot in stage.first:
        chosen += _best(_numbers(slot, door), worth, 1)
    left = max(stage.slot.depth.choices) - len(stage.first)
    inside = [_numbers(slot, (r, out)) for slot in stage.rest]
    if len(stage.slot.blocks) == 1:
        blocks = _best(inside[0], worth, left)
        return chosen + [blocks[j % len(blocks)] for j in range(left)]
    return chosen + [_best(numbers, worth, 1)[0] for numbers in inside[:left]]


def _numbers(slot: SlotPlaces, context: tuple[int, ...]) -> NDArray[np.int64]:
    """The parts that can stand in a slot, where what is around it is so."""
    return np.concatenate([kind.numbers[context].ravel() for kind in slot.kinds])


def _best(numbers: NDArray[np.int64], worth: Floats, count: int) -> list[int]:
    """Those that are worth most, best first."""
    different = np.unique(numbers)
    order = np.argsort(-worth[different], kind="stable")[:count]
    return [int(number) for number in different[order]]


def _runner(runtime: Runtime, genome: Genome) -> Runner:
    return runtime.prepare(runtime.fresh(genome), input_shape(genome, runtime.device.batch))
