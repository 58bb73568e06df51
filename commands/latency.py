"""Where latencies come from: profiles that lie on disk, or that are measured now."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluator.interleaved import TooNoisy
from evaluator.latency_model import LatencyColumn, LatencyModel, accuracy_of
from evaluator.latency_profile import Profile, read_profile
from evaluator.profiling import profile_device
from evaluator.runtimes import Runtime, make_runtime
from results.console import Console
from results.run_folder import write_text
from space.budget import LATENCY, MeasuredCost
from space.device import Device
from space.part_list import PartList
from space.search_space import Space

MINUTES = 10.0  # that measuring a device takes at most, unless more are asked for
KNOWN = 0.05  # share of a space's parts below which a profile says nothing of it
FIT = 1  # changes when predictions from the same profile do
FOLDER = "CHIMERA_PROFILES"  # environment variable: where profiles are kept


def latency_column(
    space: Space, device: Device, *, keep: Path | None, console: Console
) -> LatencyColumn:
    """Predicted ms of one pass on `device`, of rows of `space`.

    What is kept in the folder `keep` is taken from there; otherwise from the profile file that the
    device names, or from one on disk of the device at hand, which is measured where there is none.
    ValueError where that cannot be done, or where the profile knows nothing of the space.
    """
    kept = None if keep is None else keep / f"{_safe(device.name)}.json"
    if kept is not None and kept.is_file():
        plain = json.loads(kept.read_text(encoding="utf-8"))
        return LatencyColumn.from_plain(space, plain["column"])
    facts = fitted(space, device, profile_of(space, device, console=console), console)
    if facts["known_parts"] < KNOWN:
        raise ValueError(
            f"the profile of {device.name!r} was measured for space {facts['space']!r}, and knows "
            f"{facts['known_parts']:.0%} of the parts of space {space.name!r}: make one of this "
            "space by 'run_search.py profile'"
        )
    accuracy = facts["accuracy"]
    console.say(
        f"latency on {device.name}: predicted from {facts['networks']} measured networks; half of "
        f"predictions are within {accuracy['median']:.1%}, nine of ten within "
        f"{accuracy['nine_of_ten']:.1%}"
    )
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps(facts) + "\n")
    return LatencyColumn.from_plain(space, facts["column"])


def fitted(space: Space, device: Device, profile: Profile, console: Console) -> dict[str, Any]:
    """What a search goes by, and how far it can be trusted: a column as plain data, the accuracy of
    its predictions, what share of the space's parts was measured, and the anchor. It takes half a
    minute, and is kept beside the profiles."""
    parts = PartList(space).parts
    known = json.dumps(
        [FIT, device.name, profile.to_plain(), [[repr(p.part), repr(p.site)] for p in parts]],
        sort_keys=True,
    )
    path = profiles_folder() / "fits" / f"{hashlib.sha256(known.encode()).hexdigest()[:16]}.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    with console.progress(f"fitting latencies on {device.name}", 2) as meter:
        model = LatencyModel(profile)
        column = LatencyColumn.of(space, device, model)
        meter.update(1)
        accuracy = accuracy_of(profile)
        meter.update(2)
    facts = {
        "column": column.to_plain(),
        "accuracy": asdict(accuracy),
        "known_parts": sum(map(model.knows, parts)) / len(parts),
        "space": profile.space,
        "measured_on": profile.device.name,
        "environment": dict(profile.environment),
        "anchor": profile.anchor.to_json(brief=True),
        "anchor_ms": model.level,
        "networks": len(profile.networks),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(facts) + "\n")
    return facts


def kept_facts(folder: Path, device: Device) -> Mapping[str, Any] | None:
    """What `latency_column` kept of a device into a run's folder of profiles, if it did."""
    path = folder / f"{_safe(device.name)}.json"
    if not path.is_file():
        return None
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def profile_of(
    space: Space, device: Device, *, console: Console, minutes: float = MINUTES
) -> Profile:
    """The profile that the device names, or that of the device at hand for `space`."""
    if device.profile is not None:
        return read_profile(Path(device.profile))
    runtime = make_runtime(device)
    return measure_device(space, runtime, profile_path(space, runtime), console, minutes)


def measure_device(
    space: Space, runtime: Runtime, path: Path, console: Console, minutes: float
) -> Profile:
    """Measures, or goes on measuring, the device for `space`; ValueError where it is too restless.
    What is there already is read and not measured again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"measuring {runtime.device.name} for {space.name}, {minutes:g} min at most"
    try:
        with console.progress(title, 1) as meter:
            return profile_device(
                space,
                runtime,
                path,
                minutes=minutes,
                progress=lambda done, total: meter.update(done, total=total),
            )
    except TooNoisy as error:
        raise ValueError(f"{error} (what was measured is kept)") from None


def profile_path(space: Space, runtime: Runtime) -> Path:
    """Where the profile of a device lies, by all that it depends on."""
    facts = {
        "parts": [[repr(part.part), repr(part.site)] for part in PartList(space).parts],
        "device": MeasuredCost(LATENCY, runtime.device).column,
        "environment": dict(runtime.environment()),
    }
    text = json.dumps(facts, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return profiles_folder() / f"{_safe(runtime.device.name)}-{_safe(space.name)}-{digest}.json"


def profiles_folder() -> Path:
    """$CHIMERA_PROFILES, or a folder in the user's cache."""
    chosen = os.environ.get(FOLDER)
    if chosen:
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "chimera" / "profiles"


def _safe(name: str) -> str:
    """The name as a file's, different for different names."""
    plain = "".join(c if c.isalnum() or c in ".-=" else "-" for c in name)
    if plain == name:
        return plain
    return f"{plain[-60:]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
