"""Which genes mattered: functional ANOVA of the scores, by a forest of regression trees.

Source: Hutter, Hoos and Leyton-Brown, 2014, "An Efficient Approach for Assessing Hyperparameter
Importance" (fANOVA), sections 3 and 4: a random forest is fitted to what was evaluated, and the
variance of each tree over the whole space is split, exactly, into what single genes and pairs of
genes add (algorithms 1 and 2). Differs from it: all genes have finitely many values; that a gene is
`ABSENT` weighs as much as its share of the rows, and its other values weigh alike; kinds are put in
the order of their mean score before a tree splits them (Breiman et al., 1984, "Classification and
Regression Trees", section 4.2).
Shapes: N rows, G genes, L leaves of a tree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.gene_table import ABSENT, Gene

TREES = 48
ROWS = 4000  # that a forest is fitted to; of more, an even choice
LEAST = 20  # rows without which nothing is said
PAIRED = 8  # genes whose pairs are looked at: those that matter most
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Share:
    """The part of the variance that some genes explain together, beyond what fewer of them do: the
    mean over trees, and its standard deviation."""

    genes: tuple[str, ...]
    share: float
    spread: float


@dataclass(frozen=True, slots=True)
class Importance:
    """Of each gene, and of the pairs of those that matter most, from large to small. `fit` is the
    share of the variance of scores that the forest predicts for rows that it was not fitted to
    (out of bag); None where that is not known."""

    genes: tuple[Share, ...]
    pairs: tuple[Share, ...]
    fit: float | None
    rows: int


def importance(
    genes: Sequence[Gene], scores: Sequence[float], *, seed: int = 0
) -> Importance | None:
    """None where there are too few rows, or all scores are equal."""
    target = np.asarray(scores, np.float64)
    if len(target) < LEAST or not genes or np.ptp(target) == 0:
        return None
    chosen = np.arange(len(target))[:: math.ceil(len(target) / ROWS)]
    target = target[chosen]
    codes = np.array([gene.codes for gene in genes], np.int64).T[chosen]
    weights = []
    for g, gene in enumerate(genes):
        order = _order(gene, codes[:, g], target)
        codes[:, g] = np.argsort(order)[codes[:, g]]
        weights.append(_weights(gene, order, codes[:, g]))
    forest = fit(codes, target, seed)
    trees = [Decomposed(*leaves(tree.tree_, weights), weights) for tree in forest.estimators_]
    trees = [tree for tree in trees if tree.variance > 0]
    if not trees:
        return None
    singles = np.array([[tree.single(g) for g in range(len(genes))] for tree in trees])
    most = sorted(np.argsort(-singles.mean(axis=0), kind="stable")[:PAIRED].tolist())
    names = [gene.name for gene in genes]
    return Importance(
        _sorted([((names[g],), singles[:, g]) for g in range(len(genes))]),
        _sorted(
            [
                ((names[a], names[b]), np.array([tree.pair(a, b) for tree in trees]))
                for a, b in combinations(most, 2)
            ]
        ),
        _finite(forest.oob_score_),
        len(target),
    )


def _sorted(shares: Sequence[tuple[tuple[str, ...], Floats]]) -> tuple[Share, ...]:
    made = [Share(names, float(found.mean()), float(found.std())) for names, found in shares]
    return tuple(sorted(made, key=lambda share: -share.share))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _order(gene: Gene, codes: NDArray[np.int64], target: Floats) -> NDArray[np.int64]:
    """The levels in the order in which a tree may split them: numbers by size, `ABSENT` last, words
    by their mean score."""
    count = len(gene.levels)
    if gene.ordered:
        return np.arange(count)
    rows = np.bincount(codes, minlength=count)
    means = np.bincount(codes, target, minlength=count) / np.maximum(rows, 1)
    return np.argsort(means, kind="stable")


def _weights(gene: Gene, order: NDArray[np.int64], codes: NDArray[np.int64]) -> Floats:
    """What each level weighs, in their order; 1 together."""
    absent = np.array([gene.levels[level] == ABSENT for level in order])
    missing = float(absent[codes].mean())
    return np.where(absent, missing, (1 - missing) / max(1, int((~absent).sum())))


def fit(codes: NDArray[np.int64], target: Floats, seed: int) -> Any:
    """A forest of regression trees of codes (N, G)."""
    import warnings

    from sklearn.ensemble import RandomForestRegressor  # takes a second, and words do without

    forest = RandomForestRegressor(
        TREES, max_features=0.5, min_samples_leaf=2, oob_score=True, random_state=seed, n_jobs=1
    )
    with warnings.catch_warnings():  # of a row that every tree was fitted to
        warnings.simplefilter("ignore", UserWarning)
        return forest.fit(codes, target)


def leaves(
    tree: Any, weights: Sequence[Floats]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """The box of levels of each leaf, from `low` (L, G) to below `high` (L, G), and its value (L,);
    `tree` is the `tree_` of one of scikit-learn."""
    lows, highs, values = [], [], []
    sizes = np.array([len(weight) for weight in weights], np.int64)
    todo = [(0, np.zeros_like(sizes), sizes)]
    while todo:
        node, low, high = todo.pop()
        left, right = tree.children_left[node], tree.children_right[node]
        if left == right:
            lows.append(low)
            highs.append(high)
            values.append(float(tree.value[node].ravel()[0]))
            continue
        gene, border = tree.feature[node], math.floor(tree.threshold[node]) + 1
        below, above = high.copy(), low.copy()
        below[gene], above[gene] = min(high[gene], border), max(low[gene], border)
        todo += [(left, low, below), (right, above, high)]
    return np.array(lows), np.array(highs), np.array(values)


class Decomposed:
    """The variance of a tree over the whole space, by genes.

    `low` and `high` (L, G) and `values` (L,) are those of `leaves`; `weights` has for each gene
    what its levels weigh, 1 together.
    """

    def __init__(
        self,
        low: NDArray[np.int64],
        high: NDArray[np.int64],
        values: Floats,
        weights: Sequence[Floats],
    ):
        self._low, self._high, self._weights = low, high, weights
        until = [np.concatenate([[0.0], np.cumsum(weight)]) for weight in weights]
        columns = range(len(weights))
        self._parts = np.stack([until[g][high[:, g]] - until[g][low[:, g]] for g in columns], 1)
        volumes = self._parts.prod(axis=1)
        self._mass = volumes * values
        self.mean = float(self._mass.sum())
        self.variance = float((volumes * (values - self.mean) ** 2).sum())

    def effect(self, g: int) -> Floats:
        """How far the mean, where the gene has each of its levels, is from the mean of all."""
        steps = np.zeros(len(self._weights[g]) + 1)
        shares = self._mass / self._parts[:, g]
        np.add.at(steps, self._low[:, g], shares)
        np.add.at(steps, self._high[:, g], -shares)
        return np.cumsum(steps)[:-1] - self.mean

    def single(self, g: int) -> float:
        """The share of the variance that the gene explains alone."""
        return float(self._weights[g] @ self.effect(g) ** 2) / self.variance

    def pair(self, a: int, b: int) -> float:
        """The share that two genes explain together, beyond what each does alone."""
        steps = np.zeros((len(self._weights[a]) + 1, len(self._weights[b]) + 1))
        shares = self._mass / (self._parts[:, a] * self._parts[:, b])
        for rows, sign in ((self._low, 1), (self._high, -1)):
            np.add.at(steps, (rows[:, a], self._low[:, b]), sign * shares)
            np.add.at(steps, (rows[:, a], self._high[:, b]), -sign * shares)
        together = steps.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] - self.mean
        beyond = together - self.effect(a)[:, None] - self.effect(b)[None, :]
        return float(self._weights[a] @ beyond**2 @ self._weights[b]) / self.variance
