"""Runs evaluations on Ray: on the cores of this machine, or on a cluster.

A worker is a Ray actor that holds an evaluator. Ray itself restarts a worker that dies and runs
its candidate again; this file only hands out candidates one by one, and knows no other engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError
from torch import Tensor

from evaluator.interfaces import Evaluator
from search.interfaces import Outcome
from search.ray_common import RETRIES, import_name, imported, pack, reason_of, start_ray, unpack
from search.runner import one_line, timed
from space.genome import Genome

START_SECONDS = 600.0  # for the first worker to have its evaluator


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
        packed = {key: pack(tensor) for key, tensor in shared.items()}
        self._owner = not ray.is_initialized()
        if self._owner:
            start_ray(name, packed, workers, address)
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
                problem = reason_of(error)
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
            unpacked = {key: unpack(*parts) for key, parts in packed.items()}
            self._evaluator = imported(self._name)(**self._settings, tensors=unpacked)
        return self._evaluator


def _outcome(reference: Any) -> tuple[Outcome | None, bool]:
    """What became of a candidate, None where it must be tried elsewhere; and whether its worker
    can still work."""
    try:
        return ray.get(reference), True
    except RayTaskError as error:  # what an evaluation raises is an outcome, so it is not that
        raise RuntimeError(f"a worker could not start again: {reason_of(error)}") from None
    except ActorDiedError:  # for good
        return None, False
    except RayActorError:
        text = f"the worker died {RETRIES + 1} times while it scored this network"
        return Outcome(None, 0.0, text), True
