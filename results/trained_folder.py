"""Where a training of whole networks keeps what. Nothing in it is ever half-written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from results.run_folder import read_yaml, write_text

FORMAT = 1


class TrainedFolder:
    """The files of one training, of a network or of finalists, under `path`."""

    def __init__(self, path: Path):
        self.path = path
        self.settings = path / "training.yaml"
        self.environment = path / "environment.json"
        self.result = path / "result.json"
        self.network = path / "network"  # as it is exported, with its weights
        self.networks = path / "networks"  # of finalists, those that came to the end
        self.state = path / "state"
        self.checkpoints = self.state / "checkpoints"
        self.rungs = self.state / "rungs"  # a folder of checkpoints for each finalist
        self.finalists = path / "finalists.json"
        self.finalists_table = path / "finalists.csv"

    def known(self) -> dict[str, Any] | None:
        """What is trained in the folder, and how; None where there is no folder yet. ValueError
        where it is something else."""
        if not self.path.exists():
            return None
        if not self.settings.is_file():
            raise ValueError(
                f"{str(self.path)!r} is there, but is no training: it has no training.yaml; choose "
                "another --out"
            )
        found = read_yaml(self.settings, "training")
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"{str(self.settings)!r} is not what a training has written")
        return found

    def check_same(self, settings: Mapping[str, Any]) -> None:
        """ValueError where another training than one of `settings` is in the folder. Settings that
        are not given are not compared."""
        known = self.known()
        if known is None:
            return
        for name, value, kept in _differences(json.loads(json.dumps(settings)), known):
            raise ValueError(
                f"{name} is {_said(value)}, but the training in {str(self.path)!r} has "
                f"{_said(kept)}; give what it began with, or choose another --out"
            )

    def create(self, settings: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Makes the folder."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        made = TrainedFolder(self.path.with_name(f".{self.path.name}.new-{os.getpid()}"))
        made.state.mkdir(parents=True)
        plain = json.loads(json.dumps({"format": FORMAT, **settings}))
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
        write_text(made.settings, text)
        write_text(made.environment, json.dumps(environment, indent=2) + "\n")
        os.replace(made.path, self.path)

    def read_result(self) -> dict[str, Any] | None:
        """What came of it, where it is over."""
        if not self.result.is_file():
            return None
        found: dict[str, Any] = json.loads(self.result.read_text(encoding="utf-8"))
        return found


def _differences(given: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[tuple]:
    """Name, value and known value of each setting in which the two differ."""
    for name, value in given.items():
        kept = known.get(name)
        if isinstance(value, dict) and isinstance(kept, dict):
            yield from _differences(value, kept)
        elif value != kept:
            yield name, value, kept


def _said(value: Any) -> str:
    return "none" if value is None else repr(value)
