"""A run as a study of Optuna: `--optuna-storage` while it searches, `run_search.py optuna` after.

The run's log is the truth and the study a copy, which may stop for whatever reason and be caught up
later. What is written is `search.optuna_mirror`'s matter.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import math
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from commands.job import Job
from commands.settle import Measurements, latency_limits
from results.console import CommandLine, Console
from results.history import Row
from results.run_folder import RunFolder, read_yaml, write_text
from results.store import Evaluated, Store
from search.settings import Settings
from space.genome import Genome
from space.objectives import SCORE

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

# Before a storage that failed is tried again, and twice as long after each further failure: one
# that is locked keeps us half a minute, as Optuna tries five times.
PAUSE_SECONDS = 60.0
_AT_ONCE = 64  # trials between two words about progress


def optuna_parser() -> CommandLine:
    parser = CommandLine(
        prog="run_search.py optuna",
        description="Copies a run, finished or not, to a study of Optuna, which optuna-dashboard "
        "opens. Given again, it adds what is missing.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument(
        "--storage", required=True, help="URL of Optuna's storage, such as sqlite:///studies.db"
    )
    parser.add_argument("--study", help="name of the study (default: the run's)")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(action=_optuna)
    return parser


def _optuna(options: argparse.Namespace, console: Console) -> int:
    check_storage(options.storage)
    folder = RunFolder(options.run)
    if not folder.config.is_file():
        raise ValueError(f"{str(options.run)!r} is not a run folder: it has no config.yaml")
    if not folder.database.is_file():
        raise ValueError(f"{str(options.run)!r} has not scored a candidate yet: nothing to copy")
    job = readable_job(folder, console)
    mirror = Mirror(folder, job, options.storage, console, name=options.study)
    with (
        Store(folder.database, readonly=True) as store,
        console.progress("copying candidates", len(store.statuses())) as meter,
    ):
        known, there = mirror.catch_up(store, meter.update)
    added = there - known
    said = f"{added} of {there} candidates added" if known else f"{there} candidates"
    console.result(
        {"study": mirror.name, "storage": mirror.shown, "trials": there, "added": added},
        [
            f"Study:   {mirror.name}, {said}",
            f"Open it: {mirror.dashboard}",
        ],
    )
    return 0


def readable_job(folder: RunFolder, console: Console) -> Job:
    """A run's job where nothing is to be run: any machine will do."""
    settings = Settings.from_plain(read_yaml(folder.config, "config"))
    here = dataclasses.replace(
        settings, device="cpu", graphs=False, kernels=False, workers=1, train_workers=1
    )
    return Job(here, profiles=folder.profiles, console=console)


def check_storage(url: str) -> None:
    """ValueError where Optuna is not installed, or the URL is none."""
    _optuna_mirror().check_storage(url)


def _optuna_mirror() -> Any:
    """The module that Optuna is wanted by; ValueError where Optuna is missing."""
    try:
        return importlib.import_module("search.optuna_mirror")
    except ModuleNotFoundError as error:
        if error.name not in ("optuna", "sqlalchemy"):
            raise
        raise ValueError(
            "a storage of Optuna's needs Optuna, which is not installed: "
            "pip install 'chimera-nas[optuna]'"
        ) from None


class Mirror:
    """Keeps a study in step with a run's log. The study is named as the run unless `name` is given.

    `follow` is for a search under way: what goes wrong is said once, and tried again from time to
    time. `catch_up` raises it.
    """

    def __init__(
        self, folder: RunFolder, job: Job, url: str, console: Console, name: str | None = None
    ):
        module = _optuna_mirror()
        self._folder, self._job, self._console, self._entry = folder, job, console, module.Entry
        self._foreign: type[ValueError] = module.Foreign
        self.name, self.url, self.shown = name or folder.path.resolve().name, url, module.shown(url)
        self._objectives = objectives_of(job)
        self._limits = job.budget.limits()
        self._copy = module.StudyCopy(
            url,
            self.name,
            job.space.variables,
            self._objectives,
            list(self._limits),
            {
                "run": folder.path.resolve().name,
                "space": job.space.name,
                "budget": job.settings.budget,
                "controller": job.controller,
                "seed": job.settings.seed,
                "data": job.settings.data,
            },
        )
        self._digests: list[str] = []  # of the candidates that were copied, as of the last time
        self._given_up, self._said = False, False
        self._pause, self._not_before = PAUSE_SECONDS, -math.inf

    def check(self) -> None:
        """ValueError where a study of this name is there that is not of this run; OSError where the
        storage cannot be read. Nothing is written."""
        rows: list[Row] = []
        if self._folder.database.is_file():
            with Store(self._folder.database, readonly=True) as store:
                rows = store.rows()
        self._compare(self._copy.known(), [row.digest for row in rows])

    def _compare(self, known: Sequence[str], digests: Sequence[str]) -> None:
        if list(known) != list(digests[: len(known)]):
            raise self._foreign(
                f"study {self.name!r} in {self.shown} is of another run; choose another name or "
                "another storage"
            )

    def follow(self, store: Store, *, now: bool = False) -> None:
        """Adds what the log has more than the study, unless the storage failed a moment ago and
        `now` is not given. Never raises but for an interrupt: a search has better things to do."""
        if self._given_up or (not now and time.monotonic() < self._not_before):
            return
        try:
            self.catch_up(store, wait=now)
            self._pause = PAUSE_SECONDS
        except Exception as error:
            self._not_before = time.monotonic() + self._pause
            self._pause *= 2
            self._given_up = isinstance(error, self._foreign)
            if not self._said:
                self._said = True
                later = f"; later, this adds what is missing: {self.command}"
                self._console.say(
                    f"the search goes on, but its copy for Optuna does not: {error}"
                    + ("" if self._given_up else later)
                )

    @property
    def dashboard(self) -> str:
        """What shows the study."""
        return shlex.join(["optuna-dashboard", self.shown])

    @property
    def command(self) -> str:
        """What catches up."""
        words = ["python", "run_search.py", "optuna", str(self._folder.path)]
        return shlex.join([*words, "--storage", self.shown])

    def catch_up(
        self, store: Store, progress: Callable[[int], None] | None = None, *, wait: bool = True
    ) -> tuple[int, int]:
        """Adds what the log has more than the study; how many were there, and how many are now.
        Where another process does so just now, waits for it, or, without `wait`, leaves it to that.
        ValueError where the study is of another run; OSError where the storage fails."""
        with self._alone(wait) as mine:
            if not mine:
                return 0, 0
            known = self._copy.known()
            if known != self._digests:
                self._digests = [row.digest for row in store.rows()]
                self._compare(known, self._digests)
            measured = Measurements.read(self._folder.measured)
            rows, done = store.rows(len(known)), len(known)
            for first in range(0, max(1, len(rows)), _AT_ONCE):  # once at least: it makes the study
                some = rows[first : first + _AT_ONCE]
                self._copy.add([self._of(row, measured) for row in some])
                done += len(some)
                if progress is not None:
                    progress(done)
            self._digests = known + [row.digest for row in rows]
        return len(known), done

    @contextmanager
    def _alone(self, wait: bool) -> Iterator[bool]:
        """One process at a time copies a run: whether this one may. Where files cannot be locked,
        any may."""
        with ExitStack() as held:
            mine = True
            with suppress(OSError):
                lock = held.enter_context((self._folder.state / ".optuna.lock").open("w"))
                if fcntl is not None:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                    except BlockingIOError:
                        mine = False
            yield mine

    def _of(self, row: Row, measured: Measurements) -> Any:
        codes = self._job.space.encode(Genome.from_json(row.genome))
        costs = [row.cost(name) for name in self._objectives if name != SCORE]
        return self._entry(
            digest=row.digest,
            row=tuple(map(int, codes)),
            values=None if row.score is None else (row.score, *costs),
            constraints=tuple(self._excess(row, name, measured) for name in self._limits),
            attributes=_attributes(row),
            seconds=row.seconds,
        )

    def _excess(self, row: Row, name: str, measured: Measurements) -> float:
        """By what share of the limit a candidate is above it; as measured, where it was."""
        timing = None
        if any(limit.column == name for limit in latency_limits(self._job)):
            timing = measured.of(row, name)
        used = row.cost(name) if timing is None else timing.ms
        return used / self._limits[name] - 1


def objectives_of(job: Job) -> tuple[str, ...]:
    """Those of the run's front. They are known without looking at the space, which may take
    measuring, unless several limits are given and no objectives."""
    if job.settings.objectives:
        return tuple(job.settings.objectives)
    if len(job.budget.targets) == 1:
        return SCORE, job.budget.targets[0]
    return job.proposals.objectives


def _attributes(row: Row) -> dict[str, Any]:
    """What Optuna has no place of its own for; `evaluation` is the number in the log."""
    seen = row.details.get("images")
    found = {
        "evaluation": row.order,
        "name": row.name,
        "status": row.status,
        "message": row.error,
        "origin": row.origin,
        "reward": row.reward,
        "top1": row.top1,
        "images": None if seen is None else int(seen),
        "macs": row.macs,
        "params": row.params,
        "resolution": row.resolution,
        **row.costs,
        "seconds": row.seconds,
    }
    return {key: value for key, value in found.items() if value is not None}


class Mirrored:
    """A run's log that a copy follows (`search.interfaces.Log`)."""

    def __init__(self, store: Store, mirror: Mirror):
        self._store, self._mirror = store, mirror

    def append(self, results: Sequence[Evaluated], origin: str, state: Callable[[], bytes]) -> None:
        self._store.append(results, origin, state)
        self._mirror.follow(self._store)

    def statuses(self) -> list[str]:
        return self._store.statuses()

    def state(self) -> bytes | None:
        return self._store.state()


# ---- which storage a run is copied to


def storage_of(options: argparse.Namespace, folder: RunFolder, console: Console) -> str | None:
    """That of the command line, ValueError where it is none; or the one that a run which goes on
    was copied to before, if it still is one."""
    if options.optuna_storage is not None:
        check_storage(options.optuna_storage)
        return str(options.optuna_storage)
    if options.resume is None:
        return None
    try:
        url = str(json.loads(folder.mirror.read_text(encoding="utf-8"))["storage"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        check_storage(url)
    except ValueError as error:
        console.say(f"the run is not copied for Optuna any more: {error}")
        return None
    return url


def make_mirror(
    options: argparse.Namespace, folder: RunFolder, job: Job, url: str | None, console: Console
) -> Mirror | None:
    """What copies a search to `url`, if that is wanted. ValueError where the study is of another
    run, OSError where the storage cannot be read; a run that goes on as before does without."""
    if url is None:
        return None
    mirror = Mirror(folder, job, url, console)
    try:
        mirror.check()
    except (OSError, ValueError):
        if options.optuna_storage is not None:
            raise
        return mirror  # which says it, and tries again
    console.say(f"copied to study {mirror.name}; to see it: {mirror.dashboard}")
    return mirror


def remember(folder: RunFolder, mirror: Mirror) -> None:
    """Keeps the storage for when the run goes on; not one with a password, which is nobody's to
    keep."""
    if mirror.shown == mirror.url or "***" not in mirror.shown:
        write_text(folder.mirror, json.dumps({"storage": mirror.url}) + "\n")
