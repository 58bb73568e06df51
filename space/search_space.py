"""A space: for each gene of a network the allowed values.

Every network of a space is a row of integers, one per `Variable`, so that a controller of any
kind can work on it: uniform sampling, mutation and crossover are array operations over many rows,
and `decode` turns a row into a `Genome`. What works on rows alone is in `space.decisions`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.random import Generator

from space.decisions import Codes, Conditions, Decisions, Variable
from space.genes import Part, describe_allowed, gene_choices, lookup, scaled_channels
from space.genome import Genome, Stage

# Name of an option -> the kind of part, and for each gene the allowed values.
Options = Mapping[str, tuple[str, Mapping[str, Sequence[Any]]]]


@dataclass(frozen=True, slots=True)
class Choice:
    """A value that is fixed (`index` None, one choice) or decided by the variable at `index`."""

    choices: tuple[Any, ...]
    index: int | None

    def value(self, row: Sequence[int]) -> Any:
        return self.choices[0 if self.index is None else row[self.index]]

    def code(self, value: Any, name: str) -> int:
        """The place of `value` among the choices; ValueError where it is not one."""
        for code, allowed in enumerate(self.choices):
            if allowed == value and type(allowed) is type(value):
                return code
        raise ValueError(f"{name} is {value!r}, but must be {describe_allowed(self.choices)}")

    def write(self, value: Any, row: Codes, name: str) -> None:
        """Stores the code of `value`; ValueError where it is not among the choices."""
        code = self.code(value, name)
        if self.index is not None:
            row[self.index] = code


@dataclass(frozen=True, slots=True)
class Option:
    """One of the parts that may stand in a slot: its kind, and what its genes may be."""

    part: type[Part]
    genes: Mapping[str, Choice]

    def settings(self) -> Iterator[dict[str, Any]]:
        """The genes' values in each setting."""
        for values in product(*(gene.choices for gene in self.genes.values())):
            yield dict(zip(self.genes, values, strict=True))

    def count(self) -> int:
        """Number of different settings."""
        return math.prod(len(gene.choices) for gene in self.genes.values())


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one part, and the options for it. An option has the name of its kind, or, where
    a space file gives it one, a name of its own: so a kind may stand there with several sets of
    genes that do not mix, and a supernet keeps weights for each of them."""

    name: str
    kind: Choice  # of the options' names
    options: Mapping[str, Option]
    width_ratio: float = 1.0

    def make(self, kind: type[Part], values: Mapping[str, Any]) -> Part:
        part = kind(**values)
        return part if self.width_ratio == 1 else part.scaled(self.width_ratio)

    def decode(self, row: Sequence[int]) -> Part:
        option = self.options[self.kind.value(row)]
        return self.make(option.part, {name: g.value(row) for name, g in option.genes.items()})

    def encode(self, part: Part, row: Codes) -> None:
        name = self.option_of(part)
        self.kind.write(name, row, self.name)
        for gene, made in self._as_made(self.options[name]).items():
            made.write(getattr(part, gene), row, f"{self.name}.{name}.{gene}")

    def option_of(self, part: Part) -> str:
        """The name of the option that `part` is a setting of; ValueError where there is none."""
        alike = {name: o for name, o in self.options.items() if o.part is type(part)}
        if not alike:
            kinds = ", ".join(repr(option.part.kind) for option in self.options.values())
            raise ValueError(f"{self.name} is {part.kind!r}, but must be one of {kinds}")
        reason: ValueError | None = None
        for name, option in alike.items():
            try:
                for gene, made in self._as_made(option).items():
                    made.code(getattr(part, gene), f"{self.name}.{name}.{gene}")
            except ValueError as error:
                reason = reason or error
            else:
                return name
        assert reason is not None
        raise reason

    def _as_made(self, option: Option) -> dict[str, Choice]:
        """The genes' choices as they are in a part of this slot, which may be scaled; genes that
        the space leaves alone have one choice, their default."""
        usual = self.make(option.part, {})
        made = {}
        for name in gene_choices(option.part):
            gene = option.genes.get(name)
            if gene is None:
                made[name] = Choice((getattr(usual, name),), None)
            elif self.width_ratio == 1:
                made[name] = gene
            else:
                values = (getattr(self.make(option.part, {name: v}), name) for v in gene.choices)
                made[name] = replace(gene, choices=tuple(values))
        return made

    def count(self) -> int:
        """Number of different parts."""
        return sum(option.count() for option in self.options.values())


@dataclass(frozen=True, slots=True)
class StageSlot:
    """One stage. `blocks` has one slot for all blocks, or one for each of the most there can be."""

    channels: Choice
    depth: Choice
    stride: int
    downsample: Slot | None
    blocks: tuple[Slot, ...]
    start: int  # this stage's variables are start .. stop - 1
    stop: int

    def block(self, j: int) -> Slot:
        return self.blocks[0] if len(self.blocks) == 1 else self.blocks[j]

    def decode(self, row: Sequence[int]) -> Stage:
        depth = self.depth.value(row)
        if len(self.blocks) == 1:
            blocks = (self.blocks[0].decode(row),) * depth
        else:
            blocks = tuple(self.blocks[j].decode(row) for j in range(depth))
        return Stage(
            channels=self.channels.value(row),
            blocks=blocks,
            downsample=None if self.downsample is None else self.downsample.decode(row),
            stride=self.stride,
        )

    def encode(self, stage: Stage, row: Codes, name: str) -> None:
        self.channels.write(stage.channels, row, f"{name}.channels")
        self.depth.write(len(stage.blocks), row, f"{name}.depth")
        if stage.stride != self.stride:
            raise ValueError(f"{name}.stride is {stage.stride}, but must be {self.stride}")
        if (self.downsample is None) != (stage.downsample is None):
            raise ValueError(f"{name} must have {'no' if self.downsample is None else 'a'} DSM")
        if self.downsample is not None and stage.downsample is not None:
            self.downsample.encode(stage.downsample, row)
        if len(self.blocks) == 1 and any(block != stage.blocks[0] for block in stage.blocks):
            raise ValueError(f"{name}: its blocks differ, but in this space they are all alike")
        for slot, block in zip(self.blocks, stage.blocks, strict=False):
            slot.encode(block, row)

    def count(self) -> int:
        depths = self.depth.choices
        if len(self.blocks) == 1:
            blocks = sum(self.blocks[0].count() if d else 1 for d in depths)
        else:
            blocks = sum(self.blocks[0].count() ** d for d in depths)
        return len(self.channels.choices) * blocks * (self.downsample or _ONE).count()


class _One:
    def count(self) -> int:
        return 1


_ONE = _One()


@dataclass(frozen=True)
class Space(Decisions):
    """All networks that a space file allows. Make one with `space.files.load_space`."""

    name: str
    about: str
    variables: tuple[Variable, ...]
    resolution: Choice
    stem: Slot
    stages: tuple[StageSlot, ...]
    head: Slot
    in_channels: int = 3
    classes: int = 1000
    proxy_width: float = 1.0  # what the space file recommends for scoring, see `scaled`
    proxy_resolution: int | None = None

    # ---- rows and genomes

    def decode(self, row: Sequence[int] | Codes) -> Genome:
        """The network of one row of `codes`."""
        row = tuple(int(code) for code in row)
        return Genome(
            resolution=self.resolution.value(row),
            in_channels=self.in_channels,
            classes=self.classes,
            stem=self.stem.decode(row),
            stages=tuple(self._stage(i, row) for i in range(len(self.stages))),
            head=self.head.decode(row),
        )

    def encode(self, genome: Genome) -> Codes:
        """The row of a network; ValueError says which gene lies outside the space."""
        row = np.zeros(len(self.variables), np.int64)
        self.resolution.write(genome.resolution, row, "resolution")
        for name in ("in_channels", "classes"):
            if getattr(genome, name) != getattr(self, name):
                raise ValueError(
                    f"{name} is {getattr(genome, name)}, but must be {getattr(self, name)}"
                )
        self.stem.encode(genome.stem, row)
        if len(genome.stages) != len(self.stages):
            raise ValueError(f"{len(genome.stages)} stages, but must be {len(self.stages)}")
        for i, (slot, stage) in enumerate(zip(self.stages, genome.stages, strict=True)):
            slot.encode(stage, row, f"stages.{i}")
        self.head.encode(genome.head, row)
        return row

    def __contains__(self, genome: Genome) -> bool:
        try:
            self.encode(genome)
        except ValueError:
            return False
        return True

    @cached_property
    def _decoded(self) -> dict[tuple[int, tuple[int, ...]], Stage]:
        return {}

    def _stage(self, i: int, row: tuple[int, ...]) -> Stage:
        slot = self.stages[i]
        key = (i, row[slot.start : slot.stop])
        stage = self._decoded.get(key)
        if stage is None:
            stage = self._decoded[key] = slot.decode(row)
        return stage

    @property
    def size(self) -> int:
        """Number of different rows, exactly."""
        total = len(self.resolution.choices) * self.stem.count() * self.head.count()
        for stage in self.stages:
            total *= stage.count()
        return total

    # ---- one genome at a time

    def sample(self, rng: Generator) -> Genome:
        return self.decode(self.sample_codes(rng, 1)[0])

    def mutate(self, genome: Genome, rng: Generator) -> Genome:
        return self.decode(self.mutate_codes(self.encode(genome)[None], rng)[0])

    def cross(self, mother: Genome, father: Genome, rng: Generator) -> Genome:
        codes = self.cross_codes(self.encode(mother)[None], self.encode(father)[None], rng)
        return self.decode(codes[0])

    # ---- proxies

    @property
    def total_stride(self) -> int:
        """Input pixels per pixel of the last map, along one side."""
        stride = self.stem_stride
        for stage in self.stages:
            stride *= stage.stride
        return stride

    @cached_property
    def stem_stride(self) -> int:
        """Every stem of a space has this one stride, so that each stage has one map size."""
        strides = {
            self.stem.make(option.part, values).stride  # type: ignore[attr-defined]
            for option in self.stem.options.values()
            for values in option.settings()
        }
        if len(strides) > 1:
            raise ValueError(f"space {self.name!r}: the stem must have one stride, not several")
        return strides.pop()

    def scaled(self, *, width: float, resolution: int, classes: int) -> Space:
        """The proxy of this space: the same variables and rows, channels `width` times as wide,
        the highest resolution becoming `resolution` and the others in proportion."""
        highest, step = max(self.resolution.choices), self.total_stride
        resolutions = tuple(
            max(step, step * round(r * resolution / highest / step))
            for r in self.resolution.choices
        )
        return replace(
            self,
            name=f"{self.name} at width {width:g}",
            resolution=replace(self.resolution, choices=resolutions),
            stem=replace(self.stem, width_ratio=width),
            stages=tuple(_scaled_stage(stage, width) for stage in self.stages),
            head=replace(self.head, width_ratio=width),
            classes=classes,
        )


def _scaled_stage(stage: StageSlot, width: float) -> StageSlot:
    choices = tuple(scaled_channels(channels, width) for channels in stage.channels.choices)
    return replace(
        stage,
        channels=replace(stage.channels, choices=choices),
        downsample=stage.downsample and replace(stage.downsample, width_ratio=width),
        blocks=tuple(replace(slot, width_ratio=width) for slot in stage.blocks),
    )


class SpaceBuilder:
    """Turns checked choices into variables, in the order in which a network is decided."""

    def __init__(self) -> None:
        self.variables: list[Variable] = []

    def choice(self, name: str, choices: Sequence[Any], conditions: Conditions = ()) -> Choice:
        """A variable where there is something to decide, else a fixed value."""
        if len(choices) == 1:
            return Choice(tuple(choices), None)
        self.variables.append(Variable(name, tuple(choices), conditions))
        return Choice(tuple(choices), len(self.variables) - 1)

    def slot(
        self,
        name: str,
        category: str,
        options: Options,
        conditions: Conditions = (),
    ) -> Slot:
        """Genes that an option leaves out are fixed to their default."""
        kind = self.choice(name, list(options), conditions)
        made: dict[str, Option] = {}
        for code, (option, (kind_name, values)) in enumerate(options.items()):
            inner = conditions
            if kind.index is not None:
                inner = (*conditions, (kind.index, frozenset({code})))
            part = lookup(category, kind_name)
            genes = {
                gene: self.choice(f"{name}.{option}.{gene}", values[gene], inner)
                for gene in gene_choices(part)
                if gene in values
            }
            made[option] = Option(part, genes)
        return Slot(name, kind, made)

    def stage(
        self,
        i: int,
        *,
        channels: Sequence[int],
        depth: Sequence[int],
        stride: int,
        downsampling: Options | None,
        operators: Options,
        alike: bool,
    ) -> StageSlot:
        """`alike`: all blocks of the stage share their genes; else each has its own."""
        start, name = len(self.variables), f"stages.{i}"
        channels_choice = self.choice(f"{name}.channels", channels)
        depth_choice = self.choice(f"{name}.depth", depth)
        downsample = (
            None
            if downsampling is None
            else self.slot(f"{name}.downsample", "downsampling", downsampling)
        )
        blocks = []
        for j in range(max(depth)):
            reached = frozenset(code for code, d in enumerate(depth) if d > j)
            exists: Conditions = ()
            if depth_choice.index is not None and len(reached) < len(depth):
                exists = ((depth_choice.index, reached),)
            place = f"{name}.blocks" if alike else f"{name}.blocks.{j}"
            blocks.append(self.slot(place, "operator", operators, exists))
            if alike:
                break
        return StageSlot(
            channels_choice,
            depth_choice,
            stride,
            downsample,
            tuple(blocks),
            start,
            len(self.variables),
        )
