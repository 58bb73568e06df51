"""The commands beside the search: `run_search.py zoo` and `run_search.py scale`.

Both work on genomes and closed forms alone; nothing is trained.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from commands.exported import EXPORTS, check_place, line_of, plain
from results import zoo
from results.console import CommandLine, Console, table
from results.run_folder import write_text
from space.budget import COUNT_EXAMPLES, Budget, quantity
from space.genome import Genome
from space.presets import preset, presets
from space.scaling import Member, scale

FAILED = 1  # exit code of a check that found something

# ---- zoo


def zoo_parser() -> CommandLine:
    parser = CommandLine(
        prog="run_search.py zoo",
        description="Lists the published networks that are written as genomes; "
        "'zoo show NAME' draws one, 'zoo export NAME' writes it as PyTorch source.",
        allow_abbrev=False,
    )
    _common(parser)
    parser.add_argument("--budget", help=f"only networks within it: {COUNT_EXAMPLES}")
    parser.add_argument("--flops-per-mac", type=int, help="2 if you count a MAC as two FLOPs")
    parser.add_argument("--kind", choices=zoo.KINDS, help="only networks of this kind")
    parser.add_argument("--check", action="store_true", help="build and trace each, without memory")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page of all")
    parser.set_defaults(action=_list)
    actions = parser.add_subparsers(metavar="show | export", dest="what")
    show = actions.add_parser("show", allow_abbrev=False, description="Draws a network.")
    show.add_argument("name", help="of a preset")
    show.add_argument("--svg", type=Path, metavar="FILE", help="write the drawing of the report")
    _common(show, again=True)
    show.set_defaults(action=_show)
    export = actions.add_parser(
        "export", allow_abbrev=False, description="Writes a network as PyTorch source, one file."
    )
    export.add_argument("name", help="of a preset")
    export.add_argument("--out", type=Path, help="folder of the network (default: exports/NAME)")
    export.add_argument("--resolution", type=int, help="side of its input, pixels")
    export.add_argument("--classes", type=int, help="default: 1000")
    export.add_argument("--replace", action="store_true", help="replace an export without asking")
    _common(export, again=True)
    export.set_defaults(action=_export)
    return parser


def _common(parser: argparse.ArgumentParser, *, again: bool = False) -> None:
    """Options of every command; `again` for one behind another, whose values are there already."""
    default = argparse.SUPPRESS if again else False
    parser.add_argument("--json", action="store_true", default=default, help="print JSON")
    parser.add_argument("--quiet", action="store_true", default=default, help="no progress")


def _list(options: argparse.Namespace, console: Console) -> int:
    """The table; FAILED where a check finds something wrong."""
    if options.markdown is not None:
        for other in ("budget", "kind", "json"):
            if getattr(options, other):
                raise ValueError(f"--markdown writes the page of all presets; leave out --{other}")
        zoo.write_page(options.markdown)
        console.say(f"written: {options.markdown}")
        return 0
    budget, per_mac = None, _per_mac(options)
    if options.budget is not None:
        budget = Budget.parse(options.budget, flops_per_mac=per_mac, counts_only=True)
    entries = zoo.select(presets(), budget=budget, kind=options.kind)
    if options.check:
        with console.progress("building and tracing", len(entries)) as meter:
            for i, entry in enumerate(entries):
                entries[i] = dataclasses.replace(entry, problem=zoo.check(entry))
                meter.update(i + 1)
    wrong = [entry for entry in entries if entry.problem is not None]
    shown: list[Any] = [table("", zoo.COLUMNS, [zoo.cells(entry) for entry in entries])]
    count = f"{len(entries)} of {len(presets())} published networks."
    if any(entry.preset.reconstruction for entry in entries):
        count += f" {zoo.RECONSTRUCTED}"
    shown += [count, zoo.LEGEND]
    if options.check:
        shown += [f"{entry.preset.name}: {entry.problem}" for entry in wrong]
        shown.append(f"Checked by building and tracing: {len(wrong)} not as said.")
    values = [zoo.plain(entry) for entry in entries]
    if options.check:
        values = [v | {"problem": e.problem} for v, e in zip(values, entries, strict=True)]
    console.result(values, shown)
    return FAILED if wrong else 0


def _per_mac(options: argparse.Namespace) -> int:
    given = options.flops_per_mac
    if given not in (None, 1, 2):
        raise ValueError(f"flops_per_mac is {given}, but must be 1 or 2")
    return given or 1


def _show(options: argparse.Namespace, console: Console) -> int:
    found = preset(options.name)
    entry = zoo.Entry(found, found.genome.cost())
    if options.svg is not None:
        from results.drawing import draw_svg

        write_text(options.svg, draw_svg(found.genome) + "\n")
        console.say(f"written: {options.svg}")
    drawn = table("", zoo.ANATOMY, zoo.anatomy(found.genome))
    values = zoo.plain(entry) | {"genome": found.genome.to_json(brief=True)}
    console.result(values, [*zoo.facts(entry), drawn])
    return 0


def _export(options: argparse.Namespace, console: Console) -> int:
    from results.export import export_network

    found = preset(options.name)
    for name in ("resolution", "classes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, but must be at least 1")
    genome = found.genome.at(resolution=options.resolution, classes=options.classes)
    folder = options.out or EXPORTS / found.name
    check_place(folder, replace=options.replace)
    exported = export_network(
        genome,
        folder,
        name=found.name,
        facts={
            "network": f"{found.variant} ({found.system})",
            "source": found.source + "; reconstructed" * found.reconstruction,
            "command": _command_of_export(options),
        },
    )
    size = {"resolution": genome.resolution, "classes": genome.classes}
    console.result({**plain(exported), **size}, [line_of(exported)])
    return 0


def _command_of_export(options: argparse.Namespace) -> str:
    command = f"python run_search.py zoo export {options.name}"
    for name in ("resolution", "classes"):
        if getattr(options, name) is not None:
            command += f" --{name} {getattr(options, name)}"
    return command


# ---- scale


def scale_parser() -> CommandLine:
    parser = CommandLine(
        prog="run_search.py scale",
        description="Makes a family of networks of other sizes out of one.",
        allow_abbrev=False,
    )
    parser.add_argument("genome", help="a genome.json, a folder that has one, or a preset's name")
    parser.add_argument("--to", required=True, help="sizes, such as 1GFLOPs,2GFLOPs,4GFLOPs")
    parser.add_argument("--out", type=Path, help="folder of the family (default: families/NAME)")
    parser.add_argument("--flops-per-mac", type=int, help="2 if you count a MAC as two FLOPs")
    parser.add_argument("--plugin", action="append", help="a Python file with parts of your own")
    _common(parser)
    parser.set_defaults(action=_scale)
    return parser


def read_genome(source: str) -> tuple[str, Genome]:
    """The name and network of a genome.json, of a folder that has one, or of a preset."""
    path = Path(source)
    if path.is_dir():
        path /= "genome.json"
    elif not path.is_file():
        if path.suffix or len(path.parts) > 1:
            raise ValueError(f"no file or folder {source!r}; give a genome.json or a preset's name")
        found = preset(source)
        return found.name, found.genome
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{str(path)!r} is not text") from None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not valid JSON: {error}") from None
    try:
        genome = Genome.from_json(data)
        genome.cost()
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from None
    name = path.resolve().parent.name if path.name == "genome.json" else path.stem
    return name or "network", genome


COLUMNS = ("name", "target", "params", "macs", "resolution", "depths", "widths")


def _scale(options: argparse.Namespace, console: Console) -> int:
    per_mac = _per_mac(options)
    targets = [
        Budget.parse(text, flops_per_mac=per_mac, counts_only=True)
        for text in options.to.split(",")
    ]
    name, genome = read_genome(options.genome)
    members = []
    with console.progress("scaling", len(targets)) as meter:
        for i, target in enumerate(targets):
            members.append(scale(genome, target))
            meter.update(i + 1)
    names = [f"{name}-{member.target.text}" for member in members]
    rows = [_row(*pair) for pair in zip(names, members, strict=True)]
    folder = options.out or Path("families") / name
    write_family(folder, names, members, rows)
    shown = [
        [
            row["name"],
            f"{row['params']:,}",
            quantity(row["macs"]),
            quantity(2 * row["macs"]),
            str(row["resolution"]),
            _spaced(row["depths"]),
            _spaced(row["widths"]),
        ]
        for row in rows
    ]
    columns = ["network", "params", "MACs", "FLOPs (2 per MAC)", "px", "depths", "widths"]
    value = {"folder": str(folder), "family": rows}
    console.result(value, [table("", columns, shown), f"Family:  {folder}"])
    return 0


def _row(name: str, member: Member) -> dict[str, Any]:
    return {
        "name": name,
        "target": member.target.text,
        "params": member.cost.params,
        "macs": member.cost.macs,
        "resolution": member.genome.resolution,
        "depths": list(member.depths),
        "widths": list(member.widths),
    }


def _spaced(values: Sequence[int]) -> str:
    return " ".join(map(str, values))


def write_family(
    folder: Path, names: Sequence[str], members: Sequence[Member], rows: Sequence[Mapping[str, Any]]
) -> None:
    """`<name>/genome.json` for each member, and `family.csv`."""
    for name, member in zip(names, members, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        text = json.dumps(member.genome.to_json(), indent=2) + "\n"
        write_text(folder / name / "genome.json", text)
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, **{key: _spaced(row[key]) for key in ("depths", "widths")}})
    write_text(folder / "family.csv", out.getvalue())
