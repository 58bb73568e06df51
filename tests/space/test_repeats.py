"""Patterns that repeat, against a search through all ways to write a row."""

import random

import pytest

from space.repeats import repeats, spans


def fewest(chain):
    """The fewest members that any way of writing `chain` names, by trying all ways."""
    if not chain:
        return 0
    ways = []
    for length in range(1, len(chain) + 1):
        unit, times = chain[:length], 1
        while chain[: length * times] == unit * times:
            ways.append(length + fewest(chain[length * times :]))
            times += 1
    return min(ways)


def test_repeats_are_the_chain_and_the_shortest_way_to_say_it():
    rng = random.Random(0)
    for _ in range(200):
        chain = "".join(rng.choice("abc") for _ in range(rng.randint(0, 9)))
        chain *= rng.randint(1, 2)
        found = repeats(chain)
        assert "".join("".join(unit) * times for unit, times in found) == chain
        if len(chain) <= 10:
            assert sum(len(unit) for unit, _ in found) == fewest(chain)


def test_repeats_name_the_period():
    assert repeats("abcabcd") == [(("a", "b", "c"), 2), (("d",), 1)]
    assert repeats("xaaa") == [(("x",), 1), (("a",), 3)]
    assert repeats("abc") == [(("a", "b", "c"), 1)]
    assert repeats("") == []


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
def test_spans_name_single_members(row, patterns):
    assert list(spans(row)) == patterns
