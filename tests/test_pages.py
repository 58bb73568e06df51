"""Pages that are made from the code and from results are up to date, and the site can be built."""

from __future__ import annotations

import html
import importlib.util
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from pages import numbers
from pages.flowchart import layers_of, parse, svg
from pages.markdown import BLOCK, LINK, fenced, outside_blocks
from pages.parts import drawing, written
from pages.reference import pages
from space.genes import Site, registered

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))


# ---- made from the code


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_a_page_is_up_to_date(path):
    """`make reference` brings it up to date."""
    assert path.read_text(encoding="utf-8") == pages()[path]()


def test_every_part_has_its_section():
    for category, name in (
        ("operator", "operators"),
        ("downsampling", "downsampling"),
        ("stem", "stems"),
        ("head", "heads"),
    ):
        text = (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")
        assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == list(registered(category))


def test_a_drawing_has_the_cost_of_each_module():
    part, site = registered("operator")["inverted_bottleneck"](expansion=2), Site(8, 8, 4, 4)
    lines = drawing(part.blueprint(site))
    cost = part.cost(site)
    assert lines[1].split() == ["Residual", f"{cost.macs:,}", f"{cost.params:,}"]
    linear = next(line for line in lines if "Pointwise(8, 16" in line)
    assert linear.split()[-2:] == [f"{8 * 16 * 16:,}", "128"]


def test_values_are_written_as_yaml_reads_them():
    yaml = pytest.importorskip("yaml")
    for value in (None, True, False, 1e-6, 1.5e-7, 0.01, 3, "layer", (3, 2, 0.5)):
        read = yaml.safe_load(written(value))
        assert read == (list(value) if isinstance(value, tuple) else value)
        assert type(read) is type(value) or isinstance(value, tuple)


# ---- numbers


@pytest.mark.parametrize("claim", numbers.CLAIMS, ids=lambda c: f"{c.document} {c.text} {c.about}")
def test_a_claim_equals_what_is_in_its_file(claim):
    assert claim.form(claim.value()) == claim.text
    text = " ".join((ROOT / claim.document).read_text(encoding="utf-8").split())
    assert re.search(rf"(?<![\d.,]){re.escape(claim.within.format(claim.text))}(?!\d)", text)


def test_the_readme_claims_no_other_number_of_a_result():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = {claim.text for claim in numbers.CLAIMS if claim.document == "README.md"}
    looked_at = 0
    for paragraph in re.split(r"\n\s*\n", text):
        if "benchmarks/results/" not in paragraph:
            continue
        plain = " ".join(re.sub(r"\]\([^)]*\)", "]", paragraph).split())
        for words in numbers.DEFINITIONS:
            plain = plain.replace(words, "")
        found = re.findall(r"(?<![\w-])\d[\d,.]*\d%?|(?<![\w.-])\d%?(?![\w.])", plain)
        assert set(found) <= known, paragraph
        looked_at += len(found)
    assert looked_at >= 10


def test_every_result_is_on_the_page():
    text = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert f"results/{path.name})" in text
    assert "/work/" not in text


# ---- diagrams


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_every_diagram_can_be_drawn(path):
    for match in BLOCK.finditer(path.read_text(encoding="utf-8")):
        if match["language"] == "mermaid":
            drawn = svg(match["body"])
            for label in parse(match["body"]).labels.values():
                assert f">{html.escape(label)}</text>" in drawn


def test_a_node_stands_behind_all_that_lead_to_it():
    chart = parse('flowchart TD\n a["first one"] --> b --> d\n a --> c --> d\n d -- "back" --> a')
    assert chart.labels == {"a": "first one", "b": "b", "d": "d", "c": "c"}
    assert chart.edges[-1] == ("d", "a", "back")
    assert layers_of(chart) == {"a": 0, "b": 1, "c": 1, "d": 2}


@pytest.mark.parametrize("text", ["graph TD\n a --> b", "flowchart TD\n a = b", "flowchart TD\n -"])
def test_a_diagram_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match=r"begins with|cannot read"):
        parse(text)


# ---- Markdown


def test_code_is_left_alone():
    text = "see [a](b)\n\n```sh\n[a](b)\n```\nand [c](d)\n"
    changed = outside_blocks(lambda part: LINK.sub("](x)", part), text)
    assert changed == "see [a](x)\n\n```sh\n[a](b)\n```\nand [c](x)\n"
    assert fenced(text, "sh", str.upper).count("[A](B)") == 1


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_lists_and_tables_stand_apart(path):
    """GitHub takes a list or a table right behind a line of text; the site's Markdown does not."""
    lines = BLOCK.sub("", path.read_text(encoding="utf-8")).splitlines()
    for before, line in pairwise(lines):
        if line.startswith(("- ", "1. ")) and before.strip():
            assert before.startswith(("- ", "  ", "1. ")) or re.match(r"\d+\. ", before), line
        if re.match(r"\|.*\|$", line) and before.strip():
            assert before.startswith(("|", "<!--")), line


# ---- the site


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs .[docs]")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    index = json.loads((tmp_path / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert any(entry["location"].startswith("tutorial.html") for entry in index["docs"])
    for page in tmp_path.rglob("*.html"):  # nothing is loaded from elsewhere
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//', text), page
        assert not re.search(r'<link[^>]*rel="stylesheet"[^>]*href="(?:https?:)?//', text), page
