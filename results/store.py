"""A run's database: one row per evaluated candidate, and the state that a resumed search needs.

It is one SQLite file with a rollback journal, not a write-ahead log: between transactions the
file alone is the whole database, so that a copy of a run's folder is a whole run.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from results.history import Row
from space.cost import Cost
from space.genome import Genome

FILE = "candidates.sqlite"

_APPLICATION = 0x4348494D  # "CHIM", in the file's header: says that a file is one of ours
_VERSION = 2  # 1 had no costs
_WAIT_SECONDS = 60  # for a reader, or for the search, to finish its transaction
_TABLES = """
CREATE TABLE candidates (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE,
    genome TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('ok', 'failed')),
    score REAL,
    top1 REAL,
    macs INTEGER NOT NULL,
    params INTEGER NOT NULL,
    resolution INTEGER NOT NULL,
    reward REAL,
    seconds REAL NOT NULL,
    origin TEXT NOT NULL,
    error TEXT,
    details TEXT NOT NULL,
    costs TEXT NOT NULL DEFAULT '{}'
);
CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 0), data BLOB NOT NULL);
"""
_COLUMNS = "number, name, digest, genome, status, score, top1, macs, params, resolution, reward"
_COLUMNS += ", seconds, origin, error, details"
_ADD_COSTS = "ALTER TABLE candidates ADD COLUMN costs TEXT NOT NULL DEFAULT '{}'"


class Evaluated(Protocol):
    """One evaluated candidate (`evaluator.interfaces.Result` has this shape)."""

    @property
    def genome(self) -> Genome: ...
    @property
    def cost(self) -> Cost: ...
    @property
    def score(self) -> float | None: ...
    @property
    def reward(self) -> float | None: ...
    @property
    def seconds(self) -> float: ...
    @property
    def details(self) -> Mapping[str, float]: ...
    @property
    def error(self) -> str | None: ...
    @property
    def origin(self) -> str | None: ...
    @property
    def costs(self) -> Mapping[str, float]: ...


def network_name(cost: Cost, digest: str) -> str:
    """What a network is called: its MACs and the start of its digest, `3.98G-1f2e3d`."""
    if cost.macs >= 999.5e6:
        return f"{cost.macs / 1e9:.2f}G-{digest[:6]}"
    return f"{cost.macs / 1e6:.0f}M-{digest[:6]}"


class Store:
    """The database at `path`, made where there is none.

    With `readonly` it must be there. Others can read while a search writes. One of an older format
    is read as it is, and brought up to date where it is opened for writing. ValueError where the
    file is not such a database; OSError where it cannot be read or written, such as on a full
    disk. A transaction survives the death of the process, but perhaps not that of the machine.
    """

    def __init__(self, path: str | Path, *, readonly: bool = False):
        self.path = Path(path)
        if readonly and not self.path.is_file():
            raise ValueError(f"{self.path} is not there; a run keeps its candidates in it")
        with self._errors():
            self._database = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}",
                uri=True,
                timeout=_WAIT_SECONDS,
                isolation_level=None,  # transactions are begun and ended in `_transaction`
            )
            try:
                self._open(readonly)
            except BaseException:
                self._database.close()
                raise

    def _open(self, readonly: bool) -> None:
        if not readonly:
            with self._transaction():
                if self._number("SELECT count(*) FROM sqlite_master") == 0:
                    for statement in filter(str.strip, _TABLES.split(";")):
                        self._database.execute(statement)
                    self._database.execute(f"PRAGMA application_id = {_APPLICATION}")
                    self._database.execute(f"PRAGMA user_version = {_VERSION}")
        if self._number("PRAGMA application_id") != _APPLICATION:
            raise ValueError(f"{self.path} is not a database of candidates")
        if not readonly and self._number("PRAGMA user_version") == 1:
            with self._transaction():
                if self._number("PRAGMA user_version") == 1:  # and not by another process since
                    self._database.execute(_ADD_COSTS)
                    self._database.execute(f"PRAGMA user_version = {_VERSION}")
        version = self._number("PRAGMA user_version")
        if version not in (1, _VERSION):
            raise ValueError(
                f"{self.path} has format {version}; this version of Chimera reads 1 and "
                f"{_VERSION}: use the one that made it"
            )

    def _number(self, query: str) -> int:
        return int(self._database.execute(query).fetchone()[0])

    def append(self, results: Sequence[Evaluated], origin: str, state: Callable[[], bytes]) -> None:
        """Adds the candidates and replaces the state by what `state` gives: both, or, where the
        process dies on the way, neither. `origin` is that of candidates without one of their own.
        ValueError where a candidate is there already."""
        with self._errors(), self._transaction():
            number = self._number("SELECT count(*) FROM candidates")
            marks = ", ".join("?" * 16)
            self._database.executemany(
                f"INSERT INTO candidates VALUES ({marks})",
                [_record(number + i, result, origin) for i, result in enumerate(results)],
            )
            self._database.execute("INSERT OR REPLACE INTO state VALUES (0, ?)", (state(),))

    def rows(self, first: int = 0) -> list[Row]:
        """All candidates from number `first` on, in the order in which they were added."""
        with self._errors():
            costs = "'{}'" if self._number("PRAGMA user_version") == 1 else "costs"
            found = self._database.execute(
                f"SELECT {_COLUMNS}, {costs} FROM candidates WHERE number >= ? ORDER BY number",
                (first,),
            ).fetchall()
        return [_row(record) for record in found]

    def statuses(self) -> list[str]:
        """The status of each candidate, in order."""
        with self._errors():
            found = self._database.execute("SELECT status FROM candidates ORDER BY number")
            return [status for (status,) in found]

    def state(self) -> bytes | None:
        """The state that was added last."""
        with self._errors():
            found = self._database.execute("SELECT data FROM state").fetchone()
        return None if found is None else found[0]

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Says which file it was, in the words of Python's own errors."""
        try:
            yield
        except sqlite3.IntegrityError as error:
            raise ValueError(f"{self.path}: {error}") from None
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path}: {error}") from None
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.path} is not a database of candidates: {error}") from None


def _record(number: int, result: Evaluated, origin: str) -> tuple[Any, ...]:
    genome, cost = result.genome, result.cost
    digest, details = genome.digest, dict(result.details)
    return (
        number,
        network_name(cost, digest),
        digest,
        json.dumps(genome.to_json()),
        "failed" if result.score is None else "ok",
        result.score,
        details.get("top1"),
        cost.macs,
        cost.params,
        genome.resolution,
        result.reward,
        result.seconds,
        result.origin or origin,
        result.error,
        json.dumps(details),
        json.dumps(dict(result.costs)),
    )


def _row(record: Sequence[Any]) -> Row:
    number, name, digest, genome, *others, details, costs = record
    values = number, name, digest, json.loads(genome), *others
    return Row(*values, *map(json.loads, (costs, details)))
