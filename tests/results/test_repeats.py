"""Patterns that repeat, against a search through all ways to cut a row."""

import itertools

import pytest

from results.repeats import repeats


def expanded(items, found):
    """The items that the patterns stand for."""
    start = 0
    for length, times in found:
        yield from items[start : start + length] * times
        start += length * times


@pytest.mark.parametrize("row", ["".join(row) for row in itertools.product("ab", repeat=7)])
def test_patterns_stand_for_the_row(row):
    found = list(repeats(row))
    assert "".join(expanded(row, found)) == row
    start = 0
    for length, times in found:
        covered = [
            n * t
            for n in range(1, len(row))
            for t in range(2, len(row) + 1)
            if row.startswith(row[start : start + n] * t, start) and start + n * t <= len(row)
        ]
        assert length * times == max(covered, default=1)
        start += length * times


@pytest.mark.parametrize(
    ("row", "patterns"),
    [
        ("", []),
        ("a", [(1, 1)]),
        ("abbb", [(1, 1), (1, 3)]),
        ("aaaa", [(1, 4)]),
        ("ababc", [(2, 2), (1, 1)]),
        ("abcabcabc", [(3, 3)]),
        ("aabaab", [(3, 2)]),
    ],
)
def test_the_longest_stretch_wins_and_then_the_shortest_pattern(row, patterns):
    assert list(repeats(row)) == patterns
