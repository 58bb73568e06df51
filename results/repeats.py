"""Repeating patterns in a row of items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


def repeats(items: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """The items from the front as patterns, each as (its length, how often it stands there).

    At each place it is the pattern that covers most items (the shortest such), or else one item:
    a b b b are (1, 1), (1, 3); a b a b c are (2, 2), (1, 1).
    """
    start = 0
    while start < len(items):
        length, times = 1, 1
        for tried in range(1, (len(items) - start) // 2 + 1):
            pattern, found = items[start : start + tried], 1
            while items[start + found * tried : start + (found + 1) * tried] == pattern:
                found += 1
            if found > 1 and found * tried > length * times:
                length, times = tried, found
        yield length, times
        start += length * times
