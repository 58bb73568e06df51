"""Optuna, both ways: its samplers as controllers, and our controllers as a sampler.

`optuna_controller("optuna:tpe", proposals, seed)` has a sampler of Optuna propose rows, for
comparisons on equal terms. `ChimeraSampler` has a controller of ours propose the parameters of
somebody's own study:

    study = optuna.create_study(sampler=ChimeraSampler("evolution", seed=1, population=20))
    study.optimize(objective, n_trials=100)

Optuna (Akiba et al., 2019, arXiv 1907.10902) is imported here and in `search.optuna_mirror` only,
and nothing else needs it.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.asking import Asking, Ranges
from search.controllers import OPTUNA, make_controller
from search.problem import Problem, Row, Trial, succeeded
from search.proposals import Proposals
from space.decisions import Codes, PlainDecisions, Variable

# CMA-ES is not among them: it has no categorical parameters. Nor are those that go through a list.
SAMPLERS: Mapping[str, type[BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "gp": optuna.samplers.GPSampler,
    "nsgaii": optuna.samplers.NSGAIISampler,
    "random": optuna.samplers.RandomSampler,
}
_OWN = ("seed", "constraints_func")  # that nobody else may set
_TRIES = 8  # at a row that is new, before known ones are mutated
_MANY = 1000  # choices of one parameter


# ---- their samplers as our controllers


def check_sampler(name: str) -> None:
    """ValueError, with what there is, where `optuna:NAME` names none of the samplers."""
    if name.removeprefix(OPTUNA) not in SAMPLERS:
        there = ", ".join(f"{OPTUNA}{sampler}" for sampler in SAMPLERS)
        raise ValueError(f"unknown controller {name!r}; of Optuna's there are {there}")


def optuna_controller(
    name: str, proposals: Proposals, seed: int, **settings: Any
) -> OptunaController:
    """The controller `optuna:NAME`. ValueError lists the names, or the settings of the sampler."""
    check_sampler(name)
    kind = name.removeprefix(OPTUNA)
    own = {key: settings.pop(key) for key in ("at_budget", "first") if key in settings}
    parameters = inspect.signature(SAMPLERS[kind].__init__).parameters
    known = [key for key in parameters if key not in ("self", *_OWN)]
    for setting in settings:
        if setting not in known:
            listed = ", ".join(["at_budget", "first", *known])
            raise ValueError(f"{name} has no setting {setting!r}; it has {listed}")
    if "warn_independent_sampling" in known:
        settings.setdefault("warn_independent_sampling", False)
    return OptunaController(proposals, seed, SAMPLERS[kind], settings, **own)


class OptunaController:
    """Rows as trials of a study, with one categorical parameter for each variable, suggested in the
    order in which they are decided and only where they matter.

    - What is outside the limits, or outside the range that is planned for it, is repaired by
      `Proposals.repair` before the sampler's trial holds it, so that it learns what was evaluated.
    - What is known is drawn again, `_TRIES` times, and then mutated: no row is asked for twice.
    - All objectives of the problem are the study's, those that are known beforehand too.
    - A sampler is made anew for each trial, from the seed and the number of the trial, and works
      from the trials so far. So the trials are all of the state. What GP keeps to be faster (the
      kernel of the last fit, where the next begins) is lost by that.
    """

    def __init__(
        self,
        proposals: Proposals,
        seed: int,
        sampler: type[BaseSampler],
        settings: Mapping[str, Any],
        *,
        at_budget: float = 0.5,
        first: Sequence[Sequence[int]] = (),
    ):
        self._proposals, self._problem = proposals, proposals.problem
        self._sampler, self._settings, self._seed = sampler, dict(settings), seed
        self._rng = np.random.default_rng(seed)
        self._asking = Asking(proposals, at_budget, first)
        self._variables = proposals.decisions.variables
        names = self._names = parameter_names(self._variables)
        self._distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(range(len(variable.choices)))
            for name, variable in zip(names, self._variables, strict=True)
        }
        self._made = 0  # samplers so far
        self._open: dict[Row, int] = {}  # trials that were asked for and not told
        self._pending: set[Hashable] = set()  # their keys
        self._begin()
        self._make()  # settings that are wrong are to be said at once

    def _begin(self) -> None:
        with quiet():
            self._storage = optuna.storages.InMemoryStorage()
            self._study = optuna.create_study(
                storage=self._storage,
                study_name="controller",
                directions=["maximize"] * self._problem.objectives,
                sampler=_Bridge(self._distributions, self._draw),
            )

    def _make(self) -> BaseSampler:
        seed = int(np.random.SeedSequence([self._seed, self._made]).generate_state(1)[0])
        with quiet():
            try:
                return self._sampler(seed=seed, **self._settings)  # type: ignore[call-arg]
            except TypeError as error:
                raise ValueError(f"{self._sampler.__name__}: {error}") from None

    def ask(self, count: int) -> list[Row]:
        return self._asking.ask(self._rng, count, self._propose)

    def _propose(self, ranges: Ranges) -> Codes:
        rows = np.empty((len(ranges), len(self._variables)), np.int64)
        for i, (low, high) in enumerate(ranges):
            self._range = float(low), float(high)
            with quiet():
                trial = self._study.ask()
                _ = trial.relative_params  # has it drawn, which Optuna 5 puts off
                row = self._drawn
                for name, distribution in self._params(row)[1].items():
                    assert isinstance(distribution, CategoricalDistribution)
                    trial.suggest_categorical(name, distribution.choices)
                if self._taken(row):  # nothing new is left nearby
                    self._study.tell(trial, state=TrialState.FAIL)
                else:
                    self._open[row] = trial.number
                    self._pending.add(self._problem.key(row))
            rows[i] = row
        return rows

    def _draw(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """The parameters of the next trial; the row that they are is `_drawn`."""
        sampler = self._make()
        self._made += 1
        sampler.before_trial(study, trial)
        before: Row | None = None
        row = self._inside(self._sample(sampler, study, trial))
        for _ in range(_TRIES):
            if not self._taken(row) or row == before:  # nor will it change its mind then
                break
            before, row = row, self._inside(self._sample(sampler, study, trial))
        for _ in range(_TRIES):
            if not self._taken(row):
                break
            row = self._inside(self._proposals.mutate(np.array([row]), self._rng)[0])
        self._drawn = row
        return self._params(row)[0]

    def _taken(self, row: Row) -> bool:
        return self._problem.key(row) in self._pending or self._asking.knows(row)

    def _inside(self, row: Codes) -> Row:
        low, high = self._range
        return _row(self._proposals.repair(row[None], self._rng, low, high)[0])

    def _sample(self, sampler: BaseSampler, study: optuna.Study, trial: FrozenTrial) -> Codes:
        space = sampler.infer_relative_search_space(study, trial)
        relative = sampler.sample_relative(study, trial, space)
        row = np.zeros(len(self._variables), np.int64)
        active: list[bool] = []
        for v, variable in enumerate(self._variables):
            active.append(all(active[p] and int(row[p]) in c for p, c in variable.conditions))
            name = self._names[v]
            if not active[v] or len(variable.choices) == 1:
                continue
            row[v] = (
                relative[name]
                if name in relative
                else sampler.sample_independent(study, trial, name, self._distributions[name])
            )
        return row

    def _params(self, row: Row) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        active = self._proposals.decisions.active(np.array([row], np.int64))[0]
        params = {self._names[v]: row[v] for v in np.flatnonzero(active)}
        return params, {name: self._distributions[name] for name in params}

    def tell(self, trials: Sequence[Trial]) -> None:
        self._asking.learn(trials)
        good = succeeded(trials)
        values = dict(zip(map(id, good), self._problem.gains(good).tolist(), strict=True))
        with quiet():
            for trial in sorted(trials, key=lambda trial: trial.row):
                found = values.get(id(trial))
                state = TrialState.FAIL if found is None else TrialState.COMPLETE
                number = self._open.pop(trial.row, None)
                self._pending.discard(self._problem.key(trial.row))
                if number is not None:
                    self._study.tell(number, found, state=state)
                else:
                    self._add(trial.row, state, found, {})

    def _add(
        self, row: Row, state: TrialState, values: list[float] | None, attributes: dict[str, Any]
    ) -> None:
        params, distributions = self._params(row)
        self._study.add_trial(
            create_trial(
                state=state,
                values=values,
                params=params,
                distributions=distributions,
                system_attrs=attributes,
            )
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "rng": self._rng.bit_generator.state,
            "asking": self._asking.state_dict(),
            "made": self._made,
            "trials": [
                [
                    self._row_of(trial.params),
                    trial.state.name,
                    trial.values,
                    dict(trial.system_attrs),
                ]
                for trial in self._study.get_trials(deepcopy=False)
            ],
            "open": [[list(row), number] for row, number in self._open.items()],
            "study": dict(self._storage.get_study_system_attrs(self._id)),
        }

    @property
    def _id(self) -> int:
        return self._storage.get_study_id_from_name("controller")

    def _row_of(self, params: Mapping[str, Any]) -> list[int]:
        return [int(params.get(name, 0)) for name in self._names]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._asking.load_state_dict(state["asking"])
        self._made = state["made"]
        self._open = {tuple(row): number for row, number in state["open"]}
        self._pending = set(map(self._problem.key, self._open))
        self._begin()
        with quiet():
            for row, name, values, attributes in state["trials"]:
                self._add(tuple(row), TrialState[name], values, attributes)
            for key, value in state["study"].items():
                self._storage.set_study_system_attr(self._id, key, value)


class _Bridge(BaseSampler):
    """Has the parameters of a trial drawn all at once, by `draw`."""

    def __init__(
        self,
        space: dict[str, BaseDistribution],
        draw: Callable[[optuna.Study, FrozenTrial], dict[str, Any]],
    ):
        self._space, self._draw = space, draw

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._draw(study, trial)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        raise AssertionError(f"{param_name} was not drawn")


def parameter_names(variables: Sequence[Variable]) -> list[str]:
    """The variables' names; with their places where two have the same."""
    names = [variable.name for variable in variables]
    if len(set(names)) < len(names):
        return [f"{i}: {name}" for i, name in enumerate(names)]
    return names


def _row(codes: Codes) -> Row:
    return tuple(map(int, codes))


@contextmanager
def quiet() -> Iterator[None]:
    """Without what Optuna says of each trial, and of what it may change one day."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


# ---- our controllers as their sampler


class ChimeraSampler(BaseSampler):
    """A controller of ours proposes categorical, integer and stepped parameters of a study.

    `controller` is a name of `search.controllers`, with its `settings`. The parameters are those of
    `search_space`, or without it those that all finished trials of the study have in common when
    the second trial begins; all others (floats without a step among them) are drawn at random.
    Parameters must not depend on one another. Values of pruned and failed trials are not learnt
    from. All that is learnt is in the study's trials: a new sampler goes on with an old study.

    No combination is proposed twice; once all of them were, parameters are drawn at random.
    """

    def __init__(
        self,
        controller: str = "evolution",
        *,
        seed: int | None = None,
        search_space: Mapping[str, BaseDistribution] | None = None,
        **settings: Any,
    ):
        self._name, self._settings = controller, settings
        self._seed = (
            int(np.random.SeedSequence(seed).generate_state(1)[0]) if seed is None else seed
        )
        self._random = optuna.samplers.RandomSampler(seed=self._seed)
        self._space: dict[str, BaseDistribution] | None = None
        self._lock = threading.RLock()
        self._told: set[int] = set()
        self._controller: Any = None
        if search_space is not None:
            if wrong := [name for name, one in search_space.items() if _choices(one) is None]:
                raise ValueError(
                    f"parameter {wrong[0]!r} must be categorical, or an integer or a float with a "
                    f"step, with at most {_MANY} values"
                )
            self._space = dict(search_space)
            self._make(1)  # what is wrong with the controller's name and settings is said at once

    def _make(self, objectives: int) -> None:
        assert self._space is not None
        self._values = {name: _choices(one) or () for name, one in self._space.items()}
        variables = tuple(Variable(name, values) for name, values in self._values.items())
        problem = Problem(PlainDecisions("study", variables), observed=objectives)
        self._objectives = objectives
        self._controller = make_controller(
            self._name, Proposals(problem), self._seed, **self._settings
        )

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        with self._lock:
            if self._space is None:
                common = optuna.search_space.intersection_search_space(
                    study.get_trials(deepcopy=False)
                )
                fit = {
                    name: one
                    for name, one in common.items()
                    if _choices(one) is not None and not one.single()
                }
                self._space = fit or None
            return dict(self._space or {})

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        with self._lock:
            if self._controller is None or self._objectives != len(study.directions):
                self._make(len(study.directions))
                self._told.clear()
            self._learn(study)
            rows = self._controller.ask(1)
        if not rows:
            return {}
        pairs = zip(self._values.items(), rows[0], strict=True)
        return {name: values[code] for (name, values), code in pairs}

    def _learn(self, study: optuna.Study) -> None:
        """Tells the controller of all trials that have ended since."""
        signs = [
            1.0 if direction == optuna.study.StudyDirection.MAXIMIZE else -1.0
            for direction in study.directions
        ]
        news = []
        for trial in study.get_trials(deepcopy=False):
            if not trial.state.is_finished() or trial.number in self._told:
                continue
            self._told.add(trial.number)
            if (row := self._encode(trial.params)) is None:
                continue
            good = trial.state == TrialState.COMPLETE
            values = (
                tuple(s * v for s, v in zip(signs, trial.values, strict=True)) if good else None
            )
            news.append(Trial(row, values))
        if news:
            self._controller.tell(news)

    def _encode(self, params: Mapping[str, Any]) -> Row | None:
        """None where a parameter is missing, or has a value that there is not any more."""
        row = []
        for name, values in self._values.items():
            code = next((i for i, v in enumerate(values) if _same(v, params.get(name))), None)
            if name not in params or code is None:
                return None
            row.append(code)
        return tuple(row)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        self._random.reseed_rng()


def _choices(distribution: BaseDistribution) -> tuple[Any, ...] | None:
    """All values; None where they cannot be listed."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    if isinstance(distribution, IntDistribution):
        values = range(distribution.low, distribution.high + 1, distribution.step)
        return tuple(values) if len(values) <= _MANY else None
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        count = round((distribution.high - distribution.low) / distribution.step) + 1
        if count > _MANY:
            return None
        return tuple(distribution.low + i * distribution.step for i in range(count))
    return None


def _same(one: Any, other: Any) -> bool:
    """`True` and 1 are two choices; a float comes back from a storage nearly as it was."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-9 * max(1.0, abs(one))
    return type(one) is type(other) and one == other
