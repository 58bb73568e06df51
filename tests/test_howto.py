"""The examples of docs/howto are complete: their files work, and the tests shown with them pass."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from commands.options import load_plugins
from evaluator import data
from evaluator.interfaces import Result
from results.store import Store
from search.controllers import CONTROLLERS, make_controller
from search.problem import Problem, Trial
from search.proposals import Proposals
from space import device, genes
from space.decisions import PlainDecisions, Variable
from space.files import make_space
from space.genes import CATEGORIES, Site, registered
from space.presets import presets

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def files_of(page: str) -> dict[str, str]:
    """The files that a page shows, by the name in their first line."""
    text = (ROOT / "docs" / "howto" / page).read_text(encoding="utf-8")
    bodies = [body for language, body in BLOCK.findall(text) if language in ("python", "yaml")]
    named = [(re.match(r"# ([\w-]+\.(?:py|yaml))\n", body), body) for body in bodies]
    return {match[1]: body for match, body in named if match}


def block_with(page: str, content: str) -> str:
    """The one block of a page that holds `content`."""
    text = (ROOT / "docs" / "howto" / page).read_text(encoding="utf-8")
    (found,) = (body for _, body in BLOCK.findall(text) if content in body)
    return found


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a page's module where the page says that it belongs, for the time of a test."""

    def put(page: str, file: str, package: str) -> Any:
        folder = tmp_path / package
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(files_of(page)[file], encoding="utf-8")
        home, name = importlib.import_module(package), f"{package}.{Path(file).stem}"
        monkeypatch.setattr(home, "__path__", [*home.__path__, str(folder)])
        module = importlib.import_module(name)
        monkeypatch.setitem(sys.modules, name, module)  # gone afterwards
        monkeypatch.delattr(home, Path(file).stem, raising=False)
        return module

    before = set(sys.modules)
    yield put
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def call_tests(page: str, file: str, tmp_path: Path) -> int:
    """Calls the tests of a file that a page shows, each set of parameters; how many there were."""
    found: dict[str, Any] = {}
    exec(compile(files_of(page)[file], file, "exec"), found)
    called = 0
    for name, function in found.items():
        if not name.startswith("test_"):
            continue
        sets: list[dict[str, Any]] = [{}]
        for mark in getattr(function, "pytestmark", []):
            names, values = mark.args
            keys = (names,) if isinstance(names, str) else names
            rows = [value if len(keys) > 1 else (value,) for value in values]
            sets = [{**one, **dict(zip(keys, row, strict=True))} for one in sets for row in rows]
        for number, arguments in enumerate(sets):
            if "tmp_path" in inspect.signature(function).parameters:
                arguments["tmp_path"] = tmp_path / f"{name}{number}"
                arguments["tmp_path"].mkdir()
            function(**arguments)
            called += 1
    return called


def test_a_space(tmp_path, monkeypatch, capsys):
    (tmp_path / "edge.yaml").write_text(files_of("space.md")["edge.yaml"])
    monkeypatch.chdir(tmp_path)
    exec(block_with("space.md", "load_space("), {})
    size = make_space(yaml.safe_load(files_of("space.md")["edge.yaml"])).size
    assert capsys.readouterr().out.startswith(f"{size:,} networks; half of them have less than ")


def test_the_files_of_the_reference(tmp_path, monkeypatch, capsys):
    """What docs/reference/files.md shows of a genome and of a run's candidates."""
    text = (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    codes = {
        word: body
        for _, body in BLOCK.findall(text)
        for word in ("sqlite3", "Genome")
        if word in body
    }
    genome = presets()["convnext_t"].genome
    monkeypatch.chdir(tmp_path)
    Path("genome.json").write_text(json.dumps(genome.to_json()))
    exec(codes["Genome"], {})
    Path("runs/tutorial").mkdir(parents=True)
    results = [
        Result(genome, genome.cost(), score=0.5, reward=0.5),
        Result(replace(genome, classes=10), genome.cost(), error="no memory"),
    ]
    Store("runs/tutorial/candidates.sqlite").append(results, "random", lambda: b"")
    exec(codes["sqlite3"], {})
    counted, listed = capsys.readouterr().out.splitlines()
    assert counted == f"{genome.digest} {genome.cost().macs:,} MACs"
    assert listed.endswith(f"  0.5000  {genome.cost().macs / 1e6:.1f}M MACs")


def test_a_data_source(install, tmp_path, monkeypatch):
    install("data.md", "data_arrays.py", "evaluator")
    others = data._listing
    branch = "def branch(path):\n" + block_with("data.md", "if path.suffix") + "    return None\n"
    found: dict[str, Any] = {}
    exec(branch, found)
    monkeypatch.setattr(data, "_listing", lambda source: found["branch"](source) or others(source))
    assert call_tests("data.md", "test_data_arrays.py", tmp_path) == 2


def test_a_downsampling_module(tmp_path, monkeypatch):
    for category in CATEGORIES:  # what is registered here is gone afterwards
        monkeypatch.setitem(genes._REGISTRY, category, dict(genes._REGISTRY[category]))
    (tmp_path / "blurred.py").write_text(files_of("operator.md")["blurred.py"])
    load_plugins([str(tmp_path / "blurred.py")])
    part = registered("downsampling")["blurred"]()
    for site in (Site(12, 20, 7, 10, 2), Site(8, 8, 6, 5, 1), Site(4, 6, 9, 9, 3)):
        module = part.build(site)
        y = module(torch.randn(2, site.in_channels, site.height, site.width))
        assert y.shape == (2, site.channels, site.out_height, site.out_width)
        assert part.cost(site).params == sum(p.numel() for p in module.parameters())
    space = make_space(yaml.safe_load(files_of("operator.md")["blurred.yaml"]))
    kinds = {
        stage.downsample.kind
        for seed in range(20)
        for stage in space.sample(np.random.default_rng(seed)).stages
    }
    assert kinds == {"blurred", "local_dsm"}


def test_a_controller(install, monkeypatch):
    """It finds more than random search does; the shared tests are in the slow test below."""
    module = install("controller.md", "truncation.py", "search")
    found = {"Truncation": module.Truncation}
    (name, made), *rest = eval(
        "{" + block_with("controller.md", '"truncation":') + "}", found
    ).items()
    assert not rest
    monkeypatch.setattr("search.controllers.CONTROLLERS", {**CONTROLLERS, name: made})
    genes = tuple(Variable(f"gene{i}", (0, 1, 2, 3)) for i in range(8))
    problem = Problem(PlainDecisions("plain", genes))

    def best(controller: str) -> int:
        search, scores = make_controller(controller, Proposals(problem), 0), [0]
        while len(scores) < 200:
            trials = [Trial(row, (float(row.count(2)),)) for row in search.ask(8)]
            search.tell(trials)
            scores += [row.count(2) for row, *_ in ((t.row,) for t in trials)]
        return max(scores)

    assert best("truncation") > best("random")


@pytest.mark.slow
def test_a_controller_passes_the_tests_of_all_controllers(tmp_path):
    """In a copy of the project that is changed as the page says."""
    for name in ("space", "search", "evaluator", "supernet", "results", "commands", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run_search.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "search" / "truncation.py").write_text(files_of("controller.md")["truncation.py"])
    home = tmp_path / "search" / "controllers.py"
    text, line = home.read_text(), block_with("controller.md", '"truncation":')
    begin = "from search.reinforce import Reinforce\n"
    text = text.replace(begin, f"{begin}from search.truncation import Truncation\n", 1)
    last = "    RANDOM: RandomSearch,\n"
    home.write_text(text.replace(last, f"{line}{last}"))
    words = ["-m", "pytest", "-q", "tests/search/test_controllers.py", "-k", "truncation"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 40


def test_a_device(install, tmp_path, monkeypatch):
    install("device.md", "torch_cpu_last.py", "evaluator.runtimes")
    named: dict[str, Any] = {}
    exec(block_with("device.md", "RUNTIMES ="), named)
    assert named["RUNTIMES"][: len(device.RUNTIMES)] == device.RUNTIMES
    monkeypatch.setattr(device, "RUNTIMES", named["RUNTIMES"])
    runtimes = importlib.import_module("evaluator.runtimes")
    source = inspect.getsource(runtimes.make_runtime)
    modules = re.search(r"    modules = \{.*?\}\n", source, re.DOTALL)[0]
    shown = block_with("device.md", "modules = {")
    exec(inspect.cleandoc(modules), named)
    known = named["modules"]
    exec(inspect.cleandoc(shown), named)
    assert named["modules"] == {**known, "cpu-last": "torch_cpu_last"}
    found = dict(vars(runtimes))
    exec("from __future__ import annotations\n" + source.replace(modules, shown), found)
    monkeypatch.setattr(runtimes, "make_runtime", found["make_runtime"])
    assert call_tests("device.md", "test_torch_cpu_last.py", tmp_path) == 1


def test_a_kernel(install, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("the page's test is for the interpreter")
    install("kernel.md", "gated_residual.py", "supernet.kernels")
    assert call_tests("kernel.md", "test_gated_residual.py", tmp_path) == 10
