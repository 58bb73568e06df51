"""On a Ray of this machine's; workers that die do so for real."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from results.store import Store
from search.controllers import make_controller
from search.loop import search
from search.networks import Networks
from search.ray_common import import_name
from search.ray_workers import ATTEMPTS, RayWorkers
from search.runner import UnitRunner
from search.workers import InProcess

WORKERS = 2
TENSORS = {
    "floats": torch.arange(1000.0).reshape(10, 100).T,
    "halves": torch.full((7,), 0.5, dtype=torch.bfloat16),
    "scalar": torch.tensor(3),
    "empty": torch.zeros(0, 4),
    "array": np.arange(6, dtype=np.uint8),
}


@pytest.fixture(scope="module")
def evaluators():
    sys.path.insert(0, str(Path(__file__).parent))
    import ray_evaluators

    yield ray_evaluators
    sys.path.remove(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def genomes(toy):
    rows = np.unique(toy.sample(np.random.default_rng(0), 24), axis=0)
    return [toy.space.decode(row) for row in rows][:20]


@pytest.fixture(scope="module")
def workers(evaluators, genomes, tmp_path_factory):
    """One Ray for all tests; the second network kills its worker once, the third always."""
    workers = RayWorkers(
        evaluators.make,
        {
            "folder": str(tmp_path_factory.mktemp("markers")),
            "once": [genomes[1].digest],
            "always": [genomes[2].digest],
            "fails": [genomes[3].digest],
            "hangs": [genomes[4].digest],
        },
        TENSORS,
        workers=WORKERS,
        threads=1,
        patience=5.0,
    )
    yield workers
    workers.close()
    assert not ray.is_initialized()


@pytest.fixture
def runner(workers):
    return UnitRunner(workers)


def test_an_evaluator_that_cannot_be_made(evaluators):
    """Stands first: it needs a Ray of its own, and leaves none behind."""
    with pytest.raises(RuntimeError, match=r"could not start: OSError: no data here$"):
        RayWorkers(evaluators.make, {"broken": True}, {}, workers=1)
    assert not ray.is_initialized()


def test_same_as_in_this_process(runner, evaluators, genomes):
    there = runner.run(genomes[5:])
    here = UnitRunner(InProcess(evaluators.make({}))).run(genomes[5:])
    assert [outcome.score.score for outcome in there] == [outcome.score.score for outcome in here]
    assert all(outcome.error is None for outcome in there)


def test_workers_see_the_tensors(runner, genomes):
    (outcome,) = runner.run(genomes[5:6])
    for name, tensor in TENSORS.items():
        tensor = torch.as_tensor(tensor)
        assert outcome.score.details[name] == tensor.double().sum()
        assert outcome.score.details[f"{name}.size"] == tensor.numel()
    assert outcome.score.details["threads"] == 1


def all_done(runner, batches):
    """The outcomes of several batches that are under way at a time, by number."""
    for number, batch in enumerate(batches):
        runner.submit(number, batch)
    found = {}
    while len(found) < len(batches):
        found |= runner.next()
    return [found[number] for number in range(len(batches))]


def pids(outcomes):
    return {outcome.score.details["pid"] for outcome in outcomes}


def test_batches_are_shared_out(runner, genomes):
    """Work begins when the first worker is ready; the others join, late on a busy machine."""
    seen, deadline = set(), time.monotonic() + 120
    while len(seen) < WORKERS and time.monotonic() < deadline:
        for outcomes in all_done(runner, [genomes[5:9], genomes[9:13], genomes[13:]]):
            seen |= pids(outcomes)
    assert len(seen) == WORKERS == runner.capacity


def test_a_search_in_order_has_the_same_history(runner, evaluators, wide, tmp_path):
    """With two workers as with none."""
    digests = []
    here = UnitRunner(InProcess(evaluators.make({})))
    for name, worker in (("ray", runner), ("here", here)):
        with Store(tmp_path / f"{name}.sqlite") as store:
            controller = make_controller("evolution", wide, 0, population=10, tournament=4)
            options = {"evaluations": 40, "batch": 4, "in_flight": 3, "in_order": True}
            search(controller, worker, store, Networks(wide), origin="e", **options)
            digests.append([(row.digest, row.score) for row in store.rows()])
    assert digests[0] == digests[1]
    assert len(digests[0]) == 40


def test_an_error_is_an_outcome(runner, genomes):
    outcomes = runner.run([genomes[3], *genomes[5:7]])
    assert outcomes[0].error == f"ValueError: no score for {genomes[3].digest}"
    assert [outcome.score is None for outcome in outcomes] == [True, False, False]


def test_a_killed_worker_loses_no_candidate(runner, genomes):
    before = {pid for _ in range(5) for pid in pids(runner.run(genomes[5:7]))}
    outcomes = runner.run([genomes[0], genomes[1], *genomes[5:]])
    assert [outcome.error for outcome in outcomes] == [None] * 17
    assert outcomes[1].score.score == int(genomes[1].digest, 16) / 16**12
    assert not pids(outcomes) <= before


def test_a_worker_that_is_killed_from_outside(runner, genomes):
    (victim,) = pids(runner.run(genomes[5:6]))
    os.kill(victim, signal.SIGKILL)
    found = all_done(runner, [[genome] for genome in genomes[5:]])
    assert all(outcome.error is None for outcomes in found for outcome in outcomes)
    assert victim not in {pid for outcomes in found for pid in pids(outcomes)}


def test_of_a_batch_only_the_candidate_that_kills_is_given_up(runner, genomes):
    outcomes = runner.run([*genomes[5:8], genomes[2], genomes[3], *genomes[8:12]])
    assert outcomes[3].score is None
    assert f"died {ATTEMPTS} times" in outcomes[3].error
    assert outcomes[4].error == f"ValueError: no score for {genomes[3].digest}"
    assert all(o.error is None for i, o in enumerate(outcomes) if i not in (3, 4))
    assert runner.run(genomes[5:6])[0].error is None


def test_a_worker_that_does_not_answer_is_ended(runner, genomes, monkeypatch):
    monkeypatch.setattr("search.ray_workers._LOOK_EVERY_SECONDS", 0.2)
    (outcome,) = runner.run(genomes[4:5])
    assert outcome.score is None
    assert f"died {ATTEMPTS} times" in outcome.error
    assert runner.run(genomes[5:6])[0].error is None


def test_nothing_is_worked_on(workers):
    with pytest.raises(RuntimeError, match="nothing is being worked on"):
        workers.next()


def test_evaluators_are_made_by_name(evaluators):
    assert import_name(evaluators.make) == "ray_evaluators:make"
    for function in (lambda tensors: None, test_nothing_is_worked_on.__class__):
        with pytest.raises(ValueError, match="top of a module"):
            import_name(function)


@pytest.mark.parametrize("counts", [{"workers": 0}, {"workers": 1, "threads": 0}])
def test_counts_out_of_range(counts):
    with pytest.raises(ValueError, match="at least 1 each"):
        RayWorkers("ray_evaluators:make", {}, {}, **counts)
