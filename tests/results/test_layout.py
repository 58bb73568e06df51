"""Where comments stand, and that Ruff would have it so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from results.layout import LINE_LENGTH, Group, lines

RUFF = shutil.which("ruff") or shutil.which("ruff", path=str(Path(sys.executable).parent))


def stages(*names: str) -> list[str]:
    """A list with a list of these items in it, and comments on both."""
    return lines(Group("x = [", "]", [Group("[", "]", names, "# of one")], "# of all", packs=False))


SHORT = stages("first", "second")
NO_ROOM = stages("first", "s" * 80)
BROKEN = stages("first", "s" * 95)


def test_a_comment_stands_behind_what_it_is_about():
    assert SHORT == ["x = [  # of all", "    [first, second],  # of one", "]"]


def test_a_comment_without_room_stands_above():
    assert NO_ROOM[1:3] == ["    # of one", f"    [first, {'s' * 80}],"]


def test_a_comment_of_what_is_broken_stands_behind_its_opening():
    assert BROKEN[1] == "    [  # of one"


@pytest.mark.skipif(RUFF is None, reason="ruff is not installed")
@pytest.mark.parametrize("found", [SHORT, NO_ROOM, BROKEN], ids=["short", "no room", "broken"])
def test_ruff_formats_it_alike(found):
    source = "\n".join(found) + "\n"
    command = [RUFF, "format", "--isolated", "--line-length", str(LINE_LENGTH), "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=True)
    assert done.stdout == source
