"""What controllers are compared on with `--run`: the networks of a run, scored by its supernet."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from commands.compare import Setting
from commands.job import make_runner
from commands.trust import OpenRun, open_run
from results.console import Console
from search.compare import Truth
from search.problem import Problem, Row


class RunGround:
    """Rows are networks inside the run's budget, an evaluation is the supernet's score. A score is
    the same every time, so it is also what judges, and each network is scored once for all
    controllers. Nobody knows all networks: the hypervolume of score and one cost is a share of all
    that there is between the cheapest network and the budget, from score 0 to 1."""

    sign = 1.0
    observations = 1

    def __init__(self, run: OpenRun):
        self._proposals = run.job.proposals
        self._runner = make_runner(run.job, run.trainer, run.data)
        self._scores: dict[Row, float | str] = {}
        problem, reachable = self._proposals.problem, self._proposals.reachable()
        self.truth = None
        if len(problem.wanted_small) == 1:
            (name,) = problem.wanted_small
            most = problem.limits.get(name, reachable.largest[name])
            room = float(most - reachable.smallest[name])
            self.truth = Truth(None, None, 0, (0.0, -float(most)), room)

    @property
    def problem(self) -> Problem:
        return self._proposals.problem

    def observe(self, row: Row, times: int = 0) -> tuple[float, ...]:
        """RuntimeError where the network cannot be scored."""
        if row not in self._scores:
            (outcome,) = self._runner.run([self._proposals.space.decode(row)])
            score = outcome.score
            self._scores[row] = str(outcome.error) if score is None else score.score
        found = self._scores[row]
        if isinstance(found, str):
            raise RuntimeError(found)
        return (found,)

    def judge(self, row: Row) -> tuple[float, ...]:
        gains = self.problem.known_gains(np.array([row], np.int64))[0]
        return (*self.observe(row), *map(float, gains))


def run_setting(path: Path, device: str | None, console: Console) -> Setting:
    """ValueError where there is no such run, or its supernet is not trained."""
    run = open_run(path, device, console)
    facts = {
        "run": path.name,
        "objective": "supernet score",
        "observed": ["the supernet's score"],
        "limits": [{"text": run.job.settings.budget, "value": run.job.proposals.limit}],
        "counted": "networks",
        "data": run.data.digest,
        "steps": run.trainer.steps,
    }
    notes = [
        "Scores are those of the supernet on validation images, not accuracies of trained networks."
    ]
    return Setting(path.name, RunGround(run), facts, notes)
