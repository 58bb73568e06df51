"""Runs whose supernet several processes train, and whose images are streamed."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import commands.job
import commands.search
from evaluator.data import load_data
from supernet.checkpoints import Checkpoints
from supernet.training import Alone

ROOT = Path(__file__).parents[1]
# Nothing that a process draws for itself, so that it does not matter who starts the processes.
SETTINGS = {"train_batch": 8, "shift": 0, "no_flip": True}


def trained(folder):
    """The last checkpoint of a run."""
    found = Checkpoints(folder / "state" / "supernet").latest()
    assert found is not None
    return found


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class Process:
    """A command in a process of its own, which Ctrl-C reaches; what it says goes to a file."""

    def __init__(self, log, *words):
        self.log = log
        with log.open("w") as file:
            self.popen = subprocess.Popen(
                [sys.executable, *map(str, words)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def said(self):
        return self.log.read_text()

    def wait_for(self, ready, seconds=240):
        """Waits until `ready()`; the process must not end before."""
        end = time.monotonic() + seconds
        while not ready():
            assert self.popen.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.05)

    def end(self, seconds=240):
        return self.popen.wait(seconds)


# ---- one process of several, in this one


@pytest.fixture
def second(monkeypatch):
    """This process is the second of two; the first gives back what it is given."""

    class Second(Alone):
        rank, ranks = 1, 2

    for name, value in (("RANK", 1), ("WORLD_SIZE", 2), ("LOCAL_RANK", 1)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(
        commands.search, "launched_group", lambda device: contextlib.nullcontext(Second())
    )


def test_only_the_first_process_says_and_writes(runs, second):
    ended = runs()
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert not runs.runs.exists()
    plan = runs(dry_run=True, json=True)
    assert (plan.code, plan.out, plan.err) == (0, "", "")


def test_two_ways_to_start_processes(runs, second):
    ended = runs(train_workers=2)
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert "train_workers is 2, but must be 1 under torchrun" in line


# ---- images that are streamed


def test_a_run_on_streamed_images(runs, monkeypatch):
    """The same steps as on images that are in memory, and still streamed where it goes on."""
    rng, data = random.Random(0), runs.home / "data"
    for name in ("a", "b", "c"):
        (data / name).mkdir(parents=True)
        for i in range(20):
            Image.frombytes("RGB", (8, 8), rng.randbytes(192)).save(data / name / f"{i}.png")
    asked = []

    def streamed(*arguments, stream, **options):
        asked.append(stream)
        return load_data(*arguments, stream=True, **options)

    with monkeypatch.context() as patched:
        patched.setattr(commands.job, "load_data", streamed)
        ended = runs(data=data, limit=None, train_batch=8)
    assert ended.code == 0, ended.err
    about = json.loads((ended.folder / "environment.json").read_text())
    assert about["streamed"] is True
    tensors, header = trained(ended.folder)
    assert header["step"] == 6
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    again = runs.resume(ended.folder)
    assert again.code == 0, again.err
    assert again.front == ended.front
    resident = runs(data=data, limit=None, train_batch=8, name="resident")
    about = json.loads((resident.folder / "environment.json").read_text())
    assert about["streamed"] is False
    assert asked == [None]


# ---- torchrun and Ray Train


@pytest.fixture(scope="module")
def launched(shared_runs):
    """A run under torchrun."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += [ROOT / "run_search.py", *shared_runs.arguments(name="launched", **SETTINGS)]
    process = Process(shared_runs.home / "launched.log", *words)
    assert process.end() == 0, process.said
    return process, shared_runs.runs / "launched"


@pytest.mark.slow
def test_a_run_under_torchrun(shared_runs, tiny_run, launched):
    """One folder, of a whole run, and one report of what happens."""
    process, folder = launched
    assert {path.name for path in shared_runs.runs.iterdir()} == {"tiny", "launched"}
    assert {name for name in files(folder) if "architectures" not in name} == {
        name for name in files(tiny_run.folder) if "architectures" not in name
    }
    assert process.said.count("run folder:") == 1
    assert process.said.count("training the supernet: 6 of 6") == 1
    _, header = trained(folder)
    assert (header["step"], header["ranks"]) == (6, 2)
    assert [probe["step"] for probe in header["probes"]] == [1, 2, 3, 4, 5, 6]
    again = shared_runs.resume(folder)  # by one process: there is nothing left to train
    assert again.code == 0, again.err


@pytest.mark.slow
def test_ray_train_trains_what_torchrun_does(shared_runs, launched):
    ended = shared_runs(name="ray", train_workers=2, **SETTINGS)
    assert ended.code == 0, ended.err
    assert "training the supernet: 6 of 6" in ended.err
    (tensors, header), (expected, other) = trained(ended.folder), trained(launched[1])
    assert header["losses"] == other["losses"]
    assert header["probes"] == other["probes"]
    assert set(tensors) == set(expected)
    assert all((tensors[name] == expected[name]).all() for name in expected)
    assert ended.front == (launched[1] / "front.csv").read_bytes()


def workers_of_ray():
    """Process ids of Ray Train's workers that belong to this test's run."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if place.read_bytes().startswith(b"ray::RayTrainWorker"):
                found.append(int(place.parent.name))
    return found


@pytest.mark.slow
def test_ctrl_c_and_a_worker_that_dies(runs):
    """Each ends in one line, leaves the last checkpoint, and the run goes on from there."""
    folder, others = runs.runs / "run", set(workers_of_ray())
    words = runs.arguments(**{**SETTINGS, "steps": 600, "evaluations": 4, "train_workers": 2})
    process = Process(runs.home / "1.log", ROOT / "run_search.py", *words)
    process.wait_for(lambda: list(folder.glob("state/supernet/*.safetensors")))
    process.popen.send_signal(signal.SIGINT)
    assert process.end() == 130, process.said
    line = process.said.splitlines()[-1]
    assert line.endswith(f"go on with: python run_search.py --resume {folder}")
    _, header = trained(folder)
    assert 0 < header["step"] < 600

    process = Process(runs.home / "2.log", ROOT / "run_search.py", "--resume", folder)
    process.wait_for(lambda: "training the supernet" in process.said)
    victims = sorted(set(workers_of_ray()) - others)
    assert len(victims) == 2
    os.kill(victims[1], signal.SIGKILL)
    assert process.end() == 2, process.said
    line = process.said.splitlines()[-1]
    assert "of the training died; go on with: python run_search.py --resume" in line
    assert "Traceback" not in process.said
    assert not list((folder / "state").glob(".*"))
    _, later = trained(folder)
    assert header["step"] <= later["step"] < 600
    assert later["losses"][: header["step"]] == header["losses"]
