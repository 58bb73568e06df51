"""Where residual branches end: what stochastic depth has to know of a module.

A module that adds a branch to a shortcut says, beside its class, which of its submodules gives the
branch as it is added. That stands outside of the class, so that nothing of it is exported.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from space.layers import Residual

_ENDS: dict[type[nn.Module], str] = {}


def ends_with(module: type[nn.Module], submodule: str) -> None:
    """The output of `submodule` is what a `module`, or one derived from it, adds to its shortcut;
    a module may call it several times, each time for rows that belong to the same images."""
    _ENDS[module] = submodule


def branch_ends(module: nn.Module) -> Iterator[nn.Module]:
    """The last layers of all residual branches in `module`, in the order of `modules()`."""
    for inside in module.modules():
        for kind in type(inside).__mro__:
            if kind in _ENDS:
                yield inside.get_submodule(_ENDS[kind])
                break


ends_with(Residual, "scale")
