"""Runs as studies of Optuna: `--optuna-storage`, and `run_search.py optuna`."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from commands import study as study_command
from commands.settle import Measurements, latency_limits, within
from commands.study import Mirror
from evaluator.interfaces import Result
from evaluator.interleaved import Timing
from results.console import Console
from results.run_folder import RunFolder, front_of
from results.store import Store
from search import optuna_mirror
from space.files import load_space
from space.genome import Genome
from tests.endings import one_line


def url(path):
    return f"sqlite:///{path}"


def load(path, name):
    return optuna.load_study(study_name=name, storage=url(path))


def rows_of(folder):
    with Store(folder / "candidates.sqlite", readonly=True) as store:
        return store.rows()


def digests(study):
    return [trial.user_attrs["digest"] for trial in study.trials]


@pytest.fixture(scope="module")
def live(shared_runs):
    """A run that was copied while it searched, and how many trials there were after each batch."""
    storage, seen = shared_runs.home / "live.db", []
    usual = study_command.Mirrored.append

    def append(self, results, origin, state):
        usual(self, results, origin, state)
        seen.append(len(load(storage, "live").trials))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_command.Mirrored, "append", append)
        ended = shared_runs(name="live", optuna_storage=url(storage))
    assert ended.code == 0, ended.err
    return ended, storage, seen


def test_a_running_search_can_be_watched(live):
    ended, storage, seen = live
    assert seen == [4, 8, 12]
    assert f"optuna-dashboard {url(storage)}" in ended.err
    assert digests(load(storage, "live")) == [row.digest for row in rows_of(ended.folder)]


def test_trials_are_the_candidates(live, shared_runs, tiny_space):
    ended, storage, _ = live
    space = load_space(str(shared_runs.space(tiny_space())))
    study, rows = load(storage, "live"), rows_of(ended.folder)
    assert study.metric_names == ["score", "macs"]
    assert study.user_attrs["budget"] == "1MFLOPs"
    for trial, row in zip(study.trials, rows, strict=True):
        assert trial.state == TrialState.COMPLETE
        assert trial.values == [row.score, row.macs]
        assert trial.system_attrs["constraints"] == [row.macs / 1e6 - 1]
        assert trial.user_attrs["origin"] == row.origin == "predictor"
        assert trial.user_attrs["images"] == row.details["images"] > 0
        assert trial.user_attrs["name"] == row.name
        genome = row.genome
        for i, stage in enumerate(genome["stages"]):
            assert trial.params[f"stages.{i}.depth"] == len(stage["blocks"])
            assert trial.params[f"stages.{i}.channels"] == stage["channels"]
            kind = stage["blocks"][0]["kind"]
            assert trial.params[f"stages.{i}.blocks"] == kind
            # Genes of operators that are not there are no parameters.
            genes = {name for name in trial.params if name.startswith(f"stages.{i}.blocks.")}
            assert all(name.startswith(f"stages.{i}.blocks.{kind}.") for name in genes)
        codes = space.encode(Genome.from_json(genome))
        active = space.active(codes[None])[0]
        assert set(trial.params) == {
            v.name for v, on in zip(space.variables, active, strict=True) if on
        }
        for variable, code, on in zip(space.variables, codes, active, strict=True):
            if on:
                assert trial.params[variable.name] == variable.choices[code]
                assert trial.distributions[variable.name].choices == variable.choices


def test_the_front_is_ours(live):
    ended, storage, _ = live
    theirs = {tuple(trial.values) for trial in load(storage, "live").best_trials}
    assert theirs == {(float(row["score"]), float(row["macs"])) for row in ended.rows}


def test_a_finished_run_is_copied(live, tmp_path, command):
    ended, storage, _ = live
    other = tmp_path / "later.db"
    said = command("optuna", ended.folder, "--storage", url(other), "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out) == {
        "study": "live",
        "storage": url(other),
        "trials": 12,
        "added": 12,
    }
    for one, two in zip(load(storage, "live").trials, load(other, "live").trials, strict=True):
        for what in ("params", "values", "distributions", "user_attrs", "system_attrs", "state"):
            assert getattr(one, what) == getattr(two, what)
    again = command("optuna", ended.folder, "--storage", url(other), "--quiet")
    assert "0 of 12 candidates added" in again.out
    assert len(load(other, "live").trials) == 12
    named = command("optuna", ended.folder, "--storage", url(other), "--study", "second")
    assert named.code == 0
    assert f"optuna-dashboard {url(other)}" in named.out
    assert len(load(other, "second").trials) == 12


def test_failed_candidates(live, tmp_path, command, tiny_space, runs):
    folder = Path(shutil.copytree(live[0].folder, tmp_path / "failing"))
    genome = Genome.from_json(rows_of(folder)[0].genome)
    space = load_space(str(runs.space(tiny_space())))
    known = {row.digest for row in rows_of(folder)}
    codes = space.encode(genome)
    genome = next(
        one for one in map(space.decode, space.neighbours(codes)) if one.digest not in known
    )
    with Store(folder / "candidates.sqlite") as store:
        state = store.state()
        result = Result(genome, genome.cost(), error="out of memory", seconds=0.5)
        store.append([result], "predictor", lambda: state)
    storage = tmp_path / "x.db"
    assert command("optuna", folder, "--storage", url(storage), "--quiet").code == 0
    *_, last = load(storage, "failing").trials
    assert (last.state, last.values) == (TrialState.FAIL, None)
    assert last.user_attrs["message"] == "out of memory"
    assert last.user_attrs["status"] == "failed"
    assert last.params["stages.0.channels"] == genome.stages[0].channels


# ---- stop, go on, fail


class Stopped(KeyboardInterrupt):
    pass


def test_a_resumed_search_has_each_trial_once(runs, monkeypatch, live):
    storage = runs.home / "again.db"
    usual = optuna_mirror.StudyCopy.add
    calls = []

    def add(self, entries):
        calls.append(len(entries))
        usual(self, entries[: 2 if len(calls) == 2 else None])
        if len(calls) == 2:  # within a batch, which the log has already
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(optuna_mirror.StudyCopy, "add", add)
        ended = runs(name="live", optuna_storage=url(storage))
    assert ended.code == 130
    assert len(load(storage, "live").trials) == 6
    assert len(rows_of(ended.folder)) == 8
    resumed = runs.resume(ended.folder)  # it remembers where it was copied to
    assert resumed.code == 0, resumed.err
    assert digests(load(storage, "live")) == [row.digest for row in rows_of(ended.folder)]
    assert digests(load(storage, "live")) == digests(load(live[1], "live"))


def test_a_storage_that_fails_does_not_end_the_search(runs, monkeypatch, live, command):
    storage = runs.home / "gone.db"
    usual, calls = optuna_mirror.StudyCopy.add, []

    def add(self, entries):
        calls.append(len(entries))
        if len(calls) > 1:
            raise OSError("database or disk is full")
        usual(self, entries)

    with monkeypatch.context() as patch:
        patch.setattr(optuna_mirror.StudyCopy, "add", add)
        ended = runs(name="live", optuna_storage=url(storage))
    assert ended.code == 0, ended.err
    assert ended.front == live[0].front
    assert ended.err.count("disk is full") == 1
    assert len(calls) == 3  # the first, the second, and once more at the end
    assert len(load(storage, "live").trials) == 4
    (line,) = [line for line in ended.err.splitlines() if "disk is full" in line]
    words = line.partition("python run_search.py ")[2].split()
    assert command(*words).code == 0
    assert digests(load(storage, "live")) == digests(load(live[1], "live"))


@pytest.mark.parametrize("gone", ["folder", "optuna", "study"])
def test_a_run_goes_on_without_its_storage(live, gone, tmp_path, runs, monkeypatch):
    folder = RunFolder(Path(shutil.copytree(live[0].folder, tmp_path / "live")))
    storage = tmp_path / "x.db" if gone != "folder" else tmp_path / "gone" / "x.db"
    folder.mirror.write_text(json.dumps({"storage": url(storage)}))
    if gone == "study":  # another run's, that took the name in the meantime
        study = optuna.create_study(study_name="live", storage=url(storage))
        study.add_trial(optuna.create_trial(value=1.0))
    if gone == "optuna":
        monkeypatch.delitem(sys.modules, "search.optuna_mirror", raising=False)
        monkeypatch.setitem(sys.modules, "optuna", None)
    ended = runs.resume(folder.path)
    assert ended.code == 0, ended.err
    said = {
        "folder": "is not copied for Optuna any more: the storage is",
        "optuna": "is not copied for Optuna any more: a storage of Optuna's needs",
        "study": "its copy for Optuna does not: study 'live'",
    }
    assert ended.err.count(said[gone]) == 1
    if gone != "optuna":
        one_line(runs.resume(folder.path, "--optuna-storage", url(storage)), str(storage))


def test_a_storage_that_is_removed_is_made_again(live, tmp_path):
    folder = RunFolder(Path(shutil.copytree(live[0].folder, tmp_path / "live")))
    storage, said = tmp_path / "x.db", []
    console = type("Console", (), {"say": lambda self, text: said.append(text)})()
    mirror = Mirror(folder, study_command.readable_job(folder, console), url(storage), console)
    with Store(folder.database, readonly=True) as store:
        mirror.follow(store)
        storage.unlink()
        storage.write_bytes(b"something else")
        mirror.follow(store)
        mirror.follow(store)
        assert len(said) == 1
        storage.unlink()
        mirror.follow(store)  # not now: it failed a moment ago
        assert not storage.exists()
        mirror.follow(store, now=True)
    assert len(load(storage, "live").trials) == 12
    assert len(said) == 1


def test_two_processes_at_a_time(live, tmp_path):
    folder = RunFolder(Path(shutil.copytree(live[0].folder, tmp_path / "live")))
    storage, quiet = url(tmp_path / "x.db"), Console(quiet=True)
    job = study_command.readable_job(folder, quiet)
    Mirror(folder, job, storage, quiet).catch_up(Store(tmp_path / "empty.sqlite"))

    def copy(_):
        with Store(folder.database, readonly=True) as store:
            return Mirror(folder, job, storage, quiet).catch_up(store)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(copy, range(4)))
    assert sorted(found) == [(0, 12), (12, 12), (12, 12), (12, 12)]
    assert digests(load(tmp_path / "x.db", "live")) == digests(load(live[1], "live"))
    # A search does not wait for another process that is copying it.
    mirror = Mirror(folder, job, url(tmp_path / "y.db"), quiet)
    with mirror._alone(True), Store(folder.database, readonly=True) as store:
        mirror.follow(store)
        assert not (tmp_path / "y.db").exists()
    with Store(folder.database, readonly=True) as store:
        mirror.follow(store)
    assert len(load(tmp_path / "y.db", "live").trials) == 12


def test_measured_latencies_are_constraints(live, tmp_path):
    """What was measured over the budget is not feasible, as it is not on our front."""
    folder = RunFolder(Path(shutil.copytree(live[0].folder, tmp_path / "live")))
    config = yaml.safe_load(folder.config.read_text())
    config |= {"budget": "1MFLOPs,5ms@cpu", "objectives": ["score", "macs"]}
    folder.write_config(config)
    job = study_command.readable_job(folder, Console(quiet=True))
    (limit,) = latency_limits(job)
    with contextlib.closing(sqlite3.connect(folder.database)) as database, database:
        costs = json.dumps({limit.column: 4.0})
        database.execute("UPDATE candidates SET costs = ?", (costs,))
    rows = rows_of(folder.path)
    over = max(front_of(rows), key=lambda row: row.score)
    known = Measurements(folder.measured)
    known.add(limit.column, {over.digest: Timing(6.0, 5.9, 6.1, 1.0)})
    mirror = Mirror(folder, job, url(tmp_path / "x.db"), Console(quiet=True))
    with Store(folder.database, readonly=True) as store:
        mirror.catch_up(store)
    study = load(tmp_path / "x.db", "live")
    assert study.user_attrs["constraints"] == ["macs", limit.column]
    for trial in study.trials:
        excess = 0.2 if trial.user_attrs["digest"] == over.digest else -0.2
        assert trial.system_attrs["constraints"][1] == pytest.approx(excess)
    inside = front_of(within(rows, known, [limit]))
    assert over.digest not in {row.digest for row in inside}
    assert {tuple(t.values) for t in study.best_trials} == {(r.score, r.macs) for r in inside}


# ---- what is refused, before anything is written


def test_another_run_of_the_same_name(runs, live, command, tmp_path):
    _, storage, _ = live
    before = storage.read_bytes()
    one_line(runs(name="live", optuna_storage=url(storage)), "'live'", "of another run", "name")
    assert not runs.runs.exists()
    assert storage.read_bytes() == before
    other = runs(name="live", seed=1, steps=2, evaluations=4, no_compare=True)
    assert other.code == 0
    ended = command("optuna", other.folder, "--storage", url(storage), "--quiet")
    one_line(ended, "'live'", "of another run")
    assert storage.read_bytes() == before


def test_without_optuna(runs, live, command, monkeypatch):
    monkeypatch.delitem(sys.modules, "search.optuna_mirror", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    said = "pip install 'chimera-nas[optuna]'"
    one_line(runs(optuna_storage=url(runs.home / "x.db")), said, "not installed")
    one_line(command("optuna", live[0].folder, "--storage", url(runs.home / "x.db")), said)
    assert not runs.runs.exists()
    assert not (runs.home / "x.db").exists()


def test_bad_input(runs, live, command, tmp_path):
    one_line(runs(optuna_storage="x.db"), "'x.db'", "sqlite:///studies.db")
    one_line(runs(optuna_storage="sqlite:////no/x.db"), "its folder is not there")
    log = live[0].folder / "candidates.sqlite"
    one_line(command("optuna", live[0].folder, "--storage", url(log)), "holds something else")
    one_line(command("optuna", tmp_path, "--storage", url(tmp_path / "x.db")), "no config.yaml")
    one_line(command("optuna", live[0].folder), "--storage")
    assert not runs.runs.exists()
    dry = runs(optuna_storage=url(runs.home / "x.db"), dry_run=True)
    assert dry.code == 0
    assert not (runs.home / "x.db").exists()


def test_passwords_are_not_kept(tmp_path, live):
    folder = RunFolder(Path(shutil.copytree(live[0].folder, tmp_path / "live")))
    assert json.loads(folder.mirror.read_text()) == {"storage": url(live[1])}
    folder.mirror.unlink()
    mirror = type("Mirror", (), {"url": "x://a:b@c/d", "shown": "x://a:***@c/d"})()
    study_command.remember(folder, mirror)
    assert not folder.mirror.exists()


# ---- optuna-dashboard


def test_the_dashboard_shows_it(live):
    dashboard = pytest.importorskip("optuna_dashboard")
    ended, storage, _ = live
    app = dashboard.wsgi(url(storage))

    def get(path, query=""):
        status = []
        asked = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "wsgi.input": BytesIO(),
            "wsgi.url_scheme": "http",
        }
        body = b"".join(app(asked, lambda code, headers, *_: status.append(code)))
        assert status[0].startswith("200"), (status, body)
        return json.loads(body)

    (summary,) = get("/api/studies")["study_summaries"]
    assert (summary["study_name"], summary["directions"]) == ("live", ["maximize", "minimize"])
    found = get(f"/api/studies/{summary['study_id']}", "after=0")
    assert found["objective_names"] == ["score", "macs"]
    rows = rows_of(ended.folder)
    assert [trial["values"] for trial in found["trials"]] == [[r.score, r.macs] for r in rows]
    assert all(trial["constraints"][0] <= 0 for trial in found["trials"])
    assert {trial["state"] for trial in found["trials"]} == {"Complete"}
