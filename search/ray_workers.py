"""Workers on Ray: on the cores of this machine, or on a cluster whose machines come and go.

A worker is a Ray actor that holds what does the work, made once. Ray places the actors, tells when
one dies and keeps the tensors that they share; which unit goes where, and what becomes of one whose
worker died, is decided here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from torch import Tensor

from evaluator.interfaces import Failed
from search.ray_common import import_name, imported, pack, reason_of, start_ray, unpack
from search.workers import Done, Unit, Worker, one_line

START_SECONDS = 600.0  # for the first worker to be ready
ATTEMPTS = 2  # at a unit whose worker dies, before it is given up
LEAST_PATIENCE_SECONDS = 600.0  # with a worker that does not answer
PATIENCE = 50.0  # in times of the longest that a unit has taken so far
_LOOK_EVERY_SECONDS = 5.0  # at workers that may be hanging


@dataclass(slots=True)
class _Task:
    """A unit, what it is known by, and how often workers died over it."""

    key: Hashable
    unit: Any
    deaths: int = 0
    begun: float = 0.0


class RayWorkers:
    """Up to `workers` actors, each with `threads` threads for PyTorch, one core of this machine
    (`threads` of a cluster) and `gpus` GPUs, which may be a share of one.

    `make_worker` is a function at the top of a module, or its name, `"module:function"`. Each actor
    imports it and calls `make_worker(**settings, tensors=tensors)`; nothing but names, plain
    settings and arrays is sent. The `shared` tensors go through Ray's object store once, and the
    actors of a machine see the same memory: they must not write to it.

    Without an `address` a Ray of our own is started here, for these workers alone. With one, our
    packages are sent to that cluster. There, workers join as soon as it has room for them, and
    where a machine leaves, its workers are started again elsewhere; `capacity` is how many there
    are. A unit whose worker dies, or does not answer for `patience` seconds, is done again by
    another one, and given up the second time. (By default the patience is ten minutes, or 50 times
    the longest that a unit has taken.)

    ValueError where there is no cluster at `address`; RuntimeError where no worker comes up, with
    what went wrong in it.
    """

    def __init__(
        self,
        make_worker: Callable[..., Worker] | str,
        settings: Mapping[str, Any],
        shared: Mapping[str, Tensor | np.ndarray],
        *,
        workers: int,
        threads: int = 1,
        gpus: float = 0.0,
        address: str | None = None,
        patience: float | None = None,
    ):
        if workers < 1 or threads < 1:
            raise ValueError(f"workers is {workers}, threads {threads}: at least 1 each")
        name = make_worker if isinstance(make_worker, str) else import_name(make_worker)
        packed = {key: pack(tensor) for key, tensor in shared.items()}
        self._patience, self._longest = patience, 0.0
        self._looked = time.monotonic()
        self._waiting: deque[_Task] = deque()
        self._busy: dict[Any, tuple[Any, _Task]] = {}
        self._free: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._failed_starts, self._wanted = 0, workers
        self._owner = not ray.is_initialized()
        if self._owner:
            start_ray(name, packed, workers, address)
        try:
            # The list keeps Ray from fetching the tensors for each call: a worker does so once.
            self._tensors = [ray.put(packed)]
            self._actor: Any = ray.remote(_Actor).options(
                num_cpus=1 if address is None else threads, num_gpus=gpus
            )
            self._arguments = (name, dict(settings), threads)
            for _ in range(workers):
                self._start_one()
            self._welcome(START_SECONDS)
        except BaseException:
            self.close()
            raise

    @property
    def capacity(self) -> int:
        return max(1, len(self._free) + len(self._busy))

    # ---- who works

    def _start_one(self) -> None:
        actor = self._actor.remote(*self._arguments)
        self._starting[actor.ready.remote(self._tensors)] = actor

    def _welcome(self, seconds: float) -> None:
        """Waits for the first worker."""
        end = time.monotonic() + seconds
        while not self._free:
            done, _ = ray.wait(list(self._starting), timeout=max(0.0, end - time.monotonic()))
            if not done:
                raise RuntimeError(
                    f"no worker came up within {seconds:g} s; Ray has {ray.available_resources()}"
                )
            self._started(done[0])

    def _started(self, reference: Any) -> None:
        """A worker has begun, or could not. RuntimeError where its work cannot be made at all, or
        as many starts as there are to be workers have failed in a row."""
        actor = self._starting.pop(reference)
        try:
            problem = ray.get(reference)
        except RayError as error:  # its process or its machine is gone
            self._failed_starts += 1
            if self._failed_starts >= ATTEMPTS * self._wanted and not (self._free or self._busy):
                text = f"a worker could not start: {reason_of(error)}"
                raise RuntimeError(text) from None
            self._start_one()
            return
        if problem is not None:
            raise RuntimeError(f"a worker could not start: {problem}")
        self._failed_starts = 0
        self._free.append(actor)

    # ---- what is worked on

    def submit(self, key: Hashable, unit: Unit) -> None:
        self._waiting.append(_Task(key, unit.to_plain()))
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and self._free:
            actor, task = self._free.pop(), self._waiting.popleft()
            task.begun = time.monotonic()
            self._busy[actor.work.remote(task.unit, self._tensors)] = actor, task

    def next(self) -> list[tuple[Hashable, Done | Failed]]:
        while True:
            self._hand_out()
            if not self._busy and not self._waiting:
                raise RuntimeError("nothing is being worked on")
            capacity, found = self.capacity, []
            for reference in self._ready():
                if reference in self._starting:
                    self._started(reference)
                elif (ended := self._ended(reference)) is not None:
                    found.append(ended)
            self._hand_out()
            if found or self.capacity != capacity:
                return found

    def _ready(self) -> list[Any]:
        """All that has ended; waits until something has, or for some time."""
        references = [*self._busy, *self._starting]
        ready, rest = ray.wait(references, timeout=_LOOK_EVERY_SECONDS)
        if ready and rest:
            ready += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        self._end_hanging()
        return ready

    def _ended(self, reference: Any) -> tuple[Hashable, Done | Failed] | None:
        """What a unit has come to; None where it has to be done again."""
        actor, task = self._busy.pop(reference)
        try:
            found: Done = ray.get(reference, timeout=START_SECONDS)
        except RayTaskError as error:  # what an evaluation raises is an outcome, so not that
            raise RuntimeError(f"a worker failed: {reason_of(error)}") from None
        except (RayActorError, GetTimeoutError) as error:
            given_up = self._died(task, error)
            return None if given_up is None else (task.key, given_up)
        self._longest = max(self._longest, time.monotonic() - task.begun)
        self._free.append(actor)
        return task.key, found

    def _died(self, task: _Task, error: Exception) -> Failed | None:
        """A worker is gone: another one is started, and its unit done again or given up."""
        self._start_one()
        task.deaths += 1
        if task.deaths < ATTEMPTS:
            self._waiting.appendleft(task)
            return None
        return Failed(f"the worker died {task.deaths} times over it, at last: {reason_of(error)}")

    def _end_hanging(self) -> None:
        """Kills workers that have not answered for too long; Ray then says that they died."""
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_SECONDS:
            return
        self._looked = now
        patience = self._patience or max(LEAST_PATIENCE_SECONDS, PATIENCE * self._longest)
        for actor, task in self._busy.values():
            if now - task.begun > patience:
                ray.kill(actor)

    def close(self) -> None:
        """Ends the workers, and Ray where it was started here."""
        if not ray.is_initialized():
            return
        busy = [actor for actor, _ in self._busy.values()]
        for actor in [*self._free, *busy, *self._starting.values()]:
            ray.kill(actor)
        self._free, self._busy, self._starting = [], {}, {}
        if self._owner:
            ray.shutdown()


class _Actor:
    """Lives in a process of its own. The worker is made on first use and not in `__init__`, whose
    failures Ray reports at length by itself."""

    def __init__(self, name: str, settings: dict[str, Any], threads: int):
        torch.set_num_threads(threads)
        self._name, self._settings = name, settings
        self._worker: Any = None

    def ready(self, tensors: list[Any]) -> str | None:
        """Makes the worker; what went wrong, if something did."""
        try:
            self._made(tensors)
        except Exception as error:
            return one_line(error)
        return None

    def work(self, unit: Any, tensors: list[Any]) -> Done:
        return self._made(tensors).work(Unit.from_plain(unit))

    def _made(self, tensors: list[Any]) -> Worker:
        if self._worker is None:
            packed = ray.get(tensors[0])
            unpacked = {key: unpack(*parts) for key, parts in packed.items()}
            self._worker = imported(self._name)(**self._settings, tensors=unpacked)
        return self._worker
