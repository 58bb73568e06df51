"""Blueprints laid over each other: what several have alike, and the numbers in which they differ.

A *tree* is a blueprint as it will be written: in it may also stand a `Term` (source in place of a
number), a `Run` (equal modules in a row) and a call of a `Function` in place of a module's.
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from space.blueprint import Blueprint

Number = int | float
Column = tuple[Number, ...]  # one number for each of several trees

# What an argument is called in a function, where its own name would say less. A layer does not
# know whether its channels are those of the block around it.
HIDDEN = "hidden"
_PLAIN = {
    "kernel_size": "kernel",
    "num_heads": "heads",
    **dict.fromkeys(("in_channels", "out_channels", "channels", "num_channels"), HIDDEN),
    **dict.fromkeys(("in_features", "out_features", "num_features", "normalized_shape"), HIDDEN),
}
_WIDTHS = ("in_channels", "channels")
_SIDES = ("side", "out_side", "height", "width", "rows", "columns")
# What never follows from a width, whatever the numbers are.
_FREE = ("depth", "kernel", "stride", "padding", "dilation")


@dataclass(frozen=True, slots=True)
class Term:
    """Source in place of a number."""

    text: str


@dataclass(frozen=True, slots=True)
class Run:
    """A module several times, each with weights of its own."""

    times: Any  # a number or a term
    tree: Any


@dataclass(eq=False, slots=True)
class Function:
    """A function that builds modules which differ in numbers.

    `tree` is what they have in common. Each of `ways` is a key of a tree that it builds, and
    `parameters` has the number that each way passes, or None for a name of the caller's own.
    """

    parameters: Mapping[str, Column | None]
    tree: Blueprint
    ways: Sequence[Any]
    name: str = ""
    says: str = ""  # its docstring

    @property
    def unnamed(self) -> list[str]:
        """The parameters that a call passes without their names."""
        given = self.parameters.items()
        return [name for name, column in given if column is None or name in _WIDTHS]

    def call(self, tree: Any) -> Blueprint:
        """The call that builds `tree`."""
        way = self.ways.index(key(tree))
        given = {
            name: Term(name) if column is None else column[way]
            for name, column in self.parameters.items()
        }
        bare = tuple(given.pop(name) for name in self.unnamed)
        return Blueprint(self, bare, given)  # type: ignore[arg-type]


def with_runs(tree: Any) -> Any:
    """The tree with equal modules in a row as one, but for two that are single layers. A module of
    several layers that stands alone is a run too, so that trees which differ in depth are alike."""
    tree = _rebuilt(tree, with_runs)
    if isinstance(tree, Blueprint) and not parameters_of(tree.module):
        return Blueprint(tree.module, tuple(_runs(tree.arguments)), tree.keywords)
    return tuple(_runs(tree)) if isinstance(tree, tuple) else tree


def _runs(items: Sequence[Any]) -> Iterator[Any]:
    for _, run in groupby(items, key=key):
        same = list(run)
        layers = [child for child in parts_of(same[0]) if isinstance(child, Blueprint | Run)]
        if isinstance(same[0], Blueprint) and (layers or len(same) > 2):
            yield Run(len(same), same[0])
        else:
            yield from same


def parts_of(tree: Any) -> Iterator[Any]:
    """What stands directly in a tree, tuples opened."""
    if isinstance(tree, Run):
        yield tree.tree
    elif isinstance(tree, Blueprint):
        for item in (*tree.arguments, *tree.keywords.values()):
            yield from item if isinstance(item, tuple) else (item,)


def _rebuilt(tree: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(tree, Blueprint):
        keywords = {name: change(item) for name, item in tree.keywords.items()}
        return Blueprint(tree.module, tuple(change(item) for item in tree.arguments), keywords)
    if isinstance(tree, Run):
        return Run(tree.times, change(tree.tree))
    return tuple(change(item) for item in tree) if isinstance(tree, tuple) else tree


def replaced(tree: Any, function: Function, shape: Any) -> Any:
    """The tree with calls of `function` in place of all of that skeleton below its top."""

    def change(item: Any) -> Any:
        item = _rebuilt(item, change)
        found = isinstance(item, Blueprint) and skeleton(item) == shape
        return function.call(item) if found else item

    return _rebuilt(tree, change)


def key(tree: Any) -> Any:
    """Equal for trees that are written alike: modules, arguments and keywords, whatever they
    cost. `repr` tells 1 from True."""
    return _walked(tree, _exact)


def skeleton(tree: Any) -> Any:
    """Equal for trees that differ in numbers only."""
    return _walked(tree, lambda leaf: "number" if type(leaf) in (int, float) else _exact(leaf))


def _exact(leaf: Any) -> Any:
    return leaf if isinstance(leaf, type) else (type(leaf), repr(leaf))


def _walked(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    if isinstance(tree, Blueprint):
        arguments = tuple(_walked(item, leaf) for item in tree.arguments)
        keywords = sorted(tree.keywords.items())
        return (
            tree.module,
            arguments,
            tuple((name, _walked(item, leaf)) for name, item in keywords),
        )
    if isinstance(tree, Run):
        return ("run", leaf(tree.times), _walked(tree.tree, leaf))
    if isinstance(tree, tuple):
        return ("tuple", *(_walked(item, leaf) for item in tree))
    return leaf(tree)


def parameters_of(module: Any) -> tuple[inspect.Parameter, ...]:
    """What a module takes by position; nothing where it takes any number of modules."""
    if isinstance(module, Function):
        return ()
    found = tuple(inspect.signature(module).parameters.values())
    if any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in found):
        return ()
    return tuple(one for one in found if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)


def names_of(module: Any) -> list[str]:
    """The names of what a module, or a function, takes by position."""
    if isinstance(module, Function):
        return module.unnamed
    return [parameter.name for parameter in parameters_of(module)]


# --- numbers that differ ------------------------------------------------------------------------


class Merge:
    """Lays trees of one skeleton over each other."""

    def merged(self, trees: Sequence[Any], label: str = "", place: str = "") -> Any:
        """What all have alike, with terms for the rest. `label` is the name of the argument and
        `place` of the nearest one around it."""
        first = trees[0]
        if isinstance(first, Blueprint):
            names = names_of(first.module)
            arguments = tuple(
                self.merged(column, names[i] if i < len(names) else "", label or place)
                for i, column in enumerate(zip(*(t.arguments for t in trees), strict=True))
            )
            keywords = {
                name: self.merged([tree.keywords[name] for tree in trees], name, label or place)
                for name in first.keywords
            }
            return Blueprint(first.module, arguments, keywords)
        if isinstance(first, Run):
            times = self.merged([tree.times for tree in trees], "depth", place)
            return Run(times, self.merged([tree.tree for tree in trees], label, place))
        if isinstance(first, tuple):
            columns = zip(*trees, strict=True)
            return tuple(self.merged(column, label, place) for column in columns)
        if len({repr(tree) for tree in trees}) == 1:
            return first
        return Term(self.term(tuple(trees), label, place))

    def term(self, column: Column, label: str, place: str) -> str:
        """Source for a number that differs."""
        raise NotImplementedError


class Multiples(Merge):
    """Every number that differs must be a multiple of `name`, which has the values `sizes`."""

    def __init__(self, name: str, sizes: Column, path: str):
        self.name, self.sizes, self.path = name, sizes, path

    def term(self, column: Column, label: str, place: str) -> str:
        found = _multiple(self.name, self.sizes, column)
        if found is None:
            raise RuntimeError(
                f"{self.path}: {label} follows {self.name} in a way that cannot be written: "
                f"{list(column)}"
            )
        return found


class Terms(Merge):
    """Numbers that differ become parameters, or follow from others.

    `given` are names for numbers of the place at which a part stands, used where one fits; without
    them the first width is called `channels`. `taken` are names that mean something else.
    """

    def __init__(self, given: Mapping[str, Column] | None, taken: Collection[str]):
        self.given, self.taken = given or {}, taken
        self.first_width = "channels" if given is None else HIDDEN
        self.used: set[str] = set()
        self.found: dict[str, Column] = {}

    def parameters(self) -> dict[str, Column]:
        """Name -> its number for each tree, widths first."""
        known = {**self.given, **self.found}
        rest = [name for name in known if name not in _WIDTHS]
        used = {*self.used, *self.found}
        return {name: known[name] for name in (*_WIDTHS, *rest) if name in used}

    def term(self, column: Column, label: str, place: str) -> str:
        name = _PLAIN.get(label, label)
        columns = {**self.given, **self.found}
        for follows in (_equal, _following):
            for known in columns:
                text = follows(column, name, columns[known], known)
                if text is not None:
                    self.used.add(known)
                    return text
        return self._new(column, name, place)

    def _new(self, column: Column, name: str, place: str) -> str:
        known = {**self.given, **self.found}
        if name == HIDDEN:
            name, self.first_width = self.first_width, HIDDEN
        if name in known and place.isidentifier():
            name = f"{place}_{name}"
        name = free(name if name.isidentifier() else "size", {*known, *self.taken})
        self.found[name] = column
        return name


def _equal(column: Column, name: str, other: Column, known: str) -> str | None:
    """The other's name where it is the same number, and not by chance: 2 heads and a stride of 2
    are two things."""
    alike = name == known or (_is_width(name) and _is_width(known))
    return known if column == other and (alike or {name, known} <= {*_SIDES}) else None


def _following(column: Column, name: str, other: Column, known: str) -> str | None:
    """The column from the other one."""
    if name == "padding" and known.endswith("kernel"):
        return f"{known} // 2" if column == tuple(k // 2 for k in other) else None
    if name in _FREE or not (_is_width(known) or known == "heads"):
        return None
    multiple = _multiple(known, other, column)
    return multiple or (_fraction(known, other, column) if known in _WIDTHS else None)


def _is_width(name: str) -> bool:
    return name in _WIDTHS or name.endswith(HIDDEN)


def free(name: str, taken: Collection[str]) -> str:
    """The name, or one like it that is not taken."""
    found, number = name, 2
    while found in taken or keyword.iskeyword(found):
        found, number = f"{name}_{number}", number + 1
    return found


def _multiple(name: str, sizes: Column, column: Column) -> str | None:
    """`4 * name` where that is the column."""
    if any(type(value) is not int for value in (*sizes, *column)):
        return None
    factor = int(column[0] // sizes[0])
    if [factor * size for size in sizes] != list(column):
        return None
    return name if factor == 1 else f"{factor} * {name}"


def _fraction(name: str, sizes: Column, column: Column) -> str | None:
    """`name // 32` where that is the column, without a rest."""
    if any(type(value) is not int or value < 1 for value in (*sizes, *column)):
        return None
    divisor = int(sizes[0] // column[0])
    if [divisor * value for value in column] != list(sizes):
        return None
    return f"{name} // {divisor}"
