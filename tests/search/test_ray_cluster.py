"""On a cluster of several nodes, which are all on this machine, but come and go for real."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from results.store import Store
from search.controllers import make_controller
from search.loop import search
from search.networks import Networks
from search.ray_workers import RayWorkers
from search.runner import UnitRunner

HERE = Path(__file__).parent


@pytest.fixture
def evaluators():
    sys.path.insert(0, str(HERE))
    import ray_evaluators

    yield ray_evaluators
    sys.path.remove(str(HERE))


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield cluster
    cluster.shutdown()


class Coming:
    """A runner with a story: a machine joins, is lost once its workers are at work, and another
    one joins; then it is interrupted. Notes the capacity."""

    def __init__(self, runner, cluster):
        self.runner, self.cluster = runner, cluster
        self.done, self.capacities, self.node, self.chapter = 0, [], None, 0

    @property
    def capacity(self):
        return self.runner.capacity

    def submit(self, number, genomes):
        self.runner.submit(number, genomes)

    def next(self):
        self.capacities.append(self.capacity)
        if self.chapter == 0 and self.done == 2:
            self.node = self.cluster.add_node(num_cpus=2)
            self.chapter = 1
        if self.chapter == 1 and self.capacities[-4:] == [3] * 4:
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.chapter = 2
        if self.chapter == 2 and self.capacity < 3:
            self.cluster.add_node(num_cpus=2)
            self.chapter = 3
        if self.chapter == 3 and self.capacities[-4:] == [3] * 4:
            raise KeyboardInterrupt
        ended = self.runner.next()
        self.done += len(ended)
        return ended


@pytest.mark.slow
def test_workers_join_and_leave(cluster, evaluators, wide, tmp_path):
    """One worker at first, as there is one core; two more with a machine that joins. It is lost
    with what they were at, which is done again."""
    workers = RayWorkers(evaluators.make, {"seconds": 0.2}, {}, workers=3, address=cluster.address)
    try:
        runner = Coming(UnitRunner(workers), cluster)
        with Store(tmp_path / "c.sqlite") as store:
            controller = make_controller("random", wide, 0)
            options = {"evaluations": 2000, "batch": 1, "origin": "random"}
            with pytest.raises(KeyboardInterrupt):
                search(controller, runner, store, Networks(wide), **options)
            rows = store.rows()
    finally:
        workers.close()
        ray.shutdown()
    assert runner.capacities[0] == 1
    assert len({row.digest for row in rows}) == len(rows) == runner.done
    assert all(row.error is None for row in rows)


def test_shares_of_a_gpu(cluster, evaluators, toy):
    """Four workers on the one GPU that a machine says it has."""
    cluster.add_node(num_cpus=4, num_gpus=1)
    workers = RayWorkers(evaluators.make, {}, {}, workers=4, gpus=0.25, address=cluster.address)
    try:
        deadline = time.monotonic() + 60
        while ray.available_resources().get("GPU", 0) > 0 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert ray.available_resources().get("GPU", 0) == 0
        assert ray.cluster_resources()["GPU"] == 1
    finally:
        workers.close()
        ray.shutdown()


def test_another_version_of_ray(cluster):
    """One line, before anything is trained."""
    script = f"""
import ray
ray.__version__ = "1.0.0"
from search.ray_common import start_ray
try:
    start_ray("search.workers:OneByOne", {{}}, 1, {cluster.address!r})
except ValueError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=HERE.parents[1],
    )
    (line,) = run.stdout.splitlines()
    assert line.startswith(f"the Ray cluster at {cluster.address!r} runs another version")
    assert "1.0.0" in line
    assert ray.__version__ in line
