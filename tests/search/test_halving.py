"""Successive halving: where the rungs are, who goes on, and trainings in one process."""

from fractions import Fraction

import climbing_work
import numpy as np
import pytest
import torch

from search.halving import Halving, Ladder, Reached, climb

TENSORS = {"floats": torch.arange(4.0)}
SMALL = Halving(steps=12, grace=2, reduction=2)  # rungs after 2, 4, 8 and 12 steps


def quantile(values, share):
    """Linear between two neighbours, exactly."""
    ordered = sorted(map(Fraction, values))
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def halved(values, halving):
    """Who comes to which rung, by the definition: `values` of each training at each rung."""
    there = list(range(len(values)))
    stands = []
    for k in range(len(halving.rungs)):
        stands.append(there)
        share = 1 - Fraction(1, halving.reduction)
        there = [
            i
            for i in there
            if len(there) == 1
            or Fraction(values[i][k]) >= quantile([values[j][k] for j in there if j != i], share)
        ]
    return stands


def pieces_of(values, **more):
    return [{"name": f"net{i}", "value": list(row), **more} for i, row in enumerate(values)]


@pytest.fixture
def work(tmp_path):
    def make(halving=SMALL, **settings):
        return climbing_work.Climbing(TENSORS, tmp_path, halving.rungs, **settings)

    return make


# ---- the rule


@pytest.mark.parametrize(
    ("steps", "grace", "reduction", "rungs"),
    [
        (12, 2, 2, (2, 4, 8, 12)),
        (8, 2, 2, (2, 4, 8)),
        (9, 8, 2, (8, 9)),
        (2, 1, 5, (1, 2)),
        (430, None, 3, (48, 144, 430)),
        (60, None, 3, (7, 21, 60)),
        (9, None, 3, (1, 3, 9)),
        (6, None, 3, (1, 3, 6)),
        (2, None, 3, (1, 2)),
        (100, None, 10, (1, 10, 100)),
    ],
)
def test_rungs(steps, grace, reduction, rungs):
    assert Halving.usual(steps, grace, reduction).rungs == rungs


@pytest.mark.parametrize(
    ("steps", "grace", "reduction", "message"),
    [
        (1, None, 3, "steps is 1, but must be at least 2"),
        (9, None, 1, "reduction is 1, but must be at least 2"),
        (9, 0, 3, "grace is 0, but must be at least 1"),
        (9, 9, 3, "grace is 9, but must be below the number of steps, 9"),
        (9, 10, 3, "grace is 10, but must be below the number of steps, 9"),
    ],
)
def test_what_makes_no_sense(steps, grace, reduction, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Halving.usual(steps, grace, reduction)


@pytest.mark.parametrize("reduction", [2, 3, 4, 7])
def test_who_goes_on(reduction):
    """Values are such that none is a cutoff, where rounding would decide."""
    halving = Halving(steps=100, grace=1, reduction=reduction)
    rng = np.random.default_rng(reduction)
    for _ in range(300):
        value, *others = rng.random(rng.integers(1, 12)).tolist()
        expected = not others or value > quantile(others, 1 - Fraction(1, reduction))
        assert halving.goes_on(value, others) == expected


def test_the_best_goes_on_and_so_do_equals():
    rng = np.random.default_rng(0)
    for reduction in (2, 3, 5):
        halving = Halving(steps=100, grace=1, reduction=reduction)
        for _ in range(200):
            values = (rng.integers(0, 4, rng.integers(2, 9)) / 7).tolist()
            best = int(np.argmax(values))
            assert halving.goes_on(values[best], values[:best] + values[best + 1 :])
        assert halving.goes_on(0.1, [0.1] * 5)


# ---- trainings


def test_climbing_is_successive_halving(work, tmp_path):
    rng = np.random.default_rng(1)
    for trial in range(20):
        values = rng.random((rng.integers(2, 10), 4)).tolist()
        pieces = [{**p, "name": f"{trial}-{p['name']}"} for p in pieces_of(values)]
        ladder, heard = Ladder(SMALL, len(values)), []
        climb(work(), pieces, ladder, lambda heard=heard, of=ladder: heard.append(of.done_steps()))
        stands = halved(values, SMALL)
        for k, rung in enumerate(SMALL.rungs):
            assert sorted(ladder.at(rung)) == stands[k]
        for i, piece in enumerate(pieces):
            last = max(rung for rung, there in zip(SMALL.rungs, stands, strict=True) if i in there)
            assert climbing_work.steps_of(tmp_path, piece["name"]) == last
            assert [r.value for r in ladder.reached[i]] == values[i][: len(ladder.reached[i])]
            assert not ladder.reached[i][-1].goes_on
            assert all(r.goes_on for r in ladder.reached[i][:-1])
        assert heard == sorted(heard)
        assert ladder.done_steps() == ladder.expected_steps() == heard[-1]
        assert ladder.finished() == stands[-1]
        assert not ladder.revive()


def test_stopped_anywhere_and_gone_on_with(work, tmp_path):
    """At every report and at every change of the ladder: it ends as if nobody had stopped it, and
    no step is done twice."""
    values = np.random.default_rng(2).random((5, 4)).tolist()
    whole = Ladder(SMALL, 5)
    climb(work(), pieces_of(values), whole)

    def attempt(name, known, moment):
        """Whether it came to the end before so many things had happened."""
        happened = 0

        def happens(*_):
            nonlocal happened
            happened += 1
            if happened == moment:
                raise KeyboardInterrupt

        def changed(place):
            known[place] = list(ladder.reached[place])
            happens()

        ladder = Ladder(SMALL, 5, known=known, changed=changed)
        pieces = [{**p, "name": f"{name}-{p['name']}"} for p in pieces_of(values)]
        try:
            climb(work(), pieces, ladder, happens)
        except KeyboardInterrupt:
            return False
        assert ladder.reached == whole.reached
        assert all(
            climbing_work.steps_of(tmp_path, p["name"]) == reached[-1].step
            for p, reached in zip(pieces, ladder.reached, strict=True)
        )
        return True

    for moment in range(1, 200):
        known = {}
        if attempt(moment, known, moment):
            break
        assert attempt(moment, known, 0)
    assert moment > 40
    known = {}
    assert any(attempt("again", known, 7) for _ in range(100))  # again and again


def test_what_fails_does_not_stop_the_others(work):
    values = [[0.9] * 4, [0.8] * 4, [0.7] * 4, [0.6] * 4]
    pieces = pieces_of(values)
    pieces[0]["problem"], pieces[1]["raises"] = 3, 0
    ladder = Ladder(SMALL, 4)
    climb(work(), pieces, ladder)
    assert ladder.problems == {0: "it diverged", 1: "MemoryError: full to the brim"}
    assert ladder.passing == {1}
    assert [r.step for r in ladder.reached[0]] == [2]
    assert ladder.reached[1] == []
    assert ladder.finished() == []  # the others were stopped beside the one that failed later
    assert ladder.revive()
    climb(work(), pieces, ladder)
    assert ladder.finished() == [2]
    assert not ladder.revive()
    assert ladder.done_steps() == ladder.expected_steps()


def test_nobody_is_left():
    ladder = Ladder(SMALL, 2)
    ladder.fail(0, "it diverged")
    ladder.fail(1, "it diverged")
    assert not ladder.revive()
    assert ladder.finished() == []


def test_a_ladder_that_cannot_be_written_ends_everything(work):
    """That is no failure of a training."""

    def full(place):
        raise OSError(28, "No space left on device")

    ladder = Ladder(SMALL, 2, changed=full)
    with pytest.raises(OSError, match="No space left"):
        climb(work(), pieces_of([[0.1] * 4, [0.2] * 4]), ladder)


def test_a_report_that_comes_twice():
    changes = []
    ladder = Ladder(SMALL, 2, changed=changes.append)
    ladder.reach(0, {"step": 2, "value": 0.5}, True)
    ladder.reach(0, {"step": 2, "value": 0.7}, False)
    ladder.reach(0, {"step": 8, "value": 0.7}, True)  # not the next one
    assert ladder.reached[0] == [Reached(2, 0.5, True)]
    assert changes == [0]
    assert ladder.wanted(0) == (4, 8, 12)


def test_expected_steps():
    """One in two goes on from each rung of those who are still to be judged there."""
    ladder = Ladder(SMALL, 2)
    each = 2 + (4 - 2) / 2 + (8 - 4) / 4 + (12 - 8) / 8
    assert ladder.expected_steps() == round(2 * each)
    ladder.step(0, 1)
    assert ladder.expected_steps() == round(2 * each)
    ladder.reach(0, {"step": 2, "value": 0.5})
    assert ladder.expected_steps() == round(2 * each)
    ladder.judge(2)
    assert ladder.expected_steps() == round(2 + 2 * (each - 2) + each)
    ladder.fail(0, "it diverged")
    assert ladder.expected_steps() == round(2 + each)
