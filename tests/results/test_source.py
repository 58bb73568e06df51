"""What is collected means in one file what it meant in several: toy packages, run both ways."""

from __future__ import annotations

import ast
import importlib
import itertools
import textwrap

import pytest
import torch

from results.source import Import, check_names, collect, format_imports, summaries_of

_numbers = itertools.count()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes modules of a new package and imports them: `package(first="...", second="...")`."""

    def write(**modules: str):
        name = f"toy_package_{next(_numbers)}"
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        for module, text in modules.items():
            text = textwrap.dedent(text).replace("PACKAGE", name)
            (folder / f"{module}.py").write_text("from __future__ import annotations\n" + text)
        monkeypatch.syspath_prepend(tmp_path)
        return [importlib.import_module(f"{name}.{module}") for module in modules]

    return write


def run(collected):
    """The names that one file of everything collected defines."""
    source = f"{collected.imports}\n\n\n{collected.body}\n"
    check_names(source)
    assert "toy_package" not in source
    found: dict = {}
    exec(compile(source, "<one file>", "exec"), found)
    return found


def test_equal_names_of_two_modules_stay_apart(package):
    first, second = package(
        first="""
            from torch import nn

            _FACTOR = 2

            def scale(x):
                return _FACTOR * x

            class Block(nn.Module):
                def forward(self, x):
                    return scale(x)
        """,
        second="""
            from torch import nn

            _FACTOR = 3

            def scale(x):
                return _FACTOR * x

            class Block(nn.Module):
                def forward(self, x):
                    \"\"\"Here scale is a name in words, and below one of its own.\"\"\"
                    inner = [scale(y) for y in x]
                    keep = lambda scale: scale  # noqa: E731
                    return keep(sum(inner))
        """,
    )
    collected = collect([first.Block, second.Block])
    found = run(collected)
    assert [collected.name_of(module.Block) for module in (first, second)] == [
        "Block",
        "SecondBlock",
    ]
    assert found["Block"]()(5) == first.Block()(5) == 10
    assert found["SecondBlock"]()([5, 6]) == second.Block()([5, 6]) == 33
    assert "Here scale is a name in words" in collected.body


def test_the_same_source_twice(package):
    modules = package(
        first="class Block:\n    pass\n",
        second="class Block:\n    pass\n",
        third="class Block:\n    pass\n",
    )
    classes = [module.Block for module in modules]
    assert collect(classes) == collect(classes)


def test_names_in_functions_and_classes_hide_global_ones(package):
    (other, main) = package(
        other="""
            def width(x):
                return x + 100

            class Shape:
                pass
        """,
        main="""
            from PACKAGE.other import Shape as Form, width as other_width

            def width(x):
                return x + 1

            class Shape:
                width = 7
                doubled = width * 2

                def of(self, x):
                    return width(x), self.width

                def hidden(self, width):
                    return [width for width in (width, width)]

                def late(self):
                    if (width := 9) > 8:
                        pass
                    return width

                def inner(self, x):
                    def width(y):
                        return y - 1

                    return width(x) + other_width(x) + isinstance(self, Form)
        """,
    )
    collected = collect([other.Shape, main.Shape])
    found = run(collected)
    ours, theirs = found[collected.name_of(main.Shape)](), main.Shape()
    assert collected.name_of(main.Shape) != collected.name_of(other.Shape)
    assert ours.doubled == theirs.doubled == 14
    assert ours.of(3) == theirs.of(3) == (4, 7)
    assert ours.hidden(2) == theirs.hidden(2) == [2, 2]
    assert ours.late() == theirs.late() == 9
    assert ours.inner(3) == theirs.inner(3) == 105


def test_a_builtin_stays_a_builtin(package):
    first, second = package(
        first="""
            def sum(items):
                return "not a sum"

            class First:
                def of(self, items):
                    return sum(items)
        """,
        second="""
            class Second:
                def of(self, items):
                    return sum(items)
        """,
    )
    found = run(collect([first.First, second.Second]))
    assert found["First"]().of([1, 2]) == "not a sum"
    assert found["Second"]().of([1, 2]) == 3


def test_reserved_names_and_imports_are_not_taken(package):
    first, second = package(
        first="""
            import torch.nn.functional as F

            class User:
                def of(self, x):
                    return F.relu(x)
        """,
        second="""
            F = 3

            def model():
                return F

            class Other:
                def of(self):
                    return model()
        """,
    )
    found = run(collect([first.User, second.Other], reserved=("model",)))
    assert "model" not in found
    assert found["Other"]().of() == 3
    assert found["User"]().of(torch.tensor(-1.0)) == 0


def test_what_a_line_needs_stands_above_it(package):
    (base, main) = package(
        base="""
            # Half of what one would think.
            SIZE = 4
            HALF = SIZE // 2

            def double(cls):
                cls.twice = True
                return cls

            class Base:
                size = HALF

            class Unused:
                pass
        """,
        main="""
            from PACKAGE.base import HALF, Base, double

            @double
            class Main(Base):
                def of(self, x=HALF):
                    return x * helper() if x else Main

            def helper():
                return SCALE

            SCALE: int = 10
        """,
    )
    collected = collect([main.Main])
    found = run(collected)
    assert found["Main"]().of() == 20
    assert found["Main"].twice
    assert found["Main"].size == 2
    assert "Unused" not in found
    assert "# Half of what one would think.\nSIZE = 4\nHALF" in collected.body
    assert base.HALF == 2


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("from PACKAGE import other\ndef helper(): return other.value", r"'other\.value' goes thr"),
        ("import PACKAGE.other as o\ndef helper(): return o.value", r"'o\.value' goes through"),
        ("import numpy as np\ndef helper(): return np.zeros(1)", r"'np\.zeros' comes from numpy"),
        ("def helper(): return nowhere", "'nowhere' is not defined"),
        ("def helper():\n    import numpy\n    return numpy", "helper imports 'numpy' inside"),
        ("from PACKAGE.barred import secret\ndef helper(): return secret", "must not use"),
        ("X = 1\nX = 2\ndef helper(): return X", "'X' is defined more than once"),
    ],
)
def test_code_that_cannot_stand_alone_is_named(package, code, message):
    code = textwrap.dedent(code) + "\n\nclass Main:\n    of = staticmethod(helper)\n"
    *_, main = package(other="value = 1", barred="secret = 1", main=code)
    package_name = main.__name__.partition(".")[0]
    with pytest.raises(RuntimeError, match=message):
        collect([main.Main], barred=[f"{package_name}.barred"])


def test_one_name_imported_for_two_things_is_an_error(package):
    first, second = package(
        first="from math import sqrt\nclass A:\n    of = sqrt\n",
        second="from torch import sqrt\nclass B:\n    of = sqrt\n",
    )
    with pytest.raises(RuntimeError, match="'sqrt' is imported as both"):
        collect([first.A, second.B])


def test_two_spellings_of_one_import_become_one(package):
    first, second = package(
        first="import torch.nn as nn\nclass A(nn.Module):\n    pass\n",
        second="from torch import nn\nclass B(nn.Module):\n    pass\n",
    )
    assert collect([first.A, second.B]).imports.endswith("from torch import nn")


def test_imports_are_sorted():
    wanted = [
        Import("torch"),
        Import("torch", "nn"),
        Import("torch.nn.functional", None, "F"),
        Import("torch", "Tensor"),
        Import("math"),
        Import("collections.abc", "Sequence"),
    ]
    assert format_imports(wanted).splitlines() == [
        "from __future__ import annotations",
        "",
        "import math",
        "from collections.abc import Sequence",
        "",
        "import torch",
        "import torch.nn.functional as F",
        "from torch import Tensor, nn",
    ]


def test_a_name_that_nothing_defines_is_found():
    check_names("import torch\n\n\ndef of(x):\n    return torch.relu(len(x))\n")
    with pytest.raises(RuntimeError, match=r"'cost\.linear' is not defined"):
        check_names("def of(x):\n    return cost.linear(x)\n")


def test_what_a_function_with_a_gradient_of_its_own_needs_is_collected(package):
    (main,) = package(
        main="""
            import torch
            from torch import nn

            SCALE = {"up": 3.0}

            def scaled(x):
                return SCALE["up"] * x

            class Scale(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x):
                    return scaled(x)

                @staticmethod
                def backward(ctx, gradient):
                    return scaled(scaled(gradient))

            class Main(nn.Module):
                def forward(self, x):
                    return Scale.apply(x)
        """,
    )
    found = run(collect([main.Main]))
    x = torch.ones(2, requires_grad=True)
    y = found["Main"]()(x)
    y.sum().backward()
    assert y.tolist() == [3.0, 3.0]
    assert x.grad.tolist() == [9.0, 9.0]


def test_summaries_are_the_first_sentence_and_the_papers(package):
    said, silent, hostile = package(said="X = 1\n", silent="X = 1\n", hostile="X = 1\n")
    said.__doc__ = """A mixer (of one, and two): it mixes "a, b", which is much. And
    more.

    Sources: arXiv 1706.03762, section 3; 2010.11929, and 1706.03762 again; then 2103.14030,
    2105.01601 and 2201.03545.
    """
    papers = "(arXiv 1706.03762, 2010.11929)"
    assert summaries_of(said.__name__) == [
        f"A mixer (of one, and two): it mixes 'a, b', which is much {papers}.",
        f"A mixer (of one, and two): it mixes 'a, b' {papers}.",
        f"A mixer (of one, and two) {papers}.",
    ]
    assert summaries_of(silent.__name__) == [""]
    hostile.__doc__ = '"""\\'
    assert ast.literal_eval(f'"""{summaries_of(hostile.__name__)[0]}"""')
