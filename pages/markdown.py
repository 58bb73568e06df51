"""Pieces of Markdown that several tools look at: links, and blocks of code."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

# What a page says that is made from the code.
MADE_BY = (
    "This page is made from the code by `make reference`, and a test holds that it is up to date."
)
# `](target)`, not of an address with spaces.
LINK = re.compile(r"\]\((?P<link>[^)\s]+)\)")
BLOCK = re.compile(
    r"^(?P<fence>`{3,})(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=fence)$", re.M | re.S
)


def outside_blocks(change: Callable[[str], str], text: str) -> str:
    """The text with what stands outside of code blocks changed."""
    done, position = [], 0
    for match in BLOCK.finditer(text):
        done += [change(text[position : match.start()]), match[0]]
        position = match.end()
    return "".join([*done, change(text[position:])])


def fenced(text: str, language: str, change: Callable[[str], str]) -> str:
    """The text with each code block of a language replaced by what `change` makes of its body."""
    return BLOCK.sub(lambda m: change(m["body"]) if m["language"] == language else m[0], text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """A table; `sides` has "l" or "r" for each column."""
    rule = ["--:" if side == "r" else "---" for side in sides]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
