"""What a person can get wrong: one line that says what and what is allowed, exit code 2, and
nothing left behind."""

import collections
import errno
import json
import os
import random
import shutil

import pytest
import torch
import yaml
from PIL import Image
from safetensors import SafetensorError

import run_search
from search.settings import Settings
from supernet.training import Trainer
from tests.endings import one_line

GPU = "CUDA_VISIBLE_DEVICES"


def stages(space, place=0, **changes):
    space["stages"][place] |= changes
    return space


def last_line(ended, *expected):
    """The same where work had begun: what stands before is progress."""
    assert ended.code == run_search.BAD_INPUT, ended.err
    assert "Traceback" not in ended.err
    *progress, line = ended.err.splitlines()
    assert line.startswith("run_search.py: ")
    assert not any(earlier.startswith("run_search.py: ") for earlier in progress)
    for text in expected:
        assert text in line


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ---- options

OPTIONS = {
    "no budget": ({"budget": None}, ["--budget is missing", "4GFLOPs"]),
    "unit": ({"budget": "4Gfoo"}, ["'4Gfoo'", "FLOPs, MACs, params, us, ms, s"]),
    "no number": ({"budget": "GFLOPs"}, ["'GFLOPs'", "a number"]),
    "empty budget": ({"budget": ""}, ["budget ''"]),
    "zero": ({"budget": "0FLOPs"}, ["'0FLOPs'", "above zero"]),
    "infinite": ({"budget": "1e999FLOPs"}, ["'1e999FLOPs'", "finite"]),
    "twice": ({"budget": "1MFLOPs,2MMACs"}, ["macs twice"]),
    "too small": ({"budget": "1kFLOPs"}, ["'1kFLOPs'", "204k to 3.83M MACs"]),
    "too large": ({"budget": "4GFLOPs"}, ["'4GFLOPs'", "204k to 3.83M MACs"]),
    "at odds": (
        {"budget": "1MFLOPs,9kparams"},
        ["'1MFLOPs,9kparams'", "18.5k to 70.8k parameters"],
    ),
    "flops per mac": ({"flops_per_mac": 3}, ["flops_per_mac is 3", "1 or 2"]),
    "controller": ({"controller": "genetic"}, ["'genetic'", "predictor, evolution, nsga2"]),
    "mutation": ({"mutation": "early"}, ["--mutation", "'early'", "uniform", "late"]),
    "mutation of another": (
        {"mutation": "late", "controller": "random"},
        ["mutation is 'late'", "'random'", "only 'evolution' mutates"],
    ),
    "evaluations": ({"evaluations": 0}, ["evaluations is 0", "at least 1"]),
    "batch": ({"batch": -4}, ["batch is -4", "at least 1"]),
    "seed": ({"seed": -1}, ["seed is -1", "at least 0"]),
    "steps": ({"steps": 0}, ["steps is 0", "at least 1"]),
    "workers": ({"workers": 0}, ["workers is 0", "at least 1"]),
    "workers for whom there is no memory": (
        {"workers": 100_000},
        ["workers is 100000", "GiB of memory are free", "at most"],
    ),
    "in flight": ({"in_flight": 0}, ["in_flight is 0", "at least 1"]),
    "gpus": ({"gpus_per_worker": -1}, ["gpus_per_worker is -1", "0.25"]),
    "sampler": ({"controller": "optuna:grid"}, ["'optuna:grid'", "optuna:tpe"]),
    "threads": ({"threads": -1}, ["threads is -1", "at least 1"]),
    "exports": ({"exports": 0}, ["exports is 0", "at least 1"]),
    "classes": ({"classes": 0}, ["classes is 0", "at least 1"]),
    "proxy width": ({"proxy_width": 1.5}, ["proxy_width is 1.5", "at most 1"]),
    "proxy width nan": ({"proxy_width": "nan"}, ["proxy_width is nan", "above 0"]),
    "proxy side": ({"proxy_resolution": 15}, ["proxy_resolution is 15", "multiple", "4"]),
    "resolution": ({"resolution": 31}, ["resolution 31", "multiple", "4"]),
    "train workers": ({"train_workers": 0}, ["train_workers is 0", "at least 1"]),
    "training batch": ({"train_batch": 0}, ["batch is 0", "at least 1"]),
    "optimiser": ({"optimiser": "adam"}, ["--optimiser", "'adam'", "adamw"]),
    "slot": ({"split_at": "stages.9.blocks"}, ["split_at names 'stages.9.blocks'", "stages.1."]),
    "sampled": ({"sampled": 0, "no_sandwich": True}, ["sampled is 0", "without sandwich"]),
    "rate": ({"learning_rate": 0}, ["learning_rate is 0.0", "above 0"]),
    "infinite rate": ({"learning_rate": "inf"}, ["learning_rate is inf", "finite"]),
    "not a number": ({"steps": "many"}, ["--steps", "'many'"]),
    "unknown option": ({"nosuch": 1}, ["--nosuch"]),
    "listing": ({"list": "foo"}, ["'foo'", "operators"]),
    "limit": ({"limit": 5}, ["limit is 5", "at least 10"]),
    "device": ({"device": "tpu"}, ["'tpu'", "cpu, cuda or cuda:N"]),
    "another device": ({"device": "meta"}, ["'meta'", "cpu, cuda or cuda:N"]),
    "no data": ({"data": "/no/such"}, ["'/no/such'", "digits"]),
    "no space": ({"space": "nosuch"}, ["'nosuch'", "unified"]),
    "no config": ({"config": "/no/such.yaml"}, ["'/no/such.yaml'", "No such file"]),
    "no plugin": ({"plugin": "/no/such.py"}, ["'/no/such.py'", ".py"]),
    "name with a path": ({"name": "a/b"}, ["'a/b'", "name of a folder"]),
    "name above": ({"name": ".."}, ["'..'", "name of a folder"]),
    "long name": ({"name": "x" * 300}, ["300 bytes", "at most 200"]),
}


@pytest.mark.parametrize(("options", "expected"), OPTIONS.values(), ids=OPTIONS)
def test_options(runs, options, expected):
    one_line(runs(**options), *expected)
    assert not runs.runs.exists()


def test_a_curriculum_of_images_that_are_too_small(runs, tiny_space):
    """Before any image is read."""
    space = stages(tiny_space(), operators={"regional_mixing": {"region": [2]}})
    expected = ["curriculum is 'efficienttrain++'", "stages.0.blocks.0", "pixels"]
    one_line(runs(space=space, curriculum="efficienttrain++", proxy_resolution=8), *expected)
    assert not runs.runs.exists()


def test_a_gpu_that_is_not_there(runs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    one_line(runs(device="cuda"), "'cuda'", "no CUDA devices", "--device cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    one_line(runs(device="cuda:3"), "'cuda:3'", "1 CUDA device here", "--device cpu")
    assert not runs.runs.exists()


def test_a_file_where_the_runs_should_be(runs):
    runs.runs.write_text("")
    one_line(runs(), str(runs.runs), "--runs")
    assert runs.runs.read_text() == ""


# ---- space files

SPACES = {
    "operator": (
        lambda s: stages(s, operators=["mbconv"]),
        ["stages.0.operators", "'mbconv'", "modulation", "inverted_bottleneck"],
    ),
    "downsampling": (
        lambda s: stages(s, downsampling=["pool"]),
        ["stages.0.downsampling", "'pool'", "local_dsm"],
    ),
    "stem": (lambda s: {**s, "stem": {"patch": {}}}, ["stem", "'patch'", "convolution"]),
    "gene": (
        lambda s: stages(s, operators={"modulation": {"kernel": [3]}}),
        ["modulation", "'kernel'", "gathering, levels"],
    ),
    "value": (
        lambda s: stages(s, operators={"modulation": {"context": [3, 4]}}),
        ["modulation", "context is 4", "3, 5, 7"],
    ),
    "type of a value": (
        lambda s: stages(s, operators={"inverted_bottleneck": {"squeeze_excite": [1]}}),
        ["squeeze_excite is 1", "False, True"],
    ),
    "width": (
        lambda s: stages(s, downsampling=None, operators=["modulation"]),
        ["stages.0", "modulation keeps its width", "inverted_bottleneck"],
    ),
    "stride": (lambda s: stages(s, 1, downsampling=None), ["stages.1", "stride is 2", "must be 1"]),
    "no operators": (lambda s: stages(s, operators={}), ["stages.0.operators"]),
    "no stages": (lambda s: {**s, "stages": []}, ["stages"]),
    "entry": (lambda s: {**s, "widths": [1]}, ["'widths'"]),
    "missing entry": (lambda s: {k: v for k, v in s.items() if k != "head"}, ["'head'"]),
    "channels": (lambda s: stages(s, channels=[0]), ["stages.0.channels.0", "0"]),
    "fraction": (lambda s: stages(s, channels=[8.0]), ["stages.0.channels.0", "8.0", "integer"]),
    "proxy": (lambda s: {**s, "proxy": 5}, ["proxy", "5"]),
    "side": (lambda s: {**s, "resolution": [32, 34]}, ["resolution 34", "multiple", "4"]),
    "not RGB": (lambda s: {**s, "in_channels": 1}, ["in_channels is 1", "3"]),
}


@pytest.mark.parametrize(("change", "expected"), SPACES.values(), ids=SPACES)
def test_space_files(runs, tiny_space, change, expected):
    one_line(runs(space=change(tiny_space())), *expected)
    assert not runs.runs.exists()


@pytest.mark.parametrize("content", [b"a: [1", b"- 1", b"\xff\xfe\x00", b""])
def test_space_files_that_are_no_mapping(runs, content):
    path = runs.home / "broken.yaml"
    path.write_bytes(content)
    one_line(runs(space=path), str(path))


# ---- config files

CONFIGS = {
    "unknown setting": ("budget: 1MFLOPs\nfoo: 1\n3: 4", ["unknown setting", "evaluations"]),
    "type": ("budget: 1MFLOPs\nbatch: many", ["batch is 'many'", "int"]),
    "training": ("budget: 1MFLOPs\ntraining: {steps: many}", ["steps is 'many'", "whole number"]),
    "training's name": ("budget: 1MFLOPs\ntraining: {lr: 1}", ["'lr'", "learning_rate"]),
    "training's type": ("budget: 1MFLOPs\ntraining: 4", ["training is 4", "dict"]),
    "old place": ("budget: 1MFLOPs\nsteps: 4", ["unknown setting 'steps'"]),
    "bool for int": ("budget: 1MFLOPs\nseed: true", ["seed is True", "int"]),
    "budget": ("budget: 4", ["budget is 4", "str"]),
    "value": ("budget: 1MFLOPs\nevaluations: 0", ["evaluations is 0", "at least 1"]),
    "mutation": ("budget: 1MFLOPs\nmutation: early", ["mutation is 'early'", "uniform, late"]),
    "plugins": ("budget: 1MFLOPs\nplugins: [3]", ["plugins", "3"]),
    "format": ("budget: 1MFLOPs\nformat: 9", ["format 9"]),
    "space": ("budget: 1MFLOPs\nspace_definition: {a: 1}", ["'name'"]),
    "no budget": ("steps: 4", ["budget"]),
    "list": ("- 1", ["budget"]),
    "nothing": ("", ["budget"]),
    "YAML": ("a: [1", ["config.yaml", "not valid YAML"]),
}


@pytest.mark.parametrize(("text", "expected"), CONFIGS.values(), ids=CONFIGS)
def test_config_files(runs, command, text, expected):
    path = runs.home / "config.yaml"
    path.write_text(text)
    one_line(command("--config", path, "--runs", runs.runs, "--name", "x"), *expected)
    assert not runs.runs.exists()


# ---- data


def pictures(folder, count=8, classes=("a", "b")):
    """PNG files of noise, `count` for each class."""
    rng = random.Random(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.frombytes("RGB", (8, 8), rng.randbytes(192)).save(folder / name / f"{i}.png")
    return folder


def test_a_folder_without_images(runs):
    (runs.home / "data").mkdir()
    one_line(runs(data=runs.home / "data"), str(runs.home / "data"), "no images", ".png")
    (runs.home / "data" / "a").mkdir()
    (runs.home / "data" / "a" / "notes.txt").write_text("x")
    one_line(runs(data=runs.home / "data"), "no images", ".png")
    assert not runs.runs.exists()


def test_one_class(runs):
    data = pictures(runs.home / "data", classes=("cats",))
    one_line(runs(data=data), "'cats'", "at least two")
    assert not runs.runs.exists()


def test_a_few_corrupt_images_are_left_out(runs):
    data = pictures(runs.home / "data", count=100)
    for name in ("a", "b"):
        (data / name / "3.png").write_bytes(b"not a picture")
    ended = runs(data=data, limit=None)
    assert ended.code == 0, ended.err
    assert "2 corrupt images were left out" in ended.err


def test_many_corrupt_images_end_the_run(runs):
    data = pictures(runs.home / "data", count=100)
    for i in (1, 2, 3):
        (data / "a" / f"{i}.png").write_bytes(b"not a picture")
    last_line(runs(data=data, limit=None), "cannot be decoded", "1%", "a/1.png")
    assert not runs.runs.exists()


def test_other_data_on_resume(runs):
    data = pictures(runs.home / "data", count=20)
    ended = runs(data=data, limit=None)
    assert ended.code == 0, ended.err
    before = content(ended.folder)
    shutil.copy(data / "a" / "1.png", data / "a" / "2.png")
    last_line(runs.resume(ended.folder), str(data), "not those that the run began with")
    assert content(ended.folder) == before


# ---- folders


def test_a_run_that_is_there_already(runs):
    ended = runs(steps=1, evaluations=1)
    before = content(runs.runs)
    one_line(runs(), str(ended.folder), "--resume", "--name")
    assert content(runs.runs) == before


def test_resume_of_what_is_no_run(runs, command):
    one_line(command("--resume", runs.runs), str(runs.runs), "config.yaml")
    runs.runs.mkdir()
    one_line(command("--resume", runs.runs), str(runs.runs), "config.yaml")
    assert content(runs.runs) == {}


CHANGES = {
    "steps": (["--steps", 7], ["steps is 7", "6"]),
    "budget": (["--budget", "2MFLOPs"], ["budget is '2MFLOPs'", "'1MFLOPs'"]),
    "seed": (["--seed", 1], ["seed is 1", "0"]),
    "controller": (["--controller", "random"], ["controller is 'random'", "'auto'"]),
    "mutation": (["--mutation", "late"], ["mutation is 'late'", "'uniform'"]),
    "name": (["--name", "other"], ["--name", "--resume"]),
    "config": (["--config", "x.yaml"], ["--config", "--resume"]),
}


@pytest.mark.parametrize(("options", "expected"), CHANGES.values(), ids=CHANGES)
def test_resume_with_other_settings(runs, tiny_run, options, expected):
    before = content(tiny_run.folder)
    one_line(runs.resume(tiny_run.folder, *options), *expected)
    assert content(tiny_run.folder) == before


def test_resume_with_the_same_settings_or_other_workers(runs, tiny_run):
    ended = runs.resume(tiny_run.folder, "--steps", 6, "--workers", 1)
    assert ended.code == 0, ended.err


BROKEN = {
    "checkpoint": (
        "state/supernet/step-000000006.safetensors",
        b"nothing",
        ["step-000000006.safetensors is not a checkpoint"],
    ),
    "database": ("candidates.sqlite", b"no database of any kind" * 10, ["candidates.sqlite"]),
    "config": ("config.yaml", b"budget: [", ["config.yaml", "YAML"]),
}


@pytest.mark.parametrize(("file", "data", "expected"), BROKEN.values(), ids=BROKEN)
def test_resume_of_a_broken_run(runs, tiny_run, file, data, expected):
    folder = shutil.copytree(tiny_run.folder, runs.home / "copy")
    (folder / file).write_bytes(data)
    last_line(runs.resume(folder), *expected)


# ---- plugins


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def (", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("from space.genes import operator\n@operator('x')\nclass A: pass", "TypeError: A"),
    ],
)
def test_plugins_that_fail(runs, text, expected):
    path = runs.home / "mine.py"
    path.write_text(text)
    one_line(runs(plugin=path), str(path), expected)
    assert not runs.runs.exists()


# ---- the disk


def test_a_disk_that_is_too_small(runs, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 0, 10 * 2**20))
    last_line(runs(), "only 10 MiB are free", str(runs.home), "--runs")
    assert not runs.runs.exists()


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_in_rust(*_, **__):
    """How safetensors says it."""
    raise SafetensorError("Error while serializing: I/O error: No space left on device")


@pytest.mark.parametrize("write", [full, full_in_rust])
def test_a_disk_that_fills_up_in_training(runs, tiny_run, monkeypatch, write):
    """The run can go on once there is room, and ends as if nothing had been."""
    with monkeypatch.context() as patched:
        patched.setattr("supernet.checkpoints.save_file", write)
        ended = runs()
    last_line(ended, "No space left on device", f"--resume {ended.folder}")
    assert sorted(content(ended.folder)) == ["config.yaml", "environment.json"]
    again = runs.resume(ended.folder)
    assert again.code == 0, again.err
    assert again.front == tiny_run.front


@pytest.mark.parametrize("what", ["results.run_folder.os.replace", "results.export._write"])
def test_a_disk_that_fills_up_at_the_end(runs, tiny_run, monkeypatch, what):
    kept = os.replace
    calls = []

    def later(*arguments, **options):
        """Lets the folder's making and the supernet's facts pass."""
        calls.append(arguments)
        if what.endswith("replace") and str(arguments[1]).rpartition("/")[2] != "front.csv":
            return kept(*arguments)
        return full()

    with monkeypatch.context() as patched:
        patched.setattr(what, later)
        ended = runs()
    last_line(ended, "No space left on device", f"--resume {ended.folder}")
    assert not list(ended.folder.rglob("*.partial"))
    again = runs.resume(ended.folder)
    assert again.code == 0, again.err
    assert again.front == tiny_run.front
    assert {path.name for path in (again.folder / "architectures").iterdir()} == {
        path.name for path in (tiny_run.folder / "architectures").iterdir()
    }


def test_a_database_on_a_full_disk(runs, tiny_run, monkeypatch):
    """SQLite's own limit on pages stands for the disk."""
    from results.store import Store

    opened = Store._open

    def small(self, readonly):
        opened(self, readonly)
        self._database.execute("PRAGMA max_page_count = 5")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "_open", small)
        ended = runs()
    last_line(ended, "candidates.sqlite", "full", f"--resume {ended.folder}")
    again = runs.resume(ended.folder)
    assert again.code == 0, again.err
    assert again.front == tiny_run.front


def test_other_errors_of_the_program_are_not_hidden(runs, monkeypatch):
    def broken(self):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(Trainer, "train_step", broken)
    with pytest.raises(OSError, match="Bad file descriptor"):
        runs()


# ---- training


def test_training_that_diverges(runs):
    ended = runs(learning_rate=1e30)
    last_line(ended, "diverged", "learning_rate below 1e+30")
    assert not list(ended.folder.glob("state/supernet/*"))


# ---- an interrupt


def test_an_interrupt_says_how_to_go_on(runs, tiny_run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("evaluator.scoring.SupernetEvaluator.evaluate", interrupted)
        ended = runs()
    assert ended.code == run_search.INTERRUPTED
    assert ended.err.splitlines()[-1].endswith(f"--resume {ended.folder}")
    again = runs.resume(ended.folder)
    assert again.front == tiny_run.front


def test_settings_come_back_from_json_and_yaml(tiny_run):
    plain = yaml.safe_load((tiny_run.folder / "config.yaml").read_text())
    settings = Settings.from_plain(plain)
    assert Settings.from_plain(json.loads(json.dumps(settings.to_plain()))) == settings
