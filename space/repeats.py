"""Patterns that repeat in a row of items, such as the blocks of a stage."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def repeats(chain: Sequence[T]) -> list[tuple[tuple[T, ...], int]]:
    """A chain as (unit, times), one behind the other: the way that names the fewest members, and
    of several such ways one with the fewest units. `abcabcd` is `(abc, 2), (d, 1)`."""
    places: dict[T, int] = {}
    names = [places.setdefault(member, len(places)) for member in chain]  # quick to compare
    best: list[tuple[int, int, int, int]] = [(0, 0, 0, 0)]  # named, units, start, length of a unit
    for stop in range(1, len(names) + 1):
        ways = []
        for length in range(1, stop + 1):
            unit, start = names[stop - length : stop], stop - length
            while True:
                named, units, *_ = best[start]
                ways.append((named + length, units + 1, start, length))
                if start < length or names[start - length : start] != unit:
                    break
                start -= length
        best.append(min(ways))
    found, stop = [], len(names)
    while stop:
        _, _, start, length = best[stop]
        found.append((tuple(chain[start : start + length]), (stop - start) // length))
        stop = start
    return found[::-1]


def spans(chain: Sequence[Hashable]) -> Iterator[tuple[int, int]]:
    """The same as (length of the unit, times), with a unit of its own for each member that does not
    repeat: `abcabcde` is (3, 2), (1, 1), (1, 1)."""
    for unit, times in repeats(chain):
        if times > 1:
            yield len(unit), times
        else:
            yield from ((1, 1) for _ in unit)
