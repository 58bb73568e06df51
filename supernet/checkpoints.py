"""Checkpoints: tensors as safetensors, the rest as JSON in the same file's header.

One file is one state, so that tensors and the rest cannot fall apart. A file is written under
another name, forced to the disk and then renamed: whoever looks finds the old one or the new,
whatever is killed when, and a disk that is full costs the newest only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

KEPT = 2  # checkpoints of a training
State = tuple[dict[str, Tensor], dict[str, Any]]


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Raises OSError or SafetensorError where it cannot be written; then nothing has changed."""
    partial = path.with_suffix(".partial")
    try:
        save_file(dict(tensors), partial, metadata={"training": json.dumps(header)})
        _to_disk(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    """Forces a file, or the names in a folder, out of the system's memory, where it can be."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # folders cannot be opened on Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_checkpoint(path: Path) -> State:
    """Tensors and header; ValueError where the file is broken or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["training"])
            return {key: file.get_tensor(key) for key in file.keys()}, header  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a checkpoint of a training: {error}") from None


class Checkpoints:
    """The last `keep` checkpoints of a training in `folder`, named by their step."""

    def __init__(self, folder: Path, keep: int = KEPT):
        self.folder, self._keep = folder, keep

    def paths(self) -> list[Path]:
        """From the oldest to the newest."""
        return sorted(self.folder.glob("step-*.safetensors"))

    def save(self, step: int, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
        """Writes one and removes those that are too many now, and those of later steps: the
        training would have begun there if they could be read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob("*.partial"):  # of a process that was killed
            left.unlink(missing_ok=True)
        path = self.folder / f"step-{step:09}.safetensors"
        write_checkpoint(path, tensors, header)
        until, after = [p for p in self.paths() if p <= path], [p for p in self.paths() if p > path]
        for old in until[: -self._keep] + after:
            old.unlink(missing_ok=True)

    def latest(self) -> State | None:
        """The newest that can be read; None where there is none at all. ValueError, about the
        newest, where all are broken."""
        reason: ValueError | None = None
        for path in reversed(self.paths()):
            try:
                return read_checkpoint(path)
            except ValueError as error:
                reason = reason or error
        if reason is not None:
            raise reason
        return None
