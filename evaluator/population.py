"""Scores of many networks at once: what networks begin with in common is computed once.

The networks are the leaves of a tree whose edges are their parts. It is walked depth first inside
each chunk of images, so that at any time there are the activations of one path. Activations that
may be wanted again, by the next generation's children, are kept within a limit of memory
(`evaluator.prefix_cache`). Every part sees the same numbers as in `evaluator.scoring`, so scores
are those of one network after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from evaluator.interfaces import Measured, Score
from evaluator.prefix_cache import PrefixCache
from evaluator.scoring import Outcomes
from space.genome import Genome, Placed

_MOST_NODES = 200_000  # beginnings of networks that are known at a time
_MACS_A_BYTE = 5.0  # what moving a byte costs beside a multiply-add


class Parts(Protocol):
    """What this needs of a supernet."""

    def branch_of(self, genome: Genome) -> str:
        """Networks of different branches share no weights."""
        ...

    def shrunk(self, images: Tensor, side: int) -> Tensor:
        """Normalised images (N, C, H, W) at `side` pixels."""
        ...

    def run(
        self,
        placed: Placed,
        x: Tensor,
        *,
        training: bool = False,
        buffers: Mapping[str, Tensor] | None = None,
        branch: str = "",
    ) -> Tensor:
        """One part on its input map."""
        ...

    def statistics(self, placed: Placed) -> dict[str, Tensor] | None:
        """Fresh running statistics of a part, None where it has none."""
        ...


@dataclass(frozen=True, slots=True)
class _Node:
    """How a network begins, up to and with the part `placed`; None at a root, where there are the
    images at `side` pixels."""

    number: int
    branch: str
    side: int
    placed: Placed | None = None
    worth: float = 0.0  # what it takes to compute it, in multiply-adds
    measured: bool = False  # whether the part has running statistics


@dataclass(slots=True)
class _Tree:
    """The networks of one call: where they part, and which end at a node."""

    roots: list[int] = field(default_factory=list)
    children: dict[int, list[int]] = field(default_factory=dict)
    networks: dict[int, list[int]] = field(default_factory=dict)

    def below(self, number: int) -> Iterable[int]:
        """The node and all behind it."""
        waiting = [number]
        while waiting:
            number = waiting.pop()
            yield number
            waiting += self.children.get(number, ())


class _Once:
    """A value that is computed when it is first asked for; so is what goes wrong then."""

    def __init__(self, make: Callable[[], Tensor]):
        self._make: Callable[[], Tensor] | None = make
        self._value: Tensor | None = None
        self._error: Exception | None = None

    def __call__(self) -> Tensor:
        if self._error is not None:
            raise self._error
        if self._value is None:
            assert self._make is not None
            try:
                self._value = self._make()
            except Exception as error:
                self._error = error
                raise
            self._make = None  # and with it what it was made from
        return self._value


class PopulationScorer:
    """Scores networks on fixed images, as `evaluator.scoring.SupernetEvaluator` does one by one.

    `images` (N, 3, R, R) uint8 and `labels` (N,); `calibration` uint8 images feed running
    statistics. At most `chunk` images are in memory at a time, once for each depth of a network,
    and fewer once memory has run out; chunks end at each of `looks`, so that `measure` can begin
    and end there. `memory` bytes of activations are kept from call to call. `proxy` maps a network
    to the one of the supernet that stands for it. `copies` says that activations must be copied to
    be kept, because the supernet's parts write their results to the same place again.
    """

    def __init__(
        self,
        weights: Parts,
        images: Tensor,
        labels: Tensor,
        *,
        calibration: Tensor,
        normalise: Callable[[Tensor], Tensor],
        proxy: Callable[[Genome], Genome] = lambda genome: genome,
        chunk: int = 512,
        looks: Sequence[int] = (),
        memory: int = 0,
        copies: bool = False,
    ):
        self._weights, self._normalise, self._proxy = weights, normalise, proxy
        self._images, self._labels = images, labels
        self._calibration = calibration.split(chunk)
        self.images = len(images)
        ends = sorted({*looks, self.images} - {0})
        self._chunks = [
            (start, min(start + chunk, end))
            for begin, end in zip([0, *ends], ends, strict=False)
            for start in range(begin, end, chunk)
        ]
        self._most = chunk  # images at a time; fewer once memory has run out
        self.cache, self._copies = PrefixCache(memory), copies
        self._forget()

    def _forget(self) -> None:
        self._nodes: list[_Node] = []
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._ends: dict[Genome, int] = {}  # the node of each network that is known
        self._parents: list[int] = []
        self._statistics: dict[int, dict[str, Tensor]] = {}
        self.cache.clear()

    # ---- scores

    def scores(
        self, genomes: Sequence[Genome], *, progress: Callable[[int, int], None] | None = None
    ) -> list[Score]:
        """One score for each genome; raises what went wrong with the first that has none.
        `progress` gets chunks done, in parts of networks, and all."""
        return [score_of(found) for found in self.measure(genomes, progress=progress)]

    @torch.no_grad()
    def measure(
        self,
        genomes: Sequence[Genome],
        first: int = 0,
        last: int | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Measured]:
        """What each network makes of the images from `first` up to but without `last`, or why it
        cannot be run. ValueError where no chunk begins or ends there."""
        last = self.images if last is None else last
        chunks = [chunk for chunk in self._chunks if first <= chunk[0] and chunk[1] <= last]
        if chunks and (chunks[0][0], chunks[-1][1]) != (first, last):
            raise ValueError(f"no chunk begins at image {first} and another ends at {last}")
        if len(self._nodes) > _MOST_NODES:
            self._forget()
        if first == 0:  # later images are those of the same generation
            self.cache.begin()
        found: list[Measured] = [Outcomes() for _ in genomes]
        for i, genome in enumerate(genomes):
            try:
                self._end(genome)
            except Exception as error:
                found[i] = error
        self._calibrate(genomes, found)
        for done, chunk in enumerate(chunks, 1):
            for i, outcome in self._over(genomes, found, *chunk).items():
                mine = found[i]
                if isinstance(mine, Exception) or isinstance(outcome, Exception):
                    found[i] = outcome
                else:
                    mine.extend(outcome)
            if progress is not None:
                progress(done * len(genomes), len(chunks) * len(genomes))
        return found

    def _over(
        self, genomes: Sequence[Genome], found: Sequence[Measured], start: int, end: int
    ) -> dict[int, Outcomes | Exception]:
        """What networks make of one chunk. Where memory runs out, the chunk is gone through in
        halves, and so are all later ones."""
        while True:
            tree = self._tree(genomes, found)
            outcomes: dict[int, Outcomes | Exception] = {}
            pieces = range(start, end, min(self._most, end - start))
            try:
                for begin in pieces:
                    walk = _Walk(self, tree, begin, min(begin + pieces.step, end), outcomes)
                    walk.go()
                return outcomes
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or pieces.step == 1:
                    raise
                self._most = -(-pieces.step // 2)
                # What is kept must go, and so must this traceback, which holds the activations.
                self.cache.clear()
                del error, walk
            if self._images.device.type == "cuda":
                torch.cuda.empty_cache()

    # ---- how networks begin

    def _end(self, genome: Genome) -> int:
        """The node at which a network ends."""
        known = self._ends.get(genome)
        if known is not None:
            return known
        network = self._proxy(genome)
        branch, side = self._weights.branch_of(network), network.resolution
        number = self._number((branch, side), -1, lambda n: _Node(n, branch, side))
        for placed in network.parts():
            number = self._number((number, placed), number, self._behind(number, placed))
        self._ends[genome] = number
        return number

    def _behind(self, parent: int, placed: Placed) -> Callable[[int], _Node]:
        before = self._nodes[parent]

        def make(number: int) -> _Node:
            cost = placed.cost()
            worth = before.worth + cost.macs + _MACS_A_BYTE * cost.bytes_moved
            measured = self._weights.statistics(placed) is not None
            return _Node(number, before.branch, before.side, placed, worth, measured)

        return make

    def _number(self, key: tuple[Any, ...], parent: int, make: Callable[[int], _Node]) -> int:
        number = self._numbers.get(key)
        if number is None:
            number = len(self._nodes)
            self._nodes.append(make(number))
            self._parents.append(parent)
            self._numbers[key] = number
        return number

    def _tree(self, genomes: Sequence[Genome], found: Sequence[Measured]) -> _Tree:
        """Of the networks with which nothing has gone wrong."""
        tree, seen = _Tree(), set()
        for i, genome in enumerate(genomes):
            if isinstance(found[i], Exception):
                continue
            number = self._ends[genome]
            tree.networks.setdefault(number, []).append(i)
            while number not in seen:
                seen.add(number)
                parent = self._parents[number]
                if parent < 0:
                    tree.roots.append(number)
                    break
                tree.children.setdefault(parent, []).append(number)
                number = parent
        return tree

    # ---- running statistics

    def _calibrate(self, genomes: Sequence[Genome], found: list[Measured]) -> None:
        """Measures the running statistics of parts that have some and are new."""
        tree = self._tree(genomes, found)
        wanted: set[int] = set()
        for root in tree.roots:
            for number in tree.below(root):
                if self._nodes[number].measured and number not in self._statistics:
                    while number >= 0 and number not in wanted:
                        wanted.add(number)
                        number = self._parents[number]
        if not wanted:
            return
        seen = [self._normalise(images) for images in self._calibration]
        for root in tree.roots:
            if root in wanted:
                side = self._nodes[root].side
                maps = [self._weights.shrunk(images, side) for images in seen]
                self._calibrate_below(tree, root, maps, wanted, found)

    def _calibrate_below(
        self, tree: _Tree, number: int, maps: list[Tensor], wanted: set[int], found: list[Measured]
    ) -> None:
        for child in tree.children.get(number, ()):
            if child not in wanted:
                continue
            node = self._nodes[child]
            assert node.placed is not None
            try:
                # Of a part that has been here before, new ones that nobody keeps: in training it
                # goes by the statistics of the batch.
                buffers = self._weights.statistics(node.placed)
                below = [
                    self._weights.run(
                        node.placed, x, training=True, buffers=buffers, branch=node.branch
                    )
                    for x in maps
                ]
            except Exception as error:
                if out_of_memory(error):
                    raise
                for lost in tree.below(child):
                    for i in tree.networks.get(lost, ()):
                        found[i] = error
                continue
            if buffers is not None:
                self._statistics.setdefault(child, buffers)
            self._calibrate_below(tree, child, below, wanted, found)


class _Walk:
    """One walk through a tree, over the images from `start` up to but without `end`."""

    def __init__(
        self,
        scorer: PopulationScorer,
        tree: _Tree,
        start: int,
        end: int,
        outcomes: dict[int, Outcomes | Exception],
    ):
        self._scorer, self._tree = scorer, tree
        self._start, self._end = start, end
        self._labels = scorer._labels[start:end]
        self._outcomes = outcomes

    def go(self) -> None:
        scorer = self._scorer
        whole = _Once(lambda: scorer._normalise(scorer._images[self._start : self._end]))
        for root in self._tree.roots:
            side = scorer._nodes[root].side
            images = _Once(lambda side=side: scorer._weights.shrunk(whole(), side))  # type: ignore[misc]
            self._down(root, images)

    def _down(self, number: int, given: _Once) -> None:
        """Through what stands behind a node whose own activations are `given`."""
        scorer = self._scorer
        for child in self._tree.children.get(number, ()):
            kept = scorer.cache.get((child, self._start, self._end))
            if kept is None:
                mine = _Once(lambda child=child: self._run(child, given))  # type: ignore[misc]
            else:
                mine = _Once(lambda kept=kept: kept)  # type: ignore[misc]
            for network in self._tree.networks.get(child, ()):
                self._note(network, mine)
            self._down(child, mine)

    def _run(self, number: int, given: _Once) -> Tensor:
        scorer = self._scorer
        node = scorer._nodes[number]
        assert node.placed is not None
        buffers = scorer._statistics.get(number)
        y = scorer._weights.run(node.placed, given(), buffers=buffers, branch=node.branch)
        if scorer.cache.limit and number not in self._tree.networks:
            kept = y.clone() if scorer._copies else y
            scorer.cache.put((number, self._start, self._end), kept, node.worth)
        return y

    def _note(self, network: int, logits: _Once) -> None:
        """Adds what a network made of these images, or what went wrong."""
        before = self._outcomes.setdefault(network, Outcomes())
        if isinstance(before, Exception):
            return
        try:
            before.add(logits(), self._labels)
        except Exception as error:
            if out_of_memory(error):
                raise
            self._outcomes[network] = error


def score_of(measured: Measured) -> Score:
    """The score; raises what went wrong, or RuntimeError where outputs are not numbers."""
    if isinstance(measured, Exception):
        raise measured
    return measured.score()


def out_of_memory(error: BaseException) -> bool:
    """Whether there was no room for a tensor, on a GPU or here."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError)
        and ("not enough memory" in said or "can't allocate memory" in said)
    )
