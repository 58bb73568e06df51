"""Runs whose budget limits latency, by a made-up device: predicted, held, steered and kept."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import yaml

from commands import columns, search
from evaluator.memory import peak_memory
from results.store import Store
from space.cost_table import CostTable
from space.device import Device
from space.genome import Genome

MACS, PARAMS = 8e-6, 1e-4  # ms of one of each


@dataclass(frozen=True)
class Fake:
    """A latency that is linear in counts, by a factor that stands in a file."""

    name: str
    table: CostTable
    factor: float

    def __call__(self, codes):
        counts = (self.table.column(codes, name) for name in ("macs", "params"))
        return self.factor * sum(w * c for w, c in zip((MACS, PARAMS), counts, strict=True))


class Measuring:
    """Stands for what measures a device: says how often it did, and keeps what it found."""

    def __init__(self):
        self.measured, self.factor = [], 1.0

    def __call__(self, space, device, *, keep, console):
        kept = keep / f"{device.runtime}.factor"
        if not kept.is_file():
            self.measured.append(device.name)
            keep.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(self.factor))
        return Fake(f"latency@{device.name}", CostTable(space), json.loads(kept.read_text()))


@pytest.fixture
def measuring(monkeypatch):
    fake = Measuring()
    monkeypatch.setattr(columns, "latency_column", fake)
    monkeypatch.setattr(search, "settle", lambda *_: None)  # nothing is measured in truth
    return fake


def scored(folder, file="candidates.sqlite"):
    with Store(folder / file, readonly=True) as store:
        return store.rows()


def latency(row):
    return MACS * row.macs + PARAMS * row.params


def test_a_limit_that_binds_is_steered(runs, measuring):
    """8 ms are what some 0.7M MACs take, so 95% of 2M MACs cannot be had."""
    ended = runs(budget="2MFLOPs,8ms", device="cpu", json=True)
    assert ended.code == 0, ended.err
    assert measuring.measured == ["cpu"]
    result = json.loads(ended.out)
    config = yaml.safe_load((ended.folder / "config.yaml").read_text())
    assert config["budget"] == "2MFLOPs,8ms@cpu"
    assert result["budget"] == {"macs": 2_000_000, "latency@cpu": 8}
    for file in ("candidates.sqlite", "state/random.sqlite"):
        rows = scored(ended.folder, file)
        assert len(rows) == 12
        for row in rows:
            assert row.costs == {"latency@cpu": pytest.approx(latency(row))}
            assert latency(row) <= 8
            assert row.reward == pytest.approx(row.score - 0.1 * (1 - latency(row) / 8))
    rows = scored(ended.folder)
    at_budget = [row for row in rows if latency(row) >= 0.95 * 8]
    assert at_budget
    best = max(at_budget, key=lambda row: row.reward)
    assert result["best"]["digest"] == best.digest
    front = {
        row.digest
        for row in rows
        if not any(latency(o) < latency(row) and o.score >= row.score for o in rows)
    }
    assert {row["hash"] for row in ended.rows} == front
    for row in ended.rows:
        assert float(row["latency@cpu"]) <= 8
    assert list((ended.folder / "state" / "profiles").iterdir())


def test_a_resumed_run_predicts_what_it_predicted(runs, measuring):
    settings = {"budget": "8ms", "in_flight": 1}
    whole = runs(name="whole", **settings)
    stopped = runs(name="stopped", **settings, evaluations=4)
    assert stopped.code == 0, stopped.err
    config = stopped.folder / "config.yaml"
    config.write_text(config.read_text().replace("evaluations: 4", "evaluations: 12"))
    measuring.factor, measuring.measured = 2.0, []  # a device that has changed since
    ended = runs.resume(stopped.folder)
    assert ended.code == 0, ended.err
    assert measuring.measured == []
    assert ended.front == whole.front
    again = runs.resume(stopped.folder, "--budget", "8ms")
    assert again.code == 0, again.err
    other = runs.resume(stopped.folder, "--budget", "9ms")
    assert "budget is '9ms@cpu', but the run" in other.err


def test_what_looks_at_a_run_again_does_not_measure_again(runs, measuring, command):
    ended = runs(budget="2MFLOPs,8ms", device="cpu", evaluations=16, in_flight=1)
    assert ended.code == 0, ended.err
    measuring.factor, measuring.measured = 2.0, []
    folder = ended.folder
    for name, *more in (
        ("trust", "--networks", 4, "--steps", 2),
        ("finalists", "--networks", 3, "--random", 1, "--steps", 4, "--workers", 1),
    ):
        again = command(name, folder, *more)
        assert again.code == 0, again.err
    compared = command(
        *("compare-controllers", "--run", folder, "--controllers", "random,evolution"),
        *("--evaluations", 4, "--seeds", 1),
    )
    assert compared.code == 0, compared.err
    assert measuring.measured == []
    finalists = json.loads((folder / "finalists.json").read_text())["networks"]
    assert len(finalists) == 4
    for network in finalists:
        assert MACS * network["macs"] + PARAMS * network["params"] <= 8
    trusted = json.loads((folder / "trust.json").read_text())
    assert trusted["about"]["level"] == "the median candidate"  # as it is the latency that binds
    for network in trusted["networks"]:
        assert MACS * network["macs"] + PARAMS * network["params"] <= 8


def test_a_limit_on_memory(runs):
    """No device has to be there for it."""
    ended = runs(budget="2MFLOPs,170kB@cuda:batch=2", objectives="score,macs,memory", json=True)
    assert ended.code == 0, ended.err
    device = Device("cuda", batch=2)
    for row in scored(ended.folder):
        assert row.costs == {
            "memory@cuda:batch=2": peak_memory(Genome.from_json(row.genome), device)
        }
        assert row.cost("memory@cuda:batch=2") <= 170_000
    assert "memory@cuda:batch=2" in ended.rows[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_three_objectives(runs, measuring, workers):
    objectives = "score,macs,latency@cuda:batch=2,dtype=bf16"
    ended = runs(budget="2MFLOPs", objectives=objectives, workers=workers, threads=1, in_order=True)
    assert ended.code == 0, ended.err
    column = "latency@cuda:batch=2,dtype=bfloat16"
    assert measuring.measured == [column.removeprefix("latency@")]
    rows = scored(ended.folder)
    points = {row.digest: np.array([-row.score, row.macs, row.cost(column)]) for row in rows}
    front = {
        digest
        for digest, point in points.items()
        if not any((o <= point).all() and (o < point).any() for o in points.values())
    }
    assert {row["hash"] for row in ended.rows} == front
    assert {column, "macs", "params"} <= set(ended.rows[0])


def test_a_dry_run_says_every_limit(runs, measuring):
    ended = runs(budget="2MFLOPs,8ms,40kparams", dry_run=True)
    assert ended.code == 0, ended.err
    said = " ".join(ended.out.split())
    assert "2M MACs (= 4M FLOPs at 2 each) and 40k parameters and 8 ms on cpu" in said
    assert "latency on cpu" in said
    assert not runs.runs.exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"budget": "8ms@"}, "names no device behind '@'"),
        ({"budget": "8ms,9ms@cpu"}, "limits latency on cpu twice"),
        ({"budget": "1ms"}, "no network of space 'tiny' fits the budget '1ms@cpu'"),
        ({"objectives": "score,speed"}, "unknown objective 'speed'; there are score, macs"),
        ({"objectives": "macs"}, "must be score and one cost or several"),
        ({"objectives": "score"}, "must be score and one cost or several"),
        ({"objectives": "score,macs,macs"}, "objectives name macs twice"),
        (
            {"budget": "8ms@cpu,9ms@cuda", "objectives": "score,latency"},
            "may be any of latency@cpu and latency@cuda",
        ),
    ],
)
def test_what_is_refused(runs, measuring, options, expected):
    ended = runs(device="cpu", **options)
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert expected in line
    assert not runs.runs.exists()
