"""Published networks give timm's logits with timm's weights; left out where timm is not there."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("timm")

from benchmarks.timm_logits import PAIRS, ROUNDING, TOLERANCE, compared
from space.presets.published import preset

CASES = [
    pytest.param(pair, marks=[] if pair.fast else [pytest.mark.slow], id=pair.preset)
    for pair in PAIRS
]


@pytest.mark.parametrize("pair", CASES)
def test_logits_are_those_of_timm(pair):
    found = compared(pair)
    assert found["largest_logit"] > 0.5
    assert found["max_abs_float32"] <= TOLERANCE
    assert found["max_abs_float64"] <= ROUNDING


def test_another_epsilon_shows():
    """What the smallest of mistakes does to the logits; otherwise the test above would say
    little."""
    (pair,) = (pair for pair in PAIRS if pair.preset == "gmlp_ti")
    genome = preset("gmlp_ti").genome
    (stage,) = genome.stages
    blocks = (replace(stage.blocks[0], norm="layer"), *stage.blocks[1:])
    changed = replace(genome, stages=(replace(stage, blocks=blocks),))
    assert compared(pair, changed)["max_abs_float64"] > 2 * ROUNDING


def test_layers_that_do_not_pair_are_an_error():
    (pair,) = (pair for pair in PAIRS if pair.preset == "gmlp_ti")
    genome = preset("gmlp_ti").genome
    (stage,) = genome.stages
    shorter = replace(genome, stages=(replace(stage, blocks=stage.blocks[:-1]),))
    with pytest.raises(ValueError, match=r"no place for blocks\.29"):
        compared(pair, shorter)
