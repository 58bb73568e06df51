"""A Gaussian process over rows of categorical codes: what a few evaluations say of other rows.

The covariance of rows x and x' is

    k = a (1 - S) + p exp(-r S) + c exp(-q C) + f exp(-F / 2 l^2) + u u' (b + d exp(-r S))

- S is the weighted share of variables in which they differ: the sum of w_v d_v with weights that
  sum to 1. Of two codes of one variable, d is (1 - o) [they differ] + o |their difference| / (its
  maximum): the ordinality o is learnt, so that codes that stand in an order are used as such, and
  others are not. A variable that is active in one row only differs by 1; in neither, by 0.
- `a` carries main effects (the sum of effects of single variables has this covariance), `p` all
  interactions, like the categorical kernel of CASMOPOLITAN (Wan et al., 2021, arXiv 2102.07188).
  Differs: one set of weights serves both, so that there is little to learn.
- C is the squared distance of how often each code occurs among variables of one kind (those with
  the same choices), over their number: what a choice is worth may be much the same in all layers.
- F is the squared distance of numeric features.
- u is 1 - fidelity, so that all in the last term vanishes for full evaluations: `b` is what lower
  fidelities have in common, `d` where they rank rows otherwise (the linear truncated kernel of
  Wu et al., 2019, arXiv 1903.04703, with exponents of 1).

Observations have noise; the mean is a constant, estimated (Rasmussen and Williams, 2006, "Gaussian
Processes for Machine Learning", section 2.7). Hyperparameters maximise the marginal likelihood
(equation 5.8 there) times log-normal priors.

Shapes: N observations, B rows to predict, V variables, D slots (one for each code of each variable,
and one for "inactive"), C counts, F features, P hyperparameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize
from scipy.special import ndtri
from scipy.stats import rankdata

from space.decisions import Codes

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

# Median and deviation of the logarithm of each hyperparameter, for values of variance 1; of
# `ordinal` it is the logit. `weight` stands for all V. Chosen by hand: weights' deviations of 0.5,
# rates of 2 or 8 and counts of 0.1 changed the mean of NAS-Bench-Macro by no more than its error
# (1.7 of 22 evaluations). What each part is good for, mean evaluations until one of the best 0.1 %
# on NAS-Bench-Macro (100 seeds) and NAS-Bench-Graph arxiv by validation (40): all 22 and 37;
# without counts 26 and 49; all weights equal 20 and 47; no ordinality 22 and 49.
PRIORS = {
    "weight": (0.0, 1.0),
    "ordinal": (-1.0, 1.5),
    "rate": (np.log(4.0), 0.7),
    "additive": (np.log(0.5), 1.0),
    "product": (np.log(0.5), 1.0),
    "counts": (np.log(0.3), 1.0),
    "counts_rate": (0.0, 0.7),
    "features": (np.log(0.3), 1.0),
    "features_scale": (0.0, 0.7),
    "bias": (np.log(0.5), 1.0),
    "fading": (np.log(0.1), 1.0),
    "noise": (np.log(0.02), 1.5),
}
_NAMES = tuple(PRIORS)[1:]
_BOUND = 3.0  # deviations of the prior: further out the likelihood is flat and exp may overflow
_FLOOR = 0.3  # with 1, NAS-Bench-Macro takes 25.8 evaluations and not 20.7 (means, 100 seeds)
_JITTER = 1e-6  # a row may be observed twice
_MEAN_VARIANCE = 100.0  # of the constant mean's prior: vague, for values of variance 1
_ITERATIONS = 20, 10  # of a first fit, and from where the last one ended


@dataclass(frozen=True)
class Encoded:
    """Rows as the covariance takes them: the slot of each variable (B, V), the same one-hot (B, D),
    counts (B, C), features (B, F) and fidelity (B,)."""

    slots: Codes
    one_hot: Floats
    counts: Floats
    features: Floats
    fidelity: Floats

    def __len__(self) -> int:
        return len(self.one_hot)

    def __getitem__(self, rows: Any) -> Encoded:
        parts = (self.slots, self.one_hot, self.counts, self.features, self.fidelity)
        return Encoded(*(part[rows] for part in parts))


class Encoder:
    """Rows of variables with `cardinalities` (V,). `kinds` (V,) says which have the same choices;
    without it these are the ones with equally many."""

    def __init__(self, cardinalities: Codes, kinds: Sequence[int] | Codes | None = None):
        self.cardinalities = np.asarray(cardinalities, np.int64)
        self.kinds = np.asarray(self.cardinalities if kinds is None else kinds)
        slots = self.cardinalities + 1
        self.begins = np.cumsum(slots) - slots
        self.parts = self.begins, slots  # where each variable's slots begin, and how many they are
        self.variable = np.repeat(np.arange(len(slots)), slots)  # of each slot, (D,)
        self.near = np.eye(len(self.variable))  # 1 - |difference| / maximum inside a variable
        for begin, many in zip(self.begins, self.cardinalities, strict=True):
            steps = np.abs(np.subtract.outer(np.arange(many), np.arange(many)))
            self.near[begin : begin + many, begin : begin + many] = 1 - steps / max(many - 1, 1)
        self._shared = [g for k in np.unique(self.kinds) if len(g := self._of(k)) > 1]
        self._counting = self._count_matrix()

    @property
    def has_order(self) -> bool:
        return bool((self.cardinalities > 2).any())

    @property
    def has_counts(self) -> bool:
        return bool(self._shared)

    def _of(self, kind: Any) -> Codes:
        return np.flatnonzero(self.kinds == kind)

    def _count_matrix(self) -> Floats:
        """(D, C): what a slot adds to the counts. Inactive variables are not counted."""
        columns = []
        for members in self._shared:
            block = np.zeros((len(self.variable), self.cardinalities[members].max()))
            for v in members:
                codes = np.arange(self.cardinalities[v])
                block[self.begins[v] + codes, codes] = 1 / np.sqrt(len(members))
            columns.append(block)
        return np.concatenate([np.zeros((len(self.variable), 0)), *columns], axis=1)

    def encode(
        self,
        codes: Codes,
        active: Mask,
        features: Floats | None = None,
        fidelity: Floats | None = None,
        dtype: Any = np.float64,
    ) -> Encoded:
        """Of codes (B, V) and which of them matter (B, V); without `fidelity` all is full."""
        many = len(codes)
        slots = self.begins + np.where(active, codes, self.cardinalities)
        one_hot = np.zeros((many, len(self.variable)), dtype)
        one_hot[np.arange(many)[:, None], slots] = 1
        extra = np.zeros((many, 0)) if features is None else features
        full = np.ones(many) if fidelity is None else fidelity
        counts = one_hot @ self._counting.astype(dtype)
        return Encoded(slots, one_hot, counts, extra.astype(dtype), full.astype(dtype))


class Scales(dict[str, float]):
    """Hyperparameters by name; `weight` (V,) beside them, which sum to 1."""

    weight: Floats

    def __init__(self, theta: Floats):
        split = len(theta) - len(_NAMES)
        super().__init__(zip(_NAMES, np.exp(theta[split:]).tolist(), strict=True))
        self["ordinal"] = self["ordinal"] / (1 + self["ordinal"])
        raised = np.exp(theta[:split] - theta[:split].max())
        self.weight = raised / raised.sum()


class Covariance:
    """The covariance at one vector of hyperparameters. Large arrays are changed in place, since
    most of the time goes into fetching memory."""

    def __init__(self, encoder: Encoder, theta: Floats):
        self.encoder, self.scales = encoder, Scales(theta)
        o = self.scales["ordinal"]
        self._blocks = o * encoder.near  # (D, D): the weighted similarity of two slots
        self._blocks[np.diag_indices(len(encoder.near))] += 1 - o
        self._blocks *= self.scales.weight[encoder.variable, None]

    def weigh(self, rows: Encoded) -> Floats:
        """One-hot rows times the blocks, (N, D)."""
        # Row by row an entry of each block is all there is to it: a tenth of the product's time.
        weighed = np.empty_like(rows.one_hot)
        for v, (begin, many) in enumerate(zip(*self.encoder.parts, strict=True)):
            part = slice(begin, begin + many)
            block = self._blocks[part, part].astype(weighed.dtype, copy=False)
            weighed[:, part] = block[rows.slots[:, v] - begin]
        return weighed

    def difference(self, weighed: Floats, rows: Encoded) -> Floats:
        """S of rows that are weighed already, (A, D), and others (B): (A, B)."""
        alike = weighed @ rows.one_hot.T
        return np.subtract(1, alike, out=alike)

    def between(self, a: Encoded, b: Encoded, weighed: Floats | None = None) -> Floats:
        """k of all pairs without noise, (A, B); `weighed` is that of `a`, where it is at hand."""
        scales = self.scales
        total = self.difference(self.weigh(a) if weighed is None else weighed, b)
        product = np.multiply(total, -scales["rate"])
        np.exp(product, out=product)
        np.subtract(1, total, out=total)
        total *= scales["additive"]
        if (a.fidelity < 1).any() and (b.fidelity < 1).any():
            missing = np.outer(1 - a.fidelity, 1 - b.fidelity)
            total += missing * (scales["bias"] + scales["fading"] * product)
        product *= scales["product"]
        total += product
        if self.encoder.has_counts:
            total += _bell(a.counts, b.counts, scales["counts"], scales["counts_rate"])
        if b.features.shape[1]:
            rate = 0.5 / scales["features_scale"] ** 2
            total += _bell(a.features, b.features, scales["features"], rate)
        return total

    def variance(self, rows: Encoded) -> Floats:
        """k of each row with itself, (B,)."""
        scales = self.scales
        total = scales["additive"] + scales["product"]
        total += scales["counts"] * self.encoder.has_counts
        total += scales["features"] * (rows.features.shape[1] > 0)
        return total + (1 - rows.fidelity) ** 2 * (scales["bias"] + scales["fading"])


class Kernel:
    """The covariance over rows of `encoder`; theta (P,) is the vector of hyperparameters."""

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        rows = [PRIORS["weight"]] * len(encoder.cardinalities) + [PRIORS[n] for n in _NAMES]
        self.prior_mean, self.prior_deviation = np.array(rows, float).T

    def free(self, rows: Encoded) -> Mask:
        """Which hyperparameters these observations say anything of, (P,)."""
        known = dict.fromkeys(_NAMES, True)
        known["ordinal"] = self.encoder.has_order
        known["counts"] = known["counts_rate"] = self.encoder.has_counts
        known["features"] = known["features_scale"] = rows.features.shape[1] > 0
        known["bias"] = known["fading"] = bool((rows.fidelity < 1).any())
        several = len(self.encoder.cardinalities) > 1
        return np.array([several] * len(self.encoder.cardinalities) + [*known.values()])

    def at(self, theta: Floats) -> Covariance:
        return Covariance(self.encoder, theta)

    def loss(self, theta: Floats, rows: Encoded, values: Floats) -> tuple[float, Floats]:
        """Minus the logarithm of likelihood times prior, up to a constant, and its gradient (P,).

        The estimated mean maximises it too, so that the gradient needs no term for the mean.
        """
        at, encoder, n = self.at(theta), self.encoder, len(rows)
        scales, weighed = at.scales, at.weigh(rows)
        share = at.difference(weighed, rows)
        product = np.exp(-scales["rate"] * share)
        missing = np.outer(1 - rows.fidelity, 1 - rows.fidelity)
        covariance = at.between(rows, rows, weighed)
        covariance[np.diag_indices(n)] += scales["noise"] + _JITTER
        factor = np.linalg.cholesky(covariance)
        inverse = _inverse(factor)
        mean = _constant(inverse.sum(axis=1), values)
        weights = inverse @ (values - mean)
        loss = 0.5 * float((values - mean) @ weights) + float(np.log(np.diag(factor)).sum())
        loss += 0.5 * mean**2 / _MEAN_VARIANCE
        slope = 0.5 * (inverse - np.outer(weights, weights))  # of the loss in the covariance
        by_product = slope * product
        both = scales["product"] + scales["fading"] * missing
        by_share = -scales["additive"] * slope - scales["rate"] * both * by_product
        same, near = self._by_slot(rows, by_share @ rows.one_hot)
        o = scales["ordinal"]
        alike = np.bincount(encoder.variable, (1 - o) * same + o * near)
        of = dict.fromkeys(_NAMES, 0.0)
        turned = float(scales.weight[encoder.variable] @ (same - near))
        of["ordinal"] = turned * o * (1 - o)
        of["rate"] = -scales["rate"] * float((both * by_product * share).sum())
        of["additive"] = scales["additive"] * float((slope * (1 - share)).sum())
        of["product"] = scales["product"] * float(by_product.sum())
        if encoder.has_counts:
            away = _squared(rows.counts, rows.counts)
            part = slope * scales["counts"] * np.exp(-scales["counts_rate"] * away)
            of["counts"] = float(part.sum())
            of["counts_rate"] = -scales["counts_rate"] * float((part * away).sum())
        if rows.features.shape[1]:
            away = _squared(rows.features, rows.features) / scales["features_scale"] ** 2
            part = slope * scales["features"] * np.exp(-0.5 * away)
            of["features"] = float(part.sum())
            of["features_scale"] = float((part * away).sum())
        of["bias"] = scales["bias"] * float((slope * missing).sum())
        of["fading"] = scales["fading"] * float((by_product * missing).sum())
        of["noise"] = scales["noise"] * float(np.trace(slope))
        spread = -scales.weight * (alike - scales.weight @ alike)
        away = (theta - self.prior_mean) / self.prior_deviation
        gradient = np.concatenate([spread, [of[name] for name in _NAMES]])
        return loss + 0.5 * float(away @ away), gradient + away / self.prior_deviation

    def _by_slot(self, rows: Encoded, summed: Floats) -> tuple[Floats, Floats]:
        """The slope in S (N, N), times the one-hot rows (N, D), as sums over all pairs of a slot
        (D,): those that have it both, and all pairs in its variable weighted with `near`."""
        same, near = np.empty(summed.shape[1]), np.empty(summed.shape[1])
        for begin, many in zip(*self.encoder.parts, strict=True):
            part = slice(begin, begin + many)
            pairs = rows.one_hot[:, part].T @ summed[:, part]
            same[part] = np.diag(pairs)
            near[part] = (pairs * self.encoder.near[part, part]).sum(axis=1)
        return same, near

    def fit(self, rows: Encoded, values: Floats, start: Floats | None = None) -> Floats:
        """The hyperparameters (P,) that suit values (N,) of mean 0 and variance 1 best, sought
        from `start` on, or from the prior's median."""
        free, theta = self.free(rows), self.prior_mean.copy()
        low = self.prior_mean - _BOUND * self.prior_deviation
        high = self.prior_mean + _BOUND * self.prior_deviation

        def partial(chosen: Floats) -> tuple[float, Floats]:
            theta[free] = chosen
            loss, gradient = self.loss(theta, rows, values)
            return loss, gradient[free]

        found = minimize(
            partial,
            (self.prior_mean if start is None else start)[free],
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(low[free], high[free], strict=True)),
            options={"maxiter": _ITERATIONS[start is not None]},
        )
        theta[free] = found.x
        return theta


class Posterior:
    """What values (N,) of rows, at hyperparameters theta, say of all others."""

    def __init__(self, kernel: Kernel, theta: Floats, rows: Encoded, values: Floats):
        self.covariance, self._rows = kernel.at(theta), rows
        self.noise = self.covariance.scales["noise"] + _JITTER
        self._weighed = self.covariance.weigh(rows)
        covariance = self.covariance.between(rows, rows, self._weighed).astype(float)
        covariance[np.diag_indices(len(rows))] += self.noise
        self._factor = np.linalg.cholesky(covariance)
        ones = cho_solve((self._factor, True), np.ones(len(rows)), check_finite=False)
        self._mean = _constant(ones, values)
        left = values - self._mean
        self._weights = cho_solve((self._factor, True), left, check_finite=False)
        self.settled = values - self.noise * self._weights  # means at the rows themselves, (N,)

    def mean(self, rows: Encoded) -> Floats:
        """Means alone, (B,)."""
        return self._expect(self.covariance.between(self._rows, rows, self._weighed))

    def _expect(self, cross: Floats) -> Floats:
        return (self._mean + self._weights.astype(cross.dtype) @ cross).astype(float)

    def predict(self, rows: Encoded) -> Prediction:
        """Of rows in the precision of those observed; single precision halves the time."""
        cross = self.covariance.between(self._rows, rows, self._weighed)
        mean = self._expect(cross)
        factor = np.asfortranarray(self._factor, cross.dtype)
        half = solve_triangular(factor, cross, lower=True, check_finite=False)
        variance = self.covariance.variance(rows) - np.einsum("nb,nb->b", half, half)
        return Prediction(self, rows, mean, variance.astype(float), half)


class Prediction:
    """Means and deviations of rows (B,), without the noise of an observation.

    `believe(j)` takes row j as observed with its mean for the outcome, as asks that are not told
    yet are (the kriging believer: Ginsbourger et al., 2010, "Kriging is well-suited to parallelize
    optimization"). Means stay what they are; deviations shrink.
    """

    def __init__(
        self, posterior: Posterior, rows: Encoded, mean: Floats, variance: Floats, half: Floats
    ):
        self._posterior, self._rows, self.mean = posterior, rows, mean
        self._variance, self._half = variance, half
        self._believed: list[Floats] = []  # rows of the grown factor times the rows, each (B,)

    @property
    def deviation(self) -> Floats:
        return np.sqrt(np.maximum(self._variance, 1e-9))

    def believe(self, j: int) -> None:
        """One more row of the factor (Rasmussen and Williams, 2006, appendix A.3, by blocks)."""
        cross = self._posterior.covariance.between(self._rows[j : j + 1], self._rows)[0]
        cross = cross - self._half[:, j] @ self._half
        for row in self._believed:
            cross = cross - row[j] * row
        pivot = np.sqrt(max(float(self._variance[j]), 1e-9) + self._posterior.noise)
        row = cross.astype(float) / pivot
        self._believed.append(row)
        self._variance = self._variance - row * row


class Scores:
    """Values (N,) on a scale that suits a Gaussian process, and the way back, linear in pieces.

    Accuracies have a long lower tail that says nothing of the top: with the values themselves the
    search takes 26 evaluations on NAS-Bench-Macro and 40 on NAS-Bench-Graph arxiv where with
    normal scores it takes 19 and 24 (medians of the same 20 and 10 seeds).

    `raw` (K,) and `scores` (K,), both rising, are the ends of the pieces, at most `pieces` + 1.
    """

    def __init__(self, values: Floats, scores: Floats, pieces: int = 11):
        self.observed = (scores - scores.mean()) / (float(scores.std()) or 1.0)  # (N,)
        raw, first = np.unique(values, return_index=True)
        ends = np.unique(np.round(np.linspace(0, len(raw) - 1, pieces + 1)).astype(int))
        self.raw, self.scores = raw[ends], self.observed[first][ends]
        if len(ends) == 1:  # nothing is known of the scale
            self.raw, self.scores = self.raw + np.arange(2), self.scores + np.arange(2)
        self.slopes = np.diff(self.raw) / np.diff(self.scores)

    @classmethod
    def by_rank(cls, values: Floats) -> Scores:
        """Standard normal scores of ranks."""
        return cls(values, ndtri((rankdata(values) - 0.5) / len(values)))

    @classmethod
    def by_regret(cls, values: Floats) -> Scores:
        """Minus the logarithm of the distance to the best, so that what tells the best apart has
        most of the scale. The distance is in units of its median, and `_FLOOR` is added."""
        regret = values.max() - values
        unit = float(np.median(regret)) or float(regret.max()) or 1.0
        return cls(values, -np.log(regret / unit + _FLOOR))

    def score(self, raw: Floats) -> Floats:
        """Scores of raw values, by the pieces; beyond the ends the outer pieces go on."""
        piece = np.clip(np.searchsorted(self.raw, raw, side="right") - 1, 0, len(self.slopes) - 1)
        return self.scores[piece] + (raw - self.raw[piece]) / self.slopes[piece]

    def value(self, scores: Floats) -> Floats:
        """The inverse of `score`."""
        piece = np.searchsorted(self.scores, scores, side="right") - 1
        piece = np.clip(piece, 0, len(self.slopes) - 1)
        return self.raw[piece] + (scores - self.scores[piece]) * self.slopes[piece]


def _constant(ones: Floats, values: Floats) -> float:
    """The mean's posterior mean; `ones` is the inverse covariance times a vector of ones."""
    return float(ones @ values) / (float(ones.sum()) + 1 / _MEAN_VARIANCE)


def _squared(a: Floats, b: Floats) -> Floats:
    """Squared distances of the rows of a (A, C) and b (B, C), (A, B)."""
    away = a @ b.T
    away *= -2
    away += (a * a).sum(axis=1)[:, None]
    away += (b * b).sum(axis=1)
    return np.maximum(away, 0, out=away)


def _bell(a: Floats, b: Floats, height: float, rate: float) -> Floats:
    """height * exp(-rate * squared distance) of all pairs, (A, B)."""
    away = _squared(a, b)
    away *= -rate
    np.exp(away, out=away)
    away *= height
    return away


def _inverse(factor: Floats) -> Floats:
    """The inverse of a matrix whose lower Cholesky factor this is."""
    lower, failed = dpotri(np.asfortranarray(factor), lower=1)
    assert not failed
    return np.tril(lower) + np.tril(lower, -1).T
