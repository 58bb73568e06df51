"""Which numbers of a large parameter make up a small one.

A supernet holds each parameter at its largest size; a candidate with smaller genes uses a part of
it. An `Axis` describes one axis of a parameter so that the part can be found: `Lead` (the first n),
`Centre` (the middle n, for kernels), `Around` (both sides of a fixed place, for tables of offsets),
`Grid` (several axes flattened into one, such as query/key/value x heads x head_dim) and `Parts`
(several axes one behind the other).

A plain integer n stands for `Lead(n)`. An operator describes only parameters that need it; the
default (`default_axes`) takes leading channels, and the centre of a convolution's kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Lead:
    """The first `size` of a longer axis."""

    size: int

    def within(self, largest: Any) -> list[int]:
        return list(range(self.size))

    def union(self, other: Any) -> Lead:
        return Lead(max(self.size, other.size))


@dataclass(frozen=True, slots=True)
class Centre:
    """The middle `size` of a longer axis; of an odd number left over, more lie behind it."""

    size: int

    def within(self, largest: Any) -> list[int]:
        start = (largest.size - self.size) // 2
        return list(range(start, start + self.size))

    def union(self, other: Any) -> Centre:
        return Centre(max(self.size, other.size))


@dataclass(frozen=True, slots=True)
class Around:
    """A fixed place with `before` places in front of it and `after` behind it.

    For tables of offsets and for kernels of odd and even sides, where `Centre` would move the
    place of offset zero.
    """

    before: int
    after: int

    @property
    def size(self) -> int:
        return self.before + 1 + self.after

    def within(self, largest: Any) -> list[int]:
        start = largest.before - self.before
        return list(range(start, start + self.size))

    def union(self, other: Any) -> Around:
        return Around(max(self.before, other.before), max(self.after, other.after))


class _Compound:
    """Base of the axes that are made of axes."""

    __slots__ = ()
    axes: tuple[Axis, ...]

    def union(self, other: Any) -> Any:
        pairs = zip(self.axes, other.axes, strict=True)
        return type(self)(*(a.union(b) for a, b in pairs))


@dataclass(frozen=True, slots=True, init=False)
class Grid(_Compound):
    """Axes flattened into one, the last running fastest: `Grid(3, heads, head_dim)`."""

    axes: tuple[Axis, ...]

    def __init__(self, *axes: Axis | int):
        object.__setattr__(self, "axes", tuple(_axis(axis) for axis in axes))

    @property
    def size(self) -> int:
        size = 1
        for axis in self.axes:
            size *= axis.size
        return size

    def within(self, largest: Any) -> list[int]:
        positions = [0]
        for axis, whole in zip(self.axes, largest.axes, strict=True):
            inner = axis.within(whole)
            positions = [p * whole.size + i for p in positions for i in inner]
        return positions


@dataclass(frozen=True, slots=True, init=False)
class Parts(_Compound):
    """Axes laid one behind the other: `Parts(channels, channels, levels)`."""

    axes: tuple[Axis, ...]

    def __init__(self, *axes: Axis | int):
        object.__setattr__(self, "axes", tuple(_axis(axis) for axis in axes))

    @property
    def size(self) -> int:
        return sum(axis.size for axis in self.axes)

    def within(self, largest: Any) -> list[int]:
        positions, start = [], 0
        for axis, whole in zip(self.axes, largest.axes, strict=True):
            positions += [start + i for i in axis.within(whole)]
            start += whole.size
        return positions


Axis = Lead | Centre | Around | Grid | Parts
Axes = tuple[Axis, ...]


def _axis(axis: Axis | int) -> Axis:
    return Lead(axis) if isinstance(axis, int) else axis


def default_axes(shape: Sequence[int]) -> Axes:
    """Leading channels; the centre of the kernel for a convolution's weight (3 axes or more)."""
    return tuple(Lead(size) if i < 2 else Centre(size) for i, size in enumerate(shape))


def describe(
    shapes: Mapping[str, Sequence[int]], special: Mapping[str, Sequence[Axis | int]]
) -> dict[str, Axes]:
    """Axes of every parameter in `shapes`; those in `special` replace the default.

    Raises ValueError where a special axis is not a parameter, or disagrees with its shape.
    """
    unknown = sorted(set(special) - set(shapes))
    if unknown:
        raise ValueError(f"axes are given for {unknown}, which are not among {sorted(shapes)}")
    described = {}
    for name, shape in shapes.items():
        axes = tuple(_axis(a) for a in special[name]) if name in special else default_axes(shape)
        if tuple(axis.size for axis in axes) != tuple(shape):
            raise ValueError(f"axes {axes} of {name!r} do not have its shape {tuple(shape)}")
        described[name] = axes
    return described


@dataclass(frozen=True, slots=True)
class Cut:
    """How to take one parameter out of a larger one: for each axis a range or a list of places."""

    steps: tuple[tuple[int, int, int] | tuple[int, Tensor], ...]

    @classmethod
    def between(cls, small: Axes, large: Axes) -> Cut:
        """Raises ValueError where `small` does not fit into `large`."""
        if len(small) != len(large):
            raise ValueError(f"{small} and {large} have different numbers of axes")
        steps: list[tuple] = []
        for dim, (axis, whole) in enumerate(zip(small, large, strict=True)):
            if axis == whole:
                continue
            if type(axis) is not type(whole) or axis.union(whole) != whole:
                raise ValueError(f"{axis} does not fit into {whole}")
            places = axis.within(whole)
            if places == list(range(places[0], places[0] + len(places))):
                steps.append((dim, places[0], len(places)))
            else:
                steps.append((dim, torch.tensor(places)))
        return cls(tuple(steps))

    def __call__(self, parameter: Tensor) -> Tensor:
        """The part, as a view wherever it lies in one piece along each axis."""
        for step in self.steps:
            if len(step) == 3:
                parameter = parameter.narrow(*step)
            else:
                parameter = parameter.index_select(step[0], step[1].to(parameter.device))
        return parameter
