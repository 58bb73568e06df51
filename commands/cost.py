"""`run_search.py cost`: what a network costs, stage by stage, and what a device makes of that."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from commands.cost_on_device import Figures, OnDevice, look
from commands.options import load_plugins
from commands.zoo import read_genome
from evaluator.roofline import Bound, Peaks
from results.console import CommandLine, Console, table
from results.export import load_module
from results.history import Row
from results.run_folder import RunFolder, read_yaml
from results.store import Store
from search.settings import Settings
from space.budget import cost_figure, cost_text, quantity
from space.cost import Cost
from space.device import DEVICE_EXAMPLES, Device
from space.genome import Genome, Placed
from space.network import build


def cost_parser() -> CommandLine:
    parser = CommandLine(
        prog="run_search.py cost",
        description="Says what a network costs: MACs, parameters, memory and, with --device, how "
        "long it takes there and how much of the device it uses.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "network",
        help="an exported folder or its model.py, a genome.json, the name of a preset, or with "
        "--run the name or the beginning of the digest of a network of that run",
    )
    parser.add_argument("--run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--resolution", type=int, help="side of the input, pixels")
    parser.add_argument("--classes", type=int, help="default: the network's")
    parser.add_argument(
        "--device",
        action="append",
        metavar="DEVICE",
        help=f"measure it there, or predict it from a profile: {DEVICE_EXAMPLES}; may be repeated",
    )
    parser.add_argument("--blocks", action="store_true", help="a line for each block")
    parser.add_argument("--plugin", action="append", help="a Python file with parts of your own")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(action=_cost)
    return parser


def _cost(options: argparse.Namespace, console: Console) -> int:
    source = read_source(options)
    devices = [Device.parse(text) for text in options.device or ()]
    groups = list(groups_of(source.genome, blocks=options.blocks))
    found = [look(source, device, console) for device in devices]
    # Without a device: one image in float32, and no time.
    found = found or [look(source, Device(), console, timed=False)]
    value = _plain(source, groups) | {"devices": [_device_plain(on, groups) for on in found]}
    shown: list[Any] = [_facts(source), _layers_table(source, groups)]
    for on in found:
        shown += ["", *_device_facts(on), _device_table(on, groups)]
    console.result(value, shown)
    return 0


# ---- which network


@dataclass(frozen=True, slots=True)
class Source:
    """A network by its genome, and its own source, where it was exported."""

    name: str
    genome: Genome
    model: ModuleType | None = None

    def make(self) -> nn.Module:
        """The network with any weights."""
        if self.model is None:
            return build(self.genome)
        network: nn.Module = self.model.model()
        return network


def read_source(options: argparse.Namespace) -> Source:
    """ValueError that says what is wrong with what the command line names."""
    for name in ("resolution", "classes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, but must be at least 1")
    if options.run is not None:
        source = _of_run(options.run, options.network)
    else:
        source = _of_file(options.network)
    if options.resolution is None and options.classes is None:
        return source
    changed = source.genome.at(resolution=options.resolution, classes=options.classes)
    changed.cost()  # ValueError where it cannot be built
    return Source(source.name, changed)


def _of_file(text: str) -> Source:
    path = Path(text)
    if path.is_dir() and (path / "model.py").is_file():
        path /= "model.py"
    if path.suffix != ".py" or not path.is_file():
        return Source(*read_genome(text))
    beside = path.parent / "genome.json"
    if not beside.is_file():
        raise ValueError(f"{text!r} has no genome.json beside it: give a network as it is exported")
    name, genome = read_genome(str(beside))
    try:
        module = load_module(path)
        with torch.device("meta"):
            params = sum(p.numel() for p in module.model().parameters())
    except Exception as error:  # whatever the file does
        raise ValueError(f"{str(path)!r} fails: {type(error).__name__}: {error}") from error
    if params != genome.cost().params:
        raise ValueError(
            f"{str(path)!r} has {params:,} parameters, but the network of the genome.json beside "
            f"it has {genome.cost().params:,}: they are not the same network"
        )
    return Source(name, genome, module)


def _of_run(path: Path, text: str) -> Source:
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise ValueError(f"{str(path)!r} is not a run folder: it has no config.yaml")
    load_plugins(Settings.from_plain(read_yaml(folder.config, "config")).plugins)
    with Store(folder.database, readonly=True) as store:
        row = _one(store.rows(), text, path)
    try:
        return Source(row.name, Genome.from_json(row.genome))
    except ValueError as error:
        raise ValueError(f"network {row.name} of {str(path)!r}: {error}") from None


def _one(rows: Sequence[Row], text: str, path: Path) -> Row:
    """The row of that name, or whose name or digest begins like that."""
    found = [row for row in rows if text in (row.name, row.digest)]
    found = found or [row for row in rows if row.name.startswith(text)]
    found = found or [row for row in rows if row.digest.startswith(text)]
    if not text or not found:
        example = f", such as {rows[0].name}" if rows else ""
        raise ValueError(f"no network {text!r} in {str(path)!r}, which has {len(rows)}{example}")
    if len(found) > 1:
        raise ValueError(
            f"{text!r} may be any of {len(found)} networks of {str(path)!r}, such as "
            f"{found[0].name} and {found[1].name}: write more of it"
        )
    return found[0]


# ---- stages and blocks


@dataclass(frozen=True, slots=True)
class Group:
    """Some parts of a network that follow one another: a stage, or a block of it."""

    title: str
    numbers: tuple[int, ...]  # in the order of `Genome.parts`
    parts: tuple[Placed, ...]

    @property
    def cost(self) -> Cost:
        return sum((placed.cost() for placed in self.parts), Cost())

    @property
    def kinds(self) -> str:
        """`patch_merging, 3 attention, 3 inverted_bottleneck`."""
        counts = Counter(placed.part.kind for placed in self.parts)
        return ", ".join(
            kind if times == 1 else f"{times} {kind}" for kind, times in counts.items()
        )

    @property
    def shape(self) -> str:
        """Of what goes out: `96 x 56 x 56`."""
        site = self.parts[-1].site
        if self.parts[-1].part.category == "head":
            return str(site.channels)
        return f"{site.channels} x {site.out_height} x {site.out_width}"


def groups_of(genome: Genome, *, blocks: bool) -> Iterator[Group]:
    """Stem, stages and head, or with `blocks` every part for itself."""
    collected: dict[str, list[tuple[int, Placed]]] = {}
    for number, placed in enumerate(genome.parts()):
        pieces = placed.path.split(".")
        stage = f"stage {int(pieces[1]) + 1}" if len(pieces) > 1 else placed.path
        title = stage
        if blocks and len(pieces) > 1:
            title += " down" if pieces[2] == "downsample" else f" block {int(pieces[3]) + 1}"
        collected.setdefault(title, []).append((number, placed))
    for title, found in collected.items():
        numbers, parts = zip(*found, strict=True)
        yield Group(title, numbers, parts)


# ---- what the layers cost


def _plain(source: Source, groups: Sequence[Group]) -> dict[str, Any]:
    genome = source.genome
    return {
        "name": source.name,
        "digest": genome.digest,
        "resolution": genome.resolution,
        "classes": genome.classes,
        **_costs_plain(genome.cost()),
        "parts": [
            {"name": group.title, "kinds": group.kinds, "output": group.shape}
            | _costs_plain(group.cost)
            for group in groups
        ],
    }


def _costs_plain(cost: Cost) -> dict[str, int]:
    return asdict(cost) | {"flops": 2 * cost.macs}


def _facts(source: Source) -> str:
    genome, cost = source.genome, source.genome.cost()
    return (
        f"{source.name} ({genome.digest}): {cost.params:,} parameters, {quantity(cost.macs)} MACs "
        f"(= {quantity(2 * cost.macs)} FLOPs at 2 each), {quantity(cost.activations)} activations, "
        f"{cost_text('bytes_moved', cost.bytes_moved)} by its layers; one image of "
        f"{genome.resolution} pixels in float32"
    )


def _layers_table(source: Source, groups: Sequence[Group]) -> Any:
    total = source.genome.cost()
    columns = ["", "parts", "output", "MACs", "", "params", "", "activations", ""]
    rows = [
        [group.title, group.kinds, group.shape, *_shares(group.cost, total)] for group in groups
    ]
    return table("", columns, [*rows, ["all", "", "", *_shares(total, total)]])


def _shares(cost: Cost, total: Cost) -> Iterator[str]:
    for name in ("macs", "params", "activations"):
        value = getattr(cost, name)
        yield quantity(value)
        yield percent(value, getattr(total, name))


def percent(value: float, total: float) -> str:
    return f"{value / total:.1%}" if total else "-"


# ---- what a device makes of it


def _device_plain(on: OnDevice, groups: Sequence[Group]) -> dict[str, Any]:
    return {
        "device": on.device.name,
        "batch": on.as_measured.batch,
        "dtype": on.as_measured.dtype,
        "environment": dict(on.environment),
        **_figures_plain(on.whole),
        "weights": on.memory.weights,
        "measured": None if on.measured is None else asdict(on.measured),
        "unmeasured": on.unmeasured,
        "predicted": None if on.predicted is None else asdict(on.predicted),
        "peaks": None if on.peaks is None else asdict(on.peaks),
        "parts": [{"name": g.title, **_figures_plain(on.of(g.numbers))} for g in groups],
    }


def _figures_plain(figures: Figures) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "flops": figures.flops,
        "bytes_moved": figures.bytes_moved,
        "flops_per_byte": figures.flops_per_byte,
        "peak_memory": figures.peak_memory,
    }
    if figures.ms is not None:
        plain["ms"] = figures.ms
    if figures.bound is not None:
        plain |= {
            "attainable_ms": figures.bound.ms,
            "compute_bound_ms": figures.bound.computing_ms,
            "bound_by": _bound_by(figures.bound),
            "share_of_roofline": figures.share_of_roofline,
        }
    return plain


def _bound_by(bound: Bound) -> str:
    return "compute" if bound.computes else "memory"


def _device_facts(on: OnDevice) -> Iterator[str]:
    whole, device, said = on.whole, on.as_measured, on.environment.get("device")
    images = "one image" if device.batch == 1 else f"{device.batch} images"
    yield f"{on.device.name}{f' ({said})' if said else ''}: a pass of {images} in {device.dtype}"
    yield (
        f"memory: {cost_figure('memory', whole.peak_memory)} at the peak, "
        f"{cost_figure('memory', on.memory.weights)} of it weights; operators read and write "
        f"{cost_figure('bytes_moved', whole.bytes_moved)}, {whole.flops_per_byte:.3g} FLOPs for "
        "each byte"
    )
    if on.measured is not None:
        m = on.measured
        yield f"measured: {m.ms:.4g} ms, quartiles {m.low:.4g} and {m.high:.4g}, {m.passes} passes"
    elif on.unmeasured:
        yield f"not measured: {on.unmeasured}"
    if on.predicted is not None:
        p = on.predicted
        yield (
            f"predicted: {p.ms:.4g} ms, give or take {p.deviation_ms:.2g}; {p.known} of its "
            f"{p.parts} parts were measured ({p.profile})"
        )
    if on.peaks is not None and whole.bound is not None:
        yield _roofline(on.peaks, whole, whole.bound)


def _roofline(peaks: Peaks, whole: Figures, bound: Bound) -> str:
    text = (
        f"roofline: {quantity(peaks.flops)}FLOPs and {quantity(peaks.bytes)}B a second, so at "
        f"least {bound.ms:.4g} ms"
    )
    if whole.share_of_roofline is not None:
        text += f", {whole.share_of_roofline:.0%} of what it takes"
    share = percent(bound.computing_ms, bound.ms)
    return f"{text}; {_bound_by(bound)}-bound: {share} of that time is bound by compute"


Cell = Callable[[Figures], str]


def _device_table(on: OnDevice, groups: Sequence[Group]) -> Any:
    columns: list[tuple[str, Cell]] = [
        ("bytes moved", lambda f: cost_figure("bytes_moved", f.bytes_moved)),
        ("FLOPs per byte", lambda f: f"{f.flops_per_byte:.3g}"),
        ("peak memory", lambda f: cost_figure("memory", f.peak_memory)),
    ]
    if on.parts_ms is not None:
        columns.append(("ms", lambda f: f"{f.ms:.3g}"))
    if on.peaks is not None:
        columns.append(("at least, ms", lambda f: f"{f.bound.ms:.3g}" if f.bound else "-"))
        columns.append(("of the roofline", lambda f: _share(f.share_of_roofline)))
        columns.append(("bound by", lambda f: _bound_by(f.bound) if f.bound else "-"))
    lines = [*((g.title, on.of(g.numbers)) for g in groups), ("all", on.whole)]
    rows = [[title, *(cell(figures) for _, cell in columns)] for title, figures in lines]
    return table("", ["", *(title for title, _ in columns)], rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
