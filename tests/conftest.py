"""What the tests of whole runs share: a tiny space, and the command line called in this process."""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

# Before Triton is imported by anybody, which it is with PyTorch's counter of FLOPs.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import run_search
from space import genes

# 6,480 networks of 0.2M to 3.8M MACs; three operators of different kinds in one place.
TINY: dict[str, Any] = {
    "name": "tiny",
    "resolution": [32],
    "stem": {"convolution": {"channels": [8]}},
    "operators": {
        "inverted_bottleneck": {"expansion": [1, 2, 4], "context": [3, 5]},
        "modulation": {"expansion": [1, 2, 4], "layer_scale": [0.01]},
        "attention": {
            "region": ["window"],
            "expansion": [1, 2],
            "context": [4],
            "head_dim": [16],
            "layer_scale": [0.01],
        },
        "token_mlp": {"expansion": [1, 2], "token_ratio": [0.5], "layer_scale": [0.01]},
    },
    "downsampling": {
        "strided_convolution": {"kernel": [2, 3], "shortcut": [True]},
        "local_dsm": {},
    },
    "stages": [
        {
            "channels": [8, 16],
            "depth": [1, 2],
            "downsampling": ["local_dsm"],
            "operators": ["inverted_bottleneck", "modulation"],
        },
        {
            "channels": [16, 24, 32],
            "depth": [1, 2],
            "stride": 2,
            "downsampling": ["strided_convolution", "local_dsm"],
            "operators": ["inverted_bottleneck", "attention", "token_mlp"],
        },
    ],
    "head": {"pooled": {}},
    "proxy": {"width": 0.5, "resolution": 16},
}
BUDGET = "1MFLOPs"  # what the median network of the tiny space costs, and a little more


def tiny(**changes: Any) -> dict[str, Any]:
    """The tiny space with other top-level entries."""
    return {**copy.deepcopy(TINY), **changes}


def batch_norm() -> dict[str, Any]:
    """The tiny space with BatchNorm wherever a norm stands."""
    space = tiny(name="batch")
    for entry in ("stem", "operators", "downsampling", "head"):
        for part in space[entry].values():
            part["norm"] = ["batch"]
    return space


@dataclass(frozen=True)
class Ended:
    """How a call of the command line ended."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def front(self) -> bytes:
        return (self.folder / "front.csv").read_bytes()

    @property
    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.front.decode())))


def run(*arguments: object, folder: Path | None = None) -> Ended:
    """`run_search.main` in this process; `folder` is where the run is expected."""
    out, err, threads = io.StringIO(), io.StringIO(), torch.get_num_threads()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run_search.main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        finally:
            torch.set_num_threads(threads)
    return Ended(code, out.getvalue(), err.getvalue(), folder or Path())


class Runs:
    """Makes tiny runs under one folder."""

    def __init__(self, home: Path):
        self.home, self.runs = home, home / "runs"

    def space(self, definition: dict[str, Any]) -> Path:
        """The file of a space."""
        path = self.home / f"{definition['name']}.yaml"
        path.write_text(yaml.safe_dump(definition, sort_keys=False))
        return path

    def arguments(self, **options: Any) -> list[str]:
        """The command line of a tiny run; `options` by name, None leaves one out, True is a flag,
        and `space` may be a definition."""
        if isinstance(options.get("space", {}), dict):
            options["space"] = self.space(options.get("space", TINY))
        settings = {
            "budget": BUDGET,
            "runs": self.runs,
            "name": "run",
            "steps": 6,
            "train_batch": 16,
            "evaluations": 12,
            "batch": 4,
            "exports": 2,
            "limit": 60,
            "threads": 1,
            "seed": 0,
        } | options
        words = []
        for name, value in settings.items():
            if value is not None:
                words += [f"--{name.replace('_', '-')}"]
                words += [] if value is True else [str(value)]
        return words

    def __call__(self, **options: Any) -> Ended:
        name = options.get("name", "run")
        return run(*self.arguments(**options), folder=self.runs / str(name))

    def resume(self, folder: Path, *more: object) -> Ended:
        return run("--resume", folder, *more, folder=folder)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.fixture(scope="session")
def shared_runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """For runs that many tests look at and none changes."""
    return Runs(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def tiny_run(shared_runs: Runs) -> Ended:
    """One whole run with seed 0."""
    ended = shared_runs(name="tiny")
    assert ended.code == 0, ended.err
    return ended


@pytest.fixture(scope="session")
def command() -> Callable[..., Ended]:
    """The command line, whatever the arguments."""
    return run


@pytest.fixture(scope="session")
def tiny_space() -> Callable[..., dict[str, Any]]:
    return tiny


@pytest.fixture(scope="session")
def batch_norm_space() -> dict[str, Any]:
    return batch_norm()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors are slower on many threads; results do not depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


OPERATOR = '''\
"""Two 1x1 convolutions around a 3x3 average, plus the input."""

from dataclasses import dataclass

from torch import Tensor, nn

from space import cost
from space.blueprint import blueprint
from space.genes import Part, choice, operator
from space.layers import Pointwise


class AverageBlock(nn.Module):
    """(N, C, H, W) to the same."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.expand = Pointwise(channels, hidden)
        self.average = nn.AvgPool2d(3, 1, 1)
        self.project = Pointwise(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.average(self.expand(x)))


@operator("average")
@dataclass(frozen=True, slots=True, kw_only=True)
class Average(Part):
    """Gene: `expansion`."""

    expansion: int = choice(1, 2, 3)

    def blueprint(self, site):
        hidden = self.expansion * site.channels
        total = cost.linear(site.pixels, site.channels, hidden)
        total += cost.linear(site.pixels, hidden, site.channels)
        return blueprint(AverageBlock, site.channels, hidden, cost=total)
'''


@pytest.fixture
def own_operator(tmp_path: Path) -> Iterator[Path]:
    """A plugin with an operator `average`, forgotten again after the test."""
    path = tmp_path / "average.py"
    path.write_text(OPERATOR)
    yield path
    genes._REGISTRY["operator"].pop("average", None)
    for name in [name for name in sys.modules if name.startswith("chimera_plugin_average")]:
        del sys.modules[name]
