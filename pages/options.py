"""Writes docs/reference/commands.md: every command with its options, from the parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from unittest.mock import patch

from commands.options import make_parser
from pages.markdown import MADE_BY, table
from run_search import PARSERS

PROGRAM = "python run_search.py"
ABOUT = (
    "Where `pip install` has put the project into an environment, `chimera` is the same as "
    f"`{PROGRAM}`. Results go to standard output, progress to standard error. The exit code "
    "is 0 where all went well, 1 where a check found something (`zoo --check`), 2 for what a "
    "caller got wrong, 130 after Ctrl-C."
)
PLAIN = {"options", "positional arguments"}  # the groups that argparse makes by itself


def page() -> str:
    parsers = {"": make_parser(), **{name: make() for name, make in PARSERS.items()}}
    found = [
        (f"{PROGRAM} {name}".strip(), parser)
        for top, made in parsers.items()
        for name, parser in with_actions(top, made)
    ]
    lines = [
        "# Commands",
        "",
        f"Every command and every option, as `--help` prints them. {MADE_BY}",
        "",
        ABOUT,
        "",
        *table(
            ["Command", "What it does"],
            [
                [f"[`{title(name)}`](#{anchor(name)})", (parser.description or "").rstrip()]
                for name, parser in found
            ],
            "ll",
        ),
    ]
    for name, parser in found:
        lines += ["", *section(name, parser)]
    return "\n".join(lines) + "\n"


def with_actions(
    name: str, parser: argparse.ArgumentParser
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A command, and those behind it: `zoo`, `zoo show`, `zoo export`."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from with_actions(f"{name} {word}".strip(), inner)


def title(name: str) -> str:
    return name.removeprefix(PROGRAM).strip() or "search"


def anchor(name: str) -> str:
    return title(name).replace(" ", "-")


def section(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## {title(name)}"
    yield ""
    yield (parser.description or "").rstrip()
    yield ""
    words = [_usage(a) for a in parser._actions if not a.option_strings and _usage(a)]
    yield f"```text\n{' '.join([name, *words, '[options]'])}\n```"
    groups = [
        (group.title or "", [a for a in group._group_actions if shown(a)])
        for group in parser._action_groups
    ]
    groups = [(about, actions) for about, actions in groups if actions]
    if {about for about, _ in groups} <= PLAIN:  # words first, then options, in one table
        groups = [("", [action for _, actions in groups for action in actions])]
    for about, actions in groups:
        yield ""
        if about not in ("", *PLAIN):
            yield f"**{about[0].upper()}{about[1:]}**"
            yield ""
        rows = [[_name(action), _help(parser, action)] for action in actions]
        yield from table(["Option", "Meaning"], rows, "ll")


def shown(action: argparse.Action) -> bool:
    hidden = isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
    return not hidden and action.help != argparse.SUPPRESS


def _usage(action: argparse.Action) -> str:
    if isinstance(action, argparse._SubParsersAction):
        return f"[{action.metavar}]"
    word = _value(action)
    shapes = {"*": f"[{word} ...]", "+": f"{word} ...", "?": f"[{word}]"}
    return shapes.get(str(action.nargs), word)


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{_value(action)}`"
    value = "" if action.nargs == 0 else f" {_value(action)}"
    return ", ".join(f"`{option}{value}`" for option in action.option_strings)


def _value(action: argparse.Action) -> str:
    if action.metavar is not None:
        return action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar)
    if action.choices is not None and not isinstance(action, argparse._SubParsersAction):
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.dest.upper().replace("-", "_") if action.option_strings else action.dest


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    with patch.object(parser, "prog", PROGRAM):
        values = {**vars(action), "prog": parser.prog}
    text = (action.help or "") % values if "%" in (action.help or "") else action.help or ""
    more = []
    if isinstance(action, argparse._AppendAction):
        more.append("may be given several times")
    if action.required and action.option_strings:
        more.append("needed")
    joined = "; ".join([text, *more] if text else more)
    return " ".join(joined.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
