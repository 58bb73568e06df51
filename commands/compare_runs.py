"""Runs side by side: `python run_search.py compare RUN RUN`, as a page and as tables."""

from __future__ import annotations

import argparse
from pathlib import Path

from results.console import CommandLine, Console

LONGEST = 120  # characters of a page's name that is made of the runs'


def compare_runs_parser() -> CommandLine:
    parser = CommandLine(
        prog="run_search.py compare",
        description="Runs side by side: fronts, hypervolume at equal evaluations, best networks, "
        "and settings that differ. Runs whose scores do not mean the same are refused.",
        epilog="'run_search.py compare-controllers --help' compares controllers on equal terms.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument(
        "--objectives",
        help="of the hypervolume, joined by commas (default: the first run's, as far as all runs "
        "have them)",
    )
    parser.add_argument("--out", type=Path, help="the page (default: beside the first run)")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(action=_compare)
    return parser


def _compare(options: argparse.Namespace, console: Console) -> int:
    if len(options.runs) < 2:
        raise ValueError("one run alone cannot be compared; name another one")
    # What draws takes a second to import, and the command line is to be quick.
    from results.compared import compare, read_runs, show
    from results.compared_page import write_comparison

    runs = read_runs(options.runs)
    objectives = [name.strip() for name in (options.objectives or "").split(",") if name.strip()]
    plain = compare(runs, objectives)
    path = options.out or default_page(options.runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_comparison(path, runs, plain)
    console.result({**plain, "page": str(path)}, [*show(plain), f"Page:    {path}"])
    return 0


def default_page(paths: list[Path]) -> Path:
    """Such as `runs/compare-one-other.html`."""
    names = "-".join(path.resolve().name for path in paths)
    return paths[0].resolve().parent / f"compare-{names[:LONGEST]}.html"
