"""Writes a network as one file of plain PyTorch source, `model.py`.

The whole network stands at the top as one call, a line or so for each stage. Below it are the
functions that build its parts (`results.builders`), and below these only those module classes that
it uses, copied from where they are defined (`results.source`). Numbers and names
come from checked genes; free text (a run's name, a command) reaches the docstring with everything
taken out that could end a string or a line.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from results.builders import Builders, builders_of
from results.layout import LINE_LENGTH, Comprehension, Group, Node, flat, lines, with_prefix
from results.source import Collected, Import, check_names, collect, docstring_of
from results.writing import Writer, classes_in
from space.blueprint import Blueprint
from space.genome import Genome, Placed
from space.network import Network, Stage
from space.repeats import spans

# Names of model.py itself; a class or constant of a part gives way to them.
RESERVED = (
    *("RESOLUTION", "IN_CHANNELS", "CLASSES", "PARAMS", "MACS", "model"),
    *("classes", "in_channels", "block"),
)

# What describes networks must not become part of one.
BARRED = tuple(
    f"space.{name}"
    for name in (
        *("blueprint", "cost", "discovery", "genes", "genome", "settings", "shared", "slicing"),
        "units",
    )
)


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
    blueprints = {placed: placed.part.blueprint(placed.site) for placed in genome.parts()}
    collected = _collect(blueprints)
    taken = {*collected.names.values(), *collected.bound, *RESERVED}
    builders = builders_of(blueprints, taken)
    writer = Writer(collected.name_of)
    calls = {path: writer.call(call) for path, call in builders.calls.items()}
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
        _network(genome, calls, collected),
        *_functions(builders, collected),
        collected.body,
        _MAIN,
    ]
    source = "\n\n\n".join(sections)
    check_names(source)
    return source


def _collect(blueprints: Mapping[Placed, Blueprint]) -> Collected:
    """The source of every class that the network uses."""
    classes = [cls for placed, tree in blueprints.items() for cls in classes_in(tree, placed.path)]
    imports = [
        Import("torch"),
        Import("torch", "nn"),
        Import("torch.utils.flop_counter", "FlopCounterMode"),
    ]
    return collect(
        [*dict.fromkeys(classes), Stage, Network],
        imports=imports,
        reserved=RESERVED,
        barred=BARRED,
    )


def _functions(builders: Builders, collected: Collected) -> Iterator[str]:
    """The functions that build the parts, under what the parts' files say of themselves."""
    said: set[str] = set()
    for function, home in builders.functions:
        if home not in said and (heading := docstring_of(home)):
            yield heading
        said.add(home)
        yield Writer(collected.name_of).function(function)


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


def _network(genome: Genome, calls: Mapping[str, Group], collected: Collected) -> str:
    """`def model(...)`; blocks that repeat in a row are said once, with their number."""
    side = genome.resolution
    network = Group(
        f"return {collected.name_of(Network)}(",
        ")",
        [
            with_prefix("stem=", calls["stem"]),
            Group("stages=[", "]", _stages(genome, calls, collected), packs=False),
            with_prefix("head=", calls["head"]),
        ],
    )
    return "\n".join(
        [
            "def model(classes: int = CLASSES, in_channels: int = IN_CHANNELS) -> Network:",
            f'    """Images (N, in_channels, {side}, {side}) to logits (N, classes)."""',
            *lines(network, 4),
        ]
    )


def _stages(genome: Genome, calls: Mapping[str, Group], collected: Collected) -> list[Node]:
    sites = {placed.path: placed.site for placed in genome.parts()}
    stages: list[Node] = []
    for i, stage in enumerate(genome.stages):
        down = f"stages.{i}.downsample"
        blocks = [f"stages.{i}.blocks.{j}" for j in range(len(stage.blocks))]
        out = sites[blocks[-1] if blocks else down]
        node = Group(
            f"{collected.name_of(Stage)}(",
            ")",
            [
                with_prefix("downsample=", calls.get(down, "None")),
                with_prefix("blocks=", _blocks([calls[path] for path in blocks])),
            ],
            comment=f"# {i}: {out.channels} channels, {out.out_height} x {out.out_width} pixels",
        )
        stages.append(node)
    return stages


def _blocks(calls: Sequence[Group]) -> Node:
    """A list of calls; each gives a module of its own, however often its line is run."""
    found = list(spans([flat(call) for call in calls]))
    if len(found) == 1 and found[0][1] > 1:
        return _repeated(calls[: found[0][0]], found[0][1], "[", "]")
    items: list[Node] = []
    start = 0
    for length, times in found:
        given = calls[start : start + length]
        items += [_repeated(given, times, "*(", ")")] if times > 1 else given
        start += length * times
    return Group("[", "]", items, packs=False)


def _repeated(calls: Sequence[Group], times: int, opening: str, closing: str) -> Comprehension:
    again = f"for _ in range({times})"
    if len(calls) == 1:
        return Comprehension(opening, closing, calls[0], [again])
    each = Group("for block in (", ")", calls, packs=False)
    return Comprehension(opening, closing, "block", [again, each])
