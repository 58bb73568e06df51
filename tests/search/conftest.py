"""What the tests of `search` share: two spaces, budgets in them, and a made-up score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest

from evaluator.interfaces import Score
from search.networks import NetworkProposals
from search.problem import Row, Trial
from space.budget import Budget
from space.cost_table import CostTable
from space.decisions import Codes
from space.files import make_space
from space.genome import Genome
from space.search_space import Space

# 13,824 networks, few enough to go through all of them; every variable always matters.
TOY = {
    "name": "toy",
    "resolution": [64, 96],
    "stem": {"convolution": {"channels": [8, 16]}},
    "operators": {
        "inverted_bottleneck": {
            "expansion": [1, 2, 4],
            "context": [3, 5],
            "squeeze_excite": [False, True],
        }
    },
    "stages": [
        {"channels": [8, 16], "depth": [1, 2], "operators": ["inverted_bottleneck"]},
        {"channels": [16, 24, 32], "depth": [1, 3], "operators": ["inverted_bottleneck"]},
    ],
    "head": {"pooled": {"features": [64]}},
}
# Variables that depend on others: on the depth (is there such a block?) and on the operator.
WIDE = {
    "name": "wide",
    "resolution": [96, 128, 160],
    "blocks": "free",
    "stem": {"convolution": {"channels": [16, 32]}},
    "operators": {
        "inverted_bottleneck": {
            "expansion": [1, 2, 4, 6],
            "context": [3, 5, 7],
            "squeeze_excite": [False, True],
        },
        "attention": {"expansion": [1, 2, 4], "context": [3, 7], "region": ["window"]},
    },
    "stages": [
        {
            "channels": [16 * k, 24 * k, 32 * k],
            "depth": [1, 2, 3],
            "operators": ["inverted_bottleneck", "attention"],
        }
        for k in (1, 2, 4)
    ],
    "head": {"pooled": {"features": [64]}},
}


@pytest.fixture(scope="session")
def toy_space() -> Space:
    return make_space(TOY)


@pytest.fixture(scope="session")
def every_toy_row(toy_space: Space) -> Codes:
    rows = product(*(range(size) for size in toy_space.cardinalities))
    return np.array(list(rows), np.int64)


@pytest.fixture(scope="session")
def wide_space() -> Space:
    return make_space(WIDE)


@pytest.fixture(scope="session")
def propose(toy_space: Space, wide_space: Space) -> Callable[..., NetworkProposals]:
    """Proposals for "toy" or "wide" and the text of a budget."""
    tables = {space.name: CostTable(space) for space in (toy_space, wide_space)}

    def make(name: str, budget: str) -> NetworkProposals:
        return NetworkProposals(tables[name].space, tables[name], Budget.parse(budget))

    return make


@pytest.fixture(scope="session")
def toy(propose: Callable[..., NetworkProposals]) -> NetworkProposals:
    return propose("toy", "20MFLOPs")


@pytest.fixture(scope="session")
def wide(propose: Callable[..., NetworkProposals]) -> NetworkProposals:
    return propose("wide", "2GFLOPs")


class Target:
    """Scores a network by the share of variables that it has in common with a hidden one; a
    variable is common where it matters in both or in neither, and has the same value."""

    def __init__(self, proposals: NetworkProposals, seed: int = 0):
        self.proposals = proposals
        self.row = proposals.sample(np.random.default_rng([seed, 99]), 1, 0.95)[0]

    def evaluate(self, genome: Genome) -> Score:
        space = self.proposals.space
        pair = np.stack([space.encode(genome), self.row])
        active = space.active(pair)
        common = (active[0] == active[1]) & (pair[0] == pair[1])
        return Score(float(common.mean()), {"top1": float(common.mean()) / 2})

    def trials(self, rows: Sequence[Row]) -> list[Trial]:
        decode = self.proposals.space.decode
        return [Trial(row, (self.evaluate(decode(row)).score,)) for row in rows]


@pytest.fixture(scope="session")
def target() -> type[Target]:
    return Target
