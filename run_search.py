"""Searches for a vision backbone: `python run_search.py --budget 4GFLOPs`.

The command line: it finds the command, and turns what can go wrong outside into one line. The
commands themselves are in `commands/`, one a file.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence

from safetensors import SafetensorError

from commands import (
    compare,
    compare_runs,
    cost,
    export,
    finalists,
    profile,
    search,
    study,
    train_network,
    trust,
    zoo,
)
from commands.options import listing, load_plugins, make_parser
from results.console import BAD_INPUT, Console

INTERRUPTED = 130
# What the world does to files, and no fault of the program.
_OUTSIDE = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
        *(errno.EACCES, errno.EPERM, errno.EROFS),
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
    )
)
# Commands beside the search, by their first word.
PARSERS = {
    "trust": trust.trust_parser,
    "finalists": finalists.finalists_parser,
    "train": train_network.train_parser,
    "zoo": zoo.zoo_parser,
    "scale": zoo.scale_parser,
    "cost": cost.cost_parser,
    "export": export.export_parser,
    "compare": compare_runs.compare_runs_parser,
    "compare-controllers": compare.compare_parser,
    "profile": profile.profile_parser,
    "optuna": study.optuna_parser,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code. Bad input is one line and exit code 2."""
    options = read_words(sys.argv[1:] if arguments is None else arguments)
    console = Console(quiet=options.quiet, json_output=options.json)
    try:
        if "action" in options:
            load_plugins(getattr(options, "plugin", None) or ())
            return options.action(options, console)
        if options.list:
            load_plugins(options.plugin or ())
            console.listing(options.list, listing(options.list))
            return 0
        return search.run(options, console)
    except KeyboardInterrupt:
        kept = None if "action" in options else "what was scored is kept"
        kept = getattr(options, "kept", kept)
        console.error(f"stopped{f'; {kept}' if kept else ''}{_how_to_go_on(options)}")
        return INTERRUPTED
    except ValueError as error:
        console.error(str(error))
        return BAD_INPUT
    except SafetensorError as error:  # a checkpoint that cannot be written, on a full disk mostly
        console.error(f"{error}{_how_to_go_on(options)}")
        return BAD_INPUT
    except OSError as error:
        if error.errno is not None and error.errno not in _OUTSIDE:
            raise
        where = f" at {error.filename}" if error.filename else ""
        console.error(f"{error.strerror or error}{where}{_how_to_go_on(options)}")
        return BAD_INPUT


def _how_to_go_on(options: argparse.Namespace) -> str:
    if "again" in options:
        return f"; go on with: {options.again}"
    folder = getattr(options, "folder", None)
    if folder is None or not folder.path.exists():
        return ""
    return f"; go on with: python run_search.py --resume {folder.path}"


def read_words(words: Sequence[str]) -> argparse.Namespace:
    """The options of a search, or of the command that the first word names."""
    if words and words[0] in PARSERS:
        return PARSERS[words[0]]().parse_args(words[1:])
    return make_parser().parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
