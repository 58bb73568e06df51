"""Measures the networks of this kit on the machine at hand, whole and part by part.

    python measure.py --threads 4 --out phone.json

It needs Python 3.10 or newer, numpy and onnxruntime, nothing else. It may be stopped at any time;
the same command goes on where it was. The file that it writes is what `--budget 8ms@phone.json`
takes.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

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
CHUNK = 1 << 20  # numbers


class Unusable(Exception):
    """What is wrong with the kit, the options or the file that is there, in one line."""


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="measure.py", description="Measures the networks of this kit on this machine."
    )
    parser.add_argument("--threads", type=int, help="of a pass (default: the kit's, or all cores)")
    parser.add_argument("--out", type=Path, default=Path("measured.json"), metavar="FILE")
    parser.add_argument(
        "--kit", type=Path, default=Path(__file__).resolve().parent, metavar="FOLDER"
    )
    options = parser.parse_args(arguments)
    try:
        measure(options.kit, options.out, options.threads)
    except (Unusable, TooNoisy) as error:
        return say(f"measure.py: {error}", 1)
    except OSError as error:
        return say(f"measure.py: {error.filename or ''}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        return say("measure.py: stopped; the same command goes on where it was", 130)
    return 0


def say(text, code):
    print(text, file=sys.stderr)
    return code


def measure(folder, out, threads):
    """Measures what `out` does not have yet, and writes it there after each network."""
    kit = read_kit(folder)
    threads = chosen_threads(threads or kit["profile"]["device"]["threads"])
    environment = {
        "device": processor(),
        "threads": threads,
        "onnxruntime": onnxruntime.__version__,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        **kit["environment"],
    }
    device = {**kit["profile"]["device"], "threads": threads}
    profile = {**kit["profile"], "device": device, "environment": environment}
    profile = {**profile, "finished": False, "networks": []}
    if out.exists():
        profile["networks"] = already_measured(out, profile, kit)
    write_weights(folder / kit["weights"]["file"], kit["weights"]["bytes"])
    entries, networks = kit["networks"], profile["networks"]
    if len(networks) < len(entries):
        looking = looking_ms(folder / kit["probe"], threads)

        def runner(entry):
            try:
                return OnnxRunner(
                    folder / entry["file"], entry["parts"], images(entry), threads, looking
                )
            except Exception as error:  # onnxruntime raises classes of its own
                raise Unusable(f"{entry['file']} cannot run: {one_line(error)}") from None

        levels = [network["anchor"] for network in networks]
        bench, begun, before = Bench(runner(kit["anchor"]).time, levels), time.time(), len(networks)
        while len(networks) < len(entries):
            entry = entries[len(networks)]
            network = runner(entry)
            look = bench.measure(network.time, network.time_parts)
            networks.append({**vars_of(look), "genome": entry["genome"]})
            write_json(out, profile)
            each = (time.time() - begun) / (len(networks) - before)
            left = each * (len(entries) - len(networks))
            print(f"{len(networks)} of {len(entries)} networks, about {duration(left)} left")
    write_json(out, {**profile, "finished": True})
    print(f"{out}: {len(networks)} networks with {threads} threads on {environment['device']}")


def read_kit(folder):
    """What kit.json says. Unusable where it is not there, or not a kit that this file can read."""
    kit = read_json(folder / "kit.json")
    if not isinstance(kit, dict) or kit.get("kind") != KIND:
        raise Unusable(f"{folder / 'kit.json'} is not a latency kit")
    if kit.get("format") != FORMAT:
        raise Unusable(
            f"{folder / 'kit.json'} has format {kit.get('format')!r}, and this measure.py reads "
            f"{FORMAT}: use the one that came with the kit"
        )
    wanted = [kit["probe"], kit["anchor"]["file"], *(entry["file"] for entry in kit["networks"])]
    for name in wanted:
        if not (folder / name).is_file():
            raise Unusable(f"{folder / name} is missing: unpack the whole kit")
    return kit


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise Unusable(f"{path} is not a JSON file") from None


def chosen_threads(threads):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = threads or cores
    if not 1 <= threads <= cores:
        raise Unusable(f"--threads is {threads}, but must be from 1 to {cores}, the cores here")
    return threads


def already_measured(out, profile, kit):
    """The networks in `out`. Unusable where it is of another kit or machine."""
    found = read_json(out)
    for name in [name for name in profile if name not in ("finished", "networks")]:
        if not isinstance(found, dict) or found.get(name) != profile[name]:
            raise Unusable(f"{out} is there, and has another {name}: choose another --out")
    networks = found.get("networks")
    genomes = [entry["genome"] for entry in kit["networks"]]
    measured = [network.get("genome") for network in networks] if all_dicts(networks) else None
    if measured is None or measured != genomes[: len(measured)]:
        raise Unusable(f"{out} is there, and has other networks: choose another --out")
    return networks


def all_dicts(values):
    return isinstance(values, list) and all(isinstance(value, dict) for value in values)


def write_weights(path, size):
    """The weights of all networks: any numbers, since only shapes decide how long a pass takes."""
    if path.is_file() and path.stat().st_size == size:
        return
    rng, partial = np.random.default_rng(0), path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        for begin in range(0, size // 4, CHUNK):
            numbers = rng.standard_normal(min(CHUNK, size // 4 - begin), np.float32)
            file.write((0.05 * numbers).astype("<f4").tobytes())
    os.replace(partial, path)


def images(entry):
    return np.random.default_rng(0).standard_normal(entry["shape"], np.float32)


def vars_of(look):
    return {name: getattr(look, name) for name in ("ms", "low", "high", "anchor", "parts")}


def write_json(path, plain):
    """In one piece: whoever reads the file sees the old content or the new."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def duration(seconds):
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def one_line(error):
    return " ".join(str(error).split())[:300]


if __name__ == "__main__":
    sys.exit(main())
