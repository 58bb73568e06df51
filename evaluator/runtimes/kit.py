"""A kit: what measures networks on a device that has no PyTorch.

It is a zip of ONNX files, of a script that needs Python, numpy and onnxruntime alone
(`kit_measure.py`), and of the modules that this script shares with the rest of the project. What
the script writes is a profile (`evaluator.latency_profile`), so `read_profile` reads it.

The ONNX files have no large weights: all of them point into one file of random numbers, which the
script makes. How long a pass takes depends on shapes, not on values.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch

from evaluator import interleaved
from evaluator.latency_profile import Profile
from evaluator.profiling import Design, anchor_of
from evaluator.runtimes import onnx_passes
from evaluator.runtimes.onnx_graph import point_weights, write_network, write_probe
from space import build, machine
from space.device import Device
from space.genome import Genome
from space.onnx_file import OPSET
from space.search_space import Space

KIND, FORMAT = "chimera latency kit", 1  # as in kit_measure.py
FOLDER = "networks"  # in the zip; onnxruntime wants the weights beside the ONNX files
WEIGHTS, PROBE = "weights.bin", "probe.onnx"
MODULES = (interleaved, onnx_passes, machine)


def networks_for(space: Space, count: int, seed: int = 0) -> list[Genome]:
    """Networks that show as many parts of the space as `count` can, as `profile_device` draws them;
    fewer where that is enough."""
    design, found = Design(space, seed), list[Genome]()
    while len(found) < count and not design.enough:
        found.append(design.next(len(found)))
        design.see(found[-1])
    return found


def make_kit(
    space: Space,
    networks: Sequence[Genome],
    path: Path,
    device: Device,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes the zip. The script measures `networks` of `space` in their order, in passes of
    `device.batch` images; `device.threads` is its default.

    ValueError where the device is not onnxruntime's, `path` is not a zip's name, or a network
    cannot run on onnxruntime.
    """
    if device.runtime != "onnxruntime-cpu":
        raise ValueError(f"a kit measures on onnxruntime-cpu, not on {device.name!r}")
    if path.suffix != ".zip":
        raise ValueError(f"the kit is {str(path)!r}, but its name must end in .zip")
    anchor, partial = anchor_of(space), path.with_name(f".{path.name}.partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as kit:
            entries, sizes = [], []
            for number, genome in enumerate([anchor, *networks]):
                entry, size = _add(kit, f"{number:03d}-{genome.digest}", genome, device.batch)
                entries.append(entry)
                sizes.append(size)
                progress(number + 1, len(networks) + 1)
            _add_probe(kit)
            content = {
                "kind": KIND,
                "format": FORMAT,
                "profile": Profile(device, {}, space.name, anchor, ()).to_plain(),
                "environment": {"opset": OPSET, "torch": torch.__version__},
                "weights": {"file": f"{FOLDER}/{WEIGHTS}", "bytes": max(sizes)},
                "probe": f"{FOLDER}/{PROBE}",
                "anchor": entries[0],
                "networks": entries[1:],
            }
            _put(kit, "kit.json", (json.dumps(content, indent=1) + "\n").encode())
            kit.write(Path(__file__).with_name("kit_measure.py"), "measure.py")
            for source in (Path(str(module.__file__)) for module in MODULES):
                kit.write(source, source.name)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _add(kit: zipfile.ZipFile, name: str, genome: Genome, batch: int) -> tuple[dict[str, Any], int]:
    """Writes the network's file; what kit.json says of it, and the bytes of its weights."""
    shape = (batch, genome.in_channels, genome.resolution, genome.resolution)
    with tempfile.TemporaryDirectory(prefix="chimera-") as folder:
        whole = Path(folder) / "network.onnx"
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        write_network(build(genome), images, whole)
        model = onnx.load(whole)
    size = point_weights(model, WEIGHTS)
    file = f"{FOLDER}/{name}.onnx"
    _put(kit, file, model.SerializeToString())
    return {
        "file": file,
        "shape": shape,
        "parts": sum(1 for _ in genome.parts()),
        "genome": genome.to_json(brief=True),
    }, size


def _put(kit: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, time.localtime()[:6])
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    kit.writestr(entry, content)


def _add_probe(kit: zipfile.ZipFile) -> None:
    with tempfile.TemporaryDirectory(prefix="chimera-") as folder:
        probe = Path(folder) / PROBE
        write_probe(probe)
        kit.write(probe, f"{FOLDER}/{PROBE}")
