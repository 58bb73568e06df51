"""UniNet's presets against counts made on the released reference code.

Source of PARAMS and GMACS: counted on the released reference code (repository Sense-X/UniNet) with
random weights and 1000 classes; GMACS are the multiply-adds of convolutions, linear layers and
matrix products alone.
"""

from __future__ import annotations

import pytest
import torch

from space.network import build
from space.presets import preset, presets

PARAMS = {
    "uninet_b0": 11_450_864,
    "uninet_b1": 11_450_864,
    "uninet_b2": 16_211_472,
    "uninet_b4": 43_796_288,
    "uninet_b5": 72_883_072,
    "uninet_b6": 116_687_344,
}
GMACS = {
    "uninet_b0": 0.543531,
    "uninet_b1": 1.09464,
    "uninet_b2": 2.113954,
    "uninet_b4": 9.296105,
    "uninet_b5": 20.190259,
    "uninet_b6": 50.507396,
}


@pytest.mark.parametrize("name", PARAMS)
def test_counts_of_the_reference_code(name):
    genome = preset(name).genome
    with torch.device("meta"):
        network = build(genome)
    assert sum(p.numel() for p in network.parameters()) == PARAMS[name]
    assert genome.cost().params == PARAMS[name]
    assert genome.cost().macs / 1e9 == pytest.approx(GMACS[name], abs=1e-6)


def test_b3_which_was_not_counted():
    """Known: 24.0 million parameters, and 4.258491e9 by a counter that adds norms and pooling."""
    cost = preset("uninet_b3").genome.cost()
    assert round(cost.params / 1e6, 1) == 24.0
    assert cost.macs / 1e9 == pytest.approx(4.258491, rel=0.03)
    assert cost.macs / 1e9 < 4.258491


@pytest.mark.parametrize("name", [f"uninet_b{i}" for i in range(7)])
def test_published_figures_are_close(name):
    found = preset(name)
    cost = found.genome.cost()
    assert (found.name, found.system) == (name, "UniNet")
    assert cost.params == pytest.approx(found.published_params, rel=0.005)
    # The published figure also counts norms and pooling.
    assert 0.97 * found.published_macs < cost.macs < found.published_macs


def test_b0_and_b1_are_one_network():
    b0, b1 = preset("uninet_b0").genome, preset("uninet_b1").genome
    assert b0 != b1
    assert b0.at(resolution=224) == b1


def test_b0_runs_and_learns():
    network = build(preset("uninet_b0").genome.at(resolution=32, classes=7))
    images = torch.randn(2, 3, 32, 32)
    features = network.forward_features(images)
    assert features.shape == (2, 256, 1, 1)
    network(images).square().sum().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None]
    assert silent == []


def test_presets_are_known_by_name():
    assert set(PARAMS) < set(presets())
    assert all(name == found.name for name, found in presets().items())
    with pytest.raises(ValueError, match=r"unknown preset 'uninet_b9'; there are: .*uninet_b0"):
        preset("uninet_b9")
