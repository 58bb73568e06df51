"""Random networks of every shipped space: supernet, exported source, cost and trace agree."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from results.model_file import model_source
from space.cost_table import COSTS, CostTable
from space.files import load_space, shipped_spaces
from space.network import build
from supernet.network import Supernet

CLOSE = {"atol": 1e-4, "rtol": 1e-4}  # of logits of about 1 to 10
COUNTS = [pytest.param(6), pytest.param(300, marks=pytest.mark.slow)]


def exported(genome) -> types.ModuleType:
    """The network's source, imported."""
    module = types.ModuleType("model")
    exec(compile(model_source(genome, "network"), "model.py", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", shipped_spaces())
def test_candidates_equal_exported_networks(name, count, random_weights):
    full = load_space(name)
    space = full.scaled(width=full.proxy_width, resolution=full.proxy_resolution, classes=10)
    supernet = random_weights(Supernet(space))
    side = full.proxy_resolution
    images = torch.randn(2, 3, side, side)
    for row in space.sample_codes(np.random.default_rng(0), count):
        genome = space.decode(row)
        buffers = supernet.calibrate(genome, [images])
        network = exported(genome).model().eval()
        network.load_state_dict(supernet.state_of(genome, buffers))
        with torch.no_grad():
            found, expected = supernet(genome, images, buffers=buffers), network(images)
        assert found.isfinite().all()
        torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", shipped_spaces())
def test_costs_equal_traces(name, count):
    space = load_space(name)
    codes = space.sample_codes(np.random.default_rng(1), count)
    for row, costs in zip(codes, CostTable(space).costs(codes), strict=True):
        genome = space.decode(row)
        cost = genome.cost()
        assert [getattr(cost, name) for name in COSTS] == list(costs)
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            network = build(genome).eval()
            network(torch.empty(1, 3, genome.resolution, genome.resolution))
        assert sum(p.numel() for p in network.parameters()) == cost.params
        assert counter.get_total_flops() == 2 * cost.macs
