import dataclasses
import random

import pytest

from results.growth import growth
from results.history import Row


def against_chance(mine, chance, who, target, limit, band, objectives=("score", "macs")):
    return growth({who: mine, "random": chance}, {target: limit}, target, band, objectives)


def row(order, macs, score):
    return Row(
        order, f"n{order}", f"d{order}", {}, "ok" if score is not None else "failed", score, None,
        macs, 1, 32, score, 0.1, "x", None,
    )  # fmt: skip


def area(points, limit, lowest):
    """By counting unit squares of cost, as costs are whole numbers."""
    total = 0.0
    for cell in range(limit):  # between cost `cell` and `cell + 1`
        heights = [score - lowest for cost, score in points if cost <= cell]
        total += max(heights, default=0.0)
    return total


def test_by_counting_squares():
    rng = random.Random(0)
    mine = [row(i, rng.randrange(1, 100), rng.random()) for i in range(60)]
    chance = [row(i, rng.randrange(1, 100), rng.random() * 0.8) for i in range(60)]
    found = against_chance(mine, chance, "evolution", "macs", 100, 0.9)
    lowest = min(r.score for r in mine + chance)
    areas = {
        ("evolution" if rows is mine else "random", n): area(
            [(r.macs, r.score) for r in rows[:n]], 100, lowest
        )
        for rows in (mine, chance)
        for n in range(1, 61)
    }
    whole = max(areas["evolution", 60], areas["random", 60])
    assert len(found["curves"]) == 120
    for point in found["curves"]:
        key = point["who"], point["n"]
        assert point["volume"] == pytest.approx(areas[key] / whole, rel=1e-9, abs=1e-12)
        rows = mine if point["who"] == "evolution" else chance
        inside = [r.score for r in rows[: point["n"]] if r.macs >= 90]
        assert point["best"] == max(inside, default=None)
    assert found["final"]["random"] == found["curves"][-1]


def test_failures_count_as_evaluations():
    mine = [row(0, 50, None), row(1, 95, 0.5), row(2, 95, float("nan"))]
    found = against_chance(mine, [row(0, 95, 0.4)], "ppo", "macs", 100, 0.95)
    assert [p["best"] for p in found["curves"] if p["who"] == "ppo"] == [None, 0.5, 0.5]


def test_nothing_to_compare():
    mine = [row(0, 50, 0.5)]
    failed = [dataclasses.replace(mine[0], score=None)]
    empty = {"curves": [], "final": {}}
    for other in ([], failed):
        assert against_chance(mine, other, "ppo", "macs", 100, 0.95) == empty


def test_long_searches_are_thinned_out():
    rows = [row(i, i + 1, i / 1000) for i in range(1050)]
    found = against_chance(rows, rows, "ppo", "macs", 2000, 0.1)
    mine = [p["n"] for p in found["curves"] if p["who"] == "ppo"]
    assert len(mine) <= 106
    assert mine[-1] == 1050


def test_one_search_alone():
    mine = [row(i, 50 + i, 0.5 + i / 100) for i in range(9)]
    found = growth({"ppo": mine}, {"macs": 100}, "macs", 0.5, ("score", "macs"))
    assert [point["who"] for point in found["curves"]] == ["ppo"] * 9
    assert found["final"]["ppo"]["volume"] == 1
    assert growth({}, {"macs": 100}, "macs", 0.5, ("score", "macs")) == {"curves": [], "final": {}}
    without = growth({"ppo": mine}, {}, "macs", 0.5, ("score", "macs"))
    assert without["final"]["ppo"] == {"n": 9, "who": "ppo", "best": None, "volume": 1}


def test_three_objectives_by_counting_cubes():
    """One cost has a limit, the other goes as far as the dearest that was found."""
    rng = random.Random(1)

    def some(count, factor):
        return [
            dataclasses.replace(
                row(i, rng.randrange(1, 20), rng.random() * factor),
                costs={"latency@cpu": float(rng.randrange(1, 16))},
            )
            for i in range(count)
        ]

    mine, chance = some(40, 1.0), some(40, 0.8)
    found = against_chance(mine, chance, "nsga2", "macs", 20, 0.9, ("score", "macs", "latency@cpu"))
    lowest = min(r.score for r in mine + chance)
    slowest = max(r.costs["latency@cpu"] for r in mine + chance)

    def volume(rows):
        total = 0.0
        for cost in range(20):
            for latency in range(int(slowest)):
                heights = [
                    r.score - lowest
                    for r in rows
                    if r.macs <= cost and r.costs["latency@cpu"] <= latency
                ]
                total += max(heights, default=0.0)
        return total

    whole = max(volume(mine), volume(chance))
    for point in found["curves"]:
        rows = (mine if point["who"] == "nsga2" else chance)[: point["n"]]
        assert point["volume"] == pytest.approx(volume(rows) / whole, rel=1e-9, abs=1e-12)
