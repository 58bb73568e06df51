"""What operators compute and move, against closed forms and by hand, and the two roofs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evaluator import roofline
from evaluator.roofline import Peaks, bound_of, measure_peaks
from evaluator.runtimes import make_runtime, parts_of
from evaluator.work import Work, work_of
from space import build
from space.device import Device
from space.presets import preset

FLOAT = 4


def on_meta(make):
    with torch.device("meta"):
        return make()


def work_of_preset(name, device):
    genome = preset(name).genome
    network = on_meta(lambda: build(genome))
    parts = [part for _, part in parts_of(network)]
    shape = (device.batch, 3, genome.resolution, genome.resolution)
    return genome, work_of(network, parts, shape, device)


# ---- work


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(10, 10))
        self.function = function

    def forward(self, x):
        return self.function(x, self.weight)


@pytest.mark.parametrize(
    ("function", "flops", "numbers"),
    [
        (lambda x, w: x @ w, 2000, 300),
        (lambda x, w: x.mT[1:].unsqueeze(0), 0, 0),
        (lambda x, w: x.relu(), 0, 200),
        (lambda x, w: x.add_(w), 0, 300),
        (lambda x, w: x + w[:1].expand(10, 10), 0, 210),
        (lambda x, w: F.linear(x, w, w[0]), 2000, 310),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_by_hand(function, flops, numbers, dtype):
    works = work_of(on_meta(lambda: Lambda(function)), (), (10, 10), Device(dtype=dtype))
    assert sum(work.flops for work in works) == flops
    assert sum(work.bytes for work in works) == numbers * getattr(torch, dtype).itemsize
    assert {work.part for work in works} <= {-1}


@pytest.mark.parametrize(
    "name", ["convnext_t", "levit_128s", "edgenext_xxs", "deit_tiny_patch16_224"]
)
@pytest.mark.parametrize("text", ["cpu", "cuda:dtype=bf16"])
def test_flops_are_those_of_the_closed_forms(name, text):
    genome, works = work_of_preset(name, Device.parse(text))
    expected = [2 * placed.cost().macs for placed in genome.parts()]
    found = [0] * len(expected)
    for work in works:
        found[work.part] += work.flops
    assert found == expected


@pytest.mark.parametrize("name", ["convnext_t", "as_mlp_t", "cyclemlp_b1"])
def test_products_move_what_the_closed_forms_say(name):
    """Where nothing is fused, and but for biases that PyTorch adds behind a product."""
    genome, works = work_of_preset(name, Device())
    moved = sum(work.bytes for work in works if work.flops)
    assert moved == pytest.approx(genome.cost().bytes_moved, rel=1e-3)


def test_weights_are_read_once_a_batch():
    genome, one = work_of_preset("convnext_t", Device())
    _, eight = work_of_preset("convnext_t", Device(batch=8))
    weights = FLOAT * genome.cost().params
    moved = [sum(work.bytes for work in works) for works in (one, eight)]
    assert moved[1] == 8 * moved[0] - 7 * weights
    assert sum(w.flops for w in eight) == 8 * sum(w.flops for w in one)


# ---- roofs


def test_bound():
    peaks = Peaks(flops=1e9, bytes=1e8)
    assert peaks.ridge == 10
    works = [Work("a", 0, 3_000_000, 1000), Work("b", 0, 0, 200_000), Work("c", 1, 10, 1)]
    bound = bound_of(works, peaks)
    assert bound.ms == pytest.approx(3 + 2 + 1e-5)
    assert bound.computing_ms == pytest.approx(3)
    assert bound.computes
    assert not bound_of(works[1:], peaks).computes
    assert bound_of([], peaks).ms == 0


def test_roofs_of_this_processor(monkeypatch):
    """A product takes no less than its FLOPs, a copy no less than its bytes."""
    monkeypatch.setitem(roofline.SIDE, "cpu", 256)
    monkeypatch.setitem(roofline.COPIED, "cpu", 2**22)
    peaks = measure_peaks(make_runtime(Device(threads=1)), rounds=3)
    assert 1e8 < peaks.flops < 1e13
    assert 1e8 < peaks.bytes < 1e13


def test_roofs_are_those_of_the_quickest_turn(monkeypatch):
    """A copy and two products: one turn of each to warm up, then three."""
    seconds = iter([9.0, 9.0, 9.0, 8.0, 3.0, 5.0, 4.0, 6.0, 2.0, 6.0, 5.0, 7.0])
    monkeypatch.setattr(roofline, "_on_processor", lambda run: next(seconds))
    monkeypatch.setattr(roofline, "_products", lambda device, side: iter([None, None]))
    monkeypatch.setitem(roofline.SIDE, "cpu", 4)
    monkeypatch.setitem(roofline.COPIED, "cpu", 64)
    assert measure_peaks(make_runtime(Device(threads=1)), rounds=3) == Peaks(128 / 2, 128 / 4)
