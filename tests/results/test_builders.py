"""Functions for parts that differ in numbers: which numbers become parameters, which follow, and
that every call gives back the tree that it was made from."""

from __future__ import annotations

import ast
from dataclasses import dataclass

import pytest
from torch import nn

from results.builders import builders_of
from results.layout import flat
from results.trees import Function, Run, Term, Terms, key, parts_of, skeleton, with_runs
from results.writing import Writer
from space import Genome, Stage, registered
from space.blueprint import Blueprint, blueprint
from space.genes import Part, Site


class Toy(nn.Module):
    """Takes whatever the tests give it; three arguments may go without a name."""

    def __init__(self, channels=0, heads=0, stride=0, kernel=0, padding=0, hidden=0, **more):
        super().__init__()


class Outer(nn.Module):
    def __init__(self, **more):
        super().__init__()


class Inner(nn.Module):
    def __init__(self, channels, **more):
        super().__init__()


def merged(*trees: Blueprint, **given: tuple[int, ...]) -> tuple[str | None, dict]:
    """The common source of some trees, and the parameters of their function."""
    terms = Terms(given or None, ())
    tree = terms.merged([with_runs(tree) for tree in trees])
    return flat(Writer(lambda cls: cls.__name__).call(tree)), terms.parameters()


def test_numbers_that_follow_are_no_parameters():
    text, parameters = merged(
        *(
            blueprint(Toy, c, c // 32, 1, 7, 3, hidden=4 * c, ratio=0.5, more=c + 1)
            for c in (64, 128, 320)
        ),
        channels=(64, 128, 320),
    )
    assert text == (
        "Toy(channels, channels // 32, 1, kernel=7, padding=3, hidden=4 * channels, ratio=0.5, "
        "more=more)"
    )
    assert parameters == {"channels": (64, 128, 320), "more": (65, 129, 321)}


def test_small_numbers_that_are_equal_by_chance_stay_apart():
    trees = [blueprint(Toy, 5, n, n, kernel=n, padding=n // 2) for n in (2, 4)]
    text, parameters = merged(*trees)
    assert text == "Toy(5, heads, stride, kernel=kernel, padding=kernel // 2)"
    assert parameters == dict.fromkeys(("heads", "stride", "kernel"), (2, 4))
    assert list(merged(*trees, channels=(16, 32))[1]) == ["channels", "stride", "kernel"]


def test_a_number_that_a_module_has_by_default_is_left_out_but_only_behind_the_third():
    assert merged(blueprint(Toy, 0, 0, 0, 0, 0))[0] == "Toy(0, 0, 0)"
    assert merged(blueprint(nn.Conv2d, 3, 8, 3, 1, 1))[0] == "nn.Conv2d(3, 8, 3, padding=1)"
    assert merged(blueprint(nn.Conv2d, 3, 8, 1, True, 0))[0] == "nn.Conv2d(3, 8, 1, stride=True)"


def test_equal_modules_in_a_row_are_written_once():
    inner = blueprint(Inner, 8, child=blueprint(nn.ReLU))
    deep = blueprint(Outer, blocks=blueprint(nn.Sequential, *(inner,) * 4, blueprint(nn.ReLU)))
    assert merged(deep)[0] == (
        "Outer(blocks=nn.Sequential(*(Inner(8, child=nn.ReLU()) for _ in range(4)), nn.ReLU()))"
    )
    assert merged(blueprint(Outer, blocks=(inner, inner)))[0] == (
        "Outer(blocks=tuple(Inner(8, child=nn.ReLU()) for _ in range(2)))"
    )
    assert merged(blueprint(Outer, blocks=(inner,)))[0] == (
        "Outer(blocks=(Inner(8, child=nn.ReLU()),))"
    )


def test_trees_that_differ_in_depth_are_alike():
    trees = []
    for depth in (1, 3):
        inner = blueprint(Inner, 8 * depth, child=blueprint(nn.ReLU))
        trees.append(blueprint(Outer, blocks=blueprint(nn.Sequential, *(inner,) * depth)))
    text, parameters = merged(*trees)
    assert "for _ in range(depth)" in str(text)
    assert parameters == {"depth": (1, 3), "channels": (8, 24)}


def test_keys_tell_types_and_modules_apart():
    values = [1, True, 1.0, "1", None, (1,), (True,), nn.ReLU, nn.GELU, blueprint(nn.ReLU)]
    trees = [blueprint(Outer, value=value) for value in values]
    assert len({key(tree) for tree in trees}) == len(values)
    assert len({skeleton(tree) for tree in trees}) == len(values) - 1  # 1 and 1.0 are numbers
    one, other = blueprint(Outer, a=1, b=2), blueprint(Outer, b=2, a=1)
    assert key(one) == key(other)


def parts(*blocks, stages=2):
    """The parts of a network of some stages with these blocks."""
    stem = registered("stem")["convolution"](channels=16)
    return {
        placed: placed.part.blueprint(placed.site)
        for placed in Genome(
            resolution=32,
            stem=stem,
            stages=tuple(
                Stage(
                    channels=16 * 2**i,
                    blocks=blocks,
                    stride=2,
                    downsample=registered("downsampling")["strided_convolution"](),
                )
                for i in range(stages)
            ),
            head=registered("head")["pooled"](),
        ).parts()
    }


def opened(tree):
    """A tree with the functions that it calls put in place: what the source will build."""
    if isinstance(tree, Blueprint) and isinstance(tree.module, Function):
        function = tree.module
        given = dict(zip(function.unnamed, tree.arguments, strict=True)) | dict(tree.keywords)
        values = {name: getattr(value, "text", value) for name, value in given.items()}
        scope = {"num_classes": 1000, "in_chans": 3}
        values = {n: scope.get(v, v) if isinstance(v, str) else v for n, v in values.items()}
        return opened(filled(function.tree, values))
    if isinstance(tree, Blueprint):
        arguments = []
        for item in tree.arguments:
            arguments += [opened(item.tree)] * item.times if isinstance(item, Run) else [item]
        keywords = {name: opened(item) for name, item in tree.keywords.items()}
        return Blueprint(tree.module, tuple(opened(item) for item in arguments), keywords)
    if isinstance(tree, tuple):
        items = []
        for item in tree:
            items += [item.tree] * item.times if isinstance(item, Run) else [item]
        return tuple(opened(item) for item in items)
    return tree


def filled(tree, values):
    """A tree with values in place of terms."""
    if isinstance(tree, Term):
        return eval(tree.text, {}, dict(values))
    if isinstance(tree, Run):
        return Run(filled(tree.times, values), filled(tree.tree, values))
    if isinstance(tree, Blueprint):
        arguments = tuple(filled(item, values) for item in tree.arguments)
        keywords = {name: filled(item, values) for name, item in tree.keywords.items()}
        return Blueprint(tree.module, arguments, keywords)
    return tuple(filled(item, values) for item in tree) if isinstance(tree, tuple) else tree


BOTTLENECK = registered("operator")["inverted_bottleneck"]
CHAINS = [
    [BOTTLENECK()],
    [BOTTLENECK(expansion=n, context=k) for n in (1, 2, 3.6) for k in (3, 5, 7)],
    [BOTTLENECK(context=0), BOTTLENECK(squeeze_excite=True), BOTTLENECK(layer_scale=0.1)],
    [BOTTLENECK(layer_scale=scale) for scale in (0.1, 1.0)],
]


@pytest.mark.parametrize("blocks", CHAINS, ids=len)
def test_every_call_gives_back_its_blueprint(blocks):
    blueprints = parts(*blocks)
    builders = builders_of(blueprints, ())
    assert len({function.name for function, _ in builders.functions}) == len(builders.functions)
    for placed, tree in blueprints.items():
        assert key(opened(builders.calls[placed.path])) == key(tree), placed.path


@dataclass(frozen=True, slots=True)
class Hiding(Part):
    """Has an argument `inner` that differs, and modules `Inner` that get a function."""

    category = "operator"
    kind = "hiding"

    def blueprint(self, site: Site) -> Blueprint:
        long = {f"an_argument_with_a_long_name_{letter}": 1.5 for letter in "abcd"}
        child = blueprint(Inner, site.channels, **long)
        return blueprint(Outer, inner=site.height + 100, x=child, y=child, z=child)


def test_a_parameter_never_hides_a_function_that_is_called_beside_it():
    """Here both would be called `inner`."""
    blueprints = parts(Hiding())
    functions = [function for function, _ in builders_of(blueprints, ()).functions]
    (hiding,) = (function for function in functions if function.name == "hiding")
    called = {tree.module.name for tree in parts_of(hiding.tree) if isinstance(tree, Blueprint)}
    assert called == {"inner"}
    assert called.isdisjoint(hiding.parameters)


def test_a_docstring_has_two_lines_where_there_are_words_that_few():
    function = Function({}, blueprint(nn.ReLU), (), "toy", says="(N, C, H, W) to the same.")
    long, short = "Long words, and many of them. " * 8, "A toy."

    def docstring(*abouts: str) -> list[str]:
        (tree,) = ast.parse(Writer(str).function(function, abouts)).body
        assert isinstance(tree, ast.FunctionDef)
        return (ast.get_docstring(tree) or "").splitlines()

    assert docstring(short, "") == ["A toy. (N, C, H, W) to the same."]
    assert docstring(long, short) == docstring(short)
    assert len(docstring(short, long)) == 1
    assert len(docstring(long)) > 2  # all that is known of it


def test_functions_are_named_after_what_tells_them_apart():
    blueprints = parts(*CHAINS[2])
    names = [function.name for function, _ in builders_of(blueprints, {"pooled_head"}).functions]
    assert names == [
        "convolution_stem",
        "strided_convolution",
        "inverted_bottleneck_no_context",
        "inverted_bottleneck_squeeze_excite",
        "inverted_bottleneck",
        "pooled_head_2",
    ]
