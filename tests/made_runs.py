"""Made-up runs for tests of reports: ordinary, with three objectives, and with names that would do
harm where they were not escaped."""

import random
from dataclasses import replace

from results.history import Row, Run
from space.genes import lookup
from space.genome import Genome, Stage

BUDGET = 10_000_000
EVIL = "</script><script>alert(1)</script>\u2028'\"&"


def make_genome(rng):
    bottleneck = lookup("operator", "inverted_bottleneck")
    attention = lookup("operator", "attention")
    strided = lookup("downsampling", "strided_convolution")
    stages = []
    for channels in (16, 32):
        block = bottleneck(expansion=rng.choice([2, 4]), context=rng.choice([3, 5]))
        blocks = (rng.choice([block, attention()]),) * rng.randint(1, 3)
        down = {"downsample": strided(), "stride": 2} if stages else {}
        stages.append(Stage(channels=channels + 4 * rng.randrange(3), blocks=blocks, **down))
    return Genome(
        resolution=32,
        classes=10,
        stem=lookup("stem", "convolution")(channels=8),
        stages=tuple(stages),
        head=lookup("head", "pooled")(),
    )


def make_row(order, genome, score, **changes):
    cost = genome.cost()
    row = Row(
        order=order,
        name=f"{cost.macs / 1e6:.1f}M-{genome.digest[:6]}",
        digest=genome.digest,
        genome=genome.to_json(),
        status="ok",
        score=score,
        top1=score,
        macs=cost.macs,
        params=cost.params,
        resolution=genome.resolution,
        reward=score,
        seconds=0.5,
        origin="evolution",
        error=None,
    )
    return replace(row, **changes)


def nondominated(rows):
    """By definition: no row is at most as costly and at least as good, and differs in one."""
    return [
        a
        for a in rows
        if not any(
            b.macs <= a.macs and b.score >= a.score and (b.macs, b.score) != (a.macs, a.score)
            for b in rows
        )
    ]


def make_run(count=30, **changes):
    rng = random.Random(1)
    genomes = list({g.digest: g for g in (make_genome(rng) for _ in range(4 * count))}.values())
    rows = [make_row(i, genome, rng.random()) for i, genome in enumerate(genomes[:count])]
    assert len(rows) == count
    presets = [
        {"name": "near", "macs": 9_000_000, "params": 1_000_000, "top1": 81.0},
        {"name": "nearer", "macs": 5_000_000, "params": 1_000_000, "top1": 0.705},
        {"name": "small", "macs": 2_500_000, "params": 900_000, "top1": None},
        {"name": "far", "macs": 50_000_000_000, "params": 90_000_000, "top1": 85.6},
    ]
    run = Run(
        name="a search",
        settings={"search": {"seed": 7, "kind": "evolution"}, "data": {"path": "/data"}},
        environment={"torch": "2.13", "device": None},
        rows=rows,
        front=[row.digest for row in nondominated(rows)],
        best=max(rows, key=lambda row: row.score * (row.macs <= BUDGET)).digest,
        budget={"macs": BUDGET, "params": None, "text": "10MFLOPs"},
        presets=[{**preset, "resolution": 224, "source": "a paper"} for preset in presets],
        space_summary={"name": "tiny", "size": 12 * 10**19, "smallest": 10**6}
        | {"median": 3 * 10**6, "largest": 9 * 10**6},
        supernet={
            "curve": [{"step": i, "loss": 2 / (i + 1), "seconds": i} for i in range(20)],
            "accuracies": {"largest": {"validation": 0.512, "test": 0.498}},
            "epochs": 3,
        },
        command="python run_search.py --budget 10MFLOPs",
    )
    return replace(run, **changes)


def three_objectives():
    """Of score, MACs and a latency, of which the latency is the limit that binds."""
    run = make_run()
    rows = [
        replace(row, costs={"latency@cpu": 3.0 + (7 * i) % 11}) for i, row in enumerate(run.rows)
    ]
    points = {row.digest: (-row.score, row.macs, row.costs["latency@cpu"]) for row in rows}
    front = [
        digest
        for digest, mine in points.items()
        if not any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True))
            for other in points.values()
        )
    ]
    inside = [row for row in rows if row.costs["latency@cpu"] == 8.0]
    return replace(
        run,
        rows=rows,
        front=front,
        best=max(inside, key=lambda row: row.score).digest,
        budget={"macs": BUDGET, "latency@cpu": 8.0, "text": "10MMACs,8ms@cpu"},
        target="latency@cpu",
        objectives=("score", "macs", "latency@cpu"),
    )


def evil_run():
    rows = list(make_run().rows)
    rows[0] = replace(rows[0], name=EVIL, origin=EVIL, digest=EVIL)
    rows[1] = replace(rows[1], status="failed", score=None, reward=None, top1=None, error=EVIL)
    run = make_run(rows=rows, name=EVIL, settings={"data": {"path": EVIL}, EVIL: 1}, command=EVIL)
    return replace(
        run,
        best=EVIL,
        front=[*run.front, EVIL],
        environment={EVIL: EVIL},
        budget={"macs": BUDGET, "text": EVIL},
        presets=[{**run.presets[0], "name": EVIL, "source": EVIL}],
        space_summary={**run.space_summary, "name": EVIL},
        supernet={"note": EVIL, "accuracies": {EVIL: {}}},
    )
