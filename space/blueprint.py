"""A module before it is built: its class, its arguments, what it costs and how it is cut.

A part of a network describes itself as a tree of blueprints. Each is made in one place from one
closed form, and a tree's cost and axes are those of its branches, so an operator that is put
together from known layers has nothing left to count.

A child that is given as the keyword `mixer` must be stored by the module as `self.mixer`, and a
tuple of children as a list of modules of that name: parameters are found by those names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from space.cost import Cost
from space.slicing import Axis

Axes = Mapping[str, Sequence[Axis | int]]


@dataclass(frozen=True, slots=True)
class Blueprint:
    """`module(*arguments, **keywords)`; arguments are numbers, strings, None, module classes,
    blueprints (built first) or tuples of these, so that an exporter can write them down.

    `cost` is that of one image at the place it was made for, children included; `axes` those of
    the parameters that are not cut in the default way (`space.slicing`).
    """

    module: type[nn.Module]
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = field(default=Cost(), repr=False)
    axes: Axes = field(default_factory=dict, repr=False)

    def build(self) -> nn.Module:
        """The module with fresh weights."""
        keywords = {name: _built(value) for name, value in self.keywords.items()}
        return self.module(*(_built(value) for value in self.arguments), **keywords)


def blueprint(
    module: type[nn.Module],
    *arguments: Any,
    cost: Cost = Cost(),  # noqa: B008  (frozen)
    axes: Axes | None = None,
    **keywords: Any,
) -> Blueprint:
    """A blueprint; `cost` and `axes` are those of the module's own parameters and products, to
    which the children's are added. A keyword that is None is left out: an optional child."""
    keywords = {name: value for name, value in keywords.items() if value is not None}
    whole = dict(axes or {})
    for name, child in _children(arguments, keywords):
        cost += child.cost
        whole |= {f"{name}.{parameter}": axis for parameter, axis in child.axes.items()}
    return Blueprint(module, arguments, keywords, cost, whole)


def _children(
    arguments: Sequence[Any], keywords: Mapping[str, Any]
) -> Iterator[tuple[str, Blueprint]]:
    for name, value in [*((str(i), a) for i, a in enumerate(arguments)), *keywords.items()]:
        if isinstance(value, Blueprint):
            yield name, value
        elif isinstance(value, tuple):
            yield from _children((), {f"{name}.{i}": item for i, item in enumerate(value)})


def _built(value: Any) -> Any:
    if isinstance(value, Blueprint):
        return value.build()
    return tuple(_built(item) for item in value) if isinstance(value, tuple) else value
