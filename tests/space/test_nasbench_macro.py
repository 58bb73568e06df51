"""The space of NAS-Bench-Macro against counts that its authors published."""

import itertools

import numpy as np
import pytest
import torch

from benchmarks.ranking_nasbench_macro import row_of
from space.cost_table import CostTable
from space.files import load_space
from space.network import build

# arch: (parameters, multiply-adds), from github.com/xiusu/NAS-Bench-Macro
PUBLISHED = {
    "00000000": (387_882, 7_713_280),
    "00000001": (791_594, 14_115_328),
    "00000002": (1_219_370, 20_910_592),
    "10000000": (387_882 + 8_416, 7_713_280 + 4_415_488),
    "20000000": (387_882 + 21_952, 7_713_280 + 10_141_696),
    "11000000": (387_882 + 35_616, 7_713_280 + 11_149_312),
    "21000000": (387_882 + 49_152, 7_713_280 + 16_875_520),
    "00120000": (387_882 + 250_304, 7_713_280 + 18_116_608),
    "00210000": (387_882 + 180_224, 7_713_280 + 16_039_936),
    "00220000": (387_882 + 295_808, 7_713_280 + 23_339_008),
    "00000220": (387_882 + 1_115_904, 7_713_280 + 22_417_408),
}
SPACE = load_space("nasbench_macro")


@pytest.mark.parametrize("arch", PUBLISHED)
def test_parameters_and_macs(arch):
    """MACs of convolutions and the linear layer; BatchNorm has parameters and no MACs."""
    genome = SPACE.decode(row_of(arch))
    assert (genome.cost().params, genome.cost().macs) == PUBLISHED[arch]
    assert CostTable(SPACE).costs(row_of(arch)[None])[0, :2].tolist() == [*PUBLISHED[arch][::-1]]
    network = build(genome)
    assert sum(weight.numel() for weight in network.parameters()) == PUBLISHED[arch][0]
    assert network.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_one_genome_for_each_distinct_network():
    """6,561 encodings are 3,969 networks: zeros behind the first layer of a stage can move."""
    archs = ["".join(digits) for digits in itertools.product("012", repeat=8)]
    rows = np.stack([row_of(arch) for arch in archs])
    assert (SPACE.canonical(rows) == rows).all()
    assert len(np.unique(rows, axis=0)) == SPACE.size == 3969

    def moved(arch):
        stages = (arch[:2], arch[2:5], arch[5:])
        return "".join(s[0] + s[1:].replace("0", "").ljust(len(s) - 1, "0") for s in stages)

    for arch, row in zip(archs, rows, strict=True):
        assert (row_of(moved(arch)) == row).all()
    assert len({moved(arch) for arch in archs}) == 3969


def test_encoding_goes_both_ways():
    rows = SPACE.sample_codes(np.random.default_rng(0), 50)
    assert all((SPACE.encode(SPACE.decode(row)) == row).all() for row in rows)
