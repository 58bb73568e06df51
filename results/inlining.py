"""One class in place of several that stand inside each other.

The modules of a part are put together from small ones: a residual around a branch, a norm in front.
An engineer would write them as one class whose `forward` says what happens. `flattened` makes that
class: it takes the constructor call apart, runs through the `__init__` and `forward` of each class
with the arguments that it gets here, and joins what is left. Layers get names of their own, and
`Flattened.origins` says under which path each stood before, so that weights find their place.

Only what is straight on is joined: classes that derive from `nn.Module`, from another such class or
from a convolution, with their parameters and methods; functions; loops over modules that are known
(`for branch in self.branches`), each time round in turn; and branches that are still open where
they choose a value or raise an error. All others stay modules.
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
    counted_call,
    dotted,
    is_identity,
    is_none,
    is_static,
    name_node,
    of_self,
    self_attribute,
    slice_of,
    truth,
    with_keywords,
    without_docstring,
)
from results.layout import words_of

UNROLLED = 6  # modules of a list, at most, that are called one by one
LINE = 66  # characters of a sequence, from which on it takes more lines than its layers alone
MERGED = 76  # characters of an expression that takes in the one before it
_LAYERS = ("nn.Conv1d", "nn.Conv2d")  # that a class may derive from and be taken apart
_GENERIC = ("x", "y", "z")  # locals that say nothing
_ZERO = "start_at_zero"  # the function of `space.layers` that looks for a module's last layer
_UNBIASED = ("Pointwise", "LayerNorm2d", "nn.BatchNorm2d")  # of weight and bias, this starts at 0
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


Definitions = Mapping[str, ast.stmt]


def flattened(
    call: ast.Call, file: Definitions, kept: Collection[str], whole: Collection[str] = ()
) -> Flattened | None:
    """What a module is made of and does, as one class; None where its class has to stay.

    `file` has the classes and functions by name; those in `kept` stay as they are wherever they
    stand, and so do attributes that are called as one of `whole`.
    """
    held: set[str] = set()
    while True:
        work = _Work(file, kept, held, whole)
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
    """`targets = value`; without targets what is returned, or a test and the error it raises."""

    targets: tuple[str, ...]
    value: ast.expr
    is_passing: bool = False  # a value on its way into a module, not a name that somebody gave
    is_guard: bool = False
    starred: int | None = None  # the target that takes as many as are left


@dataclass(frozen=True, slots=True)
class _Given:
    """What a `for` gives to its target for one time round."""

    target: ast.expr
    value: ast.expr


@dataclass(eq=False)
class _Frame:
    """A module that is taken apart: what its attributes are, by name, and where it stands."""

    path: str
    bases: list[ast.ClassDef]  # its class, and those that this derives from
    attributes: dict[str, ast.expr] = field(default_factory=dict)
    entries: list[tuple[str, ast.stmt]] = field(default_factory=list)  # attribute or "", statement
    frames: dict[str, _Frame] = field(default_factory=dict)  # children that are taken apart
    own: ast.Call | None = None  # the layer of PyTorch that the module is besides

    def method(self, name: str, above: ast.ClassDef | None = None) -> ast.FunctionDef:
        """The method, of the classes behind `above` where that is given."""
        start = 0 if above is None else self.bases.index(above) + 1
        for cls in self.bases[start:]:
            for node in cls.body:
                if isinstance(node, ast.FunctionDef) and node.name == name:
                    if node.decorator_list and not is_static(node):
                        raise Unknown(f"{name} is decorated")
                    return node
        raise Unknown(f"no method {name}")

    def fill(self, layers: Sequence[ast.expr]) -> None:
        """Takes layers in as `0`, `1` and so on."""
        for i, layer in enumerate(layers):
            self.attributes[str(i)] = layer
            target = self_attribute(_joined(self.path, str(i)))
            self.entries.append((str(i), ast.Assign([target], layer)))

    def owner(self, function: ast.FunctionDef) -> ast.ClassDef:
        return next(cls for cls in self.bases if function in cls.body)


class _Work:
    """Takes one module apart; `held` are the paths of those below it that must not be."""

    def __init__(
        self, file: Definitions, kept: Collection[str], held: set[str], whole: Collection[str]
    ):
        self.classes = {n: node for n, node in file.items() if isinstance(node, ast.ClassDef)}
        self.functions = {n: node for n, node in file.items() if isinstance(node, ast.FunctionDef)}
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
        if function.args.defaults:
            raise Unknown("may be given more than a map")
        wanted = function.args.args[1:]
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
        forwards = [self._forward_of(layer) for layer in (call.args[0], call.args[-1])]
        takes = forwards[0] and forwards[0].args.args[1].annotation
        gives = forwards[1] and forwards[1].returns
        arguments = [ast.arg("self"), ast.arg("x", takes or name_node("Tensor"))]
        names = ast.arguments([], arguments, None, [], [], None, [])
        signature = ast.FunctionDef("forward", names, [], [], gives or name_node("Tensor"))
        return self._written(around.frames["chain"], signature, result, [given])

    def _forward_of(self, layer: ast.expr) -> ast.FunctionDef | None:
        """The `forward` of a layer of the file."""
        cls = self.classes.get(dotted(layer.func)) if isinstance(layer, ast.Call) else None
        while cls is not None:
            for node in cls.body:
                if isinstance(node, ast.FunctionDef) and node.name == "forward":
                    return node
            cls = self.classes.get(dotted(cls.bases[0]))
        return None

    def _written(
        self, frame: _Frame, forward: ast.FunctionDef, result: ast.expr, given: Sequence[ast.expr]
    ) -> Flattened:
        lines = _without_aliases(_merged([*self.lines, _Line((), result)]))
        several = ast.parse("tuple[Tensor, ...]", mode="eval").body
        if isinstance(result, ast.Tuple) and dotted(forward.returns or result) == "Tensor":
            forward.returns = several
        opened = {dotted(line.value) for line in lines if len(line.targets) > 1}
        for argument, local in zip(forward.args.args[1:], given, strict=True):
            if dotted(local) in opened and dotted(argument.annotation or local) == "Tensor":
                argument.annotation = several
        locals_given = [local.id for local in given if isinstance(local, ast.Name)]
        _name_locals(lines, locals_given, [name for name in locals_given if name in opened])
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
        while (base := dotted(bases[-1].bases[0])) not in ("nn.Module", *_LAYERS):
            if len(bases[-1].bases) != 1 or base not in self.classes:
                raise Unknown(f"derives from {base}")
            bases.append(self.classes[base])
        frame = _Frame(path, bases)
        if base in _LAYERS:
            methods = {n.name for c in bases for n in c.body if isinstance(n, ast.FunctionDef)}
            if not path or methods != {"__init__", "forward"}:
                raise Unknown(f"is a {base} that does more")
        self.taken_apart.update(each.name for each in bases)
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
                if known is not None:
                    body = [*(statement.body if known else statement.orelse), *body]
                    continue
                statement = _as_choice(statement, test, frame.attributes)
            if isinstance(statement, ast.AnnAssign) and statement.value is not None:
                statement = ast.Assign([statement.target], statement.value)
            if isinstance(statement, ast.Assign):
                (target,) = statement.targets
                if isinstance(target, ast.Tuple):
                    values = _each(statement.value)
                    pairs = zip(target.elts, values, strict=True)
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
                    if dotted(above.bases[0]) in _LAYERS:
                        own = folder.fold(call)
                        assert isinstance(own, ast.Call)
                        own.func, frame.own = above.bases[0], own
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

    def run(
        self, frame: _Frame, function: ast.FunctionDef, call: ast.Call, *, bound: bool = True
    ) -> ast.expr:
        """What a method gives; what it does on the way there is added to the lines."""
        env: dict[str, ast.expr] = {}
        for name, value in bind(function, call, bound=bound).items():
            if isinstance(value, ast.Name | ast.Constant) or of_self(value) or _is_of_names(value):
                env[name] = value
            else:
                env[name] = self._emit(name, value, is_passing=True)
        body: list[ast.stmt | _Given] = [*without_docstring(function.body)]
        while body:
            statement = body.pop(0)
            if isinstance(statement, _Given):
                self._give(env, statement)
                continue
            step = _Step(self, frame, function, env)
            if isinstance(statement, ast.If):
                test = step.fold(statement.test)
                known = truth(test)
                if known is not None:
                    body = [*(statement.body if known else statement.orelse), *body]
                    continue
                (first, *more) = statement.body
                if isinstance(first, ast.Raise) and not more and not statement.orelse:
                    error = step.fold(first.exc or ast.Constant(None))
                    self.lines.append(
                        _Line((), ast.Tuple([test, error], ast.Load()), is_guard=True)
                    )
                    continue
                statement = _as_choice(statement, test)
            if isinstance(statement, ast.AnnAssign) and statement.value is not None:
                statement = ast.Assign([statement.target], statement.value)
            if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
                before = name_node(statement.target.id)
                more_of_it = ast.BinOp(before, statement.op, statement.value)
                statement = ast.Assign([statement.target], more_of_it)
            if isinstance(statement, ast.Return) and statement.value is not None:
                found = step.fold(statement.value)
                is_choice = isinstance(found, ast.IfExp)
                return self._emit("x", found, is_passing=True) if is_choice else found
            if isinstance(statement, ast.For) and not statement.orelse:
                for given in reversed(step.items(statement.iter)):
                    body = [_Given(statement.target, given), *statement.body, *body]
            elif isinstance(statement, ast.Assign) and step.is_list(statement.value):
                modules = ast.List(step.items(statement.value), ast.Load())
                self._give(env, _Given(statement.targets[0], modules))
            elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                self._give(env, _Given(statement.targets[0], step.fold(statement.value)))
            elif (appended := _appended(statement)) is not None:
                name, value = appended
                known_list = env.get(name)
                if not isinstance(known_list, ast.List):
                    raise Unknown("adds to a list that is not known")
                one = step.fold(value)
                if not isinstance(one, ast.Name):
                    one = self._emit("part", one, is_passing=True)
                env[name] = ast.List([*known_list.elts, one], ast.Load())
            else:
                raise Unknown("is not straight on")
        raise Unknown("returns nothing")

    def _give(self, env: dict[str, ast.expr], given: _Given) -> None:
        """Lets names stand for a value, or for its parts."""
        target, value = given.target, given.value
        if isinstance(target, ast.Name):
            env[target.id] = value if _is_known(value) else self._emit(target.id, value)
        elif not isinstance(target, ast.Tuple):
            raise Unknown("stores elsewhere")
        elif _is_of_modules(value) or (isinstance(value, ast.Tuple) and _has_rest(target)):
            for name, part in self._with_rest(target, value):
                if isinstance(part, ast.List):
                    env[name.id] = part
                else:
                    self._give(env, _Given(name, part))
        elif isinstance(value, ast.Tuple):
            left: list[tuple[ast.expr, ast.expr]] = []
            for one, part in zip(target.elts, value.elts, strict=True):
                if isinstance(part, ast.Name | ast.Constant) or hasattr(part, "child"):
                    self._give(env, _Given(one, part))
                elif isinstance(part, ast.Subscript) and hasattr(part, "is_one"):
                    env[self._target(one)] = self._emit(self._target(one), part, is_passing=True)
                else:
                    left.append((one, part))
            if len(left) == 1:
                self._give(env, _Given(*left[0]))
            elif left:
                parts = ast.Tuple([part for _, part in left], ast.Load())
                self._emit_several(env, [one for one, _ in left], parts)
        else:
            self._emit_several(env, target.elts, value)

    def _with_rest(self, target: ast.Tuple, value: ast.expr) -> Iterator[tuple[ast.Name, ast.expr]]:
        """Names and the parts that they get, the one behind `*` a list of them."""
        assert isinstance(value, ast.List | ast.Tuple)
        parts: list[ast.expr] = [*value.elts]
        if (at := _rest(target.elts)) is not None:
            end = at + len(parts) - len(target.elts) + 1
            parts[at:end] = [ast.List(parts[at:end], ast.Load())]
        for element, part in zip(target.elts, parts, strict=True):
            yield name_node(self._target(element)), part

    def _emit_several(
        self, env: dict[str, ast.expr], targets: Sequence[ast.expr], value: ast.expr
    ) -> None:
        names = [self._target(element) for element in targets]
        made = [self.new_local(name) for name in names]
        line = _Line(tuple(local.id for local in made), value, starred=_rest(targets))
        self.lines.append(line)
        env.update(zip(names, made, strict=True))

    @staticmethod
    def _target(node: ast.expr) -> str:
        node = node.value if isinstance(node, ast.Starred) else node
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

    def method_of(self, frame: _Frame, name: str, call: ast.Call) -> ast.expr | None:
        """What `self.name.method(...)` gives where that module is taken apart, else None."""
        value, path = frame.attributes[name], _joined(frame.path, name)
        assert isinstance(call.func, ast.Attribute)
        if not isinstance(value, ast.Call) or path in self.held or dotted(value.func) in self.kept:
            return None
        before, is_open = (len(self.lines), self.count), name in frame.frames
        try:
            inner = frame.frames[name] if is_open else self.frame(value, path)
            frame.frames[name] = inner
            return self.run(inner, inner.method(call.func.attr), call)
        except Unknown:
            if is_open:
                raise _Again(path) from None
            del self.lines[before[0] :]
            frame.frames.pop(name, None)
            return None

    def function(self, name: str, call: ast.Call) -> ast.expr | None:
        """What a function of the file gives where it is written out, else None."""
        function = self.functions.get(name)
        if function is None or name in self.kept or function.decorator_list:
            return None
        before = len(self.lines)
        try:
            found = self.run(_Frame("", []), function, call, bound=False)
        except Unknown:
            del self.lines[before:]
            return None
        self.taken_apart.add(name)
        return found

    def items(self, frame: _Frame, name: str) -> list[ast.expr]:
        """The modules of a list of them, one by one."""
        value, path = frame.attributes[name], _joined(frame.path, name)
        layers = _layers(value)
        if layers is None or path in self.held:
            raise Unknown("not a list that is known")
        if name not in frame.frames:
            listed = _Frame(path, [])
            listed.fill(layers)
            frame.frames[name] = listed
        found: list[ast.expr] = []
        for i in range(len(layers)):
            layer = self_attribute(_joined(path, str(i)))
            layer.child = (frame.frames[name], str(i))  # type: ignore[attr-defined]
            found.append(layer)
        return found

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
        chain.fill(layers)
        x = call.args[0]
        opened = path is None and len(ast.unparse(value)) > LINE
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
        formula = _formula(self.frame, of_self(node.func))
        found = self.generic_visit(node)
        assert isinstance(found, ast.Call)
        if formula is not None:
            method, value = formula
            return Folder(bind(method, found, bound=not is_static(method)), {}).fold(value)
        function = found.func
        if isinstance(function, ast.Attribute) and function.attr == "get_parameter":
            (given,) = found.args
            if of_self(function.value) and isinstance(given, ast.Constant):
                return ast.Attribute(function.value, str(given.value), ast.Load())
        return found


def _sizes(layer: ast.Call, name: str) -> ast.expr:
    """`layer.kernel_size` and its like of a convolution, as a tuple of numbers."""
    places = {"kernel_size": 2, "stride": 3, "padding": 4}
    given = {keyword.arg: keyword.value for keyword in layer.keywords}
    if name not in places:
        raise Unknown(f"what {name} is")
    place = places[name]
    start = ast.Constant(1 if name == "stride" else 0)
    value = layer.args[place] if place < len(layer.args) else given.get(name, start)
    if not isinstance(value, ast.Constant) or not isinstance(value.value, int):
        raise Unknown(f"what {name} is")
    count = int(dotted(layer.func)[-2])  # nn.Conv2d
    return ast.Tuple([copy.deepcopy(value) for _ in range(count)], ast.Load())


def _formula(frame: _Frame, name: str) -> tuple[ast.FunctionDef, ast.expr] | None:
    """A method that is one expression without `self`, and that expression."""
    try:
        method = frame.method(name)
    except Unknown:
        return None
    (last, *more) = without_docstring(method.body)
    value = last.value if isinstance(last, ast.Return) else None
    if more or value is None or any(dotted(node) == "self" for node in ast.walk(value)):
        return None
    return method, value


def _called(
    value: ast.expr,
    path: str,
    arguments: Sequence[ast.expr],
    keywords: Sequence[ast.keyword] = (),
) -> ast.Call:
    """A call of the module at `path`, or of the function that it calls."""
    if ast.unparse(value) == "nn.Flatten()" and len(arguments) == 1:
        flatten = ast.Attribute(arguments[0], "flatten", ast.Load())
        return ast.Call(flatten, [ast.Constant(1)], [])
    function = _FUNCTIONS.get(ast.unparse(value))
    called = ast.parse(function, mode="eval").body if function else self_attribute(path)
    return ast.Call(called, [*arguments], [*keywords])


class _Step(Folder):
    """Expressions of a `forward`, with locals and attributes by what they stand for."""

    def __init__(
        self, work: _Work, frame: _Frame, function: ast.FunctionDef, env: Mapping[str, ast.expr]
    ):
        super().__init__(env, {})
        self.work = work
        self.frame = frame
        self.function = function

    def visit_Name(self, node: ast.Name) -> ast.expr:
        found = super().visit_Name(node)
        if hasattr(found, "child"):
            raise Unknown("a module of a list that is more than called")
        return found

    def _scoped(self, node: Scoped) -> ast.expr:
        before = len(self.work.lines)
        found = super()._scoped(node)
        if len(self.work.lines) != before:
            raise Unknown("takes more than an expression inside a comprehension")
        return found

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        name = of_self(node)
        if not name or name not in self.frame.attributes:
            if name and any(
                name == getattr(n, "name", "") for c in self.frame.bases for n in c.body
            ):
                raise Unknown("a method as a value")
            if name and self.frame.own is not None:
                return _sizes(self.frame.own, name)
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
        if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "super()":
            above = self.frame.owner(self.function)
            if dotted(above.bases[0]) in _LAYERS:
                return ast.Call(self_attribute(self.frame.path), self._arguments(node).args, [])
            method = self.frame.method(node.func.attr, above)
            return self.work.run(self.frame, method, self._arguments(node))
        name, frame = of_self(node.func), self.frame
        if isinstance(node.func, ast.Name) and hasattr(self.names.get(node.func.id), "child"):
            frame, name = self.names[node.func.id].child  # type: ignore[attr-defined]
        at = node.func if isinstance(node.func, ast.Subscript) else None
        if at is not None and self.is_list(at.value) and isinstance(at.slice, ast.Constant):
            one = self.items(at.value)[at.slice.value]  # type: ignore[index]
            frame, name = one.child  # type: ignore[attr-defined]
        if name in frame.attributes:
            call = self._arguments(node)
            value = frame.attributes[name]
            if is_identity(value):
                return call.args[0]
            found = self.work.child(frame, name, call)
            if found is not None:
                return found
            return _called(value, _joined(frame.path, name), call.args, call.keywords)
        if isinstance(node.func, ast.Attribute) and of_self(node.func.value) in frame.attributes:
            call = self._arguments(node)
            found = self.work.method_of(frame, of_self(node.func.value), call)
            if found is not None:
                return found
        if dotted(node.func) in self.work.functions:
            call = self._arguments(node)
            return self.work.function(dotted(node.func), call) or call
        if name:
            method, given = self.frame.method(name), self._arguments(node)
            return self.work.run(self.frame, method, given, bound=not is_static(method))
        return counted_call(self._arguments(node, self.visit(node.func)))

    def is_list(self, node: ast.expr) -> bool:
        """Whether an expression is a list of modules."""
        known = self.frame.attributes.get(of_self(node))
        return isinstance(known, ast.Call) and dotted(known.func) == "nn.ModuleList"

    def items(self, node: ast.expr) -> list[ast.expr]:
        """What a `for` goes through, one by one; Unknown where that is not known."""
        if isinstance(node, ast.Subscript) and self.is_list(node.value):
            part = slice_of(node.slice)
            if part is None:
                raise Unknown("a part of a list that is not known")
            return self.items(node.value)[part]
        name = of_self(node)
        if name in self.frame.attributes:
            return self.work.items(self.frame, name)
        if isinstance(node, ast.Call) and dotted(node.func) == "zip":
            columns = [self._known_items(given) for given in node.args]
            length = next((len(column) for column in columns if column is not None), None)
            if length is None:
                raise Unknown("goes through what is not known")
            filled = [
                column if column is not None else self._indexed(given, length)
                for column, given in zip(columns, node.args, strict=True)
            ]
            return [ast.Tuple([*row], ast.Load()) for row in zip(*filled, strict=True)]
        if isinstance(node, ast.Call) and dotted(node.func) == "enumerate":
            found = self.items(node.args[0])
            return [ast.Tuple([ast.Constant(i), one], ast.Load()) for i, one in enumerate(found)]
        folded = self.fold(node)
        if isinstance(folded, ast.Tuple | ast.List):
            return [*folded.elts]
        raise Unknown("goes through what is not known")

    def _known_items(self, node: ast.expr) -> list[ast.expr] | None:
        try:
            return self.items(node)
        except Unknown:
            return None

    def _indexed(self, node: ast.expr, length: int) -> list[ast.expr]:
        """The values of a local by their places."""
        value = self.fold(node)
        if not isinstance(value, ast.Name):
            raise Unknown("goes through what is not known")
        found: list[ast.expr] = []
        for i in range(length):
            one = ast.Subscript(value, ast.Constant(i), ast.Load())
            one.is_one = True  # type: ignore[attr-defined]
            found.append(one)
        return found

    def _arguments(self, node: ast.Call, function: ast.expr | None = None) -> ast.Call:
        arguments = [self.visit(argument) for argument in node.args]
        keywords = [ast.keyword(given.arg, self.visit(given.value)) for given in node.keywords]
        if dotted(node.func).startswith("F."):  # whose arguments are left out by None
            keywords = [given for given in keywords if not is_none(given.value)]
        return ast.Call(function or node.func, arguments, keywords)


def _is_of_names(value: ast.expr) -> bool:
    """Whether an expression is a tuple of locals and numbers."""
    atoms = ast.Name | ast.Constant
    return isinstance(value, ast.Tuple) and all(isinstance(one, atoms) for one in value.elts)


def _is_of_numbers(value: ast.expr) -> bool:
    """Whether an expression is a tuple of numbers."""
    return isinstance(value, ast.Tuple) and all(isinstance(e, ast.Constant) for e in value.elts)


def _is_known(value: ast.expr) -> bool:
    """Whether a value needs no local, because it can be written wherever it is used."""
    is_plain = isinstance(value, ast.Name | ast.Constant) or bool(of_self(value))
    return is_plain or hasattr(value, "child") or _is_of_modules(value) or _is_of_numbers(value)


def _rest(targets: Sequence[ast.expr]) -> int | None:
    """The place of the target with a `*`."""
    return next((i for i, one in enumerate(targets) if isinstance(one, ast.Starred)), None)


def _has_rest(target: ast.Tuple) -> bool:
    return _rest(target.elts) is not None


def _is_of_modules(value: ast.expr) -> bool:
    """Whether an expression is a list of modules that are called one by one, or an empty one."""
    return isinstance(value, ast.List) and all(hasattr(one, "child") for one in value.elts)


def _layers(value: ast.expr) -> list[ast.expr] | None:
    """The modules in `nn.ModuleList((...))`."""
    if not isinstance(value, ast.Call) or dotted(value.func) != "nn.ModuleList":
        return None
    (given,) = value.args
    if not isinstance(given, ast.Tuple | ast.List) or len(given.elts) > UNROLLED:
        return None
    return given.elts if all(isinstance(one, ast.Call) for one in given.elts) else None


def _each(value: ast.expr) -> list[ast.expr]:
    """The parts of a tuple, also of one that a generator makes of another."""
    if isinstance(value, ast.Tuple):
        return value.elts
    if isinstance(value, ast.GeneratorExp) and len(value.generators) == 1:
        (generator,) = value.generators
        target, given = generator.target, generator.iter
        if isinstance(target, ast.Name) and isinstance(given, ast.Tuple) and not generator.ifs:
            return [Folder({target.id: one}, {}).fold(value.elt) for one in given.elts]
    raise Unknown("unpacks")


def _as_choice(
    statement: ast.If, test: ast.expr, attributes: Mapping[str, ast.expr] | None = None
) -> ast.Assign:
    """`if test: a = b` as `a = b if test else a`; Unknown for more than that. `attributes` are
    those of `self` until then."""
    targets, values = [], []
    for body in (statement.body, statement.orelse):
        if len(body) > 1 or not all(isinstance(one, ast.Assign) for one in body):
            raise Unknown("a branch that is still open")
        for one in body:
            assert isinstance(one, ast.Assign)
            targets.append(one.targets[0])
            values.append(one.value)
    (target, *others) = targets
    if len({ast.unparse(one) for one in targets}) != 1 or isinstance(target, ast.Tuple):
        raise Unknown("a branch that is still open")
    if not others:
        before = copy.deepcopy(target)
        before.ctx = ast.Load()  # type: ignore[attr-defined]
        values.append((attributes or {}).get(of_self(target), before))
    return ast.Assign([target], ast.IfExp(test, values[0], values[1]))


def _appended(statement: ast.stmt) -> tuple[str, ast.expr] | None:
    """`a` and `b` of the statement `a.append(b)`."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return None
    name = call.func.value
    is_append = call.func.attr == "append" and isinstance(name, ast.Name) and len(call.args) == 1
    return (name.id, call.args[0]) if is_append else None  # type: ignore[attr-defined]


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
            if isinstance(line.value, ast.IfExp) and not isinstance(lines[place].value, ast.Name):
                continue
            base, into = target.partition("@")[0], lines[place].targets
            is_same = len(into) == 1 and into[0].partition("@")[0] == base
            generic = line.is_passing or is_same or base in _GENERIC
            value = Folder({target: line.value}, {}).fold(lines[place].value)
            if _width(value) > MERGED or not generic:
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


def _without_aliases(lines: list[_Line]) -> list[_Line]:
    """The lines without targets that only stand for another local, beside others."""
    found: list[_Line] = []
    known: dict[str, ast.expr] = {}
    for line in lines:
        line.value = Folder(known, {}).fold(line.value)
        if _is_display(line):
            assert isinstance(line.value, ast.Tuple)
            pairs = [*zip(line.targets, line.value.elts, strict=True)]
            known.update({name: part for name, part in pairs if isinstance(part, ast.Name)})
            pairs = [pair for pair in pairs if pair[0] not in known]
            line.targets = tuple(name for name, _ in pairs)
            values = [part for _, part in pairs]
            line.value = values[0] if len(values) == 1 else ast.Tuple(values, ast.Load())
            if not pairs:
                continue
        found.append(line)
    return found


def _name_locals(lines: Sequence[_Line], given: Sequence[str], stay: Collection[str]) -> None:
    """Gives locals names that can be read: the same again as soon as the one before is not needed
    any more, if both are generic or of the same kind, as far as that can be seen. Those of `given`
    that `stay` keep their name for themselves."""
    last = {node.id: i for i, line in enumerate(lines) for node in _locals(line.value)}
    last |= dict.fromkeys(stay, len(lines))
    kinds: dict[str, str] = {}
    hidden: dict[str, set[str]] = {}  # names that a comprehension around a use means otherwise
    for line in lines:
        for scope in (n for n in ast.walk(line.value) if isinstance(n, Scoped)):
            for node in _locals(scope):
                hidden.setdefault(node.id, set()).update(bound_in(scope))
    taken = {n.id for line in lines for n in ast.walk(line.value) if isinstance(n, ast.Name)}
    names = {local: local.partition("@")[0] for local in given}
    holders = {names[local]: local for local in given}
    for i, line in enumerate(lines):
        for k, target in enumerate(line.targets):
            base = target.partition("@")[0]
            part = line.value.elts[k] if _is_display(line) else line.value  # type: ignore[attr-defined]
            kinds[target] = re.sub(r"\w+@\d+|\d+", "_", ast.unparse(part))
            for name in _candidates(base):
                holder = holders.get(name)
                is_free = holder is None or (
                    last.get(holder, -1) <= i
                    and holder not in line.targets
                    and (
                        base in _GENERIC
                        or kinds.get(holder) == kinds[target]
                        or _is_made_of(part, holder)
                    )
                )
                if is_free and name not in hidden.get(target, ()) and name not in taken:
                    holders[name], names[target] = target, name
                    break
    for line in lines:
        for node in _locals(line.value):
            node.id = names[node.id]
        line.targets = tuple(names[target] for target in line.targets)


def _is_display(line: _Line) -> bool:
    """Whether each target gets a part that is written out."""
    parts = line.value.elts if isinstance(line.value, ast.Tuple) else []
    return len(parts) == len(line.targets) > 1 and line.starred is None


def _is_made_of(node: ast.AST, name: str) -> bool:
    """Whether an expression uses a local for more than the ends of a slice."""
    if isinstance(node, ast.Slice):
        return False
    if isinstance(node, ast.Name):
        return node.id == name
    return any(_is_made_of(inner, name) for inner in ast.iter_child_nodes(node))


def _candidates(base: str) -> Iterator[str]:
    yield from _GENERIC if base in _GENERIC else (base,)
    base = _GENERIC[-1] if base in _GENERIC else base
    number = 2
    while True:
        yield f"{base}{number}"
        number += 1


def _statement(line: _Line) -> ast.stmt:
    if line.is_guard:
        assert isinstance(line.value, ast.Tuple)
        test, error = line.value.elts
        return ast.If(test, [ast.Raise(error)], [])
    if not line.targets:
        return ast.Return(line.value)
    names: list[ast.expr] = [ast.Name(target, ast.Store()) for target in line.targets]
    if line.starred is not None:
        names[line.starred] = ast.Starred(names[line.starred], ast.Store())
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
    kept = [
        (path, _zero_of_layer(node, values.get(_zeroed(node))) if not path else node)
        for path, node in kept
    ]
    names = _names(values)
    for top in (*body, *(node for _, node in kept)):
        for node in ast.walk(top):
            if (path := of_self(node)) in names:
                node.attr = names[path]  # type: ignore[attr-defined]
    origins = {name: path.replace("/", ".") for path, name in names.items() if name != path}
    return [node for _, node in kept], origins


def _entries(frame: _Frame) -> Iterator[tuple[str, ast.stmt]]:
    if frame.own is not None:
        yield frame.path, ast.Assign([self_attribute(frame.path)], frame.own)
    for name, node in frame.entries:
        if name in frame.frames:
            yield from _entries(frame.frames[name])
        elif name:
            yield _joined(frame.path, name), node
        else:
            for one in _with_last_layer(node, frame):
                yield "", one


def _zeroed(node: ast.stmt) -> str:
    """`a` for the statement `start_at_zero(self.a)`, nothing for others."""
    call = node.value if isinstance(node, ast.Expr) else None
    return (
        of_self(call.args[0]) if isinstance(call, ast.Call) and dotted(call.func) == _ZERO else ""
    )


def _with_last_layer(node: ast.stmt, frame: _Frame) -> list[ast.stmt]:
    """`start_at_zero` of the last layer of a module that was taken apart."""
    path, inner = _zeroed(node), frame
    while path:
        name = path.rpartition("/")[2]
        if name not in inner.frames:
            break
        inner = inner.frames[name]
        if inner.own is not None:
            break
        if any(_is_parameter(value) for value in inner.attributes.values()):
            own = [name for name, value in inner.attributes.items() if _is_parameter(value)]
            zeros = ast.parse("nn.init.zeros_", mode="eval").body
            return [
                ast.Expr(ast.Call(zeros, [self_attribute(_joined(inner.path, name))], []))
                for name in own
            ]
        layers = [name for name, made in inner.entries if name and _may_have_weights(made)]
        path = _joined(inner.path, layers[-1])
    if not path:
        return [node]
    return [ast.Expr(ast.Call(name_node(_ZERO), [self_attribute(path)], []))]


def _zero_of_layer(node: ast.stmt, layer: ast.expr | None) -> ast.stmt:
    """`start_at_zero` of what is a layer itself, without that function."""
    made = dotted(layer.func) if isinstance(layer, ast.Call) else ""
    path = _zeroed(node)
    if made in _UNBIASED or (made in _LAYERS and "bias=False" in ast.unparse(layer or node)):
        weight = ast.Attribute(self_attribute(path), "weight", ast.Load())
        return ast.Expr(ast.Call(ast.parse("nn.init.zeros_", mode="eval").body, [weight], []))
    if made in _LAYERS:
        (loop,) = ast.parse("for parameter in x.parameters(): nn.init.zeros_(parameter)").body
        assert isinstance(loop, ast.For)
        loop.iter = ast.Call(ast.Attribute(self_attribute(path), "parameters", ast.Load()), [], [])
        return loop
    return node


def _may_have_weights(node: ast.stmt) -> bool:
    value = node.value if isinstance(node, ast.Assign) else None
    return isinstance(value, ast.Call) and _has_weights(value) and "Pool" not in dotted(value.func)


def _has_weights(value: ast.expr) -> bool:
    is_module = isinstance(value, ast.Call) and not is_identity(value)
    return is_module and ast.unparse(value) not in (*_FUNCTIONS, "nn.Flatten()")


def _names(values: Mapping[str, ast.expr]) -> dict[str, str]:
    """Path -> name: the end of the path that is no other's, in words where that is a number."""
    parameters = Counter(path.rpartition("/")[0] for path in values if _is_parameter(values[path]))
    words = {
        path: _words(path, value, parameters[path.rpartition("/")[0]] == 1)
        for path, value in values.items()
    }
    names: dict[str, str] = {}
    for path, parts in words.items():
        for length in range(1, len(parts) + 1):
            name = "_".join(parts[-length:])
            alike = [other for other in words.values() if "_".join(other[-length:]) == name]
            is_one = len(alike) == 1 and name not in names.values()
            if is_one or all(other == parts for other in alike):  # these differ by number alone
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


def _is_parameter(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and dotted(value.func) == "nn.Parameter"


def _words(path: str, value: ast.expr, is_lone: bool) -> list[str]:
    """The steps of a path; the place of a layer in a sequence says nothing, its kind does, and the
    weight of what was a module goes by that module's name, where that `is_lone`."""
    steps = path.split("/")
    if _is_parameter(value) and is_lone and steps[-1] == "weight":
        named = _words("/".join(steps[:-1]) or "weight", ast.Constant(None), False)
        return ["weight"] if named[-1] in _EMPTY else named
    words = [
        step
        for i, step in enumerate(steps)
        if not step.isdigit() and (step not in _EMPTY or i == len(steps) - 1)
    ]
    if steps[-1].isdigit() and isinstance(value, ast.Call):
        cls = dotted(value.func).rpartition(".")[2]
        if cls == "Sequential" and words:
            one = re.sub(r"(?<=ch|sh|ss)es$|s$", "", words[-1])
            return [*words[:-1], f"{one}_{int(steps[-1]) + 1}"]
        words.append(_KINDS.get(cls) or "_".join(words_of(cls)))
    words = words or ["layer"]
    if words[-1] in ("weight", "bias") and len(words) > 1:  # a parameter of what was a module
        words[-2:] = [f"{words[-2]}_{words[-1]}"]
    return words
