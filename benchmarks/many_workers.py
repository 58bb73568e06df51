"""Whether the controller keeps a thousand workers busy, and what a suggestion costs.

    python -m benchmarks.many_workers --json benchmarks/results/many_workers-cpu.json

plays searches of `unified` under 4GFLOPs in which an evaluation is a sleep: how long each takes is
drawn from the recorded times of trainings of proxies alone, 50 s on the average
(`results/trust-unified-cifar10-cpu.json`), and its score is the likeness to a hidden network.
Nobody really sleeps: time is counted. What the search itself does (asking, telling, writing
candidates and state into SQLite) takes the time that it takes here, and workers wait for it. `busy`
is the share of all workers' time in which they work, from the first to the last, `overhead_ms` what
an evaluation costs the process that searches, and `most_workers` how many it could keep at work: a
mean evaluation over that.
"""

from __future__ import annotations

import argparse
import heapq
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import device_name
from evaluator.interfaces import Score
from results.store import Store
from search.controllers import make_controller
from search.interfaces import Outcome
from search.loop import search
from search.networks import NetworkProposals, Networks
from space.budget import Budget
from space.cost_table import CostTable
from space.files import load_space
from space.genome import Genome

RECORDED = Path(__file__).with_name("results") / "trust-unified-cifar10-cpu.json"


class SleepingWorkers:
    """A runner whose workers sleep by a clock of its own. The time of the process that searches
    counts on that clock as it passes: while it thinks, nobody gets new work."""

    def __init__(self, proposals: NetworkProposals, workers: int, seconds: Sequence[float]):
        self.capacity = workers
        self._space, self._rng = proposals.space, np.random.default_rng(0)
        self._seconds = np.array(seconds)
        self._hidden = proposals.sample(self._rng, 1, 0.95)[0]
        self._busy: list[tuple[float, int, Sequence[Genome]]] = []  # by when they end
        self.now, self.worked, self.thought, self.turns = 0.0, 0.0, 0.0, 0
        self._since = time.perf_counter()

    def _passes(self) -> None:
        """The search has had its turn."""
        now = time.perf_counter()
        self.now += now - self._since
        self.thought += now - self._since
        self._since = now

    def submit(self, number: int, candidates: Sequence[Genome]) -> None:
        self._passes()
        takes = float(self._rng.choice(self._seconds, len(candidates)).sum())
        heapq.heappush(self._busy, (self.now + takes, number, candidates))
        self.worked += takes
        self._since = time.perf_counter()

    def next(self) -> dict[int, list[Outcome]]:
        self._passes()
        self.now = max(self.now, self._busy[0][0])
        ended = {}
        while self._busy and self._busy[0][0] <= self.now:
            _, number, candidates = heapq.heappop(self._busy)
            rows = np.stack([self._space.encode(genome) for genome in candidates])
            likeness = (rows == self._hidden).mean(axis=1)
            ended[number] = [Outcome(Score(float(one)), 0.0) for one in likeness]
        self.turns += 1
        self._since = time.perf_counter()  # what evaluating takes here counts for nobody
        return ended

    def close(self) -> None:
        """Holds nothing."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--controllers", default="random,evolution,predictor")
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--evaluations", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    networks = json.loads(RECORDED.read_text(encoding="utf-8"))["networks"]
    seconds = [float(network["seconds"]) for network in networks]
    result = {
        "benchmark": "many_workers",
        "command": " ".join(["python -m benchmarks.many_workers", *sys.argv[1:]]),
        "device": device_name("cpu"),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "seed": 0,
        "recorded_seconds": {"mean": float(np.mean(seconds)), "n": len(seconds)},
        "controllers": {
            name: played(name, options.workers, options.evaluations, seconds)
            for name in options.controllers.split(",")
        },
    }
    print(json.dumps(result, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def played(name: str, workers: int, evaluations: int, seconds: Sequence[float]) -> dict[str, Any]:
    """One search."""
    space = load_space("unified")
    proposals = NetworkProposals(space, CostTable(space), Budget.parse("4GFLOPs"))
    runner = SleepingWorkers(proposals, workers, seconds)
    controller = make_controller(name, proposals, 0)
    with (
        tempfile.TemporaryDirectory() as folder,
        Store(Path(folder) / "candidates.sqlite") as store,
    ):
        search(
            controller,
            runner,
            store,
            Networks(proposals),
            evaluations=evaluations,
            batch=1,
            origin=name,
        )
        done = len(store.statuses())
    overhead = runner.thought / done
    last = runner.now
    return {
        "workers": workers,
        "evaluations": done,
        "overhead_ms": 1000 * overhead,
        "told_at_a_time": done / runner.turns,
        "busy": runner.worked / (workers * last),
        "most_workers": float(np.mean(seconds)) / overhead,
        "hours": last / 3600,
    }


if __name__ == "__main__":
    sys.exit(main())
