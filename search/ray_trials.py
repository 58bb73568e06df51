"""Runs separate pieces of work as trials of Ray Tune: on the cores of this machine.

What a piece of work is, is the caller's: plain data goes out to a worker, plain data comes back.
Tune hands the pieces out to a few processes that stay (`reuse_actors`), tries again what a dead
process was at, and says when each is done.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from torch import Tensor

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
}


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
    if workers < 1 or threads < 1:
        raise ValueError(f"workers is {workers}, threads {threads}: at least 1 each")
    if not pieces:
        return
    name = make_work if isinstance(make_work, str) else import_name(make_work)
    packed = {key: pack(tensor) for key, tensor in shared.items()}
    owner = not ray.is_initialized()
    with environment(_SWITCHES), tempfile.TemporaryDirectory(prefix="chimera-") as place:
        if owner:
            start_ray(name, packed, workers, None)
        try:
            collector = _Collector(taken)
            trainable = tune.with_parameters(
                _Trial, name=name, settings=dict(settings), threads=threads, packed=packed
            )
            tuner = tune.Tuner(
                tune.with_resources(trainable, {"cpu": 1}),
                param_space={
                    "place": tune.grid_search(list(range(len(pieces)))),
                    "pieces": json.dumps([dict(piece) for piece in pieces]),
                },
                tune_config=tune.TuneConfig(reuse_actors=True),
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


class _Trial(tune.Trainable):
    """One piece of work, in one step. The process of a trial goes on with the next one, and then
    has its worker already."""

    def setup(
        self,
        config: dict[str, Any],
        name: str = "",
        settings: Mapping[str, Any] | None = None,
        threads: int = 1,
        packed: Mapping[str, Any] | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self._work: Work | None = None
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
            piece = json.loads(self.config["pieces"])[self.config["place"]]
            return {"outcome": json.dumps(self._work(piece)), "done": True}
        except Exception as error:
            return {"error": one_line(error), "done": True}


class _Stopper(tune.Stopper):
    """Ends all trials once there is no use in them."""

    def __init__(self) -> None:
        self.stopped = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.stopped


class _Collector(tune.Callback):
    """Takes results as they come. Tune takes an error in here for one of the trial, so it is kept
    and raised at the end."""

    def __init__(self, taken: Taken):
        self.stopper = _Stopper()
        self._taken, self._places = taken, set[int]()
        self._error: BaseException | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes down what it would need to begin again, which it never does here."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "broken" in result:
            self._stop(RuntimeError(f"a worker could not start: {result['broken']}"))
        elif "outcome" in result:
            self._take(trial, json.loads(result["outcome"]), None)
        elif "error" in result:
            self._take(trial, None, result["error"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._take(trial, None, f"the worker died {RETRIES + 1} times over it")

    def _take(self, trial: Any, outcome: Mapping[str, Any] | None, error: str | None) -> None:
        place = trial.config["place"]
        if place in self._places or self._error is not None:
            return
        self._places.add(place)
        try:
            self._taken(place, outcome, error)
        except BaseException as raised:
            self._stop(raised)

    def _stop(self, error: BaseException) -> None:
        self._error = self._error or error
        self.stopper.stopped = True

    def finish(self, count: int) -> None:
        """Raises what went wrong."""
        if self._error is not None:
            raise self._error
        if len(self._places) < count:
            raise RuntimeError(f"Ray Tune ended after {len(self._places)} of {count} trials")


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
