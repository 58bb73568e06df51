"""The controllers by name."""

from __future__ import annotations

import importlib
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
from search.random_search import RANDOM, RandomSearch
from search.reinforce import Reinforce

CONTROLLERS: Mapping[str, Callable[..., Controller]] = {
    "predictor": Predictor,
    "evolution": RegularizedEvolution,
    "nsga2": NSGA2,
    "local-search": LocalSearch,
    "reinforce": Reinforce,
    "ppo": PPO,
    RANDOM: RandomSearch,
}


AUTO = "auto"
OPTUNA = "optuna:"  # before the name of one of Optuna's samplers
_MOST_GUIDED = 5000  # evaluations; see `choose`


def choose(evaluations: int, rows: int) -> str:
    """What `auto` stands for in a search of so many evaluations among so many `rows`.

    The predictor needs fewest evaluations on every table that was tried (docs/controllers.md), and
    what it costs, tens of milliseconds for a suggestion, is less than an evaluation does. It works
    from the best and the last of some hundreds of trials, so that longer searches gain little by
    it: beyond some thousands evolution goes on as well, at a tenth of the cost. Where all rows are
    going to be evaluated, their order does not matter.
    """
    if rows <= evaluations:
        return RANDOM
    return "predictor" if evaluations <= _MOST_GUIDED else "evolution"


def check_controller(name: str) -> None:
    """ValueError, with what there is, where there is no controller of this name."""
    if name.startswith(OPTUNA):
        _optuna(name)
    elif name not in CONTROLLERS and name != AUTO:
        known = ", ".join([AUTO, *CONTROLLERS, f"{OPTUNA}..."])
        raise ValueError(f"unknown controller {name!r}; there are {known}")


def make_controller(name: str, proposals: Proposals, seed: int, **settings: Any) -> Controller:
    """The controller of a name; `optuna:tpe` is a sampler of Optuna's. ValueError lists the names,
    or the settings of the controller, or says which value is wrong, or what the space reaches where
    nothing in it is at the budget. `auto` is what it stands for in a short search."""
    check_controller(name)
    name = "predictor" if name == AUTO else name
    if name.startswith(OPTUNA):
        made: Controller = _optuna(name)(name, proposals, seed, **settings)
        return made
    controller = CONTROLLERS[name]
    parameters = inspect.signature(controller).parameters.values()
    known = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    for setting in settings:
        if setting not in known:
            raise ValueError(f"{name} has no setting {setting!r}; it has {', '.join(known)}")
    return controller(proposals, seed, **settings)


def _optuna(name: str) -> Callable[..., Controller]:
    """What makes Optuna's; ValueError where Optuna is missing, or has no such sampler."""
    try:
        # Not imported at the top: it needs Optuna, which few have.
        optuna_adapter = importlib.import_module("search.optuna_adapter")
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise ValueError(
            f"{name} needs Optuna, which is not installed: pip install 'chimera-nas[optuna]'"
        ) from None
    optuna_adapter.check_sampler(name)
    maker: Callable[..., Controller] = optuna_adapter.optuna_controller
    return maker
