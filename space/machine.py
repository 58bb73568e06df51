"""What this machine is called."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

NAMES = ("model name", "Hardware", "Model")  # of processors; of phones; of boards


def processor() -> str:
    """The processor's own name, where the system says it."""
    with contextlib.suppress(OSError):
        if name := named(Path("/proc/cpuinfo").read_text(encoding="utf-8")):
            return name
    return platform.processor() or platform.machine()


def named(text: str) -> str:
    """The name in what Linux says of its processors; empty where there is none."""
    said = [[side.strip() for side in line.split(":", 1)] for line in text.splitlines()]
    for name in NAMES:
        for words in said:
            if words[0] == name and words[-1] not in ("", name):
                return words[-1]
    return ""
