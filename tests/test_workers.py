"""Several processes find what one finds; on a Ray of this machine."""

import pytest
import ray

from results.store import Store

SETTINGS = {"evaluations": 16, "batch": 8, "threads": 1, "seed": 2}


def history(ended):
    with Store(ended.folder / "candidates.sqlite", readonly=True) as store:
        return [(row.digest, row.score, row.top1, row.error) for row in store.rows()]


def kinds(ended):
    """Operators of the networks that were scored."""
    with Store(ended.folder / "candidates.sqlite", readonly=True) as store:
        stages = [stage for row in store.rows() for stage in row.genome["stages"]]
    return {block["kind"] for stage in stages for block in stage["blocks"]}


@pytest.mark.parametrize("controller", ["random", "evolution"])
def test_two_workers_find_in_order_what_one_process_finds(runs, controller):
    """As long as the same number of batches is under way."""
    settings = {**SETTINGS, "batch": 4, "in_flight": 2, "in_order": True, "controller": controller}
    alone = runs(name="alone", **settings)
    assert alone.code == 0, alone.err
    shared = runs(name="shared", workers=2, **settings)
    assert shared.code == 0, shared.err
    assert not ray.is_initialized()  # the run's own Ray ends with it
    assert shared.front == alone.front
    assert history(shared) == history(alone)
    assert len(history(alone)) == 16


def test_a_run_of_one_process_goes_on_with_two(runs, tiny_space, own_operator):
    """How many work is free on resume; parts of one's own reach them all."""
    space = tiny_space(name="own")
    for stage in space["stages"]:
        stage["operators"] = {kind: space["operators"][kind] for kind in stage["operators"]} | {
            "average": {"expansion": [1, 2, 3]}
        }
    settings = SETTINGS | {"space": space, "plugin": own_operator, "in_flight": 1}
    whole = runs(name="whole", **settings)
    assert "average" in kinds(whole)
    stopped = runs(name="stopped", **settings | {"evaluations": 8})
    assert len(history(stopped)) == 8
    config = stopped.folder / "config.yaml"
    config.write_text(config.read_text().replace("evaluations: 8", "evaluations: 16"))
    ended = runs.resume(stopped.folder, "--workers", 2)
    assert ended.code == 0, ended.err
    assert history(ended) == history(whole)
    assert ended.front == whole.front


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there(runs, address):
    """Found out at once, not after the training."""
    ended = runs(ray_address=address, **SETTINGS)
    assert ended.code == 2, ended.err
    (line,) = ended.err.splitlines()
    assert line.startswith(f"run_search.py: no Ray cluster answers at {address!r}")
    assert not runs.runs.exists()
