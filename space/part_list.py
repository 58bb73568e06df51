"""Every part that networks of a space have, and which of them a network consists of.

What a part is and does depends on its genes, the widths around it and the resolution only. So a
space has far fewer different parts than networks, and what adds up over parts, or is the largest of
them, is known for 100,000 rows after a few array look-ups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from space.cost import Cost
from space.decisions import Codes
from space.genes import Part, Site
from space.genome import Genome
from space.search_space import Choice, Option, Slot, Space, StageSlot

NONE = -1  # where a network has no part


@dataclass(frozen=True, slots=True)
class Sited:
    """A part and where it stands: what it computes, costs and takes."""

    part: Part
    site: Site

    def cost(self) -> Cost:
        return self.part.cost(self.site)


def sited_parts(genome: Genome) -> list[Sited]:
    """The parts of a network, in the order of `Genome.parts`."""
    return [Sited(placed.part, placed.site) for placed in genome.parts()]


@dataclass(frozen=True, slots=True)
class KindPlaces:
    """The parts of one kind in one slot: `numbers[context..., gene...]`."""

    code: int
    genes: tuple[int, ...]  # the variables behind the gene axes
    numbers: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SlotPlaces:
    """The parts that can stand in a slot. `context` are the codes of what is around it."""

    kind_index: int | None
    kinds: tuple[KindPlaces, ...]

    def of(self, codes: Codes, context: Sequence[Codes]) -> NDArray[np.int64]:
        """The part of each row, (B,)."""
        found = np.full(len(codes), NONE, np.int64)
        for kind in self.kinds:
            rows: NDArray[np.int64] | slice = slice(None)
            if self.kind_index is not None:
                rows = np.flatnonzero(codes[:, self.kind_index] == kind.code)
            index = [axis[rows] for axis in context] + [codes[rows, v] for v in kind.genes]
            found[rows] = kind.numbers[tuple(index)]
        return found


@dataclass(frozen=True, slots=True)
class StagePlaces:
    slot: StageSlot
    downsample: SlotPlaces | None  # context: resolution, width in, width out
    first: tuple[SlotPlaces, ...]  # blocks at the stage's door: the same context
    rest: tuple[SlotPlaces, ...]  # the other blocks; context: resolution, width out


class PartList:
    """`parts`, each once, and where they can stand. Networks of a row are built of these alone."""

    def __init__(self, space: Space):
        self.space, self.parts = space, list[Sited]()
        self._numbers: dict[Sited, int] = {}
        resolutions = space.resolution.choices
        self.stem, self.stem_widths = self._stem(space.stem)
        widths = tuple(sorted({int(w) for table in self.stem_widths for w in table.ravel()}))
        # For each kind of the stem, which of `widths` its settings have.
        self.stem_width = [np.searchsorted(widths, table) for table in self.stem_widths]
        self.stages: list[StagePlaces] = []
        side = [r // space.stem_stride for r in resolutions]
        for slot in space.stages:
            below = [s // slot.stride for s in side]
            self.stages.append(self._stage(slot, side, below, widths))
            side, widths = below, slot.channels.choices
        self.head = self._slot(
            space.head, [[Site(width, space.classes, s, s) for width in widths] for s in side]
        )

    def of(self, codes: Codes) -> NDArray[np.int64]:
        """Numbers in `parts` of the parts of each row, in the order an image meets them, (B, P);
        `NONE` where a row has fewer than others."""
        space = self.space
        resolution = codes_of(space.resolution, codes)
        columns = [self.stem.of(codes, (resolution,))]
        width = self.width_behind_stem(codes)
        for stage in self.stages:
            out, slot = codes_of(stage.slot.channels, codes), stage.slot
            door = (resolution, width, out)
            depth = np.array(slot.depth.choices, np.int64)[codes_of(slot.depth, codes)]
            if stage.downsample is not None:
                columns.append(stage.downsample.of(codes, door))
            columns += [table.of(codes, door) for table in stage.first]
            inside = [table.of(codes, (resolution, out)) for table in stage.rest]
            begun = len(stage.first)
            for j in range(begun, max(slot.depth.choices)):
                block = inside[0] if len(slot.blocks) == 1 else inside[j - begun]
                columns.append(np.where(depth > j, block, NONE))
            width = out
        columns.append(self.head.of(codes, (resolution, width)))
        return np.stack(columns, axis=1)

    def totals(self, codes: Codes, values: NDArray[Any]) -> NDArray[Any]:
        """What adds up over the parts of each row: sums of `values`, one for each of `parts`, (P,)
        or (P, K), to (B,) or (B, K)."""
        padded = np.concatenate([values, np.zeros_like(values[:1])])  # the last is that of NONE
        total = np.zeros((len(codes), *values.shape[1:]), values.dtype)
        for numbers in self.of(codes).T:
            total += padded[numbers]
        return total

    def numbers_of(self, genome: Genome) -> list[int]:
        """Numbers in `parts` of a network's parts; those that are none of the space's are left out.
        The network need not be one of the space."""
        found = [self._numbers.get(part) for part in sited_parts(genome)]
        return [number for number in found if number is not None]

    def width_behind_stem(self, codes: Codes) -> Codes:
        """Which of the widths that stems have each row's has, (B,)."""
        width = np.zeros(len(codes), np.int64)
        for kind, places in zip(self.stem.kinds, self.stem_width, strict=True):
            rows: NDArray[np.int64] | slice = slice(None)
            if self.stem.kind_index is not None:
                rows = np.flatnonzero(codes[:, self.stem.kind_index] == kind.code)
            width[rows] = places[tuple(codes[rows, v] for v in kind.genes)]
        return width

    def _number(self, part: Part, site: Site) -> int:
        sited = Sited(part, site)
        number = self._numbers.setdefault(sited, len(self.parts))
        if number == len(self.parts):
            self.parts.append(sited)
        return number

    def _stem(self, slot: Slot) -> tuple[SlotPlaces, list[NDArray[np.int64]]]:
        """The stem's parts, and the width that each setting of each kind gives."""
        space = self.space
        kinds, widths = [], []
        for code, option in enumerate(slot.options.values()):
            parts, shape, genes = _settings(slot, option)
            channels = [int(part.channels) for part in parts]  # type: ignore[attr-defined]
            numbers = [
                self._number(part, Site(space.in_channels, width, r, r, space.stem_stride))
                for r in space.resolution.choices
                for part, width in zip(parts, channels, strict=True)
            ]
            kinds.append(KindPlaces(code, genes, np.reshape(numbers, (-1, *shape))))
            widths.append(np.reshape(channels, shape))
        return SlotPlaces(slot.kind.index, tuple(kinds)), widths

    def _slot(self, slot: Slot, sites: Sequence[Any]) -> SlotPlaces:
        """`sites`: nested lists of Site, one level per context axis."""
        grid = np.array(sites, object)
        flat: list[Site] = grid.ravel().tolist()
        kinds = []
        for code, option in enumerate(slot.options.values()):
            parts, shape, genes = _settings(slot, option)
            numbers = [self._number(part, site) for site in flat for part in parts]
            kinds.append(KindPlaces(code, genes, np.reshape(numbers, (*grid.shape, *shape))))
        return SlotPlaces(slot.kind.index, tuple(kinds))

    def _stage(
        self, slot: StageSlot, side: Sequence[int], below: Sequence[int], widths: Sequence[int]
    ) -> StagePlaces:
        outs = slot.channels.choices
        door = [
            [[Site(width, out, s, s, slot.stride) for out in outs] for width in widths]
            for s in side
        ]
        inside = [[Site(out, out, s, s) for out in outs] for s in below]
        blocks = tuple(self._slot(block, inside) for block in slot.blocks)
        if slot.downsample is not None:
            return StagePlaces(slot, self._slot(slot.downsample, door), (), blocks)
        first = self._slot(slot.blocks[0], door)
        return StagePlaces(slot, None, (first,), blocks if len(blocks) == 1 else blocks[1:])


def codes_of(choice: Choice, codes: Codes) -> Codes:
    """What each row decides, (B,); 0 where there is nothing to decide."""
    return np.zeros(len(codes), np.int64) if choice.index is None else codes[:, choice.index]


def _settings(slot: Slot, option: Option) -> tuple[list[Part], tuple[int, ...], tuple[int, ...]]:
    """Every setting of an option of `slot`, the shape of their grid and the variables behind it."""
    parts = [slot.make(option.part, values) for values in option.settings()]
    deciding = [gene for gene in option.genes.values() if gene.index is not None]
    shape = tuple(len(gene.choices) for gene in deciding)
    return parts, shape, tuple(gene.index for gene in deciding if gene.index is not None)
