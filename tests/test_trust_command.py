"""`run_search.py trust`: the whole command on tiny runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from PIL import Image
from torch import nn

from commands import trust
from commands.alone import Trained
from evaluator.trust import Card
from results.console import Console
from results.store import Store
from results.trust_card import verdict
from space.files import make_space
from supernet.checkpoints import Checkpoints
from supernet.training import AloneTrainer, Diverged

LIMIT = 1_000_000  # the budget of tiny runs, MACs


@pytest.fixture(scope="module")
def finished(shared_runs):
    """A run of its own, which every test copies."""
    ended = shared_runs(name="trusted", steps=8, evaluations=8)
    assert ended.code == 0, ended.err
    return ended.folder


@pytest.fixture
def folder(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "trusted"))


@pytest.fixture(scope="module")
def checked(finished, tmp_path_factory, command):
    """A card of 8 networks, of which 4 are read from an earlier one of 4."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("checked") / "trusted"))
    ended = command("trust", folder, "--networks", 8, folder=folder)
    assert ended.code == 0, ended.err
    return ended


@pytest.fixture
def quick(monkeypatch):
    """Without what takes most of the time of a tiny card: other scores, and the report."""
    monkeypatch.setattr(trust, "ZERO_COST", ())
    monkeypatch.setattr(trust, "report_again", lambda run: None)


def card_of(folder):
    return Card.from_plain(json.loads((folder / "trust.json").read_text()))


def core(card):
    """All but other scores, and how long it took and where."""
    about = {k: v for k, v in card.about.items() if k not in ("command", "environment")}
    networks = tuple(replace(network, seconds=0.0, zero_cost={}) for network in card.networks)
    return replace(card, networks=networks, about=about, agreements=card.agreements[:3])


def open_again(folder):
    return trust.open_run(folder, None, Console(quiet=True))


def count_trainings(monkeypatch):
    """What is trained from now on: (digest, seed) of each."""
    trained = []
    usual = AloneTrainer.run

    def run(self, *arguments, **options):
        trained.append((self.genome.digest, self._seed))
        return usual(self, *arguments, **options)

    monkeypatch.setattr(AloneTrainer, "run", run)
    return trained


# ---- a whole card


def test_a_run_gets_a_card(checked):
    files = {path.name for path in checked.folder.glob("trust.*")}
    assert files == {"trust.json", "trust.csv", "trust.svg", "trust.png"}
    card = card_of(checked.folder)
    assert len(card.networks) == 8
    assert len({network.digest for network in card.networks}) == 8
    assert len({network.proxy for network in card.networks}) == 8
    assert [network.group for network in card.networks] == ["spread", "level"] * 4
    assert card.level == LIMIT
    macs = np.array([network.macs for network in card.networks])
    assert (macs <= LIMIT).all()
    assert (macs[1::2] >= 0.9 * LIMIT).all()
    assert macs[::2].max() - macs[::2].min() > 0.4 * LIMIT  # from all over
    for network in card.networks:
        assert 0 < network.score < 1
        (accuracy,) = network.accuracies
        assert accuracy * 359 == pytest.approx(round(accuracy * 359))  # of the test images
    assert card.about["split"] == "test"
    assert card.about["steps"] == 8
    assert "python run_search.py trust" in card.about["command"]
    names = [agreement.name for agreement in card.agreements]
    assert names[:3] == ["supernet score", "MACs", "parameters"]
    assert {"naswot", "synflow", "zico", "AZ-NAS", trust.JOINED} <= set(names)
    assert all(agreement.tau.n == 8 for agreement in card.agreements)
    assert "macs" not in names
    assert card.about["settings"]["evaluations"] == 8


def test_the_report_has_the_card(checked, finished):
    before, after = ((home / "report.html").read_text() for home in (finished, checked.folder))
    sentence = verdict(json.loads((checked.folder / "trust.json").read_text()))
    assert sentence in after
    assert sentence in checked.out
    assert "scores are unchecked" in before
    assert "scores are unchecked" not in after
    assert f"python run_search.py trust {finished}" in before
    for text in (before, after):
        assert "chart-supernet" in text  # drawn from what the run has kept of its training
        assert "chart-probes" in text


def test_a_run_that_is_resumed_keeps_its_card(checked, runs):
    folder = Path(shutil.copytree(checked.folder, runs.home / "trusted"))
    sentence = verdict(json.loads((folder / "trust.json").read_text()))
    ended = runs.resume(folder)
    assert ended.code == 0, ended.err
    assert sentence in ended.out
    assert sentence in (folder / "report.html").read_text()


def test_scores_are_those_of_the_search(folder):
    """To the last bit."""
    run = open_again(folder)
    with Store(folder / "candidates.sqlite", readonly=True) as store:
        rows = store.rows()[:3]
    genomes = [trust.Genome.from_json(row.genome) for row in rows]
    networks = [
        trust.Chosen(genome, run.proxies.decode(run.job.space.encode(genome)), "spread")
        for genome in genomes
    ]
    found = trust.score(run, networks, 0, Console(quiet=True))
    assert [one.score for one in found] == [row.score for row in rows]


def test_accuracy_is_that_of_the_network_trained_alone(checked):
    """Trained again step by step, and looked at image by image."""
    run = open_again(checked.folder)
    network = trust.choose(run, 4, 0)[1]
    job = trust.Job(replace(run.job.settings, seed=1))
    trainer = AloneTrainer(network.proxy, job.batches(run.data), job.training, seed=1)
    while trainer.step < trainer.steps:
        trainer.train_step()
    trainer.network.eval()
    right, probability = 0, 0.0
    mean, std = (torch.tensor(values)[:, None, None] for values in (run.data.mean, run.data.std))
    with torch.no_grad():
        for image, label in zip(run.data.test.images, run.data.test.labels, strict=True):
            logits = trainer.network(((image / 255 - mean) / std)[None])[0]
            right += int(logits.argmax() == label)
            probability += float(logits.softmax(0)[label])
    found = card_of(checked.folder).networks[1]
    assert found.digest == network.genome.digest
    assert found.accuracies == (right / 359,)
    assert found.probabilities[0] == pytest.approx(probability / 359, rel=1e-4)


def test_the_sixth_of_eight_networks_is_the_sixth_of_twelve(folder):
    run = open_again(folder)
    few, many = trust.choose(run, 8, 0), trust.choose(run, 12, 0)
    assert many[:8] == few
    assert trust.choose(run, 8, 1) != few


def test_budget_of_parameters(runs, command, quick):
    """There is no limit on MACs: the level is the candidates' median."""
    ended = runs(name="trusted", budget="60kparams", evaluations=8)
    assert ended.code == 0, ended.err
    again = command("trust", ended.folder, "--networks", 6, "--json", "--quiet")
    assert again.code == 0, again.err
    plain = json.loads(again.out)
    with Store(ended.folder / "candidates.sqlite", readonly=True) as store:
        macs = [row.macs for row in store.rows()]
    assert plain["level"] == int(np.median(macs))
    assert plain["about"]["level"] == "the median candidate"
    assert all(network["params"] <= 60_000 for network in plain["networks"])
    level = [network["macs"] for network in plain["networks"] if network["group"] == "level"]
    assert len(level) == 3
    assert all(abs(cost / plain["level"] - 1) <= 0.1 for cost in level)


def test_batch_norm_without_test_images(runs, batch_norm_space, command, quick):
    """Every network has running statistics; the truth comes from validation images."""
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
    ended = runs(name="trusted", space=batch_norm_space, steps=20, evaluations=8, **data)
    assert ended.code == 0, ended.err
    again = command("trust", ended.folder, "--networks", 4, "--steps", 30)
    assert again.code == 0, again.err
    card = card_of(ended.folder)
    assert card.about["split"] == "validation"
    assert card.about["steps"] == 30
    assert "There are no test images" in again.out
    assert "another number of steps" in again.out
    best = max(network.accuracies[0] for network in card.networks)
    assert best >= 0.75  # far above a third: with wrong statistics they would guess


def test_running_statistics_are_of_the_trained_weights():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    batches = [torch.randn(8, 3, 5, 5) + 2, torch.randn(8, 3, 5, 5)]
    for _ in range(3):
        network(torch.randn(4, 3, 5, 5) * 9)  # what was seen before the last step
    weights = Trained(network)
    weights.calibrate(None, iter(batches))
    maps = [network[0](images) for images in batches]
    mean = torch.stack([y.mean((0, 2, 3)) for y in maps]).mean(0)
    variance = torch.stack([y.var((0, 2, 3)) for y in maps]).mean(0)
    expected = (maps[0] - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    torch.testing.assert_close(weights(None, batches[0]), expected)
    torch.testing.assert_close(weights(None, batches[0][:1]), expected[:1])


# ---- stopped, given again, given with more


def test_stopped_and_given_again(folder, checked, monkeypatch, command, quick):
    """The card is that of a command that nobody stopped."""
    usual, calls = trust.AloneWork.__call__, []

    def interrupted(self, piece, progress=None):
        calls.append(piece)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return usual(self, piece, progress)

    with monkeypatch.context() as patch:
        patch.setattr(trust.AloneWork, "__call__", interrupted)
        ended = command("trust", folder, "--networks", 8)
    assert ended.code == 130
    assert ended.err.splitlines()[-1] == (
        "run_search.py: stopped; what was trained is kept; go on with: "
        f"python run_search.py trust {folder} --networks 8 --repeats 1 --seed 0 --workers 1"
    )
    assert len(list((folder / "state" / "trust").iterdir())) == 3
    assert not (folder / "trust.json").exists()
    (folder / "state" / "trust" / ".half.json.partial").write_text("{")  # of a process killed
    trained = count_trainings(monkeypatch)
    ended = command("trust", folder, "--networks", 8)
    assert ended.code == 0, ended.err
    assert len(trained) == 5
    assert core(card_of(folder)) == core(card_of(checked.folder))
    assert not list((folder / "state" / "trust").glob(".*"))
    whole = (folder / "trust.json").read_bytes()
    assert command("trust", folder, "--networks", 8).code == 0
    assert len(trained) == 5
    assert (folder / "trust.json").read_bytes() == whole


def test_more_networks_and_more_seeds_use_what_is_there(folder, monkeypatch, command, quick):
    trained = count_trainings(monkeypatch)
    assert command("trust", folder, "--networks", 4).code == 0
    assert [seed for _, seed in trained] == [1] * 4
    first = card_of(folder)
    assert command("trust", folder, "--networks", 6).code == 0
    assert len(trained) == 6
    more = card_of(folder)
    assert more.networks[:4] == first.networks
    assert more.ceiling is None
    ended = command("trust", folder, "--networks", 6, "--repeats", 2)
    assert ended.code == 0
    assert [seed for _, seed in trained[6:]] == [2] * 6
    assert len(set(trained)) == 12
    twice = card_of(folder)
    assert [n.accuracies[0] for n in twice.networks] == [n.accuracies[0] for n in more.networks]
    assert twice.ceiling.n == 6
    assert "Two trainings of the same networks" in ended.out
    assert command("trust", folder, "--networks", 4, "--steps", 3).code == 0
    assert len(trained) == 16  # another training


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:40],
        lambda text: text.replace('"learning_rate": ', '"learning_rate": 1'),
        lambda text: text.replace('"accuracy"', '"correct"'),
        lambda text: text.replace('"data": "', '"data": "0'),
    ],
)
def test_what_is_broken_or_of_another_training_is_done_again(folder, change):
    run = open_again(folder)
    kept, (network,) = trust.Kept(run, 8), trust.choose(run, 1, 0)
    assert kept.read(network, 1) is None
    outcome = {"accuracy": 0.5, "probability": 0.25, "seconds": 1.5}
    kept.write(network, 1, outcome)
    assert kept.read(network, 1) == outcome
    assert kept.read(network, 2) is None
    assert trust.Kept(run, 9).read(network, 1) is None
    path = kept.path(network, 1)
    assert change(path.read_text()) != path.read_text()
    path.write_text(change(path.read_text()))
    assert kept.read(network, 1) is None


# ---- what fails


def test_trainings_that_fail_are_left_out(folder, monkeypatch, command):
    """One diverges, one gives no numbers, and one meets with something from outside."""
    usual, runs = AloneTrainer.run, []

    def run(self, **options):
        runs.append(self)
        if len(runs) == 2:
            raise Diverged("training diverged: in step 5 the loss is nan")
        if len(runs) == 4:
            raise MemoryError("full")
        usual(self, **options)
        if len(runs) == 3:
            with torch.no_grad():
                next(self.network.parameters()).fill_(torch.nan)

    with monkeypatch.context() as patch:
        patch.setattr(AloneTrainer, "run", run)
        ended = command("trust", folder, "--networks", 9)
    assert ended.code == 0, ended.err
    card = card_of(folder)
    problems = [network.problem for network in card.networks]
    assert problems[1:4] == [
        "training diverged: in step 5 the loss is nan",
        "the network's outputs are not numbers (NaN)",
        "MemoryError: full",
    ]
    assert [problem is None for problem in problems] == [True] + [False] * 3 + [True] * 5
    assert card.agreements[0].tau.n == 6
    assert "3 networks are left out, as something failed" in ended.out
    assert "left out: training diverged: in step 5" in (folder / "report.html").read_text()
    monkeypatch.setattr(trust, "report_again", lambda run: None)
    trained = count_trainings(monkeypatch)
    assert command("trust", folder, "--networks", 9).code == 0
    assert len(trained) == 1  # a full memory may be a free one by now; the others stay failed
    assert card_of(folder).agreements[0].tau.n == 7


def test_a_supernet_that_is_trained_but_has_not_searched(folder, command):
    (folder / "candidates.sqlite").unlink()
    before = (folder / "report.html").read_bytes()
    ended = command("trust", folder, "--networks", 4)
    assert ended.code == 0, ended.err
    assert len(card_of(folder).networks) == 4
    assert (folder / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--networks", 3], "networks is 3, but must be at least 4"),
        (["--steps", 0], "steps is 0, but must be at least 1"),
        (["--repeats", 0], "repeats is 0, but must be at least 1"),
        (["--workers", -1], "workers is -1, but must be at least 1"),
        (["--seed", -1], "seed is -1, but must be at least 0"),
        (["--networks", "many"], "argument --networks: invalid int value: 'many'; see --help"),
        (["--device", "abacus"], "unknown device 'abacus'; write cpu, cuda or cuda:N"),
        (
            ["--networks", 6481],
            "networks is 6481, but the space 'tiny' has only 6480 of them",
        ),
    ],
)
def test_bad_options(folder, command, words, message):
    ended = command("trust", folder, "--quiet", *words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"run_search.py: {message}\n"
    assert not (folder / "state" / "trust").exists()


def test_a_space_with_too_few_networks_inside_the_budget(runs, command, tiny_space, quick):
    stage = {"channels": [8], "depth": [1, 2], "operators": ["inverted_bottleneck"]}
    space = tiny_space(name="small", stages=[stage])
    space["operators"] = {"inverted_bottleneck": {"expansion": [1, 2, 3, 4], "context": [3]}}
    del space["downsampling"]
    made = make_space({**space, "classes": 1000})
    rows = np.unique(made.sample_codes(np.random.default_rng(0), 500), axis=0)
    assert len(rows) == made.size == 8
    inside = sum(made.decode(row).cost().macs <= 280_000 for row in rows)
    assert 4 <= inside < 8
    ended = runs(name="trusted", space=space, budget="280kFLOPs", evaluations=2)
    assert ended.code == 0, ended.err
    again = command("trust", ended.folder, "--networks", 8)
    assert again.code == 2
    assert again.err.splitlines()[-1] == (
        f"run_search.py: networks is 8, but only {inside} different ones were found in space "
        "'small' inside the budget '280kFLOPs'"
    )
    assert command("trust", ended.folder, "--networks", inside).code == 0


def test_folders_that_are_no_trained_run(folder, runs, command, quick):
    def refused(words):
        ended = command("trust", folder)
        assert ended.code == 2
        assert ended.out == ""
        assert ended.err.splitlines()[-1] == f"run_search.py: {words}"

    missing = command("trust", runs.home / "nothing")
    assert missing.err == (
        f"run_search.py: {str(runs.home / 'nothing')!r} is not a run folder: it has no "
        "config.yaml\n"
    )
    go_on = f"go on with: python run_search.py --resume {folder}"
    checkpoints = Checkpoints(folder / "state" / "supernet")
    (path,) = checkpoints.paths()
    whole = path.read_bytes()
    tensors, header = checkpoints.latest()
    path.unlink()
    refused(f"the supernet of {str(folder)!r} is not trained yet; {go_on}")
    checkpoints.save(5, tensors, {**header, "step": 5})
    refused(f"the supernet of {str(folder)!r} is trained for 5 of 8 steps; {go_on}")
    checkpoints.save(8, tensors, {**header, "space": "large"})
    ended = command("trust", folder)
    assert ended.code == 2
    assert "was trained with other settings: space is 'large' there" in ended.err
    for found in checkpoints.paths():
        found.write_bytes(b"nonsense")
    ended = command("trust", folder)
    assert ended.code == 2
    assert "is not a checkpoint of a training" in ended.err
    for found in checkpoints.paths():
        found.unlink()
    path.write_bytes(whole)
    assert command("trust", folder, "--networks", 4).code == 0


def test_other_images_than_those_of_the_run(folder, command):
    path = folder / "environment.json"
    path.write_text(path.read_text().replace('"data": "', '"data": "0'))
    ended = command("trust", folder)
    assert ended.code == 2
    assert "are not those that the run began with" in ended.err.splitlines()[-1]


# ---- by Ray Tune


@pytest.mark.slow
def test_workers_find_what_one_process_finds(folder, checked, command, monkeypatch):
    """To the last bit, and what one began others finish."""
    assert command("trust", folder, "--networks", 4).code == 0
    ended = command("trust", folder, "--networks", 8, "--workers", 2)
    assert ended.code == 0, ended.err
    assert not ray.is_initialized()
    assert core(card_of(folder)) == core(card_of(checked.folder))


@pytest.mark.slow
def test_a_worker_that_cannot_start(folder, command, monkeypatch):
    monkeypatch.setattr(
        trust, "held_out", lambda data: ("none", data.test)
    )  # what the workers get is not what they need
    ended = command("trust", folder, "--networks", 4, "--workers", 2)
    assert ended.code == 2
    assert "a worker could not start: " in ended.err.splitlines()[-1]
    assert not ray.is_initialized()
