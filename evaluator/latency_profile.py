"""A device's profile: networks of a space that were measured there, whole and part by part.

A profile file is what was measured and nothing else; what follows from it, such as a table of
parts, is computed when it is read (`evaluator.latency_model`). So a better fit needs no new
measurements.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from evaluator.interleaved import level_of
from space.device import Device
from space.genome import Genome

KIND, FORMAT = "chimera latency profile", 1


@dataclass(frozen=True, slots=True)
class Measured:
    """One network: milliseconds of a pass, of each part inside a pass, in the order of
    `Genome.parts`, and of the anchor around it. Medians; `low` and `high` are quartiles."""

    genome: Genome
    ms: float
    low: float
    high: float
    parts: tuple[float, ...]
    anchor: float


@dataclass(frozen=True, slots=True)
class Profile:
    """What a device did. `environment` says what the device is; `finished` whether all was measured
    that was planned."""

    device: Device
    environment: Mapping[str, Any]
    space: str
    anchor: Genome
    networks: tuple[Measured, ...]
    finished: bool = False

    @property
    def level(self) -> float:
        """What the anchor takes when nothing disturbs it, ms."""
        return level_of([network.anchor for network in self.networks])

    def to_plain(self) -> dict[str, Any]:
        """What a profile file holds, for JSON."""
        return {
            "kind": KIND,
            "format": FORMAT,
            "device": _device_plain(self.device),
            "environment": dict(self.environment),
            "space": self.space,
            "finished": self.finished,
            "anchor": self.anchor.to_json(brief=True),
            "networks": [
                {
                    "ms": network.ms,
                    "low": network.low,
                    "high": network.high,
                    "anchor": network.anchor,
                    "parts": list(network.parts),
                    "genome": network.genome.to_json(brief=True),
                }
                for network in self.networks
            ],
        }

    def save(self, path: Path) -> None:
        """Writes the file in one piece. OSError where that cannot be done."""
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_text(json.dumps(self.to_plain(), indent=1) + "\n", encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def read_profile(path: Path) -> Profile:
    """The profile in a file; ValueError that says what is wrong with it."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"profile {str(path)!r} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):  # no JSON, or no text
        raise ValueError(f"profile {str(path)!r} is not a JSON file") from None
    if not isinstance(plain, dict) or plain.get("kind") != KIND:
        raise ValueError(
            f"{str(path)!r} is not a latency profile; 'run_search.py profile' makes one"
        )
    if plain.get("format") != FORMAT:
        raise ValueError(
            f"profile {str(path)!r} has format {plain.get('format')!r}, and this version reads "
            f"{FORMAT}: how things are measured has changed, so measure it anew by "
            "'run_search.py profile'"
        )
    try:
        return _from_plain(plain)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        lacks = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(f"{error}".split())
        raise ValueError(f"profile {str(path)!r} is damaged: {lacks}") from None


def _from_plain(plain: Mapping[str, Any]) -> Profile:
    if not isinstance(plain["networks"], list):
        raise ValueError("its networks are not a list")
    networks = tuple(_measured(entry) for entry in plain["networks"])
    if not isinstance(plain["environment"], dict):
        raise ValueError("its environment is not an object")
    for name, value in plain["environment"].items():
        if value is not None and not isinstance(value, str | int | float):
            raise ValueError(f"its environment has {name!r} of {value!r}")
    if not isinstance(plain["space"], str):
        raise ValueError(f"its space is {plain['space']!r}")
    return Profile(
        _device(plain["device"]),
        plain["environment"],
        plain["space"],
        Genome.from_json(plain["anchor"]),
        networks,
        plain["finished"] is True,
    )


def _measured(entry: Mapping[str, Any]) -> Measured:
    genome = Genome.from_json(entry["genome"])
    numbers = [entry[name] for name in ("ms", "low", "high", "anchor")]
    parts = tuple(entry["parts"])
    if len(parts) != sum(1 for _ in genome.parts()):
        raise ValueError(f"{genome.digest} has times of {len(parts)} parts")
    for value in (*numbers, *parts):
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise ValueError(f"{genome.digest} has a time of {value!r}")
        if not math.isfinite(value):
            raise ValueError(f"{genome.digest} has a time of {value!r}")
    ms, low, high, anchor = numbers
    if min(ms, low, high, anchor) <= 0:
        raise ValueError(f"{genome.digest} takes no time")
    if not low <= ms <= high:
        raise ValueError(f"{genome.digest} takes {ms} ms, with quartiles of {low} and {high}")
    return Measured(genome, ms, low, high, parts, anchor)


def _device_plain(device: Device) -> dict[str, Any]:
    return {name: value for name, value in asdict(device).items() if name != "profile"}


def _device(plain: Mapping[str, Any]) -> Device:
    known = {field.name for field in fields(Device)} - {"profile"}
    if set(plain) != known:
        raise ValueError(f"its device must have {', '.join(sorted(known))}")
    device = Device(**plain)
    if Device.parse(device.name) != device:
        raise ValueError(f"its device is {plain!r}")
    return device


def check_environment(profile: Profile, now: Mapping[str, Any], path: Path) -> None:
    """ValueError where the profile was measured under other conditions than those here."""
    differs = difference(profile.environment, now)
    if differs:
        raise ValueError(
            f"profile {str(path)!r} was measured with {differs}: latencies may differ, so measure "
            "it anew by 'run_search.py profile'"
        )


def difference(before: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The first thing in which two environments differ; empty where they are the same."""
    for name in sorted({*before, *here}):
        if before.get(name) != here.get(name):
            return f"{name} {before.get(name)!r}, but here it is {here.get(name)!r}"
    return ""


def times_of_parts(networks: Sequence[Measured], level: float) -> list[tuple[float, ...]]:
    """Milliseconds of the parts of each network, at the speed at which the anchor takes `level`."""
    return [tuple(ms * level / n.anchor for ms in n.parts) for n in networks]
