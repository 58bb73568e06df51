"""Random networks of every shipped space: supernet, exported source, cost and trace agree."""

from __future__ import annotations

import types
from functools import cache

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from results.export import names_of_export, renamed
from results.model_file import model_source
from space.cost_table import COSTS, CostTable
from space.files import load_space, shipped_spaces
from space.genes import Part, Site
from supernet.network import Supernet, _skeleton

CLOSE = {"atol": 1e-9, "rtol": 1e-9}
COUNTS = [pytest.param(6), pytest.param(300, marks=pytest.mark.slow)]


@pytest.fixture
def float64():
    """Rounding would hide little differences, where BatchNorm makes them large."""
    _skeleton.cache_clear()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    _skeleton.cache_clear()


def exported(genome) -> types.ModuleType:
    """The network's source, imported."""
    module = types.ModuleType("model")
    exec(compile(model_source(genome, "network"), "model.py", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", shipped_spaces())
@pytest.mark.usefixtures("float64")
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
        state = supernet.state_of(genome, buffers)
        network.load_state_dict(renamed(state, names_of_export(genome)))
        with torch.no_grad():
            found, expected = supernet(genome, images, buffers=buffers), network(images)
        assert found.isfinite().all()
        torch.testing.assert_close(found, expected, **CLOSE)


@cache
def traced(part: Part, site: Site) -> tuple[int, int]:
    """Parameters and multiply-adds of one part, counted on its module."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        module = part.build(site).eval()
        module(torch.empty(1, site.in_channels, site.height, site.width))
    return sum(p.numel() for p in module.parameters()), counter.get_total_flops() // 2


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", shipped_spaces())
def test_costs_equal_traces(name, count):
    """A network is a chain of parts: what it costs is the sum of what they do."""
    space = load_space(name)
    codes = space.sample_codes(np.random.default_rng(1), count)
    for row, costs in zip(codes, CostTable(space).costs(codes), strict=True):
        genome = space.decode(row)
        cost = genome.cost()
        assert [getattr(cost, name) for name in COSTS] == list(costs)
        counts = [traced(placed.part, placed.site) for placed in genome.parts()]
        assert tuple(map(sum, zip(*counts, strict=True))) == (cost.params, cost.macs)
