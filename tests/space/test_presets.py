"""Published networks: counts of reference code, of the built network and of the closed forms.

The reference counts were made on the authors' released code (`figures.json` says which are known),
by counting multiply-adds of convolutions, linear layers and matrix products.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from results.zoo import EXCEPTIONS
from space.genome import Genome
from space.network import build
from space.presets import preset, presets
from space.presets.published import Preset, figures

SYSTEMS = list(figures())


def test_every_published_variant_is_a_preset():
    wanted = [
        (system, row["variant"], row["resolution"])
        for system, known in figures().items()
        for row in known["rows"]
    ]
    made = [(p.system, p.variant, p.genome.resolution) for p in presets().values()]
    unsized = {(system, variant) for system, variant, resolution in wanted if resolution is None}
    found = sorted((s, v, None if (s, v) in unsized else r) for s, v, r in made)
    assert found == sorted(wanted, key=lambda row: (row[0], row[1], row[2] or 0))


@pytest.mark.parametrize("system", SYSTEMS)
def test_counts_of_the_reference_code(system):
    for found in presets().values():
        if found.system != system:
            continue
        cost = found.genome.cost()
        if found.params is not None:
            assert cost.params == found.params, found.name
        elif found.published_params_m is not None and found.name not in EXCEPTIONS:
            assert cost.params / 1e6 == pytest.approx(found.published_params_m, rel=0.03), (
                found.name
            )
        if found.gmacs is not None:
            assert cost.macs / 1e9 == pytest.approx(found.gmacs, rel=1e-3), found.name
        elif found.published_gmacs is not None:
            assert cost.macs / 1e9 == pytest.approx(found.published_gmacs, rel=0.05), found.name


@pytest.mark.parametrize("system", SYSTEMS)
def test_costs_equal_a_trace(system):
    for found in presets().values():
        if found.system != system:
            continue
        genome, side = found.genome, found.genome.resolution
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            network = build(genome).eval()
            logits = network(torch.empty(1, 3, side, side))
        cost = genome.cost()
        assert logits.shape == (1, genome.classes), found.name
        assert sum(p.numel() for p in network.parameters()) == cost.params, found.name
        assert counter.get_total_flops() == 2 * cost.macs, found.name


def test_uninet_b0_and_b1_are_one_network():
    b0, b1 = preset("uninet_b0").genome, preset("uninet_b1").genome
    assert b0 != b1
    assert b0.at(resolution=224) == b1


def test_genomes_go_through_json():
    for found in presets().values():
        assert Genome.from_json(found.genome.to_json(brief=True)) == found.genome, found.name


def test_presets_are_known_by_name():
    assert all(name == found.name for name, found in presets().items())
    with pytest.raises(
        ValueError, match=r"unknown preset 'uninet_b9'; like it there are: .*uninet_b0"
    ):
        preset("uninet_b9")


def smallest(system: str) -> Preset:
    found = [one for one in presets().values() if one.system == system]
    return min(found, key=lambda one: one.genome.cost().macs)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("side", [96, 160, 320, 448])
def test_networks_for_other_images(system, side):
    """Built for another resolution they run at it; patches of 14 pixels want a multiple of 14."""
    genome = smallest(system).genome
    if side % genome.stem.stride:
        with pytest.raises(ValueError, match="must be a multiple of the stem's stride 14"):
            genome.at(resolution=side)
        return
    genome = genome.at(resolution=side)
    with torch.device("meta"):
        network = build(genome).eval()
        logits = network(torch.empty(1, 3, side, side))
    assert logits.shape == (1, genome.classes)
    assert sum(p.numel() for p in network.parameters()) == genome.cost().params
