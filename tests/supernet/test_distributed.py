"""Several processes train what one does with batches as large as all of theirs."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import trainings
from safetensors.torch import load_file

from supernet import distributed
from supernet.checkpoints import Checkpoints
from supernet.distributed import Elsewhere, Processes, launched_group, own_device
from supernet.training import Alone

TESTS = Path(__file__).parents[1]
RANKS = 2
SGD = {"optimiser": "sgd", "learning_rate": 0.05}
# Nothing looks across images or draws by the process: no augmentation, LayerNorm alone.
JOBS = {
    "plain": SGD,
    "conflict": {**SGD, "conflict": True, "accumulate": 2},
    "adaptive": {**SGD, "distillation": "adaptive", "sampling": "fair"},
    "average and split": {**SGD, "ema": 0.5, "split_at": ["stages.0.blocks"]},
    "adamw": {},
}


def environment(rank, port):
    """What torchrun would set."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(RANKS),
        "LOCAL_WORLD_SIZE": str(RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Weights and losses of each job in each process."""
    out, port = tmp_path_factory.mktemp("together"), free_port()
    command = [sys.executable, str(TESTS / "train_together.py"), json.dumps(list(JOBS.values()))]
    processes = [
        subprocess.Popen([*command, str(out)], env=environment(rank, port), stderr=subprocess.PIPE)
        for rank in range(RANKS)
    ]
    try:
        for process in processes:
            _, said = process.communicate(timeout=120)
            assert process.returncode == 0, said.decode()
    finally:
        for process in processes:
            process.kill()
    return {
        (name, rank): (
            load_file(out / f"{i}-{rank}.safetensors"),
            json.loads((out / f"{i}-{rank}.json").read_text()),
        )
        for i, name in enumerate(JOBS)
        for rank in range(RANKS)
    }


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_train_what_one_does(together, name):
    """With batches twice as large, to rounding, which AdamW makes more of."""
    alone = trainings.make_trainer(trainings.settings(**{**JOBS[name], "batch": 12}))
    alone.run()
    weights, losses = together[name, 0]
    assert losses == pytest.approx(alone.losses, rel=1e-5)
    expected = trainings.weights(alone)
    assert set(weights) == set(expected)
    close = {"atol": 1e-6, "rtol": 1e-5} if name != "adamw" else {"atol": 1e-4, "rtol": 1e-3}
    for key, weight in expected.items():
        torch.testing.assert_close(weights[key], weight, **close)
    small = trainings.make_trainer(trainings.settings(**JOBS[name]))
    small.run()
    assert losses != pytest.approx(small.losses, rel=1e-3)  # what one process of them would do


@pytest.mark.parametrize("name", JOBS)
def test_all_processes_have_the_same_weights(together, name):
    (one, losses), (other, others) = together[name, 0], together[name, 1]
    assert trainings.same(one, other)
    assert losses == others


# ---- the parts


@pytest.fixture
def group(monkeypatch):
    """The default group of this process alone."""
    for key, value in environment(0, free_port()).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("WORLD_SIZE", "1")
    dist.init_process_group("gloo")
    yield Processes()
    dist.destroy_process_group()


def test_tensors_of_all_kinds_are_averaged(group, monkeypatch):
    """Types, layouts and sizes; two processes are stood for by a sum that doubles."""
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 64)
    sent = []

    def doubled(flat):
        sent.append(flat.numel())
        flat += flat + 2

    monkeypatch.setattr(dist, "all_reduce", doubled)
    group.ranks = 2
    tensors = [
        torch.arange(6.0).reshape(2, 3).T,
        torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.tensor(3.0),
        torch.arange(4, dtype=torch.float64),
        torch.randn(5, dtype=torch.bfloat16),
    ]
    before = [tensor.clone() for tensor in tensors]
    strides = [tensor.stride() for tensor in tensors]
    group.average(tensors)
    for tensor, old in zip(tensors, before, strict=True):
        torch.testing.assert_close(tensor, old + 1)
    assert [tensor.stride() for tensor in tensors] == strides
    assert sorted(sent) == [1, 4, 5, 6, 96]
    group.average([])


def test_one_process_by_itself(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with launched_group(torch.device("cpu")) as group:
        assert isinstance(group, Alone)
    assert not dist.is_initialized()
    assert distributed.launched_rank() == 0
    assert distributed.launched_ranks() == distributed.launched_here() == 1
    assert own_device("cuda:3") == "cuda:3"


def test_each_process_takes_its_own_device(monkeypatch):
    for key, value in environment(1, 1).items():
        monkeypatch.setenv(key, value)
    assert distributed.launched_rank() == 1
    assert distributed.launched_ranks() == distributed.launched_here() == 2
    assert own_device("cpu") == "cpu"
    assert own_device("cuda") == "cuda:1"
    with pytest.raises(ValueError, match="device is 'cuda:0', but must be 'cuda'"):
        own_device("cuda:0")


def test_the_group_ends_with_the_block(monkeypatch):
    for key, value in environment(0, free_port()).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(distributed, "launched_ranks", lambda: 2)
    entered = launched_group(torch.device("cpu"))
    group = entered.__enter__()
    assert (group.rank, group.ranks) == (0, 1)
    assert dist.is_initialized()
    assert not entered.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert not dist.is_initialized()


def test_only_the_first_process_writes(tmp_path):
    class Second(Alone):
        rank, ranks = 1, 2

    trainer = trainings.make_trainer(group=Second())
    trainer.run(Checkpoints(tmp_path))
    assert not list(tmp_path.iterdir())


def test_what_is_trained_elsewhere_can_be_looked_at(tmp_path):
    """Begun or done, as long as it was trained by as many processes."""

    class First(Alone):
        ranks = 2

    trainer, made = trainings.make_trainer(group=First()), Checkpoints(tmp_path)
    for _ in range(2):
        trainer.train_step()
        trainer.save(made)
        other = trainings.make_trainer(group=Elsewhere(2))
        assert other.load(made)
        assert trainings.same(trainings.weights(other), trainings.weights(trainer))
    with pytest.raises(ValueError, match="ranks is 2 there, and 3 here"):
        trainings.make_trainer(group=Elsewhere(3)).load(made)
