"""How far scores can be trusted: do they order networks as training each of them alone does?

Two orders of n networks are compared by

- Kendall's tau-b (Kendall, 1945, "The treatment of ties in ranking problems"): pairs that both
  orders put the same way minus pairs that they put differently, over the geometric mean of the
  numbers of pairs that each of them does not tie. Without ties (1 + tau) / 2 of all pairs are put
  the same way.
- Spearman's rho: the correlation of the ranks, tied networks sharing the mean of theirs.

Each comes with a percentile bootstrap interval (Efron and Tibshirani, 1993, "An Introduction to the
Bootstrap", section 13.3): networks are drawn with replacement, n at a time, and the interval holds
the middle 95% of the statistic. n is the number of networks, never of pairs or images. With few
networks intervals are wide, as they should be: tau of 8 networks in unrelated orders is 0.5 or more
on either side of zero one time in ten. An interval covers which networks were drawn, and what
chance does to each training apart; it says nothing of another data set, recipe or supernet.

Truth is the accuracy of networks that were trained alone. At proxy size it is the proxy's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import combinations
from typing import Any

import numpy as np
import scipy  # brings scipy.stats, which takes a second, where that is used first
from numpy.typing import ArrayLike, NDArray

from evaluator.zero_cost.ranks import log_rank_sum
from space.genome import Genome

Floats = NDArray[np.float64]
Statistic = Callable[[Floats, Floats], float | None]

FORMAT = 1
CONFIDENCE = 0.95
RESAMPLES = 2000
BAND = 0.1  # networks whose MACs are within this share of a level are compared apart
FEWEST = 5  # networks that get an interval, and networks of one main kind that get a tau
SUPERNET = "supernet score"  # what an `Agreement` of it is called

_AT_ONCE = 512  # networks up to which all resamples are computed together


# ---- two orders


def kendall(x: ArrayLike, y: ArrayLike) -> float | None:
    """Tau-b of two columns, -1 to 1; None where it has no value: fewer than two networks, or a
    column of equal numbers. Infinities are numbers; ValueError where one is NaN."""
    one, other = _columns(x, y)
    return _value(scipy.stats.kendalltau, one, other)


def spearman(x: ArrayLike, y: ArrayLike) -> float | None:
    """Rho of two columns, -1 to 1; None and ValueError as by `kendall`."""
    one, other = _columns(x, y)
    return _value(scipy.stats.spearmanr, one, other)


def _columns(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    one, other = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if one.ndim != 1 or one.shape != other.shape:
        raise ValueError(f"columns have the shapes {one.shape} and {other.shape}, not one length")
    if np.isnan(one).any() or np.isnan(other).any():
        raise ValueError("a column holds NaN, which has no rank")
    return one, other


def _value(compute: Callable[..., Any], x: Floats, y: Floats) -> float | None:
    if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all():
        return None
    # By ranks, so that infinities are no trouble; both statistics look at nothing else.
    return float(compute(*_ranks(x, y)).statistic)


def ordered_alike(tau: float) -> float:
    """The share of pairs of networks, tied in neither order, that both orders put the same way."""
    return (1 + tau) / 2


# ---- intervals


def interval(
    statistic: Statistic,
    x: ArrayLike,
    y: ArrayLike,
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval (see above), drawn from `seed`; `statistic` is `kendall`,
    `spearman` or another of the kind.

    Resamples in which the statistic has no value, as where one network was drawn n times, are left
    out. None where the resamples cannot tell: fewer than `FEWEST` networks, no value in more than
    half of the resamples, or the same value in all of them, as where two orders are equal; the
    bootstrap would call that certain, however few networks there are.
    """
    one, other = _columns(x, y)
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, but must be at least 1")
    if len(one) < FEWEST or statistic(one, other) is None:
        return None
    rows = np.random.default_rng(seed).integers(0, len(one), (resamples, len(one)))
    together = _TOGETHER.get(statistic)
    if together is not None and len(one) <= _AT_ONCE:
        values = together(one, other, _times_drawn(rows))
    else:
        found = (statistic(one[chosen], other[chosen]) for chosen in rows)
        values = np.array([math.nan if value is None else value for value in found])
    return _middle(values)


def _middle(values: Floats) -> tuple[float, float] | None:
    kept = values[np.isfinite(values)]
    if 2 * len(kept) < len(values) or np.ptp(kept) < 1e-9:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(kept, [tail, 1 - tail])
    return float(low), float(high)


def _times_drawn(rows: NDArray[np.int64]) -> Floats:
    """How often each network is in each resample, (resamples, n)."""
    count, n = rows.shape
    flat = (rows + n * np.arange(count)[:, None]).ravel()
    return np.bincount(flat, minlength=count * n).reshape(count, n).astype(np.float64)


def _taus(x: Floats, y: Floats, times: Floats) -> Floats:
    """Tau-b of all resamples: a pair of networks counts as often as both were drawn together, and
    copies of one network tie. scipy takes almost 1 ms for each, so minutes for a card."""
    sign_x, sign_y = (np.sign(np.subtract.outer(r, r)) for r in _ranks(x, y))

    def weighed(pairs: Floats) -> Floats:
        return ((times @ pairs) * times).sum(axis=1)

    with np.errstate(invalid="ignore"):
        untied = np.sqrt(weighed(np.abs(sign_x)) * weighed(np.abs(sign_y)))
        return weighed(sign_x * sign_y) / untied


def _rhos(x: Floats, y: Floats, times: Floats) -> Floats:
    """Rho of all resamples, from the ranks within each."""
    centred = []
    for column in (x, y):
        below = times @ (column[:, None] < column).astype(np.float64)
        equal = times @ (column[:, None] == column).astype(np.float64)
        ranks = below + (equal + 1) / 2
        centred.append(ranks - (times.sum(axis=1, keepdims=True) + 1) / 2)
    one, other = centred
    with np.errstate(invalid="ignore"):
        spread = np.sqrt((times * one**2).sum(axis=1) * (times * other**2).sum(axis=1))
        return (times * one * other).sum(axis=1) / spread


def _ranks(*columns: Floats) -> list[Floats]:
    return [scipy.stats.rankdata(column) for column in columns]


_TOGETHER: dict[Statistic, Callable[[Floats, Floats, Floats], Floats]] = {
    kendall: _taus,
    spearman: _rhos,
}


# ---- what a card says


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic of `n` networks and the ends of its 95% interval; None where it has none."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """How what is called `name` orders networks, against the truth: of all, and of those within
    the band around the card's level of MACs."""

    name: str
    tau: Estimate
    rho: Estimate
    band_tau: Estimate
    band_rho: Estimate


@dataclass(frozen=True, slots=True)
class Kind:
    """How the supernet ranks networks with a kind of operator.

    `networks` contain it; `bias` is the mean over them of (rank by score - rank by truth) / all
    networks: above zero, the supernet thinks too well of them. Of `main` networks it is the main
    kind, and `tau` is that of these where they are at least `FEWEST`.
    """

    kind: str
    networks: int
    bias: float | None
    main: int
    tau: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One network of a card and all that is known of it.

    `group` says why it was drawn: "spread" over all MACs inside the budget, or "level". `kinds` are
    those of its blocks, `main_kind` the one whose blocks have most MACs. `score` is the supernet's,
    `zero_cost` has others by name; what could not be computed is not there. `accuracies` and
    `probabilities` (mean probability of the true class) are those of the proxy trained alone, one
    for each seed; `seconds` is the time that took. A network with a `problem` is in no statistic.
    """

    name: str
    digest: str
    proxy: str
    group: str
    macs: int
    params: int
    kinds: tuple[str, ...]
    main_kind: str
    score: float | None
    accuracies: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()
    zero_cost: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    problem: str | None = None

    @property
    def truth(self) -> float:
        """Mean accuracy over the seeds."""
        return float(np.mean(self.accuracies))

    @property
    def counts(self) -> bool:
        return self.problem is None and self.score is not None and len(self.accuracies) > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A trust card. Looked at apart are networks of `level` MACs, give or take the share `band`;
    `seed` is that of the intervals. `ceiling` is tau between two trainings of the same networks,
    None without repeats: a score that comes up to it tells as much as one training does. (More is
    possible: a perfect score has no noise of its own, and one training has.) `about` is plain data:
    what was compared with what, and where."""

    networks: tuple[Network, ...]
    level: int
    seed: int
    agreements: tuple[Agreement, ...]
    ceiling: Estimate | None
    kinds: tuple[Kind, ...]
    band: float = BAND
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Plain data for JSON, which has no infinities: these become text."""
        return {"format": FORMAT, **_plain(asdict(self))}

    @classmethod
    def from_plain(cls, data: Any) -> Card:
        """The inverse of `to_plain`; ValueError where it is not that."""
        try:
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r} is unknown; this reads {FORMAT}")
            return cls(
                networks=tuple(_network(values) for values in data["networks"]),
                level=data["level"],
                seed=data["seed"],
                agreements=tuple(
                    Agreement(values.pop("name"), **{k: Estimate(**v) for k, v in values.items()})
                    for values in map(dict, data["agreements"])
                ),
                ceiling=None if data["ceiling"] is None else Estimate(**data["ceiling"]),
                kinds=tuple(
                    Kind(**{**v, "tau": None if v["tau"] is None else Estimate(**v["tau"])})
                    for v in data["kinds"]
                ),
                band=data["band"],
                about=data["about"],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not a trust card: {error!r}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _network(values: Mapping[str, Any]) -> Network:
    known = {entry.name for entry in fields(Network)}
    if set(values) != known:
        raise KeyError(*sorted(set(values) ^ known))
    lists = {name: tuple(values[name]) for name in ("kinds", "accuracies", "probabilities")}
    scores = {name: float(score) for name, score in values["zero_cost"].items()}
    return Network(**{**values, **lists, "zero_cost": scores})


# ---- making one


def block_kinds(genome: Genome) -> tuple[tuple[str, ...], str]:
    """The kinds of a network's blocks by name, and the one whose blocks have most MACs ("" where
    there is no block; the first by name of several)."""
    macs: dict[str, int] = {}
    for placed in genome.parts():
        if ".blocks." in placed.path:
            kind = placed.part.kind
            macs[kind] = macs.get(kind, 0) + placed.cost().macs
    kinds = tuple(sorted(macs))
    return kinds, max(kinds, key=macs.__getitem__, default="")


def in_band(macs: ArrayLike, level: float) -> NDArray[np.bool_]:
    """Which networks have MACs within `BAND` of `level`, ends included."""
    counted = np.asarray(macs, np.float64)
    return np.abs(counted - level) <= BAND * level * (1 + 1e-12)


def make_card(
    networks: Sequence[Network],
    level: int,
    *,
    seed: int,
    joined: Mapping[str, Sequence[str]] | None = None,
    about: Mapping[str, Any] | None = None,
    resamples: int = RESAMPLES,
) -> Card:
    """The card of `networks`.

    Beside the supernet's score it judges MACs, parameters, each zero-cost score, and for each entry
    of `joined` the log-rank sum (`zero_cost.ranks`) of what that names, among the networks that
    count; nothing where one of those is not known of any network. `seed` is that of the intervals.
    """
    counted = [network for network in networks if network.counts]
    truth = np.array([network.truth for network in counted])
    near = in_band([network.macs for network in counted], level)
    names = list(dict.fromkeys(name for network in counted for name in network.zero_cost))
    columns: dict[str, Sequence[float | None]] = {
        SUPERNET: [network.score for network in counted],
        "MACs": [network.macs for network in counted],
        "parameters": [network.params for network in counted],
        **{name: [network.zero_cost.get(name) for network in counted] for name in names},
    }
    for name, members in (joined or {}).items():
        if members and set(members) <= set(columns):
            table = {member: _floats(columns[member]).tolist() for member in members}
            columns[name] = log_rank_sum(table).tolist()
    return Card(
        networks=tuple(networks),
        level=level,
        seed=seed,
        agreements=tuple(
            _agreement(name, column, truth, near, seed, resamples)
            for name, column in columns.items()
        ),
        ceiling=_ceiling(counted, seed, resamples),
        kinds=_kinds(counted, truth, seed, resamples),
        about=dict(about or {}),
    )


def estimate(
    statistic: Statistic, x: ArrayLike, y: ArrayLike, *, seed: int, resamples: int = RESAMPLES
) -> Estimate:
    """The statistic of two columns with its interval."""
    one, other = _columns(x, y)
    low, high = interval(statistic, one, other, seed=seed, resamples=resamples) or (None, None)
    return Estimate(statistic(one, other), low, high, len(one))


def _agreement(
    name: str,
    column: Sequence[float | None],
    truth: Floats,
    near: NDArray[np.bool_],
    seed: int,
    resamples: int,
) -> Agreement:
    values = _floats(column)
    known = ~np.isnan(values)
    found = [
        estimate(statistic, values[kept], truth[kept], seed=seed, resamples=resamples)
        for kept in (known, known & near)
        for statistic in (kendall, spearman)
    ]
    return Agreement(name, *found)


def _floats(column: Sequence[float | None]) -> Floats:
    """NaN for what is not known."""
    return np.array([math.nan if value is None else value for value in column], np.float64)


def _ceiling(networks: Sequence[Network], seed: int, resamples: int) -> Estimate | None:
    """Mean tau over the pairs of seeds."""
    repeats = min((len(network.accuracies) for network in networks), default=0)
    if repeats < 2:
        return None
    runs = np.array([network.accuracies[:repeats] for network in networks])
    pairs = list(combinations(range(repeats), 2))
    taus = [kendall(runs[:, a], runs[:, b]) for a, b in pairs]
    known = [tau for tau in taus if tau is not None]
    value = float(np.mean(known)) if known else None
    times = _times_drawn(np.random.default_rng(seed).integers(0, len(runs), (resamples, len(runs))))
    values = np.mean([_taus(runs[:, a], runs[:, b], times) for a, b in pairs], axis=0)
    known_ends = value is not None and len(runs) >= FEWEST
    low, high = (_middle(values) if known_ends else None) or (None, None)
    return Estimate(value, low, high, len(runs))


def _kinds(
    networks: Sequence[Network], truth: Floats, seed: int, resamples: int
) -> tuple[Kind, ...]:
    scores = np.array([network.score for network in networks], np.float64)
    by_score, by_truth = _ranks(scores, truth)
    moved = (by_score - by_truth) / max(1, len(networks))
    found = []
    main = Counter(network.main_kind for network in networks)
    for kind in sorted({kind for network in networks for kind in network.kinds}):
        has = np.array([kind in network.kinds for network in networks])
        leads = np.array([network.main_kind == kind for network in networks])
        tau = None
        if main[kind] >= FEWEST:
            tau = estimate(kendall, scores[leads], truth[leads], seed=seed, resamples=resamples)
        found.append(Kind(kind, int(has.sum()), float(moved[has].mean()), main[kind], tau))
    return tuple(found)
