"""Source that is known beforehand: constants for names, and branches that are never taken.

Expressions are folded as Python would run them, as far as that follows from what is written:
whether something is None, whether it is true, and which branch follows.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeGuard

NONE = ast.Constant(None)
Scoped = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp | ast.Lambda


def dotted(node: ast.AST) -> str:
    """`nn.Sequential` for that expression, nothing for one that is more than names and dots."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def name_node(text: str) -> ast.Name:
    """The expression `text`, a name."""
    return ast.Name(text, ast.Load())


def self_attribute(text: str) -> ast.Attribute:
    """The expression `self.text`."""
    return ast.Attribute(name_node("self"), text, ast.Load())


def of_self(node: ast.AST) -> str:
    """`a` for `self.a`, nothing for anything else."""
    known = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    return node.attr if known and node.value.id == "self" else ""  # type: ignore[attr-defined]


def makes_module(node: ast.AST) -> bool:
    """Whether an expression is a call of a class, or anything marked as giving a module: what it
    gives is true, and not None."""
    if getattr(node, "makes_module", False):
        return True
    if not isinstance(node, ast.Call):
        return False
    last = dotted(node.func).rpartition(".")[2].lstrip("_")
    return last[:1].isupper()


def is_identity(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Call) and dotted(node.func) == "nn.Identity"


def truth(node: ast.expr) -> bool | None:
    """Whether an expression is true, None where that is not known."""
    if isinstance(node, ast.Constant):
        return bool(node.value)
    if isinstance(node, ast.Tuple | ast.List):
        return bool(node.elts) if not any(isinstance(e, ast.Starred) for e in node.elts) else None
    return True if makes_module(node) else None


def is_none(node: ast.expr) -> bool | None:
    """Whether an expression is None, None where that is not known."""
    if isinstance(node, ast.Constant):
        return node.value is None
    return False if truth(node) else None


_TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.Gt: ast.Lt,
    ast.LtE: ast.GtE,
    ast.GtE: ast.LtE,
    ast.Eq: ast.Eq,
    ast.NotEq: ast.NotEq,
}


class Folder(ast.NodeTransformer):
    """Replaces names and attributes of `self` by what they are known to be, and folds.

    `names` and `attributes` give expressions; names that a comprehension binds hide others inside.
    """

    def __init__(self, names: Mapping[str, ast.expr], attributes: Mapping[str, ast.expr]):
        self.names = dict(names)
        self.attributes = attributes

    def fold(self, node: ast.expr) -> ast.expr:
        """A new expression; the old one is left as it is."""
        return self.visit(copy.deepcopy(node))

    def visit_Name(self, node: ast.Name) -> ast.expr:
        known = isinstance(node.ctx, ast.Load) and node.id in self.names
        return copy.deepcopy(self.names[node.id]) if known else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        stored = of_self(node)
        if stored in self.attributes and isinstance(node.ctx, ast.Load):
            return copy.deepcopy(self.attributes[stored])
        return self.generic_visit(node)  # type: ignore[return-value]

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        test = self.visit(node.test)
        known = truth(test)
        if known is None:
            body, orelse = self.visit(node.body), self.visit(node.orelse)
            return body if ast.dump(body) == ast.dump(orelse) else ast.IfExp(test, body, orelse)
        return self.visit(node.body if known else node.orelse)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        stops = isinstance(node.op, ast.Or)  # at the first that is true
        values: list[ast.expr] = []
        for given in node.values:
            value = self.visit(given)
            known = truth(value)
            if known is not None and known != stops and given is not node.values[-1]:
                continue
            values.append(value)
            if known == stops:
                break
        return values[0] if len(values) == 1 else ast.BoolOp(node.op, values)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        operand = self.visit(node.operand)
        if (
            isinstance(operand, ast.UnaryOp)
            and isinstance(node.op, ast.USub)
            and isinstance(operand.op, ast.USub)
        ):
            return operand.operand
        known = truth(operand) if isinstance(node.op, ast.Not) else None
        return ast.Constant(not known) if known is not None else ast.UnaryOp(node.op, operand)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        left, others = self.visit(node.left), [self.visit(other) for other in node.comparators]
        found = ast.Compare(left, node.ops, others)
        if len(others) != 1:
            return found
        (op,), (right,) = node.ops, others
        if isinstance(op, ast.Is | ast.IsNot) and isinstance(right, ast.Constant):
            none = is_none(left) if right.value is None else None
            return found if none is None else ast.Constant(none == isinstance(op, ast.Is))
        if isinstance(left, ast.Constant) and isinstance(right, ast.Constant):
            held = _compared(left.value, op, right.value)
            return found if held is None else ast.Constant(held)
        if isinstance(left, ast.Constant) and type(op) in _TURNED:
            return ast.Compare(right, [_TURNED[type(op)]()], [left])
        return found

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        left, right = self.visit(node.left), self.visit(node.right)
        if _is_int(left) and _is_int(right):
            value = _counted(int(left.value), node.op, int(right.value))  # type: ignore[arg-type]
            return ast.BinOp(left, node.op, right) if value is None else ast.Constant(value)
        if isinstance(node.op, ast.FloorDiv) and _is_int(right, 1):
            return left
        if isinstance(node.op, ast.Add) and (_is_int(left, 0) or _is_int(right, 0)):
            return right if _is_int(left, 0) else left
        if isinstance(node.op, ast.Add) and _is_less_by(left, right):
            return left.left  # a - 1 + 1
        if isinstance(node.op, ast.Mult) and (_is_int(right, 1) or _is_int(left, 1)):
            return left if _is_int(right, 1) else right
        return ast.BinOp(left, node.op, right)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        found = self.generic_visit(node)
        assert isinstance(found, ast.Subscript)
        if (one := _at(found.value, found.slice)) is not None:
            return one
        parts = found.slice.elts if isinstance(found.slice, ast.Tuple) else [found.slice]
        return found.value if all(_takes_all(part) for part in parts) else found

    def visit_Call(self, node: ast.Call) -> ast.expr:
        found = self.generic_visit(node)
        assert isinstance(found, ast.Call)
        return counted_call(found)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        """Numbers in a text become part of it."""
        self.generic_visit(node)
        parts: list[ast.expr] = []
        for part in node.values:
            value = part.value if isinstance(part, ast.FormattedValue) else None
            said = _said(value) if value is not None else None
            if said is not None and part.conversion == -1 and part.format_spec is None:  # type: ignore[attr-defined]
                part = ast.Constant(said)
            before = parts[-1] if parts else None
            if isinstance(part, ast.Constant) and isinstance(before, ast.Constant):
                parts[-1] = ast.Constant(str(before.value) + str(part.value))
            else:
                parts.append(part)
        return ast.JoinedStr(parts)

    def visit_List(self, node: ast.List) -> ast.expr:
        return self._opened(node)

    def visit_Tuple(self, node: ast.Tuple) -> ast.expr:
        return self._opened(node)

    def _opened(self, node: ast.List | ast.Tuple) -> ast.expr:
        """A list or tuple with what `*` puts in where that is written out."""
        self.generic_visit(node)
        elements: list[ast.expr] = []
        for one in node.elts:
            inner = one.value if isinstance(one, ast.Starred) else None
            elements += inner.elts if isinstance(inner, ast.List | ast.Tuple) else [one]
        node.elts = elements
        return node

    def visit_ListComp(self, node: ast.ListComp) -> ast.expr:
        return self._scoped(node)

    def visit_SetComp(self, node: ast.SetComp) -> ast.expr:
        return self._scoped(node)

    def visit_DictComp(self, node: ast.DictComp) -> ast.expr:
        return self._scoped(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> ast.expr:
        return self._scoped(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        return self._scoped(node)

    def _scoped(self, node: Scoped) -> ast.expr:
        if isinstance(node, ast.Lambda):
            bound = {argument.arg for argument in node.args.args}
            outer: list[ast.comprehension] = []
        else:
            bound = bound_in(node)
            outer = node.generators[:1]
        for generator in outer:  # what is gone through first belongs to the scope around
            generator.iter = self.visit(generator.iter)
        hidden = {inner: self.names.pop(inner) for inner in bound & set(self.names)}
        kept = [(generator, generator.iter) for generator in outer]
        for generator, _ in kept:
            generator.iter = NONE
        found = self.generic_visit(node)
        for generator, whole in kept:
            generator.iter = whole
        self.names.update(hidden)
        return found  # type: ignore[return-value]

    # ---- statements

    def statements(self, body: Iterable[ast.stmt]) -> list[ast.stmt]:
        """The statements folded, without branches that are never taken and without what stands
        behind a return or a raise."""
        found: list[ast.stmt] = []
        for statement in body:
            if isinstance(statement, ast.If):
                test = self.fold(statement.test)
                known = truth(test)
                if known is not None:
                    found += self.statements(statement.body if known else statement.orelse)
                else:
                    inner = self.statements(statement.body)
                    orelse = self.statements(statement.orelse)
                    again = ast.If(test, inner or [ast.Pass()], orelse)
                    found.append(ast.copy_location(again, statement))
            else:
                folded = self.visit(copy.deepcopy(statement))
                if not _says_nothing(folded):
                    found.append(folded)
            if found and isinstance(found[-1], ast.Return | ast.Raise):
                break
        return found


def counted_call(call: ast.Call) -> ast.expr:
    """`len` of what is written out and `int` of a number as numbers, other calls as they are."""
    given = call.args[0] if len(call.args) == 1 and not call.keywords else None
    parts = given.elts if isinstance(given, ast.List | ast.Tuple) else None
    is_open = any(isinstance(one, ast.Starred) for one in parts or ())
    if dotted(call.func) == "len" and parts is not None and not is_open:
        return ast.Constant(len(parts))
    if dotted(call.func) == "int" and given is not None and _is_int(given):
        return given
    return call


def _said(node: ast.expr) -> str | None:
    """An integer, or a tuple of integers, as Python prints it."""
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return ast.unparse(node) if parts and all(_is_int(part) for part in parts) else None


def _is_int(node: ast.expr, value: int | None = None) -> TypeGuard[ast.Constant]:
    known = isinstance(node, ast.Constant) and type(node.value) is int
    return known and (value is None or node.value == value)  # type: ignore[attr-defined]


def _is_less_by(node: ast.expr, number: ast.expr) -> TypeGuard[ast.BinOp]:
    """Whether an expression is something less that number."""
    is_less = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and _is_int(number)
    return is_less and ast.dump(node.right) == ast.dump(number)  # type: ignore[attr-defined]


def slice_of(node: ast.expr) -> slice | None:
    """`1:` as that slice, where its ends are numbers."""
    if not isinstance(node, ast.Slice):
        return None
    ends = [node.lower, node.upper, node.step]
    if not all(end is None or _is_int(end) for end in ends):
        return None
    return slice(*(None if end is None else end.value for end in ends))  # type: ignore[attr-defined]


def _at(value: ast.expr, place: ast.expr) -> ast.expr | None:
    """The element of a list or tuple that is written out."""
    if not isinstance(value, ast.Tuple | ast.List):
        return None
    if any(isinstance(one, ast.Starred) for one in value.elts):
        return None
    try:
        at = ast.literal_eval(place)
    except ValueError:
        return None
    known = type(at) is int and -len(value.elts) <= at < len(value.elts)
    return value.elts[at] if known else None


def _takes_all(node: ast.expr) -> bool:
    """Whether a part of a subscript leaves a dimension as it is: `:`, `::1`, `...`."""
    if isinstance(node, ast.Slice):
        step = node.step is None or _is_int(node.step, 1)
        return node.lower is None and node.upper is None and step
    return isinstance(node, ast.Constant) and node.value is ...


def _says_nothing(statement: ast.stmt) -> bool:
    """Whether a statement is `x = x`."""
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Name):
        return False
    (target,) = statement.targets
    return isinstance(target, ast.Name) and target.id == statement.value.id


def _compared(left: object, op: ast.cmpop, right: object) -> bool | None:
    if isinstance(op, ast.Eq | ast.NotEq):
        return (left == right) == isinstance(op, ast.Eq)
    if isinstance(left, int | float) and isinstance(right, int | float):
        for kind, held in (
            (ast.Lt, left < right),
            (ast.LtE, left <= right),
            (ast.Gt, left > right),
            (ast.GtE, left >= right),
        ):
            if isinstance(op, kind):
                return held
    return None


def _counted(left: int, op: ast.operator, right: int) -> int | None:
    if isinstance(op, ast.Add):
        return left + right
    if isinstance(op, ast.Sub):
        return left - right
    if isinstance(op, ast.Mult):
        return left * right
    if isinstance(op, ast.FloorDiv) and right:
        return left // right
    if isinstance(op, ast.Pow) and 0 <= right < 8:
        return int(left**right)
    return None


def bound_in(node: Scoped) -> set[str]:
    """The names that a comprehension or a lambda binds."""
    if isinstance(node, ast.Lambda):
        return {argument.arg for argument in node.args.args}
    targets = [generator.target for generator in node.generators]
    return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}


# ---- calls


class Unknown(Exception):
    """What a piece of source does cannot be said beforehand."""


def is_static(method: ast.FunctionDef) -> bool:
    return [ast.unparse(given) for given in method.decorator_list] == ["staticmethod"]


def bind(function: ast.FunctionDef, call: ast.Call, *, bound: bool = True) -> dict[str, ast.expr]:
    """The arguments of a call by the function's names, defaults included; further keywords stand
    under `**name` as a call of them. `bound`: the first parameter is `self`, which is left out.

    Raises Unknown where that does not follow from what is written.
    """
    signature = function.args
    names = [argument.arg for argument in (*signature.posonlyargs, *signature.args)][bound:]
    defaults = dict(zip(reversed(names), reversed(signature.defaults), strict=False))
    for argument, default in zip(signature.kwonlyargs, signature.kw_defaults, strict=True):
        if default is not None:
            defaults[argument.arg] = default
    if signature.vararg is not None or any(isinstance(a, ast.Starred) for a in call.args):
        raise Unknown(f"{function.name} takes any number of arguments")
    if len(call.args) > len(names):
        raise Unknown(f"{function.name} takes fewer arguments")
    found: dict[str, ast.expr] = dict(zip(names, call.args, strict=False))
    names += [argument.arg for argument in signature.kwonlyargs]
    more: list[ast.keyword] = []
    for keyword in call.keywords:
        if keyword.arg is None:
            raise Unknown(f"{function.name} is called with **")
        if keyword.arg in names:
            found[keyword.arg] = keyword.value
        else:
            more.append(keyword)
    if signature.kwarg is not None:
        found[f"**{signature.kwarg.arg}"] = ast.Call(name_node("dict"), [], more)
    elif more:
        raise Unknown(f"{function.name} does not take {more[0].arg}")
    for wanted in names:
        if wanted not in found:
            if wanted not in defaults:
                raise Unknown(f"{function.name} lacks {wanted}")
            found[wanted] = defaults[wanted]
    return found


def with_keywords(call: ast.Call, binding: Mapping[str, ast.expr]) -> ast.Call:
    """The call with `**name` opened, where the binding knows what is in it."""
    keywords: list[ast.keyword] = []
    for keyword in call.keywords:
        if keyword.arg is None and isinstance(keyword.value, ast.Name):
            known = binding.get(f"**{keyword.value.id}")
            if isinstance(known, ast.Call):
                keywords += known.keywords
                continue
        keywords.append(keyword)
    return ast.Call(call.func, call.args, keywords)


def without_docstring(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return list(body[1:] if is_text else body)
