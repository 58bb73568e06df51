"""A kit measures where there is no PyTorch, and what it writes is a profile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import onnx
import onnxruntime
from small_spaces import LAYERS

from evaluator.latency_profile import read_profile
from evaluator.profiling import anchor_of
from evaluator.runtimes.kit import make_kit, networks_for
from evaluator.runtimes.onnx_passes import PART
from space.device import Device
from space.files import make_space

DEVICE = Device.parse("onnxruntime-cpu:threads=1")
ALONE = """
import os, runpy, sys
packages, script, *words = sys.argv[1:]
sys.path.append(packages)
sys.argv = [script, *words]
try:
    runpy.run_path(script, run_name="__main__")
finally:
    if {"torch", "onnx", "space", "evaluator"} & set(sys.modules):
        os._exit(77)
"""


@pytest.fixture(scope="module")
def space():
    return make_space(LAYERS | {"resolution": [16]})


@pytest.fixture(scope="module")
def kit(space, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("made") / "kit.zip"
    make_kit(space, networks_for(space, 3), path, DEVICE)
    return path


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """What a device has that has no PyTorch."""
    folder, installed = tmp_path_factory.mktemp("packages"), Path(sysconfig.get_path("purelib"))
    for name in ("numpy", "numpy.libs", "onnxruntime", "flatbuffers", "packaging", "google"):
        if (installed / name).exists():
            (folder / name).symlink_to(installed / name)
    return folder


@pytest.fixture
def unpacked(kit, tmp_path) -> Path:
    with zipfile.ZipFile(kit) as file:
        file.extractall(tmp_path / "kit")
    return tmp_path / "kit"


@pytest.fixture
def measure(unpacked, packages):
    """Calls the script in an interpreter that finds nothing else. What these tests time is too
    short to be steady, so everything counts as steady."""
    change(unpacked / "interleaved.py", "CALM = 0.10", "CALM = 1e9")
    change(unpacked / "interleaved.py", "SLOWER = 1.25", "SLOWER = 1e9")

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-S", "-c", ALONE, packages, unpacked / "measure.py"]
        return subprocess.run(
            [str(word) for word in (*command, *words)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=unpacked.parent,
            check=False,
        )

    return call


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_kit_is_measured_without_pytorch_and_read_as_a_profile(space, measure, unpacked):
    done = measure("--threads", 1, "--out", "phone.json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "3 of 3 networks, about 0 s left" in done.stdout
    profile = read_profile(unpacked.parent / "phone.json")
    assert profile.finished
    assert profile.device == DEVICE
    assert (profile.space, profile.anchor) == (space.name, anchor_of(space))
    assert [network.genome for network in profile.networks] == networks_for(space, 3)
    for network in profile.networks:
        assert 0 < network.low <= network.ms <= network.high
        assert sum(network.parts) > 0
    expected = {"threads": 1, "onnxruntime": onnxruntime.__version__, "cores": os.cpu_count()}
    assert expected.items() <= profile.environment.items()
    before = (unpacked.parent / "phone.json").read_bytes()
    again = measure("--threads", 1, "--out", "phone.json")  # nothing is left to do
    assert again.returncode == 0
    assert (unpacked.parent / "phone.json").read_bytes() == before


def test_a_kit_that_was_killed_goes_on(measure, unpacked):
    script, out = unpacked / "measure.py", unpacked.parent / "measured.json"
    change(script, "print(clock.after", "os.kill(os.getpid(), 9); print(clock.after")
    assert measure("--threads", 1).returncode == -9
    begun = json.loads(out.read_text())
    assert len(begun["networks"]) == 1
    assert not begun["finished"]
    assert not read_profile(out).finished
    change(script, "os.kill(os.getpid(), 9); ", "")
    done = measure("--threads", 1)
    assert done.returncode == 0, done.stderr
    assert "1 of 3" not in done.stdout
    whole = json.loads(out.read_text())
    assert whole["networks"][0] == begun["networks"][0]
    assert len(whole["networks"]) == 3
    assert whole["finished"]


def test_a_restless_machine_is_said_and_nothing_is_made_up(measure, unpacked):
    change(unpacked / "interleaved.py", "CALM = 1e9", "CALM = -1.0")
    change(unpacked / "interleaved.py", "PATIENCE = 60.0", "PATIENCE = 0.0")
    done = measure("--threads", 1)
    assert done.returncode == 1
    assert done.stderr.startswith("measure.py: the anchor network takes ")
    assert "the machine is busy" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (unpacked.parent / "measured.json").exists()


def of_format_2(kit: Path) -> None:
    content = json.loads((kit / "kit.json").read_text())
    (kit / "kit.json").write_text(json.dumps({**content, "format": 2}))


def of_another_machine(kit: Path) -> None:
    content = json.loads((kit / "kit.json").read_text())
    before = {**content["profile"], "device": {"runtime": "cpu"}}
    (kit.parent / "measured.json").write_text(json.dumps(before))


WRONG = {
    "no kit": (lambda kit: (kit / "kit.json").unlink(), (), "kit.json cannot be read: No such"),
    "no JSON": (lambda kit: (kit / "kit.json").write_text("{"), (), "kit.json is not a JSON file"),
    "foreign": (lambda kit: (kit / "kit.json").write_text("[1]"), (), "is not a latency kit"),
    "newer": (of_format_2, (), "format 2, and this measure.py reads 1: use the one that came"),
    "incomplete": (lambda kit: next(kit.glob("networks/002*")).unlink(), (), "unpack the whole"),
    "damaged": (lambda kit: next(kit.glob("networks/000*")).write_text("x"), (), "cannot run: "),
    "threads": (lambda kit: None, ("--threads", 4096), "--threads is 4096, but must be from 1 to "),
    "no threads": (lambda kit: None, ("--threads", -1), "--threads is -1, but must be from 1 to "),
    "other machine": (of_another_machine, (), "has another device: choose another --out"),
    "no folder": (lambda kit: None, ("--out", "no/where.json"), "No such file or directory"),
}


@pytest.mark.parametrize(("spoil", "words", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_one_line(spoil, words, said, measure, unpacked):
    spoil(unpacked)
    done = measure(*words)
    assert done.returncode == 1, done.stdout
    assert said in done.stderr
    assert done.stderr.startswith("measure.py: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("networks", [None, [5], [{"genome": {}, "anchor": 1.0}]], ids=repr)
def test_what_was_measured_of_other_networks_is_not_gone_on_with(networks, measure, unpacked):
    out = unpacked.parent / "measured.json"
    assert measure().returncode == 0
    out.write_text(json.dumps({**json.loads(out.read_text()), "networks": networks}))
    done = measure()
    assert done.returncode == 1
    assert "has other networks: choose another --out" in done.stderr


def test_files_of_a_kit_say_parts_and_have_no_large_weights(kit, space):
    with zipfile.ZipFile(kit) as file:
        content = json.loads(file.read("kit.json"))
        for entry in [content["anchor"], *content["networks"]]:
            model = onnx.load_from_string(file.read(entry["file"]))
            places = set()
            for tensor in model.graph.initializer:
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    said = {pair.key: pair.value for pair in tensor.external_data}
                    begin, size = int(said["offset"]), int(said["length"])
                    assert begin + size <= content["weights"]["bytes"]
                    assert begin not in places  # no two weights are the same numbers
                    places.add(begin)
                else:
                    assert np.prod(tensor.dims) * 4 < 4096 or len(tensor.dims) < 2
            named = {int(match[1]) for node in model.graph.node if (match := PART.match(node.name))}
            assert named == set(range(entry["parts"]))


def test_a_kit_is_for_onnxruntime_and_a_zip(space, tmp_path):
    with pytest.raises(ValueError, match="measures on onnxruntime-cpu, not on 'cpu'"):
        make_kit(space, [], tmp_path / "kit.zip", Device())
    with pytest.raises(ValueError, match=r"its name must end in \.zip"):
        make_kit(space, [], tmp_path / "kit.tar", DEVICE)
    assert not list(tmp_path.iterdir())


def test_a_kit_that_cannot_be_made_leaves_nothing(space, tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("the network cannot run on onnxruntime: because")

    monkeypatch.setattr("evaluator.runtimes.kit.write_network", fail)
    with pytest.raises(ValueError, match="cannot run on onnxruntime"):
        make_kit(space, [], tmp_path / "kit.zip", DEVICE)
    assert not list(tmp_path.iterdir())
