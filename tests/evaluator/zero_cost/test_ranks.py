"""The joined score against loops over networks."""

import math

import numpy as np
import pytest

from evaluator.zero_cost import log_rank_sum
from evaluator.zero_cost.ranks import average_ranks


def naive(table):
    n = len(next(iter(table.values())))
    joined = []
    for i in range(n):
        total = 0.0
        for column in table.values():
            values = [v if math.isfinite(v) else -math.inf for v in column]
            below = sum(v < values[i] for v in values)
            same = sum(v == values[i] for v in values)
            total += math.log((below + (same + 1) / 2) / n)
        joined.append(total)
    return joined


def test_against_the_naive_sum():
    rng = np.random.default_rng(0)
    for _ in range(20):
        n = int(rng.integers(1, 12))
        table = {name: rng.integers(0, 5, n).astype(float) for name in "abc"}
        for column in table.values():
            column[rng.random(n) < 0.2] = rng.choice([math.nan, math.inf, -math.inf])
        np.testing.assert_allclose(log_rank_sum(table), naive(table), rtol=1e-12)


def test_ranks_of_ties_and_of_what_is_no_number():
    ranks = average_ranks([3.0, 1.0, 3.0, math.nan, 2.0, math.inf])
    assert ranks.tolist() == [5.5, 3.0, 5.5, 1.5, 4.0, 1.5]


def test_the_best_of_all_scores_has_zero():
    assert log_rank_sum({"a": [1, 2, 3], "b": [0.1, 0.2, 0.3]})[2] == 0


def test_one_low_rank_costs_more_than_a_high_one_gains():
    """Two networks with ranks (1, 3) and (2, 2) of 3 have the same mean rank."""
    joined = log_rank_sum({"a": [1, 2, 3], "b": [3, 2, 1]})
    assert joined[1] > joined[0] == joined[2]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "no scores"),
        ({"a": [1.0, 2.0], "b": [1.0]}, r"b has the shape \(1,\), but must have one number"),
        ({"a": [[1.0]]}, r"a has the shape \(1, 1\)"),
        ({"a": 1.0}, r"a has the shape \(\)"),
    ],
)
def test_bad_tables(table, message):
    with pytest.raises(ValueError, match=message):
        log_rank_sum(table)
