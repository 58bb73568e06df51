"""Timings against an anchor, with clocks that are known."""

import math

import pytest

from evaluator.interleaved import TooNoisy, interleave, quartiles


class Machine:
    """A pass of a thing takes its milliseconds, times how slow the machine is at that moment."""

    def __init__(self, slowness):
        self.slowness, self.passes = slowness, 0

    def thing(self, ms):
        def run():
            self.passes += 1
            return ms * self.slowness(self.passes)

        return run


def test_a_steady_machine_gives_the_times_themselves():
    machine = Machine(lambda n: 1.0)
    found = interleave({"a": machine.thing(3.0), "b": machine.thing(8.0)}, machine.thing(5.0))
    assert found["a"].ms == pytest.approx(3.0)
    assert found["b"].ms == pytest.approx(8.0)


def test_a_machine_that_gets_slower_gives_the_times_of_a_quiet_one():
    drifting = Machine(lambda n: 1.0 + 0.0006 * n)  # 5 % from beginning to end
    things = {"a": drifting.thing(3.0), "b": drifting.thing(8.0)}
    found = interleave(things, drifting.thing(5.0), reference=5.0)
    assert found["a"].ms == pytest.approx(3.0, rel=0.01)
    assert found["b"].ms == pytest.approx(8.0, rel=0.01)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("evaluator.interleaved.PATIENCE", 0.0)


def test_a_machine_slower_than_its_reference_is_refused_with_both_numbers(impatient):
    machine = Machine(lambda n: 1.0)
    with pytest.raises(TooNoisy, match=r"takes 5 ms, and took 3 before"):
        interleave({"a": machine.thing(3.0)}, machine.thing(5.0), reference=3.0)


def test_a_restless_anchor_is_refused(impatient):
    machine = Machine(lambda n: 1.0 + 0.5 * (n % 11 > 5))
    with pytest.raises(TooNoisy, match="anchor network takes"):
        interleave({"a": machine.thing(3.0)}, machine.thing(5.0))


def test_a_turn_that_was_disturbed_is_taken_again(monkeypatch):
    monkeypatch.setattr("evaluator.interleaved.PAUSE", 0.0)
    machine = Machine(lambda n: 3.0 if 14 <= n < 31 else 1.0)
    found = interleave({"a": machine.thing(3.0)}, machine.thing(5.0), rounds=4, passes=3)
    assert found["a"].ms == found["a"].low == found["a"].high == pytest.approx(3.0)


def test_a_thing_that_changes_from_turn_to_turn_is_named_and_others_are_not_timed_again():
    machine, steady, turns = Machine(lambda n: 1.0), [], []

    def changing():
        turns.append(1)
        return 3.0 * (1 + ((len(turns) - 1) // 4) % 3)

    def calm():
        steady.append(1)
        return 4.0

    with pytest.raises(TooNoisy, match=r"changing takes .* times as long as the anchor"):
        interleave({"changing": changing, "calm": calm}, machine.thing(5.0), rounds=4, passes=3)
    assert len(steady) == 4 * (3 + 1)


def test_progress_ends_at_the_total():
    machine, heard = Machine(lambda n: 1.0), []
    interleave(
        {"a": machine.thing(1.0), "b": machine.thing(2.0)},
        machine.thing(5.0),
        rounds=3,
        progress=lambda done, total: heard.append((done, total)),
    )
    assert heard == [(i, 6) for i in range(1, 7)]


def test_quartiles_are_those_of_the_definition():
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)
    assert all(math.isfinite(q) for q in quartiles([1.0, 2.0]))
