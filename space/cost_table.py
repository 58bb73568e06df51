"""The cost of many networks of one space at once.

A network's cost is a sum over its parts. So each slot of a space gets a small table, filled from
the parts' own closed forms, and the cost of 100,000 rows is a few array look-ups per slot.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from space.cost import Cost
from space.decisions import Codes
from space.part_list import PartList, SlotPlaces, StagePlaces
from space.search_space import Choice, Space, StageSlot

COSTS = tuple(field.name for field in fields(Cost))


@dataclass(frozen=True, slots=True)
class _KindTable:
    """Costs of one kind in one slot: `costs[context..., gene...]`, the last axis over COSTS."""

    kind_code: int
    genes: tuple[int, ...]  # the variables behind the gene axes
    costs: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _SlotTable:
    kind_index: int | None
    kinds: tuple[_KindTable, ...]

    def extreme(self, column: int, largest: bool) -> NDArray[np.int64]:
        """The least or most cost of the slot for each context."""
        ends = []
        for table in self.kinds:
            axes = tuple(range(table.costs.ndim - 1 - len(table.genes), table.costs.ndim - 1))
            costs = table.costs[..., column]
            ends.append(costs.max(axes) if largest else costs.min(axes))
        return np.max(ends, axis=0) if largest else np.min(ends, axis=0)

    def write_extreme(
        self, row: Codes, context: tuple[int, ...], column: int, largest: bool
    ) -> None:
        """Sets the slot's variables in `row` to those of the extreme cost in this context."""
        best: tuple[int, _KindTable, tuple[int, ...]] | None = None
        for table in self.kinds:
            costs = table.costs[context][..., column]
            place = int(costs.argmax() if largest else costs.argmin())
            where = tuple(int(i) for i in np.unravel_index(place, costs.shape))
            value = int(costs[where])
            if best is None or (value > best[0] if largest else value < best[0]):
                best = (value, table, where)
        assert best is not None, "a slot has at least one kind"
        _, table, where = best
        if self.kind_index is not None:
            row[self.kind_index] = table.kind_code
        for variable, code in zip(table.genes, where, strict=True):
            row[variable] = code


@dataclass(frozen=True, slots=True)
class _StageTables:
    slot: StageSlot
    downsample: _SlotTable | None  # context: resolution, width in, width out
    first: tuple[_SlotTable, ...]  # blocks at the stage's door: the same context
    rest: tuple[_SlotTable, ...]  # the other blocks; context: resolution, width out


class CostTable:
    """Costs of the rows of `space`; equal to `space.decode(row).cost()` for every row."""

    def __init__(self, space: Space):
        self.space = space
        places = PartList(space)
        costs = np.array([_row(part.cost()) for part in places.parts], np.int64)
        self._places, self._costs = places, costs
        self._stem = _slot_table(places.stem, costs)
        self._stages = [_stage_tables(stage, costs) for stage in places.stages]
        self._head = _slot_table(places.head, costs)

    def costs(self, codes: Codes) -> NDArray[np.int64]:
        """(B, 4): MACs, parameters, activations and bytes moved of each row, as in `COSTS`."""
        return self._places.totals(codes, self._costs)

    def column(self, codes: Codes, name: str) -> NDArray[np.int64]:
        """One cost of each row, (B,): `macs`, `params`, `activations` or `bytes_moved`."""
        return self.costs(codes)[:, COSTS.index(name)]

    def extreme(self, name: str, *, largest: bool) -> Codes:
        """The row of the least or most `name` in the whole space, exactly.

        A stage's best cost depends on the widths at its two ends only, so the search over widths
        is a shortest path, solved backwards from the head for each resolution and stem.
        """
        column, pick = COSTS.index(name), (np.argmax if largest else np.argmin)
        head = self._head.extreme(column, largest)  # (resolutions, last width)
        ahead, choices = head, []
        for stage in reversed(self._stages):
            cost = _stage_extreme(stage, column, largest) + ahead[:, None, :]
            choices.append(pick(cost, axis=2))
            ahead = np.take_along_axis(cost, choices[-1][..., None], 2)[..., 0]
        best: tuple[int, Codes] | None = None
        for r in range(len(self.space.resolution.choices)):
            for table, places in zip(self._stem.kinds, self._places.stem_width, strict=True):
                totals = table.costs[r][..., column] + ahead[r][places]
                place = np.unravel_index(int(pick(totals)), totals.shape)
                value = int(totals[place])
                if best is None or (value > best[0] if largest else value < best[0]):
                    row = np.zeros(len(self.space.variables), np.int64)
                    _write(self.space.resolution, row, r)
                    _write(self.space.stem.kind, row, table.kind_code)
                    row[list(table.genes)] = place
                    best = (value, row)
                    start = int(places[place])
        assert best is not None, "a space has at least one network"
        row, width = best[1], start
        r = int(row[self.space.resolution.index]) if self.space.resolution.index is not None else 0
        for stage, choice in zip(self._stages, reversed(choices), strict=True):
            out = int(choice[r, width])
            _write_stage(stage, row, (r, width, out), column, largest)
            width = out
        self._head.write_extreme(row, (r, width), column, largest)
        return row


def _write(choice: Choice, row: Codes, code: int) -> None:
    if choice.index is not None:
        row[choice.index] = code


def _row(cost: Cost) -> tuple[int, ...]:
    return tuple(getattr(cost, name) for name in COSTS)


def _slot_table(places: SlotPlaces, costs: NDArray[np.int64]) -> _SlotTable:
    kinds = [_KindTable(kind.code, kind.genes, costs[kind.numbers]) for kind in places.kinds]
    return _SlotTable(places.kind_index, tuple(kinds))


def _stage_tables(places: StagePlaces, costs: NDArray[np.int64]) -> _StageTables:
    return _StageTables(
        places.slot,
        None if places.downsample is None else _slot_table(places.downsample, costs),
        tuple(_slot_table(slot, costs) for slot in places.first),
        tuple(_slot_table(slot, costs) for slot in places.rest),
    )


def _times(table: _SlotTable, times: int, first: _SlotTable | None = None) -> _SlotTable:
    """The costs of `times` equal parts; of `first` as well, which has their genes and stands at
    the stage's door."""
    kinds = []
    for i, kind in enumerate(table.kinds):
        costs = times * kind.costs
        if first is not None:
            costs = first.kinds[i].costs + costs[:, None]
        kinds.append(_KindTable(kind.kind_code, kind.genes, costs))
    return _SlotTable(table.kind_index, tuple(kinds))


def _tables_at(stage: _StageTables, depth: int) -> tuple[list[_SlotTable], list[_SlotTable]]:
    """The tables of a stage of `depth` blocks that can be decided one by one: those that depend
    on (resolution, width in, width out), and those that depend on (resolution, width out)."""
    door = [stage.downsample] if stage.downsample is not None else []
    others = depth - len(stage.first)
    if len(stage.slot.blocks) > 1:
        return [*door, *stage.first], list(stage.rest[:others])
    if stage.first:
        return [*door, _times(stage.rest[0], others, stage.first[0])], []
    return door, [_times(stage.rest[0], others)]


def _stage_extreme(stage: _StageTables, column: int, largest: bool) -> NDArray[np.int64]:
    """Least or most cost of a stage, (resolutions, width in, width out)."""
    door, inside = _tables_at(stage, _extreme_depth(stage, largest))
    total: NDArray[np.int64] = np.zeros(1, np.int64)
    for table in door:
        total = total + table.extreme(column, largest)
    for table in inside:
        total = total + table.extreme(column, largest)[:, None, :]
    return total


def _extreme_depth(stage: _StageTables, largest: bool) -> int:
    depths = stage.slot.depth.choices
    return max(depths) if largest else min(depths)


def _write_stage(
    stage: _StageTables, row: Codes, door: tuple[int, int, int], column: int, largest: bool
) -> None:
    depth = _extreme_depth(stage, largest)
    _write(stage.slot.channels, row, door[2])
    _write(stage.slot.depth, row, stage.slot.depth.choices.index(depth))
    at_door, inside = _tables_at(stage, depth)
    for table in at_door:
        table.write_extreme(row, door, column, largest)
    for table in inside:
        table.write_extreme(row, (door[0], door[2]), column, largest)
