"""`run_search.py finalists` says how alike those are that came to the end."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from commands import finalists, similarity
from commands.similarity import BATCH
from evaluator.similarity import batch_sizes
from results.console import Console
from supernet.checkpoints import Checkpoints

# One of two goes on from the first rung.
SMALL = ("--networks", 4, "--random", 2, "--steps", 41, "--grace", 40, "--workers", 1)
MORE = ("--reduction", 2)


@pytest.fixture(scope="module")
def finished(shared_runs):
    ended = shared_runs(name="alike", evaluations=12, limit=120)
    assert ended.code == 0, ended.err
    return ended.folder


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory, command):
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("alike") / "alike"))
    ended = command("finalists", folder, *SMALL, *MORE, folder=folder)
    assert ended.code == 0, ended.err
    return ended


def read(folder, name):
    return json.loads((folder / name).read_text())


@pytest.fixture
def networks(whole):
    """The networks as they came out of training, of those that came to the end, in the order of the
    file, and the images."""
    options = finalists.finalists_parser().parse_args([str(whole.folder), *map(str, SMALL + MORE)])
    final = finalists.open_final(options, Console(quiet=True))
    proxies = {n.genome.digest: n.proxy for n in finalists.choose(final, 4, 2, 0)}
    found = []
    for net in read(whole.folder, "similarity.json")["networks"]:
        proxy = proxies[net["digest"]]
        trainer = finalists.alone_trainer(final.job, final.data, proxy, seed=final.seed, steps=41)
        place = finalists.training_folder(final.folder.alone_by_rungs, proxy, 41, final.seed)
        assert trainer.load(Checkpoints(place))
        trainer.close()
        found.append(trainer.network.eval())
    mean, std = (torch.tensor(v)[:, None, None] for v in (final.data.mean, final.data.std))
    return found, (final.data.test.images / 255 - mean) / std, final.data.test.labels


def test_who_is_compared(whole):
    found, outcome = read(whole.folder, "similarity.json"), read(whole.folder, "finalists.json")
    ended = [net for net in outcome["networks"] if net["state"] == "finished"]
    assert 2 <= len(ended) < len(outcome["networks"])
    assert [net["digest"] for net in found["networks"]] == [net["digest"] for net in ended]
    assert found["networks"][0]["digest"] == outcome["winner"]
    # What was compared is what was reported: every network is as right as it was.
    assert [net["accuracy"] for net in found["networks"]] == [net["test"] for net in ended]
    assert found["about"]["images"] == outcome["about"]["reported"]["images"] == 359


@torch.no_grad()
def test_decisions(whole, networks):
    nets, images, labels = networks
    right = [(net(images).argmax(1) == labels).tolist() for net in nets]
    found = read(whole.folder, "similarity.json")
    for i, one in enumerate(right):
        for j, other in enumerate(right):
            same = sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
            p, q = sum(one) / len(one), sum(other) / len(one)
            chance = p * q + (1 - p) * (1 - q)
            expected = 1.0 if same == 1 else (same - chance) / (1 - chance)
            assert found["kappa"][i][j] == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_layers(whole, networks):
    """By equation 3 of Nguyen et al., term by term, on the same minibatches."""
    nets, images, _ = networks
    found = read(whole.folder, "similarity.json")
    layers = []
    for net in nets:
        x = net.stem(images)
        maps = [x]
        for stage in net.stages:
            maps.append(x := stage(x))
        layers += [*maps, net.head.flatten(net.head.norm(net.head.pool(net.head.features(x))))]
    assert [n["layers"] for n in found["networks"]] == [
        ["stem", "stage 1", "stage 2", "head input"]
    ] * len(nets)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    parts = order.split(batch_sizes(len(images), BATCH))
    assert max(map(len, parts)) == found["about"]["minibatch"]

    def hsic(i, j):
        total = 0.0
        for part in parts:
            n = len(part)
            x, y = (layers[k][part].flatten(1).double() for k in (i, j))
            a, b = ((f @ f.T) * (1 - torch.eye(n)) for f in (x, y))
            terms = (a * b).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2))
            terms -= 2 / (n - 2) * (a.sum(0) @ b.sum(1))
            total += float(terms / (n * (n - 3)))
        return total / len(parts)

    assert len(found["cka"]) == len(layers)
    for i, j in itertools.combinations_with_replacement(range(len(layers)), 2):
        expected = hsic(i, j) / math.sqrt(hsic(i, i) * hsic(j, j))
        assert found["cka"][i][j] == found["cka"][j][i]
        assert found["cka"][i][j] == pytest.approx(expected, abs=1e-4)


def test_it_is_said_and_shown(whole):
    assert "Kappa is of 359 test images" in whole.out
    report = (whole.folder / "report.html").read_text()
    assert "How alike the finalists are" in report
    assert "similarity.json" in report


def test_the_same_again(whole, command):
    before = (whole.folder / "similarity.json").read_bytes()
    assert command("finalists", whole.folder, *SMALL, *MORE, "--quiet").code == 0
    assert (whole.folder / "similarity.json").read_bytes() == before


def test_many_images(whole, tmp_path, command, monkeypatch):
    """CKA is of some of them, kappa of all."""
    folder = Path(shutil.copytree(whole.folder, tmp_path / "alike"))
    monkeypatch.setattr(similarity, "CKA_IMAGES", 200)
    assert command("finalists", folder, *SMALL, *MORE, "--quiet").code == 0
    few, every = read(folder, "similarity.json"), read(whole.folder, "similarity.json")
    assert (few["about"]["images"], few["about"]["cka_images"]) == (359, 200)
    assert few["about"]["minibatch"] == 100
    assert (few["kappa"], few["networks"]) == (every["kappa"], every["networks"])
    assert few["cka"] != every["cka"]
    for one, other in zip(few["cka"], every["cka"], strict=True):
        assert one == pytest.approx(other, abs=0.2)


def test_where_there_are_none_to_compare(whole, tmp_path, command):
    folder = Path(shutil.copytree(whole.folder, tmp_path / "alike"))
    names = [net["name"] for net in read(folder, "similarity.json")["networks"]]
    outcome = read(folder, "finalists.json")
    proxies = {net["name"]: net["proxy"] for net in outcome["networks"]}
    for name in names[1:]:
        for place in (folder / "state" / "finalists").glob(f"{proxies[name]}-*"):
            shutil.rmtree(place)
    ended = command("finalists", folder, *SMALL, *MORE)
    assert ended.code == 0, ended.err
    assert f"{names[1]} is not compared: its checkpoint cannot be read" in ended.err
    assert "Fewer than two networks" in ended.out
    assert not (folder / "similarity.json").exists()
    assert "How alike the finalists are" not in (folder / "report.html").read_text()
