"""Trees of blueprints as source: calls of the module classes that they name."""

from __future__ import annotations

import json
import keyword
import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from results.layout import LINE_LENGTH, Comprehension, Group, Node, lines, with_prefix
from results.trees import Column, Function, Run, Term, key, parameters_of
from space.blueprint import Blueprint

UNNAMED = 3  # so many arguments of a module are written without their names
DOCSTRING = 2  # lines of a function's docstring, at most, where there are words that few


def classes_in(tree: Any, path: str, place: str = "") -> Iterator[type]:
    """Every class that a blueprint names, torch's left out.

    RuntimeError for what cannot be written down; it names `path`, the part's, and the argument.
    """
    if isinstance(tree, Blueprint):
        yield from classes_in(tree.module, path, place)
        for item in tree.arguments:
            yield from classes_in(item, path, place)
        for name, item in tree.keywords.items():
            if not name.isidentifier() or keyword.iskeyword(name):
                raise RuntimeError(f"{path}: argument {name!r} is not a name")
            yield from classes_in(item, path, f"{place}.{name}" if place else name)
    elif type(tree) is tuple:
        for item in tree:
            yield from classes_in(item, path, place)
    elif isinstance(tree, type) and issubclass(tree, nn.Module):
        if not torch_name(tree):
            yield tree
    elif _literal(tree) is None:
        raise RuntimeError(
            f"{path}: {place or 'an argument'} is {tree!r}, but must be a finite number, a string, "
            "None, a module class, a blueprint or a tuple of these"
        )


def _literal(value: Any) -> str | None:
    """The source of a plain value; None for what has none."""
    if isinstance(value, Term):
        return value.text
    if value is None or type(value) in (bool, int):
        return str(value)
    if type(value) is float and math.isfinite(value):
        return repr(value)
    if type(value) is str and value.isprintable():
        return json.dumps(value, ensure_ascii=False)
    return None


def torch_name(cls: type) -> str:
    """`nn.GELU` for a class of torch.nn, nothing for others."""
    return f"nn.{cls.__name__}" if getattr(nn, cls.__name__, None) is cls else ""


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes trees down, whose leaves `classes_in` has seen; `name_of` says what a class of ours
    is called."""

    name_of: Callable[[type], str]

    def function(self, function: Function, abouts: Sequence[str] = ("",)) -> str:
        """Its source; the first of `abouts` that is short enough stands in front of what it says
        of itself, or else the last."""
        docstrings = [_docstring(f"{about} {function.says}".strip()) for about in abouts]
        said = next((found for found in docstrings if len(found) <= DOCSTRING), docstrings[-1])
        typed = [f"{name}: {_annotation(given)}" for name, given in function.parameters.items()]
        head = Group(f"def {function.name}(", ") -> nn.Module:", typed)
        body = with_prefix("return ", self.call(function.tree))
        return "\n".join([*lines(head), *said, *lines(body, 4)])

    def call(self, tree: Blueprint) -> Group:
        """The call that builds the module."""
        known = parameters_of(tree.module)
        bare = UNNAMED if known else len(tree.arguments)
        named = {
            parameter.name: value
            for parameter, value in zip(known[bare:], tree.arguments[bare:], strict=False)
            if key(value) != key(parameter.default)
        }
        items = [*map(self._item, tree.arguments[:bare])]
        for name, value in (named | dict(tree.keywords)).items():
            items.append(with_prefix(f"{name}=", self._node(value)))
        return Group(f"{self._name(tree.module)}(", ")", items)

    def _item(self, value: Any) -> Node:
        if isinstance(value, Run):
            return self._node(value.tree) if value.times == 1 else self._run(value, "*(")
        return self._node(value)

    def _run(self, run: Run, opening: str) -> Comprehension:
        times = f"for _ in range({_literal(run.times)})"
        return Comprehension(opening, ")", self._node(run.tree), [times])

    def _node(self, value: Any) -> Node:
        if isinstance(value, Blueprint):
            return self.call(value)
        if isinstance(value, tuple):
            if len(value) == 1 and isinstance(value[0], Run) and value[0].times != 1:
                return self._run(value[0], "tuple(")
            return Group("(", ")", [*map(self._item, value)], packs=False)
        return self._name(value) if isinstance(value, type) else str(_literal(value))

    def _name(self, module: Any) -> str:
        if isinstance(module, Function):
            return module.name
        return torch_name(module) or self.name_of(module)


def _annotation(column: Column | None) -> str:
    return "int" if column is None or all(type(value) is int for value in column) else "float"


def _docstring(text: str) -> list[str]:
    if not text:
        return []
    said = textwrap.wrap(f'"""{text}', LINE_LENGTH - 4, break_on_hyphens=False)
    ends = len(said[-1]) + 4 + 3 <= LINE_LENGTH
    said = [*said[:-1], f'{said[-1]}"""'] if ends else [*said, '"""']
    return [f"    {line}" for line in said]
