"""Runs separate pieces of work as trials of Ray Tune: on the cores of this machine.

What a piece of work is, is the caller's: plain data goes out to a worker, plain data comes back.
Tune hands the pieces out to a few processes that stay (`reuse_actors`), tries again what a dead
process was at, and says when each is done. `run_trials` has each piece done to its end, `run_asha`
stops the worst trainings at each rung (`search.halving`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from torch import Tensor

from search.halving import Ladder, RungWork, take
from search.ray_common import RETRIES, environment, import_name, imported, pack, start_ray, unpack
from search.workers import one_line

Work = Callable[[Mapping[str, Any]], Mapping[str, Any]]
# Of one piece of work: its place, what came of it, or else what went wrong.
Taken = Callable[[int, Mapping[str, Any] | None, str | None], None]

_SWITCHES = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # an interrupt is ours, and ends all at once
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no tables of results in files
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean in a worker what they mean here
    "RAY_AIR_NEW_OUTPUT": "0",  # the newer output cannot be silenced wholly
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # between rungs there is nothing to judge
}
# What Tune's ASHA looks at in a result.
_STEP, _VALUE = "step", "value"
_SAY_SECONDS = 2.0


def run_trials(
    make_work: Callable[..., Work] | str,
    settings: Mapping[str, Any],
    shared: Mapping[str, Tensor | np.ndarray],
    pieces: Sequence[Mapping[str, Any]],
    *,
    workers: int,
    threads: int = 1,
    taken: Taken,
) -> None:
    """Has the pieces of work done, at most `workers` at a time, in a Ray that is started here.

    `make_work` is a function at the top of a module, or its name, `"module:function"`. A worker
    imports it, calls `make_work(**settings, tensors=tensors)` once, and what that gives with each
    piece of its own. Settings, pieces and results are JSON; the `shared` tensors go through Ray's
    object store, and nobody may write to them. `threads` are those of PyTorch in each worker.

    `taken` is called here for each piece as soon as it is done, in any order: with its result, or
    with None and the error where it raised one, or where its worker died `RETRIES` times more. What
    `taken` raises ends everything and is raised here. RuntimeError where a worker cannot start.
    """
    collector = _Collector(taken)
    _run(
        _Trial,
        make_work,
        settings,
        shared,
        dict(enumerate(pieces)),
        collector,
        workers=workers,
        threads=threads,
    )


def run_asha(
    make_work: Callable[..., RungWork] | str,
    settings: Mapping[str, Any],
    shared: Mapping[str, Tensor | np.ndarray],
    pieces: Sequence[Mapping[str, Any]],
    ladder: Ladder,
    *,
    workers: int,
    threads: int = 1,
    gpus: float = 0.0,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Trains the pieces on `workers` processes, from where the ladder says that they are; Tune's
    ASHA judges each as it comes to a rung, and everything is noted on the ladder as it happens.

    `make_work` and the rest are as for `run_trials`, but the work goes by rungs, and what a worker
    has begun another one must be able to go on with. `gpus` are those of each worker. `progress` is
    called when something was noted. What it raises, or the ladder, ends everything. RuntimeError
    where a worker cannot start.
    """
    for rung in ladder.halving.rungs[:-1]:  # where one process was stopped before it had judged
        ladder.judge(rung)
    scheduler = _Asha(ladder)
    _run(
        _Climbing,
        make_work,
        settings,
        shared,
        {
            place: {**piece, "rungs": ladder.wanted(place)}
            for place, piece in enumerate(pieces)
            if ladder.wanted(place)
        },
        _Climbers(ladder, scheduler, progress),
        scheduler=scheduler,
        workers=workers,
        threads=threads,
        gpus=gpus,
    )


def _run(
    trainable: type[_Worker],
    make_work: Callable[..., Any] | str,
    settings: Mapping[str, Any],
    shared: Mapping[str, Tensor | np.ndarray],
    pieces: Mapping[int, Mapping[str, Any]],
    collector: _Results,
    *,
    workers: int,
    threads: int,
    gpus: float = 0.0,
    scheduler: TrialScheduler | None = None,
) -> None:
    """Has Tune do the pieces, which are known by their places."""
    if workers < 1 or threads < 1:
        raise ValueError(f"workers is {workers}, threads {threads}: at least 1 each")
    if not pieces:
        return
    name = make_work if isinstance(make_work, str) else import_name(make_work)
    packed = {key: pack(tensor) for key, tensor in shared.items()}
    owner = not ray.is_initialized()
    with environment(_SWITCHES), tempfile.TemporaryDirectory(prefix="chimera-") as place:
        if owner:
            start_ray(name, packed, min(workers, len(pieces)), None)
        try:
            made = tune.with_parameters(
                trainable, name=name, settings=dict(settings), threads=threads, packed=packed
            )
            tuner = tune.Tuner(
                tune.with_resources(made, {"cpu": 1, "gpu": gpus}),
                param_space={
                    "place": tune.grid_search(list(pieces)),
                    "pieces": json.dumps({str(key): dict(piece) for key, piece in pieces.items()}),
                },
                tune_config=tune.TuneConfig(reuse_actors=True, scheduler=scheduler),
                run_config=tune.RunConfig(
                    name="trials",
                    storage_path=place,
                    verbose=0,
                    callbacks=[collector],
                    stop=collector.stopper,
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                    # By default Tune saves a trial at its end, which ours cannot and need not.
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            with _quiet():
                tuner.fit()
        finally:
            if owner:
                ray.shutdown()
    collector.finish(len(pieces))


# ---- in a worker


class _Worker(tune.Trainable):
    """Does one piece of work after the other: the process of a trial goes on with the next one, and
    then has what it works with already."""

    def setup(
        self,
        config: dict[str, Any],
        name: str = "",
        settings: Mapping[str, Any] | None = None,
        threads: int = 1,
        packed: Mapping[str, Any] | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self._work: Any = None
        self._broken: str | None = None
        tensors = {key: unpack(*parts) for key, parts in (packed or {}).items()}
        try:
            self._work = imported(name)(**(settings or {}), tensors=tensors)
        except Exception as error:
            self._broken = one_line(error)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        """Whatever is raised is a result: Tune would print and repeat it."""
        if self._work is None:
            return {"broken": self._broken, "done": True}
        try:
            return self.go_on()
        except Exception as error:
            return {"error": one_line(error), "done": True}

    @property
    def piece(self) -> dict[str, Any]:
        piece: dict[str, Any] = json.loads(self.config["pieces"])[str(self.config["place"])]
        return piece

    def go_on(self) -> dict[str, Any]:
        """Works on the piece until there is a result."""
        raise NotImplementedError


class _Trial(_Worker):
    """One piece of work, in one step."""

    def go_on(self) -> dict[str, Any]:
        return {"outcome": json.dumps(self._work(self.piece)), "done": True}


class _Climbing(_Worker):
    """One training, from rung to rung; it says where it is every `_SAY_SECONDS`."""

    _reports: Generator[Mapping[str, Any], None, None] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        return True

    def cleanup(self) -> None:
        if self._reports is not None:
            self._reports.close()
            self._reports = None

    def go_on(self) -> dict[str, Any]:
        if self._reports is None:
            self._reports = self._work(self.piece)
        begun = time.monotonic()
        report: Mapping[str, Any] = {}
        for report in self._reports:
            if "value" in report:
                judged = {_STEP: report["step"], _VALUE: report["value"]}
                return {"report": json.dumps(report), **judged}
            if "problem" in report:
                break
            if time.monotonic() - begun > _SAY_SECONDS:
                return {"report": json.dumps(report)}
        return {"report": json.dumps(report), "done": True}


# ---- here


class _Asha(AsyncHyperBandScheduler):
    """Tune's ASHA on what the ladder knows. It keeps trainings by their places, as each may be
    several trials of Tune, and is made anew from the ladder where a command goes on."""

    def __init__(self, ladder: Ladder):
        halving = ladder.halving
        super().__init__(
            time_attr=_STEP,
            metric=_VALUE,
            mode="max",
            max_t=halving.steps,
            grace_period=halving.grace,
            reduction_factor=halving.reduction,
        )
        self.goes_on: dict[int, bool] = {}
        self._judged: set[tuple[int, int]] = set()
        for place, reached in enumerate(ladder.reached):
            super().on_trial_add(_NOBODY, _named(place))
            for found in reached:
                self._judged.add((place, found.step))
                result = {_STEP: found.step, _VALUE: found.value}
                super().on_trial_result(_NOBODY, _named(place), result)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: see `_Results`."""
        return {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """All are known from the beginning."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        place, step = trial.config["place"], result.get(_STEP)
        if step is None or (place, step) in self._judged:
            return str(self.CONTINUE)
        self._judged.add((place, step))
        action = super().on_trial_result(tune_controller, _named(place), result)
        self.goes_on[place] = action != self.STOP
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Any) -> None:
        """Its last result was judged when it came."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        pass


def _named(place: int) -> Any:
    """What ASHA looks at of a trial."""
    return SimpleNamespace(trial_id=str(place))


_NOBODY: Any = None  # the controller, at which ASHA doesn't look


class _Stopper(tune.Stopper):
    """Ends all trials once there is no use in them."""

    def __init__(self) -> None:
        self.stopped = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.stopped


class _Results(tune.Callback):
    """Takes results as they come. Tune takes an error in here for one of the trial, so it is kept
    and raised at the end."""

    def __init__(self) -> None:
        self.stopper = _Stopper()
        self._over = set[int]()
        self._error: BaseException | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes down what it would need to begin again, which it never does here."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "broken" in result:
            self._stop(RuntimeError(f"a worker could not start: {result['broken']}"))
        else:
            self._take(trial, result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._take(trial, {"error": f"the worker died {RETRIES + 1} times over it", "done": True})

    def _take(self, trial: Any, result: Mapping[str, Any]) -> None:
        place = trial.config["place"]
        if place in self._over or self._error is not None:
            return
        if result.get("done"):
            self._over.add(place)
        try:
            self.take(place, result)
        except BaseException as raised:
            self._stop(raised)

    def take(self, place: int, result: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _stop(self, error: BaseException) -> None:
        self._error = self._error or error
        self.stopper.stopped = True

    def finish(self, count: int) -> None:
        """Raises what went wrong."""
        if self._error is not None:
            raise self._error
        if len(self._over) < count:
            raise RuntimeError(f"Ray Tune ended after {len(self._over)} of {count} trials")


class _Collector(_Results):
    """Hands on what came of each piece."""

    def __init__(self, taken: Taken):
        super().__init__()
        self._taken = taken

    def take(self, place: int, result: Mapping[str, Any]) -> None:
        if "outcome" in result:
            self._taken(place, json.loads(result["outcome"]), None)
        else:
            self._taken(place, None, result["error"])


class _Climbers(_Results):
    """Notes on the ladder what each training says, and how Tune has judged it."""

    def __init__(self, ladder: Ladder, scheduler: _Asha, progress: Callable[[], None]):
        super().__init__()
        self._ladder, self._scheduler, self._progress = ladder, scheduler, progress

    def take(self, place: int, result: Mapping[str, Any]) -> None:
        if "error" in result:
            self._ladder.fail(place, result["error"], passing=True)
        else:
            report = json.loads(result["report"])
            take(report, place, self._ladder, self._scheduler.goes_on.get(place))
        self._progress()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what Tune logs of its own doings."""
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
