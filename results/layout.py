"""Source code laid out as Ruff does it: calls, lists and comprehensions, broken as little as the
line length asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

LINE_LENGTH = 100


def words_of(name: str) -> list[str]:
    """The words of a class's name: `LayerNorm2d` as layer, norm2d."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)]


@dataclass(frozen=True, slots=True)
class Group:
    """Items between brackets. The comment stands behind them, above where there is no room for it,
    and behind the opening bracket where they are broken.

    Where they do not fit on the line, arguments may share a line of their own (`packs`); the
    items of a list or tuple get a line each.
    """

    opening: str
    closing: str
    items: Sequence[Node]
    comment: str = ""
    packs: bool = True


@dataclass(frozen=True, slots=True)
class Comprehension:
    """An element and its `for` clauses between brackets."""

    opening: str
    closing: str
    element: Node
    clauses: Sequence[Node]


Node = str | Group | Comprehension


def with_prefix(prefix: str, node: Node) -> Node:
    """The node with something in front of it, such as `name=`."""
    if isinstance(node, str):
        return prefix + node
    return replace(node, opening=prefix + node.opening)


def flat(node: Node) -> str | None:
    """The node, without its comment, on one line; None where a comment inside forbids it."""
    if isinstance(node, str):
        return node
    if isinstance(node, Comprehension):
        inside = _joined([node.element, *node.clauses], " ")
        return None if inside is None else node.opening + inside + node.closing
    inside = _joined(node.items)
    if inside is None:
        return None
    lone = not node.packs and node.closing == ")" and len(node.items) == 1  # (1,)
    return node.opening + inside + ("," if lone else "") + node.closing


def lines(node: Node, indent: int = 0, after: str = "") -> list[str]:
    """The node as lines from column `indent` on, with `after` behind it."""
    whole, margin = flat(node), " " * indent
    if isinstance(node, str):
        return [f"{margin}{node}{after}"]
    comment = f"  {node.comment}" if isinstance(node, Group) and node.comment else ""
    if whole is not None and indent + len(whole) + len(after) <= LINE_LENGTH:
        line = f"{margin}{whole}{after}"
        fits = len(line + comment) <= LINE_LENGTH
        return [line + comment] if fits else [margin + comment.strip(), line]
    if isinstance(node, Comprehension):
        inside = _inside([node.element, *node.clauses], " ", True, indent + 4)
    else:
        inside = _inside(node.items, ", ", node.packs, indent + 4)
    return [margin + node.opening + comment, *inside, f"{margin}{node.closing}{after}"]


def _inside(items: Sequence[Node], between: str, packs: bool, indent: int) -> list[str]:
    """What stands between brackets that are broken."""
    joined = _joined(items, between) if packs else None
    if joined is not None and indent + len(joined) <= LINE_LENGTH:
        return [" " * indent + joined]
    return [line for item in items for line in lines(item, indent, between.rstrip())]


def _joined(items: Iterable[Node], between: str = ", ") -> str | None:
    texts = [None if isinstance(i, Group) and i.comment else flat(i) for i in items]
    return None if None in texts else between.join(text for text in texts if text is not None)
