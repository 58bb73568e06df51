"""Which networks a training step draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from space.decisions import Codes
from space.search_space import Space


class Sampler(Protocol):
    """Draws rows of `space.codes`; what it draws follows from the seed and from `state`."""

    def draw(self, step: int, count: int) -> Codes:
        """(count, V) rows."""
        ...

    @property
    def state(self) -> dict[str, int]:
        """What a checkpoint has to hold."""
        ...

    @state.setter
    def state(self, value: dict[str, int]) -> None: ...


class Uniform:
    """Every variable that matters is uniform over its choices, each draw for itself."""

    def __init__(self, space: Space, seed: int):
        self._space, self._seed = space, seed
        self.state: dict[str, int] = {}

    def draw(self, step: int, count: int) -> Codes:
        rng = np.random.default_rng([self._seed, 3, step])
        return self._space.sample_codes(rng, count)


class Even:
    """Every network of the space equally likely.

    With `Uniform` a stage has each of its depths equally often, though there are many more networks
    of the larger ones, so that the last positions of a stage are trained least, and networks that
    use them are underrated. A choice is drawn here in proportion to the number of ways to go on
    from it.
    """

    def __init__(self, space: Space, seed: int):
        self._space, self._seed = space, seed
        self.state: dict[str, int] = {}
        below: dict[int, list[int]] = {}  # variable -> those that hang on its choice
        for v, variable in enumerate(space.variables):
            if variable.conditions:
                below.setdefault(variable.conditions[-1][0], []).append(v)
        totals: dict[int, float] = {}
        self._shares: dict[int, NDArray[np.float64]] = {}
        for v in reversed(range(len(space.variables))):  # what hangs on a variable comes after it
            ways = np.ones(len(space.variables[v].choices))
            for u in below.get(v, ()):
                for code in space.variables[u].conditions[-1][1]:
                    ways[code] *= totals[u]
            totals[v] = float(ways.sum())
            self._shares[v] = ways / totals[v]

    def draw(self, step: int, count: int) -> Codes:
        rng = np.random.default_rng([self._seed, 5, step])
        columns = [
            rng.choice(len(self._shares[v]), count, p=self._shares[v])
            for v in range(len(self._space.variables))
        ]
        rows = np.array(columns, np.int64).reshape(len(columns), count).T
        return self._space.canonical(rows)


class Fair:
    """Each choice of each variable equally often among the networks in which it matters.

    Choices are dealt like cards: a variable's choices in random order, one for each network in
    which the variable is active, then shuffled again. Where the blocks of a stage are alike, their
    decks belong to one depth of the stage, so that each operator of each position gets as many
    updates as the others there, to one card for each depth.
    Source: strict fairness, FairNAS (Chu et al., 2019, arXiv 1907.01845, section 3.2). Differs: a
    round is spread over several steps, so that a step may train fewer networks than a position has
    operators.
    """

    def __init__(self, space: Space, seed: int):
        self._space, self._seed = space, seed
        self.state: dict[str, int] = {}  # deck -> cards dealt
        self._depth_of: dict[int, int] = {}  # variable -> that of the depth that it depends on
        for stage in space.stages:
            if len(stage.blocks) == 1 and stage.depth.index is not None:
                for v in range(stage.start, stage.stop):
                    if space.variables[v].name.startswith(stage.blocks[0].name):
                        self._depth_of[v] = stage.depth.index

    def draw(self, step: int, count: int) -> Codes:
        rows = np.zeros((count, len(self._space.variables)), np.int64)
        for row in rows:
            for v, variable in enumerate(self._space.variables):
                if all(row[parent] in codes for parent, codes in variable.conditions):
                    row[v] = self._deal(v, row)
        return rows

    def _deal(self, v: int, row: Codes) -> int:
        depth = self._depth_of.get(v)
        context = -1 if depth is None else int(row[depth])
        deck = f"{v}:{context}"
        dealt = self.state.get(deck, 0)
        self.state[deck] = dealt + 1
        size = len(self._space.variables[v].choices)
        turn, place = divmod(dealt, size)
        rng = np.random.default_rng([self._seed, 4, v, context + 1, turn])
        return int(rng.permutation(size)[place])


def make_sampler(name: str, space: Space, seed: int) -> Sampler:
    """`name` is one of `recipe.SAMPLINGS`."""
    makers: dict[str, Callable[[Space, int], Sampler]] = {
        "even": Even,
        "fair": Fair,
        "uniform": Uniform,
    }
    return makers[name](space, seed)
