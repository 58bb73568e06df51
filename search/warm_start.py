"""Published networks as the first proposals of a search.

A published network is seldom a row of a space. Which ones a space can say is a rule: at each total
stride (input pixels per pixel of the map) where the space has stages, the network has blocks too,
and it has none elsewhere; every kind of operator that it has there is a kind of one of the space's
stages there, or of the same family; and its main kind, that of most MACs, is itself one somewhere.
Kinds that share a word are a family, such as `axis_mlp` and `token_mlp`. Stem, head, downsampling
modules and operators without MACs (position tables, class tokens) are not looked at. A downsampling
module that is an operator counts as a block where its stage has no others. A mixer without channel
MLP (`expansion` 0) and the inverted bottleneck behind it count as one block of the mixer's kind.

Such a network is put onto the nearest row: kinds are kept where they can be, widths, depths and
genes become the nearest that the space allows, and what it has no word for the first that it
lists. Widths and depths are then scaled together, as in `space.scaling`, and moved one by one,
until the row is at the budget. A network that does not come there is left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from search.networks import NetworkProposals
from search.proposals import BAND
from space.decisions import Codes
from space.genes import Part
from space.genome import Genome
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.presets.published import Preset
from space.scaling import ALPHA, BETA, GAMMA
from space.search_space import Choice, Slot, Space, StageSlot

_SPREAD, _STEP = 10.0, 0.25  # of phi: from a thousandth to a thousand times the MACs
_MOVES = 60

Value = int | float


@dataclass(frozen=True, slots=True)
class Start:
    """A row of a space at the budget, and the preset that it was made of."""

    name: str
    row: tuple[int, ...]


def warm_start(proposals: NetworkProposals, networks: Iterable[Preset]) -> list[Start]:
    """The networks that the space can say, as different rows at the budget, those with the
    highest published top-1 first."""
    order = sorted(networks, key=lambda preset: (-(preset.top1 or 0), preset.name))
    found: dict[tuple[int, ...], Start] = {}
    for preset in order:
        row = nearest_row(proposals, preset.genome)
        if row is not None:
            code = tuple(map(int, row))
            found.setdefault(code, Start(preset.name, code))
    return list(found.values())


def nearest_row(proposals: NetworkProposals, genome: Genome) -> Codes | None:
    """The row at the budget that a network becomes; None where the space cannot say it."""
    space = proposals.space
    stages = project(space, genome)
    if stages is None:
        return None
    count = round(_SPREAD / _STEP)
    factors = sorted((_STEP * k for k in range(-count, count + 1)), key=abs)
    rows = space.canonical(np.stack([_row(space, genome, stages, phi) for phi in factors]))
    away = proposals.distance(rows, BAND, 1.0)
    row = _moved(proposals, rows[int(np.argmin(away))])  # of equal ones the least scaled
    if proposals.distance(row[None], BAND, 1.0)[0] > 0:
        return None
    try:
        space.decode(row).cost()
    except ValueError:  # genes that do not go together, or not at these widths
        return None
    return row


# ---- which networks, and where their blocks go


@dataclass(frozen=True, slots=True)
class Block:
    """A working block of a published network. `expansion` is that of the inverted bottleneck that
    is its channel mixer; `downsample` stands in front of it."""

    part: Part
    macs: int
    channels: int
    stage: int
    downsample: Part | None
    expansion: Value | None = None


def project(space: Space, genome: Genome) -> list[Sequence[Block]] | None:
    """For each stage of the space the blocks that belong there, at least one; None where the space
    cannot say the network."""
    have = _blocks(genome)
    slots: dict[int, list[StageSlot]] = {}
    stride = space.stem_stride
    for slot in space.stages:
        stride *= slot.stride
        slots.setdefault(stride, []).append(slot)
    if set(slots) != set(have):
        return None
    found: list[Sequence[Block]] = []
    kept: set[type[Part]] = set()
    for stride, here in slots.items():
        allowed = [kind for slot in here for block in slot.blocks for kind in _kinds(block)]
        kinds = {type(block.part) for block in have[stride]}
        if any(_nearest_kind(kind, allowed) is None for kind in kinds):
            return None
        kept |= kinds & set(allowed)
        found += _shares(have[stride], len(here))
    return found if _main_kind([b for blocks in have.values() for b in blocks]) in kept else None


def _kinds(slot: Slot) -> list[type[Part]]:
    return [option.part for option in slot.options.values()]


def _nearest_kind(kind: type[Part], allowed: Iterable[type[Part]]) -> type[Part] | None:
    """The kind itself where it is allowed, else the first of its family, else None."""
    words = set(kind.kind.split("_"))
    family = [other for other in allowed if words & set(other.kind.split("_"))]
    return kind if kind in family else next(iter(family), None)


def _nearest_option(kind: type[Part], slot: Slot) -> str | None:
    """The first option of the nearest kind."""
    near = _nearest_kind(kind, _kinds(slot))
    return next((name for name, option in slot.options.items() if option.part is near), None)


def _main_kind(blocks: Sequence[Block]) -> type[Part]:
    """The kind that has most of the blocks' MACs."""
    macs: Counter[type[Part]] = Counter()
    for block in blocks:
        macs[type(block.part)] += block.macs
    return macs.most_common(1)[0][0]


def _blocks(genome: Genome) -> dict[int, list[Block]]:
    """The working blocks by their total stride."""
    strides, stride = [], genome.stem.stride  # type: ignore[attr-defined]
    for stage in genome.stages:
        stride *= stage.stride
        strides.append(stride)
    found: dict[int, list[Block]] = {}
    for placed in genome.parts():
        words = placed.path.split(".")
        if words[0] != "stages":
            continue
        part, number = placed.part, int(words[1])
        stage = genome.stages[number]
        alone = not stage.blocks and part.category == "operator"
        macs = placed.cost().macs
        if macs and (words[2] == "blocks" or alone):
            downsample = stage.downsample if alone or words[3] == "0" else None
            block = Block(part, macs, placed.site.channels, number, downsample)
            _add(found.setdefault(strides[number], []), block)
    return found


def _add(blocks: list[Block], block: Block) -> None:
    """Appends the block, or makes it the channel mixer of the one before."""
    before = blocks[-1] if blocks else None
    if (
        before is not None
        and before.stage == block.stage
        and isinstance(block.part, InvertedBottleneck)
        and before.expansion is None
        and getattr(before.part, "expansion", None) == 0
    ):
        total = before.macs + block.macs
        blocks[-1] = replace(before, macs=total, expansion=block.part.expansion)
    else:
        blocks.append(block)


def _shares(blocks: Sequence[Block], count: int) -> Iterator[Sequence[Block]]:
    """The blocks of one stride in `count` pieces: by the network's own stages where it has as
    many, else of even length. A piece is never empty."""
    stages = sorted({block.stage for block in blocks})
    if len(stages) == count:
        for stage in stages:
            yield [block for block in blocks if block.stage == stage]
        return
    for k in range(count):
        start = min(k * len(blocks) // count, len(blocks) - 1)
        yield blocks[start : max(start + 1, (k + 1) * len(blocks) // count)]


# ---- the nearest row


def _row(space: Space, genome: Genome, stages: Sequence[Sequence[Block]], phi: float) -> Codes:
    """The nearest row to a network whose sizes are scaled by `phi` of the rule; not canonical."""
    row = np.zeros(len(space.variables), np.int64)
    _write(space.resolution, genome.resolution * GAMMA**phi, row)
    width: int = genome.stem.channels  # type: ignore[attr-defined]
    _write_part(space.stem, genome.stem, row, channels=width * BETA**phi)
    for slot, blocks in zip(space.stages, stages, strict=True):
        if len(slot.blocks) == 1:
            blocks = _alike(blocks, slot.blocks[0])
        _write(slot.channels, blocks[len(blocks) // 2].channels * BETA**phi, row)
        _write(slot.depth, len(blocks) * ALPHA**phi, row)
        if slot.downsample is not None:
            _write_part(slot.downsample, blocks[0].downsample, row)
        for j, place in enumerate(slot.blocks):
            block = blocks[j % len(blocks)]
            _write_part(place, block.part, row, expansion=block.expansion)
    _write_part(space.head, genome.head, row)
    return row


def _alike(blocks: Sequence[Block], slot: Slot) -> Sequence[Block]:
    """Where all blocks must be alike: those of the main kind that can stand there."""
    able = [block for block in blocks if _nearest_kind(type(block.part), _kinds(slot))]
    kind = _main_kind(able or blocks)
    return [block for block in blocks if type(block.part) is kind]


def _write_part(slot: Slot, part: Part | None, row: Codes, **instead: Value | None) -> None:
    """The nearest kind and genes of a part, or the first kind where a slot has none near;
    `instead`, where it is not None, stands for genes of the part."""
    near = None if part is None else _nearest_option(type(part), slot)
    option = near or next(iter(slot.options))
    slot.kind.write(option, row, slot.name)
    for name, gene in slot.options[option].genes.items():
        given = instead.get(name)
        _write(gene, getattr(part, name, None) if given is None else given, row)


def _write(choice: Choice, value: Any, row: Codes) -> None:
    """The code of a value, or of the nearest number, or of what is listed first."""
    codes = range(len(choice.choices))
    code = next((c for c in codes if _same(choice.choices[c], value)), None)
    if code is None:
        numbers = [c for c in codes if _is_number(choice.choices[c])] if _is_number(value) else []
        code = min(numbers, key=lambda c: _apart(choice.choices[c], value), default=0)
    if choice.index is not None:
        row[choice.index] = code


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _apart(a: Value, b: Value) -> float:
    """By ratio where both are above zero."""
    return abs(math.log(a / b)) if a > 0 and b > 0 else 1e3 + abs(a - b)


# ---- to the budget


def _moved(proposals: NetworkProposals, row: Codes) -> Codes:
    """The row after steps of single variables, each to the nearest cost: widths, depths and
    resolution first, then all that are numbers."""
    variables = proposals.space.variables
    sizes = [
        i
        for i, variable in enumerate(variables)
        if variable.name.split(".")[-1] in ("channels", "depth", "resolution")
    ]
    every = [i for i, v in enumerate(variables) if all(_is_number(c) for c in v.choices)]
    for chosen in (sizes, every):
        for _ in range(_MOVES):
            away = proposals.distance(row[None], BAND, 1.0)[0]
            steps = list(_steps(proposals.space, row, chosen)) if away else []
            if not steps:
                break
            near = proposals.distance(np.stack(steps), BAND, 1.0)
            if near.min() >= away:
                break
            row = steps[int(near.argmin())]
    return row


def _steps(space: Space, row: Codes, chosen: Sequence[int]) -> Iterator[Codes]:
    """The rows in which one of the chosen variables has the next smaller or larger value."""
    active = space.active(row[None])[0]
    for i in chosen:
        values = space.variables[i].choices
        order = sorted(range(len(values)), key=lambda code: values[code])
        place = order.index(int(row[i]))
        for near in (place - 1, place + 1):
            if active[i] and 0 <= near < len(order):
                moved = row.copy()
                moved[i] = order[near]
                yield space.canonical(moved[None])[0]
