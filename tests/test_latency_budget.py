"""Latency budgets from the command line, on a device that counts parameters: profiled, kept to,
measured as exported, replaced where they were over, and reported."""

import csv
import json

import pytest

from commands import latency, settle
from evaluator.interleaved import TooNoisy
from evaluator.latency_profile import read_profile
from results.store import Store
from space.genome import Genome
from tests.evaluator.timed import CountingRuntime, module_ms


@pytest.fixture
def device(monkeypatch, tmp_path):
    """The device at hand; profiles are kept in a folder of the test's own."""
    runtime = CountingRuntime(device="counting")
    for module in (latency, settle):
        monkeypatch.setattr(module, "make_runtime", lambda device: runtime)
    monkeypatch.setenv(latency.FOLDER, str(tmp_path / "profiles"))
    return runtime


def true_ms(genome):
    return sum(module_ms(placed.build()) for placed in genome.parts())


def scored(folder):
    with Store(folder / "candidates.sqlite", readonly=True) as store:
        return store.rows()


def test_what_is_exported_keeps_to_the_budget_and_both_numbers_are_written(runs, device, tmp_path):
    ended = runs(budget="6ms@cpu", device="cpu", json=True)
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert len(list((tmp_path / "profiles").glob("cpu-*.json"))) == 1
    measured = {entry["digest"]: entry for entry in result["latencies"]["networks"]}
    rows = {row.digest: row for row in scored(ended.folder)}
    with (ended.folder / "front.csv").open() as file:
        front = list(csv.DictReader(file))
    assert front
    for line in front:
        ms = true_ms(Genome.from_json(rows[line["hash"]].genome))
        assert ms <= 6
        assert float(line["measured latency@cpu"]) == pytest.approx(ms)
        assert float(line["latency@cpu"]) == pytest.approx(ms, rel=0.05)  # as predicted
        assert measured[line["hash"]]["within"]
    report = (ended.folder / "report.html").read_text()
    assert "Latency: predicted and measured" in report
    assert "All keep to the budget." in report


def test_networks_over_the_budget_are_not_reported_and_are_replaced(runs, device):
    device.surprise = 1.1
    ended = runs(budget="6ms@cpu", device="cpu", json=True, evaluations=20)
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    networks = result["latencies"]["networks"]
    assert any(not entry["within"] for entry in networks)
    for row in result["front"]:
        entry = next(entry for entry in networks if entry["digest"] == row["digest"])
        assert entry["ms"] <= 6
    replacements = [row for row in scored(ended.folder) if row.origin == settle.ORIGIN]
    assert replacements
    for row in replacements:
        assert 1.1 * true_ms(Genome.from_json(row.genome)) <= 6 * 1.02
    assert "over the budget" in (ended.folder / "report.html").read_text()


def test_a_run_that_was_settled_is_not_measured_again(runs, device):
    ended = runs(budget="6ms@cpu", device="cpu")
    assert ended.code == 0, ended.err
    before, device.exported = ended.front, 0
    again = runs.resume(ended.folder)
    assert again.code == 0, again.err
    assert device.exported == 0
    assert again.front == before


def test_where_nothing_can_be_measured_the_run_says_so_and_ends_well(runs, device, monkeypatch):
    def restless(*_, **__):
        raise TooNoisy("the machine is busy")

    monkeypatch.setattr(settle, "measure", restless)
    ended = runs(budget="6ms@cpu", device="cpu", json=True)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["latencies"]["unmeasured"] == "the machine is busy"
    assert "latencies are predictions" in (ended.folder / "report.html").read_text()
    monkeypatch.undo()


def test_a_profile_file_stands_for_a_device_that_is_not_here(runs, device, command, tmp_path):
    made = tmp_path / "phone.json"
    ended = runs(budget="6ms@cpu", device="cpu", name="here")
    found = next((tmp_path / "profiles").glob("cpu-*.json"))
    made.write_text(found.read_text())
    ended = runs(budget=f"6ms@{made}", device="cpu", name="there", json=True)
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert result["latencies"]["networks"] == []
    for row in scored(ended.folder):
        assert row.costs[f"latency@{made}"] <= 6
    shown = command("profile", "--show", made)
    assert shown.code == 0, shown.err


def test_another_version_of_a_library_measures_anew(runs, device, tmp_path):
    runs(budget="6ms@cpu", device="cpu", name="first")
    device._environment = {"torch": "other"}
    runs(budget="6ms@cpu", device="cpu", name="second")
    profiles = [read_profile(path) for path in (tmp_path / "profiles").glob("*.json")]
    assert len(profiles) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '{"kind": "chimera latency profile", "format": 0}',
            "has format 0, and this version reads",
        ),
        ('{"kind": "else"}', "is not a latency profile"),
        ("text", "is not a JSON file"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_in_one_line(runs, tmp_path, content, said):
    path = tmp_path / "other.json"
    path.write_text(content)
    ended = runs(budget=f"6ms@{path}", device="cpu")
    assert ended.code == 2
    assert said in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert not ended.folder.exists()


def test_bad_words_of_profile_are_refused_in_one_line(command, tmp_path):
    for words, said in (
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--device", "cpu:threads=9999"), "asks for 9999 threads"),
        (("--device", "phone.json"), "was measured elsewhere, and cannot be measured here"),
        (("--minutes", "0"), "minutes is 0.0, but must be above 0"),
        (("--out", tmp_path / "profile.txt"), "a profile's name ends in .json"),
        (("--show", tmp_path / "missing.json"), "cannot be read"),
    ):
        ended = command("profile", *words)
        assert ended.code == 2, words
        assert said in ended.err
        assert len(ended.err.strip().splitlines()) == 1
