"""Decisions: what a row of integers stands for, and array operations on many rows.

A row has one integer for each `Variable`. A variable that does not matter in a row (a gene of an
operator that is not chosen) holds 0 there, so that equal choices have equal rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Codes = NDArray[np.int64]
Conditions = tuple[tuple[int, frozenset[int]], ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """One decision. It is active where every condition holds: the variable at that index is
    active itself and has one of those codes."""

    name: str
    choices: tuple[Any, ...]
    conditions: Conditions = ()


class Decisions:
    """What rows of a space have in common, whatever a row stands for; a subclass has the fields
    `name` and `variables`, in the order in which they are decided."""

    name: str
    variables: tuple[Variable, ...]

    @cached_property
    def cardinalities(self) -> Codes:
        """Number of choices of each variable, (V,)."""
        return np.array([len(variable.choices) for variable in self.variables], np.int64)

    def active(self, codes: Codes) -> NDArray[np.bool_]:
        """Which variables matter in each row, (B, V)."""
        active = np.ones(codes.shape, bool)
        for conditions, variables in self._conditional:
            matters = np.ones(len(codes), bool)
            for parent, allowed in conditions:
                column = codes[:, parent]
                matters &= active[:, parent]
                matters &= column == allowed if isinstance(allowed, int) else allowed[column]
            active[:, variables] = matters[:, None]
        return active

    @cached_property
    def _conditional(self) -> list[tuple[list[tuple[int, Any]], list[int]]]:
        """Variables that depend on others, those with the same conditions together, in the order in
        which they are decided; of a condition one code, or which codes hold."""
        together: dict[Conditions, list[int]] = {}
        for v, variable in enumerate(self.variables):
            if variable.conditions:
                together.setdefault(variable.conditions, []).append(v)
        found = []
        for conditions, variables in together.items():
            tests: list[tuple[int, Any]] = []
            for parent, allowed in conditions:
                mask = np.zeros(len(self.variables[parent].choices), bool)
                mask[list(allowed)] = True
                tests.append((parent, next(iter(allowed)) if len(allowed) == 1 else mask))
            found.append((tests, variables))
        return found

    def canonical(self, codes: Codes) -> Codes:
        """The rows with 0 in every variable that does not matter."""
        return np.where(self.active(codes), codes, 0)

    def sample_codes(self, rng: Generator, count: int) -> Codes:
        """`count` rows; each variable that matters is uniform over its choices."""
        return self.canonical(self._uniform(rng, count))

    def mutate_codes(self, codes: Codes, rng: Generator, *, late: bool = False) -> Codes:
        """Each row with one active variable changed; what that brings to life is uniform.

        All are equally likely to be changed. With `late` it is the later of two that are drawn, so
        that of n the k-th is changed with probability (2k - 1) / n^2 and mutants begin as the row
        did for longer. What stands before the changed variable stays as it is in either case.
        """
        before = self.active(codes)
        weights = before & (self.cardinalities > 1)
        if not weights.any(axis=1).all():
            raise ValueError(f"space {self.name!r} holds a single network: nothing can mutate")
        chosen = _one_of(weights, rng)
        if late:
            chosen = np.maximum(chosen, _one_of(weights, rng))
        rows = np.arange(len(codes))
        steps = 1 + (rng.random(len(codes)) * (self.cardinalities[chosen] - 1)).astype(np.int64)
        mutants = np.where(before, codes, self._uniform(rng, len(codes)))
        mutants[rows, chosen] = (codes[rows, chosen] + steps) % self.cardinalities[chosen]
        return self.canonical(mutants)

    def neighbours(self, row: Sequence[int] | Codes) -> Codes:
        """All rows that differ from `row` in one active variable, those that this brings to life
        at their first choice; each once."""
        row = np.asarray(row)
        active = self.active(row[None])[0]
        changed = [
            np.where(np.arange(len(row)) == v, code, np.where(active, row, 0))
            for v in np.flatnonzero(active)
            for code in range(self.cardinalities[v])
            if code != row[v]
        ]
        if not changed:
            return np.empty((0, len(row)), np.int64)
        rows = self.canonical(np.stack(changed))
        _, first = np.unique(rows, axis=0, return_index=True)
        return rows[np.sort(first)]

    def cross_codes(
        self, mothers: Codes, fathers: Codes, rng: Generator, *, one_point: bool = False
    ) -> Codes:
        """Uniform crossover: each variable from either parent, from the one where it is active
        if it is so in one only, and uniform where the child needs what neither parent had.

        With `one_point`, all that stands before a cut is the mother's, and behind it a variable
        that is active in both is the father's. The cut is uniform over the variables in which the
        two differ, but for the first, so that both have a part in the child (the reduced surrogate
        of Booker, 1987, "Improving search in genetic algorithms"); where they differ in less than
        two, the child is the mother.
        """
        in_mother, in_father = self.active(mothers), self.active(fathers)
        if one_point and self.variables:
            differ = mothers != fathers
            cuts = differ & (differ.cumsum(axis=1) > 1)
            cut = np.where(cuts.any(axis=1), _one_of(cuts, rng), len(self.variables))
            before = np.arange(len(self.variables)) < cut[:, None]
            from_mother = before | (in_mother & ~in_father)
        else:
            either = rng.random(mothers.shape) < 0.5
            from_mother = np.where(in_mother == in_father, either, in_mother)
        children = np.where(from_mother, mothers, fathers)
        children = np.where(in_mother | in_father, children, self._uniform(rng, len(mothers)))
        return self.canonical(children)

    def _uniform(self, rng: Generator, count: int) -> Codes:
        return rng.integers(0, self.cardinalities, (count, len(self.variables)))

    def every_code(self, limit: int) -> Codes | None:
        """All rows, (B, V), in lexicographic order; None where there are more than `limit`."""
        rows = np.zeros((1, 0), np.int64)
        for v, variable in enumerate(self.variables):
            padded = np.pad(rows, ((0, 0), (0, len(self.variables) - v)))
            counts = np.where(self.active(padded)[:, v], len(variable.choices), 1)
            if counts.sum() > limit:
                return None
            begins = np.repeat(np.cumsum(counts) - counts, counts)
            codes = np.arange(counts.sum()) - begins
            rows = np.column_stack([np.repeat(rows, counts, axis=0), codes])
        return rows


@dataclass(frozen=True)
class PlainDecisions(Decisions):
    """Decisions that stand for nothing but themselves, such as the genes of a table."""

    name: str
    variables: tuple[Variable, ...]


def _one_of(which: NDArray[np.bool_], rng: Generator) -> Codes:
    """In each row the place of one of those that are true, uniform, (B,)."""
    return np.argmax(np.where(which, rng.random(which.shape), -1.0), axis=1)
