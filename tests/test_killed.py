"""Runs that are killed, for real and at any moment, and go on as if they had not been."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from results.store import Store

ROOT = Path(__file__).parents[1]
SETTINGS = {"steps": 60, "evaluations": 120, "batch": 8}  # a second of each, on one core


class Process:
    """The command line in a process of its own; what it says goes to a file."""

    def __init__(self, log, *arguments):
        self.log = log
        command = [sys.executable, str(ROOT / "run_search.py"), *map(str, arguments)]
        with log.open("w") as file:
            self.popen = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)

    @property
    def said(self):
        return self.log.read_text()

    def wait_for(self, ready, seconds=120):
        """Waits until `ready()`; the process must not end before."""
        end = time.monotonic() + seconds
        while not ready():
            assert self.popen.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.005)

    def end(self, seconds=120):
        """The exit code."""
        return self.popen.wait(seconds)


def at_work(process):
    """Whether it has done with starting: importing PyTorch takes seconds that vary."""
    return "run folder" in process.said


class Whole:
    """A run that nobody stopped, and how long its work took."""

    def __init__(self, runs):
        self.folder = runs.runs / "whole"
        process = Process(runs.home / "whole.log", *runs.arguments(name="whole", **SETTINGS))
        process.wait_for(lambda: at_work(process))
        begun = time.monotonic()
        assert process.end() == 0, process.said
        self.seconds = time.monotonic() - begun
        self.front = (self.folder / "front.csv").read_bytes()

    def names(self, folder=None):
        """Every file and folder of a run; of the checkpoints the last, as a slow training leaves
        more of them."""
        folder = folder or self.folder
        earlier = set(sorted(folder.glob("state/supernet/step-*"))[:-1])
        return {str(path.relative_to(folder)) for path in set(folder.rglob("*")) - earlier}


@pytest.fixture(scope="module")
def whole(shared_runs):
    return Whole(shared_runs)


def survive(runs, whole, moments):
    """Kills a run at each of `moments` (shares of the time that its work takes), lets the last
    process end, and compares; how often it was killed."""
    folder, log, kills = runs.runs / "run", runs.home / "run.log", 0
    for moment in moments:
        words = ["--resume", folder] if folder.exists() else runs.arguments(**SETTINGS)
        process = Process(log, *words)
        process.wait_for(lambda p=process: at_work(p))
        try:
            process.end(moment * whole.seconds)
        except subprocess.TimeoutExpired:
            process.popen.kill()
        kills += process.end() == -signal.SIGKILL
    process = Process(log, "--resume", folder)
    assert process.end() == 0, process.said
    assert (folder / "front.csv").read_bytes() == whole.front
    assert whole.names(folder) == whole.names()
    return kills


def test_killed_three_times(runs, whole):
    """In training, in scoring, and towards the end."""
    rng = random.Random(0)
    moments = [rng.uniform(low, low + 0.2) for low in (0.05, 0.3, 0.5)]
    assert survive(runs, whole, moments) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_random_moments(runs, whole, seed):
    rng = random.Random(seed)
    assert survive(runs, whole, [rng.random() for _ in range(10)]) >= 3


# ---- on Ray


def descendants(pid):
    """All processes that a process has started, and they in turn, with their command lines."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            words = (status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, ValueError):  # it has ended meanwhile
            continue
        parents[int(status.parent.name)] = int(fields["PPid"]), words
    found, level = {}, {pid}
    while level:
        level = {child for child, (parent, _) in parents.items() if parent in level} - set(found)
        found |= {child: parents[child][1] for child in level}
    return found


def rows_of(folder):
    path = folder / "candidates.sqlite"
    if not path.is_file():
        return []
    with Store(path, readonly=True) as store:
        return [(row.digest, row.score, row.error) for row in store.rows()]


def survive_on_ray(runs, kills, seed):
    """Kills the run's own process, one of Ray's workers or one of Ray's other processes, at random
    moments, until it was done so often; what was killed. Nothing that was written is ever lost or
    found twice, and no candidate is given up for a worker's death."""
    rng, folder, log = random.Random(seed), runs.runs / "run", runs.home / "run.log"
    settings = SETTINGS | {"batch": 2, "evaluations": 40, "workers": 2}
    killed, process, before = [], None, []
    while len(killed) < kills:
        if process is None:
            words = ["--resume", folder] if folder.exists() else runs.arguments(**settings)
            process = Process(log, *words)
            process.wait_for(lambda p=process: at_work(p))
        try:
            process.end(rng.uniform(0.5, 10))
        except subprocess.TimeoutExpired:
            below = descendants(process.popen.pid)
            workers = [pid for pid, words in below.items() if words.startswith("ray::_Actor")]
            what = rng.choice(["driver", "driver", "worker", "worker", "ray"])
            if what == "driver":
                process.popen.kill()
                process.end()
                process = None
            elif victims := workers if what == "worker" else [*set(below) - set(workers)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(victims), signal.SIGKILL)
            else:
                continue
            killed.append(what)
        else:
            process = None
        now = rows_of(folder)
        assert now[: len(before)] == before
        before = now
        if len(now) == settings["evaluations"]:  # it was through: another one
            check_whole(now)
            if process is not None:
                process.popen.kill()
                process.end()
            shutil.rmtree(folder)
            process, before = None, []
    if process is not None:
        process.popen.kill()
        process.end()
    words = ["--resume", folder] if folder.exists() else runs.arguments(**settings)
    process = Process(log, *words)
    assert process.end(300) == 0, process.said
    now = rows_of(folder)
    assert now[: len(before)] == before
    assert len(now) == settings["evaluations"]
    check_whole(now)
    return killed


def check_whole(rows):
    digests = [digest for digest, _, _ in rows]
    assert len(set(digests)) == len(digests)
    assert all(error is None for _, _, error in rows)


@pytest.mark.slow
def test_killed_on_ray(runs):
    assert len(survive_on_ray(runs, 3, 0)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 3))
def test_killed_on_ray_at_random_moments(runs, seed):
    killed = survive_on_ray(runs, 25, seed)
    assert {"driver", "worker", "ray"} <= set(killed)


def test_an_interrupt_in_a_terminal(runs, whole):
    """Ctrl-C: exit code 130 and one line that says how to go on."""
    folder = runs.runs / "run"
    process = Process(runs.home / "run.log", *runs.arguments(quiet=True, **SETTINGS))
    process.wait_for(lambda: list(folder.glob("state/supernet/*.safetensors")))
    process.popen.send_signal(signal.SIGINT)
    assert process.end() == 130, process.said
    assert len(process.said.splitlines()) == 1
    assert process.said.rstrip().endswith(f"go on with: python run_search.py --resume {folder}")
    again = runs.resume(folder)
    assert again.code == 0, again.err
    assert again.front == whole.front
