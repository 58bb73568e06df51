"""Peak memory against what PyTorch allocates on this machine's processor, and by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.memory import compare, smallest
from evaluator.live_memory import watch
from evaluator.memory import memory_column, memory_of, peak_memory
from evaluator.runtimes import parts_of
from space import build
from space.device import Device
from space.files import load_space, shipped_spaces
from space.presets import preset, presets

CPU, TWO = Device(), Device(batch=2)
FLOAT = 4  # bytes
SLACK = 64  # bytes: numbers that PyTorch wraps as tensors


def on_meta(make):
    with torch.device("meta"):
        return make().eval()


def peak_of(make, *shape, kind="cpu", dtype=torch.float32):
    x = torch.empty(shape, device="meta", dtype=dtype)
    return watch(on_meta(make).to(dtype), x, kind=kind).peak


# ---- by hand


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_a_chain_holds_two_maps_at_a_time():
    """Linear layers of 8, 32, 16 and 4 outputs for 10 rows: the two widest neighbours."""
    chain = lambda: nn.Sequential(*(nn.Linear(a, b) for a, b in [(8, 32), (32, 16), (16, 4)]))  # noqa: E731
    assert peak_of(chain, 10, 8) == FLOAT * 10 * (32 + 16)


@pytest.mark.parametrize(
    ("function", "numbers"),
    [
        (lambda x: x.permute(1, 0).unsqueeze(0)[:, 2:], 0),
        (lambda x: (x + 1).relu_().add_(2), 100),
        (lambda x: (x + 1).relu().add(2), 200),
        (lambda x: x.mT.contiguous().mT + x, 200),
        (lambda x: x + (x + (x + x)), 200),
        (lambda x: torch.cat([x + 1, x + 2, x + 3]), 600),
        (lambda x: F.layer_norm(x.mT, (10,)), 200 + 20),  # a copy, and two statistics a row
        (lambda x: F.max_pool2d(x.view(1, 1, 10, 10), 2), 25 + 50),  # indices of 64 bits
        (lambda x: x.mT.softmax(-1), 200),
    ],
)
def test_by_hand(function, numbers):
    assert peak_of(lambda: Lambda(function), 10, 10) == FLOAT * numbers


def test_attention_of_one_kernel_makes_no_scores():
    def attend(q, width):
        return F.scaled_dot_product_attention(q, q, q[..., :width])

    fused = peak_of(lambda: Lambda(lambda q: attend(q, 32)), 2, 4, 196, 32)
    apart = peak_of(lambda: Lambda(lambda q: attend(q, 16)), 2, 4, 196, 32)
    assert fused == FLOAT * 2 * 4 * 196 * (32 + 1)
    assert apart > FLOAT * 2 * 4 * 196 * 196
    assert peak_of(lambda: Lambda(lambda q: attend(q, 16)), 2, 4, 196, 32, kind="cuda") < fused


def test_devices_differ_in_copies():
    norm = lambda: Lambda(lambda x: F.group_norm(x.permute(0, 3, 1, 2), 1))  # noqa: E731
    on_gpu = peak_of(norm, 2, 8, 8, 16, kind="cuda")
    assert on_gpu == peak_of(norm, 2, 8, 8, 16) + FLOAT * 2 * 8 * 8 * 16


def test_rounding_is_of_each_storage():
    module = on_meta(lambda: nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 5)))
    x = torch.empty(1, 8, device="meta")
    assert watch(module, x, kind="cuda").peak == FLOAT * 8
    assert watch(module, x, kind="cuda", rounding=512).peak == 2 * 512


def test_weights_count_once_and_the_input_counts():
    def tied():
        network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        network[1].weight = network[0].weight
        network.register_buffer("table", torch.zeros(5, dtype=torch.int64))
        return network

    found = memory_of(on_meta(tied), (), (2, 3, 4, 8), CPU)
    assert found.weights == FLOAT * (64 + 8 + 8) + 5 * 8
    assert found.peak == found.weights + FLOAT * 3 * (2 * 3 * 4 * 8)


# ---- against what is allocated


def check(name, dtype="float32", slack=SLACK):
    """A prediction lies between what is allocated outside of convolutions, where oneDNN reorders
    as it likes, and what is allocated altogether; these are mostly the same."""
    found = compare(preset(name).genome, Device(batch=2, dtype=dtype))
    assert found["tensors"] - slack <= found["predicted"] <= found["whole"] + slack


QUICK = [
    "cmt_ti",
    "edgenext_xxs",
    "levit_128s",
    "uninet_b0",
    "visformer_ti",
    "deit_tiny_patch16_224",
]
SMALLEST = smallest()


@pytest.mark.parametrize("name", QUICK)
def test_equals_what_is_allocated(name, one_thread):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_every_system_equals_what_is_allocated(name, one_thread):
    check(name)


@pytest.mark.parametrize("name", ["cmt_ti", "levit_128s", "visformer_ti"])
def test_equals_what_is_allocated_of_16_bits(name, one_thread):
    check(name, "bfloat16")


# ---- networks and spaces


def test_parts_have_peaks_of_their_own():
    genome = preset("levit_128s").genome
    network = on_meta(lambda: build(genome))
    parts = [part for _, part in parts_of(network)]
    found = memory_of(network, parts, (1, 3, 224, 224), CPU)
    assert len(found.parts) == sum(1 for _ in genome.parts())
    assert max(found.parts) == found.peak
    assert min(found.parts) > found.weights


def test_type_and_batch():
    genome = preset("edgenext_xxs").genome
    weights = FLOAT * genome.cost().params
    one, eight = (peak_memory(genome, Device(batch=b)) for b in (1, 8))
    half = peak_memory(genome, Device(batch=8, dtype="bfloat16"))
    assert weights < one < eight < weights + 8 * (one - weights) * 1.01
    assert 0.49 < half / eight < 0.55
    assert peak_memory(genome, CPU, rounding=512) >= one


def test_a_profile_says_nothing_of_memory():
    with pytest.raises(ValueError, match=r"phone.json.*measured on"):
        peak_memory(preset("edgenext_xxs").genome, Device.parse("phone.json"))


def check_column(space, device, count, rounding=1):
    column = memory_column(space, device, rounding=rounding)
    rows = space.sample_codes(np.random.default_rng(1), count)
    expected = [peak_memory(space.decode(row), device, rounding=rounding) for row in rows]
    assert column(rows).dtype == np.float64
    assert column(rows).tolist() == expected
    assert column(rows[:1]).tolist() == expected[:1]


@pytest.mark.parametrize("name", ["unified", "nasbench_macro"])
def test_a_column_equals_single_networks(name):
    check_column(load_space(name), TWO, 2)


def test_a_column_for_a_gpu():
    space = load_space("unified").scaled(width=0.25, resolution=64, classes=10)
    check_column(space, Device(runtime="cuda", batch=4, dtype="bfloat16"), 2, rounding=512)


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_spaces())
@pytest.mark.parametrize("text", ["cpu", "cuda:batch=32,dtype=bf16"])
def test_columns_of_all_spaces(name, text):
    check_column(load_space(name), Device.parse(text), 6)


def test_a_column_has_a_name():
    assert memory_column(load_space("nasbench_macro"), TWO).name == "memory@cpu:batch=2"


@pytest.mark.slow
def test_all_presets():
    for name, known in presets().items():
        found = peak_memory(known.genome, CPU)
        assert found > FLOAT * known.genome.cost().params, name
