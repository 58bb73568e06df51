"""What a person sees in the terminal while a run works, and at its end."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

BAD_INPUT = 2  # exit code
WIDE = 400  # characters of a line where there is no terminal
LINE_EVERY_SECONDS = 10.0  # where there is no terminal to draw a bar in


class CommandLine(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> Any:
        self.exit(BAD_INPUT, f"run_search.py: {message}; see --help\n")


class Console:
    """Progress goes to standard error, results to standard output."""

    def __init__(self, *, quiet: bool = False, json_output: bool = False):
        seen = sys.stdout.isatty()
        # Without a terminal a program reads on, and wants names and numbers in one piece.
        self._out = RichConsole(highlight=False, soft_wrap=not seen, width=None if seen else WIDE)
        self._err = RichConsole(stderr=True, highlight=False)
        self._quiet, self._json = quiet, json_output

    def error(self, message: str) -> None:
        """One line, whatever the message holds."""
        print("run_search.py: " + " ".join(message.split()), file=sys.stderr)

    def say(self, message: str) -> None:
        """A line about what happens now."""
        if not self._quiet:
            self._err.print(escape(message), soft_wrap=True)

    def data(self, value: Any) -> None:
        """JSON for programs, on standard output."""
        print(json.dumps(value, indent=2))

    def result(self, value: Mapping[str, Any] | Sequence[Any], show: Sequence[Any]) -> None:
        """The outcome: JSON where that was asked for, else tables and lines for a person."""
        if self._json:
            self.data(value)
            return
        for item in show:
            self._out.print(escape(item) if isinstance(item, str) else item)

    def listing(self, title: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """Rows of the same columns."""
        columns = list(entries[0]) if entries else []
        rows = [[_text(entry[column]) for column in columns] for entry in entries]
        self.result({title: list(entries)}, [table("", columns, rows)])

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Meter]:
        """A bar with the time left; without a terminal a line from time to time."""
        if self._quiet:
            yield Meter(title, total, None, None)
            return
        if not self._err.is_terminal:
            meter = Meter(title, total, None, self)
            meter.start(done)
            yield meter
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._err) as bar:
            meter = Meter(title, total, bar, None)
            meter.start(done)
            yield meter


class Meter:
    """One piece of work under way."""

    def __init__(self, title: str, total: int, bar: Progress | None, lines: Console | None):
        self._title, self._total, self._bar, self._lines = title, total, bar, lines
        self._begun = self._last = time.monotonic()
        self._first = 0

    def start(self, done: int) -> None:
        self._first = done
        if self._bar is not None:
            self._task = self._bar.add_task(
                escape(self._title), total=self._total, completed=done, note=""
            )

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """`done` of the total, with a short note such as the best so far."""
        self._total = total or self._total
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=escape(note), total=self._total)
        elif self._lines is not None:
            now = time.monotonic()
            if now - self._last >= LINE_EVERY_SECONDS or done == self._total:
                self._last = now
                self._lines.say(self._line(done, note, now - self._begun))

    def _line(self, done: int, note: str, seconds: float) -> str:
        left = ""
        if done > self._first and done < self._total:
            remaining = seconds * (self._total - done) / (done - self._first)
            left = f", {duration(remaining)} left"
        note = note and f", {note}"
        return f"{self._title}: {done} of {self._total} in {duration(seconds)}{left}{note}"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table; columns that hold numbers throughout stand to the right. In a narrow terminal
    these and the first column stay in one piece as long as the others can be folded."""
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        numeric = all(row[i][:1].isdigit() or row[i] in ("", "-") for row in rows)
        made.add_column(
            escape(column),
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=numeric or i == 0,
        )
    for row in rows:
        made.add_row(*(escape(cell) for cell in row))
    return made


def duration(seconds: float) -> str:
    """`43 s`, `2 min 05 s`, `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, Mapping):
        return "; ".join(f"{k}: {_text(v)}" for k, v in value.items())
    return str(value)
