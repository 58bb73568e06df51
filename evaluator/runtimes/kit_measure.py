"""Measures the networks of this kit on the machine at hand, whole and part by part.

    python measure.py --threads 4 --out phone.json

It needs Python 3.10 or newer, numpy and onnxruntime, nothing else. It may be stopped at any time;
the same command goes on where it was. The file that it writes is what `--budget 8ms@phone.json`
takes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if sys.version_info < (3, 10):  # noqa: UP036  # it runs elsewhere
    sys.exit("measure.py: this needs Python 3.10 or newer")
sys.path.insert(0, str(Path(__file__).resolve().parent))  # what lies beside this file

try:
    import numpy as np
    import onnxruntime
except ImportError as missing:
    sys.exit(f"measure.py: {missing.name} is not installed: pip install numpy onnxruntime")

from interleaved import Bench, TooNoisy
from machine import processor
from onnx_passes import OnnxRunner, looking_ms

KIND, FORMAT = "chimera latency kit", 1
CHUNK = 1 << 20  # numbers that are made at a time
SCALE = 0.05  # of weights; what comes out is neither too large nor too small for a float

Json = dict[str, Any]


class Unusable(Exception):
    """What is wrong with the kit, the options or the file that is there, in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(
        prog="measure.py", description="Measures the networks of this kit on this machine."
    )
    parser.add_argument("--threads", type=int, help="of a pass (default: the kit's, or all cores)")
    parser.add_argument("--out", type=Path, default=Path("measured.json"), metavar="FILE")
    parser.add_argument("--kit", type=Path, default=here, metavar="FOLDER", help="if elsewhere")
    options = parser.parse_args(arguments)
    try:
        measure(options.kit, options.out, options.threads)
    except (Unusable, TooNoisy) as error:
        return _said(f"{error}", 1)
    except OSError as error:
        return _said(f"{error.filename}: {error.strerror}", 1)
    except KeyboardInterrupt:
        return _said("stopped; the same command goes on where it was", 130)
    return 0


def _said(text: str, code: int) -> int:
    print(f"measure.py: {text}", file=sys.stderr)
    return code


def measure(folder: Path, out: Path, threads: int | None) -> None:
    """Measures what `out` does not have yet, and writes it there after each network."""
    kit = read_kit(folder)
    profile = new_profile(kit, chosen_threads(threads or kit["profile"]["device"]["threads"]))
    if out.exists():
        profile["networks"] = already_measured(out, profile, kit)
    entries, networks = kit["networks"], profile["networks"]
    if len(networks) < len(entries):
        write_weights(folder / kit["weights"]["file"], kit["weights"]["bytes"])
        prepare = Preparation(folder, kit, profile["device"]["threads"])
        levels = [network["anchor"] for network in networks]
        bench, clock = Bench(prepare(kit["anchor"]).time, levels), Clock(len(networks))
        for entry in entries[len(networks) :]:
            runner = prepare(entry)
            look = bench.measure(runner.time, runner.time_parts)
            numbers = {name: getattr(look, name) for name in ("ms", "low", "high", "anchor")}
            networks.append({**numbers, "parts": look.parts, "genome": entry["genome"]})
            write_json(out, profile)
            print(clock.after(len(networks), len(entries)), flush=True)
    write_json(out, {**profile, "finished": True})
    environment = profile["environment"]
    print(
        f"{out}: {len(networks)} networks, {environment['threads']} threads of a "
        f"{environment['device']}"
    )


class Preparation:
    """Makes networks of the kit ready to run."""

    def __init__(self, folder: Path, kit: Json, threads: int):
        self._folder, self._threads = folder, threads
        self._looking_ms = looking_ms(folder / kit["probe"], threads)

    def __call__(self, entry: Json) -> OnnxRunner:
        images = np.random.default_rng(0).standard_normal(entry["shape"], np.float32)
        model = self._folder / entry["file"]
        try:
            return OnnxRunner(model, entry["parts"], images, self._threads, self._looking_ms)
        except Exception as error:  # onnxruntime raises classes of its own
            reason = " ".join(str(error).split())[:300]
            raise Unusable(f"{model} cannot run: {reason}") from None


class Clock:
    """Says how long it will still take. `done` networks were there before."""

    def __init__(self, done: int):
        self._begun, self._before = time.monotonic(), done

    def after(self, done: int, total: int) -> str:
        each = (time.monotonic() - self._begun) / (done - self._before)
        left = each * (total - done)
        words = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min"
        return f"{done} of {total} networks, about {words} left"


def read_kit(folder: Path) -> Json:
    """What kit.json says. Unusable where it is not there, or not a kit that this file can read."""
    path = folder / "kit.json"
    kit = read_json(path)
    if not isinstance(kit, dict) or kit.get("kind") != KIND:
        raise Unusable(f"{path} is not a latency kit")
    if kit.get("format") != FORMAT:
        raise Unusable(
            f"{path} has format {kit.get('format')!r}, and this measure.py reads {FORMAT}: use "
            "the one that came with the kit"
        )
    try:
        wanted = [kit["probe"], *(entry["file"] for entry in [kit["anchor"], *kit["networks"]])]
        missing = [name for name in wanted if not (folder / name).is_file()]
    except (KeyError, TypeError):
        raise Unusable(f"{path} is damaged: unpack the kit anew") from None
    if missing:
        raise Unusable(f"{folder / missing[0]} is missing: unpack the whole kit")
    return kit


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise Unusable(f"{path} is not a JSON file") from None


def chosen_threads(threads: int | None) -> int:
    """As many as asked for, or one for each core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= cores:
        raise Unusable(f"--threads is {threads}, but must be from 1 to {cores}, the cores here")
    return threads or cores


def new_profile(kit: Json, threads: int) -> Json:
    """A profile without networks."""
    environment = {
        "device": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads,
        "onnxruntime": onnxruntime.__version__,
        **kit["environment"],
    }
    device = {**kit["profile"]["device"], "threads": threads}
    return {**kit["profile"], "device": device, "environment": environment, "networks": []}


def already_measured(out: Path, profile: Json, kit: Json) -> list[Json]:
    """The networks in `out`. Unusable where it is of another kit or machine."""
    found = read_json(out)
    for name in profile:
        if name in ("finished", "networks"):
            continue
        if not isinstance(found, dict) or found.get(name) != profile[name]:
            raise Unusable(f"{out} is there, and has another {name}: choose another --out")
    genomes = [entry["genome"] for entry in kit["networks"]]
    try:
        networks = list(found["networks"])
        same = [network["genome"] for network in networks] == genomes[: len(networks)]
        same = same and all(float(network["anchor"]) > 0 for network in networks)
    except (KeyError, TypeError, ValueError):
        same = False
    if not same:
        raise Unusable(f"{out} is there, and has other networks: choose another --out")
    return networks


def write_weights(path: Path, size: int) -> None:
    """The weights of all networks: any numbers, since only shapes decide how long a pass takes."""
    if path.is_file() and path.stat().st_size == size:
        return
    rng, partial = np.random.default_rng(0), path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        for begin in range(0, size // 4, CHUNK):
            numbers = rng.standard_normal(min(CHUNK, size // 4 - begin), np.float32)
            file.write((SCALE * numbers).astype("<f4").tobytes())
    os.replace(partial, path)


def write_json(path: Path, plain: Json) -> None:
    """In one piece: whoever reads the file sees the old content or the new."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(main())
