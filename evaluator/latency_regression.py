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
- `scale`, near 1, is what a part costs in a network over what it costs in its own timing.
- If asked for, there is a `floor` that no network is faster than, as where a host feeds a device:
  the latency is then (floor^q + sum^q)^(1/q), q = 8.
- Networks may miss all that by an error of their own (`misfit`), which is part of their deviation.
- A timing far off counts for less: errors have Student's t distribution with 4 degrees of freedom,
  as a normal one whose variance is found for each timing, in turn with g (Lange, Little and Taylor,
  1989, "Robust statistical modeling using the t distribution", section 2).
- Hyperparameters maximise the marginal likelihood (equation 5.8 of Rasmussen and Williams) times
  log-normal priors, on at most `_SUBSET` timings.

docs/latency_tables.md says what each of these is worth on published tables. A fit of 1,500 parts to
3,000 timings takes about 12 s on one core, predicting 100,000 networks of 20 parts 0.1 s.

Shapes: P parts, C categories, F numbers, A amounts, N timings (those of parts first), U unknowns:
g of all parts, then the logarithms of offset, scale and floor beside what they are thought to be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    "misfit": (np.log(1e-3), 3.0),
}
_NAMES = tuple(PRIORS)[2:]
_BOUND = 3.0  # deviations of the prior
_CONSTANT = 0.25  # variance of what all g have in common
_SHARED = 1.0, 0.04, 0.25  # variances of the logarithms of offset, scale and floor
_SHARP = 8.0  # q of the floor
_FLOOR, _FLOOR_START = 0.6, 0.9  # of the fast networks' latency: where it is thought, and sought
_FAST = 0.05  # the share of networks that are fast
_FREEDOM = 4.0
_MEDIAN = 0.455  # of the square of a standard normal number
_JITTER = 1e-10
_SUBSET = 400
_ITERATIONS = 30, 15, 15, 15  # of the search for hyperparameters, each round from what was found
_PASSES, _SETTLED = 20, 1e-6  # passes of Gauss and Newton, and the largest change that ends them
_EQUAL = 0.1  # how strongly the roofline's columns are drawn towards equal shares
_LEAST = 1e-3  # of the mean latency of parts: less than that no part is thought to cost before
_CHUNK = 1024  # parts, or networks, that are looked at together
_WHOLE = 3000  # parts of a table whose covariances are kept


@dataclass(frozen=True)
class Features:
    """What is known of parts before any is timed.

    `categories` (P, C): codes of what has no order; the first column is the kind. `amounts`
    (P, A): what latency is thought to grow with linearly, not negative: MACs, bytes. `sizes`
    (P, F): what relatives are near in, by its logarithm: the amounts, channels, sides. Equal rows
    are the same part.
    """

    categories: Integers
    amounts: Floats
    sizes: Floats

    @classmethod
    def of(
        cls,
        kinds: ArrayLike,
        settings: ArrayLike | None = None,
        amounts: ArrayLike | None = None,
        sizes: ArrayLike | None = None,
    ) -> Features:
        """From arrays of P rows: kinds (P,), integers; settings (P, S), integers; amounts (P, A)
        and further sizes (P, ...), not negative. ValueError where they do not fit one another."""
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
        categories = np.concatenate([kind[:, None], setting.astype(np.int64)], axis=1)
        return cls(categories, amount, np.concatenate([amount, size], axis=1))

    def __len__(self) -> int:
        return len(self.categories)

    def __getitem__(self, parts: Any) -> Features:
        return Features(self.categories[parts], self.amounts[parts], self.sizes[parts])

    def rows(self) -> Floats:
        """All that tells parts apart, (P, C + F)."""
        return np.concatenate([self.categories, self.sizes], axis=1)


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
    if len(index) and (index.min() < 0 or index.max() >= parts):
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


class Units:
    """Standardised logarithms of sizes, in units that one table of parts sets for all others."""

    def __init__(self, features: Features):
        least = np.min(features.sizes, axis=0, where=features.sizes > 0, initial=np.inf)
        self._least = np.where(np.isfinite(least), least, 1.0)
        logarithms = np.log(features.sizes + self._least)
        spread = logarithms.std(axis=0)
        self._centre, self._spread = logarithms.mean(axis=0), np.where(spread > 1e-9, spread, 1.0)

    def numbers(self, features: Features) -> Floats:
        """(P, F)."""
        return (np.log(features.sizes + self._least) - self._centre) / self._spread


class Pairs:
    """What the covariance takes of all pairs of parts of two tables, (A, B) each."""

    def __init__(self, a: Features, b: Features, units: Units):
        x, y = units.numbers(a), units.numbers(b)
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


def variances(features: Features, units: Units, scales: Scales) -> Floats:
    """k of each part with itself, (P,)."""
    squares = units.numbers(features) ** 2
    product = squares.sum(axis=1) / max(squares.shape[1], 1)
    same = _CONSTANT + scales["additive"] + scales["product"] + scales["own"]
    return same + scales["linear"] * product


@dataclass(frozen=True)
class Timings:
    """Timings of single parts, then of networks: their logarithms (N,), relative errors (N,),
    which `parts` were timed, and how often each network has each part (networks, P). `doubts` (N,)
    are what errors are thought larger by, as variances."""

    logarithms: Floats
    errors: Floats
    parts: Integers
    networks: csr_array
    doubts: Floats

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
        return cls(np.log(ms), error, parts, networks, np.ones(len(ms)))

    def __len__(self) -> int:
        return len(self.logarithms)

    @property
    def is_network(self) -> NDArray[np.bool_]:
        return np.arange(len(self)) >= len(self.parts)

    @property
    def mixed(self) -> bool:
        return 0 < len(self.parts) < len(self)

    def variances(self, scales: Scales) -> Floats:
        """Of what a timing and a sum of parts differ by, (N,), without doubts: the stated errors;
        for parts without one a learnt error; for networks what sums miss."""
        unstated = scales["unstated"] * (self.errors == 0)
        return self.errors**2 + np.where(self.is_network, scales["misfit"], unstated) + _JITTER

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
        return replace(self, parts=np.searchsorted(kept, self.parts), networks=networks)

    def some(self, many: int) -> Timings:
        """At most so many, half of each sort where both have them; always the same ones."""
        alone, whole = len(self.parts), self.networks.shape[0]
        share = min(alone, max(many // 2, many - whole))
        rng = np.random.default_rng(0)
        a = np.sort(rng.permutation(alone)[:share])
        b = np.sort(rng.permutation(whole)[: many - share])
        kept = np.concatenate([a, alone + b])
        of = self.logarithms[kept], self.errors[kept]
        return Timings(*of, self.parts[a], self.networks[b], self.doubts[kept])


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


@dataclass(frozen=True)
class Shared:
    """What all networks have in common: ms, and the scale of sums of parts."""

    offset_ms: float
    scale: float
    floor_ms: float

    def at(self, u: Floats) -> Shared:
        """For the last unknowns, (3,)."""
        offset, scale, floor = np.exp(u).tolist()
        return Shared(self.offset_ms * offset, self.scale * scale, self.floor_ms * floor)

    def networks(self, sums_ms: Floats) -> tuple[Floats, Floats]:
        """Latencies of networks whose parts sum up to so much (N,), ms, and their relative
        derivatives in the logarithms of that sum and of what is shared, (N, 4)."""
        parts = self.scale * sums_ms
        total = self.offset_ms + parts
        ratio = (self.floor_ms / total) ** _SHARP
        busy, part = 1 / (1 + ratio), parts / total
        slopes = np.stack([busy * part, busy * (1 - part), busy * part, 1 - busy], axis=1)
        return total * (1 + ratio) ** (1 / _SHARP), slopes


class Sums:
    """The logarithms of timings as functions of the unknowns u (U,). `ms` (P,) and `shared` are
    the latencies where all unknowns are 0."""

    def __init__(self, timings: Timings, ms: Floats, shared: Shared):
        self._sums, self._alone = timings.sums, len(timings.parts)
        self._ms, self._shared = ms, shared

    def at(self, u: Floats) -> tuple[Floats, csr_array]:
        """Logarithms (N,) and their derivatives (N, U)."""
        ms = self._ms * np.exp(u[:-3])
        sums = self._sums @ ms
        latency, slopes = sums.copy(), np.zeros((len(sums), 4))
        slopes[: self._alone, 0] = 1
        whole = self._shared.at(u[-3:]).networks(sums[self._alone :])
        latency[self._alone :], slopes[self._alone :] = whole
        parts = self._sums * (slopes[:, 0] / sums)[:, None] * ms[None, :]
        return np.log(latency), csr_array(hstack([csr_array(parts), csr_array(slopes[:, 1:])]))


def joined(parts: Floats, mixed: bool) -> Floats:
    """The covariance of all unknowns from that of parts. The scale is known where timings are of
    one sort."""
    offset, scale, floor = _SHARED
    return block_diag(parts, np.diag([offset, scale * mixed, floor]))


class Marginal:
    """Minus the logarithm of likelihood times prior, up to a constant, as a function of the
    hyperparameters; for timings that are `slopes` (N, U) times the unknowns, with `values` (N,)."""

    def __init__(self, pairs: Pairs, timings: Timings, slopes: csr_array, values: Floats):
        self.pairs, self._slopes, self._values = pairs, slopes, values
        self._timings, self._network = timings, timings.is_network
        self._unstated = (timings.errors == 0) & ~self._network
        self._categories = len(pairs.differ)
        rows = [PRIORS["weight"]] * self._categories + [PRIORS["length"]] * len(pairs.away)
        self.mean, self.deviation = np.array(rows + [PRIORS[n] for n in _NAMES], float).T

    def __call__(self, theta: Floats) -> tuple[float, Floats]:
        scales = Scales(theta, self._categories)
        share, bell = self.pairs.bell(scales)
        whole = joined(self.pairs.join(scales, share, bell), self._timings.mixed)
        covariance = self._slopes @ (self._slopes @ whole).T
        noise = self._timings.variances(scales) * self._timings.doubts
        covariance[np.diag_indices(len(noise))] += noise
        factor = np.linalg.cholesky(covariance)
        inverse = cho_solve((factor, True), np.eye(len(factor)), check_finite=False)
        weights = inverse @ self._values
        loss = 0.5 * float(self._values @ weights) + float(np.log(np.diag(factor)).sum())
        slope = 0.5 * (inverse - np.outer(weights, weights))  # of the loss in the covariance
        away = (theta - self.mean) / self.deviation
        gradient = self._gradient(scales, slope, share, bell) + away / self.deviation
        return loss + 0.5 * float(away @ away), gradient

    def _gradient(self, scales: Scales, slope: Floats, share: Floats, bell: Floats) -> Floats:
        parts = self._slopes[:, : self.pairs.same.shape[0]]
        by_part = parts.T @ (parts.T @ slope).T  # (P, P)
        by_bell = scales["product"] * by_part * bell
        by_share = -scales["additive"] * by_part - scales["rate"] * by_bell
        weight = np.tensordot(self.pairs.differ, by_share, 2)
        length = np.tensordot(self.pairs.away, by_bell, 2) / scales.length**2
        by_noise = np.diag(slope) * self._timings.doubts
        of = {
            "rate": -scales["rate"] * float((by_bell * share).sum()),
            "additive": scales["additive"] * float((by_part * (1 - share)).sum()),
            "linear": scales["linear"] * float((by_part * self.pairs.product).sum()),
            "product": float(by_bell.sum()),
            "own": scales["own"] * float(by_part[self.pairs.same].sum()),
            "unstated": scales["unstated"] * float(by_noise[self._unstated].sum()),
            "misfit": scales["misfit"] * float(by_noise[self._network].sum()),
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
    covariance c (U,) with these unknowns: weights @ c and c @ precision @ c. `doubts` (N,) are
    what the timings' should be, given this posterior.
    """

    def __init__(
        self, pairs: Pairs, timings: Timings, sums: Sums, scales: Scales, unknowns: Floats
    ):
        covariance = joined(pairs.covariance(scales), timings.mixed)
        stated = timings.variances(scales)
        noise = stated * timings.doubts
        self.unknowns = unknowns
        for _ in range(_PASSES):
            logarithms, self.slopes = sums.at(self.unknowns)
            self.values = timings.logarithms - logarithms + self.slopes @ self.unknowns
            whole = self.slopes @ (self.slopes @ covariance).T
            whole[np.diag_indices(len(noise))] += noise
            factor = np.linalg.cholesky(whole)
            left = cho_solve((factor, True), self.values, check_finite=False)
            self.weights = self.slopes.T @ left
            step = covariance @ self.weights - self.unknowns
            longest = float(np.abs(step).max())
            self.unknowns = self.unknowns + step / max(longest, 1.0)  # a factor of e in one pass
            if longest < _SETTLED:
                break
        upper = solve_triangular(factor, np.eye(len(factor)), lower=True, check_finite=False)
        half = self.slopes.T @ upper.T  # of the inverse of the timings' covariance
        self.precision = half @ half.T
        known = noise - noise**2 * np.einsum("nm,nm->m", upper, upper)
        squares = (noise * left) ** 2 + known  # expected: of the mean, and around it
        # Where a few are far off, `stated` began too large: its median says so at once.
        ratios = squares / stated
        ratios /= min(1.0, max(float(np.median(ratios)), _JITTER) / _MEDIAN)
        self.doubts = (_FREEDOM + ratios) / (_FREEDOM + 1)


class PartRegression:
    """The Gaussian process of this file, fitted to timings of some of the parts `features`. `fit`
    makes it; `parts`, `networks` and `deviations` are those of the table of all these parts."""

    def __init__(self, features: Features, timings: Timings, floor: bool = False):
        self.units = Units(features)
        self.mixed = timings.mixed
        observed = np.unique(timings.sums.indices)  # parts that something is known of
        self.known, timings = features[observed], timings.on(observed)
        self.roofline = Roofline.fit(self.known, timings)
        fast = np.exp(np.quantile(timings.logarithms[timings.is_network], _FAST)) if floor else 0.0
        self._prior = Shared(self.roofline.offset_ms, 1.0, _FLOOR * float(fast))
        self._settle(timings)
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
        floor: bool = False,
    ) -> PartRegression:
        """From timings of single parts (indices, ms) and of networks (lists of indices, ms), with
        relative errors, one for all or one each. That of parts is learnt where it is 0; networks
        have `misfit` beside theirs. Parts that no timing is of are predicted too. ValueError where
        there is no timing, or what is given does not fit together."""
        index = np.asarray(parts, np.int64)
        if len(index) and (index.min() < 0 or index.max() >= len(features)):
            raise ValueError(f"parts: {index.max()} or {index.min()}, of {len(features)}")
        whole = counts(networks, len(features))
        one, many = np.asarray(part_ms, float), np.asarray(network_ms, float)
        if floor and not len(many):
            raise ValueError("a floor is one of networks, and there is no timing of any")
        timings = Timings.of(index, one, part_error, whole, many, network_error)
        return cls(features, timings, floor)

    def _settle(self, timings: Timings) -> None:
        """Hyperparameters, by which the unknowns and doubts of timings are found, by which
        hyperparameters; at last the posterior from all timings."""
        some = timings.some(_SUBSET)
        kept = np.unique(some.sums.indices)
        few, some = self.known[kept], some.on(kept)
        pairs = Pairs(few, few, self.units)
        sums = Sums(some, self.roofline.ms(few), self._prior)
        unknowns, theta = self._start(len(few)), None
        for iterations in _ITERATIONS:
            logarithms, slopes = sums.at(unknowns)
            values = some.logarithms - logarithms + slopes @ unknowns
            theta = Marginal(pairs, some, slopes, values).best(theta, iterations)
            self.scales = Scales(theta, self.known.categories.shape[1])
            found = Posterior(pairs, some, sums, self.scales, unknowns)
            unknowns, some = found.unknowns, replace(some, doubts=found.doubts)
        pairs = Pairs(self.known, self.known, self.units)
        sums = Sums(timings, self.roofline.ms(self.known), self._prior)
        start = self._start(len(self.known))
        start[-3:] = unknowns[-3:]
        found = Posterior(pairs, timings, sums, self.scales, start)
        self.timings = replace(timings, doubts=found.doubts)
        self.posterior = Posterior(pairs, self.timings, sums, self.scales, found.unknowns)
        whole = found.doubts[timings.is_network]
        self.misfit = self.scales["misfit"] * float(whole.mean() if len(whole) else 1.0)

    def _start(self, parts: int) -> Floats:
        return np.append(np.zeros(parts + 2), np.log(_FLOOR_START / _FLOOR))

    def predict(self, features: Features) -> PartTable:
        """Of any parts, also of those that were not there when it was fitted."""
        return PartTable(self, features)

    def shared(self) -> Shared:
        return self._prior.at(self.posterior.unknowns[-3:])

    def cross(self, features: Features) -> Floats:
        """Covariances of parts with the unknowns that timings are of, (P, U)."""
        found = np.zeros((len(features), len(self.known) + 3))
        for some in _chunks(len(features)):
            of = Pairs(features[some], self.known, self.units).covariance(self.scales)
            found[some, :-3] = of
        return found


def _chunks(many: int) -> Iterator[slice]:
    return (slice(begin, begin + _CHUNK) for begin in range(0, many, _CHUNK))


class PartTable:
    """Latencies of parts, and of networks of them.

    `ms` (P,) are e to the mean of the logarithm, so medians; a network takes `offset_ms + scale *
    sum`, or where there is a floor what `Shared` says.
    """

    def __init__(self, model: PartRegression, features: Features):
        self._model, self._features = model, features
        self.shared, self.misfit = model.shared(), model.misfit
        self._cross = model.cross(features)
        self.ms = model.roofline.ms(features) * np.exp(self._cross @ model.posterior.weights)
        self._whole: Floats | None = None

    @property
    def offset_ms(self) -> float:
        return self.shared.offset_ms

    @property
    def scale(self) -> float:
        return self.shared.scale

    def parts(self) -> tuple[Floats, Floats]:
        """Latency of each part and its standard deviation, ms, (P,) each. Errors of timings are
        not in it."""
        model, cross = self._model, self._cross
        gained = np.einsum("pu,pu->p", cross @ model.posterior.precision, cross)
        left = variances(self._features, model.units, model.scales) - gained
        return self.ms, self.ms * np.sqrt(np.maximum(left, 0))

    def networks(self, networks: Sequence[ArrayLike] | Integers | csr_array) -> Floats:
        """Latency of each network, ms, (N,): lists of the indices of its parts, or `counts`."""
        return self.shared.networks(self._counts(networks) @ self.ms)[0]

    def deviations(self, networks: Sequence[ArrayLike] | Integers | csr_array) -> Floats:
        """Their standard deviations, ms, (N,), with what networks miss sums by."""
        many = self._counts(networks)
        sums = many @ self.ms
        ms, shared = self.shared.networks(sums)
        found = np.empty(len(ms))
        for some in _chunks(len(ms)):
            of = many[some]
            parts = np.unique(of.indices)
            slopes = csr_array(
                of[:, parts] * (shared[some, 0] / sums[some])[:, None] * self.ms[parts]
            )
            slopes = csr_array(hstack([slopes, csr_array(shared[some, 1:])]))
            found[some] = slopes.multiply(slopes @ self.covariance(parts)).sum(axis=1)
        return ms * np.sqrt(np.maximum(found, 0) + self.misfit)

    def covariance(self, parts: Integers) -> Floats:
        """Of the logarithms of some parts and of what is shared, (U, U)."""
        if len(self.ms) > _WHOLE:
            return self._covariance(parts)
        if self._whole is None:
            self._whole = self._covariance(np.arange(len(self.ms)))
        kept = np.append(parts, len(self.ms) + np.arange(3))
        return self._whole[np.ix_(kept, kept)]

    def _covariance(self, parts: Integers) -> Floats:
        model, some = self._model, self._features[parts]
        own = joined(Pairs(some, some, model.units).covariance(model.scales), model.mixed)
        cross = np.zeros((len(own), self._cross.shape[1]))
        cross[:-3], cross[-3:, -3:] = self._cross[parts], own[-3:, -3:]
        return own - cross @ model.posterior.precision @ cross.T

    def _counts(self, networks: Sequence[ArrayLike] | Integers | csr_array) -> csr_array:
        return networks if isinstance(networks, csr_array) else counts(networks, len(self.ms))
