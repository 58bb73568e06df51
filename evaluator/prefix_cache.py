"""Activations that are kept because they may be wanted again, within a limit of memory."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

RECENT = 4  # generations after which what nobody has asked for makes way for what is new


class PrefixCache:
    """Keeps tensors up to `limit` bytes; what it lets go is worth least for a byte.

    A tensor's worth is what it takes to compute it again. The longer nobody has asked for one, the
    less it counts: each time something goes, all that comes or is asked for later starts from its
    rank (GreedyDual-Size: Cao and Irani, 1997, "Cost-aware WWW proxy caching algorithms",
    section 4). What comes in one generation (`begin`) does not push out what was put or asked for
    in the `RECENT` ones before and has not been asked for in this one yet: children would otherwise
    push out what is left of their parents, just before it is needed.
    """

    def __init__(self, limit: int):
        if limit < 0:
            raise ValueError(f"limit is {limit}, but must be at least 0 bytes")
        self.limit, self.used = limit, 0
        self.hits = 0
        self._floor, self._generation = 0.0, 0
        self._kept: dict[Hashable, _Entry] = {}
        self._order: list[tuple[bool, float, int, Hashable]] = []
        self._count = 0  # tells equal ranks apart: the older goes first

    def __len__(self) -> int:
        return len(self._kept)

    def begin(self) -> None:
        """Another generation of networks is going to be scored."""
        self._generation += 1
        self._rebuild()

    def get(self, key: Hashable) -> Tensor | None:
        found = self._kept.get(key)
        if found is None:
            return None
        self.hits += 1
        self._rank(key, found.tensor, found.worth)
        return found.tensor

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
        self._count += 1
        entry = _Entry(tensor, worth, self._floor + worth, self._count, self._generation)
        self._kept[key] = entry
        heapq.heappush(self._order, (False, entry.rank, entry.count, key))
        if len(self._order) > 64 + 4 * len(self._kept):  # mostly of the past
            self._rebuild()

    def _rebuild(self) -> None:
        now = self._generation
        self._order = [
            (now - RECENT <= entry.generation < now, entry.rank, entry.count, key)
            for key, entry in self._kept.items()
        ]
        heapq.heapify(self._order)

    def _let_go(self) -> None:
        while True:
            _, rank, count, key = heapq.heappop(self._order)
            entry = self._kept.get(key)
            if entry is not None and entry.count == count:
                break
        del self._kept[key]
        self._floor = max(self._floor, rank)
        self.used -= entry.tensor.numel() * entry.tensor.element_size()


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    tensor: Tensor
    worth: float  # for a byte
    rank: float
    count: int  # of the last time that it was put or asked for
    generation: int  # then
