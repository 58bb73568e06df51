"""What a few timings say of all others: a Gaussian process for functions that are sums over parts.

    latency(network) = offset + scale * sum over its parts of f(features of the part)
    f(part) = m(part) * exp(g(part)),    g ~ GP(0, k)

Timings are of whole networks, of single parts, or of both, each with a relative error. A part that
was never timed is predicted from its relatives.

- m is a roofline made additive: a constant, and so much for each MAC and each byte (the `amounts`),
  for all parts and again for each kind. Weights are not negative and are fitted to relative errors
  (Lawson and Hanson, 1974, "Solving Least Squares Problems", chapter 23). They are drawn towards
  equal shares of the columns, so that no part costs nothing.
- k says what g, the logarithm of what m misses, has in common in two parts:

      k = c + a (1 - S) + l Z + p exp(-r S - D / 2) + o [same part]

  S is the weighted share of categories (kind and settings) in which they differ, Z the mean product
  and D the squared distance, by a length for each, of their standardised numbers.
- Everything is relative, as errors of timings are, and no latency can be negative. The logarithm of
  a sum is not linear in g: it is made so where g is, and g found again, until it stays (Gauss and
  Newton; this is Laplace's approximation for this likelihood: Rasmussen and Williams, 2006,
  "Gaussian Processes for Machine Learning", section 3.4; one pass is the linear f = m (1 + g)).
- `scale`, near 1, is what a part costs in a network over what it costs in its own timing. Networks
  may miss the sum by an error of their own (`misfit`), which is part of their deviation.
- Hyperparameters maximise the marginal likelihood (equation 5.8 there) times log-normal priors, on
  at most `_SUBSET` timings.

Shapes: P parts, C categories, F numbers, A amounts, N timings (those of parts first), U unknowns:
g of all parts, then the logarithms of offset and scale beside where they are thought to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import block_diag, cho_solve, solve_triangular
from scipy.optimize import minimize, nnls
from scipy.sparse import csr_array, hstack, vstack

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

# Median and deviation of the logarithm of each hyperparameter; variances are those of relative
# errors. `weight` stands for one of each category, `length` for one of each number.
PRIORS = {
    "weight": (0.0, 1.0),
    "length": (np.log(2.0), 0.7),
    "rate": (np.log(2.0), 0.7),
    "additive": (np.log(0.02), 1.5),
    "linear": (np.log(0.02), 1.5),
    "product": (np.log(0.04), 1.5),
    "own": (np.log(0.0025), 2.0),
    "unstated": (np.log(1e-4), 2.0),
    "misfit": (np.log(1e-4), 2.0),
}
_NAMES = tuple(PRIORS)[2:]
_BOUND = 3.0  # deviations of the prior
_CONSTANT = 0.25  # variance of what all g have in common
_OFFSET = 1.0  # of the logarithm of the offset
_SCALE = 0.04  # of the logarithm of the scale
_JITTER = 1e-10
_SUBSET = 400
_ITERATIONS = 30, 15  # of the search for hyperparameters, where m is all that is known and then
_PASSES, _SETTLED = 20, 1e-6  # passes of Gauss and Newton, and the largest change that ends them
_EQUAL = 0.1  # how strongly the roofline's columns are drawn towards equal shares
_CHUNK = 4096  # networks whose deviations are found at once
_LEAST = 1e-3  # of the mean latency of parts: less than that no part is thought to cost before


@dataclass(frozen=True)
class Features:
    """What is known of parts before any is timed.

    `categories` (P, C): codes of what has no order; the first column is the kind. `amounts`
    (P, A): what latency is thought to grow with linearly, not negative: MACs, bytes. `numbers`
    (P, F): what relatives are near in, logarithms as a rule. Equal rows are the same part.
    """

    categories: Integers
    amounts: Floats
    numbers: Floats

    @classmethod
    def of(
        cls,
        kinds: ArrayLike,
        settings: ArrayLike | None = None,
        amounts: ArrayLike | None = None,
        sizes: ArrayLike | None = None,
    ) -> Features:
        """From arrays of P rows: kinds (P,), integers; settings (P, S), integers; amounts (P, A)
        and sizes (P, ...), channels or sides, both not negative, of which logarithms are taken.
        ValueError where they do not fit one another."""
        kind = np.asarray(kinds, np.int64)
        many = len(kind)
        setting = np.zeros((many, 0), np.int64) if settings is None else np.asarray(settings)
        amount = np.zeros((many, 0)) if amounts is None else np.asarray(amounts, float)
        size = np.zeros((many, 0)) if sizes is None else np.asarray(sizes, float)
        for name, rows in (("settings", setting), ("amounts", amount), ("sizes", size)):
            if rows.ndim != 2 or len(rows) != many:
                raise ValueError(f"{name}: shape {rows.shape}, but there are {many} parts")
            if name != "settings" and not (np.isfinite(rows).all() and (rows >= 0).all()):
                raise ValueError(f"{name} must be finite and not negative")
        numbers = np.concatenate([amount, size], axis=1)
        least = np.min(numbers, axis=0, where=numbers > 0, initial=np.inf)
        least = np.where(np.isfinite(least), least, 1.0)
        categories = np.concatenate([kind[:, None], setting.astype(np.int64)], axis=1)
        return cls(categories, amount, np.log(numbers + least))

    def __len__(self) -> int:
        return len(self.categories)

    def __getitem__(self, parts: Any) -> Features:
        return Features(self.categories[parts], self.amounts[parts], self.numbers[parts])

    def rows(self) -> Floats:
        """All of it, (P, C + A + F)."""
        return np.concatenate([self.categories, self.amounts, self.numbers], axis=1)


def counts(networks: Sequence[ArrayLike] | Integers, parts: int) -> csr_array:
    """(N, P): how often each network has each part. A network is the indices of its parts, which
    may repeat; in an array, -1 is no part. ValueError for an index that no part has."""
    if isinstance(networks, np.ndarray) and networks.ndim == 2:
        row, column = np.nonzero(networks >= 0)
        index = networks[row, column]
    else:
        lists = [np.asarray(each, np.int64).ravel() for each in networks]
        row = np.repeat(np.arange(len(lists)), [len(each) for each in lists])
        index = np.concatenate([np.zeros(0, np.int64), *lists])
    if len(index) and not (index.min() >= 0 and index.max() < parts):
        raise ValueError(f"networks: part {index.max()} or {index.min()}, but there are {parts}")
    return csr_array((np.ones(len(row)), (row, index)), shape=(len(networks), parts))


class Scales(dict[str, float]):
    """Hyperparameters by name; beside them `weight` (C,), which sum to 1, and `length` (F,)."""

    def __init__(self, theta: Floats, categories: int):
        values = np.exp(theta)
        lengths = len(theta) - len(_NAMES)
        super().__init__(zip(_NAMES, values[lengths:].tolist(), strict=True))
        self.weight = values[:categories] / values[:categories].sum()
        self.length = values[categories:lengths]


class Pairs:
    """What the covariance takes of all pairs of parts of two tables, (A, B) each."""

    def __init__(self, a: Features, b: Features, units: tuple[Floats, Floats]):
        centre, spread = units
        x, y = (a.numbers - centre) / spread, (b.numbers - centre) / spread
        codes = zip(a.categories.T, b.categories.T, strict=True)
        self.differ = np.array([np.not_equal.outer(u, v) for u, v in codes], np.float32)
        away = [np.subtract.outer(u, v) ** 2 for u, v in zip(x.T, y.T, strict=True)]
        self.away = np.array(away, np.float32).reshape(-1, len(a), len(b))
        self.product = x @ y.T / max(x.shape[1], 1)
        _, rows = np.unique(np.concatenate([a.rows(), b.rows()]), axis=0, return_inverse=True)
        self.same = np.equal.outer(rows[: len(a)], rows[len(a) :])

    def bell(self, scales: Scales) -> tuple[Floats, Floats]:
        """S and exp(-r S - D / 2)."""
        share = np.tensordot(scales.weight, self.differ, 1)
        far = scales["rate"] * share
        if len(scales.length):
            far += np.tensordot(0.5 / scales.length**2, self.away, 1)
        return share, np.exp(-far)

    def covariance(self, scales: Scales) -> Floats:
        share, bell = self.bell(scales)
        return self.join(scales, share, bell)

    def join(self, scales: Scales, share: Floats, bell: Floats) -> Floats:
        total = scales["product"] * bell + scales["linear"] * self.product
        total += _CONSTANT + scales["additive"] * (1 - share)
        total += scales["own"] * self.same
        return total


@dataclass(frozen=True)
class Timings:
    """Timings of single parts, then of networks: their logarithms (N,), relative errors (N,),
    which `parts` were timed, and how often each network has each part (networks, P)."""

    logarithms: Floats
    errors: Floats
    parts: Integers
    networks: csr_array

    @classmethod
    def of(
        cls,
        parts: Integers,
        part_ms: Floats,
        part_error: ArrayLike,
        networks: csr_array,
        network_ms: Floats,
        network_error: ArrayLike,
    ) -> Timings:
        sizes = len(parts), networks.shape[0]
        if sizes != (len(part_ms), len(network_ms)) or not sum(sizes):
            raise ValueError(
                f"{len(part_ms)} and {len(network_ms)} timings of {sizes[0]} parts and "
                f"{sizes[1]} networks"
            )
        ms = np.concatenate([part_ms, network_ms]).astype(float)
        errors = np.broadcast_to(part_error, sizes[0]), np.broadcast_to(network_error, sizes[1])
        error = np.concatenate(errors).astype(float)
        if not (np.isfinite(ms).all() and (ms > 0).all()):
            raise ValueError("timings must be finite and positive")
        if not (np.isfinite(error).all() and (error >= 0).all()):
            raise ValueError("relative errors must be finite and not negative")
        return cls(np.log(ms), error, parts, networks)

    def __len__(self) -> int:
        return len(self.logarithms)

    @property
    def is_network(self) -> NDArray[np.bool_]:
        return np.arange(len(self)) >= len(self.parts)

    def variances(self, scales: Scales) -> Floats:
        """Of what a timing and a sum of parts differ by, (N,): the stated errors; for parts without
        one a learnt error; for networks what sums miss."""
        unstated = scales["unstated"] * (self.errors == 0)
        return self.errors**2 + np.where(self.is_network, scales["misfit"], unstated) + _JITTER

    @property
    def mixed(self) -> bool:
        return 0 < len(self.parts) < len(self)

    @property
    def sums(self) -> csr_array:
        """(N, P): which parts each timing is of."""
        ones = np.ones(len(self.parts))
        rows = np.arange(len(self.parts)), self.parts
        alone = csr_array((ones, rows), shape=(len(self.parts), self.networks.shape[1]))
        return csr_array(vstack([alone, self.networks]))

    def on(self, kept: Integers) -> Timings:
        """The same of a smaller table, that of the parts `kept`, which rise."""
        networks = csr_array(self.networks[:, kept])
        return Timings(self.logarithms, self.errors, np.searchsorted(kept, self.parts), networks)

    def some(self, many: int) -> Timings:
        """At most so many, half of each sort where both have them; always the same ones."""
        alone, whole = len(self.parts), self.networks.shape[0]
        share = min(alone, max(many // 2, many - whole))
        rng = np.random.default_rng(0)
        a = np.sort(rng.permutation(alone)[:share])
        b = np.sort(rng.permutation(whole)[: many - share])
        kept = np.concatenate([a, alone + b])
        return Timings(self.logarithms[kept], self.errors[kept], self.parts[a], self.networks[b])


@dataclass(frozen=True)
class Roofline:
    """What parts cost as far as their amounts say: a weight of each column, ms for one of it, and
    the offset of networks, ms."""

    kinds: Integers
    weights: Floats
    least_ms: float
    offset_ms: float

    @classmethod
    def fit(cls, features: Features, timings: Timings) -> Roofline:
        kinds = np.unique(features.categories[:, 0])
        sums, inverse = timings.sums, np.exp(-timings.logarithms)[:, None]
        columns = sums @ _columns(features, kinds)
        design = np.concatenate([columns, 1.0 * timings.is_network[:, None]], axis=1)
        design *= inverse  # so that what is left are relative errors
        shares = design.mean(axis=0)
        used = shares > 0
        pull = _EQUAL * np.sqrt(len(timings))
        # In units in which a column with weight 1 is a whole latency on average.
        rows = np.concatenate([design[:, used] / shares[used], pull * np.eye(used.sum())])
        target = np.concatenate([np.ones(len(timings)), np.full(used.sum(), pull / used.sum())])
        weights = np.zeros(len(used))
        weights[used] = nnls(rows, target)[0] / shares[used]
        mean = float((np.exp(timings.logarithms) / sums.sum(axis=1)).mean())
        return cls(kinds, weights[:-1], _LEAST * mean, float(weights[-1]))

    def ms(self, features: Features) -> Floats:
        """Of each part, (P,)."""
        return np.maximum(_columns(features, self.kinds) @ self.weights, self.least_ms)


def _columns(features: Features, kinds: Integers) -> Floats:
    """(P, columns) that the roofline is a sum of: a constant and the amounts, for all parts and
    again for each kind."""
    base = np.concatenate([np.ones((len(features), 1)), features.amounts], axis=1)
    own = [base * (features.categories[:, :1] == kind) for kind in kinds if len(kinds) > 1]
    return np.concatenate([base, *own], axis=1)


class Sums:
    """The logarithms of timings as functions of the unknowns u (U,)."""

    def __init__(self, timings: Timings, ms: Floats, offset_ms: float):
        """`ms` (P,) and `offset_ms` are the latencies where all unknowns are 0."""
        self._sums, self._network = timings.sums, timings.is_network
        self._ms, self._offset = ms, offset_ms

    def at(self, u: Floats) -> tuple[Floats, csr_array]:
        """Logarithms (N,) and their derivatives (N, U)."""
        ms = self._ms * np.exp(u[:-2])
        scale = np.where(self._network, np.exp(u[-1]), 1.0)
        offset = self._network * self._offset * np.exp(u[-2])
        parts = scale * (self._sums @ ms)
        total = offset + parts
        shares = csr_array(self._sums * (scale / total)[:, None] * ms[None, :])
        others = np.stack([offset, self._network * parts], axis=1) / total[:, None]
        return np.log(total), csr_array(hstack([shares, csr_array(others)]))


def joined(parts: Floats, mixed: bool) -> Floats:
    """The covariance of all unknowns from that of parts. The scale is known where timings are of
    one sort."""
    return block_diag(parts, np.diag([_OFFSET, _SCALE * mixed]))


class Marginal:
    """Minus the logarithm of likelihood times prior, up to a constant, as a function of the
    hyperparameters; for timings that are `slopes` (N, U) times the unknowns, with `values` (N,)."""

    def __init__(self, pairs: Pairs, timings: Timings, slopes: csr_array, values: Floats):
        self.pairs, self._slopes, self._values = pairs, slopes, values
        self._timings, self._network = timings, timings.is_network
        self._unstated = (timings.errors == 0) & ~self._network
        self._categories = len(pairs.differ)
        self._lengths = len(pairs.away)
        rows = [PRIORS["weight"]] * self._categories + [PRIORS["length"]] * self._lengths
        self.mean, self.deviation = np.array(rows + [PRIORS[n] for n in _NAMES], float).T

    def __call__(self, theta: Floats) -> tuple[float, Floats]:
        scales = Scales(theta, self._categories)
        share, bell = self.pairs.bell(scales)
        parts = self.pairs.join(scales, share, bell)
        whole = joined(parts, self._timings.mixed)
        covariance = self._slopes @ (self._slopes @ whole).T
        covariance[np.diag_indices(len(covariance))] += self._timings.variances(scales)
        factor = np.linalg.cholesky(covariance)
        inverse = cho_solve((factor, True), np.eye(len(factor)), check_finite=False)
        weights = inverse @ self._values
        loss = 0.5 * float(self._values @ weights) + float(np.log(np.diag(factor)).sum())
        slope = 0.5 * (inverse - np.outer(weights, weights))  # of the loss in the covariance
        away = (theta - self.mean) / self.deviation
        gradient = self._gradient(scales, slope, share, bell) + away / self.deviation
        return loss + 0.5 * float(away @ away), gradient

    def _gradient(self, scales: Scales, slope: Floats, share: Floats, bell: Floats) -> Floats:
        by_part = self._slopes[:, :-2].T @ (self._slopes[:, :-2].T @ slope).T  # (P, P)
        by_bell = scales["product"] * by_part * bell
        by_share = -scales["additive"] * by_part - scales["rate"] * by_bell
        weight = np.tensordot(self.pairs.differ, by_share, 2)
        length = np.tensordot(self.pairs.away, by_bell, 2) / scales.length**2
        diagonal = np.diag(slope)
        of = {
            "rate": -scales["rate"] * float((by_bell * share).sum()),
            "additive": scales["additive"] * float((by_part * (1 - share)).sum()),
            "linear": scales["linear"] * float((by_part * self.pairs.product).sum()),
            "product": float(by_bell.sum()),
            "own": scales["own"] * float(by_part[self.pairs.same].sum()),
            "unstated": scales["unstated"] * float(diagonal[self._unstated].sum()),
            "misfit": scales["misfit"] * float(diagonal[self._network].sum()),
        }
        spread = scales.weight * (weight - scales.weight @ weight)
        return np.concatenate([spread, length, [of[name] for name in _NAMES]])

    def best(self, start: Floats | None, iterations: int) -> Floats:
        """By L-BFGS-B from `start`, or from the prior's median."""
        bounds = np.stack([self.mean, self.mean], axis=1)
        bounds += _BOUND * self.deviation[:, None] * np.array([-1.0, 1.0])
        found = minimize(
            self,
            self.mean if start is None else start,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": iterations},
        )
        return found.x


class Posterior:
    """What timings say of the unknowns of the parts that they are of, at given hyperparameters.

    `weights` (U,) and `precision` (U, U) give the mean and the loss of variance of whatever has
    covariance c (U,) with these unknowns: weights @ c and c @ precision @ c.
    """

    def __init__(self, pairs: Pairs, timings: Timings, sums: Sums, scales: Scales):
        covariance = joined(pairs.covariance(scales), timings.mixed)
        variances = timings.variances(scales)
        self.unknowns = np.zeros(len(covariance))
        for _ in range(_PASSES):
            logarithms, self.slopes = sums.at(self.unknowns)
            self.values = timings.logarithms - logarithms + self.slopes @ self.unknowns
            whole = self.slopes @ (self.slopes @ covariance).T
            whole[np.diag_indices(len(variances))] += variances
            factor = np.linalg.cholesky(whole)
            self.weights = self.slopes.T @ cho_solve((factor, True), self.values)
            step = covariance @ self.weights - self.unknowns
            longest = float(np.abs(step).max())
            self.unknowns = self.unknowns + step / max(longest, 1.0)  # a factor of e in one pass
            if longest < _SETTLED:
                break
        half = solve_triangular(factor, self.slopes.toarray(), lower=True, check_finite=False)
        self.precision = half.T @ half


@dataclass(frozen=True)
class PartTable:
    """Latencies of parts, and of networks as sums of them.

    `ms` (P,) are e to the mean of the logarithm, so medians; `offset_ms` and `scale` are what
    `networks` adds to and makes of their sums. `covariance` (U, U) is that of the unknowns.
    """

    ms: Floats
    offset_ms: float
    scale: float
    misfit: float
    covariance: Floats

    def parts(self) -> tuple[Floats, Floats]:
        """Latency of each part and its standard deviation, ms, (P,) each. Errors of timings are
        not in it."""
        return self.ms, self.ms * np.sqrt(np.maximum(np.diag(self.covariance)[:-2], 0))

    def networks(self, networks: Sequence[ArrayLike] | Integers | csr_array) -> Floats:
        """Latency of each network, ms, (N,): lists of the indices of its parts, or `counts`."""
        return self.offset_ms + self.scale * (self._counts(networks) @ self.ms)

    def deviations(self, networks: Sequence[ArrayLike] | Integers | csr_array) -> Floats:
        """Their standard deviations, ms, (N,), with what networks miss sums by."""
        many, ms = self._counts(networks), self.networks(networks)
        variances = np.empty(many.shape[0])
        for begin in range(0, many.shape[0], _CHUNK):
            some = slice(begin, begin + _CHUNK)
            parts = csr_array(many[some] * (self.scale * self.ms)[None, :])
            rest = np.stack([np.full(len(ms[some]), self.offset_ms), ms[some] - self.offset_ms], 1)
            slopes = csr_array(hstack([parts, csr_array(rest)]))
            variances[some] = np.asarray(slopes.multiply(slopes @ self.covariance).sum(axis=1))
        return np.sqrt(np.maximum(variances, 0) + self.misfit * ms**2)

    def _counts(self, networks: Sequence[ArrayLike] | Integers | csr_array) -> csr_array:
        return networks if isinstance(networks, csr_array) else counts(networks, len(self.ms))


class PartRegression:
    """The Gaussian process of this file with its hyperparameters. `fit` makes it; `parts`,
    `networks` and `deviations` are those of the table of the parts that it was made with."""

    def __init__(self, features: Features, timings: Timings):
        self._observed = np.unique(timings.sums.indices)  # parts that something is known of
        self._of, known = features[self._observed], timings.on(self._observed)
        self.roofline = Roofline.fit(features[self._observed], known)
        numbers = features.numbers
        spread = numbers.std(axis=0)
        self._units = numbers.mean(axis=0), np.where(spread > 1e-9, spread, 1.0)
        self._pairs = Pairs(self._of, self._of, self._units)
        self.mixed = timings.mixed
        self._settle(known)
        self.table = self.predict(features)
        self.parts, self.networks = self.table.parts, self.table.networks
        self.deviations = self.table.deviations

    @classmethod
    def fit(
        cls,
        features: Features,
        parts: ArrayLike = (),
        part_ms: ArrayLike = (),
        part_error: ArrayLike = 0.0,
        networks: Sequence[ArrayLike] | Integers = (),
        network_ms: ArrayLike = (),
        network_error: ArrayLike = 0.0,
    ) -> PartRegression:
        """From timings of single parts (indices, ms) and of networks (lists of indices, ms), with
        relative errors, one for all or one each. That of parts is learnt where it is 0; networks
        have `misfit` beside theirs. Parts that no timing is of are predicted too.
        ValueError where there is no timing, or what is given does not fit together."""
        index = np.asarray(parts, np.int64)
        if len(index) and (index.min() < 0 or index.max() >= len(features)):
            raise ValueError(f"parts: {index.max()} or {index.min()}, of {len(features)}")
        whole = counts(networks, len(features))
        one, many = np.asarray(part_ms, float), np.asarray(network_ms, float)
        return cls(features, Timings.of(index, one, part_error, whole, many, network_error))

    def _settle(self, known: Timings) -> None:
        """Hyperparameters, by which the unknowns are linear in the timings, by which
        hyperparameters; at last the posterior from all timings."""
        some = known.some(_SUBSET)
        kept = np.unique(some.sums.indices)
        few, some = self._of[kept], some.on(kept)
        pairs = Pairs(few, few, self._units)
        sums = Sums(some, self.roofline.ms(few), self.roofline.offset_ms)
        unknowns, theta = np.zeros(len(few) + 2), None
        for iterations in _ITERATIONS:
            logarithms, slopes = sums.at(unknowns)
            values = some.logarithms - logarithms + slopes @ unknowns
            theta = Marginal(pairs, some, slopes, values).best(theta, iterations)
            self.scales = Scales(theta, self._of.categories.shape[1])
            unknowns = Posterior(pairs, some, sums, self.scales).unknowns
        sums = Sums(known, self.roofline.ms(self._of), self.roofline.offset_ms)
        self._posterior = Posterior(self._pairs, known, sums, self.scales)

    def predict(self, features: Features) -> PartTable:
        """Of any parts, also of those that were not there when it was fitted."""
        kept = self._posterior
        pairs = Pairs(features, self._of, self._units)
        cross = joined(pairs.covariance(self.scales), self.mixed)
        own = joined(Pairs(features, features, self._units).covariance(self.scales), self.mixed)
        unknowns = cross @ kept.weights
        return PartTable(
            ms=self.roofline.ms(features) * np.exp(unknowns[:-2]),
            offset_ms=self.roofline.offset_ms * float(np.exp(unknowns[-2])),
            scale=float(np.exp(unknowns[-1])),
            misfit=self.scales["misfit"],
            covariance=own - cross @ kept.precision @ cross.T,
        )
