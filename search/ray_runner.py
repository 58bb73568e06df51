"""Runs evaluations on Ray: on the cores of this machine, or on a cluster.

A worker is a Ray actor that holds an evaluator. Ray itself restarts a worker that dies and runs
its candidate again; this file only hands out candidates one by one, and knows no other engine.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError
from torch import Tensor

from evaluator.interfaces import Evaluator
from search.interfaces import Outcome
from search.runner import one_line, timed
from space.genome import Genome

RETRIES = 3  # further attempts at a candidate whose worker died
START_SECONDS = 600.0  # for the first worker to have its evaluator
_PACKAGES = ("space", "evaluator", "supernet", "search", "results")
_STORE_BYTES = 200_000_000  # Ray's object store, beside the shared tensors


class RayRunner:
    """`workers` processes, each with an evaluator of its own.

    `make_evaluator` is a function at the top of a module, or its name, `"module:function"`. Each
    worker imports it and calls `make_evaluator(**settings, tensors=tensors)`; nothing but names,
    plain settings and arrays is sent. The `shared` tensors go through Ray's object store once, and
    the workers of a machine see the same memory: they must not write to it.

    Without an `address` a Ray of our own is started here, for this runner alone. With one, our
    packages are sent to that cluster. Each worker has `threads` threads for PyTorch, one core of
    this machine (`threads` of a cluster) and `gpus` GPUs.

    ValueError where there is no cluster at `address`; RuntimeError where no worker comes up, with
    what went wrong in it.
    """

    def __init__(
        self,
        make_evaluator: Callable[..., Evaluator] | str,
        settings: Mapping[str, Any],
        shared: Mapping[str, Tensor | np.ndarray],
        *,
        workers: int,
        threads: int = 1,
        gpus: float = 0.0,
        address: str | None = None,
    ):
        if workers < 1 or threads < 1:
            raise ValueError(f"workers is {workers}, threads {threads}: at least 1 each")
        name = make_evaluator if isinstance(make_evaluator, str) else import_name(make_evaluator)
        packed = {key: _pack(tensor) for key, tensor in shared.items()}
        self._owner = not ray.is_initialized()
        if self._owner:
            _start_ray(name, packed, workers, address)
        try:
            # The list keeps Ray from fetching the tensors for each call: a worker does so once.
            self._tensors = [ray.put(packed)]
            worker: Any = ray.remote(_Worker).options(
                num_cpus=1 if address is None else threads,
                num_gpus=gpus,
                max_restarts=-1,
                max_task_retries=RETRIES,
            )
            self._actors = [worker.remote(name, dict(settings), threads) for _ in range(workers)]
            self._starting = {actor.ready.remote(self._tensors): actor for actor in self._actors}
            self._free: list[Any] = []
            self._welcome(START_SECONDS)
        except BaseException:
            self.close()
            raise

    def _welcome(self, seconds: float) -> None:
        """Waits for the first worker."""
        done, _ = ray.wait(list(self._starting), timeout=seconds)
        if not done:
            raise RuntimeError(
                f"no worker came up within {seconds:g} s; Ray has {ray.available_resources()}"
            )
        self._started(done)

    def _started(self, done: Sequence[Any]) -> None:
        for reference in done:
            actor = self._starting.pop(reference)
            try:
                problem = ray.get(reference)
            except RayError as error:
                problem = _reason(error)
            if problem is not None:
                raise RuntimeError(f"a worker could not start: {problem}")
            self._free.append(actor)

    def run(self, genomes: Sequence[Genome]) -> list[Outcome]:
        """Hands out the candidates one by one to whoever is free. A worker that dies over the
        same candidate each time gives that candidate an error."""
        outcomes: dict[int, Outcome] = {}
        waiting = deque(range(len(genomes)))
        busy: dict[Any, tuple[Any, int]] = {}
        try:
            while len(outcomes) < len(genomes):
                while waiting and self._free:
                    actor, i = self._free.pop(), waiting.popleft()
                    genome = genomes[
                        i
                    ].to_json()  # names, which a worker looks up once it knows all parts
                    busy[actor.evaluate.remote(genome, self._tensors)] = actor, i
                if not busy and not self._starting:
                    raise RuntimeError("all workers are gone")
                done, _ = ray.wait([*busy, *self._starting])
                self._started([reference for reference in done if reference in self._starting])
                for reference in done:
                    if reference not in busy:
                        continue
                    actor, i = busy.pop(reference)
                    outcome, alive = _outcome(reference)
                    if alive:
                        self._free.append(actor)
                    if outcome is None:
                        waiting.appendleft(i)
                    else:
                        outcomes[i] = outcome
        finally:  # after an interrupt a busy worker finishes first what it was at
            self._free += [actor for actor, _ in busy.values()]
        return [outcomes[i] for i in range(len(genomes))]

    def close(self) -> None:
        """Ends the workers, and Ray where this runner started it."""
        if not ray.is_initialized():
            return
        for actor in getattr(self, "_actors", []):
            ray.kill(actor)
        self._actors = []
        if self._owner:
            ray.shutdown()


class _Worker:
    """Lives in a process of its own. The evaluator is made on first use and not in `__init__`,
    whose failures Ray reports at length by itself."""

    def __init__(self, name: str, settings: dict[str, Any], threads: int):
        torch.set_num_threads(threads)
        self._name, self._settings = name, settings
        self._evaluator: Evaluator | None = None

    def ready(self, tensors: list[Any]) -> str | None:
        """Makes the evaluator; what went wrong, if something did."""
        try:
            self._made(tensors)
        except Exception as error:
            return one_line(error)
        return None

    def evaluate(self, genome: dict[str, Any], tensors: list[Any]) -> Outcome:
        evaluator = self._made(tensors)
        return timed(evaluator, Genome.from_json(genome))

    def _made(self, tensors: list[Any]) -> Evaluator:
        if self._evaluator is None:
            packed = ray.get(tensors[0])
            unpacked = {key: _unpack(*parts) for key, parts in packed.items()}
            self._evaluator = _import(self._name)(**self._settings, tensors=unpacked)
        return self._evaluator


def _outcome(reference: Any) -> tuple[Outcome | None, bool]:
    """What became of a candidate, None where it must be tried elsewhere; and whether its worker
    can still work."""
    try:
        return ray.get(reference), True
    except RayTaskError as error:  # what an evaluation raises is an outcome, so it is not that
        raise RuntimeError(f"a worker could not start again: {_reason(error)}") from None
    except ActorDiedError:  # for good
        return None, False
    except RayActorError:
        text = f"the worker died {RETRIES + 1} times while it scored this network"
        return Outcome(None, 0.0, text), True


def _reason(error: Exception) -> str:
    """The last line that says something: Ray's errors quote a whole traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def import_name(function: Callable[..., Any]) -> str:
    """`"module:function"`; ValueError where the function cannot be imported by that name."""
    name = f"{function.__module__}:{function.__qualname__}"
    if function.__module__ == "__main__" or not hasattr(
        importlib.import_module(function.__module__), function.__qualname__
    ):
        raise ValueError(f"{name} must be a function at the top of a module that can be imported")
    return name


def _import(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _start_ray(name: str, packed: Mapping[str, Any], workers: int, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    # Otherwise some versions of Ray hide the GPUs from actors that asked for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is not None:
        try:
            ray.init(address=address, runtime_env={"py_modules": _modules(name)}, **quiet)
        except ConnectionError as error:
            raise ValueError(f"no Ray cluster at {address!r}: {_reason(error)}") from None
        except SystemExit:  # how Ray ends where the address is that of something else
            raise ValueError(f"no Ray cluster at {address!r}") from None
        return
    size = sum(array.nbytes for array, *_ in packed.values())
    with _import_path():
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=_STORE_BYTES + int(1.2 * size),
            **quiet,
        )


@contextlib.contextmanager
def _import_path() -> Iterator[None]:
    """Processes that are started here import what this one does."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _modules(name: str) -> list[str]:
    """Folders of our packages, and of the one that makes evaluators: what a cluster needs."""
    paths = []
    for package in dict.fromkeys((*_PACKAGES, name.partition(":")[0].partition(".")[0])):
        module = importlib.import_module(package)
        if hasattr(module, "__path__"):
            paths.append(str(Path(next(iter(module.__path__))).resolve()))
        elif module.__file__ is not None:
            paths.append(str(Path(module.__file__).resolve()))
    return paths


def _pack(tensor: Tensor | np.ndarray) -> tuple[np.ndarray, torch.dtype, tuple[int, ...]]:
    """The bytes of a tensor as a flat array, which Ray shares without a copy. (Numpy has no
    bfloat16.)"""
    if isinstance(tensor, np.ndarray):
        tensor = torch.from_numpy(tensor)
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy(), tensor.dtype, tuple(tensor.shape)


def _unpack(array: np.ndarray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the memory cannot be written to
        return torch.from_numpy(array).view(dtype).reshape(shape)
