"""Runs a function in processes that train together, by Ray Train.

Ray Train starts the processes, joins them to one group of `torch.distributed` and ends all of them
when one fails. This file hands them their settings and shared tensors, brings back what the first
of them says of its progress, and knows nothing of what is trained.
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError
from torch import Tensor

from search.ray_common import environment, imported, pack, reason_of, start_ray, unpack
from search.workers import one_line

START_SECONDS = 600  # for all processes to be there
LOOK_EVERY_SECONDS = 0.3  # at the progress
Progress = Callable[[int, int, float], None]

# Ray Train reads these where it is imported or used. Relative paths mean what they mean here, and
# nothing is reported to anyone.
_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(START_SECONDS),
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


class WorkerDied(RuntimeError):
    """A process ended that should not have; what it had written is there."""


def train_together(
    function: str,
    settings: Mapping[str, Any],
    shared: Mapping[str, Tensor | np.ndarray],
    *,
    folder: Path,
    workers: int,
    threads: int = 1,
    cuda: bool = False,
    address: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Calls `function`, `"module:function"`, in `workers` processes of one group, and waits.

    Each calls `function(**settings, tensors=..., device=..., progress=...)`, where `tensors` is
    `shared`, which goes through Ray's object store and must not be written to; `device` is the
    process's own, a GPU or a share of one where `cuda`; and `progress(done, total, loss)` is heard
    here where the first process says it. Whatever the function writes, and `folder`, where Ray
    Train keeps its notes until it ends, must be on a file system that all processes see; on one
    machine every one is.

    Without an `address` a Ray of our own is started here, with a core for each process, and ended
    again, also by Ctrl-C. ValueError for what the function raises, or where there is no cluster or
    nothing to run on; `WorkerDied` where a process ends.
    """
    packed = {key: pack(tensor) for key, tensor in shared.items()}
    owner = not ray.is_initialized()
    with (
        environment(_ENVIRONMENT),
        tempfile.TemporaryDirectory(dir=folder, prefix=".ray-") as notes,
    ):
        if owner:
            start_ray(function, packed, workers, address)
        try:
            _check_room(workers, threads if address else 1, cuda)
            board = ray.remote(_Board).options(num_cpus=0).remote()
            config = {
                "function": function,
                "settings": dict(settings),
                "tensors": [ray.put(packed)],  # in a list Ray leaves it to each process to fetch
                "board": board,
                "cuda": cuda,
            }
            trainer = _trainer(config, notes, workers, threads if address else 1, cuda)
            _watch(trainer, board, progress)
        finally:
            if owner:
                ray.shutdown()


def _trainer(config: dict[str, Any], notes: str, workers: int, cores: int, cuda: bool) -> Any:
    from ray.train import RunConfig, ScalingConfig  # after `environment`, which they read
    from ray.train.torch import TorchConfig, TorchTrainer

    resources: dict[str, float] = {"CPU": cores}
    if cuda:
        resources["GPU"] = _share_of_gpu(workers)
    return TorchTrainer(
        _work,
        train_loop_config=config,
        # NCCL allows one process on a GPU only.
        torch_config=TorchConfig(backend="nccl" if resources.get("GPU") == 1 else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=cuda, resources_per_worker=resources
        ),
        run_config=RunConfig(name="training", storage_path=notes),
    )


def _watch(trainer: Any, board: Any, progress: Progress | None) -> None:
    """Waits for the end beside Ray Train and not in it: it would take Ctrl-C for itself."""
    ended: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # told below, in the main thread
            ended.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    last = None
    while True:
        thread.join(LOOK_EVERY_SECONDS)
        over = not thread.is_alive()
        try:
            news, problems, inside = ray.get(board.read.remote())
        except RayError:  # the cluster itself is gone
            news, problems, inside = last, [], {}
        if progress is not None and news not in (None, last):
            progress(*news)
        last = news
        if over:
            break
    if not ended:
        return
    if problems:
        raise ValueError(problems[0])
    rank = _rank_that_died(ended[0], inside)
    if rank is not None:
        raise WorkerDied(f"worker {rank} of the training died")
    raise WorkerDied(f"the training by Ray Train ended: {reason_of(ended[0])}")  # type: ignore[arg-type]


def _rank_that_died(error: BaseException, inside: Mapping[str, int]) -> int | None:
    """The process that is the reason for an error of Ray Train, None where that is not known.

    `inside` are the ranks, by actor, of those that went into the function and did not leave it.
    Ray Train may end before it has seen who died: then its text names the actor, or it knows of
    others alone, which fail because one is missing.
    """
    failures = getattr(error, "worker_failures", {})
    died = [rank for rank, each in failures.items() if not hasattr(each, "_base_exc")]
    named = [rank for actor, rank in inside.items() if actor in str(error)]
    return min(died or named or inside.values() or failures, default=None)


def _check_room(workers: int, cores: int, cuda: bool) -> None:
    there = ray.cluster_resources()
    if there.get("CPU", 0) < workers * cores:
        raise ValueError(
            f"{workers} processes are to train on {workers * cores} cores, but Ray has "
            f"{there.get('CPU', 0):g}"
        )
    if cuda and not there.get("GPU", 0):
        raise ValueError("the training is to run on CUDA, but Ray has no GPUs")


def _share_of_gpu(workers: int) -> float:
    """How much of a GPU each process gets: one, or an equal share where there are too few."""
    return 1 / math.ceil(workers / ray.cluster_resources()["GPU"])


class _Board:
    """Where each process notes that it is inside the function, the first of them how far it is,
    and any what went wrong."""

    def __init__(self) -> None:
        self._news: tuple[int, int, float] | None = None
        self._problems: list[str] = []
        self._inside: dict[str, int] = {}

    def enter(self, actor: str, rank: int) -> None:
        self._inside[actor] = rank

    def leave(self, actor: str) -> None:
        del self._inside[actor]

    def write(self, *news: Any) -> None:
        self._news = news  # type: ignore[assignment]

    def complain(self, problem: str) -> None:
        self._problems.append(problem)

    def read(self) -> tuple[tuple[int, int, float] | None, list[str], dict[str, int]]:
        """The progress, what went wrong, and the ranks of who is inside, by actor."""
        return self._news, self._problems, self._inside


def _work(config: dict[str, Any]) -> None:
    """In a process of its own."""
    from ray.train import get_context
    from ray.train.torch import get_device

    board = config["board"]
    actor = ray.get_runtime_context().get_actor_id()
    ray.get(board.enter.remote(actor, get_context().get_world_rank()))
    packed = ray.get(config["tensors"][0])
    tensors = {key: unpack(*parts) for key, parts in packed.items()}

    def progress(*news: Any) -> None:
        board.write.remote(*news)

    try:
        device = str(get_device()) if config["cuda"] else "cpu"
        imported(config["function"])(
            **config["settings"], tensors=tensors, device=device, progress=progress
        )
    except RuntimeError:  # which is also what the others raise when one of them dies
        raise
    except Exception as error:
        said = " ".join(str(error).split()) if isinstance(error, ValueError) else one_line(error)
        ray.get(board.complain.remote(said))
        raise
    finally:
        ray.get(board.leave.remote(actor))
