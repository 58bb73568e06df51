"""A search as a study of Optuna, for optuna-dashboard and whoever else reads studies.

The study is a copy of the search's log and never more than that. Trials are added in the order of
the log and say whose they are, so that a copy which stopped anywhere can be caught up, and that of
another search is not written into.
"""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from search.optuna_adapter import parameter_names, quiet
from search.problem import Row
from space.decisions import Variable
from space.objectives import SCORE

EXAMPLE = "sqlite:///studies.db"
_OURS = "chimera"  # the attribute of a study that says it is a copy, with the number of the format
_FORMAT = 1
_MISSING = (-1, -1)
# Where every Optuna, and optuna-dashboard, looks for constraints: a list of numbers. A trial is
# feasible where none of them is above 0.
_CONSTRAINTS = "constraints"


class Foreign(ValueError):
    """A study of that name is there, and is no copy of this search."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A candidate of the log. `values` are the objectives, None where it failed; `constraints` by
    how much of each limit it is above that limit, below 0 where it is inside; `attributes` plain
    data; `seconds` how long it took."""

    digest: str
    row: Row
    values: tuple[float, ...] | None
    constraints: tuple[float, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def check_storage(text: str) -> URL:
    """ValueError where it is no URL of a storage that others could open, too."""
    try:
        url = make_url(text)
        url.get_dialect()
    except (SQLAlchemyError, ImportError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise ValueError(
            f"the storage is {text!r}, but must be a URL such as {EXAMPLE}: {said}"
        ) from None
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ValueError(
                f"the storage is {text!r}, which nobody else can open; name a file, as {EXAMPLE}"
            )
        place = Path(url.database).absolute()
        if not place.parent.is_dir() or place.is_dir():
            raise ValueError(
                f"the storage is {text!r}, but no file {str(place)!r} can be made: "
                + ("it is a folder" if place.is_dir() else "its folder is not there")
            )
        _check_database(text, place)
    return url


def _check_database(text: str, path: Path) -> None:
    """ValueError where the file holds something else: Optuna would put its tables beside that."""
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {name for (name,) in found}
    except sqlite3.OperationalError:  # locked, or not to be read: said when it is opened
        return
    except sqlite3.DatabaseError:
        raise ValueError(f"the storage is {text!r}, but that file is no SQLite database") from None
    if tables and "studies" not in tables:
        raise ValueError(
            f"the storage is {text!r}, but that database holds something else; name another file"
        )


def shown(text: str) -> str:
    """The URL as it may be shown and kept: without its password."""
    return make_url(text).render_as_string(hide_password=True)


class StudyCopy:
    """The study `name` in the storage `url`.

    `variables` are those of the search's rows, each a categorical parameter with the choices of the
    space; one that does not matter in a row is no parameter of its trial. `objectives` are the
    score, which is maximised, and costs, which are minimised. `about` goes to the attributes of the
    study. Whatever is wrong with the storage is OSError.
    """

    def __init__(
        self,
        url: str,
        name: str,
        variables: Sequence[Variable],
        objectives: Sequence[str],
        constraints: Sequence[str],
        about: Mapping[str, Any],
    ):
        self.url, self.name = url, name
        self._variables = tuple(variables)
        self._names = parameter_names(variables)
        self._distributions: list[BaseDistribution] = [
            CategoricalDistribution([_plain(choice) for choice in variable.choices])
            for variable in variables
        ]
        self._objectives = tuple(objectives)
        self._directions = [
            StudyDirection.MAXIMIZE if name == SCORE else StudyDirection.MINIMIZE
            for name in objectives
        ]
        self._about = {
            **about,
            "objectives": list(objectives),
            "constraints": list(constraints),
            _OURS: _FORMAT,  # the last: where it stands, all does
        }
        self._study: optuna.Study | None = None
        self._opened: tuple[int, int] | None = None  # the file of the study

    def known(self) -> list[str]:
        """The digests of the trials that are there, in their order; none where there is no such
        study. `Foreign` where a study is there that is no copy of a search for these objectives."""
        with self._errors():
            study = self._found()
            trials = [] if study is None else study.get_trials(deepcopy=False)
        if [trial.user_attrs.get("evaluation") for trial in trials] != list(range(len(trials))):
            raise Foreign(f"{self._which()} has trials that are no candidates of a search")
        return [str(trial.user_attrs.get("digest")) for trial in trials]

    def add(self, entries: Sequence[Entry]) -> None:
        """Adds trials, one transaction each; makes the study where it is not there."""
        with self._errors():
            study = self._study = self._found() or optuna.create_study(
                study_name=self.name, storage=self.url, directions=self._directions
            )
            self._opened = self._file()
            if _OURS not in study.user_attrs:
                self._describe(study)
            for entry in entries:
                study.add_trial(self._trial(entry))

    def _which(self) -> str:
        return f"study {self.name!r} in {shown(self.url)}"

    def _found(self) -> optuna.Study | None:
        """The study, where it is there; nothing is made, not even an empty file."""
        wanted = list(self._objectives)
        file = self._file()
        if self._study is not None and file == self._opened:
            return self._study
        self._study, self._opened = None, file
        if file == _MISSING:
            return None
        try:
            study = optuna.load_study(study_name=self.name, storage=self.url)
        except KeyError:
            return None
        said = study.user_attrs
        # One without trials may be ours that was killed while it was made.
        if said.get(_OURS) != _FORMAT and (_OURS in said or study.get_trials(deepcopy=False)):
            raise Foreign(f"{self._which()} is there already, and is no copy of a search")
        if study.directions != self._directions or said.get("objectives", wanted) != wanted:
            raise Foreign(f"{self._which()} has other objectives")
        self._study = study
        return study

    def _file(self) -> tuple[int, int] | None:
        """What tells the file of SQLite from another at its place: one that was removed can be read
        and written for as long as it is open. None for a server."""
        url = make_url(self.url)
        if url.get_backend_name() != "sqlite":
            return None
        try:
            found = Path(url.database or "").stat()
        except OSError:
            return _MISSING
        return found.st_dev, found.st_ino

    def _describe(self, study: optuna.Study) -> None:
        study.set_metric_names(list(self._objectives))
        for key, value in self._about.items():
            study.set_user_attr(key, value)

    def _trial(self, entry: Entry) -> FrozenTrial:
        active = self._active(entry.row)
        trial = create_trial(
            state=TrialState.FAIL if entry.values is None else TrialState.COMPLETE,
            values=None if entry.values is None else list(entry.values),
            params={
                self._names[v]: _plain(self._variables[v].choices[entry.row[v]]) for v in active
            },
            distributions={self._names[v]: self._distributions[v] for v in active},
            user_attrs={"digest": entry.digest, **entry.attributes},
            system_attrs={_CONSTRAINTS: list(entry.constraints)},
        )
        # The log does not say when a candidate was scored, only for how long.
        ended = trial.datetime_complete or datetime.datetime.now()
        trial.datetime_start = ended - datetime.timedelta(seconds=entry.seconds)
        return trial

    def _active(self, row: Row) -> list[int]:
        """The variables that matter in a row (`space.decisions.Variable`)."""
        matters: list[bool] = []
        for variable in self._variables:
            matters.append(all(matters[p] and row[p] in c for p, c in variable.conditions))
        return [v for v, one in enumerate(matters) if one]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Without what Optuna says of itself; in one line what went wrong with the storage."""
        try:
            with quiet():
                yield
        except Foreign:
            raise
        except Exception as error:  # of Optuna, SQLAlchemy, the driver, or the system
            self._study = None  # the next call opens the storage again
            cause = error.__cause__ or error
            said = " ".join(str(cause).split("\n[SQL")[0].split()) or type(cause).__name__
            raise OSError(f"{shown(self.url)}: {said}") from error


def _plain(choice: Any) -> Any:
    """A choice as Optuna keeps it: a number, a text, None; others by what they are written as."""
    if choice is None or isinstance(choice, bool | int | float | str):
        return choice
    return str(choice)
