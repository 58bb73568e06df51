"""Published networks as genomes. Every module in this folder is imported: one file a system."""

from __future__ import annotations

from space.discovery import import_all
from space.presets.published import Preset, preset, presets

import_all(__name__, __path__)

__all__ = ["Preset", "preset", "presets"]
