"""The report is one safe file that says what the run holds."""

import base64
import hashlib
import itertools
import json
import math
import os
import random
import re
import urllib.parse
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import vl_convert
from made_runs import (
    BUDGET,
    EVIL,
    evil_run,
    make_genome,
    make_row,
    make_run,
    nondominated,
    three_objectives,
)

from results import figures
from results.history import Run
from results.report import write_report
from results.sections import genes, networks, published, search
from results.sections import points as candidate_points
from results.view import View
from space.cost import Cost
from space.genes import lookup
from space.genome import Genome, Stage

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Elements as (tag, attributes), text by element, and the content of each script."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.scripts, self.open, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def charts(self):
        def refuse(constant):
            raise AssertionError(f"{constant} is not JSON")

        return json.loads(self.scripts[0], parse_constant=refuse)


def write(folder, run):
    path = folder / "report.html"
    write_report(path, run)
    return Page(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("make", [make_run, evil_run])
def test_page_loads_nothing(tmp_path, make):
    page = write(tmp_path, make())
    assert not {"link", "img", "iframe", "object", "embed", "base"} & {t for t, _ in page.elements}
    for tag, attributes in page.elements:
        assert not {"src", "srcset", "action", "data", "poster"} & set(attributes), tag
        assert not any(name.startswith("on") for name in attributes), tag
        assert "url(" not in (attributes.get("style") or "")
        href = attributes.get("href", "#")
        assert href.startswith("#") or href in ("candidates.sqlite", "front.csv", "plots/")


@pytest.mark.parametrize("make", [make_run, evil_run])
def test_policy_allows_the_two_scripts_of_the_page_alone(tmp_path, make):
    page = write(tmp_path, make())
    policy = page.all("meta")[1]["content"]
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in page.scripts[1:]
    ]
    assert len(hashes) == 2
    assert f"default-src 'none'; script-src {' '.join(hashes)};" in policy
    assert "\r" not in page.scripts[1]  # a browser would hash other bytes


def test_text_of_the_run_is_text_on_the_page(tmp_path):
    run = evil_run()
    page = write(tmp_path, run)
    assert len(page.scripts) == 3
    assert page.text.count(EVIL.replace("\u2028", " ")) >= 12
    points = page.charts["data"]["candidates"]
    assert (points[0]["name"], points[1]["error"]) == (EVIL, EVIL)
    assert "\u2028" not in page.scripts[0]


def test_path_that_is_no_text(tmp_path):
    page = write(tmp_path, make_run(settings={"path": os.fsdecode(b"/data/\xff")}))
    assert "/data/?" in page.text


@pytest.mark.parametrize("make", [make_run, three_objectives])
def test_page_is_accessible(tmp_path, make):
    page = write(tmp_path, make())
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in page.all("a"):
        assert attributes["href"][1:] in ids or "#" not in attributes["href"]
    assert all("scope" in attributes for attributes in page.all("th"))
    assert len(page.all("table")) == len(page.all("caption")) > 5
    for tag in ("svg", "section", "nav"):
        assert all({"aria-label", "aria-labelledby"} & set(found) for found in page.all(tag)), tag
    charts = [found for found in page.all("div") if "chart" in found.get("class", "").split()]
    assert [found["id"] for found in charts] == [f"chart-{name}" for name in page.charts["specs"]]
    assert all(found["aria-label"].startswith("Chart: ") for found in charts)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in page.elements}
    labelled = {found["for"] for found in page.all("label") if "for" in found}
    fields = [
        f["id"] for tag in ("select", "input") for f in page.all(tag) if f.get("id") != "again"
    ]
    assert set(fields) <= labelled


def front_line(data, pair):
    """The points of a front of two measures, (second, first) as they stand in its name."""
    first, second = pair.split()
    corners = [data["corners"][i] for i in data["lines"][pair]]
    return sorted((corner[second], corner[first]) for corner in corners)


def unpacked(found):
    """Points, however they are written."""
    if isinstance(found, list):
        return found
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def test_charts_compile_and_have_their_data(tmp_path):
    run = make_run()
    charts = write(tmp_path, run).charts
    assert list(charts["specs"]) == [
        *("front", "growth-volume", "growth-best", "progress"),
        *("published", "supernet"),
    ]
    for name, spec in charts["specs"].items():
        used = set(re.findall(r'"data": \{"name": "([\w-]+)"\}', json.dumps(spec)))
        drawn_by_script = {"line", "limit-x", "limit-y"} if name == "front" else set()
        assert used <= set(charts["data"]) | drawn_by_script
        vl_convert.vegalite_to_vega({**spec, "datasets": charts["data"]})
    data = charts["data"]
    expected = sorted((row.macs, row.score) for row in nondominated(run.rows))
    assert front_line(data, "m0 m1") == expected
    assert data["limits-of"] == {"m1": BUDGET}
    highest = [max(row.reward for row in run.rows[: i + 1]) for i in range(len(run.rows))]
    assert [point["so_far"] for point in data["candidates"]] == highest
    places = {point["digest"]: point["place"] for point in data["candidates"]}
    assert places.pop(run.best) == "best"
    assert {d for d, place in places.items() if place == "front"} == set(run.front) - {run.best}


def test_every_cost_that_is_an_objective_has_its_chart_and_column(tmp_path):
    run = three_objectives()
    page = write(tmp_path, run)
    charts = page.charts
    data = charts["data"]
    assert list(charts["specs"])[:2] == ["front", "space"]
    axes = {axis["name"]: axis["field"] for axis in data["axes"]}
    assert list(axes) == ["score", "macs", "latency@cpu", "params"]
    assert data["limits-of"] == {axes["macs"]: BUDGET, axes["latency@cpu"]: 8.0}
    for point, row in zip(data["candidates"], run.rows, strict=True):
        assert point[axes["score"]] == row.score
        assert point[axes["latency@cpu"]] == row.costs["latency@cpu"]
        assert point[axes["params"]] == row.params
    for first, second in itertools.combinations(axes, 2):

        def wanted(row, name):
            return -row.score if name == "score" else row.cost(name)

        found = {tuple(wanted(row, name) for name in (first, second)) for row in run.rows}
        expected = sorted(
            (b, abs(a))
            for a, b in found
            if not any(c <= a and d <= b and (c, d) != (a, b) for c, d in found)
        )
        assert front_line(data, f"{axes[first]} {axes[second]}") == expected
    title = next(axis for axis in data["axes"] if axis["name"] == "latency@cpu")["title"]
    assert title == "latency on cpu (ms)"
    assert "of at most 10M MACs and 8 ms on cpu ( 10MMACs,8ms@cpu )" in page.text
    assert "Latency on cpu 8 ms 100.0 % of the budget" in page.text
    assert "cheaper in every respect and better" in page.text
    assert page.text.count("latency on cpu stages") == 2  # the heads of both tables
    assert "on the front of all 3 objectives" in page.text
    assert "within 20 % of the best network's MACs" in page.text


@pytest.mark.parametrize("make", [make_run, three_objectives])
def test_chart_styles_are_those_of_the_theme(tmp_path, make):
    """A style that the theme does not know would fall back to Vega's own colours."""
    charts = write(tmp_path, make()).charts
    used = set(re.findall(r'"style": "([\w-]+)"', json.dumps(charts["specs"])))
    assert used <= set(charts["themes"]["light"]["style"])


def test_large_runs_are_thinned(tmp_path, monkeypatch):
    monkeypatch.setattr(candidate_points, "POINTS", 20)
    run = make_run(60)
    page = write(tmp_path, run)
    points = unpacked(page.charts["data"]["candidates"])
    assert len(points) < 60
    assert f"{60 - len(points)} candidates are left out of the charts" in page.text
    assert set(run.front) <= {point["digest"] for point in points}
    assert {point["so_far"] for point in points} == {
        max(row.reward for row in run.rows[: i + 1]) for i in range(60)
    }


def test_summary_says_what_was_found_and_what_the_score_is(tmp_path):
    run = make_run()
    best = next(row for row in run.rows if row.digest == run.best)
    text = write(tmp_path, run).text
    assert "the space tiny , 1.2 × 10²⁰ networks, from 1.00 MMACs to 9.00 MMACs" in text
    assert best.macs <= BUDGET
    assert f"{best.macs / 1e6:.2f} MMACs for one image of 32 × 32 pixels" in text
    assert f"counted as two operations each, {2 * best.macs / 1e6:.1f} MFLOPs" in text
    assert f"{100 * best.macs / BUDGET:.1f} % of the budget" in text
    assert f"{best.score:.4f}" in text
    assert (
        "It is not the accuracy of the trained network. The scores are unchecked : nobody has"
        in text
    )
    assert f"python architectures/{best.name}/model.py" in text
    assert "search.seed = 7" in text
    assert "51.2 % 49.8 %" in text
    assert "has not finished" not in text


def test_next_steps_given_replace_the_usual_ones(tmp_path):
    text = write(tmp_path, make_run(next_steps=[("Train it.", "train --it <here>")])).text
    assert "Train it. train --it <here>" in text
    assert "model.py" not in text


def test_stage_costs_add_up():
    genome = make_genome(random.Random(3))
    stages = networks.stage_costs(genome)
    assert [stage["name"] for stage in stages] == ["stem", "stage 1", "stage 2", "head"]
    assert sum((stage["cost"] for stage in stages), Cost()) == genome.cost()
    assert sum(stage["share"] for stage in stages) == pytest.approx(1)


def test_operator_shares_count_blocks():
    bottleneck = lookup("operator", "inverted_bottleneck")()
    attention = lookup("operator", "attention")()

    def one_stage(*blocks):
        head = lookup("head", "pooled")()
        stage = Stage(channels=32, blocks=blocks)
        stem = lookup("stem", "convolution")()
        return Genome(resolution=32, stem=stem, stages=(stage,), head=head)

    rows = [make_row(i, one_stage(bottleneck), 0.1) for i in range(10)]
    rows += [make_row(10, one_stage(attention, attention, bottleneck), 0.9)]
    ranked = sorted(rows, key=lambda row: -row.score)
    (line,) = search.operator_shares(rows, ranked, rows[-1:])  # downsampling: no choice, no line
    shares = {
        name: {part["kind"]: part["share"] for part in bar} for name, bar in line["bars"].items()
    }
    assert shares["all"] == {"inverted_bottleneck": 11 / 13, "attention": 2 / 13}
    # The tenth of 11, rounded up: the network with attention and one without.
    assert shares["best tenth"] == {"inverted_bottleneck": 0.5, "attention": 0.5}
    assert shares["front"] == {"inverted_bottleneck": 1 / 3, "attention": 2 / 3}
    assert search.operator_shares(rows[:10], rows[:10], rows[:1]) == []


def test_comparison_shows_the_nearest_published_networks():
    run = make_run()
    best = next(row for row in run.rows if row.digest == run.best)
    comparison = published.comparison(View(run))
    assert comparison["left_out"] == 1
    assert {entry["name"] for entry in comparison["entries"]} == {"near", "nearer", "small"} | {
        best.name
    }
    macs = [entry["macs"] for entry in comparison["entries"]]
    assert macs == sorted(macs)
    top1 = {entry["name"]: entry["top1"] for entry in comparison["entries"]}
    assert (top1["near"], top1["nearer"], top1["small"]) == (0.81, 0.705, None)


@pytest.mark.parametrize("target", ["macs", "params"])
def test_published_networks_within_a_fifth_of_the_budget_are_near(target):
    shares = [0.79, 0.81, 0.9, 1.0, 1.19, 1.21, 3.0]
    presets = [
        {"name": f"{share:g}", "macs": 10**9, "params": 10**6, "top1": None}
        | {"resolution": 224, "source": "", target: round(10**7 * share)}
        for share in shares
    ]
    run = make_run(presets=presets, best=None, budget={target: 10**7, "text": "10M"})
    entries = published.comparison(View(run))["entries"]
    assert [entry["name"] for entry in entries] == ["0.81", "0.9", "1", "1.19"]
    run = replace(run, budget={"text": ""})
    assert len(published.comparison(View(run))["entries"]) == len(shares)  # no budget: all


def test_chart_of_published_networks_holds_all_and_the_front(tmp_path):
    run = make_run(budget={"macs": BUDGET, "params": 10**6, "text": "two limits"})
    page = write(tmp_path, run)
    networks = page.charts["data"]["networks"]
    places = {network["name"]: network["place"] for network in networks}
    assert {name: places[name] for name in ("near", "nearer", "small", "far")} == {
        "near": "near",
        "nearer": "near",
        "small": "near",
        "far": "far",
    }
    found = {network["digest"]: network for network in networks if "digest" in network}
    assert set(found) == {*run.front, run.best}
    for row in run.rows:
        if row.digest in found:
            network = found[row.digest]
            assert (network["gmacs"], network["mparams"]) == (row.macs / 1e9, row.params / 1e6)
            assert network["top1"] == "not trained yet"
    assert next(n for n in networks if n["name"] == "near")["top1"] == "81.0 %"
    assert page.charts["data"]["limits"] == [{"gmacs": BUDGET / 1e9}, {"mparams": 1.0}]
    assert "Published accuracy cannot be compared with the scores of this search" in page.text


def test_candidates_made_of_published_networks_are_named(tmp_path):
    rows = list(make_run().rows)
    rows[2] = replace(rows[2], origin="preset:convnext_t", reward=2.0)
    rows[3] = replace(rows[3], origin=f"preset:{EVIL}")
    page = write(tmp_path, make_run(rows=rows, best=rows[2].digest))
    assert "after convnext_t" in page.text
    assert "made of the published convnext_t" in page.text
    origins = [point["origin"] for point in page.charts["data"]["candidates"]]
    assert set(origins) == {"evolution", "published network"}
    assert origins[2] == origins[3] == "published network"


def test_comparison_does_not_claim_an_accuracy(tmp_path):
    run = make_run()
    best = next(row for row in run.rows if row.digest == run.best)
    text = write(tmp_path, run).text
    assert f"{best.name} has no trained accuracy yet" in text
    assert "not trained yet this search" in text
    assert "81.0 % a paper" in text


def test_unreadable_genome_does_not_stop_the_report(tmp_path):
    """An old run may hold operators that are no longer registered."""
    rows = list(make_run().rows)
    old = json.loads(json.dumps(rows[0].genome).replace('"kind": "pooled"', '"kind": "retired"'))
    rows[0] = replace(rows[0], genome=old)
    run = make_run(rows=rows, best=rows[0].digest)
    assert "unknown head 'retired'; registered: " in write(tmp_path, run).text


def test_run_without_a_result(tmp_path):
    empty = Run(name="new", settings={}, environment={}, rows=[], front=[], best=None, budget={})
    page = write(tmp_path, replace(empty, finished=False))
    assert "No candidate has a score." in page.text
    assert (
        "This search has not finished. The page shows it after 0 evaluations, as of 2" in page.text
    )
    assert page.charts["specs"] == {}

    bad = [
        replace(row, status="failed", score=None, top1=None, reward=None, error=f"broken {i}")
        for i, row in enumerate(make_run(12).rows)
    ]
    page = write(tmp_path, make_run(rows=bad, front=[], best=None))
    assert "12 failed candidates , the first 10." in page.text.replace(
        "candidates,", "candidates ,"
    )
    assert "broken 9" in page.text
    assert "broken 10" not in page.text


def test_scores_that_are_not_numbers(tmp_path):
    rows = list(make_run().rows)
    rows[0] = replace(rows[0], score=math.nan, reward=math.nan, top1=math.nan)
    rows[1] = replace(rows[1], reward=-math.inf)
    curve = [{"step": i, "loss": 2 - i, "seconds": math.inf} for i in range(3)]
    curve[1]["loss"] = math.nan
    page = write(tmp_path, make_run(rows=rows, supernet={"curve": curve}))
    points = page.charts["data"]["candidates"]
    assert [step["loss"] for step in page.charts["data"]["curve"]] == [2, 0]
    assert [step["seconds"] for step in page.charts["data"]["curve"]] == [None, None]
    assert points[0]["score"] is None
    assert points[1]["reward"] is None
    assert "nan" not in page.text


def test_a_page_of_a_search_under_way_says_how_far_it_is(tmp_path):
    run = make_run(finished=False, evaluations=120, folder="runs/it's", exported={})
    page = write(tmp_path, run)
    assert "The page shows it after 30 of 120 evaluations" in page.text
    assert "How far it is: 25.0 %" in page.text
    assert page.all("progress")[0]["value"] == "0.2500"
    assert """python run_search.py --resume 'runs/it'"'"'s'""" in page.text
    # It would take a screen reader back to its beginning (WCAG 2.2, failure F41).
    assert not any(found.get("http-equiv") == "refresh" for found in page.all("meta"))
    assert [found["type"] for found in page.all("input") if found.get("id") == "again"] == [
        "checkbox"
    ]
    assert not any(found.get("href") == "front.csv" for found in page.all("a"))
    done = write(tmp_path, replace(run, finished=True))
    assert not done.all("progress")
    assert not any(found.get("id") in ("again", "now") for _, found in done.elements)


def test_code_is_linked_to_where_it_was_exported(tmp_path):
    run = make_run()
    where = f"architectures/{EVIL}\n#?%"
    page = write(tmp_path, replace(run, exported={run.best: where}, folder="runs/a b"))
    links = [found["href"] for found in page.all("a") if found["href"].endswith("/model.py")]
    assert [urllib.parse.unquote(link) for link in links] == [f"{where}/model.py"]
    assert not set(links[0]) & set("<>\"'#?\n ")
    best = next(row for row in run.rows if row.digest == run.best)
    text = write(tmp_path, replace(run, folder="runs/a b")).text
    assert f"python 'runs/a b/architectures/{best.name}/model.py'" in text
    assert "python run_search.py finalists 'runs/a b' --networks 8 --random 4" in text
    assert "python run_search.py train 'runs/a b' --recipe deit" in text
    assert "Not exported" in text


def test_plots_are_drawn_to_files(tmp_path):
    run = three_objectives()
    plots = tmp_path / "plots"
    plots.mkdir()
    (plots / "old.svg").touch()
    write_report(tmp_path / "report.html", run, plots=plots)
    names = {path.stem for path in plots.iterdir()}
    assert {"front-macs", "front-latency-cpu", "space", "growth-volume", "importance"} <= names
    assert "old" not in names
    assert {path.name for path in plots.iterdir()} == {
        f"{name}.{suffix}" for name in names for suffix in ("svg", "png")
    }
    for path in plots.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    for path in plots.glob("*.svg"):
        ElementTree.fromstring(path.read_text())
    # A shape for each candidate and no more: what is drawn is what there is.
    svg = (plots / "front-macs.svg").read_text()
    assert svg.count("layer_4_marks") == 1
    page = Page((tmp_path / "report.html").read_text())
    linked = {found["href"] for found in page.all("a") if found["href"].startswith("plots/")}
    assert linked >= {f"plots/{name}.svg" for name in names}
    assert all((tmp_path / link).exists() for link in linked)


def test_names_do_no_harm_in_plots(tmp_path):
    run = replace(evil_run(), by_chance=evil_run().rows, settings={"controller": EVIL})
    write_report(tmp_path / "report.html", run, plots=tmp_path / "plots")
    for path in (tmp_path / "plots").glob("*.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert not {"script", "a", "image", "foreignObject"} & tags


def test_genes_that_matter_are_said(tmp_path):
    """The score is decided by one gene, which the table has to name first."""
    run = make_run(100)

    def width(row):
        return row.genome["stages"][1]["channels"]

    rows = [replace(row, score=width(row) / 100, reward=width(row) / 100) for row in run.rows]
    page = write(tmp_path, replace(run, rows=rows, front=[rows[0].digest, rows[1].digest]))
    table = page.text.split("± is the standard deviation over trees.")[1]
    first = re.match(r" as a bar stage 2 channels ([\d.]+) %", table.split("±")[1])
    assert float(first[1]) > 60
    assert "Functional analysis of variance" not in write(tmp_path, make_run(12)).text


def test_winners_are_laid_side_by_side():
    run = make_run()
    winners = genes.side_by_side(View(run))
    assert run.best in {row.digest for row in winners}
    assert [row.macs for row in winners] == sorted(row.macs for row in winners)
    for gene in genes.differences(winners, None)["genes"]:
        assert len(gene["cells"]) == len(winners)
        assert len({cell["text"] for cell in gene["cells"]}) > 1
        for cell in gene["cells"]:
            assert (cell["shade"] is None) == (cell["text"] == "–")
            assert cell["shade"] is None or 0 <= cell["shade"] <= 1
    assert genes.differences(winners[:1], None)["genes"] == []


def test_finalists_are_shown(tmp_path):
    network = {
        "name": EVIL,
        "digest": "a",
        "proxy": "p",
        "group": "best",
        "macs": 10**6,
        "params": 10**5,
        "resolution": 32,
        "score": 0.5,
        "state": "finished",
        "test": 0.75,
        "seconds": 1.0,
        "problem": None,
        "rungs": [{"steps": 9, "accuracy": 0.7, "probability": 0.6, "goes_on": None}],
    }
    about = {
        "rungs": [9],
        "chosen_by": {"split": "validation", "images": 90},
        "reported": {"split": "test", "images": 80},
        "proxy": {"width": 0.5, "resolution": 16},
    }
    outcome = {"networks": [network], "winner": "a", "steps": 9, "steps_of_all": 9, "about": about}
    text = write(tmp_path, make_run(finalists=outcome)).text
    assert f"The winner is {EVIL}".replace("\u2028", " ") in text
    assert "75.0 %" in text


def test_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("before")

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_report(path, make_run())
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["report.html"]
    write_report(path, make_run())
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert os.listdir(tmp_path) == ["report.html"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (41_500_000, "41.5 M"),
        (512_300_000, "512 M"),
        (3_980_000_000, "3.98 G"),
        (None, "–"),
    ],
)
def test_big(value, text):
    assert figures.big(value) == text


def test_numbers_as_text():
    assert figures.big(3_980_000_000, "MACs") == "3.98 GMACs"
    assert figures.size(123_456) == "123,456"
    assert figures.size(12 * 10**19) == "1.2 × 10²⁰"
    assert figures.size(10**400) == "1.0 × 10⁴⁰⁰"
    assert [figures.duration(s) for s in (2.345, 90, 3700)] == ["2.3 s", "2 min", "1 h 2 min"]
    assert list(figures.flat({"a": {"b": None, "c": [1, True]}, "d": {}, "e": False})) == [
        ("a.b", "none"),
        ("a.c", "1, yes"),
        ("d", "none"),
        ("e", "no"),
    ]
