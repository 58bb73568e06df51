"""The controllers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from search.evolution import RegularizedEvolution
from search.interfaces import Controller
from search.proposals import Proposals
from search.random_search import RandomSearch
from search.reinforce import Reinforce

CONTROLLERS: Mapping[str, Callable[..., Controller]] = {
    "evolution": RegularizedEvolution,
    "reinforce": Reinforce,
    "random": RandomSearch,
}


def make_controller(name: str, proposals: Proposals, seed: int, **settings: Any) -> Controller:
    """The controller of a name; ValueError lists the names, or names a setting it lacks."""
    if name not in CONTROLLERS:
        raise ValueError(f"unknown controller {name!r}; there are {', '.join(CONTROLLERS)}")
    return CONTROLLERS[name](proposals, seed, **settings)
