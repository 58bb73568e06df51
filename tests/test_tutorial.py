"""The tutorial's commands, as they stand, one after the other in one shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What is there already when tests run: an environment with the project in it.
INSTALLS = ("-m venv", "bin/activate", "pip install")


def commands() -> list[str]:
    """The blocks for the terminal, without those that install."""
    bodies = [body for language, body in BLOCK.findall(TUTORIAL) if language == "sh"]
    return [body for body in bodies if not any(word in body for word in INSTALLS)]


def files() -> dict[str, str]:
    """The scripts that a reader saves, by the name in their first line."""
    bodies = [body for language, body in BLOCK.findall(TUTORIAL) if language == "python"]
    return {body.partition("\n")[0].removeprefix("# "): body for body in bodies}


def test_every_script_is_run_and_every_command_is_looked_at():
    shell = "\n".join(commands())
    assert len(commands()) >= 8
    for name, text in files().items():
        assert re.fullmatch(r"\w+\.py", name)
        assert f"python {name}" in shell
        compile(text, name, "exec")


@pytest.mark.slow
def test_the_tutorial(tmp_path):
    """In a folder that looks like the repository; what is written stays in it."""
    pytest.importorskip("onnxruntime")
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("runs", "site", "trained"):
            (tmp_path / path.name).symlink_to(path)
    for name, text in files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    programs = tmp_path / ".programs"
    programs.mkdir()
    # A link would lose the environment that the interpreter belongs to.
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "python").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    script = "set -eo pipefail\n" + "\n".join(commands())
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"

    run = tmp_path / "runs" / "tutorial"
    assert "<html" in (run / "report.html").read_text(encoding="utf-8")
    assert len(json.loads((run / "trust.json").read_text())["networks"]) == 8
    assert (run / "finalists.csv").exists()
    right = re.search(r"([\d.]+)% of 360 test images right", done.stdout)
    assert float(right[1]) > 90
    for digit, form in (("3", r"(\d) \("), ("7", r"class (\d)")):
        found = re.findall(rf"handwriting/test/{digit}/\d+\.png: {form}", done.stdout)
        assert len(found) > 20
        assert found.count(digit) > 0.8 * len(found)
    network = tmp_path / "trained" / "digits" / "network"
    assert {"model.onnx", "weights.safetensors"} <= {path.name for path in network.iterdir()}
