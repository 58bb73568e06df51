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
from dataclasses import dataclass

from results.builders import Builders, builders_of
from results.compact import Origins, compacted
from results.layout import LINE_LENGTH, Comprehension, Group, Node, flat, lines, with_prefix
from results.network import MixedNetwork, Network
from results.source import Collected, Import, check_names, collect, summaries_of
from results.writing import Writer, classes_in
from space.blueprint import Blueprint
from space.genes import MAP
from space.genome import Genome, Placed
from space.repeats import spans

# Names of model.py itself; a class or constant of a part gives way to them.
RESERVED = (
    *("RESOLUTION", "IN_CHANS", "NUM_CLASSES", "PARAMS", "MACS", "model"),
    *("num_classes", "in_chans", "block"),
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


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The text of model.py, and of each of its classes the attributes that stand elsewhere in the
    genome's network (`results.compact`)."""

    text: str
    origins: Origins


def model_source(genome: Genome, name: str, facts: Mapping[str, str] | None = None) -> str:
    """The text of model.py (see `model_file`)."""
    return model_file(genome, name, facts).text


def model_file(genome: Genome, name: str, facts: Mapping[str, str] | None = None) -> ModelFile:
    """model.py of a genome; `facts` are lines for its reader, such as `{"search": ...}`.

    Raises RuntimeError where a part's module is not plain PyTorch, or an argument of it cannot be
    written down.
    """
    blueprints = {placed: placed.part.blueprint(placed.site) for placed in genome.parts()}
    network = Network if _is_plain(genome) else MixedNetwork
    collected = _collect(blueprints, network)
    taken = {*collected.names.values(), *collected.bound, *RESERVED}
    builders = builders_of(blueprints, taken)
    writer = Writer(collected.name_of)
    calls = {path: writer.call(call) for path, call in builders.calls.items()}
    cost = genome.cost()
    sizes = f"{genome.resolution}, {genome.in_channels}, {genome.classes}"
    constants = [
        f"RESOLUTION, IN_CHANS, NUM_CLASSES = {sizes}",
        f"PARAMS = {cost.params:_}",
        f"MACS = {cost.macs:_}  # of one image; {_MACS}",
    ]
    sections = [
        "\n\n".join(
            [
                _docstring(genome, name, facts or {}),
                collected.imports,
                "\n".join(constants),
            ]
        ),
        _network(genome, calls, collected.name_of(network)),
        *_functions(builders, collected),
        collected.body,
        _TIMM.format(name=_timm_name(name), maps=tuple(range(len(_features(genome))))),
        _MAIN,
    ]
    made = compacted("\n\n\n".join(sections))
    check_names(made.text)
    return ModelFile(made.text, made.origins)


def _is_plain(genome: Genome) -> bool:
    """Whether a map alone goes from stage to stage."""
    return all(placed.site.flow == MAP for placed in genome.parts())


def _features(genome: Genome) -> list[tuple[int, int, int]]:
    """(stage, channels, reduction) of the last stage at each resolution."""
    found: dict[int, tuple[int, int, int]] = {}
    reduction: int = genome.stem.stride  # type: ignore[attr-defined]
    for i, stage in enumerate(genome.stages):
        reduction *= stage.stride
        found[reduction] = (i, stage.channels, reduction)
    return list(found.values())


def _collect(blueprints: Mapping[Placed, Blueprint], network: type) -> Collected:
    """The source of every class that the network uses."""
    classes = [cls for placed, tree in blueprints.items() for cls in classes_in(tree, placed.path)]
    imports = [
        Import("typing", "Any"),
        Import("torch"),
        Import("torch", "nn"),
        Import("torch.nn.functional", None, "F"),
        Import("torch.utils.flop_counter", "FlopCounterMode"),
    ]
    return collect(
        [*dict.fromkeys(classes), network],
        imports=imports,
        reserved=RESERVED,
        barred=BARRED,
    )


def _functions(builders: Builders, collected: Collected) -> Iterator[str]:
    """The functions that build the parts; the first of a kind says what it is."""
    said: set[str] = set()
    for function, home in builders.functions:
        abouts = [""] if home in said else [*summaries_of(home)]
        said.add(home)
        yield Writer(collected.name_of).function(function, abouts)


def _timm_name(name: str) -> str:
    """What timm calls the network."""
    return "chimera_" + re.sub(r"\W+", "_", safe_name(name)).strip("_").lower()


_TIMM = """\
try:
    from timm.models import build_model_with_cfg, register_model

    @register_model
    def {name}(pretrained: bool = False, **settings: Any) -> Any:
        features = {{"feature_cls": "getter", "out_indices": {maps}}}
        settings = {{"num_classes": NUM_CLASSES, "feature_cfg": features, **settings}}
        return build_model_with_cfg(model, "{name}", pretrained, **settings)
except (ImportError, RuntimeError, KeyError):  # no timm that loads, or not in sys.modules
    pass"""

_MAIN = """\
if __name__ == "__main__":
    with torch.device("meta"), FlopCounterMode(display=False) as counter:  # computes nothing
        network = model().eval()
        logits = network(torch.empty(1, IN_CHANS, RESOLUTION, RESOLUTION))
    params, macs = sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2
    print(f"{params:,} parameters, {macs:,} multiply-adds, logits {tuple(logits.shape)}")
    if (params, macs) != (PARAMS, MACS):
        raise SystemExit(f"expected {PARAMS:,} parameters and {MACS:,} multiply-adds")
"""


# --- docstring ----------------------------------------------------------------------------------


def _docstring(genome: Genome, name: str, facts: Mapping[str, str]) -> str:
    rows = [("Genome", genome.digest), *fact_rows(facts)]
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
    text = "\n".join(lines).replace('"', "'")  # nothing in it can end the string
    prefix = "r" if "\\" in text else ""
    return f'{prefix}"""{text}\n"""'


_MACS = "1 MAC = 2 FLOPs, papers often call MACs FLOPs"


def cost_rows(genome: Genome) -> list[tuple[str, str]]:
    """Parameters and multiply-adds for a reader, with the convention said."""
    cost = genome.cost()
    macs = f"{cost.macs / 1e9:.3f} G ({cost.macs:,}) an image"
    return [
        ("Parameters", f"{cost.params / 1e6:.2f} M ({cost.params:,})"),
        ("MACs", f"{macs}; {_MACS}"),
    ]


def fact_rows(facts: Mapping[str, str]) -> list[tuple[str, str]]:
    """The facts given by the caller, each on one line; empty ones left out."""
    rows = [(_plain(str(key))[:24], _plain(str(value))) for key, value in facts.items()]
    return [(key[0].upper() + key[1:], value) for key, value in rows if key and value]


def _plain(text: str) -> str:
    """`text` on one line, with a space for whatever is not printed (line ends, control marks)."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


# --- the network as one call --------------------------------------------------------------------


_STAGES = "# behind each: channels x height x width of what it gives"


def _network(genome: Genome, calls: Mapping[str, Group], network: str) -> str:
    """`def model(...)`; blocks that repeat in a row are said once, with their number."""
    side = genome.resolution
    call = Group(
        f"return {network}(",
        ")",
        [
            with_prefix("stem=", calls["stem"]),
            Group("stages=[", "]", _stages(genome, calls), _STAGES, packs=False),
            with_prefix("head=", calls["head"]),
            "num_classes=num_classes",
            Group("features=[", "]", [*map(str, _features(genome))], "# stage, channels, stride"),
        ],
    )
    return "\n".join(
        [
            f"def model(num_classes: int = NUM_CLASSES, in_chans: int = IN_CHANS) -> {network}:",
            f'    """Images (N, in_chans, {side}, {side}) to logits (N, num_classes)."""',
            *lines(call, 4),
        ]
    )


def _stages(genome: Genome, calls: Mapping[str, Group]) -> list[Node]:
    sites = {placed.path: placed.site for placed in genome.parts()}
    stages: list[Node] = []
    for i, stage in enumerate(genome.stages):
        down = f"stages.{i}.downsample"
        paths = [f"stages.{i}.blocks.{j}" for j in range(len(stage.blocks))]
        out = sites[paths[-1] if paths else down]
        comment = f"# {out.channels} x {out.out_height} x {out.out_width}"
        first = [calls[down]] if down in calls else []
        stages.append(_blocks(first, [calls[path] for path in paths], comment))
    return stages


def _blocks(first: Sequence[Group], calls: Sequence[Group], comment: str) -> Group:
    """A list of calls; each gives a module of its own, however often its line is run."""
    items: list[Node] = [*first]
    start = 0
    for length, times in spans([flat(call) for call in calls]):
        given = calls[start : start + length]
        items += [_repeated(given, times, "*(", ")")] if times > 1 else given
        start += length * times
    return Group("[", "]", items, comment)


def _repeated(calls: Sequence[Group], times: int, opening: str, closing: str) -> Comprehension:
    again = f"for _ in range({times})"
    if len(calls) == 1:
        return Comprehension(opening, closing, calls[0], [again])
    each = Group("for block in (", ")", calls, packs=False)
    return Comprehension(opening, closing, "block", [again, each])
