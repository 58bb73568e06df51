"""Do exported networks keep to the latency that was asked for?

    python -m benchmarks.latency_budgets --json benchmarks/results/latency_budgets-cpu.json

Whole searches through the command line, each under a random latency budget that the space can meet:
between the first and the ninth decile of what random networks are predicted to take. Searches are
short (what is judged is the promise, not the network). Then the best network of each is measured
again, twice: as the search does it, and by a process of its own that has PyTorch and nothing of
ours, and runs its `model.py` and the anchor's in turns of a few passes. Both are in milliseconds of
the speed at which the device was profiled: `plain_ms` and `plain_anchor_ms` are what the clock
said. Finished searches are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from commands.latency import fitted, profile_of
from evaluator.latency import Anchor, measure
from evaluator.latency_model import LatencyColumn
from evaluator.runtimes import Runtime, input_shape, make_runtime
from results.console import Console
from results.export import load_module
from results.model_file import model_source
from space.device import Device
from space.files import load_space
from space.genome import Genome

ROOT = Path(__file__).parents[1]
SEED = 20
# What docs/latency.md says of memory that is kept.
SERVER = {"MALLOC_TRIM_THRESHOLD_": "2147483647", "MALLOC_MMAP_MAX_": "0"}
PLAIN = """
import importlib.util, json, statistics, sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
networks, taken = [], []
for number, path in enumerate(sys.argv[2:]):
    spec = importlib.util.spec_from_file_location(f"model{number}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    side = module.RESOLUTION
    networks.append((module.model().eval(), torch.randn(1, module.IN_CHANNELS, side, side)))
    taken.append([])
with torch.inference_mode():
    for _ in range(8):
        for (network, images), own in zip(networks, taken):
            for k in range(6):
                begun = time.perf_counter()
                network(images)
                if k:
                    own.append(1e3 * (time.perf_counter() - begun))
print(json.dumps([statistics.median(own) for own in taken]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--space", default="unified")
    parser.add_argument("--searches", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=48)
    parser.add_argument("--steps", type=int, default=20, help="of training the supernet")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--json", type=Path, required=True, help="where to write the result")
    options = parser.parse_args()
    device, space = Device.parse(options.device), load_space(options.space)
    console = Console(quiet=False)
    profile = profile_of(space, device, console=console)
    facts = fitted(space, device, profile, console)
    column, level = LatencyColumn.from_plain(space, facts["column"]), facts["anchor_ms"]
    rng = np.random.default_rng(SEED)
    ms = column(space.sample_codes(rng, 10_000))
    low, high = np.quantile(ms, [0.1, 0.9]).tolist()
    budgets = rng.uniform(low, high, size=options.searches).round(1)
    runtime = make_runtime(device)
    entries = []
    for seed, budget in enumerate(budgets.tolist()):
        folder = options.runs / f"budget{seed}"
        best = search(options, folder, budget, seed)
        entry = judge(folder, best, runtime, profile.anchor, level, budget)
        entries.append(entry)
        print(json.dumps(entry), flush=True)
        write(options, runtime, entries)
    return 0


def search(options: Any, folder: Path, budget: float, seed: int) -> dict[str, Any]:
    """The best network of a search, as the command line says it."""
    said = folder.with_suffix(".json")
    if not said.is_file():
        words = [sys.executable, str(ROOT / "run_search.py"), "--json", "--quiet"]
        if folder.exists():
            words += ["--resume", str(folder)]
        else:
            words += ["--budget", f"{budget}ms@{options.device}", "--space", options.space]
            words += ["--evaluations", str(options.evaluations), "--steps", str(options.steps)]
            words += ["--seed", str(seed), "--no-compare", "--batch", "8", "--exports", "2"]
            words += ["--runs", str(folder.parent), "--name", folder.name]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"search {seed} ended with {done.returncode}: {done.stderr[-500:]}")
        said.write_text(done.stdout, encoding="utf-8")
    found: dict[str, Any] = json.loads(said.read_text(encoding="utf-8"))
    return found


def judge(
    folder: Path,
    outcome: dict[str, Any],
    runtime: Runtime,
    anchor: Genome,
    level: float,
    budget: float,
) -> dict[str, Any]:
    """The exported best network, measured again."""
    best = outcome["best"] or outcome["exported"][0]
    place = folder / "architectures" / best["name"]
    genome = Genome.from_json(json.loads((place / "genome.json").read_text(encoding="utf-8")))
    timing = measure(
        runtime,
        {"best": partial(exported, place)},
        input_shape(genome, 1),
        Anchor(runtime.fresh(anchor), input_shape(anchor, 1), level),
    )["best"]
    aside = folder / "anchor.py"
    aside.write_text(model_source(anchor, "anchor"), encoding="utf-8")
    words = [sys.executable, "-I", "-c", PLAIN, str(threads_of(runtime))]
    words += [str(place / "model.py"), str(aside)]
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, env=SERVER | os.environ
    )
    plain, beside = json.loads(done.stdout)
    return {
        "seed": int(folder.name.removeprefix("budget")),
        "budget_ms": budget,
        "at_budget": outcome["best"] is not None,
        "predicted_ms": next(iter(best["costs"].values())),
        "ms": timing.ms,
        "low": timing.low,
        "high": timing.high,
        "of_budget": timing.ms / budget,
        "plain_ms": plain,
        "plain_anchor_ms": beside,
        "plain_of_budget": plain * level / beside / budget,
        "evaluated": outcome["evaluated"],
    }


def exported(place: Path) -> Any:
    return load_module(place / "model.py").model()


def threads_of(runtime: Runtime) -> int:
    return int(runtime.environment().get("threads", 1))


def write(options: Any, runtime: Runtime, entries: list[dict[str, Any]]) -> None:
    ratios = np.array([entry["of_budget"] for entry in entries])
    plain = np.array([entry["plain_of_budget"] for entry in entries])
    result = {
        "benchmark": "latency_budgets",
        "command": " ".join(["python -m benchmarks.latency_budgets", *sys.argv[1:]]),
        "device": runtime.device.name,
        "environment": dict(runtime.environment()),
        "seed": SEED,
        "searches": len(entries),
        "within_5_percent_above": int((ratios <= 1.05).sum()),
        "within": int((ratios <= 1.0).sum()),
        "most_of_budget": float(ratios.max()),
        "median_of_budget": float(np.median(ratios)),
        "plain_within_5_percent_above": int((plain <= 1.05).sum()),
        "plain_most_of_budget": float(plain.max()),
        "entries": entries,
    }
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
