"""`run_search.py finalists`: the whole command on tiny runs."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from PIL import Image

from commands import finalists, rungs
from results.console import Console
from results.finalists import interval, not_told_apart
from results.store import Store
from search.halving import Halving
from space.genome import Genome
from supernet.checkpoints import Checkpoints
from supernet.training import AloneTrainer, Diverged

ROOT = Path(__file__).parents[1]
LIMIT = 1_000_000  # the budget of tiny runs, MACs
# Rungs after 2, 6 and 18 steps.
SMALL = ("--networks", 5, "--random", 2, "--steps", 18, "--grace", 2, "--workers", 1)


@pytest.fixture(scope="module")
def finished(shared_runs):
    """A run of its own, which every test copies."""
    ended = shared_runs(name="final", controller="evolution", evaluations=24, limit=120)
    assert ended.code == 0, ended.err
    return ended.folder


@pytest.fixture
def folder(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "final"))


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory, command):
    """Finalists that nobody stopped."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("whole") / "final"))
    ended = command("finalists", folder, *SMALL, folder=folder)
    assert ended.code == 0, ended.err
    return ended


def outcome_of(folder):
    return json.loads((folder / "finalists.json").read_text())


def core(outcome):
    """All but how long it took, and where."""
    about = {k: v for k, v in outcome["about"].items() if k not in ("command", "environment")}
    networks = [{**net, "seconds": 0.0} for net in outcome["networks"]]
    return {**outcome, "networks": networks, "about": about}


def options_of(folder, *words):
    return finalists.finalists_parser().parse_args([str(folder), *map(str, words)])


def open_again(folder, *words):
    return finalists.open_final(options_of(folder, *words), Console(quiet=True))


def count_steps(monkeypatch):
    """What is trained from now on: (digest, step) of each step."""
    trained = []
    usual = AloneTrainer.train_step

    def train_step(self):
        loss = usual(self)
        trained.append((self.genome.digest, self.step))
        return loss

    monkeypatch.setattr(AloneTrainer, "train_step", train_step)
    return trained


# ---- a whole outcome


def test_finalists_of_a_run(whole, finished):
    found = outcome_of(whole.folder)
    networks = found["networks"]
    with Store(finished / "candidates.sqlite", readonly=True) as store:
        rows = {row.digest: row for row in store.rows()}
    groups = [net["group"] for net in networks]
    assert groups.count("best") == 1
    assert groups.count("random") == 2
    assert "front" in groups
    assert len({net["digest"] for net in networks} | {net["proxy"] for net in networks}) == 14
    assert found["about"]["rungs"] == [2, 6, 18]
    for net in networks:
        if net["group"] == "random":
            assert net["score"] is None
        else:
            assert net["score"] == rows[net["digest"]].score
            assert net["macs"] == rows[net["digest"]].macs
        if net["group"] != "front":
            assert 0.95 * LIMIT <= net["macs"] <= LIMIT
        for rung in net["rungs"]:
            assert rung["accuracy"] * 40 == pytest.approx(round(rung["accuracy"] * 40))
        assert [rung["steps"] for rung in net["rungs"]] == [2, 6, 18][: len(net["rungs"])]
        assert net["state"] == ("finished" if len(net["rungs"]) == 3 else "stopped")
        assert (net["test"] is None) == (net["state"] == "stopped")
    best = [rows[net["digest"]] for net in networks if net["group"] == "best"]
    assert best[0].reward == max(r.reward for r in rows.values() if r.macs >= 0.95 * LIMIT)


def test_who_was_stopped_and_who_won(whole):
    """By the rule, from the accuracies that were written down."""
    found = outcome_of(whole.folder)
    halving = Halving(steps=18, grace=2, reduction=3)
    for steps in (2, 6):
        there = {
            net["digest"]: rung
            for net in found["networks"]
            for rung in net["rungs"]
            if rung["steps"] == steps
        }
        for digest, rung in there.items():
            others = [other["accuracy"] for key, other in there.items() if key != digest]
            assert halving.goes_on(rung["accuracy"], others) == rung["goes_on"]
    ended = [net for net in found["networks"] if net["state"] == "finished"]
    best = max(
        ended, key=lambda net: (net["rungs"][-1]["accuracy"], net["rungs"][-1]["probability"])
    )
    assert found["winner"] == best["digest"] == found["networks"][0]["digest"]
    steps = sum(net["rungs"][-1]["steps"] for net in found["networks"])
    assert found["steps"] == steps < found["steps_of_all"] == 7 * 18


def test_accuracies_are_those_of_the_network_trained_alone(whole):
    """Trained again step by step, and looked at image by image on both splits."""
    final = open_again(whole.folder, *SMALL)
    won = outcome_of(whole.folder)["networks"][0]
    networks = finalists.choose(final, 5, 2, 0)
    (network,) = [one for one in networks if one.genome.digest == won["digest"]]
    job = finalists.Job(replace(final.job.settings, seed=1))
    job.training = replace(job.training, steps=18)
    trainer = AloneTrainer(network.proxy, job.batches(final.data), job.training, seed=1)
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (final.data.mean, final.data.std)
    )

    @torch.no_grad()
    def accuracy(split):
        trainer.network.eval()
        right = 0
        for image, label in zip(split.images, split.labels, strict=True):
            right += int(trainer.network(((image / 255 - mean) / std)[None])[0].argmax() == label)
        return right / len(split)

    accuracies = []
    while trainer.step < trainer.steps:
        trainer.train_step()
        if trainer.step in (2, 6, 18):
            accuracies.append(accuracy(final.data.validation))
    assert accuracies == [rung["accuracy"] for rung in won["rungs"]]
    assert accuracy(final.data.test) == won["test"]


def test_files_and_words(whole):
    found = outcome_of(whole.folder)
    won = found["networks"][0]
    rows = list(csv.DictReader(io.StringIO((whole.folder / "finalists.csv").read_text())))
    assert [row["digest"] for row in rows] == [net["digest"] for net in found["networks"]]
    assert [row["winner"] for row in rows] == ["yes"] + [""] * 6
    assert float(rows[0]["test"]) == won["test"]
    assert float(rows[0]["validation_after_18"]) == won["rungs"][-1]["accuracy"]
    for row, net in zip(rows, found["networks"], strict=True):
        stopped = net["state"] == "stopped"
        assert row["stopped_at"] == (str(net["rungs"][-1]["steps"]) if stopped else "")
    assert f"The winner is {won['name']}" in whole.out
    assert "the accuracy on 40 validation images" in whole.out
    assert "359 test images, by which nobody chose" in whole.out
    assert "none is that of a network at its own size" in whole.out
    assert "2 random networks at the same budget" in whole.out
    assert "stopped after 6 steps" in whole.out
    assert "7 networks" not in whole.err
    assert (
        "5 networks of the run and 2 random ones, with rungs after 2, 6 and 18 steps" in whole.err
    )
    assert not list((whole.folder / "state" / "finalists").glob(".*"))
    assert found["about"]["command"] == (
        f"python run_search.py finalists {whole.folder} --networks 5 --random 2 --steps 18 "
        "--reduction 3 --grace 2 --seed 0"
    )


def test_given_again_nothing_is_trained_again(whole, folder, monkeypatch, command):
    shutil.rmtree(folder)
    shutil.copytree(whole.folder, folder)
    before = (folder / "finalists.csv").read_bytes()
    trained = count_steps(monkeypatch)
    ended = command("finalists", folder, *SMALL, "--json", "--quiet")
    assert ended.code == 0
    assert trained == []
    assert (folder / "finalists.csv").read_bytes() == before
    plain = json.loads(ended.out)
    assert core({k: v for k, v in plain.items() if k != "folder"}) == core(outcome_of(whole.folder))
    # Without the log, everything follows from the checkpoints.
    (log,) = (folder / "state" / "finalists").glob("*.json")
    log.write_text(log.read_text()[:100])
    assert command("finalists", folder, *SMALL).code == 0
    assert trained == []
    assert (folder / "finalists.csv").read_bytes() == before


def test_other_networks_and_other_rungs_use_what_is_there(whole, folder, monkeypatch, command):
    shutil.rmtree(folder)
    shutil.copytree(whole.folder, folder)
    trained = count_steps(monkeypatch)
    fewer = ("--networks", 3, "--steps", 18, "--grace", 2, "--workers", 1)
    assert command("finalists", folder, *fewer).code == 0
    known = {net["proxy"]: net for net in outcome_of(whole.folder)["networks"]}
    for digest, step in trained:
        assert step > known[digest]["rungs"][-1]["steps"]
    for net in outcome_of(folder)["networks"]:
        for one, other in zip(net["rungs"], known[net["proxy"]]["rungs"], strict=False):
            assert one["accuracy"] == other["accuracy"]
    trained.clear()
    other = ("--networks", 3, "--steps", 18, "--grace", 4, "--workers", 1)
    assert command("finalists", folder, *other).code == 0
    assert outcome_of(folder)["about"]["rungs"] == [4, 12, 18]
    trained.clear()
    assert command("finalists", folder, *other, "--seed", 1).code == 0
    assert len(trained) == outcome_of(folder)["steps"]  # other trainings


def test_without_test_images_and_with_batch_norm(runs, command, batch_norm_space):
    rng = np.random.default_rng(0)
    for label in ("dark", "light", "striped"):
        home = runs.home / "photos" / label
        home.mkdir(parents=True)
        for i in range(20):
            picture = rng.integers(0, 80, (16, 16, 3), dtype=np.uint8)
            picture += np.uint8(150 if label == "light" else 0)
            picture[::2] += np.uint8(90 if label == "striped" else 0)
            Image.fromarray(picture).save(home / f"{i}.png")
    data = {"data": runs.home / "photos", "limit": None, "classes": 3}
    ended = runs(name="final", space=batch_norm_space, evaluations=8, **data)
    assert ended.code == 0, ended.err
    words = ("--networks", 3, "--steps", 30, "--workers", 1, "--reduction", 2)
    again = command("finalists", ended.folder, *words)
    assert again.code == 0, again.err
    found = outcome_of(ended.folder)
    won = found["networks"][0]
    assert found["about"]["reported"] == found["about"]["chosen_by"]
    assert won["test"] == won["rungs"][-1]["accuracy"] >= 0.75  # with wrong statistics: a third
    assert "There are no test images" in again.out
    assert "nobody chose" not in again.out


def test_the_average_of_the_weights_is_what_is_looked_at(folder):
    """In the middle of a training, too, which then goes on with the weights."""
    final = open_again(folder, *SMALL)
    final.job.training = replace(final.job.training, ema=0.9, steps=6)
    network = finalists.choose(final, 2, 0, 0)[0]
    piece = {"genome": network.proxy.to_json(), "seed": 1, "steps": 6}
    work = finalists.FinalistWork(final.job, final.data, folder / "here")
    values = [r["details"]["probability"] for r in work({**piece, "rungs": [3, 6]}) if "value" in r]
    trainer = finalists.alone_trainer(final.job, final.data, network.proxy, seed=1, steps=6)
    for rung, value in zip((3, 6), values, strict=True):
        while trainer.step < rung:
            trainer.train_step()
        with trainer.averaged():
            seen = finalists.look(trainer, final.data, final.data.validation) if rung == 6 else None
            if seen is None:
                trainer.network.eval()
                mean, std = (
                    torch.tensor(v)[:, None, None] for v in (final.data.mean, final.data.std)
                )
                split = final.data.validation
                with torch.no_grad():
                    logits = trainer.network((split.images / 255 - mean) / std)
                chances = logits.softmax(1).gather(1, split.labels[:, None])
                assert value == pytest.approx(float(chances.mean()), rel=1e-4)
            else:
                assert value == seen.score


# ---- stopped, and gone on with


def test_stopped_by_an_interrupt_and_given_again(folder, whole, monkeypatch, command):
    """At several moments one after the other; the outcome is that of a command that nobody
    stopped, and no rung is trained to twice."""
    usual, trained = AloneTrainer.train_step, []

    def train_step(self):
        if len(trained) in (1, 9, 20, 30):
            trained.append(None)
            raise KeyboardInterrupt
        loss = usual(self)
        trained.append((self.genome.digest, self.step))
        return loss

    monkeypatch.setattr(AloneTrainer, "train_step", train_step)
    codes = []
    while not codes or codes[-1] == 130:
        ended = command("finalists", folder, *SMALL)
        codes.append(ended.code)
        if ended.code == 130:
            assert ended.err.splitlines()[-1] == (
                "run_search.py: stopped; what was trained is kept; go on with: "
                f"python run_search.py finalists {folder} --networks 5 --random 2 --steps 18 "
                "--reduction 3 --grace 2 --seed 0 --workers 1"
            )
            assert not (folder / "finalists.json").exists()
    assert codes == [130] * 4 + [0]
    assert core(outcome_of(folder)) == core(outcome_of(whole.folder))
    rungs = [step for step in trained if step and step[1] in (2, 6, 18)]
    assert len(rungs) == len(set(rungs))


def test_checkpoints_between_rungs_are_gone_on_with(folder, whole, monkeypatch, command):
    """Killed after any step, where each leaves a checkpoint."""
    usual = AloneTrainer.advance
    monkeypatch.setattr(
        AloneTrainer, "advance", lambda self, kept: usual(self, kept, every_seconds=0.0)
    )
    trained = count_steps(monkeypatch)
    counted = AloneTrainer.train_step

    def train_step(self):
        if len(trained) == 23:
            trained.append((None, 0))
            raise KeyboardInterrupt
        return counted(self)

    monkeypatch.setattr(AloneTrainer, "train_step", train_step)
    assert command("finalists", folder, *SMALL).code == 130
    assert command("finalists", folder, *SMALL).code == 0
    assert core(outcome_of(folder)) == core(outcome_of(whole.folder))
    assert len(trained) - 1 <= outcome_of(folder)["steps"] + 1  # at most one step was lost


def test_broken_checkpoints_are_begun_again(folder, whole, command, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(finalists.Ladder, "judge", lambda self, rung: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            command("finalists", folder, *SMALL)
    paths = sorted((folder / "state" / "finalists").glob("*/step-*"))
    assert len(paths) == 7
    for path in paths:
        path.write_bytes(b"nonsense")
    assert command("finalists", folder, *SMALL).code == 0
    assert core(outcome_of(folder)) == core(outcome_of(whole.folder))
    for net in outcome_of(folder)["networks"]:
        if net["state"] == "finished":
            kept = Checkpoints(folder / "state" / "finalists" / f"{net['proxy']}-18-1")
            assert kept.latest()[1]["step"] == 18


def test_one_process_at_a_time_trains_a_network(tmp_path):
    """Another one, as of a command that was killed, is waited for."""
    script = (
        "import sys, time; from pathlib import Path; from commands.rungs import one_at_a_time\n"
        "with one_at_a_time(Path(sys.argv[1])):\n"
        "    print('in', flush=True); time.sleep(0.5)"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "here")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout.readline() == b"in\n"
        begun = time.monotonic()
        with rungs.one_at_a_time(tmp_path / "here"):
            assert time.monotonic() - begun > 0.2
    with rungs.one_at_a_time(tmp_path / "here"):
        pass


# ---- what fails


def test_networks_that_fail_are_left_out(folder, command, monkeypatch):
    """One diverges, one gives no numbers, one meets with something from outside."""
    final = open_again(folder, *SMALL)
    networks = [network.proxy.digest for network in finalists.choose(final, 5, 2, 0)]
    usual = AloneTrainer.train_step

    def train_step(self):
        if self.genome.digest == networks[0] and self.step == 1:
            raise Diverged("training diverged: in step 2 the loss is nan")
        if self.genome.digest == networks[1]:
            raise MemoryError("full")
        loss = usual(self)
        if self.genome.digest == networks[2] and self.step == 2:
            with torch.no_grad():
                next(self.network.parameters()).fill_(torch.nan)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(AloneTrainer, "train_step", train_step)
        ended = command("finalists", folder, *SMALL)
    assert ended.code == 0, ended.err
    found = {net["proxy"]: net for net in outcome_of(folder)["networks"]}
    problems = [found[digest]["problem"] for digest in networks]
    assert problems[:3] == [
        "training diverged: in step 2 the loss is nan",
        "MemoryError: full",
        "the network's outputs are not numbers (NaN)",
    ]
    assert problems[3:] == [None] * 4
    assert [found[digest]["state"] for digest in networks[:3]] == ["failed"] * 3
    assert "3 networks failed; " in ended.out
    assert sum(net["state"] == "finished" for net in found.values()) >= 1
    trained = count_steps(monkeypatch)
    assert command("finalists", folder, *SMALL).code == 0
    # A full memory may be a free one by now; the others stay failed.
    assert {digest for digest, _ in trained} == {networks[1]}


def test_all_fail(folder, command, monkeypatch):
    def train_step(self):
        raise Diverged("training diverged: in step 1 the loss is nan")

    monkeypatch.setattr(AloneTrainer, "train_step", train_step)
    ended = command("finalists", folder, *SMALL)
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith(
        "run_search.py: no network was trained to the end; "
    )
    assert outcome_of(folder)["winner"] is None


def test_a_disk_that_is_full(folder, command, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("results.finalists.write_text", full)
    ended = command("finalists", folder, *SMALL)
    assert ended.code == 2
    last = ended.err.splitlines()[-1]
    assert "No space left on device" in last
    assert "go on with: python run_search.py finalists" in last


# ---- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--networks", 1], "networks is 1, but must be at least 2"),
        (["--random", -1], "random is -1, but must be at least 0"),
        (["--steps", 1], "steps is 1, but must be at least 2"),
        (["--reduction", 1], "reduction is 1, but must be at least 2"),
        (["--grace", 0], "grace is 0, but must be at least 1"),
        (["--grace", 6], "grace is 6, but must be below the number of steps, 6"),
        (["--steps", 4, "--grace", 5], "grace is 5, but must be below the number of steps, 4"),
        (["--workers", 0], "workers is 0, but must be at least 1"),
        (["--seed", -1], "seed is -1, but must be at least 0"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'; see --help"),
        (["--device", "abacus"], "unknown device 'abacus'; write cpu, cuda or cuda:N"),
    ],
)
def test_bad_options(finished, command, words, message):
    ended = command("finalists", finished, "--quiet", *words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"run_search.py: {message}\n"
    assert not (finished / "state" / "finalists").exists()


def test_folders_without_finalists(folder, runs, command):
    def refused(path, words):
        ended = command("finalists", path, "--quiet")
        assert (ended.code, ended.out) == (2, "")
        assert ended.err == f"run_search.py: {words}\n"

    missing = runs.home / "nothing"
    refused(missing, f"{str(missing)!r} is not a run folder: it has no config.yaml")
    go_on = f"candidates; go on with: python run_search.py --resume {folder}"
    config = folder / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("evaluations: 24", "evaluations: 30"))
    refused(folder, f"the search of {str(folder)!r} has scored 24 of 30 {go_on}")
    config.write_text(text)
    (folder / "candidates.sqlite").rename(folder / "elsewhere")
    refused(folder, f"the search of {str(folder)!r} has scored 0 of 24 {go_on}")
    (folder / "candidates.sqlite").write_bytes(b"nonsense" * 100)
    ended = command("finalists", folder, "--quiet")
    assert ended.code == 2
    assert "is not a database of candidates" in ended.err
    (folder / "elsewhere").rename(folder / "candidates.sqlite")
    path = folder / "environment.json"
    path.write_text(path.read_text().replace('"data": "', '"data": "0'))
    ended = command("finalists", folder)
    assert ended.code == 2
    assert "are not those that the run began with" in ended.err.splitlines()[-1]


def test_a_run_with_one_network(runs, command):
    ended = runs(name="final", evaluations=1, batch=1)
    assert ended.code == 0, ended.err
    again = command("finalists", ended.folder, "--quiet")
    assert again.code == 2
    assert again.err == (
        f"run_search.py: there are only 1 networks to choose from in {str(ended.folder)!r}, but at "
        "least 2 are needed\n"
    )
    words = ("--random", 1, "--steps", 2, "--workers", 1)
    assert command("finalists", ended.folder, *words).code == 0
    assert {net["group"] for net in outcome_of(ended.folder)["networks"]} >= {"random"}


def test_networks_are_chosen_in_an_order(folder):
    """A larger number of them adds to a smaller."""
    final = open_again(folder, *SMALL)
    few, many = finalists.choose(final, 3, 2, 0), finalists.choose(final, 6, 4, 0)
    assert many[:3] == few[:3]
    assert many[6:8] == few[3:]
    assert finalists.choose(final, 3, 2, 1)[3:] != few[3:]
    groups = [network.group for network in finalists.choose(final, 20, 0, 0)]
    assert groups == sorted(groups, key=["best", "front", "budget"].index)
    front = [n.genome.cost().macs for n in finalists.choose(final, 20, 0, 0) if n.group == "front"]
    assert front == sorted(front, reverse=True)
    assert all(isinstance(network.genome, Genome) for network in few)


def test_who_cannot_be_told_from_the_winner(whole):
    found = outcome_of(whole.folder)
    ended = [net for net in found["networks"] if net["state"] == "finished"]
    assert len(ended) >= 2
    others = [net["name"] for net in ended[1:]]
    assert f"can hardly be told from {', '.join(others)}: " in whole.out  # on 40 images
    for net in ended[1:]:
        net["rungs"][-1]["accuracy"] = ended[0]["rungs"][-1]["accuracy"] - 0.2
    assert not_told_apart(found) == ""
    assert not_told_apart({**found, "winner": None}) == ""


def test_interval_of_a_share():
    """Wilson's, as in Brown, Cai and DasGupta (2001)."""
    low, high = interval(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    assert interval(1.0, 20)[1] == pytest.approx(1.0)
    assert interval(0.0, 20)[0] == pytest.approx(0.0, abs=1e-12)
    assert interval(0.9, 359)[0] < 0.9 < interval(0.9, 359)[1]


# ---- by Ray Tune


def accuracies(outcome):
    return {
        net["proxy"]: [(rung["steps"], rung["accuracy"]) for rung in net["rungs"]]
        for net in outcome["networks"]
    }


def check_agrees(folder, whole):
    """What was trained has the accuracies that it has in one process, to the last bit; who was
    stopped depends on who came first."""
    found, alone = outcome_of(folder), accuracies(outcome_of(whole.folder))
    assert found["winner"] is not None
    assert accuracies(found).keys() == alone.keys()
    for digest, values in accuracies(found).items():
        assert all(one == other for one, other in zip(values, alone[digest], strict=False))
    assert all(net["problem"] is None for net in found["networks"])
    won = found["networks"][0]
    assert won["test"] is not None
    assert len(won["rungs"]) == 3
    return found


@pytest.mark.slow
def test_two_workers(folder, whole, command, monkeypatch):
    ended = command("finalists", folder, *SMALL, "--workers", 2)
    assert ended.code == 0, ended.err
    assert not ray.is_initialized()
    assert "starting 2 workers" in ended.err
    check_agrees(folder, whole)
    trained = count_steps(monkeypatch)
    csv_before = (folder / "finalists.csv").read_bytes()
    assert command("finalists", folder, *SMALL).code == 0  # one process has nothing to do
    assert trained == []
    assert (folder / "finalists.csv").read_bytes() == csv_before


class Process:
    """The command in a process of its own."""

    def __init__(self, log, folder, *words):
        self.log = log
        command = [sys.executable, str(ROOT / "run_search.py"), "finalists", str(folder)]
        with log.open("w") as file:
            self.popen = subprocess.Popen(
                [*command, *map(str, words)], stdout=subprocess.DEVNULL, stderr=file
            )

    def wait_for(self, ready, seconds=120):
        end = time.monotonic() + seconds
        while not ready():
            assert self.popen.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_in_a_terminal(folder, tmp_path, command, workers):
    words = ("--networks", 4, "--steps", 400, "--workers", workers, "--quiet")
    process = Process(tmp_path / "log", folder, *words)
    process.wait_for(lambda: list(folder.glob("state/finalists/*.json")))
    process.popen.send_signal(signal.SIGINT)
    assert process.popen.wait(120) == 130
    said = (tmp_path / "log").read_text()
    assert len(said.splitlines()) == 1, said
    assert said.startswith("run_search.py: stopped; what was trained is kept; go on with: python")
    assert f"finalists {folder} " in said
    assert f"--workers {workers}" in said


def checkpoints_of(folder):
    found = set()
    for path in folder.glob("state/finalists/*/step-*"):
        with contextlib.suppress(FileNotFoundError):  # it gave way to the next
            found.add((path, path.stat().st_mtime))
    return found


def decided(folder):
    """What the log has of each network."""
    found = {}
    for log in folder.glob("state/finalists/*.json"):
        found |= json.loads(log.read_text())["networks"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments(folder, tmp_path, command, workers):
    """The command, or one of its workers, each time while networks are trained; what was decided
    stays so, and the outcome is that of one process that nobody killed."""
    words = ("--networks", 5, "--random", 2, "--steps", 300, "--quiet")
    whole = command("finalists", folder, *words, "--workers", 1, folder=tmp_path / "whole")
    assert whole.code == 0, whole.err
    shutil.move(folder, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", folder)
    shutil.rmtree(folder / "state" / "finalists")
    rng, killed, before = random.Random(workers), [], {}
    while len(killed) < 6:
        there = checkpoints_of(folder)
        process = Process(tmp_path / "log", folder, *words, "--workers", workers)
        while process.popen.poll() is None and checkpoints_of(folder) == there:
            time.sleep(0.01)
        try:
            code = process.popen.wait(rng.uniform(0, 3))
        except subprocess.TimeoutExpired:
            trainers = trainers_below(process.popen.pid)
            if trainers and rng.random() < 0.5:
                killed.append("worker")
                os.kill(rng.choice(trainers), signal.SIGKILL)
                code = process.popen.wait(120)
            else:
                killed.append("command")
                process.popen.kill()
                process.popen.wait()
                code = None
        assert code in (None, 0), (tmp_path / "log").read_text()
        now = decided(folder)
        for digest, entry in before.items():
            for old, new in zip(entry["reached"], now[digest]["reached"], strict=False):
                assert old[:2] == new[:2]
                assert old[2] in (None, new[2])
        before = now
        if code == 0:  # it was through: another one
            check_agrees(folder, whole)
            shutil.rmtree(folder / "state" / "finalists")
            before = {}
    assert set(killed) == ({"command"} if workers == 1 else {"command", "worker"})
    assert command("finalists", folder, *words, "--workers", workers).code == 0
    check_agrees(folder, whole)
    if workers == 1:
        assert core(outcome_of(folder)) == core(outcome_of(whole.folder))


def trainers_below(pid):
    """Ray's workers that train, of the command `pid`."""
    found, parents = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            found[int(status.parent.name)] = (status.parent / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        parents[int(status.parent.name)] = int(fields["PPid"])

    def below(child):
        while child in parents:
            child = parents[child]
            if child == pid:
                return True
        return False

    return [
        p
        for p, words in found.items()
        if words.startswith(b"ray::") and below(p) and b"Trainable" in words
    ]
