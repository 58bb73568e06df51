"""Tables of costs against the networks' own closed forms, and those against a trace."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from space.cost_table import COSTS, CostTable
from space.files import load_space
from space.network import build


@pytest.fixture(scope="module")
def unified():
    space = load_space("unified")
    return space, CostTable(space)


def cost_of(space, row):
    cost = space.decode(row).cost()
    return [getattr(cost, name) for name in COSTS]


def test_every_network_of_a_small_space(small):
    table = CostTable(small.space)
    expected = [cost_of(small.space, row) for row in small.rows]
    assert np.array_equal(table.costs(small.rows), expected)
    for i, name in enumerate(COSTS):
        assert np.array_equal(table.column(small.rows, name), np.array(expected)[:, i])


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("name", COSTS)
def test_the_ends_of_a_small_space(small, name, largest):
    """Against all its networks."""
    table = CostTable(small.space)
    row = table.extreme(name, largest=largest)
    assert np.array_equal(row, small.space.canonical(row[None])[0])
    values = [getattr(genome.cost(), name) for genome in small.genomes]
    expected = max(values) if largest else min(values)
    assert getattr(small.space.decode(row).cost(), name) == expected


@pytest.mark.parametrize("width", [1.0, 0.125])
def test_networks_of_the_unified_space(unified, width):
    space = unified[0]
    if width < 1:
        space = space.scaled(width=width, resolution=32, classes=10)
    codes = space.sample_codes(np.random.default_rng(0), 200)
    found = CostTable(space).costs(codes)
    assert np.array_equal(found, [cost_of(space, row) for row in codes])


def test_several_resolutions():
    space = load_space("unified", resolution=[160, 192, 224])
    codes = space.sample_codes(np.random.default_rng(0), 60)
    found = CostTable(space).costs(codes)
    assert np.array_equal(found, [cost_of(space, row) for row in codes])


def test_many_rows_at_once(unified):
    """100,000, of which some are looked at; a row's cost does not depend on the others."""
    space, table = unified
    codes = space.sample_codes(np.random.default_rng(1), 100_000)
    found = table.costs(codes)
    assert found.shape == (100_000, len(COSTS))
    places = np.random.default_rng(2).integers(0, len(codes), 60)
    assert np.array_equal(found[places], [cost_of(space, row) for row in codes[places]])
    assert np.array_equal(found[places], table.costs(codes[places]))


def test_no_rows(unified):
    space, table = unified
    assert table.costs(space.sample_codes(np.random.default_rng(0), 0)).shape == (0, len(COSTS))


@pytest.mark.parametrize("name", COSTS)
def test_the_ends_of_the_unified_space(unified, name):
    """No network that chance or climbing finds lies beyond them."""
    space, table = unified
    low, high = (table.extreme(name, largest=largest) for largest in (False, True))
    ends = [getattr(space.decode(row).cost(), name) for row in (low, high)]
    rng = np.random.default_rng(0)
    codes = table.column(space.sample_codes(rng, 20_000), name)
    assert ends[0] <= codes.min()
    assert codes.max() <= ends[1]
    for end, beyond in ((low, np.less), (high, np.greater)):
        near = space.mutate_codes(np.repeat(end[None], 2000, axis=0), rng)
        assert not beyond(table.column(near, name), table.column(end[None], name)).any()


# ---- the closed forms themselves


def assert_cost_is_the_traces(genome):
    with torch.device("meta"), torch.no_grad():
        network = build(genome).eval()
        image = torch.empty(1, 3, genome.resolution, genome.resolution)
        with FlopCounterMode(display=False) as counter:
            network(image)
    cost = genome.cost()
    assert counter.get_total_flops() == 2 * cost.macs
    assert sum(parameter.numel() for parameter in network.parameters()) == cost.params


def traced(space, start, stop):
    for row in space.sample_codes(np.random.default_rng(3), stop)[start:]:
        assert_cost_is_the_traces(space.decode(row))


def test_costs_are_those_of_a_trace(unified):
    traced(unified[0], 0, 20)


@pytest.mark.slow
def test_costs_of_many_networks_are_those_of_a_trace(unified):
    traced(unified[0], 20, 200)


def test_costs_of_proxies_are_those_of_a_trace(unified):
    traced(unified[0].scaled(width=0.125, resolution=32, classes=10), 0, 8)
