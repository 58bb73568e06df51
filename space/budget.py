"""Budgets: upper limits on what a network may cost, and how costs are named and written.

`4GFLOPs` means what vision papers mean by it: 4e9 multiply-adds (MACs) for one image. `4GMACs` is
the same budget. Latency and memory are those of one pass on a device: `8ms@cuda:batch=1,dtype=bf16`
and `512MB@cuda:batch=8`; `2000img/s@cuda:batch=64` is the latency of a pass that is as fast.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from space.cost import Cost
from space.device import DEVICE_EXAMPLES, PROFILE_SUFFIX, Device

LATENCY, MEMORY = "latency", "memory"

_PREFIXES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_NUMBER = r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*"
_COUNT = re.compile(
    _NUMBER + r"([kmgbt]??)(flops?|macs?|param(?:eter)?s?)\s*",
    re.IGNORECASE,
)
_TIME = re.compile(_NUMBER + r"(us|µs|ms|s)\s*", re.IGNORECASE)
_RATE = re.compile(_NUMBER + r"(k?)(?:im(?:a)?ge?s?/s|fps)\s*", re.IGNORECASE)
_BYTES = re.compile(_NUMBER + r"([kmgt])(i?)b(?:ytes)?\s*", re.IGNORECASE)
COUNT_EXAMPLES = "4GFLOPs, 600MFLOPs, 4GMACs, 25Mparams, or several joined by commas"
EXAMPLES = (
    "4GFLOPs, 600MFLOPs, 4GMACs, 25Mparams, 8ms, 5ms@cuda:batch=1,dtype=bf16, "
    "25ms@cpu:threads=4, 2000img/s@cuda:batch=64, 8ms@phone.json, 512MB, or several joined by "
    "commas"
)
_UNITS = "FLOPs, MACs, params, us, ms, s, img/s, MB and MiB"


@dataclass(frozen=True, slots=True)
class MeasuredCost:
    """A cost that no closed form of the layers gives: `latency`, ms of one pass, or `memory`, bytes
    at the peak of one. A pass takes `device.batch` images; no device is the one at hand."""

    kind: str
    device: Device | None = None

    @classmethod
    def parse(cls, name: str) -> MeasuredCost:
        """The inverse of `column`. ValueError where that is not what `name` is."""
        kind, at, device = name.strip().partition("@")
        if kind.lower() not in (LATENCY, MEMORY):
            raise ValueError(f"unknown cost {name!r}; write {LATENCY} or {MEMORY}, or one @DEVICE")
        return cls(kind.lower(), _device(kind.lower(), name, device) if at else None)

    @property
    def column(self) -> str:
        """Its unique name among the costs of a network."""
        return self.kind if self.device is None else f"{self.kind}@{self.device.name}"

    def on(self, at_hand: Device) -> MeasuredCost:
        """On a device that is known, `at_hand` where none was named."""
        return self if self.device is not None else replace(self, device=at_hand)


@dataclass(frozen=True, slots=True)
class MeasuredLimit:
    """An upper `limit` on a measured cost, in its unit (ms of one pass, or bytes), and the `text`
    that it was written as."""

    cost: MeasuredCost
    limit: float
    text: str = ""

    @property
    def kind(self) -> str:
        return self.cost.kind

    @property
    def device(self) -> Device | None:
        return self.cost.device

    @property
    def column(self) -> str:
        return self.cost.column

    def on(self, at_hand: Device) -> MeasuredLimit:
        """With the device at hand where none was named, in the text as well."""
        cost = self.cost.on(at_hand)
        text = self.text if cost == self.cost else f"{self.text}@{at_hand.name}"
        return replace(self, cost=cost, text=text)


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits; None is no limit. `macs` and `params` are those of one image, `measured` those of a
    pass on a device."""

    macs: int | None = None
    params: int | None = None
    text: str = ""
    measured: tuple[MeasuredLimit, ...] = ()

    @classmethod
    def parse(cls, text: str, *, flops_per_mac: int = 1, counts_only: bool = False) -> Budget:
        """`4GFLOPs,8ms@cpu`; `flops_per_mac=2` is for those who count a MAC as two FLOPs, and
        `counts_only` refuses what is not a limit on MACs or parameters.

        Raises ValueError that names the piece that is wrong and what can be written.
        """
        counts: dict[str, int] = {}
        measured: list[MeasuredLimit] = []
        for piece in pieces(text):
            found = _measured(piece)
            if found is not None and counts_only:
                raise ValueError(
                    f"budget {piece.strip()!r} has to be measured, but only MACs and parameters "
                    f"can be limited here; write {COUNT_EXAMPLES}"
                )
            if found is not None:
                measured.append(found)
                continue
            kind, limit = _count(piece, flops_per_mac, counts_only)
            if kind in counts:
                raise ValueError(f"budget {text!r} limits {kind} twice")
            counts[kind] = limit
        _check_once(text, measured)
        return cls(**counts, text=text.strip(), measured=tuple(measured))

    def on(self, at_hand: Device) -> Budget:
        """With a device for all that is measured, in the text as well: `at_hand` where none was
        named. ValueError where one device is then limited twice."""
        texts = [
            piece.strip() if found is None else found.on(at_hand).text
            for piece in pieces(self.text)
            for found in [_measured(piece)]
        ]
        measured = tuple(limit.on(at_hand) for limit in self.measured)
        _check_once(self.text, measured)
        return replace(self, measured=measured, text=",".join(texts) if measured else self.text)

    @property
    def targets(self) -> tuple[str, ...]:
        """The costs that are limited, those that are steered towards their limit first: which of
        them it is depends on what a space can reach (`search.networks`)."""
        kinds = [(limit.kind, limit.column) for limit in self.measured]
        return (
            *(["macs"] if self.macs is not None else []),
            *[column for kind, column in kinds if kind == LATENCY],
            *[column for kind, column in kinds if kind == MEMORY],
            *(["params"] if self.params is not None else []),
        )

    @property
    def target(self) -> str:
        """The first of `targets`: MACs where they are limited."""
        assert self.targets, "a budget has at least one limit"
        return self.targets[0]

    @property
    def limit(self) -> float:
        """The limit of `target`."""
        return self.limits()[self.target]

    def limits(self) -> dict[str, float]:
        """What is limited, and to what, in the unit of each."""
        pairs = (("macs", self.macs), ("params", self.params))
        counts = {name: limit for name, limit in pairs if limit is not None}
        return counts | {limit.column: limit.limit for limit in self.measured}

    def allows(self, cost: Cost, measured: Mapping[str, float] | None = None) -> bool:
        """Whether counts, and what was `measured` by column, are within the limits; a limit on what
        is not in `measured` is not looked at."""
        known = {"macs": cost.macs, "params": cost.params, **(measured or {})}
        return all(known[name] <= limit for name, limit in self.limits().items() if name in known)

    def use(self, cost: Cost) -> float:
        """Share of the target's limit that is used; of a count."""
        return float(getattr(cost, self.target) / self.limit)


# ---- what is written


def pieces(text: str) -> list[str]:
    """What stands between commas, where these do not separate the options of one device: an option
    belongs to the piece before it, if that names a device."""
    found: list[str] = []
    for piece in text.split(","):
        path = piece.strip().lower().endswith(PROFILE_SUFFIX) and "@" not in piece
        if found and "@" in found[-1] and ("=" in piece.partition("@")[0] or path):
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    return found


def _count(piece: str, flops_per_mac: int, counts_only: bool) -> tuple[str, int]:
    """`macs` or `params`, and the limit on it."""
    said = piece.strip()
    written, at, _ = said.partition("@")
    match, examples = _COUNT.fullmatch(written), COUNT_EXAMPLES if counts_only else EXAMPLES
    if match is None:
        if not at and "=" in said:
            raise ValueError(
                f"budget option {said!r} belongs behind a device, as in 8ms@cuda:batch=1,dtype=bf16"
            )
        raise ValueError(
            f"budget {said!r} cannot be read: it takes a number and one of the units "
            f"{'FLOPs, MACs and params' if counts_only else _UNITS}, such as {examples}"
        )
    if at:
        raise ValueError(
            f"budget {said!r} names a device, but MACs and parameters are the same on all of them: "
            f"write {written.strip()}"
        )
    number, prefix, unit = match.groups()
    value = float(number) * _PREFIXES[prefix.lower()]
    if unit.lower().startswith("flop"):
        value /= flops_per_mac
    if not 1 <= value < math.inf:
        raise ValueError(f"budget {said!r} must be above zero and finite; write {examples}")
    return "params" if unit.lower().startswith("param") else "macs", round(value)


def _measured(piece: str) -> MeasuredLimit | None:
    """The limit on latency or memory that a piece gives; None where it is none of them."""
    said = piece.strip()
    written, at, device_text = said.partition("@")
    time, rate, size = (kind.fullmatch(written) for kind in (_TIME, _RATE, _BYTES))
    match = time or rate or size
    if match is None:
        return None
    kind = MEMORY if size else LATENCY
    device = _device(kind, said, device_text) if at else None
    value = float(match[1])
    if time:
        value *= _MILLISECONDS[match[2].lower()]
    elif size:
        value *= (_BINARY if match[3] else _PREFIXES)[match[2].lower()]
    elif device is not None and device.profile is not None:
        raise ValueError(
            f"budget {said!r} asks for images a second of a profile file, which knows its own "
            f"batch: write the time of one pass, such as 8ms@{device.name}"
        )
    elif value > 0:
        batch = 1 if device is None else device.batch
        value = 1e3 * batch / (value * _PREFIXES[match[2].lower()])
    if not 0 < value < math.inf:
        raise ValueError(f"budget {said!r} must be above zero and finite; write {EXAMPLES}")
    return MeasuredLimit(MeasuredCost(kind, device), value, said)


def _device(kind: str, said: str, text: str) -> Device:
    """The device behind the `@` of what was `said`."""
    if not text.strip():
        raise ValueError(f"{said!r} names no device behind '@'; write {DEVICE_EXAMPLES}")
    if text.strip().lower().endswith(PROFILE_SUFFIX) and "," in text:
        raise ValueError(f"profile {text.strip()!r} has a comma in its path: give it another name")
    device = Device.parse(text.strip())
    if kind == MEMORY and device.profile is not None:
        raise ValueError(f"{said!r} asks for memory, but a profile file has latencies alone")
    if kind == MEMORY and device.threads is not None:
        raise ValueError(f"{said!r} gives threads, but memory does not depend on them")
    return device


def _check_once(text: str, measured: Sequence[MeasuredLimit]) -> None:
    columns = [limit.column for limit in measured]
    for column in columns:
        if columns.count(column) > 1:
            kind, _, device = column.partition("@")
            where = f" on {device}" if device else ""
            raise ValueError(f"budget {text!r} limits {kind}{where} twice")


# ---- for people


def quantity(value: float) -> str:
    """3.98G, 612M, 8.1k: three digits and a prefix, for people."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g}"


_WORDS = {
    "macs": "MACs",
    "params": "parameters",
    "activations": "activations",
    "bytes_moved": "bytes moved",
}


def cost_title(name: str) -> str:
    """What heads a column of costs: `MACs`, `latency on cpu`, `memory`."""
    kind, _, device = name.partition("@")
    return _WORDS.get(name, kind) + (f" on {device}" if device else "")


def cost_figure(name: str, value: float) -> str:
    """A cost in a column of its own: `3.98G`, `7.91 ms`, `512MB`."""
    if name.startswith(LATENCY):
        return f"{value:.3g} ms"
    return f"{quantity(value)}B" if name.startswith((MEMORY, "bytes")) else quantity(value)


def cost_text(name: str, value: float) -> str:
    """A cost in a sentence: `3.98G MACs`, `7.91 ms on cpu`, `512MB of memory on cuda`."""
    kind, _, device = name.partition("@")
    where = f" on {device}" if device else ""
    if kind == LATENCY:
        return f"{cost_figure(name, value)}{where}"
    if kind == MEMORY:
        return f"{cost_figure(name, value)} of memory{where}"
    figure = quantity(value)
    return f"{figure}B moved" if name == "bytes_moved" else f"{figure} {cost_title(name)}"
