"""What mutating late variables more often costs in quality, and what it saves a scorer.

    python -m benchmarks.mutation_order --table nasbench_macro.csv.gz \\
        --json benchmarks/results/mutation_order.json

runs the evolution with `mutation` "uniform" and "late", each from the same seeds:

- `table`: on NAS-Bench-Macro (Su et al., 2021, arXiv 2105.11871), the whole space at any time, with
  no reward for size. The search sees the accuracy of one training; what it has found is judged by
  the mean of three. Noted: evaluations until one of the best 0.1% of all encodings was scored, and
  the accuracy of the network that has looked best so far.
- `likeness` and `random`: on the default space at its budget, planned as in a real run. The score
  is the share of decisions that a network has in common with a hidden network at the budget, or a
  random number. The best reward of a network at the budget is noted for the first.

For all of them: which share of a network's multiply-adds lies behind the longest beginning that a
network before it had in common with it. That is what a scorer computes that forgets nothing (see
`evaluator.population`); one that keeps less computes more. The first 64 networks are random, and
counted apart.

Intervals are 95% intervals of means over the seeds (normal), and of paired differences, since the
two searches of one seed begin with the same networks. Nothing is trained: all of it takes about a
quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.machine import device_name
from benchmarks.ranking_nasbench_macro import published_space, read_table, row_of
from search.evolution import MUTATIONS, RegularizedEvolution
from search.networks import NetworkProposals
from search.problem import Trial
from search.proposals import BAND
from search.reward import absolute_reward
from space.budget import Budget
from space.cost import Cost
from space.cost_table import COSTS, CostTable
from space.files import load_space
from space.genome import Genome, Placed

POPULATION, TOURNAMENT, BATCH = 64, 16, 16  # as in a run
BEST = 0.001  # of all encodings
LATE_MINUS_UNIFORM = "late - uniform"


class Everywhere(NetworkProposals):
    """Plans no place in the budget."""

    def slices(self) -> list[tuple[float, float]]:
        return [(0.0, 1.0)]


class Work:
    """Multiply-adds that a scorer needs which keeps all that it has ever computed."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, Placed], int] = {}
        self._roots: dict[int, int] = {}

    def of(self, genome: Genome) -> tuple[int, Cost]:
        """The multiply-adds of what is new in a network, and the cost of all of it."""
        new, total = 0, Cost()
        number = self._roots.setdefault(genome.resolution, -1 - len(self._roots))
        for placed in genome.parts():
            cost, key = cost_of(placed), (number, placed)
            if key not in self._numbers:
                self._numbers[key] = len(self._numbers)
                new += cost.macs
            number = self._numbers[key]
            total += cost
        return new, total


@cache
def cost_of(placed: Placed) -> Cost:
    return placed.cost()


@dataclass(slots=True)
class Played:
    """One search, network by network."""

    rows: list[tuple[int, ...]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    use: list[float] = field(default_factory=list)
    new: list[int] = field(default_factory=list)
    macs: list[int] = field(default_factory=list)


Scoring = Callable[[tuple[int, ...]], float]


def play(
    proposals: NetworkProposals,
    mutation: str,
    seed: int,
    score: Scoring,
    *,
    evaluations: int,
    planned: bool,
) -> Played:
    """A search; where it is not `planned`, size counts for nothing."""
    controller = RegularizedEvolution(
        proposals,
        seed,
        population=POPULATION,
        tournament=TOURNAMENT,
        mutation=mutation,
        at_budget=0.5 if planned else 0.0,
    )
    played, work = Played(), Work()
    while len(played.rows) < evaluations:
        rows = controller.ask(min(BATCH, evaluations - len(played.rows)))
        if not rows:
            break
        trials = []
        for row in rows:
            found = score(row)
            new, cost = work.of(proposals.space.decode(row))
            trials.append(Trial(row, (found,)))
            use = proposals.budget.use(cost)
            for values, value in zip(
                (played.rows, played.scores, played.use, played.new, played.macs),
                (row, found, use, new, cost.macs),
                strict=True,
            ):
                values.append(value)  # type: ignore[attr-defined]
        controller.tell(trials)
    return played


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--table", type=Path, required=True, help="nasbench_macro.csv.gz")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--seeds", type=int, default=200, help="on the table")
    parser.add_argument("--evaluations", type=int, default=300, help="on the table")
    parser.add_argument("--space", default="unified")
    parser.add_argument("--budget", default="4GFLOPs")
    parser.add_argument("--space-seeds", type=int, default=30)
    parser.add_argument("--space-evaluations", type=int, default=320)
    options = parser.parse_args()
    result = measure(options)
    print(json.dumps(result, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    begun = time.perf_counter()
    table = on_table(options.table, options.seeds, options.evaluations)
    space = load_space(options.space)
    proposals = NetworkProposals(space, CostTable(space), Budget.parse(options.budget))
    on_space = {
        name: planned(proposals, scoring, options.space_seeds, options.space_evaluations)
        for name, scoring in (("likeness", likeness), ("random", at_random))
    }
    return {
        "benchmark": "mutation_order",
        "command": " ".join(["python -m benchmarks.mutation_order", *sys.argv[1:]]),
        "device": device_name("cpu"),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "population": POPULATION,
        "tournament": TOURNAMENT,
        "batch": BATCH,
        "table": table,
        "space": {"name": options.space, "budget": options.budget, **on_space},
        "seconds": time.perf_counter() - begun,
    }


# ---- on the table


def on_table(path: Path, seeds: int, evaluations: int) -> dict[str, Any]:
    """Searches on NAS-Bench-Macro."""
    rows, truth = read_table(path)
    keys = [tuple(map(int, row)) for row in rows]
    seen = dict(zip(keys, truth.acc_seed0 / 100, strict=True)).__getitem__
    judged = dict(zip(keys, truth.mean_acc, strict=True))
    encodings = pd.read_csv(path, dtype={"arch": str})
    first = encodings.mean_acc.nlargest(round(BEST * len(encodings))).index
    best = {tuple(map(int, row_of(arch))) for arch in encodings.arch[first]}
    space = published_space()
    costs = CostTable(space)
    limit = int(costs.costs(rows)[:, COSTS.index("macs")].max())
    proposals = Everywhere(space, costs, Budget(macs=limit, text="all"))

    def until(played: Played) -> float:
        return next((n for n, row in enumerate(played.rows, 1) if row in best), np.inf)

    def curve(played: Played) -> NDArray[np.float64]:
        """The judged accuracy of the network that has looked best so far."""
        leading: list[int] = []
        for n, score in enumerate(played.scores):
            ahead = not leading or score > played.scores[leading[-1]]
            leading.append(n if ahead else leading[-1])
        return np.array([judged[played.rows[n]] for n in leading])

    found: dict[str, Any] = {}
    kept: dict[str, dict[str, NDArray[np.float64]]] = {}
    for mutation in MUTATIONS:
        games = [
            play(proposals, mutation, seed, seen, evaluations=evaluations, planned=False)
            for seed in noted(seeds, f"table, {mutation}")
        ]
        times = np.array([until(played) for played in games])
        curves = np.stack([curve(played) for played in games])
        kept[mutation] = {
            "found": np.isfinite(times).astype(float),
            "evaluations_at_most": np.minimum(times, evaluations),
            **{f"accuracy_at_{n}": curves[:, n - 1] for n in marks(evaluations)},
            **shares(games),
        }
        found[mutation] = {"until_one_of_the_best": spread(times), **means(kept[mutation])}
    return {
        "networks": len(rows),
        "encodings": len(encodings),
        "best_encodings": len(first),
        "best_networks": len(best),
        "best_accuracy": float(truth.mean_acc.max()),
        "seeds": [0, seeds - 1],
        "evaluations": evaluations,
        **found,
        LATE_MINUS_UNIFORM: differences(kept),
    }


# ---- on a space of this project


def likeness(proposals: NetworkProposals, seed: int) -> Scoring:
    """The share of decisions in common with a hidden network: one that matters in both and has
    the same value, or that matters in neither."""
    space = proposals.space
    hidden = proposals.sample(np.random.default_rng([seed, 99]), 1, BAND)[0]

    def score(row: tuple[int, ...]) -> float:
        pair = np.array([row, hidden])
        active = space.active(pair)
        return float(((active[0] == active[1]) & (pair[0] == pair[1])).mean())

    return score


def at_random(_: NetworkProposals, seed: int) -> Scoring:
    rng = np.random.default_rng([seed, 98])
    return lambda row: float(rng.random())


def planned(
    proposals: NetworkProposals,
    scoring: Callable[[NetworkProposals, int], Scoring],
    seeds: int,
    evaluations: int,
) -> dict[str, Any]:
    """Searches as a run plans them."""
    found: dict[str, Any] = {}
    kept: dict[str, dict[str, NDArray[np.float64]]] = {}
    for mutation in MUTATIONS:
        games = [
            play(
                proposals,
                mutation,
                seed,
                scoring(proposals, seed),
                evaluations=evaluations,
                planned=True,
            )
            for seed in noted(seeds, f"{scoring.__name__}, {mutation}")
        ]
        kept[mutation] = shares(games)
        if scoring is likeness:
            curves = np.stack([best_reward(played) for played in games])
            for n in marks(evaluations):
                kept[mutation][f"reward_at_{n}"] = curves[:, n - 1]
        found[mutation] = means(kept[mutation])
    return {
        "seeds": [0, seeds - 1],
        "evaluations": evaluations,
        **found,
        LATE_MINUS_UNIFORM: differences(kept),
    }


def best_reward(played: Played) -> NDArray[np.float64]:
    """Of a network at the budget, so far."""
    use, scores = np.array(played.use), np.array(played.scores)
    rewards = [absolute_reward(*pair) for pair in zip(scores, use, strict=True)]
    return np.maximum.accumulate(np.where(use >= BAND, rewards, 0.0))


# ---- numbers


def marks(evaluations: int) -> list[int]:
    return sorted({n for n in (50, 100, 200, 300, evaluations) if n <= evaluations})


def shares(games: Sequence[Played]) -> dict[str, NDArray[np.float64]]:
    """Of each search: the mean share of a network that is new, and the new share of everything."""
    new = np.array([played.new for played in games], float)
    macs = np.array([played.macs for played in games], float)
    children = slice(POPULATION, None)
    return {
        "new_share_of_a_random_network": (new / macs)[:, :POPULATION].mean(1),
        "new_share_of_a_child": (new / macs)[:, children].mean(1),
        "new_share_of_all_children": new[:, children].sum(1) / macs[:, children].sum(1),
        "new_share_of_all": new.sum(1) / macs.sum(1),
    }


def mean(values: NDArray[np.float64]) -> dict[str, Any]:
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return {
        "mean": float(values.mean()),
        "interval": [float(values.mean() - half), float(values.mean() + half)],
        "deviation": float(values.std(ddof=1)),
    }


def means(values: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    return {name: mean(found) for name, found in values.items()}


def differences(kept: dict[str, dict[str, NDArray[np.float64]]]) -> dict[str, Any]:
    """Late minus uniform, seed by seed."""
    return {name: mean(kept["late"][name] - found) for name, found in kept["uniform"].items()}


def spread(times: NDArray[np.float64]) -> dict[str, Any]:
    """Median and quartiles over all seeds; a miss counts as later than all else, and is null."""
    low, middle, high = (
        quantile if np.isfinite(quantile) else None
        for quantile in map(float, np.quantile(times, [0.25, 0.5, 0.75], method="higher"))
    )
    misses = int(np.isinf(times).sum())
    return {"median": middle, "quartiles": [low, high], "misses": misses, "searches": len(times)}


def noted(seeds: int, what: str) -> Iterator[int]:
    """The seeds, and then how long they took."""
    begun = time.perf_counter()
    yield from range(seeds)
    print(f"{what}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
