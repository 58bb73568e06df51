"""The documents say what is: commands can be given, links lead somewhere, examples work."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from commands.options import LISTINGS, load_plugins, make_parser
from pages.options import with_actions
from results.export import export_network, load_module, names_of_export, renamed
from run_search import PARSERS
from search.controllers import CONTROLLERS
from search.networks import NetworkProposals
from space import genes
from space.budget import Budget, pieces
from space.cost_table import CostTable
from space.device import Device
from space.files import make_space, read_definition, shipped_spaces
from space.genes import CATEGORIES, Part, Site, gene_choices, registered
from space.objectives import resolve_objectives
from space.presets import presets
from supernet.network import Supernet

ROOT = Path(__file__).parents[1]
FOLDERS = (
    *("space", "search", "supernet", "evaluator", "results", "commands"),
    *("tests", "docs", "benchmarks", "pages"),
)
PROGRAM = "python run_search.py "
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# A picture of a run, which is made when all else is there; files that a reader is shown to write.
MISSING_IS_FINE = {
    "docs/images/report.png",
    "space/operators/conv_mixer.py",
    "tests/space/test_conv_mixer.py",
    "search/truncation.py",
    "evaluator/data_arrays.py",
    "evaluator/runtimes/torch_cpu_last.py",
    "supernet/kernels/gated_residual.py",
}

paths = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}
PROSE = {name: BLOCK.sub("", text) for name, text in TEXTS.items()}
INLINE = {name: re.findall(r"`([^`\n]+)`", text) for name, text in PROSE.items()}


def blocks(document: str, *languages: str) -> list[str]:
    return [body for language, body in BLOCK.findall(TEXTS[document]) if language in languages]


def block_with(document: str, content: str) -> str:
    """The one block of a document that holds `content`."""
    (found,) = (body for _, body in BLOCK.findall(TEXTS[document]) if content in body)
    return found


def joined(shell: str) -> str:
    """Commands that go over several lines, each on one."""
    return shell.replace("\\\n", " ")


# Example files by the name in their first line, `# small.yaml`.
EXAMPLES = {
    body.partition("\n")[0].removeprefix("# "): body
    for document in TEXTS
    for body in blocks(document, "yaml", "python")
    if re.match(r"# [\w-]+\.(yaml|py)\n", body)
}

COMMANDS = [
    (document, line)
    for document in TEXTS
    for line in [*joined("\n".join(blocks(document, "sh"))).splitlines(), *INLINE[document]]
    if line.startswith(PROGRAM)
]


@pytest.fixture
def own_parts(monkeypatch):
    """What a test registers is gone afterwards."""
    for category in CATEGORIES:
        monkeypatch.setitem(genes._REGISTRY, category, dict(genes._REGISTRY[category]))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("chimera_plugin_", "documented_")):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


# ---- commands


def test_what_is_looked_at():
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/spaces.md"} <= set(TEXTS)
    assert {"small.yaml", "axial.py", "pictures.yaml"} <= set(EXAMPLES)
    assert len(COMMANDS) > 10


@functools.cache
def unified_at(resolution: int | None) -> CostTable:
    definition = read_definition("unified")
    return CostTable(
        make_space(definition if resolution is None else definition | {"resolution": [resolution]})
    )


@pytest.mark.parametrize(("document", "command"), COMMANDS, ids=[c for _, c in COMMANDS])
def test_commands_can_be_given(document, command, own_parts, tmp_path):
    words = shlex.split(command.removeprefix(PROGRAM), comments=True)
    if words == ["--help"]:
        return
    if words[0] in PARSERS:
        named = PARSERS[words[0]]().parse_args(words[1:])
        known = getattr(named, "name", None) or getattr(named, "genome", "convnext_t")
        assert known in presets() or not re.fullmatch(r"\w+", known)
        return
    options = make_parser().parse_args(words)
    assert options.budget or options.resume or options.config or options.list
    assert options.list in (None, *LISTINGS)
    assert options.controller in (None, *CONTROLLERS)
    for name in options.plugin or []:
        (tmp_path / name).write_text(EXAMPLES[name])
        load_plugins([str(tmp_path / name)])
    if options.budget is None:
        return
    if options.space is None:
        table = unified_at(options.resolution)
    else:
        assert options.space in EXAMPLES or options.space in shipped_spaces()
        table = CostTable(make_space(yaml.safe_load(EXAMPLES[options.space])))
    budget = Budget.parse(options.budget, flops_per_mac=options.flops_per_mac or 1)
    counts = dataclasses.replace(budget, measured=())  # what takes no device
    if counts.limits():
        NetworkProposals(table.space, table, counts).check()
    objectives = pieces(options.objectives) if options.objectives else []
    resolve_objectives(objectives, budget.on(Device()), Device())
    if options.proxy_resolution is not None:
        assert options.proxy_resolution % table.space.total_stride == 0


@pytest.mark.parametrize("document", TEXTS)
def test_options_in_running_text_exist(document):
    made = {"": make_parser(), **{name: make() for name, make in PARSERS.items()}}
    parsers = [parser for name, top in made.items() for _, parser in with_actions(name, top)]
    known = "\n".join(parser.format_help() for parser in parsers)
    for code in INLINE[document]:
        if code.startswith(("--", PROGRAM)):
            for option in re.findall(r"(?<!\S)--[a-z0-9-]+", code):
                assert re.search(rf"{option}(?![\w-])", known), option


def test_make_targets_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    called = re.findall(r"(?:^|`)make ([\w-]+)", "\n".join(TEXTS.values()), re.MULTILINE)
    assert {"search", "test"} <= set(called) <= set(targets)


# ---- links and paths


def anchors(document: str) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.*)$", PROSE[document], re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", TEXTS)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", PROSE[document]):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        target = str(path.resolve().relative_to(ROOT))
        assert path.exists() or target in MISSING_IS_FINE, link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", TEXTS)
def test_paths_in_running_text_exist(document):
    for code in INLINE[document]:
        if re.match(rf"({'|'.join(FOLDERS)})/\S*$", code) and code not in MISSING_IS_FINE:
            assert (ROOT / code).exists(), code


# ---- who imports whom


def imports_of_others(folder: str) -> set[str]:
    """What the files of a folder import of the project's other folders."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"^\s*(?:from|import) ([\w.]+)", text, re.MULTILINE))
    return {m for m in found if m.split(".")[0] in {*FOLDERS, "run_search"} - {folder}}


def test_imports_are_those_of_the_architecture():
    row = r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|$"
    table = dict(re.findall(row, TEXTS["docs/architecture.md"], re.MULTILINE))
    for folder in ("space", "evaluator", "supernet", "search", "results"):
        allowed = re.findall(r"`([\w.]+)`", table[folder])
        for module in imports_of_others(folder):
            assert any(f"{module}.".startswith(f"{name}.") for name in allowed), (folder, module)


# ---- examples


def check_cost(part: Part, site: Site) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        module = part.build(site)
        y = module(torch.empty(1, site.in_channels, site.height, site.width))
    assert y.shape == (1, site.channels, site.height, site.width)
    assert 2 * part.cost(site).macs == counter.get_total_flops()
    assert part.cost(site).params == sum(p.numel() for p in module.parameters())


def check_operator(kind: str, folder: Path) -> None:
    """Its cost at every value of every gene; and a network of it gives the same in the supernet,
    standing alone, and exported."""
    part = registered("operator")[kind]
    for name, values in gene_choices(part).items():
        for value in values:
            check_cost(part(**{name: value}), Site(12, 12, 7, 6))
    stage = {"channels": [8, 12], "depth": [1, 2], "stride": 2, "downsampling": ["local_dsm"]}
    space = make_space(
        {
            "name": "test",
            "resolution": [32],
            "classes": 5,
            "stem": {"convolution": {"channels": [8, 16]}},
            "stages": [{**stage, "operators": {kind: {"context": [3, 5]}}}],
            "head": {"pooled": {}},
        }
    )
    supernet, images = Supernet(space), torch.randn(2, 3, 32, 32)
    for i, genome in enumerate([space.sample(np.random.default_rng(seed)) for seed in range(3)]):
        export_network(genome, folder / str(i), name="example")
        exported = load_module(folder / str(i) / "model.py").model().eval()
        exported.load_state_dict(renamed(supernet.state_of(genome), names_of_export(genome)))
        with torch.no_grad():
            torch.testing.assert_close(exported(images), supernet(genome, images))


def test_operator_of_the_readme(own_parts, tmp_path):
    (tmp_path / "axial.py").write_text(EXAMPLES["axial.py"])
    load_plugins([str(tmp_path / "axial.py")])
    check_operator("axial_convolution", tmp_path)


def load_file(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_operator_of_contributing(own_parts, tmp_path, monkeypatch):
    path, test = tmp_path / "conv_mixer.py", tmp_path / "test_conv_mixer.py"
    source = block_with("CONTRIBUTING.md", '@operator("conv_mixer")')
    test.write_text(block_with("CONTRIBUTING.md", "equals_its_formula"))
    path.write_text(source)
    module = load_file(path, "documented_conv_mixer")
    check_operator("conv_mixer", tmp_path)
    monkeypatch.setitem(sys.modules, "space.operators.conv_mixer", module)
    load_file(test, "documented_test").test_conv_mixer_equals_its_formula()

    path.write_text(source.replace("x = x + self", "x = self"))
    wrong = load_file(path, "documented_wrong_mixer")
    monkeypatch.setitem(sys.modules, "space.operators.conv_mixer", wrong)
    with pytest.raises(AssertionError, match="not close"):
        load_file(test, "documented_test").test_conv_mixer_equals_its_formula()


def test_space_of_the_documentation():
    """What docs/spaces.md says of its example."""
    space = make_space(yaml.safe_load(EXAMPLES["pictures.yaml"]))
    assert (space.name, space.total_stride, len(space.stages)) == ("pictures", 8, 3)
    found = {
        name: {gene: choice.choices for gene, choice in option.genes.items()}
        for name, option in space.stages[2].blocks[0].options.items()
    }
    assert found["modulation"] == {"expansion": (2, 4), "context": (5,), "layer_scale": (0.01,)}
    assert found["attention"]["expansion"] == (4,)
    assert "norm" not in found["modulation"]
    genome = space.sample(np.random.default_rng(0))
    assert {block.norm for stage in genome.stages for block in stage.blocks} == {"layer"}


def test_python_of_the_documentation(tmp_path, monkeypatch, capsys):
    (tmp_path / "pictures.yaml").write_text(EXAMPLES["pictures.yaml"])
    monkeypatch.chdir(tmp_path)
    exec(block_with("docs/spaces.md", "load_space("), {})
    size, macs, digest = capsys.readouterr().out.split()
    assert int(size) == make_space(yaml.safe_load(EXAMPLES["pictures.yaml"])).size
    assert int(macs) > 0
    assert len(digest) == 12


def test_every_entry_of_a_space_file_is_documented():
    schema = yaml.safe_load((ROOT / "space/spaces/schema.json").read_text())
    entries = {*schema["properties"], *schema["properties"]["stages"]["items"]["properties"]}
    documented = set(re.findall(r"^\| `(\w+)` \|", TEXTS["docs/spaces.md"], re.MULTILINE))
    assert documented == entries


def test_yaml_reads_small_numbers_as_is_said():
    assert yaml.safe_load("[1e-6, 1.0e-6, 0.000001]") == ["1e-6", 1e-6, 1e-6]


def test_operators_against_genes():
    """The table of the architecture page; an operator that came later need not stand there."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    lines = text[text.index("| operator | `norm` |") :].split("\n\n")[0].splitlines()
    columns = re.findall(r"`(\w+)`", lines[0])
    for line in lines[2:]:
        kind, *marks, others = [cell.strip() for cell in line.strip("|").split("|")]
        found = {column for column, mark in zip(columns, marks, strict=True) if mark == "x"}
        found |= set(re.findall(r"`(\w+)`", others))
        assert found == set(gene_choices(registered("operator")[kind.strip("`")])), kind
    assert len(lines) > 20
