"""Profiles a device, then measures networks that the profile does not know: how wrong is it?

    python -m benchmarks.latency --device cpu --json benchmarks/results/latency-cpu.json

Held-out networks are drawn uniformly from the space, with another seed than those of the profile,
and measured end to end, eight at a time in turns with an anchor network. The profile is kept in the
folder `profiles`, unless `--profile` names a file, and measuring it goes on where it was stopped.
It needs torch, numpy, SciPy and PyYAML.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from evaluator.interleaved import Timing
from evaluator.latency import Anchor, measure
from evaluator.latency_model import LatencyColumn, LatencyModel, accuracy_of
from evaluator.latency_profile import Profile
from evaluator.profiling import profile_device
from evaluator.runtimes import Runtime, input_shape, make_runtime
from space.device import Device
from space.files import load_space
from space.search_space import Space

ROOT = Path(__file__).parents[1]
HELD_OUT_SEED = 1_000_003


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--space", default="unified")
    parser.add_argument("--proxy", action="store_true", help="at the width and side of the proxy")
    parser.add_argument("--minutes", type=float, default=10.0, help="for the profile, at most")
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", type=Path, help="where to keep it")
    parser.add_argument("--json", type=Path, required=True, help="where to write the result")
    options = parser.parse_args()
    space = load_space(options.space)
    if options.proxy:
        space = space.scaled(width=0.125, resolution=32, classes=10)
    runtime = make_runtime(Device.parse(options.device))
    path = options.profile or ROOT / "profiles" / f"{options.json.stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    profile = profile_device(
        space, runtime, path, minutes=options.minutes, progress=_said("profile")
    )
    profile_seconds = time.monotonic() - begun
    begun = time.monotonic()
    model = LatencyModel(profile)
    column = LatencyColumn.of(space, runtime.device, model)
    fit_seconds = time.monotonic() - begun
    rows = space.sample_codes(np.random.default_rng(HELD_OUT_SEED), options.held_out)
    measured = measure_rows(space, runtime, profile, model.level, rows, options.rounds)
    result = {
        "benchmark": "latency",
        "command": " ".join(["python -m benchmarks.latency", *sys.argv[1:]]),
        "device": runtime.device.name,
        "environment": dict(runtime.environment()),
        "seed": HELD_OUT_SEED,
        "space": space.name,
        "proxy": options.proxy,
        "profile": {
            "networks": len(profile.networks),
            "seconds": profile_seconds,
            "fit_seconds": fit_seconds,
            "parts": len(column.ms),
            "anchor_ms": model.level,
            "by_itself": asdict(accuracy_of(profile)),
        },
        **judge(column(rows), measured),
    }
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in result.items() if k != "networks"}, indent=1))
    return 0


def measure_rows(
    space: Space, runtime: Runtime, profile: Profile, level: float, rows: Any, rounds: int
) -> list[Timing]:
    """End to end, of each row."""
    genomes = {f"{i}": space.decode(row) for i, row in enumerate(rows)}
    batch, anchor = runtime.device.batch, profile.anchor
    found = measure(
        runtime,
        {name: partial(runtime.fresh, genome) for name, genome in genomes.items()},
        {name: input_shape(genome, batch) for name, genome in genomes.items()},
        Anchor(runtime.fresh(anchor), input_shape(anchor, batch), level),
        rounds=rounds,
        progress=_said("held out"),
    )
    return [found[name] for name in genomes]


def judge(predicted: Any, measured: list[Timing]) -> dict[str, Any]:
    true = np.array([timing.ms for timing in measured])
    apart = predicted / true - 1
    return {
        "held_out": len(true),
        "median_absolute_error": float(np.median(np.abs(apart))),
        "nine_of_ten": float(np.quantile(np.abs(apart), 0.9)),
        "largest_error": float(np.abs(apart).max()),
        "within_5_percent": float((np.abs(apart) <= 0.05).mean()),
        "within_10_percent": float((np.abs(apart) <= 0.10).mean()),
        "median_error": float(np.median(apart)),
        "spearman": float(spearmanr(predicted, true).statistic),
        "networks": [
            {"predicted": float(p), "ms": t.ms, "low": t.low, "high": t.high}
            for p, t in zip(predicted, measured, strict=True)
        ],
    }


def _said(what: str) -> Any:
    """Tells how far it is, every 20 seconds."""
    last = [time.monotonic()]

    def tell(done: int, total: int) -> None:
        if time.monotonic() - last[0] > 20:
            last[0] = time.monotonic()
            print(f"{what}: {done} of {total}", flush=True)

    return tell


if __name__ == "__main__":
    sys.exit(main())
