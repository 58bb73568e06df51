"""Exports of published and of random networks: whether each is the network, and how long it is.

    python -m benchmarks.exports --json benchmarks/results/exports-cpu.json

What is done is noted in `--work` and not done again: so several processes can share the work by
`--shard 0/2` and `--shard 1/2`, and one without it sums up.

Each network is exported and compared with what its genome builds, to the last bit, as every export
is. Then a process that can import PyTorch and the standard library alone runs `model.py` on the
same images with the same weights, ONNX Runtime runs `model.onnx`, Ruff and mypy read the file.
Random networks are drawn from all spaces in turn and run at `--resolution`; published ones run at
their own, and those above `--params` million parameters are compared by shapes alone. ONNX is
written of published ones up to `--onnx-params` and of the first `--onnx-random` drawn ones.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.machine import device_name
from results.export import export_network, load_module, weight_names
from results.model_file import model_file
from space import Genome, build
from space.files import load_space, shipped_spaces
from space.norm_statistics import take_statistics
from space.presets import presets

ALONE = """
import json, runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2].split(","):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import torch

folder = sys.argv[1]
network = runpy.run_path(folder + "/model.py", run_name="model")["model"]().eval()
given = torch.load(folder + "/given.pt", weights_only=True)
network.load_state_dict(given["state"])
with torch.no_grad():
    print(json.dumps((network(given["images"]) - given["logits"]).abs().max().item()))
"""
# Logits from which on rounding decides: the maps of a deep network grow from layer to layer where
# BatchNorms do not know their statistics, which then are taken from the images.
EXPLODES = 100
OURS = "space,results,supernet,search,evaluator,commands,benchmarks,run_search,timm"


def networks(random: int, seed: int, resolution: int) -> Iterator[tuple[str, Genome, bool]]:
    """Name, genome, and whether it is a published one."""
    for preset in sorted(presets().values(), key=lambda preset: preset.genome.cost().params):
        yield preset.name, preset.genome, True
    spaces = {name: load_space(name) for name in shipped_spaces()}
    rng = np.random.default_rng(seed)
    for i in range(random):
        name = list(spaces)[i % len(spaces)]
        yield f"{name}-{i}", spaces[name].sample(rng).at(resolution=resolution), False


def look(name: str, genome: Genome, folder: Path, *, numbers: bool, onnx: bool) -> dict[str, Any]:
    """What one export is like; `numbers`: its logits are compared, and not its shapes alone."""
    found: dict[str, Any] = {"params": genome.cost().params}
    sources = folder / "source"
    sources.mkdir(parents=True, exist_ok=True)
    source = sources / f"{name.replace('-', '_')}.py"
    if not numbers:
        made = model_file(genome, name)
        source.write_text(made.text)
        with torch.device("meta"):
            exported = load_module(source).model()
        found["shapes"] = len(weight_names(exported, genome, made.origins))
        found["lines"] = len(made.text.splitlines())
        return found
    torch.manual_seed(0)
    network = build(genome).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # so that no branch is hidden by a zero
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        images = torch.randn(2, genome.in_channels, genome.resolution, genome.resolution)
        logits = network(images)
        if logits.abs().max() > EXPLODES:
            take_statistics(network, [images])
            logits = network(images)
    state = network.state_dict()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "out"
        done = export_network(
            genome, place, name=name, state=state, formats=["onnx"] if onnx else []
        )
        shutil.copy(place / "model.py", source)
        given = {"state": load_file(place / "weights.safetensors"), "images": images}
        torch.save({**given, "logits": logits}, place / "given.pt")
        alone = subprocess.run(
            [sys.executable, "-I", "-c", ALONE, str(place), OURS],
            capture_output=True,
            text=True,
            check=False,
        )
        if alone.returncode:
            raise RuntimeError(f"{name} alone: {alone.stderr.strip().splitlines()[-1]}")
        found["alone"] = json.loads(alone.stdout)
    found["largest_logit"] = logits.abs().max().item()
    if onnx:
        found["onnx"] = done.differences["onnx"]
    found["lines"] = len(source.read_text().splitlines())
    return found


def checks(folder: Path) -> dict[str, bool]:
    """Whether Ruff and mypy have nothing to say of the files."""
    tools = Path(sys.executable)
    commands = {
        "ruff_check": ["ruff", "check", "--isolated", "--line-length", "100"],
        "ruff_format": ["ruff", "format", "--check", "--isolated", "--line-length", "100"],
        "mypy": ["mypy", "--ignore-missing-imports", "--check-untyped-defs", "--config-file="],
    }
    found = {}
    for name, command in commands.items():
        words = [str(tools.with_name(command[0])), *command[1:], str(folder / "source")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        found[name] = done.returncode == 0
        if done.returncode:
            print(done.stdout[-2000:])
    return found


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = [row for row in rows if "alone" in row]
    onnx = [row["onnx"] / max(1, row["largest_logit"]) for row in rows if "onnx" in row]
    return {
        "networks": len(rows),
        "failed": [f"{row['name']}: {row['error']}" for row in rows if "error" in row],
        "run_alone": len(numbers),
        "largest_difference_alone": max((row["alone"] for row in numbers), default=None),
        "onnx": len(onnx),
        "largest_relative_difference_onnx": max(onnx, default=None),
        "median_lines": statistics.median(row["lines"] for row in rows if "lines" in row),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", type=int, default=200, help="networks that are drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resolution", type=int, default=64, help="of those, pixels")
    parser.add_argument(
        "--params", type=float, default=60, help="millions; published ones up to it run"
    )
    parser.add_argument("--onnx-params", type=float, default=12, help="the same for ONNX")
    parser.add_argument("--onnx-random", type=int, default=200, help="drawn ones with ONNX")
    parser.add_argument("--shard", default="0/1", help="of the networks, for several processes")
    parser.add_argument("--work", type=Path, default=Path("exports/benchmark"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    log = options.work / "done.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {row["name"] for row in rows}
    shard, shards = map(int, options.shard.split("/"))
    everything = networks(options.random, options.seed, options.resolution)
    for i, (name, genome, published) in enumerate(everything):
        if name in done or i % shards != shard:
            continue
        millions, drawn = genome.cost().params / 1e6, i - len(presets())
        try:
            row = look(
                name,
                genome,
                options.work,
                numbers=not published or millions <= options.params,
                onnx=millions <= options.onnx_params if published else drawn < options.onnx_random,
            )
        except Exception as error:  # it is the outcome
            row = {"error": f"{type(error).__name__}: {error}"}
        rows.append({"name": name, "published": published, **row})
        with log.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(len(rows), name, row, flush=True)
    if shards > 1:
        return
    space = {name: [row for row in rows if row["name"].startswith(f"{name}-")] for name in SPACES}
    result = {
        "benchmark": "exports",
        "command": f"python -m benchmarks.exports --random {options.random} --seed {options.seed}"
        f" --params {options.params:g} --onnx-params {options.onnx_params:g}"
        f" --onnx-random {options.onnx_random}",
        "device": device_name("cpu"),
        "torch": torch.__version__,
        "seed": options.seed,
        "published": summary([row for row in rows if row["published"]]),
        "random": summary([row for row in rows if not row["published"]]),
        "median_lines_by_space": {
            name: statistics.median(row["lines"] for row in found if "lines" in row)
            for name, found in space.items()
            if found
        },
        **checks(options.work),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


SPACES = shipped_spaces()

if __name__ == "__main__":
    main()
