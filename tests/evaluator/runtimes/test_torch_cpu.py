"""Threads and cores of the processor."""

import numpy as np
import pytest
import torch

from evaluator.runtimes import make_runtime, parts_of
from evaluator.runtimes.torch_cpu import allowed_cores, default_threads, on_cores
from space import build
from space.device import Device
from space.files import make_space
from tests.small_spaces import LAYERS


def test_the_threads_of_a_device_do_not_depend_on_those_of_the_process(one_thread):
    assert torch.get_num_threads() == 1
    here = make_runtime(Device()).environment()["threads"]
    torch.set_num_threads(2)
    assert make_runtime(Device()).environment()["threads"] == here == default_threads()


def test_threads_and_cores_are_those_of_before_afterwards(one_thread):
    cores = allowed_cores()
    with on_cores(1):
        assert torch.get_num_threads() == 1
        assert len(allowed_cores()) == 1
    assert torch.get_num_threads() == 1
    assert allowed_cores() == cores


def test_more_threads_than_cores_are_refused():
    cores = len(allowed_cores())
    with pytest.raises(ValueError, match=f"asks for {cores + 1} threads"):
        make_runtime(Device(threads=cores + 1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pass_and_its_parts_are_timed(dtype):
    space = make_space(LAYERS)
    genome = space.decode(space.sample_codes(np.random.default_rng(0), 1)[0])
    runtime = make_runtime(Device(threads=1, dtype=dtype))
    with runtime.held():
        side = genome.resolution
        runner = runtime.prepare(runtime.fresh(genome), (2, 3, side, side))
        assert runner.time() > 0
        times = runner.time_parts()
    assert len(times) == sum(1 for _ in genome.parts())
    assert min(times) > 0


def test_parts_of_a_network_stand_in_the_order_of_the_genome():
    space = make_space(LAYERS)
    rows = space.sample_codes(np.random.default_rng(0), 5)
    for genome in map(space.decode, rows):
        paths = [path for path, _ in parts_of(build(genome))]
        assert paths == [placed.path for placed in genome.parts()]
