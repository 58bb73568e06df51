"""Our controllers as a search algorithm of Ray Tune.

    searcher = ChimeraSearcher(
        {"width": [16, 32, 64], "depth": [1, 2, 3]}, metric="accuracy", mode="max", seed=1
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=50, max_concurrent_trials=4),
    )

Without a space of its own it takes that of the tuner (`param_space` with `tune.choice` and
`tune.randint`); what is no choice there reaches every trial as it is.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher
from ray.tune.search.sample import Categorical, Integer, Uniform
from ray.tune.search.variant_generator import parse_spec_vars

from search.controllers import make_controller
from search.problem import Problem, Row, Trial
from search.proposals import Proposals
from search.state import pack, unpack
from space.decisions import PlainDecisions, Variable

_MANY = 1000  # values of one variable


class ChimeraSearcher(Searcher):
    """Proposes configurations from a space of choices and learns from what trials report last.

    `space` has for each name its choices; a dict in it is a space of its own. `controller` is a
    name of `search.controllers`, with its `settings`. With several `metric`s and as many `mode`s
    there are so many objectives. No configuration is proposed twice: once all were, the search
    ends. From a trial that failed, or whose metric is missing or no number, nothing is learnt.
    """

    def __init__(
        self,
        space: Mapping[str, Any] | None = None,
        *,
        metric: str | Sequence[str] | None = None,
        mode: str | Sequence[str] | None = None,
        controller: str = "evolution",
        seed: int = 0,
        **settings: Any,
    ):
        metrics, modes = _list(metric), _list(mode)
        if modes is not None and metrics is not None and len(modes) != len(metrics):
            raise ValueError(f"metric has {len(metrics)} names, but mode {len(modes)}")
        if wrong := [one for one in modes or () if one not in ("min", "max")]:
            raise ValueError(f"mode is {wrong[0]!r}, but must be 'min' or 'max'")
        # What the base class keeps is for one metric; ours is in `_metrics`.
        super().__init__(metric=metrics[0] if metrics else None, mode=modes[0] if modes else None)
        self._metrics, self._modes = metrics, modes
        self._name, self._seed, self._settings = controller, seed, settings
        self._controller: Any = None
        self._fixed: dict[tuple[str, ...], Any] = {}
        self._choices: dict[tuple[str, ...], tuple[Any, ...]] = {}
        self._under_way: dict[str, Row] = {}
        self._state: dict[str, Any] | None = None  # to take up once the controller is made
        if space is not None:
            self._choices = _flat(space)
            self._make()

    def _make(self) -> None:
        if not self._choices:
            raise ValueError("the space has no choices")
        variables = tuple(Variable("/".join(p), values) for p, values in self._choices.items())
        problem = Problem(PlainDecisions("tune", variables), observed=len(self._metrics or "1"))
        self._controller = make_controller(
            self._name, Proposals(problem), self._seed, **self._settings
        )
        if self._state is not None:
            self._controller.load_state_dict(self._state)
            self._state = None

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """What the tuner says; False where all of it is settled."""
        if metric is not None and self._metrics is None:
            self._metrics, self._metric = [metric], metric
        if mode is not None and self._modes is None:
            self._modes, self._mode = _list(mode), mode
        if not config:
            return False
        if self._choices:
            raise ValueError("the space stands in the searcher and in the tuner: give it once")
        _, domains, grids = parse_spec_vars(config)
        if grids:
            raise ValueError(f"{'/'.join(grids[0][0])} is a grid_search, which no searcher takes")
        self._choices = {path: _domain(path, domain) for path, domain in domains}
        self._fixed = _leaves(config, set(self._choices))
        self._make()
        return True

    def suggest(self, trial_id: str) -> Any:
        """A configuration; `Searcher.FINISHED` once there is nothing new left."""
        if self._controller is None:
            raise ValueError("the search has no space: give it to the searcher, or to the tuner")
        if self._metrics is None:
            raise ValueError("the search has no metric: give it to the searcher, or to the tuner")
        rows = self._controller.ask(1)
        if not rows:
            return Searcher.FINISHED
        self._under_way[trial_id] = rows[0]
        pairs = zip(self._choices.items(), rows[0], strict=True)
        values = {path: choices[code] for (path, choices), code in pairs}
        return _nested({**self._fixed, **values})

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        row = self._under_way.pop(trial_id, None)
        if row is not None:
            values = None if error or result is None else self._values(result)
            self._controller.tell([Trial(row, values)])

    def _values(self, result: Mapping[str, Any]) -> tuple[float, ...] | None:
        values = []
        for metric, mode in zip(self._metrics or (), self._all_modes(), strict=True):
            try:
                value = float(result[metric])
            except (KeyError, TypeError, ValueError):
                return None
            if not math.isfinite(value):
                return None
            values.append(value if mode == "max" else -value)
        return tuple(values)

    def _all_modes(self) -> list[str]:
        count = len(self._metrics or ())
        modes = self._modes or ["max"]
        return modes if len(modes) == count else modes * count

    def get_state(self) -> dict[str, Any]:
        return {
            "controller": self._controller and self._controller.state_dict(),
            "under_way": {trial: list(row) for trial, row in self._under_way.items()},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Of a searcher that was made with the same arguments."""
        self._under_way = {trial: tuple(row) for trial, row in state["under_way"].items()}
        if self._controller is not None and state["controller"]:
            self._controller.load_state_dict(state["controller"])
        else:
            self._state = state["controller"] or None

    def save(self, checkpoint_path: str) -> None:
        """Without pickle (`search.state`), in one piece."""
        path = Path(checkpoint_path)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
            partial.write(pack(self.get_state()))
        try:
            os.replace(partial.name, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial.name)

    def restore(self, checkpoint_path: str) -> None:
        self.set_state(unpack(Path(checkpoint_path).read_bytes()))


def _list(value: str | Sequence[str] | None) -> list[str] | None:
    return None if value is None else [value] if isinstance(value, str) else list(value)


def _flat(space: Mapping[str, Any], before: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """The choices by path."""
    found: dict[tuple[str, ...], tuple[Any, ...]] = {}
    for name, choices in space.items():
        path = (*before, name)
        if isinstance(choices, Mapping):
            found |= _flat(choices, path)
        elif isinstance(choices, Categorical | Integer):
            found[path] = _domain(path, choices)
        elif isinstance(choices, list | tuple | range) and len(choices):
            found[path] = tuple(choices)
        else:
            raise ValueError(f"{'/'.join(path)} is {choices!r}, but must be a list of choices")
    return found


def _domain(path: tuple[str, ...], domain: Any) -> tuple[Any, ...]:
    if isinstance(domain, Categorical):
        return tuple(domain.categories)
    plain = isinstance(domain, Integer) and isinstance(domain.get_sampler(), Uniform)
    if plain and domain.upper - domain.lower <= _MANY:
        return tuple(range(domain.lower, domain.upper))
    raise ValueError(
        f"{'/'.join(path)} is {type(domain).__name__}, but must be tune.choice, or tune.randint "
        f"of at most {_MANY} values"
    )


def _leaves(
    config: Mapping[str, Any], without: set[tuple[str, ...]], before: tuple[str, ...] = ()
) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for name, value in config.items():
        path = (*before, name)
        if path in without:
            continue
        if isinstance(value, Mapping) and any(one[: len(path)] == path for one in without):
            found |= _leaves(value, without, path)
        else:
            found[path] = value
    return found


def _nested(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, value in flat.items():
        inner = found
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = value
    return found
