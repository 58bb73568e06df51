"""Where a run keeps what. Nothing in it is ever half-written: files are made aside and renamed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from results.history import Row
from results.pareto import front
from results.store import FILE as DATABASE
from results.tables import csv_text
from space.machine import processor
from space.objectives import SCORE

FRONT_COLUMNS = ("name", "hash", "score", "macs", "params", "resolution", "top1", "best")
FRONT = (SCORE, "macs")  # the objectives unless others are named
FORMAT = 2  # of a run's folder, in environment.json; 1 said nothing of it
FORMATS = (1, FORMAT)  # that are read
_PACKAGES = ("torch", "numpy", "ray", "optuna", "pandas", "safetensors", "triton")


class RunFolder:
    """The files of one run under `path`."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.database = path / DATABASE
        self.state = path / "state"
        self.checkpoints = self.state / "supernet"
        self.supernet_facts = self.state / "supernet.json"
        self.training = self.state / "training.json"
        self.by_chance = self.state / "random.sqlite"  # a random search, to compare with
        self.profiles = self.state / "profiles"  # of devices, by which latencies are predicted
        self.measured = self.state / "measured.json"  # latencies of exported networks
        self.alone = self.state / "trust"  # networks that were trained alone
        self.alone_by_rungs = self.state / "finalists"  # that were trained to be chosen from
        self.finalists = path / "finalists.json"
        self.finalists_table = path / "finalists.csv"
        self.mirror = self.state / "optuna.json"  # where the run is copied to
        self.similarity = path / "similarity.json"
        self.trust = path / "trust.json"
        self.trust_table = path / "trust.csv"
        self.trust_chart = path / "trust.svg"  # and .png
        self.report = path / "report.html"
        self.plots = path / "plots"  # the report's charts as files
        self.front = path / "front.csv"
        self.architectures = path / "architectures"

    def check_new(self) -> None:
        """ValueError where the folder is there already."""
        if self.path.exists():
            raise ValueError(
                f"run folder {str(self.path)!r} is there already; go on with it by "
                f"--resume {self.path}, or choose another --name"
            )

    def create(
        self,
        config: Mapping[str, Any],
        environment: Mapping[str, Any],
        profiles: Path | None = None,
    ) -> None:
        """Makes the folder with its settings, and with what is in the folder `profiles`; ValueError
        where there is one already."""
        self.check_new()
        environment = {"format": FORMAT, "chimera": version(), **environment}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(f".{self.path.name}.new-{os.getpid()}")
        made = RunFolder(fresh)
        made.state.mkdir(parents=True)
        made.write_config(config)
        if profiles is not None and any(profiles.glob("*")):
            shutil.copytree(profiles, made.profiles)
        write_text(made.environment, json.dumps(environment, indent=2) + "\n")
        os.replace(fresh, self.path)

    def check_format(self) -> None:
        """ValueError where another version of the project made the folder, and this one cannot
        read it. Folders of format 1 say nothing of a format, and are read like the others."""
        try:
            about = json.loads(self.environment.read_text(encoding="utf-8"))
            found = about.get("format", 1)
        except FileNotFoundError:
            return  # what has none says so itself where it is needed
        except (ValueError, AttributeError):
            raise ValueError(
                f"{self.environment} does not hold JSON by name; a run notes its format in it"
            ) from None
        if found in FORMATS and not isinstance(found, bool):
            return
        maker = f"version {about['chimera']}" if about.get("chimera") else "another version"
        commit = f" (commit {about['commit']})" if about.get("commit") else ""
        raise ValueError(
            f"run folder {str(self.path)!r} has format {found!r} and was made by {maker} of "
            f"Chimera{commit}; this is version {version()}, which reads formats "
            f"{' and '.join(map(str, FORMATS))}. Use the version that made it; its report.html and "
            "front.csv can be read as they are"
        )

    def sweep(self) -> None:
        """Removes what a process that was killed had begun to write: all such names start with
        a dot, or end in `.partial`."""
        trained = (self.checkpoints, self.profiles, self.alone, self.alone_by_rungs)
        for place in (self.path, self.state, *trained, self.architectures):
            for left in [*place.glob(".*"), *place.glob("*.partial")]:
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)

    def write_config(self, config: Mapping[str, Any]) -> None:
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write_text(self.config, text)

    def write_front(
        self,
        rows: Sequence[Row],
        best: Row | None,
        costs: Sequence[str] = (),
        measured: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """The front as a table; each of `costs` that is none of its own columns gets one more, in
        the unit of that cost (ms, bytes), and what was `measured` of it, by digest and cost, yet
        another."""
        more = [name for name in costs if name not in FRONT_COLUMNS]
        known = measured or {}
        timed = [name for name in more if any(name in found for found in known.values())]
        lines: list[list[Any]] = [[*FRONT_COLUMNS, *more, *(f"measured {name}" for name in timed)]]
        for row in rows:
            values = (row.name, row.digest, row.score, row.macs, row.params, row.resolution)
            others = [row.cost(name) for name in more]
            times = [known.get(row.digest, {}).get(name) for name in timed]
            lines.append([*values, row.top1, "yes" if row is best else "", *others, *times])
        write_text(self.front, csv_text(lines))


def version() -> str:
    """Of this project; `unknown` where it is not installed."""
    try:
        return importlib.metadata.version("chimera-nas")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def read_yaml(path: Path, what: str) -> Any:
    """ValueError where the file is missing or not YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{what} {str(path)!r} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{what} {str(path)!r} is not valid YAML: {reason}") from None


def write_text(path: Path, text: str) -> None:
    """Writes a file in one piece: whoever reads it sees the old content or the new."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """The same for bytes."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def front_of(rows: Sequence[Row], objectives: Sequence[str] = FRONT) -> list[Row]:
    """The rows that no other beats on the objectives, of which the score is to be large and costs
    are to be small; by the first cost, cheapest first, and equal ones by digest."""
    costs = [name for name in objectives if name != SCORE]
    scored = sorted(
        (row for row in rows if row.score is not None),
        key=lambda row: (row.cost(costs[0]), row.digest),
    )
    points = [(*map(row.cost, costs), -(row.score or 0.0)) for row in scored]
    return [scored[i] for i in sorted(front(points))]


def best_at_budget(rows: Sequence[Row], target: str, limit: float, band: float) -> Row | None:
    """The highest reward among those that use at least `band` of the limit on `target`."""
    inside = [row for row in rows if row.reward is not None and row.cost(target) >= band * limit]
    return max(inside, key=lambda row: (row.reward or 0.0, row.digest), default=None)


def environment(device: str) -> dict[str, Any]:
    """Versions, machine and commit: what a result depends on beside its settings."""
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "python": platform.python_version(),
        "versions": versions,
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "device": device,
        "commit": _commit(),
        "command": " ".join(sys.argv),
    }


def _commit() -> str | None:
    """The commit that the project's own files are at; None outside a checkout."""
    here = Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        git = ["git", "-C", str(here)]
        known = subprocess.run(
            [*git, "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
            timeout=10,
        )
        if known.returncode == 0:
            head = subprocess.run(
                [*git, "describe", "--always", "--dirty", "--abbrev=12"],
                capture_output=True,
                text=True,
                timeout=10,
            )
            return head.stdout.strip() or None
    return None
