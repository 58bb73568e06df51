"""Sums of main effects against sums that are known."""

import numpy as np
import pytest

from evaluator.effects import indicators, main_effects
from evaluator.trust import kendall
from space.files import load_space

SPACE = load_space("nasbench_macro")


def rows(count, seed=0):
    found = SPACE.sample_codes(np.random.default_rng(seed), count)
    return np.unique(found, axis=0)


def test_indicators_are_the_choices_that_a_row_has_made():
    codes = rows(60)
    made = indicators(SPACE, codes)
    assert set(np.unique(made)) == {0.0, 1.0}
    assert (made.sum(1) == SPACE.active(codes).sum(1)).all()
    names = [(variable.name, choice) for variable in SPACE.variables for choice in variable.choices]
    for row, flags in zip(codes, made, strict=True):
        genome = SPACE.decode(row)
        for i, stage in enumerate(genome.stages):
            assert flags[names.index((f"stages.{i}.depth", len(stage.blocks)))]
            for j, block in enumerate(stage.blocks):
                chosen = {3: "mb3", 6: "mb6"}[block.expansion]
                assert flags[names.index((f"stages.{i}.blocks.{j}", chosen))]


def test_a_sum_of_effects_is_found_under_noise():
    """Ranks by the fitted sums are nearer to the true sums than the noisy scores are."""
    codes = rows(600)
    rng = np.random.default_rng(1)
    features = indicators(SPACE, codes)
    truth = features @ rng.normal(size=features.shape[1])
    noisy = truth + truth.std() * rng.normal(size=len(truth))
    fitted = main_effects(SPACE, codes, noisy)
    assert kendall(noisy, truth) < 0.6
    assert kendall(fitted, truth) > 0.85
    assert np.corrcoef(main_effects(SPACE, codes, truth), truth)[0, 1] > 0.9999


def test_scores_that_are_no_numbers():
    codes = rows(20)
    with pytest.raises(ValueError, match="not finite"):
        main_effects(SPACE, codes, np.full(len(codes), np.nan))
