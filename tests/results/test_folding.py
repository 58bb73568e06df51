"""What is folded gives what Python gives when it runs the whole."""

from __future__ import annotations

import ast
import itertools

import pytest

from results.folding import Folder, Unknown, bind


def expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def folded(text: str, **names: object) -> str:
    known = {name: expression(repr(value)) for name, value in names.items()}
    return ast.unparse(Folder(known, {}).fold(expression(text)))


EXPRESSIONS = [
    "a if b else c",
    "a or b or c",
    "a and b",
    "not a",
    "a is None",
    "a is not None",
    "a == b",
    "a != b or c",
    "a < b if a else b <= c",
    "a > b",
    "a * b + c // 2",
    "(a + 1) ** 2 - b",
    "[c for c in (a, b)] + [c]",
    "(lambda a: a + b)(c)",
    "a * 1 + b // 1 - -(-c)",
    "{a: b for a in (c,)}",
    "len((a, b)) + len([c, *[a, b]])",
    "[a, *(b, c)][1]",
    "(a, b, c)[-1] + 0",
    "0 + int(a)",
    "f'{a}x{b}, {c!r} {(a, b)}{a:>3}'",
    "[a] if [b] else (c,) and ()",
]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_folded_is_what_python_computes(text):
    for a, b, c in itertools.product((0, 1, 5), repeat=3):
        found = folded(text, a=a, b=b, c=c)
        assert eval(found) == eval(text, {"a": a, "b": b, "c": c}), (text, a, b, c)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_what_is_not_known_stays_open(text):
    for a, b, c in itertools.product((0, 1, 5), repeat=3):
        scope = {"a": a, "b": b, "c": c}
        for name in scope:
            found = folded(text, **{name: scope[name]})
            assert eval(found, dict(scope)) == eval(text, dict(scope)), (text, name, scope)


def test_a_call_of_a_class_is_true_and_not_none():
    assert folded("norm or nn.Identity()", norm=None) == "nn.Identity()"
    known = {"norm": expression("LayerNorm2d(8)")}
    assert ast.unparse(Folder(known, {}).fold(expression("norm or nn.Identity()"))) == (
        "LayerNorm2d(8)"
    )
    assert ast.unparse(Folder(known, {}).fold(expression("norm is None"))) == "False"
    assert folded("f(8) or 1") == "f(8) or 1"  # a function may give anything


def test_branches_that_are_never_taken_go():
    body = ast.parse(
        "if a is None:\n    y = 1\nelif b:\n    y = 2\nelse:\n    y = 3\nreturn_ = y\n"
    ).body

    def run(**names: object) -> str:
        known = {name: expression(repr(value)) for name, value in names.items()}
        return "\n".join(ast.unparse(node) for node in Folder(known, {}).statements(body))

    assert run(a=None) == "y = 1\nreturn_ = y"
    assert run(a=1, b=0) == "y = 3\nreturn_ = y"
    assert run(a=1) == "if b:\n    y = 2\nelse:\n    y = 3\nreturn_ = y"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("f(1, 2)", {"a": "1", "b": "2", "c": "None", "d": "4", "**more": "dict()"}),
        ("f(b=1, a=2, d=3)", {"a": "2", "b": "1", "c": "None", "d": "3", "**more": "dict()"}),
        ("f(1, 2, 3, e=5)", {"a": "1", "b": "2", "c": "3", "d": "4", "**more": "dict(e=5)"}),
    ],
)
def test_arguments_are_bound_as_python_binds_them(call, expected):
    (function,) = ast.parse("def f(self, a, b, c=None, *, d=4, **more): pass").body
    assert isinstance(function, ast.FunctionDef)
    found = bind(function, expression(call))  # type: ignore[arg-type]
    assert {name: ast.unparse(value) for name, value in found.items()} == expected


@pytest.mark.parametrize("call", ["f()", "f(1, 2, 3)", "f(*x)", "f(**x)", "f(1, c=2)"])
def test_what_cannot_be_bound_is_unknown(call):
    (function,) = ast.parse("def f(self, a, b=0): pass").body
    assert isinstance(function, ast.FunctionDef)
    with pytest.raises(Unknown):
        bind(function, expression(call))  # type: ignore[arg-type]
