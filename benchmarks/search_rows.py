"""Plays the rows of docs/controllers.md: `python -m benchmarks.search_rows --tables DIR`.

`DIR` holds nasbench_macro.csv.gz, nasbench_graph.csv.gz and nasbench_graph_grid.csv.gz. Each row is
a table, what is observed and what judges, played twice: counting encodings, and with encodings of
one network merged. `make search-tables TABLES=DIR` plays all of them and writes the page.

- NAS-Bench-Macro (Su et al., 2021, arXiv 2105.11871): one training is observed, the mean of three
  judges; all networks, those with at most the median of FLOPs, and the front of accuracy against
  FLOPs.
- NAS-Bench-Graph (Qin et al., 2022, arXiv 2206.09166), task arxiv: validation accuracy is observed,
  test accuracy judges, or the validation accuracy itself; all networks, those with at most the
  median of parameters, and the front of accuracy against parameters.

In the front rows the second objective is observed with the first, for all controllers alike; in the
`known-front` rows it is known beforehand, as FLOPs are, to those controllers that can use it.
`--parts ours` plays the controllers of this project only, `baselines` the others only. What is slow
has fewer searches; each file says how many. What is there is not played again, unless `--again`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.search_baselines import BASELINES, installed
from benchmarks.search_tables import make_parser, run
from search.controllers import CONTROLLERS

RESULTS = Path(__file__).parent / "results"

MACRO = "--table {tables}/nasbench_macro.csv.gz --genes arch --observed acc_seed0"
MACRO += " --objective mean_acc"
GRAPH = "--table {tables}/nasbench_graph.csv.gz --encodings {tables}/nasbench_graph_grid.csv.gz"
GRAPH += " --line arch_id --genes link,op1,op2,op3,op4 --observed arxiv_valid"
TEST, VALID = " --objective arxiv_test", " --objective arxiv_valid"
ROWS = {
    "macro": MACRO,
    "macro-small": f"{MACRO} --limit flops<=median",
    "macro-front": f"{MACRO} --second flops:min",
    "macro-known-front": f"{MACRO} --second flops:min --known flops",
    "graph": GRAPH + TEST,
    "graph-valid": GRAPH + VALID,
    "graph-small": f"{GRAPH}{TEST} --limit arxiv_params_m<=median",
    "graph-front": f"{GRAPH}{TEST} --second arxiv_params_m:min",
    "graph-known-front": f"{GRAPH}{TEST} --second arxiv_params_m:min --known arxiv_params_m",
}
MERGED = {"macro": "--merge", "graph": "--same-as arch_id"}
COUNTED = ("encodings", "networks")
SEARCHES = "--evaluations 200 --marks 100"

OURS = 50  # searches of each of our controllers
# Other libraries and plain methods, and how many searches of each; in rows of one objective only
# where the method knows but one.
ONE = {"plain:evolution": 50, "plain:local": 50, "nevergrad:DiscreteOnePlusOne": 10}
ANY = {
    "plain:random": 50,
    "pymoo:nsga2": 50,
    "optuna:nsgaii(population_size=20)": 10,
    "optuna:tpe": 8,
}
GP = {"optuna:gp": 2}  # a minute and a half of a core for a search
GP_ROWS = ("macro-networks", "graph-networks")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tables", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--parts", choices=("ours", "baselines", "gp", "all"), default="all")
    parser.add_argument("--rows", help=f"by commas, of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--controllers", help="of ours, by commas (default: all)")
    parser.add_argument("--seeds", type=int, default=OURS, help=f"of ours (default: {OURS})")
    parser.add_argument("--again", action="store_true", help="play what is there anew")
    parser.add_argument("--to", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    ours = options.controllers or ",".join(CONTROLLERS)
    for row in (options.rows or ",".join(ROWS)).split(","):
        if row not in ROWS:
            parser.error(f"unknown row {row!r}; there are {', '.join(ROWS)}")
        for counted in COUNTED:
            for seeds, controllers in games(row, counted, options.parts, ours, options.seeds):
                code = play(options, row, counted, controllers, seeds)
                if code:
                    return code
    return 0


def games(row: str, counted: str, parts: str, ours: str, seeds: int) -> list[tuple[int, str]]:
    """How many searches of which controllers."""
    found: dict[int, list[str]] = {}
    if parts in ("all", "ours"):
        found.setdefault(seeds, []).append(ours)
    others: dict[str, int] = {}
    if parts in ("all", "baselines"):
        others |= ANY if row.endswith("front") else {**ONE, **ANY}
    if parts in ("all", "gp") and f"{row}-{counted}" in GP_ROWS:
        others |= GP
    for name, count in others.items():
        if kept := installed(name):
            found.setdefault(count, []).append(kept)
    return [(count, ",".join(names)) for count, names in found.items()]


def play(options: argparse.Namespace, row: str, counted: str, controllers: str, seeds: int) -> int:
    words = [*ROWS[row].format(tables=options.tables).split(), *SEARCHES.split()]
    if counted == "networks":
        words += MERGED[row.partition("-")[0]].split()
    path = options.to / f"search_tables-{row}-{counted}.json"
    words += ["--controller", controllers, "--seeds", str(seeds), "--json", str(path)]
    words += ["--again"] if options.again else []
    print(f"{row}, {counted}: {controllers}, {seeds} searches each", file=sys.stderr)
    made = make_parser("benchmarks.search_baselines").parse_args([*words, "--quiet"])
    return run(made, "search_baselines", BASELINES, words)


if __name__ == "__main__":
    sys.exit(main())
