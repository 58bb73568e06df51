"""The benchmarks on tables: baselines, rows and the page that is made of them."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from benchmarks import search_baselines, search_page, search_rows, search_tables
from benchmarks.search_baselines import BASELINES, LIBRARIES
from search.compare import Plan, make_named, play
from search.proposals import Proposals
from search.tables import Reading, read_table

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """256 rows with a peak at (3, 3, 3, 3)."""
    path = tmp_path_factory.mktemp("table") / "hill.csv"
    lines = ["a,b,c,d,acc,acc2,size"]
    for row in product(range(4), repeat=4):
        value = 100 - sum((3 - x) ** 2 for x in row)
        lines.append(",".join(map(str, (*row, value, value, sum(row)))))
    path.write_text("\n".join(lines) + "\n")
    return path


def options(path, out, controllers, *more):
    return [
        *("--table", str(path), "--genes", "a,b,c,d", "--objective", "acc"),
        *("--controller", controllers, "--evaluations", "20", "--marks", "10", "--quiet"),
        *("--seeds", "2", "--json", str(out), *more),
    ]


NAMES = ["plain:random", "plain:evolution", "plain:local", "pymoo:nsga2", "optuna:random"]
NAMES += ["nevergrad:DiscreteOnePlusOne"]


def skip_without(name):
    if name.partition(":")[0] in LIBRARIES:
        pytest.importorskip(LIBRARIES[name.partition(":")[0]])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limits", [(), ("size<=6",)], ids=["free", "limited"])
def test_baselines_play_by_the_rules(path, name, limits):
    skip_without(name)
    table = read_table(Reading(path, tuple("abcd"), "acc", limits=limits))
    proposals = Proposals(table.problem)

    def make(proposals, seed):
        return make_named(name, proposals, seed, BASELINES)

    game = play(table, proposals, make, 1, Plan(40))
    again = play(table, proposals, make, 1, Plan(40))
    del game["seconds_a_suggestion"], again["seconds_a_suggestion"]
    assert game == again
    assert game["evaluated"] == 40


@pytest.mark.parametrize("name", ["plain:evolution", "plain:local", "pymoo:nsga2"])
def test_baselines_search(path, name):
    """Sooner at the peak than the 128.5 evaluations that a random order needs."""
    skip_without(name)
    table = read_table(Reading(path, tuple("abcd"), "acc"))
    proposals = Proposals(table.problem)
    games = [
        play(table, proposals, lambda p, s: make_named(name, p, s, BASELINES), seed, Plan(110))
        for seed in range(3)
    ]
    assert np.mean([game["until"] or 257 for game in games]) < 100


def test_local_search_by_hand(path):
    """From a row it moves to the first neighbour that is better; a peak has none."""
    table = read_table(Reading(path, tuple("abcd"), "acc"))
    controller = make_named("plain:local", Proposals(table.problem), 0, BASELINES)
    here = None
    for _ in range(30):
        (row,) = controller.ask(1)
        if here is not None and here != (3, 3, 3, 3):
            assert sum(x != y for x, y in zip(row, here, strict=True)) == 1
        if here is None or table.judge(row) > table.judge(here):
            here = row
        from_trial = table.observe(row)
        controller.tell([search_baselines.Trial(row, from_trial)])
        if here == (3, 3, 3, 3):
            break
    assert here == (3, 3, 3, 3)


def test_a_missing_library_is_left_out_with_a_word(monkeypatch, capsys):
    monkeypatch.setitem(LIBRARIES, "pymoo", "no_such_library")
    assert search_baselines.installed("plain:local,pymoo:nsga2") == "plain:local"
    assert capsys.readouterr().err == "pymoo:nsga2 is left out: no_such_library is not installed\n"


def test_a_result_file_has_all_that_a_claim_needs(path, tmp_path, capsys):
    out = tmp_path / "out.json"
    words = options(path, out, "random,evolution", "--limit", "size<=median", "--observed", "acc2")
    assert search_tables.main(words) == 0
    found = json.loads(out.read_text())
    assert found["benchmark"] == "search_tables"
    assert found["versions"]["numpy"] == np.__version__
    assert "CPU" in found["device"]
    assert found["settings"]["ground"]["limits"][0]["value"] == 6
    assert found["settings"]["points"] == [10, 20]
    assert {name: [game["seed"] for game in games] for name, games in found["games"].items()} == {
        "random": [0, 1],
        "evolution": [0, 1],
    }
    seen = [game["seen"][-1] for game in found["games"]["random"]]
    assert found["summary"]["random"]["seen"]["20"]["mean"] == np.mean(seen)
    assert "evolution" in capsys.readouterr().out
    # Given again with more it goes on; with other settings it does not.
    before = found["games"]
    words[words.index("--seeds") + 1] = "3"
    assert search_tables.main(words) == 0
    after = json.loads(out.read_text())["games"]
    assert {name: games[:2] for name, games in after.items()} == before
    words[words.index("--evaluations") + 1] = "21"
    assert search_tables.main(words) == 2
    assert "was made with evaluations 20, not 21" in capsys.readouterr().err


def test_it_can_be_called_by_its_path(path, tmp_path):
    out = tmp_path / "out.json"
    ended = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "search_tables.py", *options(path, out, "random")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(json.loads(out.read_text())["games"]["random"]) == 2


def test_rows_and_their_page(tmp_path, monkeypatch, path):
    """One row of a table of one's own, played and written down."""
    row = f"--table {path} --genes a,b,c,d --objective acc --second size:min"
    monkeypatch.setattr(search_rows, "ROWS", {"macro-front": row})
    monkeypatch.setattr(search_page, "ROWS", search_rows.ROWS)
    monkeypatch.setattr(search_rows, "SEARCHES", "--evaluations 12 --marks 6")
    monkeypatch.setattr(search_rows, "ANY", {"plain:random": 2})
    words = ["search_rows", "--tables", "none", "--seeds", "3", "--controllers", "random"]
    monkeypatch.setattr(sys, "argv", [*words, "--to", str(tmp_path)])
    assert search_rows.main() == 0
    made = search_page.tables(tmp_path)
    found = json.loads((tmp_path / "search_tables-macro-front-networks.json").read_text())
    assert len(found["games"]["random"]) == 3
    mean = np.mean([game["hypervolume"][-1] for game in found["games"]["plain:random"]])
    assert f"{mean:.4f} ±" in made
    assert made.count("| `plain:random` | 2 |") == 2
    page = search_page.replaced(search_page.NEW, made)
    assert search_page.replaced(page, made) == page
    with pytest.raises(ValueError, match="lacks a line"):
        search_page.replaced("nothing", made)


def test_the_page_is_made_from_the_committed_results():
    if not search_page.PAGE.exists():
        pytest.skip("there is no page yet")
    text = search_page.PAGE.read_text(encoding="utf-8")
    assert search_page.replaced(text, search_page.tables(search_page.RESULTS)) == text
