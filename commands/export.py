"""One network as a folder that stands alone, in the formats that are asked for."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from commands.cost import Source, read_source
from commands.exported import EXPORTS, check_place, differences_of, formats_of, line_of, plain
from results.console import CommandLine, Console
from results.export import export_network, names_of_export
from results.formats import FILES
from space.genome import Genome


def export_parser() -> CommandLine:
    parser = CommandLine(
        prog="run_search.py export",
        description="Writes one network as a folder that stands alone: PyTorch source, and other "
        "formats, each compared with the network.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "network",
        help="a genome.json, a folder that has one, a preset's name, or with --run a network of "
        "that run (its name, or how it begins)",
    )
    parser.add_argument("--run", type=Path, help="the folder of a run")
    parser.add_argument("--out", type=Path, help="the folder to write (default: exports/NAME)")
    parser.add_argument(
        "--formats", default="", help=f"besides model.py, joined by commas: {', '.join(FILES)}"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="its weights, a safetensors file (default: weights.safetensors beside genome.json, "
        "where there is one)",
    )
    parser.add_argument("--resolution", type=int, help="pixels of a side (default: its own)")
    parser.add_argument("--classes", type=int, help="number of classes (default: its own)")
    parser.add_argument("--replace", action="store_true", help="replace an export without asking")
    parser.add_argument("--plugin", action="append", help="a Python file with parts of your own")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(action=_export)
    return parser


def _export(options: argparse.Namespace, console: Console) -> int:
    source = read_source(options)
    folder = options.out or EXPORTS / source.name
    formats = formats_of(options)
    state = _weights(options, source)
    check_place(folder, replace=options.replace)
    exported = export_network(
        source.genome,
        folder,
        name=source.name,
        facts={"command": _command(options)},
        state=state,
        formats=formats,
    )
    console.result(plain(exported), [line_of(exported), *differences_of(exported)])
    return 0


def _weights(options: argparse.Namespace, source: Source) -> Mapping[str, Tensor] | None:
    path: Path | None = options.weights
    if path is None and options.run is None:
        given = Path(options.network)
        beside = (given if given.is_dir() else given.parent) / "weights.safetensors"
        has = given.exists() and beside.is_file() and options.classes is None
        path = beside if has and options.resolution is None else None
    if path is None:
        return None
    if not path.is_file():
        raise ValueError(f"weights is {str(path)!r}, but there is no such file")
    try:
        return by_genome(load_file(path), source.genome)
    except SafetensorError as error:
        raise ValueError(f"weights is {str(path)!r}, which cannot be read: {error}") from None


def by_genome(state: Mapping[str, Tensor], genome: Genome) -> Mapping[str, Tensor]:
    """Weights by the names of the genome's network, whichever of the two names they have."""
    names = names_of_export(genome)
    if set(state) == set(names):
        return {names[name]: value for name, value in state.items()}
    return state


def _command(options: argparse.Namespace) -> str:
    words = ["python", "run_search.py", "export", options.network]
    for name in ("run", "formats", "weights", "resolution", "classes"):
        if value := getattr(options, name):
            words += [f"--{name}", str(value)]
    return shlex.join(words)
