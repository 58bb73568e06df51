"""Shares of variance against analysis of variance on whole grids, written out."""

import itertools

import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from results.gene_table import ABSENT, Gene
from results.importance import Decomposed, importance, leaves


def anova(values, weights):
    """By definition: means over all other genes, on the whole grid. values: an array with an axis
    for each gene."""

    def mean_over(axes):
        out = values
        for axis in sorted(axes, reverse=True):
            out = np.tensordot(out, weights[axis], axes=(axis, 0))
        return out

    every = range(values.ndim)
    mean = mean_over(every)
    spread = (values - mean) ** 2
    for axis in reversed(every):
        spread = np.tensordot(spread, weights[axis], axes=(axis, 0))
    effects = {g: mean_over([a for a in every if a != g]) - mean for g in every}
    shares = {(g,): weights[g] @ effects[g] ** 2 / spread for g in every}
    for a, b in itertools.combinations(every, 2):
        both = mean_over([c for c in every if c not in (a, b)]) - mean
        both = both - effects[a][:, None] - effects[b][None, :]
        shares[a, b] = weights[a] @ both**2 @ weights[b] / spread
    return shares


@pytest.mark.parametrize("seed", range(5))
def test_a_tree_that_fits_a_grid_splits_its_variance_as_anova_does(seed):
    rng = np.random.default_rng(seed)
    sizes = (3, 4, 2, 5)
    weights = [rng.dirichlet(np.ones(size)) for size in sizes]
    values = rng.normal(size=sizes)
    codes = np.array(list(itertools.product(*map(range, sizes))))
    tree = DecisionTreeRegressor(random_state=0).fit(codes, values.ravel())
    found = Decomposed(*leaves(tree.tree_, weights), weights)
    expected = anova(values, weights)
    for g in range(4):
        assert found.single(g) == pytest.approx(expected[g,], abs=1e-12)
    for a, b in itertools.combinations(range(4), 2):
        assert found.pair(a, b) == pytest.approx(expected[a, b], abs=1e-12)


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_a_tree_with_large_leaves_is_split_as_what_it_predicts(depth):
    """Whatever the tree: what it predicts on the whole grid is the function."""
    rng = np.random.default_rng(depth)
    sizes = (6, 5, 4)
    weights = [np.full(size, 1 / size) for size in sizes]
    grid = np.array(list(itertools.product(*map(range, sizes))))
    some = grid[rng.choice(len(grid), 60)]
    tree = DecisionTreeRegressor(max_depth=depth, random_state=0).fit(some, rng.normal(size=60))
    found = Decomposed(*leaves(tree.tree_, weights), weights)
    expected = anova(tree.predict(grid).reshape(sizes), weights)
    for genes, share in expected.items():
        mine = found.single(*genes) if len(genes) == 1 else found.pair(*genes)
        assert mine == pytest.approx(share, abs=1e-12)


def column(name, values, ordered=True):
    there = sorted({v for v in values if v != ABSENT}, key=None if ordered else str)
    levels = (*there, *([ABSENT] if ABSENT in values else []))
    return Gene(name, tuple(values), levels, ordered)


def sampled(count=1500, seed=0):
    rng = np.random.default_rng(seed)
    a, b, c, d = (rng.integers(0, 4, count) for _ in range(4))
    kinds = np.array(["mlp", "attention", "convolution", "none"])[c]
    return rng, a, b, kinds, d


def test_known_shares_of_a_sum():
    """4 a + 2 b, a and b uniform over the same numbers, and noise by none: 16 to 4."""
    _, a, b, kinds, d = sampled()
    genes = [column("a", a.tolist()), column("b", b.tolist())]
    genes += [column("kind", kinds.tolist(), ordered=False), column("d", d.tolist())]
    found = importance(genes, 4.0 * a + 2.0 * b)
    shares = {share.genes: share.share for share in found.genes}
    assert shares["a",] == pytest.approx(0.8, abs=0.03)
    assert shares["b",] == pytest.approx(0.2, abs=0.03)
    assert max(shares["kind",], shares["d",]) < 0.005
    assert max(share.share for share in found.pairs) < 0.01
    assert found.fit > 0.98
    assert found.rows == 1500


def test_kinds_count_and_pairs_are_found():
    """The sign of one gene is decided by another: neither does anything alone."""
    _, a, b, kinds, d = sampled()
    genes = [column("a", a.tolist()), column("kind", kinds.tolist(), ordered=False)]
    genes += [column("b", b.tolist()), column("d", d.tolist())]
    value = np.where(a < 2, 1.0, -1.0) * np.where(np.isin(kinds, ["mlp", "none"]), 1.0, -1.0)
    found = importance(genes, value)
    assert found.pairs[0].genes == ("a", "kind")
    assert found.pairs[0].share > 0.85
    by_kind = importance(genes, np.select([kinds == "attention", kinds == "none"], [1.0, 3.0], 0))
    assert by_kind.genes[0].genes == ("kind",)
    assert by_kind.genes[0].share > 0.95


def test_an_absent_gene_weighs_as_often_as_it_is_absent():
    values = [1, 2, ABSENT, ABSENT] * 50
    gene = column("a", values)
    scores = [{1: 0.0, 2: 0.0, ABSENT: 1.0}[v] for v in values]
    found = importance([gene, column("b", list(range(200)))], scores)
    assert found.genes[0].genes == ("a",)
    assert found.genes[0].share > 0.9


def test_too_little_to_say():
    gene = column("a", [0, 1] * 30)
    assert importance([gene], [1.0] * 60) is None
    assert importance([], [0.0, 1.0] * 30) is None
    assert importance([column("a", [0, 1] * 5)], [0.0, 1.0] * 5) is None


def test_the_same_again():
    rng, a, b, _, _ = sampled(300)
    genes = [column("a", a.tolist()), column("b", b.tolist())]
    scores = a + rng.normal(size=300)
    assert importance(genes, scores) == importance(genes, scores)


def test_noise_is_said_to_be_none_of_the_genes():
    rng, a, b, _, _ = sampled(600)
    genes = [column("a", a.tolist()), column("b", b.tolist())]
    assert importance(genes, rng.normal(size=600)).fit < 0.1
