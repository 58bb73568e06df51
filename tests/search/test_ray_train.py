"""Processes that Ray Train starts, on a Ray of this machine's."""

import json
import os
import sys
from pathlib import Path

import pytest
import ray
import torch

from search.ray_common import start_ray
from search.ray_train import WorkerDied, train_together

pytestmark = pytest.mark.slow
TENSORS = {"floats": torch.arange(10.0), "halves": torch.ones(3, dtype=torch.bfloat16)}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One Ray for all, whose processes know the functions."""
    sys.path.insert(0, str(Path(__file__).parent))
    start_ray("ray_functions:note", {}, 2, None)
    yield
    ray.shutdown()
    sys.path.remove(str(Path(__file__).parent))


def together(name, folder, settings=None, **options):
    train_together(
        f"ray_functions:{name}", settings or {}, TENSORS, folder=folder, workers=2, **options
    )


def test_processes_get_what_they_need(tmp_path):
    heard, before = [], dict(os.environ)
    settings = {"folder": str(tmp_path)}
    together("note", tmp_path, settings, progress=lambda *news: heard.append(news))
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for given in found:
        assert given["ranks"] == 2
        assert given["device"] == "cpu"
        assert given["total"] == 2 * 45 + 1
        assert given["type"] == "torch.bfloat16"
        assert given["place"] == os.getcwd()  # relative paths mean what they mean here
    assert len({given["pid"] for given in found} | {os.getpid()}) == 3
    assert heard[-1] == (3, 3, 0.5 / 3)
    assert heard == sorted(heard)
    assert {path.name for path in tmp_path.iterdir()} == {"0.json", "1.json"}  # no notes are left
    assert dict(os.environ) == before
    assert ray.is_initialized()  # it was there before


def test_what_a_process_finds_wrong_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"^steps is 0, but must be more$"):
        together("wrong", tmp_path)


def test_a_process_that_dies(tmp_path):
    with pytest.raises(WorkerDied, match=r"^worker 1 of the training died$"):
        together("die", tmp_path)


def test_more_than_there_is(tmp_path):
    with pytest.raises(ValueError, match="3 processes are to train on 3 cores, but Ray has 2"):
        train_together("ray_functions:note", {}, {}, folder=tmp_path, workers=3)
    with pytest.raises(ValueError, match="on CUDA, but Ray has no GPUs"):
        together("note", tmp_path, cuda=True)
