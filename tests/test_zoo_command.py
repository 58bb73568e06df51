"""`run_search.py zoo` and `run_search.py scale`, from the command line to what they write."""

import csv
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from results import zoo
from results.export import load_module
from results.store import Store
from space.genome import Genome
from space.presets import preset, presets
from tests.endings import one_line

ROOT = Path(__file__).parents[1]


# ---- zoo


def test_zoo_lists_every_preset(command):
    ended = command("zoo")
    assert (ended.code, ended.err) == (0, "")
    named = [line.split()[0].rstrip("*") for line in ended.out.splitlines()[1:]]
    assert set(presets()) <= set(named)
    assert f"{len(presets())} of {len(presets())} published networks." in ended.out


def test_zoo_as_json(command):
    ended = command("zoo", "--json")
    assert ended.code == 0
    assert json.loads(ended.out) == [zoo.plain(entry) for entry in zoo.everything()]


def test_zoo_filters(command):
    ended = command("zoo", "--json", "--budget", "4.5GFLOPs,30Mparams", "--kind", "hybrid")
    found = json.loads(ended.out)
    assert 0 < len(found) < len(presets())
    assert all(row["macs"] <= 4.5e9 and row["params"] <= 30e6 for row in found)
    assert {row["kind"] for row in found} == {"hybrid"}
    twice = command("zoo", "--json", "--budget", "9GFLOPs,30Mparams", "--flops-per-mac", 2)
    hybrids = [row for row in json.loads(twice.out) if row["kind"] == "hybrid"]
    assert hybrids == found


def test_zoo_is_quick_and_small():
    """All presets in less than a minute and 2 GB, start included."""
    begun = time.monotonic()
    words = [sys.executable, str(ROOT / "run_search.py"), "zoo", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert time.monotonic() - begun < 60
    assert len(json.loads(done.stdout)) == len(presets())
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * 2**20  # KiB


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["zoo", "--budget", "4Gfoo"], ["'4Gfoo'", "FLOPs, MACs and params"]),
        (["zoo", "--kind", "transformer"], ["'transformer'", "convolution", "macro"]),
        (["zoo", "--flops-per-mac", "3"], ["flops_per_mac is 3", "1 or 2"]),
        (["zoo", "--nosuch"], ["--nosuch"]),
        (["zoo", "draw"], ["'draw'", "show"]),
        (["zoo", "show"], ["name"]),
        (["zoo", "show", "convnext_x"], ["'convnext_x'", "convnext_t", "zoo"]),
        (["zoo", "show", "Δ"], ["'Δ'"]),
        (["zoo", "show", "convnext_t", "--svg", "/no/such/place.svg"], ["/no/such"]),
        (["zoo", "export", "nosuch"], ["'nosuch'"]),
        (["zoo", "export", "convnext_t", "--classes", "0"], ["classes is 0", "at least 1"]),
        (["zoo", "export", "convnext_t", "--resolution", "-32"], ["resolution is -32"]),
        (["zoo", "export", "convnext_t", "--resolution", "30"], ["resolution is 30", "4"]),
        (["zoo", "--markdown", "x.md", "--budget", "4GFLOPs"], ["leave out --budget"]),
        (["zoo", "--markdown", "/no/such/zoo.md"], ["/no/such"]),
        (["scale"], ["genome"]),
        (["scale", "convnext_t"], ["--to"]),
        (["scale", "convnext_x", "--to", "1GFLOPs"], ["'convnext_x'", "convnext_t"]),
        (["scale", "/no/such.json", "--to", "1GFLOPs"], ["'/no/such.json'", "preset"]),
        (["scale", "convnext_t", "--to", "1Gfoo"], ["'1Gfoo'"]),
        (["scale", "convnext_t", "--to", "1GFLOPs,"], ["''"]),
        (["scale", "convnext_t", "--to", "1FLOPs"], ["within 2% of 1FLOPs", "nearest"]),
        (["scale", "convnext_t", "--to", "1GFLOPs", "--plugin", "no.py"], ["'no.py'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line(command, tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    one_line(command(*words), *expected)
    assert not list(tmp_path.iterdir())


def test_checks(command, monkeypatch):
    ended = command("zoo", "--check", "--kind", "modulation", "--budget", "2GFLOPs", "--quiet")
    assert ended.code == 0, ended.out
    assert "Checked by building and tracing: 0 not as said." in ended.out
    monkeypatch.setattr(zoo, "check", lambda entry: "is not so" if entry.preset.top1 else None)
    ended = command("zoo", "--check", "--kind", "convolution")
    assert ended.code == 1
    assert "convnext_t: is not so" in ended.out
    ended = command("zoo", "--check", "--kind", "convolution", "--json", "--quiet")
    assert ended.code == 1
    assert "is not so" in {row["problem"] for row in json.loads(ended.out)}


def test_zoo_writes_its_page(command, tmp_path):
    ended = command("zoo", "--markdown", tmp_path / "zoo.md")
    assert (ended.code, ended.out) == (0, "")
    assert (tmp_path / "zoo.md").read_text() == zoo.markdown(zoo.everything())
    assert [path.name for path in tmp_path.iterdir()] == ["zoo.md"]


def test_zoo_show(command, tmp_path):
    svg = tmp_path / "net.svg"
    ended = command("zoo", "show", "convnext_t", "--svg", svg)
    assert ended.code == 0
    assert "28,589,128 parameters, 4.46G MACs (= 8.91G FLOPs at 2 each) at 224 pixels" in ended.out
    for text in ("stage 4", "384 -> 768", "7 x 7", "context 7", "layer_scale 1e-06", "82.1%"):
        assert text in ended.out
    assert svg.read_text().startswith("<svg ")
    plain = json.loads(command("zoo", "show", "convnext_t", "--json").out)
    assert Genome.from_json(plain["genome"]) == preset("convnext_t").genome
    assert plain["params"] == 28_589_128


def test_options_may_stand_before_or_behind(command):
    before = command("zoo", "--json", "show", "convnext_t")
    assert before.out == command("zoo", "show", "convnext_t", "--json").out
    assert json.loads(before.out)["name"] == "convnext_t"


def test_zoo_export(command, tmp_path):
    """One file that needs torch alone, at the sizes that were asked for."""
    home = tmp_path / "net"
    words = ("zoo", "export", "moganet_xt", "--out", home, "--json")
    ended = command(*words, "--resolution", 64, "--classes", 7)
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    assert told["folder"] == str(home)
    assert set(told["files"]) == {path.name for path in home.iterdir()}
    module = load_module(home / "model.py")
    with torch.no_grad():
        assert module.model().eval()(torch.randn(1, 3, 64, 64)).shape == (1, 7)
    genome = Genome.from_json(json.loads((home / "genome.json").read_text()))
    assert genome == preset("moganet_xt").genome.at(resolution=64, classes=7)
    assert (told["params"], told["macs"]) == (module.PARAMS, module.MACS)
    assert "arXiv 2211.03295" in (home / "README.md").read_text()
    (home / "mine.txt").write_text("")
    (home / "model.py").unlink()
    one_line(command(*words), "net", "another --out")


# ---- scale


def check_family(ended, folder, limits):
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    assert told["folder"] == str(folder)
    assert len(told["family"]) == len(limits)
    with (folder / "family.csv").open() as file:
        written = list(csv.DictReader(file))
    for row, line, limit in zip(told["family"], written, limits, strict=True):
        genome = Genome.from_json(json.loads((folder / row["name"] / "genome.json").read_text()))
        cost = genome.cost()
        assert abs(row["macs"] / limit - 1) <= 0.02
        assert (row["macs"], row["params"]) == (cost.macs, cost.params)
        assert (int(line["macs"]), int(line["params"])) == (cost.macs, cost.params)
        assert row["widths"] == [stage.channels for stage in genome.stages]
        assert row["depths"] == [len(stage.blocks) for stage in genome.stages]
        assert line["widths"] == " ".join(map(str, row["widths"]))
        assert row["resolution"] == genome.resolution


def test_scale_a_preset_and_a_member_of_its_family(command, tmp_path):
    folder = tmp_path / "family"
    words = ("scale", "convnext_t", "--to", "1GFLOPs,2GFLOPs,9GFLOPs", "--out", folder)
    ended = command(*words, "--json")
    check_family(ended, folder, [1e9, 2e9, 9e9])
    member = folder / "convnext_t-2GFLOPs"
    for source in (member, member / "genome.json"):
        again = command("scale", source, "--to", "1.2GMACs", "--out", tmp_path / "two", "--json")
        check_family(again, tmp_path / "two", [1.2e9])
        assert (tmp_path / "two" / "convnext_t-2GFLOPs-1.2GMACs" / "genome.json").is_file()
    shown = command(*words, "--quiet")
    assert "convnext_t-9GFLOPs" in shown.out
    assert shown.err == ""


def test_scale_counts_as_it_is_told(command, tmp_path):
    words = ("scale", "convnext_t", "--to", "2GFLOPs", "--flops-per-mac", 2, "--json")
    check_family(command(*words, "--out", tmp_path), tmp_path, [1e9])


def test_scale_writes_where_it_stands(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = command("scale", "convnext_t", "--to", "2GFLOPs", "--json")
    check_family(ended, Path("families") / "convnext_t", [2e9])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be an object"),
        ("{}", "lacks 'resolution'"),
        ('"' + "x" * 10, "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_files_that_hold_no_genome(command, tmp_path, text, expected):
    (tmp_path / "genome.json").write_text(text)
    for source in (tmp_path, tmp_path / "genome.json"):
        one_line(command("scale", source, "--to", "1GFLOPs"), "genome.json", expected)
    (tmp_path / "genome.json").write_bytes(b"\xff\xfe\x00")
    one_line(command("scale", tmp_path, "--to", "1GFLOPs"), "genome.json", "not text")
    (tmp_path / "genome.json").unlink()
    one_line(command("scale", tmp_path, "--to", "1GFLOPs"), "genome.json", "cannot be read")


# ---- searches that start from presets


def warm_space(strides=(2, 2, 2, 2)):
    """A pyramid for small pictures, of ConvNeXt's four strides or of others."""
    stages = [
        {
            "channels": [4 * 2**i, 6 * 2**i, 8 * 2**i, 10 * 2**i],
            "depth": [1, 2, 3, 4, 5, 6],
            "stride": stride,
            "downsampling": {"local_dsm": {}},
            "operators": {"inverted_bottleneck": {"expansion": [1, 2, 4], "context": [3, 7]}},
        }
        for i, stride in enumerate(strides)
    ]
    return {
        "name": "warm",
        "resolution": [64],
        "stem": {"convolution": {"channels": [8]}},
        "stages": stages,
        "head": {"pooled": {}},
        "proxy": {"width": 0.5, "resolution": 32},
    }


WARM = {"space": warm_space(), "budget": "2MFLOPs", "warm_start": True}


def test_warm_start(runs):
    plan = json.loads(runs(**WARM, dry_run=True, json=True).out)
    names = plan["warm_start"]
    assert len(names) >= 2
    assert {"convnext_l", "convnext_t"} & set(names)
    ended = runs(**WARM, evaluations=12)
    assert ended.code == 0, ended.err
    assert "Warm start with" in ended.err
    with Store(ended.folder / "candidates.sqlite", readonly=True) as store:
        rows = store.rows()
    count = min(12, len(names))
    assert [row.origin for row in rows[:count]] == [f"preset:{name}" for name in names[:count]]
    assert {row.origin for row in rows[count:]} <= {"predictor"}
    report = (ended.folder / "report.html").read_text()
    assert f"made of the published {names[0]}" in report or f"after {names[0]}" in report
    assert "warm_start: true" in (ended.folder / "config.yaml").read_text()


def test_a_warm_start_that_was_stopped_goes_on(runs):
    """One run in a piece, and one whose config asks for more evaluations only later."""
    whole = runs(**WARM, batch=1, name="whole", evaluations=8)
    part = runs(**WARM, batch=1, name="part", evaluations=2)
    config = part.folder / "config.yaml"
    config.write_text(config.read_text().replace("evaluations: 2", "evaluations: 8"))
    resumed = runs.resume(part.folder)
    assert resumed.code == 0, resumed.err
    assert resumed.front == whole.front
    refused = runs.resume(part.folder, "--no-warm-start")
    one_line(refused, "warm_start is False", "has True")


def test_a_warm_start_without_networks_is_said(runs):
    ended = runs(**{**WARM, "space": warm_space((2, 4)), "budget": "500kFLOPs"})
    assert ended.code == 0, ended.err
    assert "this space has none of the published networks" in ended.err
