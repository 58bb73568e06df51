"""Genomes as tables: a row for each network, a column for each gene that differs between them.

Works on genomes as JSON, so that it can read operators that are no longer registered. A column is
named by its place, `stage 2 blocks: attention heads`; a gene of an operator that does not stand
there is `ABSENT`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = "–"


@dataclass(frozen=True, slots=True)
class Gene:
    """A column: its value in each row, and the different ones in order, `ABSENT` last. Numbers are
    ordered by size, words by the alphabet; `ordered` says that it is by size."""

    name: str
    values: tuple[Any, ...]
    levels: tuple[Any, ...]
    ordered: bool

    @property
    def codes(self) -> list[int]:
        """The place of each value among the levels."""
        places = {_key(level): i for i, level in enumerate(self.levels)}
        return [places[_key(value)] for value in self.values]


def gene_columns(genomes: Sequence[Mapping[str, Any]], *, once: bool = False) -> list[Gene]:
    """The genes that differ, in the order in which an image meets them; one that has a single value
    wherever it stands follows from another choice, and is left out. With `once`, so is one that
    tells the same networks apart as one before it."""
    alike = _stages_of_equal_blocks(genomes)
    named = [dict(_genes(genome, alike)) for genome in genomes]
    names = list(dict.fromkeys(name for genes in named for name in genes))
    names.sort(key=_place)
    found, seen = [], set()
    for name in names:
        values = tuple(genes.get(name, ABSENT) for genes in named)
        gene = _gene(name, values)
        if len(gene.levels) - (ABSENT in gene.levels) < 2:
            continue
        order: dict[int, int] = {}  # codes by first appearance: equal where the same is told apart
        partition = tuple(order.setdefault(code, len(order)) for code in gene.codes)
        if not once or partition not in seen:
            seen.add(partition)
            found.append(gene)
    return found


def _gene(name: str, values: tuple[Any, ...]) -> Gene:
    different = {_key(value): value for value in values}
    there = [value for value in different.values() if value != ABSENT]
    ordered = all(isinstance(v, int | float) and not isinstance(v, bool) for v in there)
    there.sort(key=None if ordered else str)
    absent = [ABSENT] if len(there) < len(different) else []
    return Gene(name, values, (*there, *absent), ordered)


def _key(value: Any) -> tuple[str, str]:
    """1, 1.0 and True are different values."""
    return type(value).__name__, str(value)


def _stages_of_equal_blocks(genomes: Sequence[Mapping[str, Any]]) -> set[int]:
    """Stages whose blocks are equal to one another in every genome."""
    longest = max((len(genome["stages"]) for genome in genomes), default=0)
    return {
        i
        for i in range(longest)
        if all(
            block == stage["blocks"][0]
            for genome in genomes
            for stage in genome["stages"][i : i + 1]
            for block in stage["blocks"]
        )
    }


def _genes(genome: Mapping[str, Any], alike: set[int]) -> Iterator[tuple[str, Any]]:
    yield "resolution", genome["resolution"]
    yield from _part("stem", genome["stem"])
    yield "stages", len(genome["stages"])
    for i, stage in enumerate(genome["stages"]):
        where = f"stage {i + 1}"
        yield f"{where} channels", stage["channels"]
        if stage["downsample"] is not None:
            yield from _part(f"{where} downsampling", stage["downsample"])
        yield f"{where} depth", len(stage["blocks"])
        if i in alike:
            for block in stage["blocks"][:1]:
                yield from _part(f"{where} blocks", block)
            continue
        for j, block in enumerate(stage["blocks"]):
            yield from _part(f"{where} block {j + 1}", block)
    yield from _part("head", genome["head"])


def _part(where: str, part: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield where, str(part["kind"]).replace("_", " ")
    for gene, value in part.items():
        if gene != "kind":
            name = f"{where}: {part['kind']} {gene}".replace("_", " ")
            yield name, str(value) if isinstance(value, list | dict) else value


_FIRST = ("resolution", "stem", "stages")


def _place(name: str) -> tuple[int, int, int, int]:
    """Where a gene stands in a network; equal ones keep their order."""
    words = name.replace(":", " ").split()
    if words[0] != "stage":
        return (0, _FIRST.index(words[0]), 0, 0) if words[0] in _FIRST else (2, 0, 0, 0)
    kinds = ("channels", "downsampling", "depth", "blocks", "block")
    block = int(words[3]) if words[2] == "block" else 0
    return 1, int(words[1]), kinds.index(words[2]), block
