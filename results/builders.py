"""The parts of a network as functions that build them, such as `attention(channels, heads=3)`.

Parts of one kind that are put together alike share a function. The numbers in which they differ
are its parameters, or follow from these (`4 * channels`): whatever holds for all parts at hand, so
a function says how this network is made, and not all that its genes could be. What stands several
times inside of parts gets a function too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from results.layout import flat, words_of
from results.trees import (
    Column,
    Function,
    Multiples,
    Run,
    Terms,
    free,
    key,
    parts_of,
    replaced,
    skeleton,
    with_runs,
)
from results.writing import Writer, torch_name
from space.blueprint import Blueprint
from space.genes import Flow, Site
from space.genome import Placed

# Which field of its site tells a part the number of input channels, or of classes.
_FOLLOWS = {"stem": ("in_chans", "in_channels"), "head": ("num_classes", "channels")}

MOST_PARAMETERS = 7  # of one function; beyond, parts of different widths get one each
MOST_INNER = 4  # parameters of a function for what stands inside of parts
SHARED = 80  # characters of what gets such a function, at least
SAVED = 100  # characters that it must save at least
LONG_LABELS = 24  # characters of all labels of a kind; longer ones are a second choice


@dataclass(frozen=True, slots=True)
class Builders:
    """The functions of a network in the order to write them, each with the module of the part that
    it was made for; and path of a part -> the call that builds it."""

    functions: Sequence[tuple[Function, str]]
    calls: Mapping[str, Blueprint]


def builders_of(blueprints: Mapping[Placed, Blueprint], taken: Collection[str]) -> Builders:
    """Functions for all parts, none of them called by a name that is `taken`."""
    trees = {placed: with_runs(tree) for placed, tree in blueprints.items()}
    trees, inner = _share(trees, taken)
    used = set(taken)
    _name_inner(inner, used)
    taken = set(used)  # a parameter must not hide a function that is called beside it
    functions: list[tuple[Function, str]] = []
    calls: dict[str, Blueprint] = {}
    for kind in _by(trees, _kind):
        home = type(kind[0].part).__module__
        groups = [
            group
            for same in _by(kind, lambda placed: skeleton(trees[placed]))
            for group in _groups(same, trees, taken)
        ]
        for label, group in zip(_labels(groups, trees), groups, strict=True):
            function = _function(group, trees, taken)
            function.name = free(_name(group[0], label), used)
            used.add(function.name)
            functions.append((function, home))
            calls.update((placed.path, function.call(trees[placed])) for placed in group)
        for function in _used_in([found for found, _ in functions]):
            if all(function is not found for found, _ in functions):
                functions.append((function, home))
    return Builders(functions, calls)


def _kind(placed: Placed) -> tuple[str, str]:
    return placed.part.category, placed.part.kind


def _by(parts: Iterable[Placed], key: Callable[[Placed], Any]) -> list[list[Placed]]:
    """The parts by a key, in the order met."""
    found: dict[Any, list[Placed]] = {}
    for placed in parts:
        found.setdefault(key(placed), []).append(placed)
    return list(found.values())


def _groups(
    parts: Sequence[Placed], trees: Mapping[Placed, Blueprint], taken: Collection[str]
) -> list[list[Placed]]:
    """The parts, of one skeleton, that get one function: all, or those of one width each."""
    widths = _by(parts, lambda placed: placed.site.channels)
    many = len(_function(parts, trees, taken).parameters) > MOST_PARAMETERS
    return widths if many else [list(parts)]


def _function(
    parts: Sequence[Placed], trees: Mapping[Placed, Blueprint], taken: Collection[str]
) -> Function:
    """The function, without a name yet, of parts of one skeleton."""
    firsts = [same[0] for same in _by(parts, lambda placed: key(trees[placed]))]
    ways = [key(trees[placed]) for placed in firsts]
    parameters: Mapping[str, Column | None]
    if firsts[0].part.category in _FOLLOWS:
        parameters, tree = _following(firsts[0], trees[firsts[0]])
    else:
        terms = Terms(_widths_and_sides(firsts), taken)
        tree = terms.merged([trees[placed] for placed in firsts])
        parameters = terms.parameters()
    return Function(parameters, tree, ways, says=_shapes(parts, parameters))


def _following(placed: Placed, tree: Blueprint) -> tuple[dict[str, None], Blueprint]:
    """A stem or a head, with the number of input channels or classes left open."""
    name, field = _FOLLOWS[placed.part.category]
    size = getattr(placed.site, field)
    sizes = (size, size + 1, size + 2)
    sites = [replace(placed.site, **{field: probe}) for probe in sizes]
    probes = [with_runs(placed.part.blueprint(site)) for site in sites]
    if len({skeleton(probe) for probe in probes}) > 1:
        raise RuntimeError(f"{placed.path}: which modules it is made of follows {name}")
    if len({key(probe) for probe in probes}) == 1:
        return {}, tree
    return {name: None}, Multiples(name, sizes, placed.path).merged(probes)


def _widths_and_sides(parts: Sequence[Placed]) -> dict[str, Column]:
    """What of their places differs between parts. Other widths follow from the one that comes
    first: of downsampling modules that is the one that comes in."""
    sites = [placed.site for placed in parts]
    columns = {
        "channels": tuple(site.channels for site in sites),
        "in_channels": tuple(site.in_channels for site in sites),
    }
    if columns["in_channels"] == columns["channels"]:
        del columns["in_channels"]
    if parts[0].part.category == "downsampling":
        columns = dict(reversed(columns.items()))
    if all(site.height == site.width for site in sites):
        columns["side"] = tuple(site.height for site in sites)
        columns["out_side"] = tuple(site.out_height for site in sites)
    return {name: column for name, column in columns.items() if len(set(column)) > 1}


# --- what stands several times in parts ---------------------------------------------------------


def _share(
    trees: Mapping[Placed, Blueprint], taken: Collection[str]
) -> tuple[dict[Placed, Blueprint], list[Function]]:
    """The trees with calls in place of what stands several times in them; and the functions.
    Stems and heads stay as they are."""
    shared = {p: tree for p, tree in trees.items() if p.part.category not in _FOLLOWS}
    functions: list[Function] = []
    done: set[Any] = set()
    while shape := _shared_skeleton(shared, done):
        done.add(shape)
        items = (item for tree in shared.values() for _, item in _modules_below(tree))
        found = {key(item): item for item in items if skeleton(item) == shape}
        terms = Terms(None, taken)
        tree = terms.merged(list(found.values()))
        if len(terms.parameters()) <= MOST_INNER:
            function = Function(terms.parameters(), tree, list(found))
            functions.append(function)
            shared = {placed: replaced(tree, function, shape) for placed, tree in shared.items()}
    return {**trees, **shared}, functions


def _shared_skeleton(trees: Mapping[Placed, Blueprint], done: Collection[Any]) -> Any:
    """The smallest skeleton that is worth a function of its own, None if there is none.

    It stands in several places of the functions that the trees will get, and not just in one place
    of a larger one that does.
    """
    places: dict[Any, Counter[Any]] = {}
    sizes: dict[Any, int] = {}
    for same in _by(trees, lambda placed: (_kind(placed), skeleton(trees[placed]))):
        for around, item in _modules_below(trees[same[0]]):
            shape = skeleton(item)
            places.setdefault(shape, Counter())[skeleton(around)] += 1
            sizes.setdefault(shape, len(flat(Writer(lambda cls: cls.__name__).call(item)) or ""))

    def is_worth_it(shape: Any) -> bool:
        around, times = places[shape], places[shape].total()
        alone = len(around) > 1 or times > sum(places.get(next(iter(around)), {None: 1}).values())
        return alone and sizes[shape] > SHARED and (times - 1) * sizes[shape] > SAVED

    worth = [shape for shape in places if shape not in done and is_worth_it(shape)]
    return min(worth, key=lambda shape: sizes[shape], default=None)


def _modules_below(tree: Any, around: Any = None) -> Iterator[tuple[Any, Blueprint]]:
    """Each module of ours in a tree below its top, behind the nearest one around it."""
    around = tree if around is None else around
    for item in parts_of(tree):
        ours = isinstance(item, Blueprint) and not isinstance(item.module, Function)
        ours = ours and not torch_name(item.module)
        if ours:
            yield around, item
        if isinstance(item, Blueprint | Run):
            yield from _modules_below(item, item if ours else around)


def _used_in(functions: Iterable[Function]) -> list[Function]:
    """The functions that some call, and that these call, in the order met."""
    found: dict[Function, None] = {}
    pending: list[Any] = [function.tree for function in functions]
    while pending:
        tree = pending.pop(0)
        if isinstance(tree, Blueprint) and isinstance(tree.module, Function):
            if tree.module not in found:
                found[tree.module] = None
                pending.append(tree.module.tree)
        elif isinstance(tree, Blueprint | Run):
            pending += parts_of(tree)
    return list(found)


# --- names --------------------------------------------------------------------------------------


def _name(placed: Placed, label: str) -> str:
    kind = re.sub(r"\W", "_", placed.part.kind)
    kind = kind if kind.isidentifier() else f"part_{kind}"
    kind = f"{kind}_{placed.part.category}" if placed.part.category in _FOLLOWS else kind
    return f"{kind}_{label}" if label else kind


def _name_inner(functions: Sequence[Function], used: set[str]) -> None:
    """Names after the class of what they build, and what only some of it has."""
    parameters = {name for function in functions for name in function.parameters}
    for function in functions:
        cls = function.tree.module
        others = [set(other.tree.keywords) for other in functions if other.tree.module is cls]
        special = [name for name in function.tree.keywords if name not in set.intersection(*others)]
        function.name = free("_".join([*words_of(cls.__name__), *special]), used | parameters)
        used.add(function.name)


def _labels(groups: Sequence[Sequence[Placed]], trees: Mapping[Placed, Blueprint]) -> list[str]:
    """What tells groups of parts apart, in genes, places and modules: `window`, `no_context`.

    One fact if that is enough, or else several, those that read best first; possibly too few.
    """
    if len(groups) == 1:
        return [""]
    labels: list[tuple[str, ...]] = [()] * len(groups)

    def rank(words: list[str]) -> tuple[bool, bool]:
        text = "".join(words)
        awkward = any(letter.isdigit() for letter in text) or len(text) > LONG_LABELS
        return len(set(words)) < len(groups), awkward

    for values in sorted(_facts(groups, trees), key=rank):
        longer = [(*label, word) for label, word in zip(labels, values, strict=True)]
        if len(set(longer)) > len(set(labels)):
            labels = longer
    return ["_".join(filter(None, label)) for label in labels]


def _facts(
    groups: Sequence[Sequence[Placed]], trees: Mapping[Placed, Blueprint]
) -> Iterator[list[str]]:
    """Facts that are the same throughout each group, as one word for each group."""
    genes = [gene.name for gene in fields(groups[0][0].part)]  # type: ignore[arg-type]
    facts = {name: [{getattr(p.part, name) for p in group} for group in groups] for name in genes}
    for name, fact in _PLACES.items():
        facts[name] = [{fact(placed) for placed in group} for group in groups]
    for name, values in facts.items():
        if any(len(found) > 1 for found in values):  # whether there is one may be the same
            values = [{bool(value) and value != "none" for value in found} for found in values]
        if all(len(found) == 1 for found in values):
            yield _without_the_usual([_word(name, *found) for found in values])
    examples = [trees[group[0]] for group in groups]
    for having in ([_keywords(tree) for tree in examples], [_class_words(t) for t in examples]):
        for name in dict.fromkeys(name for names in having for name in names):
            yield [_word(name, name in names) for names in having]


def _without_the_usual(words: list[str]) -> list[str]:
    """Where some have a thing, all of one size, and the others have not: only `no_context`."""
    having = {word for word in words if not word.startswith("no_")}
    return ["" if word in having else word for word in words] if len(having) == 1 else words


def _keywords(tree: Any) -> list[str]:
    """The names under which modules stand in a tree."""
    names = []
    if isinstance(tree, Blueprint):
        names = [name for name, item in tree.keywords.items() if isinstance(item, Blueprint)]
    return names + [name for item in parts_of(tree) for name in _keywords(item)]


def _class_words(tree: Any) -> list[str]:
    """The words of which the names of a tree's classes are made."""
    words = []
    if isinstance(tree, Blueprint) and isinstance(tree.module, type):
        words = words_of(tree.module.__name__)
    return words + [word for item in parts_of(tree) for word in _class_words(item)]


_PLACES: dict[str, Callable[[Placed], Any]] = {
    "strided": lambda placed: placed.site.stride > 1,
    "widening": lambda placed: placed.site.in_channels != placed.site.channels,
    "beside": lambda placed: _beside(placed.site.flow).strip(),
    "channels": lambda placed: placed.site.channels,
}


def _word(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else ""
    if value in (0, None, "none"):
        return f"no_{name}"
    speaks = isinstance(value, str) and len(value) > 3  # unlike "in" and "out"
    word = value if speaks else f"{name}_{value}"
    return re.sub(r"\W+", "_", word.removeprefix("channels_")).strip("_")


# --- docstrings ---------------------------------------------------------------------------------


def _shapes(parts: Sequence[Placed], parameters: Collection[str]) -> str:
    """What the modules map to what."""
    part, site, sites = parts[0].part, parts[0].site, [placed.site for placed in parts]
    inputs, outputs = (
        name if name in parameters else str(*known) if len(known) == 1 else letter
        for name, known, letter in (
            ("in_channels", {place.in_channels for place in sites}, "C"),
            ("channels", {place.channels for place in sites}, "D"),
        )
    )
    if all(place.in_channels == place.channels for place in sites):
        inputs = outputs = "C" if outputs == "D" else outputs
    come, go = _beside(site.flow), _beside(part.gives(site))
    if part.category == "stem":
        inputs = "in_chans" if "in_chans" in parameters else inputs
        there = f"(N, {outputs}, {site.out_height}, {site.out_width}){go}"
        return f"(N, {inputs}, {site.height}, {site.width}) to {there}."
    if part.category == "head":
        classes = "num_classes" if "num_classes" in parameters else str(site.channels)
        return f"(N, {inputs}, {site.height}, {site.width}){come} to logits (N, {classes})."
    strides = {place.stride for place in sites}
    if inputs == outputs and strides == {1} and come == go:
        return f"(N, {inputs}, H, W){come} to the same."
    sides = ", ".join(_out_side(side, sites) for side in "HW")
    return f"(N, {inputs}, H, W){come} to (N, {outputs}, {sides}){go}."


def _out_side(side: str, sites: Sequence[Site]) -> str:
    strides = sorted({site.stride for site in sites})
    if strides == [1]:
        return side
    by = str(strides[0]) if len(strides) == 1 else "stride"
    even = all(site.height % site.stride == site.width % site.stride == 0 for site in sites)
    return f"{side} / {by}" if even else f"ceil({side} / {by})"


def _beside(flow: Flow) -> str:
    return "" if flow.kind == "map" else f" with {flow.kind.replace('_', ' ')}"
