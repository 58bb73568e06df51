"""Writes a network as one file of plain PyTorch source, `model.py`.

The whole network stands at the top as one call, a line or so for each block; below it only those
module classes that it uses, copied from the parts' source (`results.source`). Numbers and names
come from checked genes; free text (a run's name, a command) reaches the docstring with everything
taken out that could end a string or a line.
"""

from __future__ import annotations

import json
import keyword
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from results.source import LINE_LENGTH, Collected, Import, check_names, collect
from space.genome import Genome, Placed
from space.network import Network, Stage

# Names of model.py itself; a class or constant of a part gives way to them.
RESERVED = ("RESOLUTION", "IN_CHANNELS", "CLASSES", "PARAMS", "MACS", "model", "repeated")

# What describes networks must not become part of one.
BARRED = tuple(
    f"space.{name}" for name in ("cost", "discovery", "genes", "genome", "settings", "slicing")
)

# Which field of its site tells a part the number of input channels, or of classes.
_FOLLOWS = {"stem": ("in_channels", "in_channels"), "head": ("classes", "channels")}


def safe_name(name: str) -> str:
    """`name` with only letters, digits, '.', '_' and '-', fit for a folder; ValueError if empty."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:100].strip(".-")
    if not safe:
        raise ValueError(f"name is {name!r}, but must have a letter or a digit")
    return safe


def model_source(genome: Genome, name: str, facts: Mapping[str, str] | None = None) -> str:
    """The text of model.py; `facts` are lines for its reader, such as `{"search": ...}`.

    Raises RuntimeError where a part's module is not plain PyTorch, or an argument of it cannot be
    written down.
    """
    call = _ModelCall(genome)
    collected = _collect(call)
    cost = genome.cost()
    constants = [
        f"RESOLUTION = {genome.resolution}  # pixels, of a square image",
        f"IN_CHANNELS = {genome.in_channels}",
        f"CLASSES = {genome.classes}",
        f"PARAMS = {cost.params:_}",
        f"MACS = {cost.macs:_}  # multiply-adds of one image",
    ]
    sections = [
        "\n\n".join(
            [
                _docstring(genome, name, facts or {}),
                collected.imports,
                "\n".join(constants),
            ]
        ),
        call.render(collected),
        *([_REPEATED] if call.repeats else []),
        collected.body,
        _MAIN,
    ]
    source = "\n\n\n".join(sections)
    check_names(source)
    return source


_REPEATED = '''\
def repeated(times: int, module: Callable[..., nn.Module], **arguments: Any) -> list[nn.Module]:
    """`times` modules built alike, each with weights of its own."""
    return [module(**arguments) for _ in range(times)]'''

_MAIN = """\
if __name__ == "__main__":
    # On the meta device nothing is computed, and attention is counted too.
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model().eval()(torch.empty(1, IN_CHANNELS, RESOLUTION, RESOLUTION))
    network = model().eval()
    params = sum(parameter.numel() for parameter in network.parameters())
    macs = counter.get_total_flops() // 2
    print(f"parameters     {params:,}")
    print(f"multiply-adds  {macs:,}")
    if (params, macs) != (PARAMS, MACS):
        raise SystemExit(f"expected {PARAMS:,} parameters and {MACS:,} multiply-adds")
    with torch.no_grad():
        logits = network(torch.randn(1, IN_CHANNELS, RESOLUTION, RESOLUTION))
    print(f"logits         {tuple(logits.shape)}")
"""


def _collect(call: _ModelCall) -> Collected:
    """The source of every class that the network uses, under the docstrings of its parts."""
    headings: dict[str, list[str]] = {}
    for placed in call.parts:
        notes = headings.setdefault(placed.part.module.__module__, [])
        if type(placed.part).__module__ not in notes:
            notes.append(type(placed.part).__module__)
    imports = [
        Import("torch"),
        Import("torch", "nn"),
        Import("torch.utils.flop_counter", "FlopCounterMode"),
    ]
    if call.repeats:
        imports += [Import("collections.abc", "Callable"), Import("typing", "Any")]
    if call.shared:
        imports.append(Import("functools", "partial"))
    return collect(
        [*call.classes(), Stage, Network],
        imports=imports,
        reserved=RESERVED,
        headings=headings,
        barred=BARRED,
    )


# --- docstring ----------------------------------------------------------------------------------


def _docstring(genome: Genome, name: str, facts: Mapping[str, str]) -> str:
    side = genome.resolution
    rows = [
        ("Input", f"{genome.in_channels} x {side} x {side} pixels"),
        *cost_rows(genome),
        ("Genome", genome.digest),
        *fact_rows(facts),
    ]
    width = max(len(key) for key, _ in rows) + 2
    lines = [f"{safe_name(name)}: an image classifier in plain PyTorch.", ""]
    for key, value in rows:
        lines += textwrap.wrap(
            value,
            LINE_LENGTH,
            initial_indent=key.ljust(width),
            subsequent_indent=" " * width,
            break_on_hyphens=False,
        )
    shapes = f"(N, {genome.in_channels}, {side}, {side}) to (N, {genome.classes})"
    lines += [
        "",
        "    from model import model",
        "",
        "    network = model()  # model(classes=10) changes the classifier only",
        f"    logits = network(images)  # {shapes}",
        "",
        "`python model.py` counts parameters and multiply-adds and runs one image.",
    ]
    text = "\n".join(lines).replace('"', "'")  # nothing in it can end the string
    prefix = "r" if "\\" in text else ""
    return f'{prefix}"""{text}\n"""'


def cost_rows(genome: Genome) -> list[tuple[str, str]]:
    """Parameters and multiply-adds for a reader, with the convention said."""
    cost = genome.cost()
    macs = f"{cost.macs / 1e9:.3f} G ({cost.macs:,}) an image"
    return [
        ("Parameters", f"{cost.params / 1e6:.2f} M ({cost.params:,})"),
        ("MACs", f"{macs}; 1 MAC = 2 FLOPs, papers often call MACs FLOPs"),
    ]


def fact_rows(facts: Mapping[str, str]) -> list[tuple[str, str]]:
    """The facts given by the caller, each on one line; empty ones left out."""
    rows = [(_plain(str(key))[:24], _plain(str(value))) for key, value in facts.items()]
    return [(key[0].upper() + key[1:], value) for key, value in rows if key and value]


def _plain(text: str) -> str:
    """`text` on one line, with a space for whatever is not printed (line ends, control marks)."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


# --- the network as one call --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Symbol:
    """A multiple of `classes` or `in_channels`, the arguments of `model()`."""

    name: str
    factor: int = 1

    def __str__(self) -> str:
        return self.name if self.factor == 1 else f"{self.factor} * {self.name}"


def _arguments(placed: Placed) -> dict[str, Any]:
    """The arguments of a part, with those that follow classes or in_channels as symbols."""
    arguments = placed.part.arguments(placed.site)
    for name in arguments:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise RuntimeError(f"{placed.path}: argument {name!r} is not a name")
    if placed.part.category not in _FOLLOWS:
        return arguments
    gene, field = _FOLLOWS[placed.part.category]
    size = getattr(placed.site, field)
    sizes = (size, size + 1, size + 2)
    sites = [replace(placed.site, **{field: probe}) for probe in sizes]
    probes = [placed.part.arguments(site) for site in sites]
    return {
        name: _follow(gene, sizes, [probe[name] for probe in probes], f"{placed.path}: {name}")
        for name in arguments
    }


def _follow(gene: str, sizes: Sequence[int], values: Sequence[Any], where: str) -> Any:
    """The value itself where it stays the same, a symbol where it grows as `sizes` do."""
    first = values[0]
    if all(value == first for value in values):
        return first
    if all(isinstance(value, tuple) and len(value) == len(first) for value in values):
        return tuple(_follow(gene, sizes, column, where) for column in zip(*values, strict=True))
    if all(type(value) is int for value in values):
        factor = first // sizes[0]
        if [factor * size for size in sizes] == list(values):
            return _Symbol(gene, factor)
    raise RuntimeError(f"{where} follows {gene} in a way that cannot be written: {values}")


_Kind = tuple[str, str]  # category and kind of a part


class _ModelCall:
    """`def model(...)`, the network as one call.

    Blocks alike in a row are said once, with their number. What all parts of one kind have alike
    (norm, activation and such, but no widths) is said once, in a `partial` named after the kind.
    """

    def __init__(self, genome: Genome):
        self.genome = genome
        self.parts = list(genome.parts())
        self._by_path = {placed.path: placed for placed in self.parts}
        self._arguments = {placed.path: _arguments(placed) for placed in self.parts}
        self._runs = [
            self._runs_of([f"stages.{i}.blocks.{j}" for j in range(len(stage.blocks))])
            for i, stage in enumerate(genome.stages)
        ]
        self.repeats = any(len(run) > 1 for runs in self._runs for run in runs)
        self.shared = self._shared()

    def classes(self) -> list[type]:
        """Every class that the call names and that is not torch's, in the order met."""
        found: dict[type, None] = {}
        for placed in self.parts:
            for value in (placed.part.module, *self._arguments[placed.path].values()):
                found.update((cls, None) for cls in _classes_in(value) if not _torch_name(cls))
        return list(found)

    def render(self, collected: Collected) -> str:
        """The function's source."""
        side = self.genome.resolution
        locals_ = self._local_names(collected)
        lines = [
            "def model(classes: int = CLASSES, in_channels: int = IN_CHANNELS) -> Network:",
            f'    """Images (N, in_channels, {side}, {side}) to logits (N, classes)."""',
        ]
        for kind, names in self.shared.items():
            placed = next(placed for placed in self.parts if _kind(placed) == kind)
            given = {name: self._arguments[placed.path][name] for name in names}
            function = collected.name_of(placed.part.module)
            items = [function, *_keywords(given, placed.path, collected)]
            lines += _lines(_Group(f"{locals_[kind]} = partial(", ")", items), 4)
        stages = [self._stage(i, locals_, collected) for i in range(len(self._runs))]
        network = _Group(
            f"return {collected.name_of(Network)}(",
            ")",
            [
                _with_prefix("stem=", self._call(["stem"], locals_, collected)),
                _Group("stages=[", "]", stages, packs=False),
                _with_prefix("head=", self._call(["head"], locals_, collected)),
            ],
        )
        return "\n".join([*lines, *_lines(network, 4)])

    def _key(self, path: str) -> str:
        """Equal for parts that are built by the same call (`repr` tells 1 from True)."""
        return repr((_kind(self._by_path[path]), self._arguments[path]))

    def _runs_of(self, paths: Sequence[str]) -> list[list[str]]:
        runs: list[list[str]] = []
        for path in paths:
            if runs and self._key(runs[-1][0]) == self._key(path):
                runs[-1].append(path)
            else:
                runs.append([path])
        return runs

    def _shared(self) -> dict[_Kind, list[str]]:
        """Kind -> the arguments said once for it; only for kinds called in several ways."""
        calls: dict[_Kind, dict[str, dict[str, Any]]] = {}
        for placed in self.parts:
            ways = calls.setdefault(_kind(placed), {})
            ways[self._key(placed.path)] = self._arguments[placed.path]
        shared = {
            kind: [
                name
                for name, value in next(iter(ways.values())).items()
                if name not in ("in_channels", "channels")
                and len({repr(given.get(name, ...)) for given in ways.values()}) == 1
            ]
            for kind, ways in calls.items()
            if len(ways) > 1
        }
        return {kind: names for kind, names in shared.items() if names}

    def _local_names(self, collected: Collected) -> dict[_Kind, str]:
        """A name for each `partial` that means nothing else in the file."""
        taken = {*collected.names.values(), *collected.bound, *RESERVED, *keyword.kwlist}
        taken |= {"classes", "in_channels"}
        names: dict[_Kind, str] = {}
        for kind in self.shared:
            name = re.sub(r"\W", "_", kind[1])
            name = name if name.isidentifier() else f"{kind[0]}_{name}"
            while name in taken:
                name += "_"
            taken.add(name)
            names[kind] = name
        return names

    def _call(
        self, run: Sequence[str], locals_: Mapping[_Kind, str], collected: Collected
    ) -> _Group:
        placed = self._by_path[run[0]]
        said = self.shared.get(_kind(placed), [])
        given = {name: v for name, v in self._arguments[placed.path].items() if name not in said}
        function = locals_.get(_kind(placed)) or collected.name_of(placed.part.module)
        items = _keywords(given, placed.path, collected)
        if len(run) == 1:
            return _Group(f"{function}(", ")", items)
        return _Group("*repeated(", ")", [str(len(run)), function, *items])

    def _stage(self, i: int, locals_: Mapping[_Kind, str], collected: Collected) -> _Group:
        down, runs = f"stages.{i}.downsample", self._runs[i]
        site = self._by_path[runs[-1][-1] if runs else down].site
        downsample: _Node = "None"
        if down in self._by_path:
            downsample = self._call([down], locals_, collected)
        blocks = [self._call(run, locals_, collected) for run in runs]
        return _Group(
            f"{collected.name_of(Stage)}(",
            ")",
            [
                _with_prefix("downsample=", downsample),
                _Group("blocks=[", "]", blocks, packs=False),
            ],
            comment=f"# {i}: {site.channels} channels, {site.out_height} x {site.out_width} pixels",
        )


def _kind(placed: Placed) -> _Kind:
    return placed.part.category, placed.part.kind


def _classes_in(value: Any) -> list[type]:
    if isinstance(value, tuple):
        return [cls for item in value for cls in _classes_in(item)]
    return [value] if isinstance(value, type) else []


def _torch_name(cls: type) -> str:
    """`nn.GELU` for a class of torch.nn, nothing for others."""
    return f"nn.{cls.__name__}" if getattr(nn, cls.__name__, None) is cls else ""


def _keywords(given: Mapping[str, Any], path: str, collected: Collected) -> list[_Node]:
    return [
        _with_prefix(f"{name}=", _literal(value, f"{path}: {name}", collected))
        for name, value in given.items()
    ]


def _literal(value: Any, where: str, collected: Collected) -> _Node:
    """The source of an argument; RuntimeError for what an export cannot write down."""
    if type(value) is tuple:
        return _Group("(", ")", [_literal(item, where, collected) for item in value], packs=False)
    if isinstance(value, type):
        if _torch_name(value):
            return _torch_name(value)
        if issubclass(value, nn.Module):
            return collected.name_of(value)
    if value is None or type(value) in (bool, int, _Symbol):
        return str(value)
    if type(value) is float and math.isfinite(value):
        return repr(value)
    if type(value) is str and value.isprintable():
        return json.dumps(value, ensure_ascii=False)
    raise RuntimeError(
        f"{where} is {value!r}, but must be a finite number, a string, None, a module class or a "
        "tuple of these"
    )


# --- layout, as Ruff has it ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Group:
    """Items between brackets; the comment stands on the line above.

    Where they do not fit on the line, arguments may share a line of their own (`packs`); the
    items of a list or tuple get a line each.
    """

    opening: str
    closing: str
    items: Sequence[_Node]
    comment: str = ""
    packs: bool = True


_Node = str | _Group


def _with_prefix(prefix: str, node: _Node) -> _Node:
    if isinstance(node, str):
        return prefix + node
    return replace(node, opening=prefix + node.opening)


def _flat(node: _Node) -> str | None:
    """The node, without its comment, on one line; None where a comment inside forbids it."""
    if isinstance(node, str):
        return node
    inside = _joined(node.items)
    if inside is None:
        return None
    lone = not node.packs and node.closing == ")" and len(node.items) == 1  # (1,)
    return node.opening + inside + ("," if lone else "") + node.closing


def _joined(items: Iterable[_Node]) -> str | None:
    flat = [None if isinstance(i, _Group) and i.comment else _flat(i) for i in items]
    return None if None in flat else ", ".join(text for text in flat if text is not None)


def _lines(node: _Node, indent: int, after: str = "") -> list[str]:
    """The node broken as little as the line length asks for."""
    flat, margin = _flat(node), " " * indent
    if isinstance(node, str):
        return [f"{margin}{node}{after}"]
    lines = [margin + node.comment] if node.comment else []
    if flat is not None and indent + len(flat) + len(after) <= LINE_LENGTH:
        return [*lines, f"{margin}{flat}{after}"]
    lines.append(margin + node.opening)
    joined = _joined(node.items) if node.packs else None
    if joined is not None and indent + 4 + len(joined) <= LINE_LENGTH:
        lines.append(f"{margin}    {joined}")
    else:
        for item in node.items:
            lines += _lines(item, indent + 4, ",")
    return [*lines, f"{margin}{node.closing}{after}"]
