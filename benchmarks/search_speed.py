"""How long the search of a default run takes, as it is and with each candidate scored alone.

    python -m benchmarks.search_speed --json benchmarks/results/search_speed-DEVICE.json

trains the supernet of a default run with the digits and searches with it twice or more, in turns:
`one by one`, each candidate alone on all validation images, and `now`, as `run_search.py` does,
with a tree of parts, kept prefixes and races. The search proper is timed, the training is not.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import device_name
from commands.job import Job, make_runner, scorer_of
from commands.options import make_parser, resolve
from commands.scoring import front_so_far
from evaluator.data import load_data
from results.run_folder import best_at_budget
from results.store import Store
from search.controllers import make_controller
from search.loop import search
from search.networks import Networks
from search.proposals import BAND
from search.runner import local_runner


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--repeats", type=int, default=2)
    options, given = parser.parse_known_args()
    given = given or ["--budget", "4GFLOPs"]
    job = Job(resolve(make_parser().parse_args(given)))
    data = load_data(job.settings.data, resolution=job.settings.proxy_resolution)
    trainer = job.trainer(data)
    trainer.run()
    seconds: dict[str, list[float]] = {}
    best: dict[str, float] = {}
    for _ in range(options.repeats):
        for way in ("one by one", "now"):
            with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "c.sqlite") as store:
                begun = time.perf_counter()
                searched(way, job, trainer, data, store)
                seconds.setdefault(way, []).append(time.perf_counter() - begun)
                found = best_at_budget(
                    store.rows(), job.proposals.target, job.proposals.limit, BAND
                )
                best[way] = float(found.score) if found is not None and found.score else 0.0
    result = {
        "benchmark": "search_speed",
        "command": " ".join(["python -m benchmarks.search_speed", *sys.argv[1:]]),
        "device": device_name(job.settings.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seed": job.settings.seed,
        "evaluations": job.settings.evaluations,
        "validation_images": len(data.validation),
        "ways": {
            way: {"seconds": statistics.median(found), "all_seconds": found, "best": best[way]}
            for way, found in seconds.items()
        },
    }
    print(json.dumps(result, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def searched(way: str, job: Job, trainer: Any, data: Any, store: Store) -> None:
    settings = job.settings
    if way == "now":
        runner = make_runner(job, trainer, data, lambda: front_so_far(job.proposals, store))
    else:
        runner = local_runner(scorer_of(trainer.supernet, data.validation, data, job.space))
    try:
        search(
            make_controller(job.controller, job.proposals, settings.seed),
            runner,
            store,
            Networks(job.proposals),
            evaluations=settings.evaluations,
            batch=settings.batch,
            origin=job.controller,
        )
    finally:
        runner.close()


if __name__ == "__main__":
    sys.exit(main())
