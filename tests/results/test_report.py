"""The report is one safe file that says what the run holds."""

import base64
import hashlib
import json
import math
import os
import random
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import vl_convert

import results.report as report
from results.history import Row, Run
from results.report import write_report
from space.cost import Cost
from space.genes import lookup
from space.genome import Genome, Stage

BUDGET = 10_000_000
EVIL = "</script><script>alert(1)</script>\u2028'\"&"
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


def make_genome(rng):
    bottleneck = lookup("operator", "inverted_bottleneck")
    attention = lookup("operator", "attention")
    strided = lookup("downsampling", "strided_convolution")
    stages = []
    for channels in (16, 32):
        block = bottleneck(expansion=rng.choice([2, 4]), context=rng.choice([3, 5]))
        blocks = (rng.choice([block, attention()]),) * rng.randint(1, 3)
        down = {"downsample": strided(), "stride": 2} if stages else {}
        stages.append(Stage(channels=channels + 4 * rng.randrange(3), blocks=blocks, **down))
    return Genome(
        resolution=32,
        classes=10,
        stem=lookup("stem", "convolution")(channels=8),
        stages=tuple(stages),
        head=lookup("head", "pooled")(),
    )


def make_row(order, genome, score, **changes):
    cost = genome.cost()
    row = Row(
        order=order,
        name=f"{cost.macs / 1e6:.1f}M-{genome.digest[:6]}",
        digest=genome.digest,
        genome=genome.to_json(),
        status="ok",
        score=score,
        top1=score,
        macs=cost.macs,
        params=cost.params,
        resolution=genome.resolution,
        reward=score,
        seconds=0.5,
        origin="evolution",
        error=None,
    )
    return replace(row, **changes)


def nondominated(rows):
    """By definition: no row is at most as costly and at least as good, and differs in one."""
    return [
        a
        for a in rows
        if not any(
            b.macs <= a.macs and b.score >= a.score and (b.macs, b.score) != (a.macs, a.score)
            for b in rows
        )
    ]


def make_run(count=30, **changes):
    rng = random.Random(1)
    genomes = list({g.digest: g for g in (make_genome(rng) for _ in range(4 * count))}.values())
    rows = [make_row(i, genome, rng.random()) for i, genome in enumerate(genomes[:count])]
    assert len(rows) == count
    presets = [
        {"name": "near", "macs": 9_000_000, "params": 1_000_000, "top1": 81.0},
        {"name": "nearer", "macs": 5_000_000, "params": 1_000_000, "top1": 0.705},
        {"name": "small", "macs": 2_500_000, "params": 900_000, "top1": None},
        {"name": "far", "macs": 50_000_000_000, "params": 90_000_000, "top1": 85.6},
    ]
    run = Run(
        name="a search",
        settings={"search": {"seed": 7, "kind": "evolution"}, "data": {"path": "/data"}},
        environment={"torch": "2.13", "device": None},
        rows=rows,
        front=[row.digest for row in nondominated(rows)],
        best=max(rows, key=lambda row: row.score * (row.macs <= BUDGET)).digest,
        budget={"macs": BUDGET, "params": None, "text": "10MFLOPs"},
        presets=[{**preset, "resolution": 224, "source": "a paper"} for preset in presets],
        space_summary={"name": "tiny", "size": 12 * 10**19, "smallest": 10**6}
        | {"median": 3 * 10**6, "largest": 9 * 10**6},
        supernet={
            "curve": [{"step": i, "loss": 2 / (i + 1), "seconds": i} for i in range(20)],
            "accuracies": {"largest": {"validation": 0.512, "test": 0.498}},
            "epochs": 3,
        },
        command="python run_search.py --budget 10MFLOPs",
    )
    return replace(run, **changes)


def three_objectives():
    """Of score, MACs and a latency, of which the latency is the limit that binds."""
    run = make_run()
    rows = [
        replace(row, costs={"latency@cpu": 3.0 + (7 * i) % 11}) for i, row in enumerate(run.rows)
    ]
    points = {row.digest: (-row.score, row.macs, row.costs["latency@cpu"]) for row in rows}
    front = [
        digest
        for digest, mine in points.items()
        if not any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True))
            for other in points.values()
        )
    ]
    inside = [row for row in rows if row.costs["latency@cpu"] == 8.0]
    return replace(
        run,
        rows=rows,
        front=front,
        best=max(inside, key=lambda row: row.score).digest,
        budget={"macs": BUDGET, "latency@cpu": 8.0, "text": "10MMACs,8ms@cpu"},
        target="latency@cpu",
        objectives=("score", "macs", "latency@cpu"),
    )


def write(folder, run):
    path = folder / "report.html"
    write_report(path, run)
    return Page(path.read_text(encoding="utf-8"))


def evil_run():
    rows = list(make_run().rows)
    rows[0] = replace(rows[0], name=EVIL, origin=EVIL, digest=EVIL)
    rows[1] = replace(rows[1], status="failed", score=None, reward=None, top1=None, error=EVIL)
    run = make_run(rows=rows, name=EVIL, settings={"data": {"path": EVIL}, EVIL: 1}, command=EVIL)
    return replace(
        run,
        best=EVIL,
        front=[*run.front, EVIL],
        environment={EVIL: EVIL},
        budget={"macs": BUDGET, "text": EVIL},
        presets=[{**run.presets[0], "name": EVIL, "source": EVIL}],
        space_summary={**run.space_summary, "name": EVIL},
        supernet={"note": EVIL, "accuracies": {EVIL: {}}},
    )


@pytest.mark.parametrize("make", [make_run, evil_run])
def test_page_loads_nothing(tmp_path, make):
    page = write(tmp_path, make())
    assert not {"link", "img", "iframe", "object", "embed", "base"} & {t for t, _ in page.elements}
    for tag, attributes in page.elements:
        assert not {"src", "srcset", "action", "data", "poster"} & set(attributes), tag
        assert not any(name.startswith("on") for name in attributes), tag
        assert "url(" not in (attributes.get("style") or "")
        href = attributes.get("href", "#")
        assert href.startswith("#") or href in ("candidates.sqlite", "front.csv")


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


def test_charts_compile_and_have_their_data(tmp_path):
    run = make_run()
    charts = write(tmp_path, run).charts
    assert list(charts["specs"]) == ["front", "progress", "published", "supernet"]
    for spec in charts["specs"].values():
        used = set(re.findall(r'"data": \{"name": "(\w+)"\}', json.dumps(spec)))
        assert used <= set(charts["data"])
        vl_convert.vegalite_to_vega({**spec, "datasets": charts["data"]})
    data = charts["data"]
    expected = sorted((row.macs / 1e6, row.score) for row in nondominated(run.rows))
    assert [(point["x"], point["score"]) for point in data["front"]] == expected
    assert data["budget"] == [{"x": 10.0, "text": "budget"}]
    highest = [max(row.reward for row in run.rows[: i + 1]) for i in range(len(run.rows))]
    assert [point["so_far"] for point in data["candidates"]] == highest
    places = {point["digest"]: point["place"] for point in data["candidates"]}
    assert places.pop(run.best) == "best"
    assert {d for d, place in places.items() if place == "front"} == set(run.front) - {run.best}


def test_every_cost_that_is_an_objective_has_its_chart_and_column(tmp_path):
    run = three_objectives()
    page = write(tmp_path, run)
    charts = page.charts
    assert list(charts["specs"])[:2] == ["front", "front2"]
    for spec in charts["specs"].values():
        vl_convert.vegalite_to_vega({**spec, "datasets": charts["data"]})
    assert charts["data"]["budget"] == [{"x": 10.0, "text": "budget"}]
    assert charts["data"]["budget2"] == [{"x2": 8.0, "text": "budget"}]
    by_digest = {row.digest: row for row in run.rows}
    for point in charts["data"]["candidates"]:
        row = by_digest[point["digest"]]
        assert (point["x"], point["x2"]) == (row.macs / 1e6, row.costs["latency@cpu"])
        assert point["others"] == f"{point['x2']:.3g} ms on cpu"
    slow = {row.digest: (row.costs["latency@cpu"], row.score) for row in run.rows}
    expected = sorted(
        (a, b)
        for a, b in slow.values()
        if not any(c <= a and d >= b and (c, d) != (a, b) for c, d in slow.values())
    )
    assert [(point["x2"], point["score"]) for point in charts["data"]["front2"]] == expected
    assert "latency on cpu (ms)" in json.dumps(charts["specs"]["front2"])
    assert "The budget: at most 10M MACs and 8 ms on cpu." in page.text
    assert "Latency on cpu 8 ms 100.0 % of the budget" in page.text
    assert "cheaper in every respect and better" in page.text
    assert page.text.count("latency on cpu stages") == 2  # the heads of both tables
    assert "on that of all 3 objectives" in page.text
    assert "within 20 % of the best network's MACs" in page.text


def test_chart_styles_are_those_of_the_theme(tmp_path):
    """A style that the page's script does not know would fall back to Vega's own colours."""
    page = write(tmp_path, make_run())
    used = set(re.findall(r'"style": "([\w-]+)"', json.dumps(page.charts["specs"])))
    block = page.scripts[2].split("style: {")[1].split("\n    },")[0]
    assert used == set(re.findall(r'^ +"?([\w-]+)"?: \{', block, re.MULTILINE))


def test_large_runs_are_thinned(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "POINTS", 20)
    run = make_run(60)
    page = write(tmp_path, run)
    points = page.charts["data"]["candidates"]
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
    assert "It is not the accuracy of the trained network. No trust card has been made" in text
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
    stages = report._stage_costs(genome)
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
    (line,) = report._operator_shares(rows, ranked, rows[-1:])  # downsampling: no choice, no line
    shares = {
        name: {part["kind"]: part["share"] for part in bar} for name, bar in line["bars"].items()
    }
    assert shares["all"] == {"inverted_bottleneck": 11 / 13, "attention": 2 / 13}
    # The tenth of 11, rounded up: the network with attention and one without.
    assert shares["best tenth"] == {"inverted_bottleneck": 0.5, "attention": 0.5}
    assert shares["front"] == {"inverted_bottleneck": 1 / 3, "attention": 2 / 3}
    assert report._operator_shares(rows[:10], rows[:10], rows[:1]) == []


def test_comparison_shows_the_nearest_published_networks():
    run = make_run()
    best = next(row for row in run.rows if row.digest == run.best)
    comparison = report._comparison(run, best)
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
    entries = report._comparison(run, None)["entries"]
    assert [entry["name"] for entry in entries] == ["0.81", "0.9", "1", "1.19"]
    run = replace(run, budget={"text": ""})
    assert len(report._comparison(run, None)["entries"]) == len(shares)  # no budget: all


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
    assert "This search has not finished. The report shows it after 0 evaluations." in page.text
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
    assert report._big(value) == text


def test_numbers_as_text():
    assert report._big(3_980_000_000, "MACs") == "3.98 GMACs"
    assert report._size(123_456) == "123,456"
    assert report._size(12 * 10**19) == "1.2 × 10²⁰"
    assert report._size(10**400) == "1.0 × 10⁴⁰⁰"
    assert [report._duration(s) for s in (2.345, 90, 3700)] == ["2.3 s", "2 min", "1 h 2 min"]
    assert list(report._flat({"a": {"b": None, "c": [1, True]}, "d": {}, "e": False})) == [
        ("a.b", "none"),
        ("a.c", "1, yes"),
        ("d", "none"),
        ("e", "no"),
    ]
