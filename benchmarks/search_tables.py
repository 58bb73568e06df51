"""Controllers on a table of enumerated networks, counted and judged alike.

    python -m benchmarks.search_tables --table FILE --genes a,b,c --objective col[:max|min] \\
        [--observed col[,col]] [--limit 'col<=value'] [--second col:min] [--known] [--merge] \\
        --controller NAME[,NAME...] --evaluations N --seeds K --json OUT

An evaluation sees one of the observed columns, what was found is judged by the objective; `search.
compare` says what is measured and how it is counted, `search.tables` what the options mean. Each
search is kept in the result file as it is done: given again, the command goes on, also with more
seeds or other controllers; `--again` plays those that are named anew, which a change to a
controller needs. `python -m benchmarks.search_baselines` is the same with other libraries beside.

Intervals of means are 95 % intervals by Student's t over seeds, those of a median by ranks.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # python benchmarks/search_tables.py
    sys.path.insert(0, str(Path(__file__).parents[1]))

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small matrices: threads would only wait

from benchmarks.machine import device_name
from commands.compare import (
    ResultFile,
    add_plan_options,
    add_table_options,
    makers_of,
    plan_of,
    play_all,
    show,
    table_setting,
)
from results.console import BAD_INPUT, Console
from results.run_folder import environment
from search.compare import Named


def make_parser(module: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {module}", allow_abbrev=False)
    add_table_options(parser)
    add_plan_options(parser)
    parser.add_argument(
        "--controller", dest="controllers", required=True, help="by commas, with NAME(setting=...)"
    )
    parser.add_argument("--json", type=Path, required=True, metavar="OUT")
    parser.add_argument("--again", action="store_true", help="play the named ones anew")
    parser.add_argument("--quiet", action="store_true")
    return parser


def run(
    options: argparse.Namespace,
    benchmark: str,
    more: Mapping[str, Named] | None = None,
    words: Sequence[str] | None = None,
) -> int:
    """Plays and writes; `words` are the command line, where it is not this process's, and then
    nothing is shown. The exit code: 2, with a line, for bad input."""
    console = Console(quiet=options.quiet)
    try:
        plan = plan_of(options)
        setting = table_setting(options)
        makers = makers_of(options.controllers, setting.ground, more)
        file = ResultFile(options.json, setting, plan, about(benchmark, words))
        if options.again:
            file.forget(list(makers))
        play_all(setting, makers, options.seeds, plan, file, console)
    except ValueError as error:
        print(f"{benchmark}: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"{benchmark}: stopped; finished searches are kept", file=sys.stderr)
        return 130
    if words is None:
        plain = file.plain()
        console.result(plain, show(plain))
    return 0


def about(benchmark: str, words: Sequence[str] | None) -> dict[str, Any]:
    machine = environment("cpu")
    del machine["command"]
    return {
        "benchmark": benchmark,
        "command": " ".join([f"python -m benchmarks.{benchmark}", *(words or sys.argv[1:])]),
        "device": device_name("cpu"),
        "versions": {"python": platform.python_version(), **machine.pop("versions"), **_others()},
        "environment": machine,
    }


def _others() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("numpy", "optuna", "pymoo", "nevergrad"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    return run(make_parser("benchmarks.search_tables").parse_args(arguments), "search_tables")


if __name__ == "__main__":
    sys.exit(main())
