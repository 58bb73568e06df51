"""One class in place of several that stand inside each other.

The modules of a part are put together from small ones: a residual around a branch, a norm in front.
An engineer would write them as one class whose `forward` says what happens. `flattened` makes that
class: it takes the constructor call apart, runs through the `__init__` and `forward` of each class
with the arguments that it gets here, and joins what is left. Layers get names of their own, and
`Flattened.origins` says under which path each stood before, so that weights find their place.

Only what is straight on is joined: classes that derive from `nn.Module`, or from another such
class, with a `forward` without loops and without branches that are still open. All others stay
modules.
"""

from __future__ import annotations

import ast
import copy
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from results.folding import (
    Folder,
    Scoped,
    Unknown,
    bind,
    bound_in,
    dotted,
    is_identity,
    is_none,
    name_node,
    of_self,
    self_attribute,
    truth,
    with_keywords,
    without_docstring,
)
from results.layout import words_of

MERGED = 76  # characters of an expression that takes in the one before it
_GENERIC = ("x", "y", "z")  # locals that say nothing
_ZERO = "start_at_zero"  # the function of `space.layers` that looks for a module's last layer
# Layers without weights as the functions that they call.
_FUNCTIONS = {
    "nn.GELU()": "F.gelu",
    "nn.ReLU()": "F.relu",
    "nn.ReLU6()": "F.relu6",
    "nn.SiLU()": "F.silu",
    "nn.Hardswish()": "F.hardswish",
    "nn.Hardsigmoid()": "F.hardsigmoid",
    "nn.Sigmoid()": "torch.sigmoid",
    "nn.Tanh()": "torch.tanh",
}


@dataclass(frozen=True, slots=True)
class Flattened:
    """`__init__` behind `super().__init__()`, `forward` with its arguments, and origin of each
    attribute that moved: name -> path below the module that was flattened."""

    init: list[ast.stmt]
    forward: ast.FunctionDef
    origins: Mapping[str, str]
    taken_apart: Collection[str]  # classes that may go


Classes = Mapping[str, ast.ClassDef]


def flattened(
    call: ast.Call, classes: Classes, kept: Collection[str], whole: Collection[str] = ()
) -> Flattened | None:
    """What a module is made of and does, as one class; None where its class has to stay.

    `classes` are those of the file; those in `kept` stay modules wherever they stand, and so do
    attributes that are called as one of `whole`.
    """
    held: set[str] = set()
    while True:
        work = _Work(classes, kept, held, whole)
        try:
            return work.whole(call)
        except _Again as again:
            held.add(again.path)
        except Unknown:
            return None


class _Again(Exception):
    """A module was taken apart that is used otherwise too; it must be held together."""

    def __init__(self, path: str):
        super().__init__(path)
        self.path = path


@dataclass(slots=True)
class _Line:
    """`targets = value`; without targets what is returned."""

    targets: tuple[str, ...]
    value: ast.expr
    is_passing: bool = False  # a value on its way into a module, not a name that somebody gave


@dataclass(eq=False)
class _Frame:
    """A module that is taken apart: what its attributes are, by name, and where it stands."""

    path: str
    bases: list[ast.ClassDef]  # its class, and those that this derives from
    attributes: dict[str, ast.expr] = field(default_factory=dict)
    entries: list[tuple[str, ast.stmt]] = field(default_factory=list)  # attribute or "", statement
    frames: dict[str, _Frame] = field(default_factory=dict)  # children that are taken apart

    def method(self, name: str, above: ast.ClassDef | None = None) -> ast.FunctionDef:
        """The method, of the classes behind `above` where that is given."""
        start = 0 if above is None else self.bases.index(above) + 1
        for cls in self.bases[start:]:
            for node in cls.body:
                if isinstance(node, ast.FunctionDef) and node.name == name:
                    if node.decorator_list:
                        raise Unknown(f"{name} is decorated")
                    return node
        raise Unknown(f"no method {name}")

    def owner(self, function: ast.FunctionDef) -> ast.ClassDef:
        return next(cls for cls in self.bases if function in cls.body)


class _Work:
    """Takes one module apart; `held` are the paths of those below it that must not be."""

    def __init__(
        self, classes: Classes, kept: Collection[str], held: set[str], whole: Collection[str]
    ):
        self.classes = classes
        self.kept = kept
        self.held = set(held)
        self.whole_names = whole
        self.lines: list[_Line] = []
        self.count = 0
        self.taken_apart: set[str] = set()

    def whole(self, call: ast.Call) -> Flattened:
        if dotted(call.func) == "nn.Sequential":
            return self._whole_chain(call)
        frame = self.frame(call, "")
        function = frame.method("forward")
        wanted = function.args.args[1 : len(function.args.args) - len(function.args.defaults)]
        given: list[ast.expr] = [self.new_local(argument.arg) for argument in wanted]
        result = self.run(frame, function, ast.Call(name_node(function.name), given, []))
        names = ast.arguments([], [function.args.args[0], *wanted], None, [], [], None, [])
        signature = ast.FunctionDef("forward", names, [], [], function.returns)
        return self._written(frame, signature, result, given)

    def _whole_chain(self, call: ast.Call) -> Flattened:
        """A sequence as a class, where some of its layers can be taken apart."""
        around, given = _Frame("", []), self.new_local("x")
        around.attributes["chain"] = call
        result = self._chain(around, "chain", call, ast.Call(call.func, [given], []), path="")
        if result is None:
            raise Unknown("a sequence of layers alone")
        tensor = name_node("Tensor")
        arguments = [ast.arg("self"), ast.arg("x", tensor)]
        names = ast.arguments([], arguments, None, [], [], None, [])
        signature = ast.FunctionDef("forward", names, [], [], tensor)
        return self._written(around.frames["chain"], signature, result, [given])

    def _written(
        self, frame: _Frame, forward: ast.FunctionDef, result: ast.expr, given: Sequence[ast.expr]
    ) -> Flattened:
        lines = _merged([*self.lines, _Line((), result)])
        _name_locals(lines, [local.id for local in given if isinstance(local, ast.Name)])
        forward.body = [_statement(line) for line in lines]
        init, origins = _init(frame, forward.body)
        return Flattened(init, forward, origins, self.taken_apart)

    # ---- __init__

    def frame(self, call: ast.Call, path: str) -> _Frame:
        """The module that a call makes, taken apart; Unknown where that cannot be."""
        cls = self.classes.get(dotted(call.func))
        if cls is None:
            raise Unknown("not a class of the file")
        bases = [cls]
        while (base := dotted(bases[-1].bases[0])) != "nn.Module":
            if len(bases[-1].bases) != 1 or base not in self.classes:
                raise Unknown(f"derives from {base}")
            bases.append(self.classes[base])
        if any(_owns_parameters(base) for base in bases):
            raise Unknown("has weights of its own")
        self.taken_apart.update(base.name for base in bases)
        frame = _Frame(path, bases)
        try:
            init = frame.method("__init__")
        except Unknown:
            if call.args or call.keywords:
                raise
            return frame
        self._construct(frame, init, bind(init, call))
        return frame

    def _construct(
        self, frame: _Frame, init: ast.FunctionDef, binding: dict[str, ast.expr]
    ) -> None:
        above = frame.owner(init)
        body = without_docstring(init.body)
        while body:
            statement = body.pop(0)
            folder = _InitFolder(binding, frame)
            if isinstance(statement, ast.If):
                test = folder.fold(statement.test)
                known = truth(test)
                if known is None:
                    raise Unknown("a branch that is still open")
                body = [*(statement.body if known else statement.orelse), *body]
                continue
            if isinstance(statement, ast.AnnAssign) and statement.value is not None:
                statement = ast.Assign([statement.target], statement.value)
            if isinstance(statement, ast.Assign):
                (target,) = statement.targets
                if isinstance(target, ast.Tuple):
                    if not isinstance(statement.value, ast.Tuple):
                        raise Unknown("unpacks")
                    pairs = zip(target.elts, statement.value.elts, strict=True)
                    body = [*(ast.Assign([t], v) for t, v in pairs), *body]
                    continue
                value = folder.fold(statement.value)
                if name := of_self(target):
                    self._attribute(frame, name, value)
                    if isinstance(value, ast.Call):
                        used = {n.id for n in ast.walk(statement.value) if isinstance(n, ast.Name)}
                        for known_as in used & set(binding):
                            if isinstance(binding[known_as], ast.Call):
                                binding[known_as] = self_attribute(_joined(frame.path, name))
                elif isinstance(target, ast.Name):
                    binding[target.id] = value
                else:
                    raise Unknown("stores elsewhere")
                continue
            call = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
                try:
                    base = frame.method("__init__", above)
                except Unknown:
                    continue
                opened = with_keywords(call, binding)
                given = folder.fold(opened)
                assert isinstance(given, ast.Call)
                self._construct(frame, base, bind(base, given))
                continue
            name = of_self(call.func) if isinstance(call, ast.Call) else ""
            if name and name not in frame.attributes:
                method = frame.method(name)
                given = folder.fold(call)  # type: ignore[arg-type]
                assert isinstance(given, ast.Call)
                inner = bind(method, given)
                self._construct(frame, method, inner)
                continue
            (folded,) = folder.statements([statement])
            frame.entries.append(("", folded))

    @staticmethod
    def _attribute(frame: _Frame, name: str, value: ast.expr) -> None:
        if name in frame.attributes:
            frame.entries = [entry for entry in frame.entries if entry[0] != name]
        frame.attributes[name] = value
        target = self_attribute(_joined(frame.path, name))
        frame.entries.append((name, ast.Assign([target], value)))

    # ---- forward

    def new_local(self, name: str) -> ast.Name:
        self.count += 1
        return name_node(f"{name}@{self.count}")

    def run(self, frame: _Frame, function: ast.FunctionDef, call: ast.Call) -> ast.expr:
        """What a method gives; what it does on the way there is added to the lines."""
        env: dict[str, ast.expr] = {}
        for name, value in bind(function, call).items():
            if isinstance(value, ast.Name | ast.Constant) or of_self(value):
                env[name] = value
            else:
                env[name] = self._emit(name, value, is_passing=True)
        body = without_docstring(function.body)
        while body:
            statement = body.pop(0)
            step = _Step(self, frame, function, env)
            if isinstance(statement, ast.If):
                known = truth(step.fold(statement.test))
                if known is None:
                    raise Unknown("a branch that is still open")
                body = [*(statement.body if known else statement.orelse), *body]
            elif isinstance(statement, ast.Return) and statement.value is not None:
                return step.fold(statement.value)
            elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                value = step.fold(statement.value)
                target = statement.targets[0]
                if isinstance(target, ast.Name):
                    is_known = isinstance(value, ast.Name | ast.Constant)
                    env[target.id] = value if is_known else self._emit(target.id, value)
                elif isinstance(target, ast.Tuple):
                    names = [self._target(element) for element in target.elts]
                    made = [self.new_local(name) for name in names]
                    self.lines.append(_Line(tuple(local.id for local in made), value))
                    env.update(zip(names, made, strict=True))
                else:
                    raise Unknown("stores elsewhere")
            else:
                raise Unknown("is not straight on")
        raise Unknown("returns nothing")

    @staticmethod
    def _target(node: ast.expr) -> str:
        if not isinstance(node, ast.Name):
            raise Unknown("unpacks into more than names")
        return node.id

    def _emit(self, name: str, value: ast.expr, *, is_passing: bool = False) -> ast.Name:
        local = self.new_local(name)
        self.lines.append(_Line((local.id,), value, is_passing))
        return local

    def child(self, frame: _Frame, name: str, call: ast.Call) -> ast.expr | None:
        """What a call of the module `self.name` gives where that is taken apart, else None."""
        value = frame.attributes[name]
        path = _joined(frame.path, name)
        is_held = path in self.held or name in self.whole_names
        if not isinstance(value, ast.Call) or is_held:
            return None
        if name in frame.frames:
            raise _Again(path)
        stated = [node for found, node in frame.entries if not found and not _zeroed(node)]
        if any(of_self(node) == path for top in stated for node in ast.walk(top)):
            return None
        if dotted(value.func) == "nn.Sequential":
            return self._chain(frame, name, value, call)
        if dotted(value.func) in self.kept:
            return None
        before = (len(self.lines), self.count)
        try:
            inner = self.frame(value, path)
            frame.frames[name] = inner
            return self.run(inner, inner.method("forward"), call)
        except Unknown:
            del self.lines[before[0] :]
            frame.frames.pop(name, None)
            return None

    def _chain(
        self,
        frame: _Frame,
        name: str,
        value: ast.Call,
        call: ast.Call,
        path: str | None = None,
    ) -> ast.expr | None:
        """A sequence of which some layers can be taken apart."""
        if len(call.args) != 1 or call.keywords:
            return None
        layers = value.args
        if not all(isinstance(layer, ast.Call) for layer in layers):
            return None
        before = len(self.lines)
        chain = _Frame(_joined(frame.path, name) if path is None else path, [])
        for i, layer in enumerate(layers):
            chain.attributes[str(i)] = layer
            target = self_attribute(_joined(chain.path, str(i)))
            chain.entries.append((str(i), ast.Assign([target], layer)))
        x = call.args[0]
        opened = False
        for i, layer in enumerate(layers):
            if is_identity(layer):
                continue
            assert isinstance(layer, ast.Call)
            passed: ast.expr = x
            if not isinstance(x, ast.Name):
                passed = self._emit("x", x, is_passing=True)
            inner = self.child(chain, str(i), ast.Call(self_attribute(str(i)), [passed], []))
            opened = opened or inner is not None
            x = inner or _called(layer, _joined(chain.path, str(i)), [passed])
        if not opened:
            del self.lines[before:]
            return None
        frame.frames[name] = chain
        return x


class _InitFolder(Folder):
    """Expressions of an `__init__`; attributes are named from the module that is flattened."""

    def __init__(self, names: Mapping[str, ast.expr], frame: _Frame):
        super().__init__(names, {})
        self.frame = frame

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        name = of_self(node)
        if not name:
            return self.generic_visit(node)  # type: ignore[return-value]
        known = self.frame.attributes.get(name)
        if isinstance(known, ast.Constant):
            return copy.deepcopy(known)
        found = self_attribute(_joined(self.frame.path, name))
        found.ctx = node.ctx
        return found

    def visit_Call(self, node: ast.Call) -> ast.expr:
        found = self.generic_visit(node)
        assert isinstance(found, ast.Call)
        function = found.func
        if isinstance(function, ast.Attribute) and function.attr == "get_parameter":
            (given,) = found.args
            if of_self(function.value) and isinstance(given, ast.Constant):
                return ast.Attribute(function.value, str(given.value), ast.Load())
        return found


def _called(
    value: ast.expr,
    path: str,
    arguments: Sequence[ast.expr],
    keywords: Sequence[ast.keyword] = (),
) -> ast.Call:
    """A call of the module at `path`, or of the function that it calls."""
    function = _FUNCTIONS.get(ast.unparse(value))
    called = ast.parse(function, mode="eval").body if function else self_attribute(path)
    return ast.Call(called, [*arguments], [*keywords])


def _owns_parameters(cls: ast.ClassDef) -> bool:
    return any(dotted(node) == "nn.Parameter" for node in ast.walk(cls))


class _Step(Folder):
    """Expressions of a `forward`, with locals and attributes by what they stand for."""

    def __init__(
        self, work: _Work, frame: _Frame, function: ast.FunctionDef, env: Mapping[str, ast.expr]
    ):
        super().__init__(env, {})
        self.work = work
        self.frame = frame
        self.function = function

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        name = of_self(node)
        if not name or name not in self.frame.attributes:
            if name and any(
                name == getattr(n, "name", "") for c in self.frame.bases for n in c.body
            ):
                raise Unknown("a method as a value")
            return ast.Attribute(self.visit(node.value), node.attr, node.ctx)
        known, path = self.frame.attributes[name], _joined(self.frame.path, name)
        if isinstance(known, ast.Constant):
            return copy.deepcopy(known)
        if is_identity(known):
            raise Unknown("an identity as a value")
        if name in self.frame.frames:
            raise _Again(path)
        self.work.held.add(path)
        return self_attribute(path)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        name = of_self(node.left)
        known = self.frame.attributes.get(name)
        if known is not None and isinstance(known, ast.Call | ast.Constant):
            none = isinstance(known, ast.Constant) and known.value is None
            (op,), (right,) = node.ops[:1], node.comparators[:1]
            if isinstance(right, ast.Constant) and right.value is None:
                return ast.Constant(none == isinstance(op, ast.Is))
        return super().visit_Compare(node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if ast.unparse(node.func).startswith("super()."):
            assert isinstance(node.func, ast.Attribute)
            above = self.frame.owner(self.function)
            method = self.frame.method(node.func.attr, above)
            return self.work.run(self.frame, method, self._arguments(node))
        name = of_self(node.func)
        if name in self.frame.attributes:
            call = self._arguments(node)
            value = self.frame.attributes[name]
            if is_identity(value):
                return call.args[0]
            found = self.work.child(self.frame, name, call)
            if found is not None:
                return found
            return _called(value, _joined(self.frame.path, name), call.args, call.keywords)
        if name:
            return self.work.run(self.frame, self.frame.method(name), self._arguments(node))
        return self._arguments(node, self.visit(node.func))

    def _arguments(self, node: ast.Call, function: ast.expr | None = None) -> ast.Call:
        arguments = [self.visit(argument) for argument in node.args]
        keywords = [ast.keyword(given.arg, self.visit(given.value)) for given in node.keywords]
        if dotted(node.func).startswith("F."):  # whose arguments are left out by None
            keywords = [given for given in keywords if not is_none(given.value)]
        return ast.Call(function or node.func, arguments, keywords)


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


# ---- lines


def _merged(lines: list[_Line]) -> list[_Line]:
    """The lines with values that are only passed on written where they go, as far as that reads."""
    done = False
    while not done:
        done = True
        uses = Counter(node.id for line in lines for node in _locals(line.value))
        for i, line in enumerate(lines[:-1]):
            if len(line.targets) != 1 or uses[line.targets[0]] != 1:
                continue
            (target,) = line.targets
            place = next(k for k in range(i + 1, len(lines)) if _uses(lines[k].value, target))
            if _in_scope(lines[place].value, target):
                continue
            generic = line.is_passing or target.partition("@")[0] in _GENERIC
            value = Folder({target: line.value}, {}).fold(lines[place].value)
            if _width(value) > (MERGED if line.is_passing else MERGED // 2) or not generic:
                continue
            lines[place].value = value
            del lines[i]
            done = False
            break
    return lines


def _locals(node: ast.AST) -> Iterator[ast.Name]:
    return (n for n in ast.walk(node) if isinstance(n, ast.Name) and "@" in n.id)


def _uses(node: ast.AST, name: str) -> bool:
    return any(local.id == name for local in _locals(node))


def _in_scope(node: ast.AST, name: str) -> bool:
    """Whether a local stands inside a comprehension or a lambda."""
    return any(isinstance(n, Scoped) and _uses(n, name) for n in ast.walk(node))


def _width(node: ast.expr) -> int:
    return len(re.sub(r"\w+/|@\d+", "", ast.unparse(node)))


def _name_locals(lines: Sequence[_Line], given: Sequence[str]) -> None:
    """Gives locals names that can be read: the same again as soon as the one before is not needed
    any more."""
    last = {node.id: i for i, line in enumerate(lines) for node in _locals(line.value)}
    hidden: dict[str, set[str]] = {}  # names that a comprehension around a use means otherwise
    for line in lines:
        for scope in (n for n in ast.walk(line.value) if isinstance(n, Scoped)):
            for node in _locals(scope):
                hidden.setdefault(node.id, set()).update(bound_in(scope))
    taken = {n.id for line in lines for n in ast.walk(line.value) if isinstance(n, ast.Name)}
    names = {local: local.partition("@")[0] for local in given}
    holders = {names[local]: local for local in given}
    for i, line in enumerate(lines):
        for target in line.targets:
            base = target.partition("@")[0]
            for name in _candidates(base):
                holder = holders.get(name)
                is_free = holder is None or (
                    last.get(holder, -1) <= i and holder not in line.targets
                )
                if is_free and name not in hidden.get(target, ()) and name not in taken:
                    holders[name], names[target] = target, name
                    break
    for line in lines:
        for node in _locals(line.value):
            node.id = names[node.id]
        line.targets = tuple(names[target] for target in line.targets)


def _candidates(base: str) -> Iterator[str]:
    yield from _GENERIC if base in _GENERIC else (base,)
    base = _GENERIC[-1] if base in _GENERIC else base
    number = 2
    while True:
        yield f"{base}{number}"
        number += 1


def _statement(line: _Line) -> ast.stmt:
    if not line.targets:
        return ast.Return(line.value)
    names: list[ast.expr] = [ast.Name(target, ast.Store()) for target in line.targets]
    return ast.Assign([names[0] if len(names) == 1 else ast.Tuple(names, ast.Store())], line.value)


# ---- attributes


def _init(frame: _Frame, body: Sequence[ast.stmt]) -> tuple[list[ast.stmt], dict[str, str]]:
    """What `__init__` does, with final names, which `body` gets too; and the origins of these."""
    entries = [*_entries(frame)]
    stated = [node for is_attribute, node in entries if not is_attribute]
    used = {of_self(node) for top in (*body, *stated) for node in ast.walk(top)}
    kept = [
        (path, node)
        for path, node in entries
        if not path or path in used or (isinstance(node, ast.Assign) and _has_weights(node.value))
    ]
    values = {path: node.value for path, node in kept if path and isinstance(node, ast.Assign)}
    names = _names(values)
    for top in (*body, *(node for _, node in kept)):
        for node in ast.walk(top):
            if (path := of_self(node)) in names:
                node.attr = names[path]  # type: ignore[attr-defined]
    origins = {name: path.replace("/", ".") for path, name in names.items() if name != path}
    return [node for _, node in kept], origins


def _entries(frame: _Frame) -> Iterator[tuple[str, ast.stmt]]:
    for name, node in frame.entries:
        if name in frame.frames:
            yield from _entries(frame.frames[name])
        elif name:
            yield _joined(frame.path, name), node
        else:
            yield "", _with_last_layer(node, frame)


def _zeroed(node: ast.stmt) -> str:
    """`a` for the statement `start_at_zero(self.a)`, nothing for others."""
    call = node.value if isinstance(node, ast.Expr) else None
    return (
        of_self(call.args[0]) if isinstance(call, ast.Call) and dotted(call.func) == _ZERO else ""
    )


def _with_last_layer(node: ast.stmt, frame: _Frame) -> ast.stmt:
    """`start_at_zero` of the last layer of a module that was taken apart."""
    path = _zeroed(node)
    while path:
        inner = frame.frames.get(path.rpartition("/")[2] if "/" in path else path)
        if inner is None:
            break
        layers = [name for name, made in inner.entries if name and _may_have_weights(made)]
        frame, path = inner, _joined(inner.path, layers[-1])
    if not path:
        return node
    call = ast.Call(name_node(_ZERO), [self_attribute(path)], [])
    return ast.Expr(call)


def _may_have_weights(node: ast.stmt) -> bool:
    value = node.value if isinstance(node, ast.Assign) else None
    return isinstance(value, ast.Call) and _has_weights(value) and "Pool" not in dotted(value.func)


def _has_weights(value: ast.expr) -> bool:
    is_module = isinstance(value, ast.Call) and not is_identity(value)
    return is_module and ast.unparse(value) not in _FUNCTIONS


def _names(values: Mapping[str, ast.expr]) -> dict[str, str]:
    """Path -> name: the end of the path that is no other's, in words where that is a number."""
    words = {path: _words(path, value) for path, value in values.items()}
    names: dict[str, str] = {}
    for path, parts in words.items():
        for length in range(1, len(parts) + 1):
            name = "_".join(parts[-length:])
            alike = [p for p, other in words.items() if "_".join(other[-length:]) == name]
            if len(alike) == 1 and name not in names.values():
                break
        number, first = 2, name
        while name in names.values():
            name, number = f"{first}_{number}", number + 1
        names[path] = name
    return names


_EMPTY = ("branch", "layer", "layers", "part")  # say nothing of what stands below them
_KINDS = {
    "Conv2d": "convolution",
    "PaddedConvolution": "convolution",
    "Linear": "linear",
    "Pointwise": "linear",
    "LayerNorm2d": "norm",
    "BatchNorm2d": "norm",
    "GELU": "activation",
    "ReLU": "activation",
}


def _words(path: str, value: ast.expr) -> list[str]:
    """The steps of a path; the place of a layer in a sequence says nothing, its kind does."""
    steps = path.split("/")
    words = [
        step
        for i, step in enumerate(steps)
        if not step.isdigit() and (step not in _EMPTY or i == len(steps) - 1)
    ]
    if steps[-1].isdigit() and isinstance(value, ast.Call):
        cls = dotted(value.func).rpartition(".")[2]
        words.append(_KINDS.get(cls) or "_".join(words_of(cls)))
    words = words or ["layer"]
    if words[-1] in ("weight", "bias") and len(words) > 1:  # a parameter of what was a module
        words[-2:] = [f"{words[-2]}_{words[-1]}"]
    return words
