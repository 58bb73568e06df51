"""On a Ray of this machine's; workers that die do so for real."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from search.ray_runner import RayRunner

from results.store import Store
from search.controllers import make_controller
from search.loop import search
from search.ray_common import RETRIES, import_name
from search.runner import LocalRunner

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
def runner(evaluators, genomes, tmp_path_factory):
    """One Ray for all tests; the second network kills its worker once, the third always."""
    runner = RayRunner(
        evaluators.make,
        {
            "folder": str(tmp_path_factory.mktemp("markers")),
            "once": [genomes[1].digest],
            "always": [genomes[2].digest],
            "fails": [genomes[3].digest],
        },
        TENSORS,
        workers=WORKERS,
        threads=1,
    )
    yield runner
    runner.close()
    assert not ray.is_initialized()


def test_an_evaluator_that_cannot_be_made(evaluators):
    """Stands first: it needs a Ray of its own, and leaves none behind."""
    with pytest.raises(RuntimeError, match=r"could not start: OSError: no data here$"):
        RayRunner(evaluators.make, {"broken": True}, {}, workers=1)
    assert not ray.is_initialized()


def test_same_as_in_this_process(runner, evaluators, genomes):
    there = runner.run(genomes[4:])
    here = LocalRunner(evaluators.make({})).run(genomes[4:])
    assert [outcome.score.score for outcome in there] == [outcome.score.score for outcome in here]
    assert all(outcome.error is None for outcome in there)


def test_workers_see_the_tensors(runner, genomes):
    (outcome,) = runner.run(genomes[4:5])
    for name, tensor in TENSORS.items():
        tensor = torch.as_tensor(tensor)
        assert outcome.score.details[name] == tensor.double().sum()
        assert outcome.score.details[f"{name}.size"] == tensor.numel()
    assert outcome.score.details["threads"] == 1


def test_the_work_is_shared(runner, genomes):
    """A runner begins when its first worker is ready; the others join, late on a busy machine."""
    pids, deadline = set(), time.monotonic() + 120
    while len(pids) < WORKERS and time.monotonic() < deadline:
        pids |= {outcome.score.details["pid"] for outcome in runner.run(genomes[4:])}
    assert len(pids) == WORKERS


def test_a_search_has_the_same_history(runner, evaluators, wide, tmp_path):
    """With two workers as with none."""
    digests = []
    for name, worker in (("ray", runner), ("here", LocalRunner(evaluators.make({})))):
        with Store(tmp_path / f"{name}.sqlite") as store:
            controller = make_controller("evolution", wide, 0, population=10, tournament=4)
            options = {"evaluations": 40, "batch": 8, "budget": wide.budget, "origin": "e"}
            search(controller, worker, store, **options)
            digests.append([(row.digest, row.score) for row in store.rows()])
    assert digests[0] == digests[1]
    assert len(digests[0]) == 40


def test_an_error_is_an_outcome(runner, genomes):
    outcomes = runner.run(genomes[3:6])
    assert outcomes[0].error == f"ValueError: no score for {genomes[3].digest}"
    assert [outcome.score is None for outcome in outcomes] == [True, False, False]


def test_a_killed_worker_loses_no_candidate(runner, genomes):
    before = {o.score.details["pid"] for _ in range(5) for o in runner.run(genomes[4:])}
    outcomes = runner.run([genomes[0], genomes[1], *genomes[4:]])
    assert [outcome.error for outcome in outcomes] == [None] * 18
    assert outcomes[1].score.score == int(genomes[1].digest, 16) / 16**12
    assert outcomes[1].score.details["pid"] not in before


def test_a_candidate_that_kills_every_worker_is_given_up(runner, genomes):
    outcomes = runner.run([genomes[2], *genomes[4:]])
    assert outcomes[0].score is None
    assert f"died {RETRIES + 1} times" in outcomes[0].error
    assert all(outcome.error is None for outcome in outcomes[1:])
    assert runner.run(genomes[4:5])[0].error is None


def test_groups_are_measured_as_in_this_process(runner, evaluators, genomes):
    """In the order asked, whoever measured what; in parts, too."""
    here = evaluators.make({}).measure(genomes[4:], 0, 12)
    there = runner.measure(genomes[4:], 0, 12)
    parts = [runner.measure(genomes[4:], *ends) for ends in ((0, 5), (5, 12))]
    for expected, found, first, second in zip(here, there, *parts, strict=True):
        assert (found.probabilities() == expected.probabilities()).all()
        first.extend(second)
        assert (first.probabilities() == expected.probabilities()).all()
    assert len({found.score().score for found in there}) > 10


def test_of_a_group_only_the_candidate_that_kills_is_given_up(runner, genomes):
    found = runner.measure([*genomes[4:8], genomes[2], genomes[3], *genomes[8:]], 0, 12)
    assert f"died {RETRIES + 1} times" in str(found[4])
    assert str(found[5]) == f"ValueError: no score for {genomes[3].digest}"
    others = [one for i, one in enumerate(found) if i not in (4, 5)]
    assert all(len(one) == 12 for one in others)


def test_nothing_to_do(runner):
    assert runner.run([]) == []
    assert runner.measure([], 0, 1) == []


def test_evaluators_are_made_by_name(evaluators):
    assert import_name(evaluators.make) == "ray_evaluators:make"
    for function in (lambda tensors: None, test_nothing_to_do.__class__):
        with pytest.raises(ValueError, match="top of a module"):
            import_name(function)


@pytest.mark.parametrize("counts", [{"workers": 0}, {"workers": 1, "threads": 0}])
def test_counts_out_of_range(counts):
    with pytest.raises(ValueError, match="at least 1 each"):
        RayRunner("ray_evaluators:make", {}, {}, **counts)
