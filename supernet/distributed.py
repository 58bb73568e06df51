"""Training in several processes, each on its share of every batch.

All processes hold all weights, draw the same networks and make the same step of the optimiser from
the mean of their gradients; nothing else is exchanged. `torchrun` starts such processes and tells
each of them its place by environment variables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from supernet.training import Alone, Group

BUCKET_BYTES = 64 * 2**20  # what is sent at once; a copy of so much is made


class Processes:
    """The processes of PyTorch's default group, which is there already."""

    def __init__(self) -> None:
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its mean over the processes, which all hand in tensors of the
        same shapes in the same order. The result is the same in all of them to the last bit."""
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            flat = flat if _can_send(flat) else flat.cpu()
            dist.all_reduce(flat)
            flat /= self.ranks
            parts = flat.split([tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))


class Elsewhere(Alone):
    """For a process that looks at what others train, and makes no step itself."""

    def __init__(self, ranks: int):
        self.ranks = ranks


@contextmanager
def launched_group(device: torch.device) -> Iterator[Group]:
    """The group that `torchrun` has started, as long as the block lasts; one process by itself
    where it has not. On CUDA by NCCL, on a CPU by Gloo."""
    if launched_ranks() == 1:
        yield Alone()
        return
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Processes()
    finally:
        dist.destroy_process_group()


def launched_ranks() -> int:
    """How many processes `torchrun` has started; 1 where it has not."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def launched_rank() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ["RANK"]) if launched_ranks() > 1 else 0


def launched_here() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launched_ranks() > 1 else 1


def own_device(name: str) -> str:
    """The device of this process where several are started for device `name`: of CUDA devices
    each process of a machine takes its own. ValueError where `name` leaves no choice."""
    if launched_ranks() == 1 or not name.startswith("cuda"):
        return name
    if name != "cuda":
        raise ValueError(
            f"device is {name!r}, but must be 'cuda' where several processes train: each takes "
            "its own"
        )
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one type and device, not too much at once."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for alike in kinds.values():
        bucket: list[Tensor] = []
        size = 0
        for tensor in alike:
            if bucket and size + tensor.nbytes > BUCKET_BYTES:
                yield bucket
                bucket, size = [], 0
            bucket.append(tensor)
            size += tensor.nbytes
        yield bucket


def _can_send(flat: Tensor) -> bool:
    """Gloo goes through the memory of the machine: two processes may share a GPU there, which NCCL
    does not allow."""
    return flat.device.type == "cpu" or dist.get_backend() == "nccl"
