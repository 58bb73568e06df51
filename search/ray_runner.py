"""Runs evaluations on Ray: on the cores of this machine, or on a cluster.

A worker is a Ray actor that holds an evaluator. Ray itself restarts a worker that dies and runs
its candidate again; this file only hands out candidates one by one, and knows no other engine.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError
from torch import Tensor

from evaluator.interfaces import Evaluator, Failed, GroupEvaluator, Measured
from search.interfaces import Outcome
from search.ray_common import RETRIES, import_name, imported, pack, reason_of, start_ray, unpack
from search.runner import one_line, timed
from space.genome import Genome

START_SECONDS = 600.0  # for the first worker to have its evaluator
GROUPS = 2  # of networks for each worker, so that a quick one can take more


class RayRunner:
    """`workers` processes, each with an evaluator of its own: `run` scores networks one by one,
    `measure` has groups of them measured, if that is what the evaluator does.

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
        make_evaluator: Callable[..., Evaluator | GroupEvaluator] | str,
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
        plain = [genome.to_json() for genome in genomes]
        found = self._hand_out(
            [[i] for i in range(len(genomes))],
            lambda actor, task: actor.evaluate.remote(plain[task[0]], self._tensors),
        )
        return [
            Outcome(None, 0.0, str(found[i])) if isinstance(found[i], Failed) else found[i]
            for i in range(len(genomes))
        ]

    def measure(self, genomes: Sequence[Genome], first: int, last: int) -> list[Measured]:
        """Hands out groups of networks that begin alike. A group over which workers die each time
        is handed out again one by one."""
        plain = [genome.to_json() for genome in genomes]
        # As text they sort by how networks begin: resolution, stem, stages.
        order = sorted(range(len(genomes)), key=lambda i: json.dumps(plain[i]))
        count = max(1, min(len(order), GROUPS * len(self._actors)))
        found = self._hand_out(
            [group.tolist() for group in np.array_split(np.array(order, int), count) if len(group)],
            lambda actor, task: actor.measure.remote(
                [plain[i] for i in task], first, last, self._tensors
            ),
        )
        return [found[i] for i in range(len(genomes))]

    def _hand_out(
        self, tasks: Sequence[list[int]], call: Callable[[Any, list[int]], Any]
    ) -> dict[int, Any]:
        """What came of each network of the `tasks`, groups of numbers of networks; `Failed` where
        workers died over it. `call` begins a task with an actor."""
        found: dict[int, Any] = {}
        waiting = deque(tasks)
        busy: dict[Any, tuple[Any, list[int]]] = {}
        try:
            while waiting or busy:
                while waiting and self._free:
                    actor, task = self._free.pop(), waiting.popleft()
                    busy[call(actor, task)] = actor, task
                if not busy and not self._starting:
                    raise RuntimeError("all workers are gone")
                done, _ = ray.wait([*busy, *self._starting])
                self._started([reference for reference in done if reference in self._starting])
                for reference in done:
                    if reference not in busy:
                        continue
                    actor, task = busy.pop(reference)
                    result, alive = _result_of(reference)
                    if alive:
                        self._free.append(actor)
                    if result is None:
                        waiting.appendleft(task)
                    elif isinstance(result, Failed) and len(task) > 1:
                        waiting.extendleft([i] for i in task)
                    elif isinstance(result, Failed):
                        found[task[0]] = result
                    else:
                        found.update(zip(task, result, strict=True))
        finally:  # after an interrupt a busy worker finishes first what it was at
            self._free += [actor for actor, _ in busy.values()]
        return found

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
        self._evaluator: Any = None

    def ready(self, tensors: list[Any]) -> str | None:
        """Makes the evaluator; what went wrong, if something did."""
        try:
            self._made(tensors)
        except Exception as error:
            return one_line(error)
        return None

    def evaluate(self, genome: dict[str, Any], tensors: list[Any]) -> list[Outcome]:
        return [timed(self._made(tensors), Genome.from_json(genome))]

    def measure(
        self, genomes: list[dict[str, Any]], first: int, last: int, tensors: list[Any]
    ) -> list[Measured]:
        evaluator = self._made(tensors)
        found = evaluator.measure([Genome.from_json(genome) for genome in genomes], first, last)
        # Not every exception survives being sent.
        return [Failed(one_line(one)) if isinstance(one, Exception) else one for one in found]

    def _made(self, tensors: list[Any]) -> Any:
        if self._evaluator is None:
            packed = ray.get(tensors[0])
            unpacked = {key: unpack(*parts) for key, parts in packed.items()}
            self._evaluator = imported(self._name)(**self._settings, tensors=unpacked)
        return self._evaluator


def _result_of(reference: Any) -> tuple[Any, bool]:
    """What became of a task, None where it must be tried elsewhere; and whether its worker can
    still work."""
    try:
        return ray.get(reference), True
    except RayTaskError as error:  # what an evaluation raises is an outcome, so it is not that
        raise RuntimeError(f"a worker could not start again: {reason_of(error)}") from None
    except ActorDiedError:  # for good
        return None, False
    except RayActorError:
        text = f"the worker died {RETRIES + 1} times while it scored this network"
        return Failed(text), True
