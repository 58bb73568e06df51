"""The table of published networks, and that every one of them is what was published."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from results import zoo
from space.budget import Budget
from space.cost import Cost
from space.genes import part_to_json
from space.presets import presets
from space.presets.published import figures

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def entries():
    return zoo.everything()


def rows_of_figures():
    return [(s, row) for s, known in figures().items() for row in known["rows"]]


# ---- the networks


def test_every_published_row_has_a_preset(entries):
    found = {(e.preset.system, e.preset.variant, e.preset.genome.resolution) for e in entries}
    sizeless = {found_row[:2] for found_row in found}
    for system, row in rows_of_figures():
        if row["resolution"] is None:
            assert (system, row["variant"]) in sizeless
        else:
            assert (system, row["variant"], row["resolution"]) in found
    assert len(entries) == len(rows_of_figures())


def test_counts_are_those_of_reference_code_or_in_print(entries):
    """By the figures themselves, without the table's own arithmetic."""
    figured = {(s, row["variant"], row["resolution"]): row for s, row in rows_of_figures()}
    wrong = []
    for entry in entries:
        preset, cost = entry.preset, entry.cost
        key = (preset.system, preset.variant)
        row = figured.get((*key, preset.genome.resolution)) or figured[*key, None]
        excepted = zoo.EXCEPTIONS.get(preset.name, {})
        if row["params"] is not None:
            if cost.params != row["params"] and "reference parameters" not in excepted:
                wrong.append((preset.name, cost.params, row["params"]))
        elif row["published_params_m"] is not None:
            off = abs(cost.params / 1e6 / row["published_params_m"] - 1)
            if off > 0.03 and "published parameters" not in excepted:
                wrong.append((preset.name, cost.params, row["published_params_m"]))
        if row["gmacs"] is not None:
            off = abs(cost.macs / 1e9 / row["gmacs"] - 1)
            if off > 1e-3 and "reference MACs" not in excepted:
                wrong.append((preset.name, cost.macs, row["gmacs"]))
    assert wrong == []


def test_exceptions_are_needed_and_have_a_reason(entries):
    """An exception for a figure that is met would hide a later mistake."""
    known = {entry.preset.name: entry for entry in entries}
    for name, excepted in zoo.EXCEPTIONS.items():
        assert name in known
        entry = known[name]
        for figure, reason in excepted.items():
            assert len(reason) > 20
            kind, _, what = figure.partition(" ")
            theirs = (zoo.reference if kind == "reference" else zoo.printed)(entry.preset)
            ours = {"parameters": entry.cost.params, "MACs": entry.cost.macs}[what]
            tolerance = {"reference parameters": 0, "published parameters": 0.03}.get(figure, 1e-3)
            wanted = theirs["params" if what == "parameters" else "macs"]
            assert abs(ours / wanted - 1) > tolerance, figure


def test_kinds_are_those_of_the_option(entries):
    assert {known["kind"] for known in figures().values()} <= set(zoo.KINDS)
    assert {entry.preset.kind for entry in entries} <= set(zoo.KINDS)


# ---- the table


def test_order_is_that_of_the_figures(entries):
    systems = [entry.preset.system for entry in entries]
    assert list(dict.fromkeys(systems)) == [s for s in figures() if s in systems]
    convnext = [e.preset.variant for e in entries if e.preset.system == "ConvNeXt"]
    assert convnext == ["ConvNeXt-T", "ConvNeXt-S", "ConvNeXt-B", "ConvNeXt-L"]


def test_filters(entries):
    for text, attribute, limit in (("5GFLOPs", "macs", 5e9), ("30Mparams", "params", 30e6)):
        chosen = {e.preset.name for e in zoo.select(presets(), budget=Budget.parse(text))}
        wanted = {e.preset.name for e in entries if getattr(e.cost, attribute) <= limit}
        assert chosen == wanted
        assert 0 < len(chosen) < len(entries)
    chosen = zoo.select(presets(), budget=Budget.parse("5GFLOPs,26Mparams"), kind="convolution")
    assert {e.preset.name for e in chosen} == {
        e.preset.name
        for e in entries
        if e.cost.macs <= 5e9 and e.cost.params <= 26e6 and e.preset.kind == "convolution"
    }


@pytest.fixture
def tiny(entries):
    """ConvNeXt-T, whose figures are all known: 28,589,128 parameters, 4.455531 GMACs."""
    return next(entry for entry in entries if entry.preset.name == "convnext_t")


def test_plain_data(tiny):
    plain = zoo.plain(tiny)
    assert plain == {
        "system": "ConvNeXt",
        "variant": "ConvNeXt-T",
        "name": "convnext_t",
        "kind": "convolution",
        "resolution": 224,
        "params": 28_589_128,
        "macs": 4_455_531_264,
        "published": {"params": 28_000_000, "macs": 4_500_000_000, "top1": 82.1},
        "reference": {"params": 28_589_128, "macs": 4_455_531_000},
        "difference": {"params": 0, "macs": 264},
        "against": {"params": "reference", "macs": "reference"},
        "reconstruction": False,
        "source": tiny.preset.source,
    }
    unknown = replace(tiny.preset, params=None, gmacs=None)
    plain = zoo.plain(replace(tiny, preset=unknown))
    assert plain["reference"] == {"params": None, "macs": None}
    assert plain["difference"] == {"params": 589_128, "macs": -44_468_736}
    assert plain["against"] == {"params": "published", "macs": "published"}
    unknown = replace(unknown, published_params_m=None, published_gmacs=None, top1=None)
    plain = zoo.plain(replace(tiny, preset=unknown))
    assert plain["published"] == {"params": None, "macs": None, "top1": None}
    assert plain["difference"] == plain["against"] == {"params": None, "macs": None}


def test_lines_say_how_far_off(tiny):
    line = dict(zip(zoo.COLUMNS, zoo.cells(tiny), strict=True))
    assert (line["parameters"], line["MACs"]) == ("28,589,128", "4.46G")
    assert (line["published"], line["difference"]) == ("28M, 4.5G", "0, 0.00%")
    off = replace(tiny, cost=Cost(params=28_000_000, macs=4_500_000_000))
    assert zoo.cells(off)[6] == "-2.06%, +1.00%"
    printed = replace(tiny, preset=replace(tiny.preset, params=None, reconstruction=True))
    line = dict(zip(zoo.COLUMNS, zoo.cells(printed), strict=True))
    assert (line["name"], line["difference"]) == ("convnext_t*", "~ +2.10%, 0.00%")


def test_checks_find_what_is_wrong(tiny):
    assert zoo.check(tiny) is None
    cost = tiny.cost
    miscounted = replace(tiny, cost=replace(cost, params=cost.params + 1))
    assert "28,589,128 parameters in the network, but 28,589,129" in zoo.check(miscounted)
    miscounted = replace(tiny, cost=replace(cost, macs=cost.macs - 1))
    assert "4,455,531,264 MACs in the network" in zoo.check(miscounted)
    other = replace(tiny, preset=replace(tiny.preset, params=cost.params - 1))
    assert "instead of 28,589,127 reference parameters" in zoo.check(other)
    other = replace(tiny, preset=replace(tiny.preset, gmacs=4.46))
    assert "instead of 4,460,000,000 reference MACs" in zoo.check(other)
    other = replace(tiny, preset=replace(tiny.preset, params=None, published_params_m=27))
    assert "instead of 27,000,000 published parameters" in zoo.check(other)
    near = replace(tiny, preset=replace(tiny.preset, params=None, published_params_m=28))
    assert zoo.check(near) is None


# ---- one network


def test_anatomy_accounts_for_every_part(entries):
    """Repetitions and all: MACs and parameters add up, and each gene that is not usual is said."""
    for name in ("convnext_t", "moganet_t", "maxvit_t"):
        entry = next(entry for entry in entries if entry.preset.name == name)
        genome = entry.preset.genome
        lines = zoo.anatomy(genome)
        assert all(len(line) == len(zoo.ANATOMY) for line in lines)
        titles = [line[0] for line in lines if line[0]]
        stages = [f"stage {i + 1}" for i in range(len(genome.stages))]
        assert titles == ["stem", *stages, "head"]
        kinds = {placed.part.kind for placed in genome.parts()}
        assert {line[2] for line in lines} == kinds
        text = "\n".join(line[-1] for line in lines)
        for placed in genome.parts():
            for gene in part_to_json(placed.part, brief=True):
                assert gene == "kind" or gene in text
        assert len(lines) < sum(1 for _ in genome.parts())


def test_anatomy_of_convnext(tiny):
    lines = zoo.anatomy(tiny.preset.genome)
    (third,) = [line for line in lines if line[1] == "9"]
    assert third[2:5] == ["inverted_bottleneck", "384", "14 x 14"]
    (change,) = [line for line in lines if line[0] == "stage 3"]
    assert change[2:5] == ["strided_convolution", "192 -> 384", "14 x 14"]
    # 9 blocks: a 7x7 depthwise convolution and two linear layers on 4 times the width.
    assert third[5] == f"{9 * 14**2 * 384 * (49 + 8 * 384) / 1e9:.3g}G"


# ---- the page


def test_the_page_is_up_to_date(entries):
    made = zoo.markdown(entries)
    assert (ROOT / zoo.PAGE).read_text(encoding="utf-8") == made, f"run: {zoo.COMMAND}"


def test_the_page_lists_every_variant_once(entries):
    text = zoo.markdown(entries)
    names = re.findall(r"^\| .*? \| `([a-z0-9_]+)` \|", text, re.MULTILINE)
    assert sorted(names) == sorted(entry.preset.name for entry in entries)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    unescaped = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert unescaped == {13}
    assert zoo.COMMAND in text


def test_the_page_escapes_what_markdown_reads(tiny):
    odd = replace(tiny, preset=replace(tiny.preset, variant="A|B*_<c>", reconstruction=True))
    assert "| A\\|B\\*\\_\\<c\\>\\* |" in zoo.markdown([odd])
