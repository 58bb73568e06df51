"""Search guided by a surrogate: what to evaluate next, from what was observed so far.

Bayesian optimisation over rows of categorical codes (Jones et al., 1998), for a few to some
thousands of evaluations. The first `FIRST` rows are spread; after that each is the one, of a pool
of candidates, that promises most by a Gaussian process (`search.surrogate`): by expected
improvement for one objective, by the expected growth of the hypervolume for two, and by a random
scalarisation (ParEGO) for more. Objectives that are known before an evaluation need no surrogate.

This file knows of arrays only. Nothing is kept between two calls but the hyperparameters: all
else is computed anew from what was told, so that a search that was stopped goes on bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.special import ndtri

from search import acquisition
from search.surrogate import Encoded, Encoder, Kernel, Posterior, Prediction, Scores
from space.decisions import Codes

Floats = NDArray[np.floating[Any]]

FIRST = 4  # spread rows; 8 take 24 and 35 evaluations where 4 take 18 and 26 (macro, arxiv)
# One core, 30 variables of 12 choices, 400 trials, one row an ask: with these three limits a
# suggestion takes 11 ms beside other work; with 1.6e8, 400 and 200 it takes 14.
_WORK = 1.2e8  # multiplications that a pool's prediction may take
_TRAINED = 300  # trials that the surrogate is conditioned on
_FITTED = 150  # trials that hyperparameters are fitted to
_POOL = 256, 20_000  # least and most candidates that are looked at
_ALWAYS = 16  # up to here they are fitted anew whenever there is something new
_GROWTH = 1.1  # and from there on each time that there are 10 % more
_PARENTS = 8  # rows whose surroundings are looked at
_BEYOND = 0.01  # of the range of an objective
_DIRECTIONS = 16  # in which trials are compared, where there are several objectives
_JUDGED = 64  # times that candidates are judged in one ask, at most
_SAMPLES = 16  # of each row's objectives, where there are three or more


class Candidates(Protocol):
    """Rows that may be evaluated: inside the limits, neither told nor asked for."""

    def draw(self, rng: Generator, parents: Codes, count: int) -> Codes:
        """About `count` different ones, (B, V): all where there are no more than that; otherwise
        about half of them near one of `parents` (P, V; may be empty), the others anywhere."""
        ...


class Listed:
    """Candidates of a list (L, V) that fits into memory, such as the rows of a table."""

    def __init__(self, rows: Codes):
        self._rows = np.asarray(rows)
        self._open = np.ones(len(rows), bool)
        self._places = {tuple(row): i for i, row in enumerate(self._rows.tolist())}

    def close(self, row: Sequence[int]) -> None:
        """From now on the row is none of them, if it was."""
        place = self._places.get(tuple(map(int, row)))
        if place is not None:
            self._open[place] = False

    def draw(self, rng: Generator, parents: Codes, count: int) -> Codes:
        rows = self._rows[self._open]
        if len(rows) <= count:
            return rows
        order = rng.random(len(rows))
        if len(parents):
            away = np.min([(rows != parent).sum(axis=1) for parent in parents], axis=0)
            near = np.argpartition(away + order, count // 2)[: count // 2]
            order[near] = -1
        return rows[np.sort(np.argpartition(order, count)[:count])]


@dataclass(frozen=True)
class Observations:
    """Told trials in the order of tells, and sorted by row inside of one: codes (N, V), observed
    values (N, M), larger is better, and fidelity (N,), above 0 and at most 1."""

    codes: Codes
    values: Floats
    fidelity: Floats

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> Observations:
        return Observations(self.codes[rows], self.values[rows], self.fidelity[rows])


class Guided:
    """The algorithm, for rows with `cardinalities` (V,) and `observed` values.

    `active` says which variables of rows matter, (B, V); `known` gives the objectives that come
    after the observed ones and need no evaluation, (B, K), larger is better; `features` are
    numbers that may help to predict, (B, F), of about unit scale. `kinds` (V,): variables of one
    kind have the same choices (`search.surrogate.Encoder`).
    """

    def __init__(
        self,
        cardinalities: Codes,
        *,
        observed: int = 1,
        kinds: Sequence[int] | Codes | None = None,
        active: Callable[[Codes], NDArray[np.bool_]] | None = None,
        known: Callable[[Codes], Floats] | None = None,
        features: Callable[[Codes], Floats] | None = None,
    ):
        self._kernel = Kernel(Encoder(cardinalities, kinds))
        self._observed = observed
        self._active = active or (lambda codes: np.ones(codes.shape, bool))
        self._known = known or (lambda codes: np.zeros((len(codes), 0)))
        self._features = features
        # Of one objective only the top counts, of a front all of it. At half the cost of
        # NAS-Bench-Macro, by regret takes 28.5 evaluations and by rank 34 (medians, 100 seeds).
        nothing = np.zeros((0, len(cardinalities)), np.int64)
        single = observed + self._known(nothing).shape[1] == 1
        self._scores = Scores.by_regret if single else Scores.by_rank
        self._thetas: list[Floats] = []  # one for each observed value, once there are some
        self._fit_at = 0  # number of trials from which on they are fitted anew

    # ---- one ask

    def suggest(
        self,
        told: Observations,
        pending: Codes,
        candidates: Candidates,
        rng: Generator,
        count: int = 1,
    ) -> Codes:
        """Up to `count` different candidates (fewer where there are no more), best first.

        `pending` (W, V) were asked for and are not told.
        """
        spread = max(0, min(count, FIRST - len(told))) if len(told) else count
        rows = np.zeros((0, told.codes.shape[1]), np.int64)
        if spread:
            pool = candidates.draw(rng, rows, _POOL[0] * 8)
            rows = self._spread(np.concatenate([told.codes, pending]), pool, rng, spread)
        if spread == count:
            return rows
        more = self._guided(told, pending, rows, candidates, rng, count - spread)
        return np.concatenate([rows, more])

    def _spread(self, seen: Codes, pool: Codes, rng: Generator, count: int) -> Codes:
        """Rows of the pool that share as little as may be with any that is seen or chosen."""
        ties = rng.random(len(pool))
        most = np.zeros(len(pool))  # shared with one row
        total = np.zeros(len(pool))  # with all of them
        chosen: list[int] = []

        def see(row: Codes) -> None:
            shared = (pool == row).sum(axis=1)
            np.maximum(most, shared, out=most)
            np.add(total, shared, out=total)

        for row in seen:
            see(row)
        for _ in range(min(count, len(pool))):
            order = np.lexsort((ties, total, most))
            chosen.append(int(order[0]))
            see(pool[chosen[-1]])
            most[chosen] = np.inf
        return pool[chosen]

    def _guided(
        self,
        told: Observations,
        pending: Codes,
        spread: Codes,
        candidates: Candidates,
        rng: Generator,
        count: int,
    ) -> Codes:
        """`spread` were chosen in this ask, so that they are still among the candidates."""
        if len(told) >= self._fit_at:
            self._fit(told)
        train = told[self._selection(told, _TRAINED)]
        models = [self._model(train, m) for m in range(self._observed)]
        aim = _Aim(self, train, models, np.concatenate([pending, spread]), rng)
        size = _WORK / (len(train) * (len(train) + self._kernel.encoder.near.shape[0]))
        pool = candidates.draw(rng, aim.parents(), int(np.clip(size, *_POOL)))
        pool = pool[~(pool[:, None] == spread).all(axis=2).any(axis=1)]
        return pool[aim.choose(pool, min(count, len(pool)))]

    # ---- the surrogate

    def encode(self, codes: Codes, dtype: Any, fidelity: Floats | None = None) -> Encoded:
        features = None if self._features is None else self._features(codes)
        return self._kernel.encoder.encode(codes, self._active(codes), features, fidelity, dtype)

    def known(self, codes: Codes) -> Floats:
        """The objectives that are known without an evaluation, (B, K)."""
        return self._known(codes)

    def _model(self, train: Observations, m: int) -> _Model:
        scores = self._scores(train.values[:, m])
        rows = self.encode(train.codes, np.float32, train.fidelity)
        posterior = Posterior(self._kernel, self._thetas[m], rows, scores.observed)
        settled = posterior.settled
        partial = np.flatnonzero(train.fidelity < 1)
        if len(partial):
            full = self.encode(train.codes[partial], np.float32)
            settled[partial] = posterior.mean(full)
        return _Model(scores, posterior, settled)

    def _fit(self, told: Observations) -> None:
        some = told[self._selection(told, _FITTED)]
        rows = self.encode(some.codes, np.float64, some.fidelity)
        starts: list[Floats | None] = list(self._thetas) or [None] * self._observed
        self._thetas = [
            self._kernel.fit(rows, self._scores(some.values[:, m]).observed, start)
            for m, start in enumerate(starts)
        ]
        few = len(told) < _ALWAYS
        self._fit_at = len(told) + 1 if few else math.ceil(_GROWTH * len(told))

    def _selection(self, told: Observations, limit: int) -> Codes:
        """Places of `limit` trials: half of them the best, the others the last of the rest."""
        if len(told) <= limit:
            return np.arange(len(told))
        objectives = np.concatenate([told.values, self._known(told.codes)], axis=1)
        best = np.argsort(merit(objectives), kind="stable")[: limit // 2]
        rest = np.setdiff1d(np.arange(len(told)), best)
        return np.sort(np.concatenate([best, rest[len(best) - limit :]]))

    # ---- stop and resume

    def state_dict(self) -> dict[str, Any]:
        return {"thetas": [theta.copy() for theta in self._thetas], "fit_at": self._fit_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._thetas = [np.array(theta, float) for theta in state["thetas"]]
        self._fit_at = int(state["fit_at"])


@dataclass(frozen=True)
class _Model:
    """The surrogate of one observed value; `settled` (N,) are its means at the trained rows, as
    scores, for full evaluations."""

    scores: Scores
    posterior: Posterior
    settled: Floats


class _Aim:
    """What one ask looks for: points of the trained rows (N, M + K), and what would add to them.

    Points are the surrogate's means and not what was observed, so that one lucky observation does
    not stand in the way.
    """

    def __init__(
        self,
        guided: Guided,
        train: Observations,
        models: Sequence[_Model],
        pending: Codes,
        rng: Generator,
    ):
        self._guided, self._models, self._pending, self._rng = guided, models, pending, rng
        settled = np.stack([model.settled for model in models], axis=1)
        self._single = settled.shape[1] == 1 and not guided.known(train.codes[:1]).shape[1]
        values = [m.scores.value(m.settled)[:, None] for m in models]
        known = guided.known(train.codes)
        self._points = settled if self._single else np.concatenate([*values, known], axis=1)
        self._codes = train.codes

    def parents(self) -> Codes:
        """The best of the trained rows; where several objectives are, some of the front's."""
        if self._single:
            return self._codes[np.argsort(-self._points[:, 0], kind="stable")[:_PARENTS]]
        unbeaten = self._codes[acquisition.unbeaten(self._points)]
        return self._rng.permutation(unbeaten)[:_PARENTS]

    def choose(self, pool: Codes, count: int) -> list[int]:
        """Places of `count` rows of the pool; each is chosen as if those before it, and what is
        pending, had been observed with their means."""
        codes = np.concatenate([pool, self._pending])
        rows = self._guided.encode(codes, np.float32)
        predictions = [model.posterior.predict(rows) for model in self._models]
        known = self._guided.known(codes)
        self._low = np.concatenate([self._points[:, len(predictions) :], known]).min(axis=0)
        means = [p.mean[:, None] for p in predictions]
        if not self._single:
            pairs = zip(self._models, predictions, strict=True)
            means = [m.scores.value(p.mean)[:, None] for m, p in pairs]
        expected = np.concatenate([*means, known], axis=1)
        closed = np.zeros(len(codes), bool)
        chosen: list[int] = []

        def believe(j: int) -> None:
            closed[j] = True
            self._points = np.concatenate([self._points, expected[j : j + 1]])
            for prediction in predictions:
                prediction.believe(j)

        for j in range(len(pool), len(codes)):
            believe(j)
        # Where many are asked for at once, some are chosen before the others are judged again.
        step = -(-count // _JUDGED)
        while len(chosen) < count:
            worth = self._worth(predictions, known)
            if not self._single and not (worth[~closed] > 0).any():  # an objective is constant
                worth = np.sum([p.deviation for p in predictions], axis=0)
            worth = np.where(closed, -np.inf, worth)
            best = np.argsort(-worth, kind="stable")[: min(step, count - len(chosen))]
            for j in best.tolist():
                chosen.append(j)
                if len(chosen) < count:
                    believe(j)
        return chosen

    def _worth(self, predictions: Sequence[Prediction], known: Floats) -> Floats:
        if self._single:
            (only,) = predictions
            level = float(self._points[:, 0].max())
            return acquisition.log_expected_improvement(only.mean, only.deviation, level)
        if self._points.shape[1] == 2:
            return self._growth(predictions, known)
        return self._scalarised(predictions, known)

    def _growth(self, predictions: Sequence[Prediction], known: Floats) -> Floats:
        """Of the hypervolume over the worst values that there are, and a little beyond: else rows
        at one end would promise nothing."""
        low = np.concatenate([self._points[:, : len(predictions)].min(axis=0), self._low])
        reference = low - _BEYOND * (self._points.max(axis=0) - low)
        begins, heights = acquisition.strips(acquisition.front(self._points), reference)
        both = [
            acquisition.gains(model.scores, prediction.mean, prediction.deviation, levels)
            for model, prediction, levels in zip(
                self._models, predictions, (heights, begins), strict=False
            )
        ]
        if len(both) == 1:
            both.append(acquisition.certain_gains(known[:, 0], begins))
        return acquisition.hypervolume_improvement(*both)

    def _scalarised(self, predictions: Sequence[Prediction], known: Floats) -> Floats:
        low, high = self._points.min(axis=0), self._points.max(axis=0)
        scale = np.where(high > low, high - low, 1.0)
        draws = _normal(_SAMPLES, len(predictions))
        drawn = [
            model.scores.value(prediction.mean + prediction.deviation * draws[:, m, None])
            for m, (model, prediction) in enumerate(zip(self._models, predictions, strict=True))
        ]
        surely = np.broadcast_to(known, (_SAMPLES, *known.shape))
        samples = np.concatenate([np.stack(drawn, axis=2), surely], axis=2)
        weights = self._rng.dirichlet(np.ones(len(low)))
        return acquisition.scalarised_improvement(
            (samples - low) / scale, (self._points - low) / scale, weights
        )


def merit(objectives: Floats) -> Floats:
    """A number for each of (N, M) rows, small for those that are good in some respect: the best of
    its places in orders by one weighting each (Chebyshev; one order where M is 1)."""
    ranks = np.argsort(np.argsort(-objectives, axis=0, kind="stable"), axis=0, kind="stable")
    if ranks.shape[1] == 1:
        return ranks[:, 0].astype(float)
    weights = np.random.default_rng(0).dirichlet(np.ones(ranks.shape[1]), _DIRECTIONS)
    best = np.full(len(ranks), np.inf)
    for weight in weights:
        worst = (ranks * weight).max(axis=1)
        np.minimum(best, np.argsort(np.argsort(worst, kind="stable"), kind="stable"), out=best)
    return best


def _normal(count: int, dimensions: int) -> Floats:
    """Evenly spread standard normal points (count, dimensions): the R sequence of Roberts, 2018,
    "The unreasonable effectiveness of quasirandom sequences", with the root of x^(d + 1) = x + 1.
    """
    root = 2.0
    for _ in range(40):
        root = (1 + root) ** (1 / (dimensions + 1))
    steps = root ** -np.arange(1, dimensions + 1)
    return ndtri((0.5 + np.outer(np.arange(1, count + 1), steps)) % 1)
