"""Parts of candidates as CUDA graphs: a part is launched as one piece, without Python in between.

Small networks on a fast GPU spend most of their time in launching kernels one by one. A graph is
recorded once for each part, place in memory of its input, and size of the chunk; to run it again is
one call. All parts at one position that give maps of one shape write to the same buffer, so memory
is one buffer for each position and shape, whatever the number of candidates. A walk through a tree
of candidates, depth first, may do so: by the time a part writes there again, nobody needs what was
written before (`evaluator.population`, with `copies`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from space.genome import Placed
from supernet.frozen import FrozenParts

WARM = 2  # runs before a recording, in which libraries choose their algorithms


class Recording(Protocol):
    """What was recorded, and can be run again."""

    def replay(self) -> None: ...


class GraphedParts(FrozenParts):
    """`FrozenParts` whose parts run as graphs; a part with running statistics runs as it is.

    The maps that `run` gives are overwritten by the next part at the same position.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._buffers: dict[tuple[str, torch.Size, torch.dtype], Tensor] = {}
        self._inputs: dict[tuple[str, torch.Size, torch.dtype], Tensor] = {}
        self._ours: set[int] = set()  # where buffers lie
        self._graphs: dict[tuple[Any, ...], tuple[Recording, Tensor]] = {}
        self._pool: Any = None  # memory that all recordings share

    def run(
        self,
        placed: Placed,
        x: Tensor,
        *,
        training: bool = False,
        buffers: Mapping[str, Tensor] | None = None,
        branch: str = "",
    ) -> Tensor:
        if training or buffers is not None:
            return super().run(placed, x, training=training, buffers=buffers, branch=branch)
        if x.data_ptr() not in self._ours:  # images, or a map that was kept
            x = self._held(self._inputs, placed.path, x).copy_(x)
        key = (placed, branch, x.data_ptr(), x.shape)
        found = self._graphs.get(key)
        if found is None:
            found = self._graphs[key] = self._recorded(placed, branch, x)
        else:
            found[0].replay()
        return found[1]

    def _held(self, where: dict[Any, Tensor], path: str, like: Tensor) -> Tensor:
        """The place for maps of this kind at this position, laid out as `like`."""
        key = (path, like.shape, like.dtype)
        if key not in where:
            where[key] = torch.empty_like(like)
            self._ours.add(where[key].data_ptr())
        return where[key]

    def _recorded(self, placed: Placed, branch: str, x: Tensor) -> tuple[Recording, Tensor]:
        """Runs a part and records it; its result is in the buffer that is given back."""
        module = self.module(placed, branch)
        for _ in range(WARM):
            y = module(x)
        buffer = self._held(self._buffers, placed.path, y)

        def work() -> None:
            buffer.copy_(module(x))

        work()
        return self._record(work), buffer

    def _record(self, work: Any) -> Recording:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        self._pool = self._pool or graph.pool()
        return graph


class RerunParts(GraphedParts):
    """The same without a GPU: what would be recorded is run again. It writes where graphs would
    write, which is what tests look at."""

    def _record(self, work: Any) -> Recording:
        return _Rerun(work)


class _Rerun:
    def __init__(self, work: Any):
        self.replay = work
