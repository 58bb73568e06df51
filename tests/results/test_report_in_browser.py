"""The report as a reader sees it: in a headless Chromium, without a network."""

import json
import math
import random
import re
from dataclasses import replace

import pytest
from browser import binary, chromium
from made_runs import evil_run, make_genome, make_row, make_run, three_objectives

from results.report import write_report
from results.run_folder import front_of

MANY = 5000
OPENED_MS = 2000
WIDTHS = (360, 768, 1280)


@pytest.fixture(scope="module")
def browser():
    binary()
    with chromium() as page:
        page.size(1280, 900)
        yield page


@pytest.fixture(autouse=True)
def _nothing_goes_wrong(browser):
    browser.problems.clear()
    browser.requests.clear()
    yield
    assert browser.problems == []
    assert all(re.match("(file|blob|data):", address) for address in browser.requests)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Written once: the page of each run by name, with the run."""
    folder = tmp_path_factory.mktemp("pages")
    made = {}

    def page(name, make):
        if name not in made:
            run = make()
            write_report(folder / f"{name}.html", run)
            made[name] = folder / f"{name}.html", run
        return made[name]

    return page


def many():
    """A run of 5,000 candidates with as many of a random search."""
    rng = random.Random(0)
    genomes = [make_genome(rng) for _ in range(200)]
    known = [make_row(0, genome, 0.0) for genome in genomes]

    def rows(seed):
        draw = random.Random(seed)
        found = []
        for i in range(MANY):
            row = known[i % len(known)]
            macs = int(row.macs * draw.lognormvariate(0, 0.6))
            score = 0.5 * macs / (macs + 3e6) + 0.05 * draw.random()
            params = int(row.params * draw.uniform(0.5, 2))
            digest = f"{draw.getrandbits(128):032x}"
            found.append(
                replace(row, order=i, macs=macs, params=params, digest=digest, score=score)
            )
        return [replace(row, reward=row.score, name=f"n{row.order}") for row in found]

    mine = rows(1)
    front = front_of(mine)
    run = make_run(rows=mine, by_chance=rows(2), front=[row.digest for row in front])
    return replace(run, best=front[-1].digest, evaluations=MANY)


def test_what_is_plotted_is_what_the_run_holds(browser, pages):
    path, run = pages("usual", make_run)
    browser.open(path)
    shown = browser.look("report.drawAll().then(() => report.views.front.data('candidates'))")
    assert [(p["macs"], p["score"]) for p in shown] == [(r.macs, r.score) for r in run.rows]
    line = browser.look("report.views.front.data('line')")
    assert [point["m1"] for point in line] == [row.macs for row in front_of(run.rows)]
    marks = browser.look("document.querySelectorAll('#chart-front svg path').length")
    assert marks > len(run.rows)
    names = set(browser.look("Object.keys(report.views)"))
    drawn = browser.look("[...document.querySelectorAll('.chart')].map((c) => c.id.slice(6))")
    assert names == set(drawn)


@pytest.mark.parametrize("x", [0, 1, 2])
@pytest.mark.parametrize("y", [0, 1, 2, 3])
def test_any_two_measures_can_be_chosen(browser, pages, x, y):
    path, run = pages("three", three_objectives)
    axes = ["score", "macs", "latency@cpu", "params"]
    if x + 1 == y:
        return
    browser.open(path)
    browser.look("sessionStorage.clear()")
    browser.open(path)
    browser.look(
        f"""(async () => {{
          for (const [id, at] of [["axis-x", {x}], ["axis-y", {y}]]) {{
            const select = document.getElementById(id);
            select.selectedIndex = at;
            select.dispatchEvent(new Event("change"));
          }}
          await report.drawAll();
        }})()"""
    )
    line = browser.look("report.views.front.data('line')")

    def value(row, name):
        return row.score if name == "score" else row.cost(name)

    def wanted(row, name):
        return -row.score if name == "score" else row.cost(name)

    across, upwards = axes[x + 1], axes[y]
    points = {(wanted(row, across), wanted(row, upwards)) for row in run.rows}
    best = sorted(
        (a, abs(b))
        for a, b in points
        if not any(c <= a and d <= b and (c, d) != (a, b) for c, d in points)
    )
    assert [(p[f"m{x + 1}"], p[f"m{y}"]) for p in line] == best
    said = browser.look("document.getElementById('front-said').textContent")
    assert said.endswith(f"{len(best)} network{'s' if len(best) != 1 else ''}")
    assert browser.look(f"document.getElementById('axis-x').options[{y - 1}]?.disabled ?? true")


def test_space_is_turned_by_keyboard(browser, pages):
    path, _ = pages("three", three_objectives)
    browser.open(path)
    browser.look("report.drawAll()")
    before = browser.look("report.views.space.data('space').length")
    browser.look("document.getElementById('turn').focus()")
    browser.press("ArrowRight", 39)
    browser.until("report.views.space.signal('turn') === 36")
    assert before == browser.look("report.views.space.data('space').length")


PLACES = """report.drawAll().then(() => {
  const view = report.views.space;
  const items = [];
  const walk = (mark) => {
    for (const item of mark.items ?? []) {
      const { u, v, w, name } = item.datum ?? {};
      if (name && u !== undefined) items.push({ u, v, w, name, x: item.x, y: item.y });
      walk(item);
    }
  };
  walk(view.scenegraph().root);
  const [turn, tilt] = ["turn", "tilt"].map((name) => view.signal(name));
  return { turn, tilt, width: view.width(), height: view.height(), items };
})"""


def test_places_in_space_are_what_geometry_says(browser, pages):
    """Where a point is on the screen is its place in the cube, turned and tilted."""
    path, run = pages("three", three_objectives)
    browser.open(path)
    seen = browser.look(PLACES)
    turn, tilt = math.radians(seen["turn"]), math.radians(seen["tilt"])
    rows = {row.name: row for row in run.rows}
    assert {item["name"] for item in seen["items"]} == set(rows)
    ends = {
        name: (min(values), max(values))
        for name, values in {
            "macs": [row.macs for row in run.rows],
            "latency@cpu": [row.costs["latency@cpu"] for row in run.rows],
            "score": [row.score for row in run.rows],
        }.items()
    }
    for item in seen["items"]:
        row = rows[item["name"]]
        values = (row.macs, row.costs["latency@cpu"], row.score)
        u, v, w = (
            (value - low) / (high - low) - 0.5
            for value, (low, high) in zip(values, ends.values(), strict=True)
        )
        right = u * math.cos(turn) - v * math.sin(turn)
        deep = u * math.sin(turn) + v * math.cos(turn)
        up = w * math.cos(tilt) + deep * math.sin(tilt)
        assert item["x"] == pytest.approx((right + 0.95) / 1.9 * seen["width"], abs=0.01)
        assert item["y"] == pytest.approx((0.95 - up) / 1.9 * seen["height"], abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_can_be_read_at_any_width(browser, pages, tmp_path, width, scheme):
    path, _ = pages("three", three_objectives)
    browser.size(width, 800)
    browser.scheme(scheme)
    browser.open(path)
    browser.look("report.drawAll()")
    assert browser.look("document.documentElement.scrollWidth") <= width
    small = browser.look(
        """[...document.querySelectorAll("a, button, select, summary, input")]
          .filter((e) => e.checkVisibility() && !e.classList.contains("skip"))
          .filter((e) => e.getBoundingClientRect().height < 15).map((e) => e.outerHTML)"""
    )
    assert small == []
    assert json.loads(browser.look(POOR_CONTRASTS)) == []
    picture = tmp_path / f"{scheme}-{width}.png"
    browser.picture(picture)
    assert picture.stat().st_size > 10_000
    browser.size(1280, 900)
    browser.scheme("light")


# The contrast of each text with the first opaque background behind it (WCAG 2.2, 1.4.3).
POOR_CONTRASTS = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parts = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => top.slice(0, 3).map((c, i) => c * top[3] + under[i] * (1 - top[3]));
  const light = (rgb) => rgb.map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      layers.push(parts(getComputedStyle(e).backgroundColor));
    }
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const found = [];
  for (const element of document.querySelectorAll("body *:not(script, style, svg *, svg)")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const aside = element.closest(".hidden, .skip, noscript, .vega-embed");
    if (!own || aside || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const under = behind(element);
    const [a, b] = [light(over(parts(style.color), under)), light(under)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push([element.tagName, element.textContent.slice(0, 40), ratio]);
  }
  return JSON.stringify(found);
})()"""


def test_everything_can_be_reached_by_keyboard_and_is_seen_to_be(browser, pages):
    path, _ = pages("three", three_objectives)
    browser.open(path)
    first = None
    reached = set()
    for _ in range(60):
        browser.press("Tab", 9)
        here = browser.look(
            """(() => { const e = document.activeElement; const s = getComputedStyle(e);
              return [e.tagName, e.id || e.textContent.trim().slice(0, 30),
                e === document.body || s.outlineStyle !== "none"]; })()"""
        )
        first = first or here
        assert here[2], here
        reached.add(here[1])
    assert first[1] == "Skip to the content"
    assert {"axis-x", "axis-y", "turn", "tilt"} <= reached


def test_landmarks_and_names_are_there_for_screen_readers(browser, pages):
    path, _ = pages("three", three_objectives)
    browser.open(path)
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored")
    ]
    roles = {role for role, _ in found}
    assert {"banner", "navigation", "main", "contentinfo", "table", "figure"} <= roles
    named = ("button", "link", "combobox", "slider", "checkbox", "region", "table", "figure")
    nameless = [role for role, name in found if role in named and not name.strip()]
    # The caption is what names a figure's chart, which is a figure of its own.
    assert [role for role in nameless if role != "figure"] == []


def test_text_of_a_run_does_nothing(browser, pages):
    path, _ = pages("evil", evil_run)
    browser.open(path)
    browser.look("report.drawAll()")
    assert browser.look("document.querySelectorAll('script').length") == 3
    assert browser.look("[...document.querySelectorAll('*')].every((e) => !e.onclick)")


def test_the_policy_keeps_the_page_off_the_network(browser, pages):
    path, _ = pages("usual", make_run)
    browser.open(path)
    refused = browser.look(
        "fetch('https://example.com/').then(() => 'reached', (error) => 'refused')"
    )
    assert refused == "refused"
    assert any("Content Security Policy" in said for said in browser.problems)
    browser.problems.clear()
    browser.requests.clear()


def test_a_page_of_a_search_under_way_does_not_load_itself_unasked(browser, pages):
    path, _ = pages("running", lambda: make_run(finished=False, evaluations=60))
    browser.open(path)
    browser.look("sessionStorage.clear()")
    browser.open(path)
    assert browser.look("document.getElementById('again').checked") is False
    browser.look("document.getElementById('again').click()")
    browser.open(path)
    assert browser.look("document.getElementById('again').checked") is True
    browser.look("sessionStorage.clear()")


def test_a_click_on_a_column_sorts(browser, pages):
    path, run = pages("usual", make_run)
    browser.open(path)
    browser.look("document.querySelectorAll('#candidates th button')[1].click()")
    cells = (
        "[...document.querySelectorAll('#candidates tbody tr')].map((r) => r.cells[1].textContent)"
    )
    scores = sorted((row.score for row in run.rows), reverse=True)
    assert browser.look(cells) == [f"{score:.4f}" for score in scores]
    sort = "document.querySelectorAll('#candidates th')[1].getAttribute('aria-sort')"
    assert browser.look(sort) == "descending"


def test_many_candidates_open_quickly(browser, pages):
    path, run = pages("many", many)
    times = []
    for _ in range(3):
        browser.open(path)
        times.append(float(browser.look("document.documentElement.dataset.ready")))
    print(f"{MANY} candidates open in {min(times):.0f} to {max(times):.0f} ms")
    assert min(times) < OPENED_MS
    assert browser.look("report.data('candidates').length") == len(run.rows)
    assert browser.look(
        "report.drawAll().then(() => !!document.querySelector('#chart-front canvas'))"
    )
