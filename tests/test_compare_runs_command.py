"""`run_search.py compare`: runs side by side, and refused where scores do not mean the same."""

import json
import shutil
import sqlite3
from html.parser import HTMLParser

import pytest
import yaml

from results.compared import agreement
from results.store import Store


@pytest.fixture(scope="module")
def other(shared_runs):
    ended = shared_runs(name="other", seed=1, evaluations=16, no_compare=True)
    assert ended.code == 0, ended.err
    return ended


@pytest.fixture(scope="module")
def both(command, tiny_run, other, tmp_path_factory):
    page = tmp_path_factory.mktemp("compared") / "page.html"
    return command("compare", tiny_run.folder, other.folder, "--out", page, "--json"), page


def changed(folder, place, *, config=None, environment=None):
    """A copy of a run whose files say something else."""
    shutil.copytree(folder, place)
    settings = yaml.safe_load((place / "config.yaml").read_text()) | (config or {})
    (place / "config.yaml").write_text(yaml.safe_dump(settings))
    about = json.loads((place / "environment.json").read_text()) | (environment or {})
    about = {name: value for name, value in about.items() if value is not None}
    (place / "environment.json").write_text(json.dumps(about))
    return place


def rows_of(folder):
    with Store(folder / "candidates.sqlite", readonly=True) as store:
        return store.rows()


def test_it_says_what_the_runs_hold(both, tiny_run, other):
    ended, page = both
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    mine, theirs = rows_of(tiny_run.folder), rows_of(other.folder)
    assert [run["evaluated"] for run in found["runs"]] == [12, 16]
    assert found["equal_evaluations"] == 12
    shared = {row.digest for row in mine} & {row.digest for row in theirs}
    assert found["shared"]["count"] == len(shared)
    fronts = [{row["hash"] for row in run.rows} for run in (tiny_run, other)]
    on_both = {net["digest"] for net in found["shared"]["on_both_fronts"]}
    assert on_both == fronts[0] & fronts[1]
    differ = {line["name"]: line["values"] for line in found["settings"]}
    assert differ["seed"] == ["0", "1"]
    assert differ["evaluations"] == ["12", "16"]
    assert "budget" not in differ
    assert found["page"] == str(page)
    volumes = [run["at_equal"]["volume"] for run in found["runs"]]
    assert max(volumes) == 1
    assert all(run["at_equal"]["n"] == 12 for run in found["runs"])


def staircase(rows, limit, lowest):
    """The area under the front, by a sum over all steps of cost."""
    points = sorted((row.macs, row.score) for row in rows if row.macs <= limit)
    costs = [cost for cost, _ in points] + [limit]
    area, best = 0.0, lowest
    for (_, score), start, end in zip(points, costs, costs[1:], strict=False):
        best = max(best, score)
        area += (end - start) * (best - lowest)
    return area


def test_hypervolumes_are_those_at_equal_evaluations(both, tiny_run, other):
    found = json.loads(both[0].out)
    rows = [rows_of(run.folder)[:12] for run in (tiny_run, other)]
    lowest = min(row.score for some in rows for row in some)
    areas = [staircase(some, 1_000_000, lowest) for some in rows]
    for run, area in zip(found["runs"], areas, strict=True):
        assert run["at_equal"]["volume"] == pytest.approx(area / max(areas), rel=1e-6)


def test_a_person_sees_a_table_and_is_warned(command, tiny_run, other, tmp_path):
    ended = command("compare", tiny_run.folder, other.folder, "--out", tmp_path / "p.html")
    assert "hypervolume after 12" in ended.out
    assert "these differ in seed, training images:" in ended.out
    assert "Settings that differ" in ended.out


def test_a_copy_is_the_same_run(command, tiny_run, tmp_path):
    copy = changed(tiny_run.folder, tmp_path / "copy")
    ended = command("compare", tiny_run.folder, copy, "--out", tmp_path / "p.html")
    assert ended.code == 0, ended.err
    assert "The supernets were trained alike" in ended.out
    assert "12 networks are in both tiny and copy; their scores differ by 0.0000" in ended.out
    assert "100% of their pairs stand in the same order" in ended.out
    assert "Runs have found the same best network." in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": {"classes": 7}}, "classes differs (tiny: 1000, copy: 7)"),
        ({"config": {"proxy_width": 0.25}}, "proxy_width differs"),
        ({"config": {"proxy_resolution": 8}}, "proxy_resolution differs"),
        (
            {"environment": {"validation": "0123456789abcdef"}},
            "their validation images differ (tiny: 'digits'",
        ),
        (
            {"environment": {"validation": None, "data": "0123456789abcdef"}},
            "their images differ (tiny: 'digits'",
        ),
    ],
)
def test_runs_whose_scores_mean_something_else_are_refused(
    command, tiny_run, tmp_path, changes, reason
):
    copy = changed(tiny_run.folder, tmp_path / "copy", **changes)
    ended = command("compare", tiny_run.folder, copy)
    assert ended.code == 2
    assert "these runs cannot be compared: " in ended.err
    assert reason in ended.err
    assert not list(tiny_run.folder.parent.glob("compare-*"))


def test_what_is_no_run_or_named_twice_is_refused(command, tiny_run, tmp_path):
    for words, said in (
        ([tiny_run.folder], "one run alone"),
        ([tiny_run.folder, tiny_run.folder / "../tiny"], "is named twice"),
        ([tiny_run.folder, tmp_path], "is not a run folder: it has no config.yaml"),
        (
            [
                tiny_run.folder,
                changed(tiny_run.folder, tmp_path / "c"),
                "--objectives",
                "score,latency",
            ],
            "objectives name 'latency', which the candidates of tiny do not have",
        ),
    ):
        ended = command("compare", *words)
        assert ended.code == 2
        assert said in ended.err


def test_a_run_of_an_older_version_opens(command, tiny_run, tmp_path):
    """Formats were not numbered, candidates had no costs, and settings were fewer."""
    old = changed(tiny_run.folder, tmp_path / "old", environment={"format": None, "chimera": None})
    settings = yaml.safe_load((old / "config.yaml").read_text())
    for name in ("mutation", "objectives", "in_flight"):
        del settings[name]
    (old / "config.yaml").write_text(yaml.safe_dump(settings))
    with sqlite3.connect(old / "candidates.sqlite") as database:
        database.execute("ALTER TABLE candidates DROP COLUMN costs")
        database.execute("PRAGMA user_version = 1")
    ended = command("compare", tiny_run.folder, old, "--out", tmp_path / "p.html")
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    "words", [["compare", "RUN", "TINY"], ["--resume", "RUN"], ["trust", "RUN"]]
)
def test_a_run_of_a_newer_version_says_which(command, tiny_run, tmp_path, words):
    about = {"format": 9, "chimera": "7.1", "commit": "abc123"}
    new = changed(tiny_run.folder, tmp_path / "new", environment=about)
    places = {"RUN": new, "TINY": tiny_run.folder}
    ended = command(*(places.get(word, word) for word in words))
    assert ended.code == 2
    assert "has format 9 and was made by version 7.1 of Chimera (commit abc123)" in ended.err
    assert "reads formats 1 and 2. Use the version that made it" in ended.err
    assert ended.err.count("\n") == 1


def test_a_newer_database_says_so(command, tiny_run, tmp_path):
    new = changed(tiny_run.folder, tmp_path / "new")
    with sqlite3.connect(new / "candidates.sqlite") as database:
        database.execute("PRAGMA user_version = 9")
    ended = command("compare", tiny_run.folder, new)
    assert ended.code == 2
    assert "candidates.sqlite has format 9" in ended.err


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_names_that_would_do_harm_are_text(command, tiny_run, tmp_path):
    name = "<img src=x onerror='alert(1)'>\"&\u2028\n{{ 7 * 7 }}"
    copy = changed(tiny_run.folder, tmp_path / name, config={"controller": name})
    ended = command("compare", tiny_run.folder, copy, "--out", tmp_path / "page.html")
    assert ended.code == 0, ended.err
    tags = Tags((tmp_path / "page.html").read_text()).found
    assert not {"img", "link", "iframe"} & {tag for tag, _ in tags}
    assert sum(tag == "script" for tag, _ in tags) == 3
    assert not any(attribute.startswith("on") for _, found in tags for attribute in found)
    assert "49" not in (tmp_path / "page.html").read_text().split("</h1>")[0].split("<h1>")[1]


def test_the_page_stands_beside_the_first_run_unless_told(command, tiny_run, other):
    ended = command("compare", other.folder, tiny_run.folder, "--quiet")
    assert ended.code == 0, ended.err
    page = other.folder.parent / "compare-other-tiny.html"
    assert page.is_file()
    page.unlink()


def test_agreement_counts_pairs():
    class Scored:
        def __init__(self, score):
            self.score = score

    one = {name: Scored(value) for name, value in zip("abcx", (1.0, 2.0, 3.0, 9.0), strict=True)}
    other = {name: Scored(value) for name, value in zip("abcy", (1.5, 3.5, 2.5, 9.0), strict=True)}
    found = agreement(one, other)
    assert found == {"count": 3, "median": 0.5, "alike": 2 / 3}
    assert agreement(one, {}) == {"count": 0, "median": None, "alike": None}
