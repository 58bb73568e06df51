"""The files, sentences and pages of a trust card."""

import csv
import dataclasses
import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
import vl_convert

from evaluator.trust import Network, make_card
from results import trust_card
from results.history import Run
from results.report import write_report
from results.run_folder import RunFolder

EVIL = "</script><script>alert(1)</script>\u2028'\"&"
ABOUT = {
    "command": "python run_search.py trust runs/one --networks 12",
    "run": "one",
    "level": "the budget",
    "split": "test",
    "images": 359,
    "steps": 430,
    "supernet_steps": 430,
    "seeds": [1],
}
LEVEL = 4_000_000_000


def make(count=12, *, seed=0, noise=0.05, about=None, **changes):
    """A card of networks whose accuracies follow their scores; half are near the level."""
    rng = np.random.default_rng(seed)
    networks = []
    for i in range(count):
        score = float(rng.random())
        accuracy = score + noise * float(rng.random())
        networks.append(
            Network(
                name=f"net{i}",
                digest=f"{i:012x}",
                proxy=f"{i:012x}",
                group="level" if i % 2 else "spread",
                macs=LEVEL - i if i % 2 else LEVEL // 4 * (1 + i % 3),
                params=1_000_000 + i,
                kinds=("attention", "inverted_bottleneck"),
                main_kind="attention" if i % 3 else "inverted_bottleneck",
                score=score,
                accuracies=(accuracy,),
                probabilities=(accuracy / 2,),
                zero_cost={"naswot": -math.inf if i == 1 else float(i)},
                seconds=2.0,
            )
        )
    for place, values in changes.items():
        i = int(place.removeprefix("net"))
        networks[i] = dataclasses.replace(networks[i], **values)
    return make_card(networks, LEVEL, seed=0, about={**ABOUT, **(about or {})}).to_plain()


def page_of(tmp_path, **changes):
    run = Run(
        name="one",
        settings={},
        environment={},
        rows=[],
        front=[],
        best=None,
        budget={"macs": LEVEL, "text": "4GFLOPs"},
        trust_command="python run_search.py trust 'runs/the one'",
    )
    path = tmp_path / "report.html"
    write_report(path, dataclasses.replace(run, **changes))
    return Page(path.read_text(encoding="utf-8"))


class Page(HTMLParser):
    """Text outside of scripts and styles, links, ids, and the data of the charts."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.texts, self.scripts, self.links, self.ids = [], [], [], [], []
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.texts).split())
        self.charts = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if tag == "a" else []
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.texts.append(data)


# ---- files


def test_files_of_a_card(tmp_path):
    folder, card = RunFolder(tmp_path), make()
    assert trust_card.read_card(folder) is None
    trust_card.write_card(folder, card)
    assert {path.name for path in tmp_path.iterdir()} == {
        "trust.json",
        "trust.csv",
        "trust.svg",
        "trust.png",
    }
    assert trust_card.read_card(folder) == json.loads(json.dumps(card))
    root = ElementTree.fromstring((tmp_path / "trust.svg").read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = " ".join(root.itertext())
    assert "supernet score" in words
    assert "accuracy of the proxy, trained alone (test images)" in words
    assert "rings: within 10% of 4G MACs" in words
    assert (tmp_path / "trust.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1}', "\x00"])
def test_files_that_are_no_card(tmp_path, text):
    (tmp_path / "trust.json").write_text(text)
    with pytest.raises(ValueError, match=r"trust.json is not a trust card of format 1; remove it"):
        trust_card.read_card(RunFolder(tmp_path))


def test_table_of_the_networks():
    card = make(net3={"problem": "diverged, it did", "accuracies": (), "probabilities": ()})
    rows = list(csv.DictReader(io.StringIO(trust_card.table_of_networks(card))))
    assert [row["name"] for row in rows] == [f"net{i}" for i in range(12)]
    first, second, failed = rows[0], rows[1], rows[3]
    network = card["networks"][0]
    assert float(first["accuracy"]) == network["accuracies"][0]
    assert float(first["score"]) == network["score"]
    assert (first["in_band"], second["in_band"]) == ("", "yes")
    assert first["kinds"] == "attention inverted_bottleneck"
    assert float(second["naswot"]) == -math.inf
    assert (failed["accuracy"], failed["problem"]) == ("", "diverged, it did")


# ---- words


def test_verdict_is_what_tau_says():
    card = make()
    card["agreements"][0]["tau"] = {"value": 0.68, "low": 0.42, "high": 0.84, "n": 24}
    card["agreements"][0]["band_tau"] = {"value": -0.2, "low": -0.6, "high": 0.3, "n": 6}
    card["agreements"][1]["tau"]["value"] = 0.5
    assert card["agreements"][1]["name"] == "MACs"
    assert trust_card.verdict(card) == (
        "Of two networks that differ, the supernet orders 84% (71% to 92% with 95% confidence, "
        "24 networks) as training alone does; of two near 4G MACs, 40% (20% to 65% with 95% "
        "confidence, 6 networks); the number of MACs alone would order 75% so."
    )


def test_verdict_of_few_networks_says_less():
    card = make()
    card["agreements"][0]["tau"] |= {"value": 1.0, "low": None, "high": None, "n": 4}
    card["agreements"][0]["band_tau"] |= {"value": 1.0, "low": None, "high": None, "n": 2}
    card["agreements"][1]["tau"]["value"] = None
    assert trust_card.verdict(card) == (
        "Of two networks that differ, the supernet orders 100% (4 networks) as training alone does."
    )


def test_verdict_where_nothing_differs():
    card = make(noise=0, **{f"net{i}": {"accuracies": (0.5,)} for i in range(12)})
    assert trust_card.verdict(card) == (
        "The 12 networks that count do not differ enough, by score or by accuracy, to say anything "
        "about the scores."
    )


def test_what_a_reader_has_to_know():
    assert trust_card.notes(make()) == []
    failed = {"problem": "training diverged", "accuracies": (), "probabilities": ()}
    about = {"split": "validation", "steps": 43, "seeds": [1, 2]}
    card = make(net2=failed, net5={"score": None}, about=about)
    card["ceiling"] = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 10}
    left_out, images, steps, ceiling = trust_card.notes(card)
    assert left_out == "2 networks are left out, as something failed; net2: training diverged."
    assert "no test images" in images
    assert "another number of steps" in steps
    assert "agree with tau 0.90 (0.80 to 0.95)" in ceiling
    said = trust_card.truth(card)
    assert "12 networks inside the budget were drawn, 6 of them from all over" in said
    assert "6 are within 10% of 4G MACs (the budget)" in said
    assert "alone, twice with different seeds, by" in said
    assert "for 43 steps (the supernet: 430)" in said
    assert "on 359 validation images" in said


# ---- the chart


def test_chart_shows_the_networks_that_count():
    card = make(net2={"problem": "diverged"})
    points = trust_card.points(card)
    assert len(points) == 11
    assert [p["near"] for p in points] == [
        trust_card.in_band(net, card) for net in card["networks"] if net["name"] != "net2"
    ]
    for point in points:
        network = next(net for net in card["networks"] if net["name"] == point["name"])
        assert point["score"] == network["score"]
        assert point["accuracy"] == network["accuracies"][0]
        assert point["kind"] == network["main_kind"].replace("_", " ")


def test_kinds_differ_by_colour_or_shape():
    """Operators of one family share a colour, and are told apart by their shapes."""
    kinds = ["attention", "pooling_attention", "split_attention", "local_mixer", "conv", "axis_mlp"]
    card = make(**{f"net{i}": {"main_kind": kind} for i, kind in enumerate(kinds)})
    dots = trust_card.scatter(card).to_dict()["layer"][1]["encoding"]
    colour, shape = dots["color"]["scale"], dots["shape"]["scale"]
    assert (
        colour["domain"] == shape["domain"] == sorted({p["kind"] for p in trust_card.points(card)})
    )
    looks = list(zip(colour["range"], shape["range"], strict=True))
    assert len(set(looks)) == len(looks) >= 6
    assert set(colour["range"]) <= {
        value for name, value in vars(trust_card.drawing).items() if name.isupper()
    }


# ---- the report


def test_report_without_a_card_says_what_checks_the_scores(tmp_path):
    page = page_of(tmp_path)
    assert "The scores are unchecked : nobody has measured yet" in page.text
    assert page.text.count("python run_search.py trust 'runs/the one'") == 2
    assert "chart-trust" not in page.ids
    assert not {"trust.svg", "trust.csv"} & set(page.links)


def test_report_with_a_card(tmp_path):
    card = make()
    page = page_of(tmp_path, trust=card)
    assert "unchecked" not in page.text
    assert page.text.count(trust_card.verdict(card)) == 2
    assert trust_card.truth(card) in page.text
    for row in card["agreements"]:
        assert f"{row['name']} {trust_card.number(row['tau'])}" in page.text
    for kind in trust_card.kind_cells(card):
        assert " ".join(kind) in page.text
    for net in card["networks"]:
        assert f"{net['name']} {net['score']:.4f} {100 * net['accuracies'][0]:.1f} %" in page.text
    assert ABOUT["command"] in page.text
    assert {"#trust", "trust.json", "trust.csv", "trust.svg", "trust.png"} <= set(page.links)
    assert list(page.charts["specs"]) == ["trust"]
    assert page.charts["data"]["trust"] == trust_card.points(card)
    spec = {**page.charts["specs"]["trust"], "datasets": page.charts["data"]}
    vl_convert.vegalite_to_vega(spec)
    assert {"trust", "chart-trust"} <= set(page.ids)


def test_text_of_a_card_is_text_on_the_page(tmp_path):
    evil = {"name": EVIL, "kinds": (EVIL,), "main_kind": EVIL, "zero_cost": {EVIL: 1.0}}
    failed = {"problem": EVIL, "accuracies": (), "probabilities": ()}
    card = make(net0=evil, net1=failed, about={"command": EVIL, "run": EVIL, "level": EVIL})
    page = page_of(tmp_path, trust=card)
    assert len(page.scripts) == 3
    assert "\u2028" not in page.scripts[0]
    assert page.text.count(EVIL.replace("\u2028", " ")) >= 8
    assert page.charts["data"]["trust"][0]["name"] == EVIL
    trust_card.write_card(RunFolder(tmp_path), card)
    ElementTree.fromstring((tmp_path / "trust.svg").read_text())  # well-formed
    rows = list(csv.DictReader(io.StringIO((tmp_path / "trust.csv").read_text())))
    assert rows[0]["name"] == EVIL


def test_card_of_which_nothing_counts(tmp_path):
    failed = {"problem": "diverged", "accuracies": (), "probabilities": ()}
    card = make(4, **{f"net{i}": failed for i in range(4)})
    page = page_of(tmp_path, trust=card)
    assert "The 0 networks that count do not differ enough" in page.text
    assert "left out: diverged" in page.text
    assert "chart-trust" not in page.ids
    trust_card.write_card(RunFolder(tmp_path), card)


def test_probes_are_three_lines_over_the_training(tmp_path):
    probes = [
        {"step": step, "largest": 0.9, "smallest": 0.1, "random": step / 20} for step in (5, 10)
    ]
    page = page_of(tmp_path, supernet={"probes": probes})
    data = page.charts["data"]["probes"]
    assert [(p["step"], p["share"]) for p in data if p["network"] == "random"] == [
        (5, 0.25),
        (10, 0.5),
    ]
    assert {p["network"] for p in data} == {"largest", "smallest", "random"}
    spec = {**page.charts["specs"]["probes"], "datasets": page.charts["data"]}
    vl_convert.vegalite_to_vega(spec)
    assert "chart-probes" in page.ids
    assert not re.search(r"\bprobes\b", page.text)  # shown as a chart, not as a list
