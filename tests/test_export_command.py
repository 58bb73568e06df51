"""`run_search.py export`: any network as a folder of its own."""

from __future__ import annotations

import io
import json
import shutil

import pytest
import torch
from endings import one_line
from safetensors.torch import load_file, save_file

from commands.exported import check_place
from results.export import load_module, names_of_export, renamed
from space import Genome, build
from space.presets import preset

NAME = "edgenext_xxs"


@pytest.fixture(scope="module")
def written(command, tmp_path_factory):
    """An export of a preset, with what the command told."""
    folder = tmp_path_factory.mktemp("exports") / "net"
    words = ("export", NAME, "--out", folder, "--resolution", 64, "--classes", 5, "--json")
    ended = command(*words, "--formats", "torchscript")
    assert ended.code == 0, ended.err
    return folder, json.loads(ended.out)


def test_a_preset(written):
    folder, told = written
    genome = preset(NAME).genome.at(resolution=64, classes=5)
    assert Genome.from_json(json.loads((folder / "genome.json").read_text())) == genome
    assert sorted(path.name for path in folder.iterdir()) == told["files"]
    assert (told["params"], told["macs"]) == (genome.cost().params, genome.cost().macs)
    assert told["differences"]["torchscript"] < 1e-5
    card = (folder / "README.md").read_text()
    assert "model.torchscript.pt differs by at most" in card
    assert f"export {NAME} --formats torchscript" in card.replace("\\", "")


def test_weights_go_along_by_either_name(command, written, tmp_path):
    """Those that lie beside a genome.json, and those that are named, are the same network's."""
    folder, _ = written
    genome = Genome.from_json(json.loads((folder / "genome.json").read_text()))
    network = build(genome).eval()
    state = network.state_dict()
    source = shutil.copytree(folder, tmp_path / "source")
    beside, other = source / "weights.safetensors", tmp_path / "other.safetensors"
    named = renamed(state, names_of_export(genome))
    for weights, path in ((named, beside), (state, other)):
        save_file({name: value.clone() for name, value in weights.items()}, path)
    images = torch.randn(1, 3, 64, 64)
    for i, words in enumerate(((), ("--weights", other))):
        ended = command("export", source, "--out", tmp_path / str(i), *words)
        assert ended.code == 0, ended.err
        found = load_module(tmp_path / str(i) / "model.py").model().eval()
        found.load_state_dict(load_file(tmp_path / str(i) / "weights.safetensors"))
        assert torch.equal(found(images), network(images))


def test_an_export_is_replaced_only_where_somebody_says_so(command, written, tmp_path):
    folder = shutil.copytree(written[0], tmp_path / "net")
    before = (folder / "README.md").read_text()
    words = ("export", NAME, "--out", folder)
    one_line(command(*words), "net holds an exported network", "--replace")
    assert (folder / "README.md").read_text() == before
    assert command(*words, "--replace").code == 0
    assert (folder / "README.md").read_text() != before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "goes_on"), [("y\n", True), ("YES\n", True), ("\n", False)])
def test_a_terminal_is_asked(answer, goes_on, written, monkeypatch):
    said = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stderr", said)
    if goes_on:
        check_place(written[0], replace=False)
    else:
        with pytest.raises(ValueError, match="give --replace"):
            check_place(written[0], replace=False)
    assert "Replace it? [y/N]" in said.getvalue()


def test_what_is_wrong_is_one_line(command, written, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    (tmp_path / "bad.safetensors").write_text("no weights")
    out = ("--out", tmp_path / "out")
    one_line(command("export", NAME, "--out", tmp_path / "notes"), "notes", "another --out")
    one_line(command("export", NAME, *out, "--formats", "tflite"), "'tflite'", "onnx")
    one_line(command("export", NAME, *out, "--weights", tmp_path / "none"), "no such file")
    one_line(command("export", NAME, *out, "--weights", tmp_path / "bad.safetensors"), "read")
    one_line(command("export", "nothing_like_it", *out), "nothing_like_it")
    assert not (tmp_path / "out").exists()
