"""What a profile says of all networks of a space: their latencies, before anybody measures them.

A part's time inside networks is known from the profile where it was measured, and from its
relatives where it was not (`evaluator.latency_regression`); so is what networks take over the sum
of their parts. How wrong that is, is found by predicting uniformly drawn networks of the profile
from the others.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluator.latency_profile import Measured, Profile, times_of_parts
from evaluator.latency_regression import Features, PartRegression, PartTable
from evaluator.profiling import UNIFORM
from space.decisions import Codes
from space.device import Device
from space.genes import Site
from space.part_list import PartList, Sited, sited_parts
from space.search_space import Space

FOLDS = 2  # each takes a fit
_LEAST_ERROR = 0.005  # of a part's mean time, relative: neighbours differ, if passes do not
_ONE_LOOK = 0.05  # the same of a part that was seen in one network
_LEAST_MS = 1e-4  # clocks have no finer answer

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How far predictions are from measurements of networks that they did not know, as shares of
    the measurement: the median, and what nine of ten stay below."""

    networks: int
    median: float
    nine_of_ten: float


class LatencyModel:
    """Fitted to `profile`, or to some of its networks."""

    def __init__(self, profile: Profile, networks: Sequence[Measured] | None = None):
        self.profile = profile
        self.level = profile.level
        networks = profile.networks if networks is None else networks
        if len(networks) < 2:
            raise ValueError(
                f"the profile of {profile.device.name!r} has {len(networks)} networks, and needs "
                "two at least; measure it for longer"
            )
        self._coder = _Coder()
        self._known: dict[Sited, int] = {}
        looks: list[list[float]] = []
        rows = []
        for network, times in zip(networks, times_of_parts(networks, self.level), strict=True):
            numbers = []
            for part, ms in zip(sited_parts(network.genome), times, strict=True):
                number = self._known.setdefault(part, len(looks))
                if number == len(looks):
                    looks.append([])
                looks[number].append(math.log(max(ms, _LEAST_MS)))
                numbers.append(number)
            rows.append(np.array(numbers))
        self._regression = PartRegression.fit(
            self._coder.features(list(self._known)),
            np.arange(len(looks)),
            np.exp([np.mean(found) for found in looks]),
            _errors(looks),
            rows,
            [network.ms * self.level / network.anchor for network in networks],
            [(n.high - n.low) / n.ms for n in networks],
        )

    @property
    def environment(self) -> Mapping[str, Any]:
        return self.profile.environment

    def table(self, parts: Sequence[Sited]) -> PartTable:
        """Latencies of any parts, ms."""
        return self._regression.predict(self._coder.features(parts))

    def knows(self, part: Sited) -> bool:
        """Whether the part was measured."""
        return part in self._known

    def predict(self, networks: Sequence[Sequence[Sited]]) -> tuple[Floats, Floats]:
        """Milliseconds of each network and their standard deviation, (N,) each."""
        numbers: dict[Sited, int] = {}
        rows = [
            np.array([numbers.setdefault(part, len(numbers)) for part in parts])
            for parts in networks
        ]
        table = self.table(list(numbers))
        return table.networks(rows), table.deviations(rows)


def accuracy_of(profile: Profile, folds: int = FOLDS) -> Accuracy:
    """By cross-validation over the profile's uniformly drawn networks."""
    judged = range(0, len(profile.networks), UNIFORM)
    apart = []
    for fold in range(folds):
        held = [i for k, i in enumerate(judged) if k % folds == fold]
        if not held:
            continue
        left = set(held)
        others = [n for i, n in enumerate(profile.networks) if i not in left]
        model = LatencyModel(profile, others)
        ms, _ = model.predict([sited_parts(profile.networks[i].genome) for i in held])
        for i, predicted in zip(held, ms, strict=True):
            network = profile.networks[i]
            apart.append(abs(predicted / (network.ms * profile.level / network.anchor) - 1))
    return Accuracy(len(apart), float(np.median(apart)), float(np.quantile(apart, 0.9)))


def _errors(looks: Sequence[Sequence[float]]) -> Floats:
    """Relative error of the mean of each part's times."""
    within = [np.std(found, ddof=1) for found in looks if len(found) > 2]
    usual = float(np.median(within)) if within else _ONE_LOOK
    return np.array([max(_LEAST_ERROR, usual / math.sqrt(len(found))) for found in looks])


class LatencyColumn:
    """Predicted milliseconds of the rows of a space: a table of parts, and what networks add."""

    def __init__(self, space: Space, device: Device, ms: Floats, offset_ms: float, scale: float):
        self.name, self.device = f"latency@{device.name}", device
        self.ms, self.offset_ms, self.scale = ms, offset_ms, scale
        self._places = PartList(space)
        if len(ms) != len(self._places.parts):
            raise ValueError(
                f"latencies of {len(ms)} parts, but space {space.name!r} has "
                f"{len(self._places.parts)}"
            )

    @classmethod
    def of(cls, space: Space, device: Device, model: LatencyModel) -> LatencyColumn:
        """`device` as the budget names it."""
        table = model.table(PartList(space).parts)
        return cls(space, device, np.asarray(table.ms, float), table.offset_ms, table.scale)

    def __call__(self, codes: Codes) -> NDArray[np.float64]:
        sums = self._places.totals(codes, self.ms)
        return np.asarray(self.offset_ms + self.scale * sums, np.float64)

    def to_plain(self) -> dict[str, Any]:
        return {
            "device": self.device.name,
            "ms": self.ms.tolist(),
            "offset_ms": self.offset_ms,
            "scale": self.scale,
        }

    @classmethod
    def from_plain(cls, space: Space, plain: Mapping[str, Any]) -> LatencyColumn:
        device = Device.parse(plain["device"])
        return cls(space, device, np.array(plain["ms"]), plain["offset_ms"], plain["scale"])


class _Coder:
    """Parts as features; a value has the same code in every table that it makes."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, Hashable], int] = {}
        self._columns: list[str] = []

    def features(self, parts: Sequence[Sited]) -> Features:
        """Of (P,) parts. Genes that the first table does not vary are left out: nothing is known of
        what they do."""
        settings = [_settings(sited) for sited in parts]
        if not self._columns:
            self._columns = _varied(parts, settings)
        costs = [sited.cost() for sited in parts]
        return Features.of(
            kinds=[self._code("kind", _kind(sited)) for sited in parts],
            settings=np.array(
                [
                    [self._code(name, values.get(name)) for name in self._columns]
                    for values in settings
                ]
            ).reshape(len(parts), len(self._columns)),
            amounts=np.array([[c.macs, c.bytes_moved] for c in costs], float),
            sizes=np.array([_sizes(sited.site) for sited in parts], float),
        )

    def _code(self, name: str, value: Hashable) -> int:
        return self._codes.setdefault((name, value), len(self._codes))


def _kind(sited: Sited) -> str:
    return f"{sited.part.category} {sited.part.kind}"


def _settings(sited: Sited) -> dict[str, Hashable]:
    """The genes of a part by name."""
    part = sited.part
    return {gene.name: getattr(part, gene.name) for gene in fields(part)}  # type: ignore[arg-type]


def _varied(parts: Sequence[Sited], settings: Sequence[Mapping[str, Hashable]]) -> list[str]:
    """Genes in which parts of one kind differ."""
    values: dict[tuple[str, str], set[Hashable]] = {}
    for sited, genes in zip(parts, settings, strict=True):
        for name, value in genes.items():
            values.setdefault((_kind(sited), name), set()).add(value)
    return sorted({name for (_, name), found in values.items() if len(found) > 1})


def _sizes(site: Site) -> tuple[int, ...]:
    return site.in_channels, site.channels, site.height, site.out_height
