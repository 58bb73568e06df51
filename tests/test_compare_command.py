"""`run_search.py compare-controllers`, from the command line to what it writes."""

import json
import re
import sys
from html.parser import HTMLParser
from itertools import product

import numpy as np
import pytest

import run_search
from commands import compare

EVIL = "<script>alert('&')</script>"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "some.csv"
    lines = [f'a,b,"{EVIL}",acc2,size']
    for a, b in product(range(6), repeat=2):
        lines.append(f"{a},{b},{10 * a + b},{10 * a + b + 3 * (-1) ** b},{1 + a + b}")
    path.write_text("\n".join(lines) + "\n")
    return path


def words(path, *more, controllers="random,evolution", seeds=2):
    return [
        *("compare-controllers", "--table", path, "--genes", "a,b", "--objective", EVIL),
        *("--controllers", controllers, "--evaluations", 12, "--seeds", seeds, *more),
    ]


class Page(HTMLParser):
    """Checks that what is opened is closed; keeps names and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.names, self.text = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def one_line(ended, *expected):
    assert ended.code == run_search.BAD_INPUT, ended.err
    assert len(ended.err.splitlines()) == 1, ended.err
    assert "Traceback" not in ended.err
    for text in expected:
        assert text in ended.err


def test_table_file_and_page(command, path, tmp_path):
    out, page = tmp_path / "new" / "out.json", tmp_path / "new" / "page.html"
    ended = command(
        *words(path, "--second", "size:min", "--limit", "size<=median", "--json", out),
        *("--report", page, "--quiet"),
    )
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(out.read_text())
    sizes = [1 + a + b for a, b in product(range(6), repeat=2)]
    assert found["settings"]["ground"]["limits"][0]["value"] == np.median(sizes) == 6
    assert found["settings"]["ground"]["feasible"] == sum(size <= 6 for size in sizes)
    assert found["truth"]["optimum"] == 50
    for name in ("random", "evolution"):
        mean = np.mean([game["hypervolume"][-1] for game in found["games"][name]])
        assert f"{mean:.5g}" in ended.out
    text = page.read_text()
    assert "<script" not in text
    parsed = Page(text)
    assert parsed.open == []
    assert {"svg", "polyline", "polygon", "table"} <= parsed.names
    assert any(EVIL in part for part in parsed.text)
    assert not re.search(r"(src|href)=|@import|url\((?!#)", text)


def test_curves_are_where_the_means_are():
    """A mean half way between the lowest and the highest is half way up."""
    spread = {"mean": 5.0, "interval": (0.0, 10.0)}
    drawn = compare.draw_curves({"x": {"10": spread, "20": spread}}, None, "label")
    points = re.search(r'<polyline points="([^"]*)"', drawn)[1].split()
    (left, first), (right, last) = (map(float, point.split(",")) for point in points)
    middle = compare.TOP + (compare.HEIGHT - compare.TOP - compare.BOTTOM) / 2
    assert first == last == pytest.approx(middle, abs=0.1)
    assert right == compare.WIDTH - compare.RIGHT
    assert left == pytest.approx((compare.LEFT + right) / 2, abs=0.1)


def test_given_again_it_goes_on(command, path, tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    assert command(*words(path, "--json", out)).code == 0
    first = json.loads(out.read_text())["games"]
    played = []
    real = compare.compare

    def watched(*given):
        for name, seed in real(*given):
            played.append((name, seed))
            yield name, seed

    monkeypatch.setattr(compare, "compare", watched)
    monkeypatch.setattr(sys, "argv", ["run_search.py", "another"])
    assert command(*words(path, "--json", out, seeds=3, controllers="random")).code == 0
    assert played == [("random", 2)]
    after = json.loads(out.read_text())
    assert after["games"]["random"][:2] == first["random"]
    assert after["games"]["evolution"] == first["evolution"]
    assert len(after["commands"]) == 2
    assert after["commands"][1] == "python run_search.py another"
    played.clear()
    assert command(*words(path, "--json", out, "--again", controllers="random")).code == 0
    assert played == [("random", 0), ("random", 1)]


def test_an_interrupt_keeps_what_is_done_and_says_how_to_go_on(
    command, path, tmp_path, monkeypatch
):
    out = tmp_path / "out.json"
    real = compare.compare

    def stopped(*given):
        for i, now in enumerate(real(*given)):
            if i == 3:
                raise KeyboardInterrupt
            yield now

    monkeypatch.setattr(compare, "compare", stopped)
    ended = command(*words(path, "--json", out, "--quiet"))
    assert ended.code == run_search.INTERRUPTED
    assert "finished searches are kept; go on with: python run_search.py" in ended.err
    games = json.loads(out.read_text())["games"]
    assert {name: len(played) for name, played in games.items()} == {"random": 2, "evolution": 1}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--table", "none.csv"], "there is no file 'none.csv'"),
        (["--genes", "a,c"], "no column c; it has a, b"),
        (["--objective", "top1"], "no column top1"),
        (["--limit", "size<=0"], "no row of the table is within size<=0"),
        (["--limit", "size"], "must read 'column<=value'"),
        (["--controllers", "annealing"], "unknown controller 'annealing'"),
        (["--controllers", "evolution(size=3)"], "no setting 'size'"),
        (["--controllers", "evolution(population=0)"], "population is 0"),
        (["--controllers", "evolution(population=x)"], "evolution(population=x)"),
        (["--controllers", "optuna:none"], "optuna"),
        (["--evaluations", "0"], "evaluations is 0"),
        (["--evaluations", "x"], "invalid int value"),
        (["--seeds", "0"], "seeds is 0"),
        (["--marks", "5,x"], "must be whole numbers"),
        (["--marks", "500"], "mark 500"),
        (["--confirm", "2"], "at least two observed columns"),
        (["--second", "size:min", "--known", "acc2"], "--known acc2 must name"),
        (["--known"], "there is none"),
        (["--merge", "--same-as", "a"], "not allowed with"),
        (["--report", "/"], "is a folder"),
    ],
)
def test_bad_input_is_one_line(command, path, more, said):
    one_line(command(*words(path), *more), said)


def test_a_result_file_of_something_else(command, path, tmp_path):
    out = tmp_path / "out.json"
    out.write_text("{}")
    one_line(command(*words(path, "--json", out)), "is no result of a comparison")
    assert out.read_text() == "{}"
    out.unlink()
    assert command(*words(path, "--json", out)).code == 0
    ended = command(*words(path, "--json", out, "--batch", 3))
    one_line(ended, "was made with batch 1, not 3; name another file")
