"""The controllers by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from search.evolution import RegularizedEvolution
from search.interfaces import Controller
from search.local_search import LocalSearch
from search.nsga2 import NSGA2
from search.ppo import PPO
from search.predictor import Predictor
from search.proposals import Proposals
from search.random_search import RandomSearch
from search.reinforce import Reinforce

CONTROLLERS: Mapping[str, Callable[..., Controller]] = {
    "predictor": Predictor,
    "evolution": RegularizedEvolution,
    "nsga2": NSGA2,
    "local-search": LocalSearch,
    "reinforce": Reinforce,
    "ppo": PPO,
    "random": RandomSearch,
}


def make_controller(name: str, proposals: Proposals, seed: int, **settings: Any) -> Controller:
    """The controller of a name. ValueError lists the names, or the settings of the controller, or
    says which value is wrong, or what the space reaches where nothing in it is at the budget."""
    if name not in CONTROLLERS:
        raise ValueError(f"unknown controller {name!r}; there are {', '.join(CONTROLLERS)}")
    controller = CONTROLLERS[name]
    parameters = inspect.signature(controller).parameters.values()
    known = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    for setting in settings:
        if setting not in known:
            raise ValueError(f"{name} has no setting {setting!r}; it has {', '.join(known)}")
    return controller(proposals, seed, **settings)
