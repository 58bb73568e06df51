"""Activations that are kept because they may be wanted again, within a limit of memory."""

from __future__ import annotations

import heapq
from collections.abc import Hashable

from torch import Tensor


class PrefixCache:
    """Keeps tensors up to `limit` bytes; what it lets go is worth least for a byte.

    A tensor's worth is what it takes to compute it again. The longer nobody has asked for one, the
    less it counts: each time something goes, all that comes or is asked for later starts from its
    rank (GreedyDual-Size: Cao and Irani, 1997, "Cost-aware WWW proxy caching algorithms",
    section 4).
    """

    def __init__(self, limit: int):
        if limit < 0:
            raise ValueError(f"limit is {limit}, but must be at least 0 bytes")
        self.limit, self.used = limit, 0
        self.hits = 0
        self._floor = 0.0
        self._kept: dict[Hashable, tuple[Tensor, float, int]] = {}  # worth a byte, last entry
        self._order: list[tuple[float, int, Hashable]] = []
        self._count = 0  # tells equal ranks apart: the older goes first

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> Tensor | None:
        found = self._kept.get(key)
        if found is None:
            return None
        self.hits += 1
        tensor, worth, _ = found
        self._rank(key, tensor, worth)
        return tensor

    def put(self, key: Hashable, tensor: Tensor, worth: float) -> None:
        """Keeps `tensor`, if what is worth less makes enough room. Tensors of one storage count
        as if each had its own."""
        size = tensor.numel() * tensor.element_size()
        if key in self._kept or size > self.limit:
            return
        self._rank(key, tensor, worth / max(1, size))
        self.used += size
        while self.used > self.limit:
            self._let_go()

    def clear(self) -> None:
        self._kept.clear()
        self._order.clear()
        self.used = 0

    def _rank(self, key: Hashable, tensor: Tensor, worth: float) -> None:
        rank = self._floor + worth
        self._count += 1
        self._kept[key] = tensor, worth, self._count
        heapq.heappush(self._order, (rank, self._count, key))
        if len(self._order) > 64 + 4 * len(self._kept):  # mostly of the past
            self._order = [entry for entry in self._order if self._current(entry)]
            heapq.heapify(self._order)

    def _current(self, entry: tuple[float, int, Hashable]) -> bool:
        _, count, key = entry
        return key in self._kept and self._kept[key][2] == count

    def _let_go(self) -> None:
        while True:
            entry = heapq.heappop(self._order)
            if self._current(entry):
                break
        rank, _, key = entry
        tensor, _, _ = self._kept.pop(key)
        self._floor = rank
        self.used -= tensor.numel() * tensor.element_size()
