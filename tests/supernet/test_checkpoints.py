"""Checkpoints: whatever happens while one is written, there is one to go on from."""

import errno
import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from supernet import checkpoints
from supernet.checkpoints import Checkpoints, read_checkpoint, write_checkpoint

ROOT = Path(__file__).parents[2]


def state(step):
    """Tensors that say which step they are of, half a MiB."""
    return {
        "floats": torch.full((300, 400), float(step)),
        "halves": torch.full((7, 3), step, dtype=torch.bfloat16),
        "count": torch.tensor(step),
    }


def check(found, step):
    tensors, header = found
    assert header == {"step": step, "text": "ä\n", "list": [1, 2.5, None]}
    expected = state(step)
    assert set(tensors) == set(expected)
    for name, tensor in tensors.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])


def save(made, step):
    made.save(step, state(step), {"step": step, "text": "ä\n", "list": [1, 2.5, None]})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- what is kept


def test_the_last_ones_are_kept(tmp_path):
    made = Checkpoints(tmp_path / "state" / "supernet")
    assert made.latest() is None
    for step in (0, 5, 40, 1000, 123456789):
        save(made, step)
        check(made.latest(), step)
    assert names(made.folder) == ["step-000001000.safetensors", "step-123456789.safetensors"]
    assert made.paths() == [made.folder / name for name in names(made.folder)]


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_as_asked_for(tmp_path, keep):
    made = Checkpoints(tmp_path, keep)
    for step in range(6):
        save(made, step)
    assert [read_checkpoint(path)[1]["step"] for path in made.paths()] == list(range(6))[-keep:]


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "step-000000003.partial").write_text("half")
    made = Checkpoints(tmp_path)
    assert made.latest() is None
    save(made, 4)
    assert names(tmp_path) == ["step-000000004.safetensors"]


def test_a_checkpoint_holds_no_code(tmp_path):
    """It opens as safetensors: nothing is unpickled."""
    save(Checkpoints(tmp_path), 1)
    with safe_open(tmp_path / "step-000000001.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["training"])["step"] == 1


# ---- what is broken


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_the_one_before_a_broken_one_is_used(tmp_path, size):
    made = Checkpoints(tmp_path)
    save(made, 3)
    save(made, 8)
    cut(tmp_path / "step-000000008.safetensors", size)
    check(made.latest(), 3)
    # And it does not take the place of a good one while the training catches up.
    save(made, 4)
    assert names(tmp_path) == ["step-000000003.safetensors", "step-000000004.safetensors"]
    check(made.latest(), 4)


def test_all_are_broken(tmp_path):
    made = Checkpoints(tmp_path)
    for step in (3, 8):
        save(made, step)
        cut(made.paths()[-1], 20)
    with pytest.raises(
        ValueError, match=r"step-000000008\.safetensors is not a checkpoint"
    ) as told:
        made.latest()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("metadata", [None, {"training": "{"}, {"other": "{}"}])
def test_a_file_of_something_else(tmp_path, metadata):
    path = tmp_path / "step-000000001.safetensors"
    save_file({"a": torch.zeros(3)}, path, metadata=metadata)
    with pytest.raises(ValueError, match="is not a checkpoint of a training"):
        Checkpoints(tmp_path).latest()


# ---- a full disk


@pytest.fixture
def small_files():
    """No file may grow beyond 100 kB: the system's own answer to a write is an error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_be_written(tmp_path, request):
    made = Checkpoints(tmp_path)
    save(made, 3)
    request.getfixturevalue("small_files")
    with pytest.raises((OSError, SafetensorError), match="File too large"):
        save(made, 4)
    assert names(tmp_path) == ["step-000000003.safetensors"]
    check(made.latest(), 3)


FAILING = {
    "writing": "save_file",
    "forcing it out": "os.fsync",
    "renaming": "os.replace",
}


@pytest.mark.parametrize("call", FAILING.values(), ids=FAILING)
def test_a_disk_that_fills_up(tmp_path, monkeypatch, call):
    made = Checkpoints(tmp_path)
    save(made, 3)

    def full(*arguments, **_):
        if call == "save_file":
            arguments[1].write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(f"supernet.checkpoints.{call}", full)
        with pytest.raises(OSError, match="No space left"):
            save(made, 4)
    assert names(tmp_path) == ["step-000000003.safetensors"]
    check(made.latest(), 3)
    save(made, 4)
    check(made.latest(), 4)


def test_an_interrupt_while_writing(tmp_path, monkeypatch):
    made = Checkpoints(tmp_path)
    save(made, 3)
    monkeypatch.setattr(
        checkpoints, "_to_disk", lambda path: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        save(made, 4)
    assert names(tmp_path) == ["step-000000003.safetensors"]


def test_a_header_that_is_no_json(tmp_path):
    with pytest.raises(TypeError):
        write_checkpoint(tmp_path / "a.safetensors", state(0), {"step": object()})
    assert names(tmp_path) == []


# ---- killed


def saves_until_killed(folder, kills, seed):
    """Processes that write checkpoint after checkpoint, each killed at a random moment; after each
    the newest must be whole, and none may be older than before."""
    rng, last = random.Random(seed), -1
    made = Checkpoints(Path(folder))
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            step = last
            while True:
                step += 1
                save(made, step)
        pause = rng.uniform(0.0, 0.15)
        subprocess.run(["sleep", f"{pause:.4f}"], check=True)
        os.kill(child, 9)
        os.waitpid(child, 0)
        found = made.latest()
        if found is not None:
            check(found, found[1]["step"])
            assert found[1]["step"] >= last
            last = found[1]["step"]
            assert len(made.paths()) <= 3  # one may be too many, where it was killed before that
            for path in made.paths():
                check(read_checkpoint(path), read_checkpoint(path)[1]["step"])
    print(last)


def test_killed_while_writing(tmp_path):
    """For real, in a process that has no threads yet and may fork."""
    script = (
        "import importlib.util; "
        f"spec = importlib.util.spec_from_file_location('tests_of_checkpoints', {__file__!r}); "
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); "
        f"module.saves_until_killed({str(tmp_path)!r}, 25, 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
