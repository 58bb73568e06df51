"""Tune's ASHA beside the rule that it stands for, and trainings on Ray's workers."""

import climbing_work
import numpy as np
import pytest
import ray
import torch

from search.halving import Halving, Ladder, climb
from search.ray_common import start_ray
from search.ray_trials import _Asha, _named, run_asha

TENSORS = {"floats": torch.arange(4.0)}
SMALL = Halving(steps=12, grace=2, reduction=2)  # rungs after 2, 4, 8 and 12 steps


def trial(place):
    """What Tune hands to a scheduler, as far as ours looks at it."""
    found = _named(f"trial-of-{place}")
    found.config = {"place": place}
    return found


class Written:
    """ASHA by stopping, written down plainly: a training that comes to a rung goes on where its
    value is at least the quantile of those that came before it."""

    def __init__(self, halving):
        self.halving, self.there = halving, {rung: [] for rung in halving.rungs}

    def goes_on(self, rung, value):
        if rung == self.halving.steps:
            return False
        earlier = sorted(self.there[rung])
        self.there[rung].append(value)
        if not earlier:
            return True
        # The exact product may round below a whole number, as it does in Tune.
        at = (1 - 1 / self.halving.reduction) * 100 / 100 * (len(earlier) - 1)
        low = int(at)
        high = min(low + 1, len(earlier) - 1)
        return value >= earlier[low] + (at - low) * (earlier[high] - earlier[low])


def race(scheduler, ladder, halving, rng, values, *, until=None):
    """Lets trainings come to their rungs in a random order; what was decided, in that order."""
    decided = []
    while until is None or len(decided) < until:
        left = [place for place in range(len(values)) if ladder.wanted(place)]
        if not left:
            break
        place = int(rng.choice(left))
        rung = ladder.wanted(place)[0]
        value = values[place][halving.rungs.index(rung)]
        between = {"training_iteration": 1}
        assert scheduler.on_trial_result(None, trial(place), between) == "CONTINUE"
        action = scheduler.on_trial_result(
            None, trial(place), {"step": rung, "value": value, **between}
        )
        assert (action != "STOP") == scheduler.goes_on[place]
        ladder.reach(place, {"step": rung, "value": value}, scheduler.goes_on[place])
        decided.append((place, rung, value, scheduler.goes_on[place]))
    return decided


@pytest.mark.parametrize(
    ("steps", "grace", "reduction"), [(12, 2, 2), (430, 48, 3), (243, 1, 3), (27, 1, 3), (9, 8, 4)]
)
def test_decisions_are_those_of_the_rule(steps, grace, reduction):
    halving = Halving(steps=steps, grace=grace, reduction=reduction)
    for seed in range(30):
        rng = np.random.default_rng([seed, steps])
        values = rng.random((int(rng.integers(1, 12)), len(halving.rungs))).tolist()
        written, ladder = Written(halving), Ladder(halving, len(values))
        decided = race(_Asha(ladder), ladder, halving, rng, values)
        assert decided
        for _, rung, value, goes_on in decided:
            assert written.goes_on(rung, value) == goes_on
        assert ladder.finished()  # the first at each rung goes on


def test_decisions_are_those_of_one_process_to_the_last_bit():
    """Where values are equal, too, as accuracies on few images are."""
    for reduction in (2, 3, 4, 5):
        halving = Halving(steps=100, grace=10, reduction=reduction)
        for seed in range(30):
            rng = np.random.default_rng([seed, reduction])
            values = (rng.integers(0, 6, (10, len(halving.rungs))) / 359).tolist()
            ladder, there = Ladder(halving, 10), {rung: [] for rung in halving.rungs[:-1]}
            for _, rung, value, goes_on in race(_Asha(ladder), ladder, halving, rng, values):
                if rung in there:
                    assert halving.goes_on(value, there[rung]) == goes_on
                    there[rung].append(value)


def test_made_anew_it_decides_as_if_it_had_gone_on():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        values = rng.random((8, len(SMALL.rungs))).tolist()
        moment = int(rng.integers(1, 12))
        runs = []
        for again in (False, True):
            rng = np.random.default_rng([seed, 1])
            ladder = Ladder(SMALL, 8)
            scheduler = _Asha(ladder)
            decided = race(scheduler, ladder, SMALL, rng, values, until=moment)
            if again:
                known = dict(enumerate(ladder.reached))
                ladder = Ladder(SMALL, 8, known=known)
                scheduler = _Asha(ladder)
            runs.append(decided + race(scheduler, ladder, SMALL, rng, values))
        assert runs[0] == runs[1]


def test_a_training_that_comes_to_a_rung_again_is_not_judged_again():
    ladder = Ladder(SMALL, 2)
    scheduler = _Asha(ladder)
    assert scheduler.on_trial_result(None, trial(0), {"step": 2, "value": 0.5}) == "CONTINUE"
    assert scheduler.on_trial_result(None, trial(0), {"step": 4, "value": 0.5}) == "CONTINUE"
    for step in (2, 4):  # its worker died
        assert scheduler.on_trial_result(None, trial(0), {"step": step, "value": 0.1}) == "CONTINUE"
    assert scheduler.on_trial_result(None, trial(1), {"step": 2, "value": 0.4}) == "STOP"


# ---- on Ray


@pytest.fixture(scope="module")
def cluster():
    """One Ray for all, whose processes know the work."""
    start_ray("climbing_work:make", {}, 2, None)
    yield
    ray.shutdown()


def asha(pieces, folder, ladder, settings=None, **options):
    settings = {"folder": str(folder), "rungs": SMALL.rungs, **(settings or {})}
    run_asha("climbing_work:make", settings, TENSORS, pieces, ladder, workers=2, **options)


@pytest.mark.slow
def test_trainings_on_ray(cluster, tmp_path):
    """Two at a time, from best to worst: each is stopped by the rule, in the order in which they
    came; nobody is trained further than that."""
    pieces = [{"name": f"net{i}", "value": 0.9 - i / 10, "seconds": 0.01} for i in range(6)]
    heard, order = [], []
    ladder = Ladder(SMALL, 6, changed=order.append)
    asha(pieces, tmp_path, ladder, progress=lambda: heard.append(ladder.done_steps()))
    assert ladder.finished()
    assert ladder.problems == {}
    written, seen = Written(SMALL), [0] * 6
    for place in order:
        found = ladder.reached[place][seen[place]]
        seen[place] += 1
        assert written.goes_on(found.step, found.value) == found.goes_on
    assert seen == [len(reached) for reached in ladder.reached]
    for place, reached in enumerate(ladder.reached):
        assert climbing_work.steps_of(tmp_path, f"net{place}") == reached[-1].step
    assert sum(len(reached) == 1 for reached in ladder.reached) >= 3
    details = [reached[0].details for reached in ladder.reached]
    assert len({found["pid"] for found in details}) <= 2
    assert {found["sum"] for found in details} == {6.0}
    assert heard == sorted(heard)
    assert ladder.done_steps() == ladder.expected_steps()


@pytest.mark.slow
def test_what_was_begun_on_ray_or_in_one_process_is_gone_on_with(cluster, tmp_path):
    values = [0.5, 0.9, 0.4, 0.3]
    pieces = [{"name": f"net{i}", "value": value} for i, value in enumerate(values)]
    known = {}

    def changed(place):
        known[place] = list(stopped.reached[place])
        if sum(map(len, known.values())) == 3:
            raise KeyboardInterrupt

    stopped = Ladder(SMALL, 4, changed=changed)
    with pytest.raises(KeyboardInterrupt):
        climb(
            climbing_work.make(tensors=TENSORS, folder=tmp_path, rungs=SMALL.rungs),
            pieces,
            stopped,
        )
    assert all(found.goes_on is None for reached in known.values() for found in reached)
    ladder = Ladder(SMALL, 4, known=known)
    asha(pieces, tmp_path, ladder)
    assert ladder.finished() == [1]
    for place, reached in enumerate(ladder.reached):
        assert climbing_work.steps_of(tmp_path, f"net{place}") == reached[-1].step
    before = [list(reached) for reached in ladder.reached]
    asha(pieces, tmp_path, Ladder(SMALL, 4, known=dict(enumerate(before))))  # nothing to do
    assert before == ladder.reached


@pytest.mark.slow
def test_workers_that_die_and_trainings_that_fail(cluster, tmp_path):
    pieces = [{"name": f"net{i}", "value": 0.5} for i in range(5)]
    pieces[0] |= {"dies": 5}
    pieces[1] |= {"dies": 3, "always": True}
    pieces[2] |= {"raises": 1}
    pieces[3] |= {"problem": 9}
    ladder = Ladder(SMALL, 5)
    asha(pieces, tmp_path, ladder)
    assert ladder.finished() == [0, 4]  # equal values all go on
    assert ladder.problems == {
        1: "the worker died 4 times over it",
        2: "MemoryError: full to the brim",
        3: "it diverged",
    }
    assert ladder.passing == {1, 2}
    assert [found.step for found in ladder.reached[1]] == [2]
    assert [found.step for found in ladder.reached[3]] == [2, 4, 8]
    assert climbing_work.steps_of(tmp_path, "net0") == 12  # none was done twice


@pytest.mark.slow
def test_what_ends_everything(cluster, tmp_path):
    pieces = [{"name": f"net{i}", "value": 0.5, "seconds": 0.05} for i in range(4)]

    def full(place):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        asha(pieces, tmp_path, Ladder(SMALL, 4, changed=full))
    with pytest.raises(RuntimeError, match=r"^a worker could not start: OSError: no data here$"):
        asha(pieces, tmp_path, Ladder(SMALL, 4), {"broken": True})
    with pytest.raises(ValueError, match="workers is 0, threads 1: at least 1 each"):
        run_asha("climbing_work:make", {}, {}, pieces, Ladder(SMALL, 4), workers=0)
