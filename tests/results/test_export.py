"""An exported network is the genome's network, and stands without us."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import itertools
import json
import math
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from placements import mutated, published_parts
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import results.export
import results.formats
from results.export import (
    export_network,
    load_module,
    model_source,
    renamed,
    safe_name,
    verify,
    weight_names,
)
from results.formats import FILES
from results.model_file import model_file
from space import Genome, Stage, build, registered
from space.blueprint import Blueprint
from space.genes import CATEGORIES, Part, Site, choice
from space.presets import presets

ROOT = Path(__file__).parents[2]
OURS = ("space", "supernet", "search", "evaluator", "results", "run_search")
RUFF = shutil.which("ruff") or shutil.which("ruff", path=str(Path(sys.executable).parent))
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@cache
def settings(kind: type[Part]) -> tuple[Part, ...]:
    """The default, and two random settings of a part, the same ones in every run."""
    rng, found = random.Random(kind.kind), {kind(): None}
    starts = [kind(), *published_parts().get(kind, [])]
    for _ in range(100):
        part = mutated(rng.choice(starts), rng)
        if part is not None and next(networks(part), None) is not None:
            found[part] = None
        if len(found) == 3:
            break
    return tuple(found)


def around(part: Part) -> Genome:
    """A small network with `part` in it, where it is an operator several times."""
    return next(networks(part))


def networks(part: Part) -> Iterator[Genome]:
    """The small networks that `part` can stand in, plain ones first. Some parts need class tokens
    beside the map or a stem and a head of their own, or make something that others must take."""

    def chosen(category: str, usual: str, **genes: int) -> list[Part]:
        kinds = registered(category)
        others = [kind() for name, kind in kinds.items() if name != usual]
        return [part] if part.category == category else [kinds[usual](**genes), *others]

    operators = registered("operator")
    mine = (part, part) if part.category == "operator" else ()
    others = (
        ((), ()),
        ((operators["embedding"](tokens=2),), ()),
        ((), (operators["inverted_bottleneck"](context=0, norm="none", bias="all"),)),
        ((), (operators["nested"](keep_pixels=False),)),
    )
    for stem, head, down in itertools.product(
        chosen("stem", "convolution", channels=12, kernel=4, step=4),
        chosen("head", "pooled"),
        chosen("downsampling", "strided_convolution"),
    ):
        for width, wider in ((12, 20), (16, 32), (32, 64), (192, 64)):
            if stem is not part:
                stem = replace(stem, channels=width)
            first = Stage(channels=stem.channels, blocks=mine, downsample=down, stride=1)
            last = Stage(channels=wider, blocks=mine, downsample=down, stride=2)
            yield from valid(stem, [first, last], head)
            yield from valid(stem, [replace(first, stride=2), last], head)
            for (before, after), count in itertools.product(others, (2, 1)):
                if blocks := (*before, *mine[:count], *after):
                    alone = Stage(channels=stem.channels, blocks=blocks)
                    yield from valid(stem, [alone], head)
            if mine:  # columns, of which the last narrows the map
                stages = [
                    replace(first, downsample=None),
                    Stage(channels=8 * width, blocks=(), downsample=part, stride=8),
                ]
                yield from valid(stem, stages, head)


def valid(stem: Part, stages: Sequence[Stage], head: Part) -> Iterator[Genome]:
    """The network, if it is one."""
    with contextlib.suppress(ValueError):
        side = max(32, 2 * stem.stride)
        found = Genome(resolution=side, stem=stem, stages=tuple(stages), head=head, classes=5)
        found.cost()
        yield found


def everything() -> Genome:
    """Every operator and downsampling module that maps a map to a map, in one network."""
    flat = Site(16, 16, 16, 16)

    def plain(category: str) -> list[Part]:
        parts = [kind() for kind in registered(category).values()]
        return [p for p in parts if "map" in p.takes and p.gives(flat).kind == "map"]

    operators, downs = tuple(plain("operator")), plain("downsampling")
    stages = (
        *(Stage(channels=16, downsample=down, blocks=()) for down in downs[:-2]),
        *(Stage(channels=32, stride=2, downsample=down, blocks=operators) for down in downs[-2:]),
    )
    stem = registered("stem")["convolution"](channels=16)
    head = registered("head")["pooled"](features=24)
    return Genome(resolution=64, stem=stem, stages=stages, head=head, classes=7)


SETTINGS = [part for c in CATEGORIES for kind in registered(c).values() for part in settings(kind)]
DEFAULTS = [kind() for category in CATEGORIES for kind in registered(category).values()]


def small() -> Genome:
    return around(registered("operator")["inverted_bottleneck"](expansion=2, squeeze_excite=True))


def written(genome: Genome, folder: Path, name: str = "toy"):
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(model_source(genome, name))
    return load_module(folder / "model.py")


def randomise(network: nn.Module) -> nn.Module:
    """Random weights and statistics, so that no branch is hidden by a zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.3 * torch.rand_like(buffer))
    return network.eval()


def loaded(exported: nn.Module, network: nn.Module, genome: Genome) -> nn.Module:
    """The exported network with the weights of the genome's."""
    names = weight_names(exported, genome, model_file(genome, "toy").origins)
    assert sorted(names.values()) == sorted(network.state_dict())
    exported.load_state_dict(renamed(network.state_dict(), names))
    return exported.eval()


def genome_shapes(exported: nn.Module, genome: Genome) -> dict[str, tuple[int, ...]]:
    """The shapes of an exported network's weights by the genome's names."""
    names = weight_names(exported, genome, model_file(genome, "toy").origins)
    return {names[name]: shape for name, shape in shapes(exported).items()}


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def outside_docstring(source: str) -> str:
    tree = ast.parse(source)
    assert isinstance(tree.body[0], ast.Expr)
    return ast.dump(ast.Module(tree.body[1:], []))


@pytest.mark.parametrize("part", SETTINGS, ids=repr)
def test_export_is_the_network(part, tmp_path):
    genome = around(part)
    module = written(genome, tmp_path)
    network, exported = randomise(build(genome)), module.model()
    assert genome_shapes(exported, genome) == shapes(network)
    loaded(exported, network, genome)
    side = genome.resolution
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected, found = network(images), exported.eval()(images)
    assert expected.isfinite().all()
    assert torch.equal(found, expected)

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        module.model().eval()(torch.empty(1, 3, side, side))
    assert counter.get_total_flops() // 2 == module.MACS
    assert sum(parameter.numel() for parameter in network.parameters()) == module.PARAMS


@pytest.mark.parametrize("part", DEFAULTS, ids=repr)
def test_every_parameter_gets_a_gradient(part, tmp_path):
    """But for what stands beside the map and has no way to the logits in a small network."""
    genome = around(part)

    def without_gradient(network: nn.Module) -> list[str]:
        images = torch.randn(2, 3, genome.resolution, genome.resolution)
        randomise(network).train()(images).square().sum().backward()
        return [name for name, p in network.named_parameters() if p.grad is None]

    exported = written(genome, tmp_path).model()
    names = weight_names(exported, genome, model_file(genome, "toy").origins)
    found = [names[name] for name in without_gradient(exported)]
    assert sorted(found) == sorted(without_gradient(build(genome)))
    if all(placed.site.flow.kind == "map" for placed in genome.parts()):
        assert found == []


@pytest.mark.parametrize("part", DEFAULTS, ids=repr)
def test_classes_and_input_channels_can_change(part, tmp_path):
    genome = around(part)
    model = written(genome, tmp_path).model
    assert genome_shapes(model(num_classes=11), genome) == shapes(build(genome.at(classes=11)))
    assert genome_shapes(model(in_chans=4), genome) == shapes(build(genome.at(in_channels=4)))
    old, new = shapes(model()), shapes(model(num_classes=11))
    assert {name.split(".")[0] for name in old if old[name] != new[name]} == {"head"}


def every_preset() -> list[object]:
    """All presets; the smallest of each system is tested by default."""
    smallest: dict[str, str] = {}
    for preset in sorted(presets().values(), key=lambda preset: preset.params or math.inf):
        smallest.setdefault(preset.system, preset.name)
    return [
        pytest.param(name, marks=[] if name in smallest.values() else [pytest.mark.slow])
        for name in presets()
    ]


@pytest.mark.parametrize("name", every_preset())
def test_presets_export_to_themselves(name):
    genome = presets()[name].genome
    module = ModuleType(name)
    exec(compile(model_source(genome, name), "model.py", "exec"), vars(module))
    with torch.device("meta"):
        exported, network = module.model(), build(genome)
    assert genome_shapes(exported, genome) == shapes(network)
    assert sum(parameter.numel() for parameter in exported.parameters()) == genome.cost().params
    image = torch.empty(1, 3, genome.resolution, genome.resolution, device="meta")
    with FlopCounterMode(display=False) as counter:
        exported.eval()(image)
    assert counter.get_total_flops() == 2 * genome.cost().macs
    assert (genome.cost().params, genome.cost().macs) == (module.PARAMS, module.MACS)


@pytest.mark.skipif(RUFF is None, reason="ruff is not installed")
def test_source_is_formatted_and_clean(tmp_path):
    for i, part in enumerate(DEFAULTS):
        (tmp_path / f"part_{i}.py").write_text(model_source(around(part), f"part {i}"))
    facts = {"search": "many words " * 30, "command": "x" * 150, "note": 'a "b" c'}
    (tmp_path / "everything.py").write_text(model_source(everything(), "everything", facts))
    config = ["--no-cache", "--config", str(ROOT / "pyproject.toml")]
    for command in (["check"], ["format", "--diff"]):
        done = subprocess.run(
            [RUFF, *command, *config, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("part", DEFAULTS, ids=repr)
def test_source_names_nothing_of_ours(part):
    tree = ast.parse(model_source(around(part), "toy"))
    (perhaps,) = (node for node in tree.body if isinstance(node, ast.Try))
    tree.body.remove(perhaps)
    assert "timm" in ast.unparse(perhaps.body[0])  # which need not be there
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            packages = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            packages = {(node.module or "").partition(".")[0]}
        else:
            continue
        assert packages <= {"torch", *sys.stdlib_module_names}
    genes = {"Part", "Site", "Cost", "Blueprint", "blueprint", "operator", "choice", "dataclass"}
    assert genes.isdisjoint(n.id for n in ast.walk(tree) if isinstance(n, ast.Name))


def test_only_what_is_used_is_written():
    source = model_source(small(), "toy")
    defined = {n.name for n in ast.parse(source).body if isinstance(n, ast.ClassDef)}
    assert "InvertedBottleneck" in defined
    assert defined.isdisjoint({"ChannelAggregation", "Sum", "Mlp", "LayerScale", "AttendMap"})
    assert defined.isdisjoint({"InvertedBottleneckBranch", "Residual", "Stage"})  # they are one
    assert "1801.04381" in source  # MobileNetV2, where the operator is from
    assert "nn.Identity()" not in source.replace("else nn.Identity()", "")  # of no classifier
    assert " is not None" not in re.sub(r"(self\.bias|indices) is not None", "", source)


def test_export_runs_where_we_are_not(tmp_path):
    export_network(everything(), tmp_path / "out", name="everything")
    script = f"""
import runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OURS}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocked())
found = runpy.run_path("model.py", run_name="__main__")
assert not {set(OURS)} & set(sys.modules), "ours were imported"
print(found["PARAMS"], found["MACS"])
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        cwd=tmp_path / "out",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *_, logits, constants = done.stdout.splitlines()
    assert logits.endswith("(1, 7)")
    cost = everything().cost()
    assert constants == f"{cost.params} {cost.macs}"
    assert f"{cost.macs:,}" in done.stdout


def test_main_fails_where_the_numbers_do_not_hold(tmp_path):
    folder = tmp_path / "out"
    export_network(small(), folder, name="toy")
    text = (folder / "model.py").read_text()
    (folder / "model.py").write_text(re.sub(r"^PARAMS = .*$", "PARAMS = 1", text, flags=re.M))
    done = subprocess.run(
        [sys.executable, "-I", "model.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "expected 1 parameters" in done.stderr


HOSTILE = [
    '""" import os',
    '"""\nimport os\n"""',
    "'''\nimport os",
    "ends in a backslash \\",
    "C:\\new\\u1234\\x",
    "line\u2028separator\u202eand\x00zero\rreturn",
    '\\"""\nimport os\n#',
    "{0} {genome} %s ${HOME}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_free_text_cannot_become_code(text, tmp_path):
    benign = model_source(small(), safe_name(f"toy {text}"), {"search": "a run"})
    hostile = model_source(small(), f"toy {text}", {"search": text, text: text, "empty": ""})
    assert outside_docstring(hostile) == outside_docstring(benign)
    docstring = ast.get_docstring(ast.parse(hostile))
    assert docstring is not None
    assert all(letter.isprintable() or letter == "\n" for letter in docstring)
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    assert plain.replace('"', "'") in docstring  # what can be said is said
    export_network(small(), tmp_path / "out", name=f"toy {text}", facts={text: text})
    table = [
        line for line in (tmp_path / "out" / "README.md").read_text().split("\n") if "|" in line
    ]
    assert len(table) == 2 + 6 + 1  # its head, our rows, and one fact


def test_readme_takes_no_markup(tmp_path):
    facts = {"search": "<script>alert(1)</script> | [a](b) `c`", "score": "0.5 *of* them"}
    export_network(small(), tmp_path / "out", name="toy", facts=facts)
    readme = (tmp_path / "out" / "README.md").read_text()
    assert r"\<script\>alert(1)\</script\> \| \[a\](b) \`c\`" in readme
    assert r"0.5 \*of\* them" in readme
    assert "It is not the accuracy of this network" in readme


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("unet-b0_v1.2", "unet-b0_v1.2"),
        ("../../etc/passwd", "etc-passwd"),
        ("a b\n\"c'", "a-b-c"),
        (".hidden", "hidden"),
        ("naïve", "na-ve"),
        ("x" * 200, "x" * 100),
    ],
)
def test_safe_name(name, safe):
    assert safe_name(name) == safe


@pytest.mark.parametrize("name", ["", "...", "/", "\n"])
def test_a_name_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match="must have a letter or a digit"):
        safe_name(name)


def call_of(source: str) -> str:
    """The function that makes the network."""
    (model,) = (n for n in ast.parse(source).body if getattr(n, "name", "") == "model")
    return ast.get_source_segment(source, model) or ""


def test_blocks_alike_are_written_once(tmp_path):
    block = registered("operator")["inverted_bottleneck"]
    stages = (Stage(channels=12, blocks=(block(), *[block(context=5)] * 3)),)
    stem, head = registered("stem")["convolution"](channels=12), registered("head")["pooled"]()
    genome = Genome(resolution=16, stem=stem, stages=stages, head=head)
    source = model_source(genome, "toy")
    assert source.count("nn.Conv2d(") == 2  # of the stem, and of one class
    assert call_of(source).count("kernel=5") == 1
    assert call_of(source).count("kernel=3") == 1
    blocks = written(genome, tmp_path).model().stages[0]
    layers = [layer for block in blocks for layer in block.modules()]
    sides = [layer.kernel_size for layer in layers if isinstance(layer, nn.Conv2d)]
    assert sides == [(3, 3)] + [(5, 5)] * 3
    assert len({id(parameter) for b in blocks for parameter in b.parameters()}) == len(
        list(blocks.parameters())
    )


def test_chains_that_repeat_are_written_once(tmp_path):
    """Blocks of two operators each, as most published networks have them."""
    wide, mlp = (registered("operator")["inverted_bottleneck"](context=c) for c in (7, 0))
    stages = tuple(
        Stage(channels=channels, blocks=((wide, mlp) * depth + ends))
        for channels, depth, ends in ((12, 3, ()), (24, 4, (wide,)), (24, 1, ()))
    )
    stem, head = registered("stem")["convolution"](channels=12), registered("head")["pooled"]()
    genome = Genome(resolution=16, stem=stem, stages=stages, head=head)
    call = call_of(model_source(genome, "toy"))
    times = [int(number) for number in re.findall(r"for _ in range\((\d+)\)", call)]
    assert times == [3, 4]
    network = written(genome, tmp_path).model()
    assert [len(stage) for stage in network.stages] == [6, 9, 2]
    assert genome_shapes(network, genome) == shapes(build(genome))
    assert len({id(p) for p in network.parameters()}) == len(list(build(genome).parameters()))


class ToyBlock(nn.Module):
    def __init__(self, setting: object):
        super().__init__()
        self.setting = setting

    def forward(self, x):
        self.seen = self.setting
        return x


def toy(*values: object) -> Genome:
    """A network with a block for each value of an argument."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Toy(Part):
        category = "operator"
        kind = "toy"
        place: int = choice(*range(len(values)))

        def blueprint(self, site: Site) -> Blueprint:
            return Blueprint(ToyBlock, (), {"setting": values[self.place]})

    stages = tuple(Stage(channels=12, blocks=(Toy(place=i),)) for i in range(len(values)))
    stem, head = registered("stem")["convolution"](channels=12), registered("head")["pooled"]()
    return Genome(resolution=16, stem=stem, stages=stages, head=head)


@pytest.mark.parametrize(
    "value", [{"a": 1}, [1], float("inf"), float("nan"), object(), "a\nb", len]
)
def test_an_argument_that_cannot_be_written_is_named(value):
    with pytest.raises(RuntimeError, match=r"stages\.0\.blocks\.0: setting is"):
        model_source(toy(value), "toy")


def same(one: object, other: object) -> bool:
    """Equal, and of the same types all through: 1 is True in Python, but not the same argument."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize(
    "values",
    [
        *((value,) for value in (1, -2.5, 1e-6, True, None, (), (1,), 'quote "\\', nn.GELU)),
        (("a", (2, None)), (nn.ReLU, nn.GELU)),
        (1, True),
        (1, 1.0, 2),
        (0, False, None, ""),
        (3, 5, 7, 3),
        (24, 12, 36, 12),
        (0.5, 1e-6),
        ((1, 2), (2, 2), (2,), ((2, 2),)),
        ("a", "b"),
        (nn.ReLU, nn.GELU, None),
    ],
    ids=repr,
)
def test_an_argument_is_written_as_it_is(values, tmp_path):
    """One for each block, also where a function is written for several."""
    network = written(toy(*values), tmp_path).model()
    network(torch.randn(1, 3, 16, 16))
    found = tuple(stage[0].seen for stage in network.stages)
    assert same(found, values)


def test_a_class_of_ours_as_an_argument_is_written_too(tmp_path):
    module = written(toy(ToyBlock), tmp_path)
    network = module.model()
    network(torch.randn(1, 3, 16, 16))
    assert network.stages[0][0].seen is module.ToyBlock


TAMPERED = [
    (r"^MACS = .*$", "MACS = 5", "MACS is 5, but"),
    (r"^PARAMS = .*$", "PARAMS = 5", "PARAMS is 5, but"),
    (r"F\.hardsigmoid", "F.sigmoid", "logits differ"),
    (r"return x \+ ", "return ", "logits differ"),
    (r"self\.project\b", "self.output", "shape of .*project.weight is"),
    (r"nn\.Linear\(20, num_classes\)", "nn.Linear(20, 5)", "shape of head.classifier.weight is"),
    (r"nn\.Conv2d\(in_chans, ", "nn.Conv2d(3, ", "shape of stem.0.weight is"),
]


@pytest.mark.parametrize(("old", "new", "message"), TAMPERED, ids=[row[1] for row in TAMPERED])
def test_verify_sees_a_difference(old, new, message, tmp_path):
    genome = small()
    export_network(genome, tmp_path / "out", name="toy")
    path = tmp_path / "out" / "model.py"
    text = path.read_text()
    path.write_text(re.sub(old, new, text, flags=re.M))
    assert path.read_text() != text
    with pytest.raises(RuntimeError, match=message):
        verify(path.parent, genome)


def test_verify_sees_another_genome(tmp_path):
    export_network(small(), tmp_path / "out", name="toy")
    verify(tmp_path / "out", small())
    with pytest.raises(RuntimeError, match=r"head\.classifier\.weight"):
        verify(tmp_path / "out", small().at(classes=9))


def test_folder_holds_genome_and_weights(tmp_path):
    genome = small()
    network = randomise(build(genome))
    state = {
        name: value.mT if value.ndim == 4 else value for name, value in network.state_dict().items()
    }
    state = {name: value.mT if value.ndim == 4 else value for name, value in state.items()}
    exported = export_network(genome, tmp_path / "out", name="toy net", state=state)
    assert exported.name == "toy-net"
    assert exported.files == ("README.md", "genome.json", "model.py", "weights.safetensors")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == list(exported.files)
    assert (exported.params, exported.macs) == (genome.cost().params, genome.cost().macs)
    data = json.loads((tmp_path / "out" / "genome.json").read_text())
    assert Genome.from_json(data) == genome

    found = load_module(tmp_path / "out" / "model.py").model().eval()
    found.load_state_dict(load_file(tmp_path / "out" / "weights.safetensors"))
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(found(images), network(images))


def test_weights_that_are_views_of_larger_ones_are_written_alone(tmp_path):
    genome = small()
    state = {}
    for name, value in build(genome).state_dict().items():
        larger = torch.zeros([size + 3 for size in value.shape], dtype=value.dtype)
        part = larger[tuple(slice(size) for size in value.shape)]
        state[name] = part.copy_(value)
    export_network(genome, tmp_path / "out", name="toy", state=state)
    found = load_file(tmp_path / "out" / "weights.safetensors")
    exported = load_module(tmp_path / "out" / "model.py").model()
    names = weight_names(exported, genome, model_file(genome, "toy").origins)
    assert sorted(names) == sorted(found)
    assert all(torch.equal(value, state[names[name]]) for name, value in found.items())


def test_weights_that_do_not_fit_are_refused(tmp_path):
    state = build(small()).state_dict()
    key = "head.classifier.weight"
    for wrong, message in (
        ({name: v for name, v in state.items() if name != key}, f"lack '{key}'"),
        ({**state, "more": torch.zeros(1)}, "beyond the network's, 'more'"),
        ({**state, key: torch.zeros(5, 7)}, r"of shape \(5, 7\)"),
    ):
        with pytest.raises(ValueError, match=message):
            export_network(small(), tmp_path / "out", name="toy", state=wrong)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_half_written(tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("not the network")

    export_network(small(), tmp_path / "old", name="old")
    before = (tmp_path / "old" / "README.md").read_text()
    monkeypatch.setattr(results.export, "verify", fail)
    for folder in ("old", "new"):
        with pytest.raises(RuntimeError, match="not the network"):
            export_network(small(), tmp_path / folder, name="new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "README.md").read_text() == before


def test_an_export_is_replaced_and_nothing_else(tmp_path):
    folder = tmp_path / "out"
    export_network(small(), folder, name="first", state=build(small()).state_dict())
    export_network(small(), folder, name="second")
    assert (folder / "README.md").read_text().startswith("# second\n")
    assert not (folder / "weights.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    other = tmp_path / "notes"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not an exported network"):
        export_network(small(), other, name="toy")
    assert (other / "mine.txt").read_text() == "mine"


def test_readme_code_runs(tmp_path, monkeypatch):
    genome = small()
    network = randomise(build(genome))
    export_network(genome, tmp_path / "out", name="toy", state=network.state_dict())
    readme = (tmp_path / "out" / "README.md").read_text()
    use, load, load_other, train = re.findall(r"```python\n(.*?)```", readme, re.S)
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.syspath_prepend(str(tmp_path / "out"))
    monkeypatch.delitem(sys.modules, "model", raising=False)
    images, labels = torch.randn(6, 3, 32, 32), torch.arange(6) % 5
    try:
        found: dict = {}
        exec(use, found)
        assert found["logits"].shape == (2, 5)
        exec(load, found)
        assert torch.equal(found["network"].eval()(images), network(images))
        exec(load_other, found)
        changed = shapes(found["network"])
        assert changed["head.classifier.weight"][0] == 10
        features = found["network"].eval().forward_features(images)
        assert torch.equal(features, network.forward_features(images))
        exec(train, found)
        fresh = found["model"](num_classes=5)
        before = nn.functional.cross_entropy(fresh(images), labels)
        found["train"](fresh, [(images, labels)] * 4, epochs=5)
        assert nn.functional.cross_entropy(fresh(images), labels) < 0.8 * before
    finally:
        sys.modules.pop("model", None)


def test_onnx_without_its_packages_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = re.escape("needs onnx and onnxscript: pip install chimera-nas[export]")
    with pytest.raises(ValueError, match=message):
        export_network(small(), tmp_path / "out", name="toy", formats=["onnx"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not HAS_ONNX, reason="onnx, onnxscript or onnxruntime is not installed")
def test_onnx_is_the_network_for_any_number_of_images(tmp_path):
    import onnxruntime

    genome = small()
    network = randomise(build(genome))
    exported = export_network(
        genome, tmp_path / "out", name="toy", state=network.state_dict(), formats=["onnx"]
    )
    assert "model.onnx" in exported.files
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    for count in (1, 2, 5):
        images = torch.randn(count, 3, 32, 32)
        (found,) = session.run(["logits"], {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), network(images), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ONNX, reason="onnx, onnxscript or onnxruntime is not installed")
@pytest.mark.parametrize("part", SETTINGS, ids=repr)
def test_every_part_goes_to_onnx(part, tmp_path):
    genome = around(part)
    exported = export_network(genome, tmp_path / "out", name="toy", formats=["onnx"])
    assert exported.differences["onnx"] < 1e-4


@pytest.mark.parametrize("form", ["torch-export", "torchscript"])
def test_other_formats_are_the_network(form, tmp_path):
    genome = small()
    network = randomise(build(genome))
    exported = export_network(
        genome, tmp_path / "out", name="toy", state=network.state_dict(), formats=[form]
    )
    assert exported.differences[form] < 1e-5
    path = tmp_path / "out" / FILES[form]
    assert path.name in exported.files
    images = torch.randn(4, 3, 32, 32)
    found = torch.jit.load(path) if form == "torchscript" else torch.export.load(path).module()
    torch.testing.assert_close(found(images), network(images), atol=1e-5, rtol=1e-4)
    assert path.name in (tmp_path / "out" / "README.md").read_text()


def test_a_format_that_is_not_known_is_named(tmp_path):
    with pytest.raises(ValueError, match="format is 'tflite', but must be one of onnx, torch-exp"):
        export_network(small(), tmp_path / "out", name="toy", formats=["tflite"])


def test_a_format_that_differs_is_not_written(tmp_path, monkeypatch):
    def wrong(network, images, path):
        path.write_text("?")
        return lambda images: network(images) + 1

    monkeypatch.setitem(results.formats.WRITERS, "torchscript", wrong)
    with pytest.raises(RuntimeError, match=r"model.torchscript.pt: logits of 2 images differ by"):
        export_network(small(), tmp_path / "out", name="toy", formats=["torchscript"])
    assert list(tmp_path.iterdir()) == []
