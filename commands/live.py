"""The report of a search that is still under way, written anew from time to time."""

from __future__ import annotations

import time

from commands.finish import keep_training, report_anew
from commands.job import Job
from results.console import Console
from results.run_folder import RunFolder
from supernet.training import Trainer

FIRST_SECONDS = 5.0  # before the first; a search that is shorter has the last one at once
EVERY_SECONDS = 30.0
SHARE = 0.02  # of the time, that writing it takes at most


class LiveReport:
    """Called after each batch. What goes wrong with a report is said once, and does not end the
    search: there is another one at its end."""

    def __init__(self, folder: RunFolder, job: Job, trainer: Trainer, console: Console):
        self._folder, self._job, self._trainer, self._console = folder, job, trainer, console
        self._next: float | None = time.monotonic() + FIRST_SECONDS

    def __call__(self) -> None:
        begun = time.monotonic()
        if self._next is None or begun < self._next:
            return
        try:
            keep_training(self._folder, self._trainer)
            report_anew(self._folder, self._job, self._job.settings, finished=False)
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            self._console.say(f"the report cannot be written while the search runs: {said}")
            self._next = None
            return
        ended = time.monotonic()
        self._next = ended + max(EVERY_SECONDS, (ended - begun) / SHARE)
