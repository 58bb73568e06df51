"""Where networks are exported to, and what is said of one that was."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from results.export import Exported, is_export
from results.formats import FILES
from space.budget import quantity

EXPORTS = Path("exports")


def check_place(folder: Path, *, replace: bool) -> None:
    """ValueError where something is in `folder` that must not be replaced: an exported network is
    only with `replace`, or where somebody at a terminal says so."""
    if not folder.exists() or (is_export(folder) and not any(folder.iterdir())):
        return
    if not is_export(folder):
        raise ValueError(f"{folder} exists and is not an exported network; choose another --out")
    if replace:
        return
    if sys.stdin.isatty() and sys.stderr.isatty():
        print(f"{folder} holds an exported network. Replace it? [y/N] ", end="", file=sys.stderr)
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
    raise ValueError(
        f"{folder} holds an exported network; give --replace to replace it, or another --out"
    )


def formats_of(options: argparse.Namespace) -> list[str]:
    """The formats that `--formats` names."""
    return [name for name in options.formats.split(",") if name]


def line_of(exported: Exported) -> str:
    costs = f"{exported.params:,} parameters, {quantity(exported.macs)} MACs"
    return f"{exported.folder}: {', '.join(exported.files)}; {costs}"


def differences_of(exported: Exported) -> list[str]:
    """How far each format is from the network, for a reader."""
    lines = ["model.py: the same logits as the network, to the last bit"]
    for name, difference in exported.differences.items():
        far = "not run here" if difference is None else f"logits differ by at most {difference:.1e}"
        lines.append(f"{FILES[name]}: {far}")
    return lines


def plain(exported: Exported) -> dict[str, Any]:
    return {
        "name": exported.name,
        "folder": str(exported.folder),
        "files": list(exported.files),
        "params": exported.params,
        "macs": exported.macs,
        "differences": dict(exported.differences),
    }
