"""`run_search.py train`: the whole command, on the digits and on small parquet data."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from endings import one_line
from PIL import Image
from safetensors.torch import load_file, save_file
from trainings import same

from commands.export import by_genome
from results.export import load_module
from results.training_log import metrics
from search.halving import Halving
from space.files import make_space
from space.genome import Genome
from supernet.training import AloneTrainer

ROOT = Path(__file__).parents[1]
SMALL = {
    "name": "small",
    "resolution": [16],
    "classes": 7,
    "stem": {"convolution": {"channels": [4], "norm": ["layer"]}},
    "stages": [
        {
            "channels": [8],
            "depth": [2],
            "stride": 2,
            "downsampling": ["local_dsm"],
            "operators": {"inverted_bottleneck": {"expansion": [1], "norm": ["batch"]}},
        }
    ],
    "head": {"pooled": {"norm": ["layer"]}},
}
# Everything that is random, in a few steps.
FULL = (
    *("--recipe", "deit", "--steps", 8, "--batch", 16, "--limit", 60, "--threads", 1),
    *("--curriculum", "efficienttrain", "--looks", 3, "--ema", 0.9, "--drop-path", 0.3),
)
QUICK = ("--steps", 3, "--batch", 16, "--limit", 60, "--threads", 1, "--looks", 1)


def write_genome(folder: Path, **changes) -> Path:
    genome = make_space({**SMALL, **changes}).sample(np.random.default_rng(0))
    path = folder / "small.json"
    path.write_text(json.dumps(genome.to_json()))
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_genome(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def whole(network, tmp_path_factory, command):
    """A training that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    ended = command("train", network, *FULL, "--out", folder, folder=folder)
    assert ended.code == 0, ended.err
    return ended


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Parquet data of two classes, darker and lighter noise."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("test", 10)):
        rows = []
        for i in range(count):
            pixels = rng.integers(0, 128, (12, 12, 3)) + 100 * (i % 2)
            out = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(out, "PNG")
            rows.append({"image": {"bytes": out.getvalue(), "path": None}, "label": i % 2})
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "network" / "weights.safetensors")


def exported_genome(folder: Path) -> Genome:
    return Genome.from_json(json.loads((folder / "genome.json").read_text()))


def timeless(folder: Path) -> list[dict[str, float]]:
    rows = json.loads((folder / "metrics.json").read_text())
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


# ---- what comes out


def test_what_a_training_leaves(whole, network):
    folder, result = whole.folder, json.loads((whole.folder / "result.json").read_text())
    settings = yaml.safe_load((folder / "training.yaml").read_text())
    assert settings["recipe"]["steps"] == result["steps"] == 8
    assert settings["recipe"]["mixup"] == 0.8
    assert not settings["recipe"]["flip"]  # digits
    assert settings["recipe"]["learning_rate"] == pytest.approx(1e-3 * 16 / 1024)
    assert settings["data"]["limit"] == 60
    rows = list(csv.DictReader(io.StringIO((folder / "metrics.csv").read_text())))
    assert [int(row["step"]) for row in rows] == [3, 5, 8]
    assert [json.loads(row["loss"]) for row in rows] == [r["loss"] for r in timeless(folder)]
    assert float(rows[-1]["epoch"]) == pytest.approx(8 * 16 / 60)
    assert result["classes"] == 10  # those of the data, not the genome's
    assert not list(folder.rglob("*.pt")) + list(folder.rglob("*.pkl"))
    assert "test images right" in whole.out
    assert "accuracy" in (folder / "network" / "README.md").read_text().lower()


def test_the_export_reaches_the_accuracy_that_is_said(whole):
    """The exported file by itself, on the held-out digits."""
    from evaluator.data import load_data

    data = load_data("digits", resolution=16, limit=60)
    module = load_module(whole.folder / "network" / "model.py")
    model = module.model().eval()
    model.load_state_dict(state_of(whole.folder))
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
    with torch.no_grad():
        logits = model((data.test.images / 255 - mean) / std)
    share = (logits.argmax(1) == data.test.labels).double().mean().item()
    result = json.loads((whole.folder / "result.json").read_text())
    assert result["accuracy"]["test"] == pytest.approx(share, abs=1.5 / len(data.test))
    assert result["accuracy"]["images"] == len(data.test)


def test_curves_for_tensorboard(whole):
    """Every step once, by the file's own records."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in (whole.folder / "tensorboard").iterdir():
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack("<Q", content[place : place + 8])
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += 12 + length + 4
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    assert [step for step, _ in found["training/loss"]] == list(range(1, 9))
    assert [step for step, _ in found["validation/accuracy"]] == [3, 5, 8]
    accuracy = [row["accuracy"] for row in timeless(whole.folder)]
    assert [value for _, value in found["validation/accuracy"]] == pytest.approx(accuracy)


def test_metrics_are_means_since_the_last_look():
    probe = {"epoch": 1.0, "learning_rate": 0.1, "accuracy": 0.5, "loss": 2.0, "seconds": 3.0}
    rows = metrics([1.0, 2.0, 6.0, 4.0], [{"step": 1, **probe}, {"step": 3, **probe}])
    assert [row["loss"] for row in rows] == [1.0, 4.0]
    assert [row["validation_loss"] for row in rows] == [2.0, 2.0]


# ---- stop and go on


@pytest.mark.parametrize("stops", [(1, 4, 7), (2, 3, 5, 8)])
def test_a_training_that_was_stopped_ends_the_same(
    whole, network, tmp_path, command, monkeypatch, stops
):
    usual, advance, made = AloneTrainer.train_step, AloneTrainer.advance, []

    def train_step(self):
        if self.step + 1 in stops and self.step not in made:
            made.append(self.step)
            raise KeyboardInterrupt
        return usual(self)

    monkeypatch.setattr(AloneTrainer, "train_step", train_step)
    monkeypatch.setattr(
        AloneTrainer, "advance", lambda self, kept, **_: advance(self, kept, every_seconds=0.0)
    )
    out, codes = tmp_path / "out", []
    while not codes or codes[-1] == 130:
        ended = command("train", network, *FULL, "--out", out)
        codes.append(ended.code)
        if ended.code == 130:
            last = ended.err.splitlines()[-1]
            assert last.startswith("run_search.py: stopped; what was trained is kept; go on with: ")
            assert f"train {network} --limit 60 --recipe deit --steps 8 --batch 16" in last
            assert not (out / "network").exists()
    assert codes == [130] * len(stops) + [0]
    assert same(state_of(out), state_of(whole.folder))
    assert timeless(out) == timeless(whole.folder)


def test_given_again_nothing_is_trained_again(whole, network, command, monkeypatch):
    monkeypatch.setattr(AloneTrainer, "train_step", None)
    ended = command("train", network, *FULL, "--out", whole.folder)
    assert ended.code == 0
    assert "was trained before" in ended.err
    assert ended.out == whole.out


OTHERS = {
    "rate": (("--learning-rate", 0.5), "learning_rate is 0.5, but the training in"),
    "seed": (("--seed", 1), "seed is 1, but the training in"),
    "limit": (("--limit", 61), "limit is 61, but the training in"),
    "side": (("--resolution", 8), "resolution is 8, but the training in"),
    "ema": (("--ema", 0.5), "ema is 0.5, but the training in"),
    "epochs": (("--steps", 9), "steps is 9, but the training in"),
}


@pytest.mark.parametrize(("changes", "message"), OTHERS.values(), ids=OTHERS)
def test_another_training_does_not_go_on(whole, network, command, changes, message):
    before = sorted(whole.folder.rglob("*"))
    ended = command("train", network, *FULL, "--out", whole.folder, *changes)
    one_line(ended, message, "choose another --out")
    assert sorted(whole.folder.rglob("*")) == before


def test_another_network_does_not_go_on(whole, tmp_path, command):
    other = write_genome(tmp_path, stem={"convolution": {"channels": [8], "norm": ["layer"]}})
    ended = command("train", other, *FULL, "--out", whole.folder)
    one_line(ended, "networks is ['small ", "choose another --out")


def test_a_disk_that_is_full(network, tmp_path, command, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=2**20))
    ended = command("train", network, *QUICK, "--out", tmp_path / "out")
    one_line(ended, "only 1 MiB are free", "choose another --out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_by_a_signal_at_any_time(pictures, network, tmp_path, command):
    words = ["--data", pictures, "--steps", 4000, "--batch", 8, "--looks", 4, "--threads", 1]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert command("train", network, *words, "--out", whole).code == 0
    line = [sys.executable, "run_search.py", "train", network, *words, "--out", stopped]
    sent = 0
    while not (stopped / "result.json").exists():
        process = subprocess.Popen([str(word) for word in line], cwd=ROOT)
        time.sleep(22)
        if process.poll() is None:
            sent += 1
            process.send_signal(signal.SIGINT)
        process.wait()
    assert sent
    assert same(state_of(stopped), state_of(whole))


# ---- data, recipes, weights


def test_parquet_data_of_other_classes(pictures, network, tmp_path, command):
    """A training in which two classes are told apart."""
    out = tmp_path / "out"
    words = ("--steps", 40, "--batch", 8, "--learning-rate", 0.01, "--threads", 1, "--looks", 2)
    ended = command("train", network, "--data", pictures, *words, "--out", out, "--json")
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert result["classes"] == 2
    assert result["accuracy"]["images"] == 10
    assert result["accuracy"]["test"] > 0.8


def test_images_that_are_streamed(pictures, network, tmp_path, command, monkeypatch):
    """Crops are made of the pictures themselves then; and the training goes on all the same."""
    monkeypatch.setattr("evaluator.data._fits", lambda count, resolution: False)
    monkeypatch.setattr("evaluator.data._check_memory", lambda *_: None)
    words = ("--data", pictures, "--steps", 3, "--batch", 8, "--crop", 0.3, "--looks", 1)
    ended = command("train", network, *words, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    settings = yaml.safe_load((tmp_path / "out" / "training.yaml").read_text())
    assert settings["data"]["streamed"]


def test_a_recipe_of_ones_own(network, tmp_path, command):
    (tmp_path / "own.yaml").write_text("steps: 2\nlearning_rate: 0.01\nbatch: 16\n")
    own = ("--recipe", tmp_path / "own.yaml", "--weight-decay", 0.3)
    ended = command("train", network, *own, "--limit", 60, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    recipe = yaml.safe_load((tmp_path / "out" / "training.yaml").read_text())["recipe"]
    assert (recipe["steps"], recipe["learning_rate"], recipe["weight_decay"]) == (2, 0.01, 0.3)
    again = ("--recipe", tmp_path / "out" / "training.yaml", "--limit", 60)
    ended = command("train", network, *again, "--out", tmp_path / "again")
    assert ended.code == 0, ended.err
    assert same(state_of(tmp_path / "again"), state_of(tmp_path / "out"))


@pytest.mark.parametrize("how", ["hard", "soft"])
def test_a_teacher(whole, network, tmp_path, command, how):
    teacher = whole.folder / "network"
    given = ("--teacher", teacher, "--distillation", how, "--teaching", 0.9)
    ended = command("train", network, *QUICK, *given, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    plain = command("train", network, *QUICK, "--out", tmp_path / "plain")
    assert plain.code == 0
    assert not same(state_of(tmp_path / "out"), state_of(tmp_path / "plain"))
    kept = yaml.safe_load((tmp_path / "out" / "training.yaml").read_text())
    assert len(kept["teacher"]) == 12


def test_a_teacher_by_its_genome_and_a_file_of_weights(whole, network, tmp_path, command):
    weights = whole.folder / "network" / "weights.safetensors"
    given = ("--teacher", network, "--teacher-weights", weights)
    ended = command("train", network, *QUICK, *given, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err


def test_weights_of_an_export_are_inherited(whole, tmp_path, command, monkeypatch):
    began = []
    usual = AloneTrainer.train_step

    def train_step(self):
        began.append({name: w.detach().clone() for name, w in self._parameters.items()})
        return usual(self)

    monkeypatch.setattr(AloneTrainer, "train_step", train_step)
    network = whole.folder / "network"
    ended = command("train", network, *QUICK, "--inherit", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    expected = by_genome(state_of(whole.folder), exported_genome(network))
    expected = {name: expected[name] for name in began[0]}
    assert same(began[0], expected)


# ---- runs


@pytest.fixture(scope="module")
def own_scale(shared_runs, tiny_space):
    """A run whose supernet has the networks' own size."""
    space = tiny_space(name="own", resolution=[16], proxy={"width": 1.0, "resolution": 16})
    ended = shared_runs(
        name="own",
        space=space,
        budget="500KFLOPs",
        classes=10,
        evaluations=16,
        exports=1,
        no_compare=True,
    )
    assert ended.code == 0, ended.err
    return ended.folder


def test_the_best_of_a_run(own_scale, tmp_path, command, monkeypatch):
    """From scratch, and from the supernet's weights: those that the run exported."""
    began = []
    usual = AloneTrainer.train_step

    def train_step(self):
        began.append({name: w.detach().clone() for name, w in self._parameters.items()})
        return usual(self)

    monkeypatch.setattr(AloneTrainer, "train_step", train_step)
    words = ("train", own_scale, *QUICK)
    ended = command(*words, "--out", tmp_path / "scratch", "--json")
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    rows = list(csv.DictReader((own_scale / "front.csv").open()))
    best = next(row for row in rows if row["best"])
    assert result["name"] == best["name"]
    assert result["digest"] == best["hash"]
    fresh = began[0]
    began.clear()
    ended = command(*words, "--inherit", "--out", tmp_path / "inherited")
    assert ended.code == 0, ended.err
    folder = own_scale / "architectures" / best["name"]
    exported = by_genome(load_file(folder / "weights.safetensors"), exported_genome(folder))
    assert same(began[0], {name: exported[name] for name in began[0]})
    assert not same(began[0], fresh)


FINALISTS = ("--networks", 3, "--grace", 2, "--reduction", 3, "--recipe", "plain")
RUNGS = ("--steps", 6, "--batch", 16, "--limit", 60, "--threads", 1)


def test_finalists_at_their_own_size(own_scale, tmp_path, command, monkeypatch):
    """Who goes on follows from what is written down; stopped and given again, all is the same."""
    words = ("train", own_scale, *FINALISTS, *RUNGS, "--workers", 1)
    whole = tmp_path / "whole"
    ended = command(*words, "--out", whole, "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["about"]["rungs"] == [2, 6]
    assert found["about"]["proxy"] is None
    assert [net["state"] for net in found["networks"]].count("finished") >= 1
    halving = Halving(steps=6, grace=2, reduction=3)
    first = {net["digest"]: net["rungs"][0] for net in found["networks"]}
    for digest, rung in first.items():
        others = [other["accuracy"] for key, other in first.items() if key != digest]
        assert halving.goes_on(rung["accuracy"], others) == rung["goes_on"]
    ended_names = {net["name"] for net in found["networks"] if net["state"] == "finished"}
    assert {path.name for path in (whole / "networks").iterdir()} == ended_names
    for net in found["networks"]:
        assert (net["test"] is None) == (net["state"] == "stopped")
    assert found["winner"] == found["networks"][0]["digest"]

    usual, count = AloneTrainer.train_step, []

    def train_step(self):
        count.append(self.step)
        if len(count) in (2, 5, 9):
            raise KeyboardInterrupt
        return usual(self)

    monkeypatch.setattr(AloneTrainer, "train_step", train_step)
    out = tmp_path / "stopped"
    codes = [command(*words, "--out", out).code for _ in range(4)]
    assert codes == [130, 130, 130, 0]
    again = json.loads((out / "finalists.json").read_text())
    rungs = [[(r["steps"], r["accuracy"]) for r in net["rungs"]] for net in again["networks"]]
    assert rungs == [
        [(r["steps"], r["accuracy"]) for r in net["rungs"]] for net in found["networks"]
    ]
    for name in ended_names:
        one, other = (
            load_file(f / "networks" / name / "weights.safetensors") for f in (whole, out)
        )
        assert same(one, other)
    shown = command(*words, "--out", out).out
    assert "accuracies of the networks at their own size" in shown


@pytest.mark.slow
def test_finalists_on_two_workers(own_scale, tmp_path, command):
    """Tune's ASHA judges as they come; each training by itself is that of one worker."""
    words = ("train", own_scale, *FINALISTS, *RUNGS)
    ended = command(*words, "--workers", 2, "--out", tmp_path / "two", "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    one = command(*words, "--workers", 1, "--out", tmp_path / "one", "--json")
    known = {net["digest"]: net["rungs"] for net in json.loads(one.out)["networks"]}
    for net in found["networks"]:
        for a, b in zip(net["rungs"], known[net["digest"]], strict=False):
            assert a["accuracy"] == b["accuracy"]


@pytest.mark.slow
def test_processes_that_train_together(network, tmp_path, command):
    """By Ray Train and by torchrun: both stop nowhere and agree to the last bit."""
    words = ["--steps", 4, "--batch", 8, "--limit", 60, "--looks", 2, "--threads", 1]
    words += ["--drop-path", 0.5, "--crop", 0.4]
    ended = command("train", network, *words, "--workers", 2, "--out", tmp_path / "ray")
    assert ended.code == 0, ended.err
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    line += ["--master-port", "29517", "run_search.py", "train", network, *words]
    subprocess.run(
        [str(word) for word in [*line, "--out", tmp_path / "torchrun"]], cwd=ROOT, check=True
    )
    assert same(state_of(tmp_path / "ray"), state_of(tmp_path / "torchrun"))
    assert timeless(tmp_path / "ray") == timeless(tmp_path / "torchrun")


# ---- what is wrong


def test_a_supernet_of_another_size_has_nothing_to_inherit(tiny_run, tmp_path, command):
    out = tmp_path / "out"
    ended = command("train", tiny_run.folder, *QUICK, "--inherit", "--out", out)
    one_line(
        ended,
        "has no weights of this size to inherit: its networks have 0.5 of the width",
        "leave out --inherit, or search with --proxy-width 1 --proxy-resolution 32",
    )
    assert not out.exists()


def test_a_supernet_of_other_images_or_classes(own_scale, pictures, tmp_path, command):
    words = ("train", own_scale, *QUICK, "--inherit", "--out", tmp_path / "out")
    one_line(command(*words, "--resolution", 32), "images of 16 pixels, and this one of 32")
    one_line(command(*words, "--data", pictures), "does not fit the data, which have 2 classes")
    assert not (tmp_path / "out").exists()


def test_a_run_that_has_not_searched(own_scale, tmp_path, command):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text((own_scale / "config.yaml").read_text())
    ended = command("train", folder, *QUICK, "--out", tmp_path / "out")
    one_line(ended, "has scored 0 of 16", "--resume")


WRONG = {
    "nothing": (("nowhere/at/all",), "no file or folder 'nowhere/at/all'"),
    "folder": ((ROOT / "docs",), "has neither a config.yaml nor a genome.json", "give a run"),
    "preset": (("convnext_tt",), "convnext_tt"),
    "recipe": (("--recipe", "best"), "recipe is 'best', but must be one of plain, deit"),
    "epochs": (("--epochs", 3), "epochs and steps are both given"),
    "drop": (("--drop-path", 1.5), "drop_path is 1.5, but must be a number from 0 to 0.99"),
    "seed": (("--seed", -1), "seed is -1, but must be at least 0"),
    "workers": (("--workers", 0), "workers is 0, but must be at least 1"),
    "several": (("--networks", 2), "networks is 2, but", "is one network"),
    "side": (("--resolution", 0), "resolution is 0, but must be at least 1"),
    "data": (("--data", "no-such-data"), "no data set 'no-such-data'"),
    "device": (("--device", "tpu"), "unknown device 'tpu'"),
    "weights": (("--teacher-weights", "x"), "no --teacher that they are of"),
    "teacher": (("--teacher", "convnext_t"), "has no weights at", "--teacher-weights"),
    "inherit": (("--inherit",), "has no weights to inherit", "leave out --inherit"),
    "format": (("--formats", "gguf"), "format is 'gguf', but must be one of onnx"),
    "rate": (("--learning-rate", 0), "learning_rate is 0.0, but must be above 0"),
    "diverged": (("--learning-rate", "1e30", "--clip", 0), "training diverged", "learning_rate"),
}


@pytest.mark.parametrize(("words", "messages"), [(w, m) for w, *m in WRONG.values()], ids=WRONG)
def test_what_is_wrong(network, tmp_path, command, words, messages):
    out = tmp_path / "out"
    own = () if not str(words[0]).startswith("--") else (network,)
    ended = command("train", *own, *words, *QUICK_WITHOUT(words), "--out", out, "--quiet")
    one_line(ended, *messages)
    assert not out.exists() or "diverged" in ended.err


def QUICK_WITHOUT(words):
    """The quick options without those that are given."""
    pairs = list(zip(QUICK[::2], QUICK[1::2], strict=True))
    return [word for pair in pairs if pair[0] not in words for word in pair]


def test_a_place_that_is_taken(network, tmp_path, command):
    (tmp_path / "note").write_text("mine")
    ended = command("train", network, *QUICK, "--out", tmp_path)
    one_line(ended, "is there, but is no training", "choose another --out")
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def test_weights_that_do_not_fit(whole, network, tmp_path, command):
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    given = ("--teacher", network, "--teacher-weights", tmp_path / "weights.safetensors")
    one_line(
        command("train", network, *QUICK, *given, "--out", tmp_path / "out"),
        "does not fit the network",
    )
    (tmp_path / "weights.safetensors").write_bytes(b"no weights at all")
    one_line(
        command("train", network, *QUICK, *given, "--out", tmp_path / "out"),
        "is no file of weights",
    )


def test_logs_that_are_not_installed(network, tmp_path, command, monkeypatch):
    for name in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
        ended = command("train", network, *QUICK, "--log", name, "--out", tmp_path / "out")
        one_line(ended, f"log is '{name}', which is not installed: pip install {name}")
    assert not (tmp_path / "out").exists()


def test_logs_that_are_there_hear_of_it(network, tmp_path, command, monkeypatch):
    """Modules that are made up, with what is called of the real ones."""
    (tmp_path / "mlflow.py").write_text(
        "from types import SimpleNamespace\n"
        "heard = []\n"
        "def start_run(run_id=None, run_name=None):\n"
        "    heard.append(('start', run_id, run_name))\n"
        "    return SimpleNamespace(info=SimpleNamespace(run_id='r1'))\n"
        "def log_params(params): heard.append(('params', params))\n"
        "def log_metrics(values, step): heard.append((step, values))\n"
        "def end_run(): heard.append('end')\n"
    )
    (tmp_path / "wandb.py").write_text(
        "heard = []\n"
        "class Run:\n"
        "    id = 'w1'\n"
        "    def log(self, values, step): heard.append((step, values))\n"
        "    def finish(self): heard.append('end')\n"
        "def init(**options):\n"
        "    heard.append(options)\n"
        "    return Run()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out"
    logs = ("--log", "mlflow", "--log", "wandb")
    ended = command("train", network, *QUICK, *logs, "--out", out)
    assert ended.code == 0, ended.err
    import mlflow
    import wandb

    assert mlflow.heard[0] == ("start", None, "out")
    assert mlflow.heard[1][1]["steps"] == 3
    assert wandb.heard[0]["config"]["batch"] == 16
    for heard in (mlflow.heard, wandb.heard):
        assert heard[-1] == "end"
        steps = [entry[0] for entry in heard if isinstance(entry, tuple) and entry[0] in (1, 2, 3)]
        assert steps == [1, 2, 3, 3]
    assert (out / ".mlflow-run").read_text() == "r1"
    for name in ("mlflow", "wandb"):
        sys.modules.pop(name)


def test_the_command_needs_no_ray(network, tmp_path):
    """Nor what others draw curves with."""
    line = "import sys; sys.modules['ray'] = sys.modules['optuna'] = None; import run_search;"
    words = ["train", str(network), *map(str, QUICK), "--out", str(tmp_path / "out")]
    line += f"sys.exit(run_search.main({words!r}))"
    subprocess.run([sys.executable, "-c", line], cwd=ROOT, check=True, env=dict(os.environ))
    assert exported_genome(tmp_path / "out" / "network").classes == 10
