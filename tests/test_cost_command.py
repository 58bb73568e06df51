"""`run_search.py cost`: counts against closed forms, times against a device that is made up."""

import json
import shutil

import numpy as np
import pytest
import torch

from commands import cost_on_device
from evaluator.interleaved import TooNoisy
from evaluator.memory import peak_memory
from evaluator.profiling import profile_device
from evaluator.roofline import Peaks
from results.store import Store
from space.device import Device
from space.files import make_space
from space.genome import Genome
from space.presets import preset
from tests.endings import one_line
from tests.evaluator.timed import KnownRuntime, network_ms, part_ms

NAME = "edgenext_xxs"
GENOME = preset(NAME).genome


def told(ended):
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


@pytest.fixture(autouse=True)
def no_profiles(tmp_path, monkeypatch):
    """Profiles of whoever runs the tests are not theirs."""
    monkeypatch.setenv("CHIMERA_PROFILES", str(tmp_path / "profiles"))
    return tmp_path / "profiles"


# ---- counts


def test_counts_are_those_of_the_closed_forms(command):
    found, cost = told(command("cost", NAME, "--json")), GENOME.cost()
    assert (found["name"], found["digest"]) == (NAME, GENOME.digest)
    assert (found["macs"], found["flops"]) == (cost.macs, 2 * cost.macs)
    assert (found["params"], found["activations"]) == (cost.params, cost.activations)
    assert [part["name"] for part in found["parts"]] == [
        "stem",
        *(f"stage {i + 1}" for i in range(4)),
        "head",
    ]
    for name in ("macs", "params", "activations", "bytes_moved"):
        assert sum(part[name] for part in found["parts"]) == getattr(cost, name)


def test_a_line_for_each_block(command):
    found = told(command("cost", NAME, "--blocks", "--json"))
    placed = list(GENOME.parts())
    assert [part["macs"] for part in found["parts"]] == [p.cost().macs for p in placed]
    assert [part["kinds"] for part in found["parts"]] == [p.part.kind for p in placed]
    names = [part["name"] for part in found["parts"]]
    assert len(set(names)) == len(names)
    assert {"stage 1 block 2", "stage 2 down"} <= set(names)
    assert len(found["devices"][0]["parts"]) == len(placed)


def test_without_a_device_nothing_is_timed(command, monkeypatch):
    monkeypatch.setattr(cost_on_device, "measure", None)
    (on,) = told(command("cost", NAME, "--json"))["devices"]
    assert (on["batch"], on["dtype"], on["measured"]) == (1, "float32", None)
    assert on["peak_memory"] == peak_memory(GENOME, Device())
    assert on["peak_memory"] == max(part["peak_memory"] for part in on["parts"])
    assert on["flops"] == 2 * GENOME.cost().macs
    assert on["flops_per_byte"] == on["flops"] / on["bytes_moved"]
    assert sum(part["bytes_moved"] for part in on["parts"]) == on["bytes_moved"]
    assert "ms" not in on
    assert "attainable_ms" not in on


def test_tables_for_people(command):
    ended = command("cost", NAME)
    assert ended.code == 0, ended.err
    for text in (
        "1,327,216 parameters, 258M MACs (= 516M FLOPs at 2 each)",
        "one image of 256 pixels in float32",
        "5 inverted_bottleneck",
        "48 x 32 x 32",
        "100.0%",
        "10.4MB at the peak",
        "FLOPs per byte",
    ):
        assert text in ended.out


def test_resolution_and_classes(command):
    found = told(command("cost", NAME, "--resolution", 128, "--classes", 7, "--json"))
    cost = GENOME.at(resolution=128, classes=7).cost()
    assert (found["macs"], found["params"]) == (cost.macs, cost.params)
    assert (found["resolution"], found["classes"]) == (128, 7)


# ---- which network


@pytest.fixture(scope="module")
def exported(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "mine"
    ended = command("zoo", "export", NAME, "--resolution", 64, "--classes", 5, "--out", folder)
    assert ended.code == 0, ended.err
    return folder


def test_exported_networks(command, exported):
    """The folder and the files in it are the same network, and the file's own code runs."""
    expected = GENOME.at(resolution=64, classes=5)
    found = [
        told(command("cost", path, "--json"))
        for path in (exported, exported / "model.py", exported / "genome.json")
    ]
    assert found[0] == found[1]
    assert {**found[0], "devices": []} == {**found[2], "devices": []}
    # Its code takes the same steps, and lets go of some tensors sooner.
    exported_peak, peak = (told["devices"][0]["peak_memory"] for told in found[1:])
    assert 0.8 * peak < exported_peak <= peak
    assert found[0]["name"] == "mine"
    assert found[0]["macs"] == expected.cost().macs
    assert found[2]["devices"][0]["peak_memory"] == peak_memory(expected, Device())


def test_the_code_of_an_exported_network_runs(command, exported, tmp_path):
    """One that keeps a map for longer takes more memory, with the same layers."""
    changed = shutil.copytree(exported, tmp_path / "changed")
    source = (changed / "model.py").read_text()
    assert source.count("def forward_features") == 1
    assert "return self.forward_head(self.forward_features(x))" in source
    source = source.replace(
        "return self.forward_head(self.forward_features(x))",
        "kept = x.repeat(1, 50, 1, 1)\n        return self.forward_head(self.forward_features(x))",
    )
    (changed / "model.py").write_text(source)
    before, after = (
        told(command("cost", path, "--json"))["devices"][0]["peak_memory"]
        for path in (exported, changed)
    )
    assert after == before + 50 * 4 * 3 * 64 * 64


def test_networks_of_a_run(command, tiny_run):
    with Store(tiny_run.folder / "candidates.sqlite", readonly=True) as store:
        row = store.rows()[3]
    for text in (row.name, row.digest, row.digest[:8]):
        found = told(command("cost", text, "--run", tiny_run.folder, "--json"))
        assert (found["name"], found["digest"]) == (row.name, row.digest)
        assert (found["macs"], found["params"]) == (row.macs, row.params)


def test_parts_of_ones_own(command, own_operator, runs, tiny_space):
    space = tiny_space()
    for stage in space["stages"]:
        stage["operators"] = ["average"]
    space["operators"] = {"average": {}}
    genome = make_space_of(command, own_operator, space)
    path = runs.home / "mine.json"
    path.write_text(json.dumps(genome.to_json()))
    found = told(command("cost", path, "--plugin", own_operator, "--json"))
    assert found["macs"] == genome.cost().macs
    assert "average" in {kind for part in found["parts"] for kind in part["kinds"].split(", ")}


def make_space_of(command, plugin, definition):
    command("--list", "operators", "--plugin", plugin)
    return make_space(definition).sample(np.random.default_rng(0))


# ---- on a device


class Made(KnownRuntime):
    """The device of the tests, for real networks."""

    def __init__(self, device=Device(), **more):  # noqa: B008  (frozen)
        super().__init__(**more)
        self.device = device

    def fresh(self, genome):
        return genome

    def prepare(self, network, shape):
        assert shape[0] in (1, self.device.batch)
        genome = network if isinstance(network, Genome) else self.of
        return super().prepare(type("Standing", (), {"genome": genome}), shape)


@pytest.fixture
def made(monkeypatch):
    """A device that is made up: a part takes what `part_ms` says."""
    runtimes = []

    def make_runtime(device):
        runtimes.append(Made(device))
        runtimes[-1].of = GENOME
        return runtimes[-1]

    monkeypatch.setattr(cost_on_device, "make_runtime", make_runtime)
    monkeypatch.setattr(cost_on_device, "measure_peaks", lambda runtime: Peaks(1e12, 1e10))
    return runtimes


def test_times_and_roofline(command, made):
    (on,) = told(command("cost", NAME, "--device", "cpu", "--json"))["devices"]
    assert on["environment"] == {"device": "known"}
    assert on["measured"]["ms"] == on["ms"] == pytest.approx(network_ms(GENOME))
    assert on["measured"]["low"] == pytest.approx(on["ms"])
    by_stage = dict.fromkeys(("stem", "0", "1", "2", "3", "head"), 0.0)
    for placed in GENOME.parts():
        by_stage[placed.path.removeprefix("stages.").split(".")[0]] += part_ms(placed)
    assert [part["ms"] for part in on["parts"]] == pytest.approx(list(by_stage.values()))
    assert on["peaks"] == {"flops": 1e12, "bytes": 1e10}
    # At 100 FLOPs for each byte every operator of this network is bound by memory.
    assert on["bound_by"] == "memory"
    assert on["attainable_ms"] >= 1e3 * on["bytes_moved"] / 1e10
    assert on["share_of_roofline"] == on["attainable_ms"] / on["ms"]
    assert sum(p["attainable_ms"] for p in on["parts"]) == pytest.approx(on["attainable_ms"])
    assert on["predicted"] is None


def test_times_for_people(command, made):
    ended = command("cost", NAME, "--device", "cpu:batch=2", "--device", "cuda:dtype=bf16")
    assert ended.code == 0, ended.err
    for text in (
        "cpu:batch=2 (known): a pass of 2 images in float32",
        "cuda:dtype=bfloat16 (known): a pass of one image in bfloat16",
        f"measured: {network_ms(GENOME):.4g} ms, quartiles",
        "roofline: 1TFLOPs and 10GB a second, so at least",
        "memory-bound",
        "of the roofline",
    ):
        assert text in ended.out


def test_a_restless_machine(command, made, monkeypatch):
    """No time is given, and the reason is; what needs no clock is there."""

    def restless(*_, **__):
        raise TooNoisy("the anchor network takes 3 to 5 ms")

    monkeypatch.setattr(cost_on_device, "measure", restless)
    (on,) = told(command("cost", NAME, "--device", "cpu", "--json"))["devices"]
    assert on["measured"] is None
    assert on["unmeasured"] == "the anchor network takes 3 to 5 ms"
    assert on["share_of_roofline"] is None
    assert on["attainable_ms"] > 0
    ended = command("cost", NAME, "--device", "cpu")
    assert "not measured: the anchor network takes 3 to 5 ms" in ended.out


def test_what_a_device_cannot_run_is_one_line(command, made, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(cost_on_device, "measure", fails)
    one_line(
        command("cost", NAME, "--device", "cpu", "--quiet"), "cannot run on 'cpu'", "no kernel"
    )
    monkeypatch.setattr(torch, "OutOfMemoryError", RuntimeError)
    one_line(command("cost", NAME, "--device", "cpu", "--quiet"), "too little memory")


@pytest.fixture
def profiled(tiny_space, tmp_path, made, no_profiles):
    """A network of the tiny space, and the profile of that space on the device that is made up."""
    space = make_space(tiny_space())
    genome = space.sample(np.random.default_rng(5))
    no_profiles.mkdir()
    runtime = Made()
    runtime.fresh = lambda g: g
    profile_device(space, runtime, no_profiles / "cpu-tiny.json", minutes=10)
    (no_profiles / "broken.json").write_text("{")
    (tmp_path / "genome.json").write_text(json.dumps(genome.to_json()))
    return tmp_path / "genome.json", genome


def test_a_profile_that_is_there_predicts(command, profiled, made, no_profiles, monkeypatch):
    path, genome = profiled
    seen = []
    real = cost_on_device.measure

    def measure(runtime, networks, shape, anchor, **more):
        runtime.of = genome
        seen.append(anchor)
        return real(runtime, networks, shape, anchor, **more)

    monkeypatch.setattr(cost_on_device, "measure", measure)
    monkeypatch.setattr(cost_on_device, "_time_parts", lambda *_: [1.0] * 99)
    (on,) = told(command("cost", path, "--device", "cpu", "--json"))["devices"]
    assert on["predicted"]["ms"] == pytest.approx(network_ms(genome), rel=0.05)
    assert on["predicted"]["known"] <= on["predicted"]["parts"] == len(list(genome.parts()))
    assert on["predicted"]["profile"] == str(no_profiles / "cpu-tiny.json")
    assert seen[0].ms == pytest.approx(network_ms(seen[0].network))
    assert "predicted: " in command("cost", path, "--device", "cpu").out


def test_a_profile_knows_nothing_of_other_networks(command, profiled, made):
    (on,) = told(command("cost", NAME, "--device", "cpu", "--json"))["devices"]
    assert on["predicted"] is None


def test_a_device_that_was_measured_elsewhere(command, profiled, made, no_profiles):
    path, genome = profiled
    file = no_profiles / "cpu-tiny.json"
    (on,) = told(command("cost", path, "--device", file, "--json"))["devices"]
    assert on["predicted"]["ms"] == pytest.approx(network_ms(genome), rel=0.05)
    assert (on["measured"], on["peaks"]) == (None, None)
    assert on["peak_memory"] == peak_memory(genome, Device())
    assert not made


@pytest.mark.slow
def test_a_real_device(command, exported):
    (on,) = told(command("cost", exported, "--device", "cpu:threads=1", "--json"))["devices"]
    assert on["peaks"]["flops"] > 1e9
    if on["measured"] is not None:
        assert 0.01 < on["share_of_roofline"] < 1.5


# ---- what a person can get wrong


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["cost"], ["network"]),
        (["cost", "convnext_x"], ["'convnext_x'", "convnext_t"]),
        (["cost", "no/such.json"], ["'no/such.json'", "preset"]),
        (["cost", "no/such/model.py"], ["'no/such/model.py'", "preset"]),
        (["cost", NAME, "--device", "tpu"], ["'tpu'", "cuda:batch=1"]),
        (["cost", NAME, "--device", "cpu:batch=0"], ["batch is '0'", "at least 1"]),
        (["cost", NAME, "--device", "cuda:9"], ["'cuda:9'", "PyTorch sees"]),
        (["cost", NAME, "--device", "cpu:threads=4000"], ["4000 threads", "may use"]),
        (["cost", NAME, "--device", "phone.json"], ["'phone.json'", "cannot be read"]),
        (["cost", NAME, "--resolution", "0"], ["resolution is 0", "at least 1"]),
        (["cost", NAME, "--resolution", "30"], ["resolution is 30", "4"]),
        (["cost", NAME, "--classes", "-1"], ["classes is -1", "at least 1"]),
        (["cost", NAME, "--run", "no/run"], ["'no/run'", "config.yaml"]),
        (["cost", NAME, "--plugin", "no.py"], ["'no.py'"]),
        (["cost", NAME, "--nosuch"], ["--nosuch"]),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line(command, tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    one_line(command(*words), *expected)
    assert not list(tmp_path.iterdir())


def test_networks_that_a_run_has_not(command, tiny_run):
    one_line(command("cost", "nosuch", "--run", tiny_run.folder), "'nosuch'", "which has 12")
    one_line(command("cost", "", "--run", tiny_run.folder), "no network ''")
    with Store(tiny_run.folder / "candidates.sqlite", readonly=True) as store:
        names = [row.name for row in store.rows()]
    first = next(c for c in "0123456789" if sum(name.startswith(c) for name in names) > 1)
    one_line(command("cost", first, "--run", tiny_run.folder), "may be any of", "write more")


def test_files_that_are_no_export(command, exported, tmp_path):
    alone = tmp_path / "alone.py"
    alone.write_text("x = 1")
    one_line(command("cost", alone), "alone.py", "no genome.json beside it")
    shutil.copy(exported / "genome.json", tmp_path / "genome.json")
    one_line(command("cost", alone), "alone.py", "AttributeError")
    alone.write_text("1 / 0")
    one_line(command("cost", alone), "ZeroDivisionError")
    alone.write_text("from torch import nn\n\ndef model():\n    return nn.Linear(3, 4)\n")
    one_line(command("cost", alone), "16 parameters", "not the same network")
