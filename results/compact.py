"""Source of a network made short: the classes that it needs, as it needs them.

The parts of Chimera are general: a residual may have a norm or not, a stride or not. One network
uses a few of these ways. `compacted` takes the source of a network as `results.model_file` puts it
together, and leaves of it what this network does: functions that put small modules together become
one class (`results.inlining`), arguments that are always the same become constants, and what is
never used goes. Which classes stay apart is decided by the length of the whole.
"""

from __future__ import annotations

import ast
import copy
import functools
import re
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from results.folding import (
    Folder,
    Unknown,
    bind,
    dotted,
    is_identity,
    is_static,
    makes_module,
    name_node,
    of_self,
    without_docstring,
)
from results.inlining import Flattened, flattened
from results.layout import LINE_LENGTH

ENTRY = "model"  # the function that the file is about; it stays as it is written
CLASSIFIER = "classifier"  # the attribute of a head that gives the logits
CLASSES = "num_classes"  # a builder with this parameter makes a head
_NOTHING: frozenset[str] = frozenset()
_STAYS = ("Network", "MixedNetwork")
_BUILDER = "nn.Module"  # what functions that put modules together say that they return
_WIDTH = 80  # characters that are as much to read as a line more
_FULL = {
    "nn.init.constant_": "torch.full",
    "nn.init.ones_": "torch.ones",
    "nn.init.zeros_": "torch.zeros",
}
_SHORT = 140  # characters of a call that may stand where a function of it was called
_NEEDED = ("__init__", "forward", "reset_parameters")  # methods that PyTorch calls

Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
Origins = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Compact:
    """Formatted source; and for each class the attributes that stood elsewhere before:
    name -> path below the module of that class."""

    text: str
    origins: Origins


def compacted(source: str) -> Compact:
    """`source` of a network, shorter; it computes the same."""
    file = _File.read(_shortened(source))
    kept: set[str] = set()
    flats = {name: file.flattened(name, kept) for name in file.builders()}
    least = file.length(flats)
    apart = {cls for flat in flats.values() if flat is not None for cls in flat.taken_apart}
    for cls in file.by_use(apart):
        others = {
            name: file.flattened(name, {*kept, cls}) if flat and cls in flat.taken_apart else flat
            for name, flat in flats.items()
        }
        length = file.length(others)
        if length < least:
            kept, flats, least = {*kept, cls}, others, length
    file.put(flats)
    file.tidy()
    file.join_into_entry()
    return Compact(formatted(file.text()), file.origins)


@dataclass(eq=False)
class _File:
    """The definitions of a file by name, and the text before, between and behind them."""

    opening: str
    imports: list[ast.Import | ast.ImportFrom]
    constants: str
    entry: str
    named: dict[str, Definition]
    closing: str
    texts: Mapping[str, str]  # of definitions as they were written, comments included
    dumps: Mapping[str, str]
    origins: dict[str, Mapping[str, str]] = field(default_factory=dict)
    _known: dict[tuple[str, int], tuple[float, list[str], Flattened | None]] = field(
        default_factory=dict
    )

    @classmethod
    def read(cls, source: str) -> _File:
        tree = ast.parse(source)
        lines = source.splitlines()

        def text(nodes: list[ast.stmt]) -> str:
            if not nodes:
                return ""
            return "\n".join(lines[_first_line(nodes[0]) - 1 : nodes[-1].end_lineno])

        place = next(i for i, node in enumerate(tree.body) if isinstance(node, ast.FunctionDef))
        entry = tree.body[place]
        others = [node for node in tree.body[place + 1 :] if isinstance(node, Definition)]
        builders = {_name(node) for node in others if _is_builder(node)}
        for top in (node for node in others if _is_builder(node)):
            for node in ast.walk(top):
                if isinstance(node, ast.Call) and dotted(node.func) in builders:
                    node.makes_module = True  # type: ignore[attr-defined]
        end = max(tree.body.index(node) for node in others)
        imports = [n for n in tree.body[:place] if isinstance(n, ast.Import | ast.ImportFrom)]
        behind = tree.body.index(imports[-1]) + 1
        dumps = {_name(node): ast.dump(node) for node in others}
        for node in others:
            if isinstance(node, ast.ClassDef):
                _prepare(node)
        return cls(
            text(tree.body[:1]),
            imports,
            text(tree.body[behind:place]),
            text([entry]),
            {_name(node): node for node in others},
            text(tree.body[end + 1 :]),
            {_name(node): text([node]) for node in others},
            dumps,
        )

    @property
    def bound(self) -> set[str]:
        """The names that the imports bind."""
        return {a.asname or a.name.partition(".")[0] for node in self.imports for a in node.names}

    def by_use(self, classes: Collection[str]) -> list[str]:
        """Classes in order: the more often they are used, the sooner."""
        uses = Counter(
            dotted(node.func)
            for top in self.named.values()
            for node in ast.walk(top)
            if isinstance(node, ast.Call)
        )
        return sorted(classes, key=lambda name: (-uses[name], name))

    def builders(self) -> list[str]:
        """The functions that put modules together."""
        return [name for name, node in self.named.items() if _is_builder(node)]

    def flattened(self, name: str, kept: Collection[str]) -> Flattened | None:
        """What a builder makes as one class, where that can be."""
        node = self.named[name]
        assert isinstance(node, ast.FunctionDef)
        built, apart = _built(node), _NOTHING if _is_head(node) else kept
        if built is None or dotted(built.func) in apart:
            return None
        others = {n: node for n, node in self.named.items() if not _is_builder(node)}
        return flattened(copy.deepcopy(built), others, apart, (CLASSIFIER,))

    def length(self, flats: Mapping[str, Flattened | None]) -> float:
        """How much there is to read, in lines, with these classes in place of functions."""
        needed = self._reached(lambda name: self._measured(name, flats.get(name))[1])
        measured = {n: self._measured(n, flats.get(n))[0] for n in self.named if n in needed}
        return sum(measured.values())  # in the order of the file, so that it is the same each time

    def _measured(self, name: str, flat: Flattened | None) -> tuple[float, list[str]]:
        """The length of one definition, and the names that it reads."""
        key = (name, id(flat))
        if key not in self._known:
            node = self.named[name]
            if flat is not None:
                assert isinstance(node, ast.FunctionDef)
                node = _as_class(name, node, flat, self._says(node))
            text = ast.unparse(ast.fix_missing_locations(node))
            blank = 2 + sum(isinstance(inner, ast.FunctionDef) for inner in ast.walk(node))
            length = blank + text.count("\n") + 1 + len(re.sub(r"\s+", " ", text)) / _WIDTH
            self._known[key] = (length, _read([node]), flat)
        return self._known[key][:2]

    def _says(self, builder: ast.FunctionDef) -> list[ast.stmt]:
        """The docstring of a builder, or else of the class that it calls."""
        if len(builder.body) > 1:
            return builder.body[:-1]
        built = _built(builder)
        cls = self.named.get(dotted(built.func)) if built is not None else None
        is_said = isinstance(cls, ast.ClassDef) and ast.get_docstring(cls)
        return cls.body[:1] if is_said else []  # type: ignore[union-attr]

    def put(self, flats: Mapping[str, Flattened | None]) -> None:
        """Puts classes in the place of functions, and leaves out what nobody needs."""
        classes = {}
        for name, flat in flats.items():
            node = self.named[name]
            if flat is not None:
                assert isinstance(node, ast.FunctionDef)
                classes[name] = _as_class(name, node, flat, self._says(node))
                self.origins[name] = flat.origins
        nodes = {**self.named, **classes}
        self.named = {name: copy.deepcopy(node) for name, node in nodes.items()}
        self.drop_unused()
        self._rename({name: _title(name) for name, flat in flats.items() if flat is not None})

    def _rename(self, titles: Mapping[str, str]) -> None:
        """Classes that were functions get names of classes."""
        used = {name for name in self.named if name not in titles}
        names: dict[str, str] = {}
        for name, title in titles.items():
            if name in self.named:
                names[name] = _free(title, used)
                used.add(names[name])
        for node in self.nodes():
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name) and makes_module(node) and called.id in names:
                called.id = names[called.id]
        for name, title in names.items():
            named = self.named[name]
            assert isinstance(named, ast.ClassDef)
            named.name = title
            self.entry = re.sub(rf"\b{name}\b(?=\()", title, self.entry)
        self.named = {names.get(name, name): node for name, node in self.named.items()}
        self.origins = {names[n]: moved for n, moved in self.origins.items() if n in names}

    def nodes(self) -> Iterator[ast.AST]:
        for top in self.named.values():
            yield from ast.walk(top)

    def drop_unused(self) -> None:
        """Leaves out definitions that are not reached from the entry."""
        needed = self._reached(lambda name: _read([self.named[name]]))
        self.named = {name: node for name, node in self.named.items() if name in needed}

    def _reached(self, read: Callable[[str], Iterable[str]]) -> set[str]:
        """The definitions that are used, if each uses what `read` says."""
        needed: set[str] = set()
        pending = [*_words(self.entry), *_words(self.closing)]
        while pending:
            name = pending.pop()
            if name not in needed and name in self.named:
                needed.add(name)
                pending += read(name)
        return needed

    def tidy(self) -> None:
        """Takes out what this network does not need, until nothing is left to do."""
        called = {*_words(self.entry), *_words(self.closing)}
        before = ""
        while (now := "".join(ast.dump(node) for node in self.named.values())) != before:
            before = now
            for name, node in [*self.named.items()]:
                if isinstance(node, ast.ClassDef) and name not in _STAYS:
                    _join_base(node, self)
                    if name not in called:
                        _fix_parameters(node, self)
                    _fix_attributes(node, self)
            self.drop_unused()

    def join_into_entry(self) -> None:
        """Short builders that are called once, by the entry, stand where they are called."""
        for name, node in [*self.named.items()]:
            body = without_docstring(node.body) if _is_builder(node) else []  # type: ignore[union-attr]
            value = body[0].value if len(body) == 1 and isinstance(body[0], ast.Return) else None
            calls = re.findall(rf"\b{name}\([^()]*\)", self.entry)
            if value is None or len(calls) != 1 or name in _read(self.named.values()):
                continue
            call = ast.parse(calls[0], mode="eval").body
            try:
                given = bind(node, call, bound=False)  # type: ignore[arg-type]
            except Unknown:
                continue
            text = ast.unparse(Folder(given, {}).fold(value))
            if len(text) <= _SHORT:
                self.entry = self.entry.replace(calls[0], text)
                del self.named[name]

    def text(self) -> str:
        used = {*_read(self.named.values()), *_words(self.entry), *_words(self.closing)}
        blocks = [self.opening + "\n\n" + _imports(self.imports, used) + "\n\n" + self.constants]
        blocks.append(self.entry)
        for name, node in self.named.items():
            same = self.dumps.get(name) == ast.dump(node)
            blocks.append(self.texts[name] if same else _unparsed(node))
        return "\n\n\n".join([*blocks, self.closing]) + "\n"


def _name(node: Definition) -> str:
    """What a definition is called; a constant by its first name."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return next(n.id for n in ast.walk(target) if isinstance(n, ast.Name))


def _first_line(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def _read(nodes: Iterable[ast.AST]) -> list[str]:
    return [n.id for top in nodes for n in ast.walk(top) if isinstance(n, ast.Name)]


def _is_builder(node: ast.stmt) -> bool:
    returns = node.returns if isinstance(node, ast.FunctionDef) else None
    return returns is not None and ast.unparse(returns) == _BUILDER


def _is_head(function: ast.FunctionDef) -> bool:
    return any(argument.arg == CLASSES for argument in function.args.args)


def _built(function: ast.FunctionDef) -> ast.Call | None:
    """The call that a builder returns."""
    last = function.body[-1]
    value = last.value if isinstance(last, ast.Return) else None
    return value if isinstance(value, ast.Call) else None


def _title(name: str) -> str:
    """`local_dsm` as LocalDsm."""
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


def _free(name: str, taken: Collection[str]) -> str:
    found, number = name, 2
    while found in taken:
        found, number = f"{name}{number}", number + 1
    return found


def _as_class(
    name: str, function: ast.FunctionDef, flat: Flattened, says: Sequence[ast.stmt]
) -> ast.ClassDef:
    arguments = copy.deepcopy(function.args)
    arguments.args.insert(0, ast.arg("self"))
    body = [*says]
    if flat.init:
        returns = ast.Constant(None) if len(arguments.args) == 1 else None
        opening = ast.parse("super().__init__()").body
        init = ast.FunctionDef("__init__", arguments, [*opening, *flat.init], [], returns)
        body = [*body, init]
    forward = flat.forward
    if _is_head(function):
        forward = _with_pre_logits(flat)
    bases: list[ast.expr] = [ast.parse("nn.Module", mode="eval").body]
    return ast.ClassDef(name, bases, [], [*body, forward], [])


def _with_pre_logits(flat: Flattened) -> ast.FunctionDef:
    """The `forward` of a head, which gives what its classifier reads where that is asked for.

    RuntimeError where the last that happens is not a call of `self.classifier`.
    """
    forward = flat.forward
    last = forward.body[-1]
    call = last.value if isinstance(last, ast.Return) else None
    if not isinstance(call, ast.Call) or of_self(call.func) != CLASSIFIER:
        raise RuntimeError("a head must end with a call of its attribute `classifier`")
    (read,) = call.args
    values = [value for name, value in map(_stores, flat.init) if name == CLASSIFIER]
    is_flat = any(isinstance(v, ast.Call) and dotted(v.func).startswith("nn.") for v in values)
    alone = "x" if is_flat else "x.flatten(2).mean(2)"  # of several classifiers
    given = forward.args.args[1]
    is_map = given.annotation is None or dotted(given.annotation) == "Tensor"
    name = "x" if is_map else "y"
    ending = ast.parse(f"return {alone} if pre_logits else self.classifier(x)").body
    for node in (inner for inner in ast.walk(ending[0]) if isinstance(inner, ast.Name)):
        node.id = name if node.id == "x" else node.id
    x = ast.Assign([ast.Name(name, ast.Store())], read)
    body = [*forward.body[:-1], *([] if ast.unparse(read) == name else [x]), *ending]
    arguments = copy.deepcopy(forward.args)
    arguments.args.append(ast.arg("pre_logits", name_node("bool")))
    arguments.defaults.append(ast.Constant(False))
    return ast.FunctionDef("forward", arguments, body, [], forward.returns)


def _shortened(source: str) -> str:
    """The source with no more of each class's docstring than what it is and where it is from."""
    lines = source.splitlines()
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    for cls in reversed(classes):
        text, node = ast.get_docstring(cls), cls.body[0]
        first, *more = (text or "").split("\n\n")
        said = [first, *(part for part in more if part.startswith("Source"))]
        if not more:
            continue
        short = "\n".join(textwrap.wrap(" ".join(said), LINE_LENGTH - 8, break_on_hyphens=False))
        assert node.end_lineno is not None
        lines[node.lineno - 1 : node.end_lineno] = textwrap.indent(
            f'"""{short}"""', "    ", lambda line: bool(line.strip())
        ).splitlines()
    return "\n".join(lines) + "\n"


def _prepare(cls: ast.ClassDef) -> None:
    """The class with one attribute a line."""
    init = _method(cls, "__init__")
    if init is not None:
        init.body = [one for statement in init.body for one in _singly(statement)]


def _singly(statement: ast.stmt) -> list[ast.stmt]:
    """`self.a, self.b = a, b` as two statements."""
    if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Tuple):
        (target,) = statement.targets
        if isinstance(target, ast.Tuple) and all(of_self(element) for element in target.elts):
            pairs = zip(target.elts, statement.value.elts, strict=True)
            return [ast.Assign([one], value) for one, value in pairs]
    return [statement]


# ---- what is always the same


def _fix_parameters(cls: ast.ClassDef, file: _File) -> None:
    """Parameters that every call gives the same constant become that constant, and those that
    always get a module are never None."""
    init = _method(cls, "__init__")
    if init is None or init.args.vararg or init.args.kwarg or init.args.kwonlyargs:
        return
    calls = _calls(cls, file)
    try:
        bound = [bind(init, call) for call in calls]
    except Unknown:
        return
    if not bound:
        return
    names = [argument.arg for argument in init.args.args[1:]]
    known: dict[str, ast.expr] = {}
    always: set[str] = set()  # that are a module each time
    more: dict[str, ast.expr] = {}  # names that constants need, which are given from now on
    for name in names:
        values = [given[name] for given in bound]
        if len(bound) == 1 and (free := _absorbed(init, name, values[0], names, file)) is not None:
            known[name] = values[0]
            more.update(free)
            continue
        if all(makes_module(value) for value in values):
            known[name] = name_node(name)
            known[name].makes_module = True  # type: ignore[attr-defined]
            always.add(name)
            continue
        is_one = len({ast.dump(value) for value in values}) == 1
        if is_one and not _is_stored(init, name) and _is_worth_fixing(init, name, values[0]):
            known[name] = values[0]
    left = [name for name in names if name not in known or isinstance(known[name], ast.Name)]
    optional = always & set(_defaults(init))
    if len(left) < len(names) or optional:
        defaults = {n: value for n, value in _defaults(init).items() if n not in always}
        left = [*(name for name in more if name not in left), *left]
        left.sort(key=lambda name: name in defaults)
        for call, given in zip(calls, bound, strict=True):
            _give(call, {**more, **given}, left, defaults)
        arguments = {a.arg: a for a in init.args.args[1:]}
        for name in optional:
            arguments[name].annotation = ast.parse(_BUILDER, mode="eval").body
        init.args.args = [
            init.args.args[0],
            *(arguments.get(name) or ast.arg(name, name_node("int")) for name in left),
        ]
        init.args.defaults = [defaults[name] for name in left if name in defaults]
        if not left:
            init.returns = ast.Constant(None)
    init.body = _without_constant_locals(Folder(known, {}).statements(init.body))


def _absorbed(
    init: ast.FunctionDef, name: str, value: ast.expr, names: Collection[str], file: _File
) -> dict[str, ast.expr] | None:
    """The names that a module needs which is given to one class alone, and once, so that the class
    can make it itself; None where it cannot."""
    made = value.elts if isinstance(value, ast.Tuple) else [value]
    uses = [n for n in ast.walk(init) if isinstance(n, ast.Name) and n.id == name]
    if not made or not all(makes_module(one) for one in made) or len(uses) != 1:
        return None
    stored = [_stores(statement)[1] for statement in init.body]
    is_stored = any(
        use is at or (isinstance(at, ast.Call) and use in at.args) for at in stored for use in uses
    )
    known = {*file.named, *file.bound}
    inner = {
        n.id for n in ast.walk(value) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)
    }
    free = {n.id: n for n in ast.walk(value) if isinstance(n, ast.Name)}
    free = {
        n: node for n, node in free.items() if n not in known and n not in inner and n != "range"
    }
    if not is_stored or any(n in names or n == "self" for n in free):
        return None
    return {n: name_node(n) for n in free}


def _calls(cls: ast.ClassDef, file: _File) -> list[ast.Call]:
    """All calls that run the `__init__` of a class; none where it is more than called."""
    calls: list[ast.Call] = []
    called: set[int] = set()
    for node in file.nodes():
        if isinstance(node, ast.Call) and dotted(node.func) == cls.name:
            calls.append(node)
            called.add(id(node.func))
    for other in _heirs(cls, file):
        called |= {id(base) for base in other.bases}
        theirs = _method(other, "__init__")
        if theirs is None:
            return []
        calls += [
            node
            for node in ast.walk(theirs)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "super().__init__"
        ]
    named = (n for n in file.nodes() if isinstance(n, ast.Name) and n.id == cls.name)
    return calls if all(id(node) in called for node in named) else []


def _heirs(cls: ast.ClassDef, file: _File) -> list[ast.ClassDef]:
    others = (node for node in file.named.values() if isinstance(node, ast.ClassDef))
    return [node for node in others if any(dotted(base) == cls.name for base in node.bases)]


def _is_worth_fixing(init: ast.FunctionDef, name: str, value: ast.expr) -> bool:
    """Whether a constant should stand in the class: nobody ever says it, it is no number, or it
    decides something. Other numbers read better where they are given."""
    if dotted(value).startswith("nn."):
        return True
    if not isinstance(value, ast.Constant):
        return False
    default = _defaults(init).get(name)
    if default is not None and ast.dump(default) == ast.dump(value):
        return True
    if type(value.value) is not int:
        return True
    tests = (n.test for n in ast.walk(init) if isinstance(n, ast.If | ast.IfExp))
    return any(name in _read([test]) for test in tests)


def _give(
    call: ast.Call,
    given: Mapping[str, ast.expr],
    left: list[str],
    defaults: Mapping[str, ast.expr],
) -> None:
    """Makes the call give those that are `left`, by name where it did so before."""
    by_name = {keyword.arg for keyword in call.keywords}
    call.args, call.keywords = [], []
    for i, name in enumerate(left):
        if name not in by_name and len(call.args) == i:
            if name in defaults and ast.dump(defaults[name]) == ast.dump(given[name]):
                continue
            call.args.append(given[name])
        elif name not in defaults or ast.dump(defaults[name]) != ast.dump(given[name]):
            call.keywords.append(ast.keyword(name, given[name]))


def _without_constant_locals(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements with locals that are constants written where they are used."""
    stored = Counter(
        node.id
        for top in body
        for node in ast.walk(top)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )
    known: dict[str, ast.expr] = {}
    left: list[ast.stmt] = []
    for statement in body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if isinstance(target, ast.Name) and stored[target.id] == 1:
            assert isinstance(statement, ast.Assign)
            if isinstance(statement.value, ast.Constant):
                known[target.id] = statement.value
                continue
        left.append(statement)
    return Folder(known, {}).statements(left) if known else left


def _is_stored(function: ast.FunctionDef, name: str) -> bool:
    stored = (n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name)
    return any(not isinstance(node.ctx, ast.Load) for node in stored)


def _defaults(init: ast.FunctionDef) -> dict[str, ast.expr]:
    names = [argument.arg for argument in init.args.args]
    return dict(zip(reversed(names), reversed(init.args.defaults), strict=False))


# ---- what is never used


def _fix_attributes(cls: ast.ClassDef, file: _File) -> None:
    """Attributes that are constants or identities are written where they are read, and those that
    nobody reads go, with methods that nobody calls."""
    init = _method(cls, "__init__")
    outside = {
        node.attr for node in file.nodes() if isinstance(node, ast.Attribute) and not of_self(node)
    }
    _join_reset(cls, file)
    _join_formulas(cls, file)
    if init is not None:
        init.body = _filled(init.body)
    methods = [node for node in cls.body if isinstance(node, ast.FunctionDef)]
    if _heirs(cls, file) or any(dotted(base) in file.named for base in cls.bases):
        return
    if init is not None:
        known = _constant_attributes(cls, init, outside)
        for method in methods:
            method.body = _Attributes(known).statements(method.body)
        read = {
            of_self(node)
            for method in methods
            for node in ast.walk(method)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
        }
        is_plain = dotted(cls.bases[0]) == "nn.Module"
        init.body = [
            statement
            for statement in init.body
            if not is_plain or _is_needed(statement, {*read, *outside})
        ]
    used = {of_self(node) for method in methods for node in ast.walk(method)} | outside
    cls.body = [
        node
        for node in cls.body
        if not isinstance(node, ast.FunctionDef) or node.name in used or node.name in _NEEDED
    ]
    if init is not None and len(init.args.args) == 1:
        done = [ast.unparse(statement) for statement in without_docstring(init.body)]
        if done == ["super().__init__()"]:
            cls.body.remove(init)


def _join_base(cls: ast.ClassDef, file: _File) -> None:
    """The class with what it has from a class of the file that is nobody else's base."""
    base = file.named.get(dotted(cls.bases[0])) if len(cls.bases) == 1 else None
    if not isinstance(base, ast.ClassDef) or base.name in _STAYS:
        return
    users = [n for n in file.nodes() if isinstance(n, ast.Name) and n.id == base.name]
    above = [node for node in ast.walk(cls) if ast.unparse(node).startswith("super()")]
    above = [node for node in above if isinstance(node, ast.Attribute) and node.attr != "__init__"]
    theirs, ours = _method(base, "__init__"), _method(cls, "__init__")
    if len(users) != 1 or above or theirs is None:
        return
    if ours is None:
        cls.body.insert(1, theirs)
    else:
        calls = [n for n in ours.body if ast.unparse(n).startswith("super().__init__(")]
        call = calls[0].value if calls and isinstance(calls[0], ast.Expr) else None
        try:
            given = bind(theirs, call)  # type: ignore[arg-type]
        except (Unknown, AttributeError):
            return
        if any(name.startswith("**") for name in given):
            return
        at = ours.body.index(calls[0])
        ours.body[at : at + 1] = Folder(given, {}).statements(without_docstring(theirs.body))
    _state_types(cls)
    has = {node.name for node in cls.body if isinstance(node, ast.FunctionDef)}
    methods = [n for n in base.body if isinstance(n, ast.FunctionDef) and n.name not in has]
    cls.body += [node for node in methods if node.name != "__init__"]
    cls.bases = base.bases


def _state_types(cls: ast.ClassDef) -> None:
    """Types that the class states of attributes stand at the parameters that become these."""
    init = _method(cls, "__init__")
    stated = {
        node.target.id: node
        for node in cls.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.value
    }
    for argument in init.args.args if init is not None else ():
        if (node := stated.get(argument.arg)) is not None:
            argument.annotation = node.annotation
            cls.body.remove(node)


def _join_reset(cls: ast.ClassDef, file: _File) -> None:
    """`reset_parameters` where it is called, if that is in `__init__` alone."""
    init, reset = _method(cls, "__init__"), _method(cls, "reset_parameters")
    if init is None or reset is None or dotted(cls.bases[0]) != "nn.Module" or _heirs(cls, file):
        return
    calls = [node for node in init.body if ast.unparse(node) == "self.reset_parameters()"]
    if len(calls) == 1:
        at = init.body.index(calls[0])
        init.body[at : at + 1] = without_docstring(reset.body)
        cls.body.remove(reset)


def _filled(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Parameters made empty, and filled with one number behind that, as made full."""
    made: dict[str, tuple[list[ast.expr], ast.Call]] = {}
    left: list[ast.stmt] = []
    for statement in body:
        name, value = _stores(statement)
        call = statement.value if isinstance(statement, ast.Expr) else None
        if ast.unparse(value or ast.Constant(0)).startswith("nn.Parameter(torch.empty("):
            empty = value.args[0]  # type: ignore[union-attr]
            made[name] = (empty.args, empty)
        elif isinstance(call, ast.Call) and of_self(call.args[0] if call.args else call) in made:
            full = _FULL.get(dotted(call.func), "")
            shape, empty = made[of_self(call.args[0])]
            if full and not empty.keywords:
                if full == "torch.full":
                    shape = [ast.Tuple(shape, ast.Load()), *call.args[1:]]
                empty.func, empty.args = ast.parse(full, mode="eval").body, shape
                continue
        left.append(statement)
    return left


def _join_formulas(cls: ast.ClassDef, file: _File) -> None:
    """Methods that are one expression where they are called, if that is no longer than the call."""
    if _heirs(cls, file):
        return
    formulas = {}
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name not in _NEEDED:
            body = without_docstring(node.body)
            if len(body) == 1 and isinstance(body[0], ast.Return) and body[0].value is not None:
                formulas[node.name] = (node, body[0].value)
    joiner = _Formulas(formulas)
    for node in cls.body:
        if isinstance(node, ast.FunctionDef):
            node.body = [joiner.visit(statement) for statement in node.body]


class _Formulas(ast.NodeTransformer):
    def __init__(self, formulas: Mapping[str, tuple[ast.FunctionDef, ast.expr]]):
        self.formulas = formulas

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        method, value = self.formulas.get(of_self(node.func), (None, None))
        if method is None or value is None:
            return node
        try:
            given = bind(method, node, bound=not is_static(method))
        except Unknown:
            return node
        found = Folder(given, {}).fold(value)
        is_plain = not method.decorator_list or is_static(method)
        return found if is_plain and len(ast.unparse(found)) <= len(ast.unparse(node)) else node


def _constant_attributes(
    cls: ast.ClassDef, init: ast.FunctionDef, outside: Collection[str]
) -> dict[str, ast.expr]:
    stored = Counter(
        of_self(node)
        for node in ast.walk(cls)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    )
    known: dict[str, ast.expr] = {}
    for statement in init.body:
        name, value = _stores(statement)
        is_fixed = isinstance(value, ast.Constant) or is_identity(value)
        if value is not None and is_fixed and stored[name] == 1 and name not in outside:
            known[name] = value
    return known


def _is_needed(statement: ast.stmt, read: Collection[str]) -> bool:
    """Whether a statement of `__init__` does more than to set an attribute that nobody reads.
    Modules are kept even so: their weights have names."""
    name, value = _stores(statement)
    if not name or name in read:
        return True
    return isinstance(value, ast.Call) and not is_identity(value)


class _Attributes(Folder):
    """Folds attributes of `self` that are constants, and calls of those that are identities."""

    def __init__(self, known: Mapping[str, ast.expr]):
        super().__init__({}, known)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        known = self.attributes.get(of_self(node.func))
        if known is not None and is_identity(known):
            return self.visit(node.args[0])
        return self.generic_visit(node)  # type: ignore[return-value]


def _method(cls: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    found = (n for n in cls.body if isinstance(n, ast.FunctionDef) and n.name == name)
    return next(found, None)


def _stores(statement: ast.stmt) -> tuple[str, ast.expr | None]:
    """The attribute of `self` that a statement sets, and to what; nothing for others."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        return of_self(statement.targets[0]), statement.value
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return of_self(statement.target), statement.value
    return "", None


# ---- text


def _unparsed(node: ast.AST) -> str:
    """Source of a statement, where `ast.unparse` writes what Ruff would not."""
    text = ast.unparse(ast.fix_missing_locations(node))
    for call in (n for n in ast.walk(node) if isinstance(n, ast.Call) and len(n.args) == 1):
        if isinstance(call.args[0], ast.GeneratorExp) and not call.keywords:
            alone = ast.unparse(call.args[0])
            text = text.replace(f"({alone})", alone)
    return "\n".join(_broken(_bare_tuple(line)) for line in text.split("\n"))


def _broken(line: str) -> str:
    """A line with a message that is too long, as a message in two pieces."""
    match = re.fullmatch(r"(\s*raise \w+\(f)(['\"])(.*)\2\)", line)
    if match is None or len(line) <= LINE_LENGTH - 4:
        return line
    start, quote, message = match[1], match[2], match[3]
    at = message.rfind(", ", 0, LINE_LENGTH - len(start)) + 2
    first, second = message[:at], message[at:]
    return f"{start}{quote}{first}{quote} f{quote}{second}{quote})" if at > 1 else line


def _bare_tuple(line: str) -> str:
    """`a, b = (c, d)` without the brackets."""
    match = re.fullmatch(r"(\s*)([\w., ]+, [\w.]+) = \((.*)\)", line)
    if match is None:
        return line
    try:
        value = ast.parse(f"({match[3]})", mode="eval").body
    except SyntaxError:  # the brackets are not one pair
        return line
    is_tuple = isinstance(value, ast.Tuple) and not match[3].startswith("*")
    return f"{match[1]}{match[2]} = {match[3]}" if is_tuple else line


def _imports(nodes: Iterable[ast.Import | ast.ImportFrom], used: Collection[str]) -> str:
    """The imports of names that are used, in the blocks in which they were written."""
    blocks: dict[int, list[str]] = {}
    for node in nodes:
        module = node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
        top = module.partition(".")[0]
        names = [
            a
            for a in node.names
            if top == "__future__" or (a.asname or a.name.partition(".")[0]) in used
        ]
        if names:
            again = copy.copy(node)
            again.names = names
            block = {"__future__": 0, "torch": 2}.get(top, 1)
            blocks.setdefault(block, []).append(_unparsed(again))
    return "\n\n".join("\n".join(blocks[block]) for block in sorted(blocks))


def formatted(source: str) -> str:
    """The source as Ruff formats it, where Ruff is installed."""
    ruff = _ruff()
    if ruff is None:
        return source
    command = [ruff, "format", "--isolated", "--line-length", str(LINE_LENGTH), "-"]
    done = subprocess.run(command, input=source.encode(), capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exported source cannot be formatted: {done.stderr.decode().strip()}")
    return done.stdout.decode()


@functools.cache
def _ruff() -> str | None:
    beside = Path(sys.executable).with_name("ruff")
    return str(beside) if beside.is_file() else shutil.which("ruff")
