"""What the loop itself costs, and what a second worker brings.

    python -m benchmarks.loop_speed --json benchmarks/results/loop_speed-cpu.json

`free`: evaluations a second of random search on 10^12 rows whose evaluation costs nothing, with a
log in memory, 1,000 at a time. `suggestion_ms`: milliseconds of a controller for one more row,
asked for one by one, beside 400 and 10,000 that it knows of and that were drawn at random, on the
space `unified`; the mean of 40 asks and tells, in which the predictor fits its hyperparameters
once.
`workers`: evaluations a second of 50 ms each with one and two workers on Ray, one at a time each;
the evaluation sleeps, so this is what asking, telling, writing and sending leave of it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import device_name
from evaluator.interfaces import Score
from results.store import Store
from search.compare import InMemory, PlainRows
from search.controllers import make_controller
from search.interfaces import Controller
from search.loop import search
from search.networks import NetworkProposals, Networks
from search.problem import Problem, Row, Trial
from search.proposals import Proposals
from search.runner import UnitRunner, local_runner
from search.workers import OneByOne
from space.budget import Budget
from space.cost_table import CostTable
from space.decisions import PlainDecisions, Variable
from space.files import load_space

EVALUATION_SECONDS = 0.05


class Free:
    """An evaluation that costs nothing."""

    def evaluate(self, candidate: Any) -> Score:
        return Score(float(candidate[0]))


class Sleeping:
    """One that takes its time."""

    def evaluate(self, candidate: Any) -> Score:
        time.sleep(EVALUATION_SECONDS)
        return Score(0.5)


def make_sleeping(tensors: Mapping[str, Any]) -> OneByOne:
    """For Ray's workers, which import it by name."""
    return OneByOne(Sleeping())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--controllers", default="random,evolution,nsga2,predictor,ppo")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    space = load_space("unified")
    proposals = NetworkProposals(space, CostTable(space), Budget.parse("4GFLOPs"))
    result = {
        "benchmark": "loop_speed",
        "command": " ".join(["python -m benchmarks.loop_speed", *sys.argv[1:]]),
        "device": device_name("cpu"),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "seed": 0,
        "free": {"evaluations_per_second": free(20_000)},
        "suggestion_ms": {
            name: {str(n): suggestion(name, proposals, n) for n in (400, 10_000)}
            for name in options.controllers.split(",")
        },
        "workers": workers(proposals),
    }
    print(json.dumps(result, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def free(evaluations: int) -> float:
    """Evaluations a second of a loop that does nothing but loop."""
    variables = tuple(Variable(f"v{i}", tuple(range(10))) for i in range(12))
    proposals = Proposals(Problem(PlainDecisions("digits", variables)))
    controller = make_controller("random", proposals, 0)
    begun = time.perf_counter()
    done = search(
        controller,
        local_runner(Free()),
        InMemory(),
        PlainRows(),
        evaluations=evaluations,
        batch=1000,
        origin="random",
    )
    return done / (time.perf_counter() - begun)


def suggestion(name: str, proposals: NetworkProposals, known: int, asks: int = 40) -> float:
    """Milliseconds of one ask and one tell."""
    rng = np.random.default_rng(0)
    controller: Controller = make_controller(name, proposals, 0)
    hidden = proposals.sample(rng, 1, 0.95)[0]

    def likeness(row: Row) -> Trial:
        return Trial(row, (float((np.array(row) == hidden).mean()),))

    rows = {tuple(map(int, row)) for row in proposals.sample(rng, known)}
    controller.tell([likeness(row) for row in sorted(rows)])
    taken = []
    for _ in range(asks):
        begun = time.perf_counter()
        found = controller.ask(1)
        controller.tell([likeness(row) for row in found])
        taken.append(time.perf_counter() - begun)
    return 1000 * statistics.fmean(taken)


def workers(proposals: NetworkProposals, evaluations: int = 200) -> dict[str, Any]:
    """Evaluations a second with one and two workers, in turn, and how much faster two are."""
    from search.ray_workers import RayWorkers

    found: dict[str, list[float]] = {"1": [], "2": []}
    for _ in range(2):
        for count in (1, 2):
            pool = RayWorkers("benchmarks.loop_speed:make_sleeping", {}, {}, workers=count)
            runner = UnitRunner(pool)
            while pool.capacity < count:
                runner.run([None])
            with (
                tempfile.TemporaryDirectory() as folder,
                Store(Path(folder) / "candidates.sqlite") as store,
            ):
                begun = time.perf_counter()
                search(
                    make_controller("evolution", proposals, 0),
                    runner,
                    store,
                    Networks(proposals),
                    evaluations=evaluations,
                    batch=1,
                    origin="evolution",
                )
                found[str(count)].append(evaluations / (time.perf_counter() - begun))
            pool.close()
    best = {count: max(speeds) for count, speeds in found.items()}
    return {"per_second": found, "speed_up": best["2"] / best["1"]}


if __name__ == "__main__":
    sys.exit(main())
