"""Families: one network's design at other sizes.

Depth, width and resolution grow together, by `alpha**phi`, `beta**phi` and `gamma**phi` with 1.2,
1.1 and 1.15: compound scaling (Tan and Le, 2019, "EfficientNet", arXiv 1905.11946, equation 3 and
section 3.3), where MACs double, roughly, with each whole `phi`. UniNet (arXiv 2207.05420) made its
B0 to B6 so. We differ where a network consists of whole blocks, channels and pixels: each `phi` is
rounded to a network that can be built, and single sizes are then moved until the cost is within 2%
of what was asked for; of several such networks the nearest to the rule is taken.

What grows:

- depth: blocks that stand in a stage again and again. A published block may be several operators
  in a row (`repeats`), and the first of them may be what the stage begins with, its downsampling
  module; blocks that stand there once, such as position embeddings, stay single;
- width: channels of the stages, in steps of 8 or of a head; those of stem and head follow. Stages
  that follow on each other without a change of width keep one width;
- resolution: in steps of 32 pixels, or of the total stride where that is no divisor of 32. Windows
  that divide their map keep their number where they can, and grow with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

from space.budget import Budget, quantity
from space.cost import Cost
from space.genes import Part, Site, gene_choices, is_allowed
from space.genome import Genome, Stage
from space.repeats import repeats

ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15  # of depth, width and resolution
TOLERANCE = 0.02  # of a target

_ALLOWED = math.log(1 + TOLERANCE) - 1e-9
# Steps of widths: channels, and whether in whole heads; the later where the earlier do not do.
_GRIDS = ((8, True), (8, False), (4, False), (2, False))
_SPREAD, _STEP = 3.0, 0.05  # of phi around what doubling promises
_SIDES = 2  # resolutions that are tried for each phi
_TUNED = 12  # of the networks that come nearest by rounding
_MOVES = 40  # of single sizes for each of these


@dataclass(frozen=True, slots=True)
class Member:
    """A network of a family, made for `target` at about `phi` of the rule."""

    target: Budget
    genome: Genome
    cost: Cost
    phi: float

    @property
    def depths(self) -> tuple[int, ...]:
        """Operators of each stage."""
        return tuple(len(stage.blocks) for stage in self.genome.stages)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(stage.channels for stage in self.genome.stages)


def scale(genome: Genome, target: Budget) -> Member:
    """The member of `genome`'s family whose cost is within 2% of the target's limit (of the MACs
    where there are several). ValueError, with the nearest and what stands in the way, where the
    sizes of this network do not come that near."""
    return _Family(genome).member(target)


@dataclass(frozen=True, slots=True)
class _Run:
    """`unit` stands `times` times in a row. Where `led`, the stage's downsampling module stands
    for the first part of the first round. `grows`: whether `times` may change."""

    unit: tuple[Part, ...]
    times: int
    led: bool
    grows: bool

    def blocks(self, times: int) -> tuple[Part, ...]:
        return (self.unit * times)[1 if self.led else 0 :]


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Everything that a member may choose: pixels, channels of each group of stages, and how
    often each run that grows is repeated."""

    resolution: int
    widths: tuple[int, ...]
    times: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """Sizes that were reached from the rule at `phi`; `error` is the logarithm of the cost over
    the target."""

    sizes: _Sizes
    phi: float
    error: float


class _Family:
    """The networks that differ from `genome` in their sizes only."""

    def __init__(self, genome: Genome):
        self.genome = genome
        self.runs = [_runs(genome, i) for i in range(len(genome.stages))]
        self.sides = _sides(genome)
        self.trouble = ""  # why the last network that was tried cannot be built
        stride = genome.total_stride
        self.side_step = stride if 32 % stride else 32
        self._group(_groups(genome))
        if not all(self._builds(width) for width in range(len(self.groups))):
            # Some stages need their widths in a fixed proportion.
            self._group([tuple(i for group in self.groups for i in group)])
        self.trouble = ""

    def _use_grid(self, channels: int, heads: bool) -> None:
        """Widths may grow in steps of so many channels, and of whole heads where `heads`."""
        self.steps = [
            math.lcm(*(self._step(i, channels, heads) for i in group)) for group in self.groups
        ]

    def _group(self, groups: Sequence[tuple[int, ...]]) -> None:
        """Decides which stages (-1 is the stem) keep the proportion of their widths. A group's
        width is that of its narrowest stage."""
        self.groups = groups
        widths = {i: stage.channels for i, stage in enumerate(self.genome.stages)}
        widths[-1] = self.genome.stem.channels  # type: ignore[attr-defined]
        least = [min(widths[i] for i in group) for group in groups]
        self.ratios = {
            i: Fraction(widths[i], width)
            for group, width in zip(groups, least, strict=True)
            for i in group
        }
        self._use_grid(*_GRIDS[0])
        self.own = _Sizes(
            self.genome.resolution,
            tuple(least),
            tuple(run.times for runs in self.runs for run in runs if run.grows),
        )

    def _step(self, i: int, channels: int, heads: bool) -> int:
        """The step of a group's width by which that of its stage `i` can be as is wanted."""
        step = channels
        if heads and i >= 0:
            step = math.lcm(step, *_head_dims(self.genome.stages[i]))
        return (step / self.ratios[i]).numerator

    def _builds(self, place: int) -> bool:
        """Whether a group's width can be another while all else stays."""
        widths = list(self.own.widths)
        for change in (self.steps[place], -self.steps[place]):
            widths[place] = self.own.widths[place] + change
            if widths[place] > 0 and self._cost_of(replace(self.own, widths=tuple(widths))):
                return True
        return False

    # ---- networks of the family

    def make(self, sizes: _Sizes) -> Genome:
        """The network of these sizes; ValueError where it cannot be built."""
        genome, times = self.genome, iter(sizes.times)
        widths = {
            i: int(width * self.ratios[i])
            for group, width in zip(self.groups, sizes.widths, strict=True)
            for i in group
        }
        stages = []
        for i, (stage, runs) in enumerate(zip(genome.stages, self.runs, strict=True)):
            blocks: tuple[Part, ...] = ()
            for run in runs:
                blocks += run.blocks(next(times) if run.grows else run.times)
            widened = (stage.channels, widths[i])
            changed = {
                part: _resized(self._seen_from(part, i, sizes.resolution), *widened)
                for part in {*blocks, *([stage.downsample] if stage.downsample else [])}
            }
            stages.append(
                Stage(
                    channels=widths[i],
                    blocks=tuple(changed[block] for block in blocks),
                    downsample=stage.downsample and changed[stage.downsample],
                    stride=stage.stride,
                )
            )
        ratio = stages[-1].channels / genome.stages[-1].channels
        return replace(
            genome,
            resolution=sizes.resolution,
            stem=self._stem(widths, stages[0].channels / genome.stages[0].channels),
            stages=tuple(stages),
            head=genome.head.scaled(ratio),
        )

    def _seen_from(self, part: Part, i: int, resolution: int) -> Part:
        """A part of stage `i` whose windows keep their number at another resolution."""
        if getattr(part, "region", "global") == "global":
            return part
        context: int = part.context  # type: ignore[attr-defined]
        side = self.sides[i]
        grown, left = divmod(context * resolution, self.genome.resolution)
        if side % context or left or not is_allowed(grown, gene_choices(type(part))["context"]):
            return part
        return _with(part, context=grown)

    def _stem(self, widths: dict[int, int], ratio: float) -> Part:
        """As wide as the first stage where that has its width from the stem, else in proportion."""
        stem = self.genome.stem
        own: int = stem.channels  # type: ignore[attr-defined]
        wanted = widths.get(-1) or (own if ratio == 1 else _rounded(own * ratio, 8))
        scaled = stem.scaled(wanted / own)
        has_gene = "channels" in gene_choices(type(stem))
        return _with(scaled, channels=wanted) if has_gene else scaled

    def error(self, sizes: _Sizes, target: Budget) -> float | None:
        """The logarithm of the cost over the target; None where there is no such network."""
        cost = self._cost_of(sizes)
        return None if cost is None else math.log(getattr(cost, target.target) / target.limit)

    def _cost_of(self, sizes: _Sizes) -> Cost | None:
        try:
            return sum((_cost(p.part, p.site) for p in self.make(sizes).parts()), Cost())
        except ValueError as error:
            self.trouble = str(error)
            return None

    # ---- the search for the nearest

    def member(self, target: Budget) -> Member:
        found: list[_Found] = []
        for grid in _GRIDS:
            self._use_grid(*grid)
            found += self._near(target)
            within = [one for one in found if abs(one.error) <= _ALLOWED]
            if within:
                best = min(within, key=lambda one: (self._strain(one), abs(one.error)))
                genome = self.make(best.sizes)
                return Member(target, genome, genome.cost(), best.phi)
        raise ValueError(self._unreachable(target, found))

    def _near(self, target: Budget) -> list[_Found]:
        """The rule at every `phi`, rounded; and the nearest of these after moves."""
        rounded = sorted(self._rounded(target), key=lambda one: abs(one.error))
        return rounded + [self._tuned(one, target) for one in rounded[:_TUNED]]

    def _rounded(self, target: Budget) -> Iterator[_Found]:
        own = getattr(self.genome.cost(), target.target)
        square = GAMMA**2 if target.target == "macs" else 1
        middle = math.log(target.limit / own) / math.log(ALPHA * BETA**2 * square)
        count = round(_SPREAD / _STEP)
        seen = set()
        for k in sorted(range(-count, count + 1), key=abs):
            phi = middle + k * _STEP
            for side in self._sides(GAMMA**phi * self.own.resolution):
                sizes = _Sizes(
                    side,
                    tuple(
                        _rounded(width * BETA**phi, step, width)
                        for width, step in zip(self.own.widths, self.steps, strict=True)
                    ),
                    tuple(max(1, round(times * ALPHA**phi)) for times in self.own.times),
                )
                if sizes not in seen:
                    seen.add(sizes)
                    error = self.error(sizes, target)
                    if error is not None:
                        yield _Found(sizes, phi, error)

    def _sides(self, wanted: float) -> list[int]:
        """The nearest resolutions that can be, that of the network itself among them."""
        step = self.side_step
        below = max(step, math.floor(wanted / step) * step)
        near = {below + k * step for k in range(-_SIDES, _SIDES + 1) if below + k * step > 0}
        near.add(self.own.resolution)
        return sorted(near, key=lambda side: abs(math.log(side / wanted)))[:_SIDES]

    def _tuned(self, found: _Found, target: Budget) -> _Found:
        """The sizes after single moves, or pairs of them, each to the nearest cost."""
        for _ in range(_MOVES):
            if abs(found.error) <= _ALLOWED / 2:
                break
            single = list(self._moves(found.sizes))
            better = self._nearest(single, found, target)
            if better is found:
                pairs = {second for first in single for second in self._moves(first)}
                better = self._nearest(sorted(pairs, key=repr), found, target)
            if better is found:
                break
            found = better
        return found

    def _nearest(self, many: Sequence[_Sizes], found: _Found, target: Budget) -> _Found:
        """The one of `many` that is nearest to the target, or `found` where none is nearer."""
        for sizes in many:
            error = self.error(sizes, target)
            if error is not None and abs(error) < abs(found.error):
                found = replace(found, sizes=sizes, error=error)
        return found

    def _moves(self, sizes: _Sizes) -> Iterator[_Sizes]:
        """One width or one number of rounds changed by a step."""
        for name, steps in (("widths", self.steps), ("times", [1] * len(sizes.times))):
            values = getattr(sizes, name)
            for i, step in enumerate(steps):
                for change in (-step, step):
                    if values[i] + change > 0:
                        moved = (*values[:i], values[i] + change, *values[i + 1 :])
                        yield _with(sizes, **{name: moved})

    def _strain(self, found: _Found) -> float:
        """How far sizes are from the rule: squares of logarithms, the mean over stages each."""
        sizes, phi, own = found.sizes, found.phi, self.own
        total = (math.log(sizes.resolution / own.resolution) - phi * math.log(GAMMA)) ** 2
        for now, was, base in (
            (sizes.widths, own.widths, BETA),
            (sizes.times, own.times, ALPHA),
        ):
            pairs = zip(now, was, strict=True)
            away = [(math.log(n / w) - phi * math.log(base)) ** 2 for n, w in pairs]
            total += sum(away) / max(1, len(away))
        return total

    def _unreachable(self, target: Budget, found: Sequence[_Found]) -> str:
        what = {"macs": "MACs", "params": "parameters"}[target.target]
        text = f"no network of this family comes within {TOLERANCE:.0%} of {target.text}"
        if found:
            nearest = min((one.error for one in found), key=abs)
            text += f"; the nearest has {quantity(math.exp(nearest) * target.limit)} {what}"
        if not self.own.times:
            text += "; no stage repeats a block, so its depth stays"
        return text + (f"; other sizes cannot be built: {self.trouble}" if self.trouble else "")


@cache
def _cost(part: Part, site: Site) -> Cost:
    return part.cost(site)


def _runs(genome: Genome, i: int) -> list[_Run]:
    """The chain of a stage, downsampling module included where that begins a repeated unit."""
    stage = genome.stages[i]
    led = stage.downsample is not None and stage.downsample.category == "operator"
    alike = [b for b in stage.blocks if led and b.kind == stage.downsample.kind]  # type: ignore[union-attr]
    found = repeats([*alike[:1], *stage.blocks])
    led = bool(alike) and found[0][1] > 1
    if not led:
        found = repeats(stage.blocks)
    working = {
        placed.part
        for placed in genome.parts()
        if placed.path.startswith(f"stages.{i}.blocks.") and placed.cost().macs
    }
    return [
        _Run(
            unit,
            times,
            led and place == 0,
            # What stands alone is repeated only where it is a whole stage of working parts.
            grows=times > 1 or (len(found) == 1 and working.issuperset(unit)),
        )
        for place, (unit, times) in enumerate(found)
    ]


def _sides(genome: Genome) -> list[int]:
    """The side of each stage's map."""
    sides = {}
    for placed in genome.parts():
        if placed.path.startswith("stages."):
            sides[int(placed.path.split(".")[1])] = placed.site.out_height
    return [sides[i] for i in range(len(genome.stages))]


def _groups(genome: Genome) -> list[tuple[int, ...]]:
    """Stages that share one width, by number; -1 is the stem."""
    groups: list[list[int]] = [[-1]]
    width: int = genome.stem.channels  # type: ignore[attr-defined]
    for i, stage in enumerate(genome.stages):
        if stage.downsample is None and stage.channels == width:
            groups[-1].append(i)
        else:
            groups.append([i])
        width = stage.channels
    return [tuple(group) for group in groups if group != [-1]]


def _head_dims(stage: Stage) -> list[int]:
    """The channels of a head, of each part of a stage that has whole ones."""
    parts = [*stage.blocks, *([stage.downsample] if stage.downsample else [])]
    found = []
    for part in parts:
        size, heads = getattr(part, "head_dim", None), getattr(part, "heads", None)
        if type(heads) is int and heads > 0:
            size = stage.channels // heads
        if type(size) is int and size > 0 and stage.channels % size == 0:
            found.append(size)
    return found


def _resized(part: Part, was: int, now: int) -> Part:
    """A part of a stage whose width changes; heads keep their size, and there are more or fewer."""
    if was == now:
        return part
    part = part.scaled(now / was)
    heads: Any = getattr(part, "heads", None)
    if isinstance(heads, int) and heads > 0 and was % heads == 0:
        count, left = divmod(now, was // heads)
        if not left and is_allowed(count, gene_choices(type(part))["heads"]):
            return _with(part, heads=count)
    return part


def _with(whole: Any, **changes: Any) -> Any:
    """A dataclass with other values; which fields it has is known at run time only."""
    return replace(whole, **changes)


def _rounded(wanted: float, step: int, own: int = 0) -> int:
    """The nearest multiple of `step`, or `own` where that is as near."""
    nearest = max(step, step * round(wanted / step))
    return own if own and abs(own - wanted) <= abs(nearest - wanted) else nearest
