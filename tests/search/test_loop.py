import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluator.interfaces import Score
from results.store import Store
from search.controllers import CONTROLLERS, make_controller
from search.interfaces import Outcome
from search.loop import search
from search.networks import Networks
from search.runner import local_runner
from search.state import pack

SMALL = {
    "evolution": {"population": 10, "tournament": 4},
    "reinforce": {"hidden": 8, "pool": 32},
    "random": {},
}
every_controller = pytest.mark.parametrize("name", CONTROLLERS)


class Memory:
    """A log without a file."""

    def __init__(self):
        self.results, self.saved = [], None

    def append(self, results, origin, state):
        self.results += results
        self.saved = state()

    def statuses(self):
        return ["failed" if result.score is None else "ok" for result in self.results]

    def state(self):
        return self.saved


def run(proposals, evaluator, log, *, name="evolution", evaluations=40, batch=8, **options):
    options.setdefault("runner", local_runner(evaluator))
    return search(
        make_controller(name, proposals, 1, **SMALL.get(name, {})),
        log=log,
        subject=Networks(proposals),
        evaluations=evaluations,
        batch=batch,
        origin=name,
        **options,
    )


def history(log):
    """All that must not depend on where, when and in how many pieces a search ran."""
    rows = log.rows() if isinstance(log, Store) else log.results
    return [
        (getattr(row, "digest", None) or row.genome.digest, row.score, row.reward, row.error)
        for row in rows
    ]


@pytest.fixture
def steady(wide, target):
    """The history of a search that nothing disturbs."""

    def make(name="evolution"):
        log = Memory()
        assert run(wide, target(wide), log, name=name) == 40
        return history(log)

    return make


def test_what_is_written_down(wide, target, tmp_path):
    seen = []
    with Store(tmp_path / "c.sqlite") as store:
        count = run(wide, target(wide), store, evaluations=21, on_batch=seen.append)
        rows = store.rows()
    assert count == len(rows) == 21
    assert [(p.done, p.evaluations, len(p.results)) for p in seen] == [
        (8, 21, 8),
        (16, 21, 8),
        (21, 21, 5),
    ]
    for row, result in zip(rows, [r for p in seen for r in p.results], strict=True):
        cost = result.genome.cost()
        use = cost.macs / 2e9
        assert use <= 1
        assert (row.digest, row.macs) == (result.genome.digest, cost.macs)
        assert row.reward == pytest.approx(row.score - 0.1 * (1 - use))
        assert row.score == target(wide).evaluate(result.genome).score
        assert row.top1 == row.score / 2


@every_controller
def test_pieces_make_the_same_search(wide, target, steady, tmp_path, name):
    with Store(tmp_path / "c.sqlite") as store:
        for evaluations in (8, 24, 32, 40, 40, 16):
            run(wide, target(wide), store, name=name, evaluations=evaluations)
        assert history(store) == steady(name)


class Stopping:
    """An evaluator that is interrupted once, at its n-th candidate."""

    def __init__(self, evaluator, at):
        self.evaluator, self.left = evaluator, at

    def evaluate(self, genome):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.evaluator.evaluate(genome)


@every_controller
@pytest.mark.parametrize("at", [1, 8, 12, 40])
def test_an_interrupt_loses_no_more_than_the_batch(wide, target, steady, tmp_path, name, at):
    evaluator = Stopping(target(wide), at)
    with Store(tmp_path / "c.sqlite") as store:
        with pytest.raises(KeyboardInterrupt):
            run(wide, evaluator, store, name=name)
        assert len(store.rows()) == (at - 1) // 8 * 8
        run(wide, evaluator, store, name=name)
        assert history(store) == steady(name)


def test_a_stop_between_learning_and_writing(wide, target, steady):
    class Full(Memory):
        full = True

        def append(self, *args):
            if self.full and len(self.results) == 16:
                self.full = False
                raise OSError("disk is full")
            super().append(*args)

    log = Full()
    with pytest.raises(OSError, match="disk is full"):
        run(wide, target(wide), log)
    run(wide, target(wide), log)
    assert history(log) == steady()


def test_a_killed_search_goes_on_as_if_nothing_had_happened(wide, target, steady, tmp_path):
    path = tmp_path / "c.sqlite"
    here = Path(__file__).parent
    killed = subprocess.run(
        [sys.executable, here / "killed_search.py", path],
        env={**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parents[1]}"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    with Store(path) as store:
        assert len(store.rows()) == 16
        run(wide, target(wide), store)
        assert history(store) == steady()


class Picky:
    """Cannot score networks of 96 pixels; those of 128 it finds not to be a number."""

    def __init__(self, evaluator, bad=(96,)):
        self.evaluator, self.bad = evaluator, bad

    def evaluate(self, genome):
        if genome.resolution in self.bad:
            raise ValueError(f"cannot score\n {genome.resolution} pixels")
        return Score(np.nan) if genome.resolution == 128 else self.evaluator.evaluate(genome)


def test_failures_are_written_down_and_the_search_goes_on(wide, target, tmp_path):
    with Store(tmp_path / "c.sqlite") as store:
        assert run(wide, Picky(target(wide)), store, batch=16, evaluations=48) == 48
        rows = store.rows()
    errors = {
        96: "ValueError: cannot score 96 pixels",
        128: "the score is nan, but must be a finite number",
        160: None,
    }
    assert {row.resolution for row in rows} == set(errors)
    for row in rows:
        assert row.error == errors[row.resolution]
        assert (row.score is None) == (row.reward is None) == (row.error is not None)
        assert row.status == ("failed" if row.error else "ok")


def test_where_nothing_can_be_scored_the_search_ends(wide, target):
    log = Memory()
    with pytest.raises(RuntimeError, match="no candidate can be scored: ValueError: cannot score"):
        run(wide, Picky(target(wide), (96, 128, 160)), log)
    assert log.results == []
    assert run(wide, target(wide), log) == 40  # mended: it goes on


def test_one_bad_candidate_does_not_end_a_search_of_small_batches(wide, target):
    class Sometimes:
        def __init__(self, pattern):
            self.pattern = iter(pattern)

        capacity = 1

        def submit(self, number, genomes):
            self.number, self.count = number, len(genomes)

        def next(self):
            outcomes = [
                Outcome(Score(0.5), 0.0) if next(self.pattern) == "+" else Outcome(None, 0.0, "no")
                for _ in range(self.count)
            ]
            return {self.number: outcomes}

    log = Memory()
    pattern = "+---+---+-"
    assert run(wide, None, log, batch=1, evaluations=10, runner=Sometimes(pattern)) == 10
    assert "".join("+" if status == "ok" else "-" for status in log.statuses()) == pattern
    log = Memory()
    with pytest.raises(RuntimeError, match="no candidate can be scored: no"):
        run(wide, None, log, batch=1, evaluations=10, runner=Sometimes("++----"))
    assert len(log.results) == 5  # the fourth failure in a row is tried again


def test_a_space_that_is_exhausted(propose, target):
    proposals, log = propose("toy", "1.9MFLOPs"), Memory()
    assert run(proposals, target(proposals), log) == len(log.results) == 4


def test_nothing_above_the_budget_is_ever_scored(propose, wide, target):
    class Careless:
        def ask(self, count):
            return [tuple(map(int, wide.table.extreme("macs", largest=True)))]

    with pytest.raises(AssertionError, match="above 2GFLOPs"):
        search(
            Careless(),
            local_runner(target(wide)),
            Memory(),
            Networks(wide),
            evaluations=1,
            batch=1,
            origin="careless",
        )


@pytest.mark.parametrize(("evaluations", "batch"), [(-1, 8), (8, 0)])
def test_counts_out_of_range(wide, target, evaluations, batch):
    with pytest.raises(ValueError, match=f"batch is {batch}, evaluations {evaluations}"):
        run(wide, target(wide), Memory(), evaluations=evaluations, batch=batch)


# ---- several batches under way


class Racing:
    """A runner of `capacity` workers that finish their batches in an order of their own."""

    def __init__(self, evaluator, capacity, seed=0):
        self.evaluator, self.capacity, self.rng = evaluator, capacity, random.Random(seed)
        self.busy, self.most, self.seen, self.left = {}, 0, [], None

    def submit(self, number, genomes):
        self.busy[number] = genomes
        self.most = max(self.most, len(self.busy))

    def next(self):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left = None if self.left is None else self.left - 1
        ended = {}
        for number in sorted(
            self.rng.sample(sorted(self.busy), min(len(self.busy), self.rng.choice([1, 1, 2])))
        ):
            genomes = self.busy.pop(number)
            self.seen += [genome.digest for genome in genomes]
            ended[number] = [Outcome(self.evaluator.evaluate(genome), 0.0) for genome in genomes]
        return ended


def flying(proposals, target, log, capacity=4, seed=0, **options):
    runner = Racing(target(proposals), capacity, seed)
    run(proposals, None, log, runner=runner, **options)
    return runner


@every_controller
def test_as_many_batches_under_way_as_there_are_workers(wide, target, name):
    log = Memory()
    runner = flying(wide, target, log, name=name, batch=3, evaluations=40)
    assert runner.most == 4
    digests = [result.genome.digest for result in log.results]
    assert len(digests) == len(set(digests)) == 40
    assert sorted(digests) == sorted(runner.seen)


@every_controller
def test_in_order_nobody_notices_who_is_faster(wide, target, name):
    found = []
    for seed in range(3):
        log = Memory()
        runner = flying(wide, target, log, seed=seed, name=name, batch=3, in_order=True)
        found.append(history(log))
        assert runner.seen != [result.genome.digest for result in log.results]
    assert found[0] == found[1] == found[2]
    lone = Memory()  # one worker, as many under way
    run(wide, target(wide), lone, name=name, batch=3, in_order=True, in_flight=4)
    assert history(lone) == found[0]


@every_controller
@pytest.mark.parametrize("at", range(0, 8, 2))
def test_a_stop_loses_nothing_and_repeats_only_what_was_under_way(wide, target, name, at):
    log, runner = Memory(), Racing(target(wide), 4)
    runner.left = at
    with pytest.raises(KeyboardInterrupt):
        run(wide, None, log, name=name, batch=3, runner=runner)
    assert [r.genome.digest for r in log.results] == runner.seen
    told = len(log.results)
    under_way = {genome.digest for genomes in runner.busy.values() for genome in genomes}
    again = flying(wide, target, log, name=name, batch=3)
    digests = [result.genome.digest for result in log.results]
    assert len(digests) == len(set(digests)) == 40
    assert not set(digests[:told]) & set(again.seen)
    if told:  # what was asked for after the last transaction alone may be left out
        saved = {d for d in under_way if d in again.seen}
        assert len(saved) >= min(3 * 3, 40 - told)


def test_workers_come_and_go(wide, target):
    class Changing(Racing):
        def next(self):
            self.capacity = self.rng.choice([1, 2, 6])
            return {} if self.rng.random() < 0.5 else super().next()

    log, runner = Memory(), Changing(target(wide), 3)
    assert run(wide, None, log, batch=3, runner=runner) == 40
    assert runner.most == 6


def test_in_flight_out_of_range(wide, target):
    with pytest.raises(ValueError, match="in_flight is 0"):
        run(wide, target(wide), Memory(), in_flight=0)


def test_a_state_of_another_version_is_said_in_a_line(wide, target):
    log = Memory()
    log.saved = pack({"rng": 1})
    with pytest.raises(ValueError, match="begun by another version"):
        run(wide, target(wide), log)
