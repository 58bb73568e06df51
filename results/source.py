"""Collects the source of classes and of everything of ours that they use, for one file.

Starting from some classes, the global names in their code are followed: a name that another module
of the same package defines is collected too, a name from torch or the standard library becomes an
import, anything else is an error. Names are resolved in the syntax tree and never by running code.

Definitions come out module by module, a module after those it uses, and inside a module in the
order they were written, so whatever must exist before a line stands above it.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

from results.layout import LINE_LENGTH

PAPERS = 2  # that a summary names, those first that come first
_CLAUSE = r"[;:] |, (?:and|such as|then|which|with) "  # how one begins that may be left out
_PARAMETERS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True, slots=True)
class Import:
    """`from module import attribute as name`; without an attribute `import module as name`."""

    module: str
    attribute: str | None = None
    name: str = ""

    @property
    def binds(self) -> str:
        return self.name or self.attribute or self.module.partition(".")[0]

    @property
    def value(self) -> Any:
        module = importlib.import_module(self.module)
        if self.attribute is not None:
            return getattr(module, self.attribute)
        return module if self.name else sys.modules[self.binds]


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """A class, function or constant at the top of a module; `line` is where its text begins."""

    module: str
    node: ast.stmt
    names: tuple[str, ...]
    text: str
    line: int

    @property
    def is_assignment(self) -> bool:
        return isinstance(self.node, ast.Assign | ast.AnnAssign)


@dataclass(frozen=True, slots=True)
class Reference:
    """A name that some code takes from its module, and its longest dotted form (`cost.linear`)."""

    node: ast.Name
    dotted: str


@dataclass(frozen=True, slots=True)
class Collected:
    """`imports` and `body` are formatted source; `bound` are the names that the imports bind,
    `names` says what each definition (module, name) is called in `body`."""

    imports: str
    body: str
    bound: frozenset[str]
    names: Mapping[tuple[str, str], str]

    def name_of(self, cls: type) -> str:
        """What `cls`, one of the classes collected, is called in `body`."""
        return self.names[cls.__module__, cls.__name__]


def collect(
    classes: Iterable[type],
    *,
    imports: Iterable[Import] = (),
    reserved: Collection[str] = (),
    barred: Collection[str] = (),
) -> Collected:
    """The source of `classes` and of what they use.

    `imports` are wanted besides those of the code; `reserved` names stay free for the caller.
    Using anything from a module in `barred` is an error. Names that clash get their module's name
    in front. Raises RuntimeError for code that cannot stand in one file, naming it.
    """
    walk = _Walk(frozenset(cls.__module__.partition(".")[0] for cls in classes), frozenset(barred))
    for wanted in imports:
        walk.add_import(wanted)
    for cls in classes:
        walk.follow(cls.__module__, cls.__name__, cls.__qualname__)
    hidden = sorted(walk.builtins & set(walk.imports))
    if hidden:
        raise RuntimeError(f"{walk.imports[hidden[0]]} hides a builtin that other code uses")
    names = _final_names(walk, {*reserved, *walk.imports, *walk.builtins})
    sections = []
    for module in walk.order:
        definitions = sorted(walk.definitions[module], key=lambda found: found.line)
        blocks: list[str] = []
        previous: Definition | None = None
        for definition in definitions:
            text = _rewritten(definition, walk, names)
            if previous is not None and previous.is_assignment and definition.is_assignment:
                blocks[-1] += "\n" + text
            else:
                blocks.append(text)
            previous = definition
        sections.append("\n\n\n".join(blocks))
    return Collected(
        format_imports(walk.imports.values()),
        "\n\n\n".join(sections),
        frozenset(walk.imports),
        names,
    )


def check_names(source: str) -> None:
    """RuntimeError where `source` uses a name that it neither defines, imports nor inherits."""
    tree = ast.parse(source)
    known = _bound(tree.body) | set(dir(builtins))
    for reference in _references(tree.body):
        if reference.node.id not in known:
            raise RuntimeError(f"exported source: name {reference.dotted!r} is not defined in it")


def format_imports(imports: Iterable[Import]) -> str:
    """One sorted block for each of `__future__`, the standard library and torch."""
    blocks: list[list[str]] = [["from __future__ import annotations"], [], []]
    plain: list[tuple[int, str]] = []
    members: dict[tuple[int, str], list[str]] = {}
    for wanted in imports:
        block = 2 if wanted.module.partition(".")[0] == "torch" else 1
        renamed = f" as {wanted.name}" if wanted.name else ""
        if wanted.attribute is None:
            plain.append((block, f"import {wanted.module}{renamed}"))
        elif renamed:
            members[block, f"{wanted.module} {wanted.attribute}"] = [wanted.attribute + renamed]
        else:
            members.setdefault((block, wanted.module), []).append(wanted.attribute)
    for block, statement in sorted(plain):
        blocks[block].append(statement)
    for (block, module), found in sorted(members.items()):
        blocks[block].append(_from_import(module.split(" ")[0], sorted(found, key=_member_order)))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _from_import(module: str, members: Sequence[str]) -> str:
    line = f"from {module} import {', '.join(members)}"
    if len(line) <= LINE_LENGTH:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in members) + ")"


def _member_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, as import sorters have it."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, name


class _Walk:
    """Everything reached from the classes that it was told to follow."""

    def __init__(self, packages: frozenset[str], barred: frozenset[str]):
        self.packages = packages
        self.barred = barred
        self.imports: dict[str, Import] = {}
        self.definitions: dict[str, list[Definition]] = {}
        self.order: list[str] = []  # modules, each after those that it uses
        self.targets: dict[tuple[str, str], tuple[str, str] | Import | None] = {}
        self.builtins: set[str] = set()
        self._uses: dict[str, list[str]] = {}

    def follow(self, module: str, name: str, dotted: str) -> None:
        """Collects what `name` means in `module`, and what that uses in turn."""
        pending = [(module, name, dotted)]
        while pending:
            module, name, dotted = pending.pop(0)
            if (module, name) in self.targets:
                continue
            found, its_name = self._resolve(module, name, dotted)
            if isinstance(found, Definition):
                self.targets[module, name] = (found.module, its_name)
                self._use(module, found.module)
                if found not in self.definitions.setdefault(found.module, []):
                    self.definitions[found.module].append(found)
                    pending += [
                        (found.module, reference.node.id, reference.dotted)
                        for reference in _references([found.node])
                    ]
                    self._check_inner_imports(found)
            else:
                self.targets[module, name] = found
                if found is None:
                    self.builtins.add(name)
                else:
                    self.add_import(found)
        self.order = list(_after_their_uses(self._uses, self.definitions))

    def add_import(self, wanted: Import) -> None:
        known = self.imports.setdefault(wanted.binds, wanted)
        if known != wanted and known.value is not wanted.value:
            raise RuntimeError(f"{wanted.binds!r} is imported as both {known} and {wanted}")

    def _use(self, user: str, used: str) -> None:
        uses = self._uses.setdefault(user, [])
        if user != used and used not in uses:
            uses.append(used)

    def _resolve(
        self, module: str, name: str, dotted: str
    ) -> tuple[Definition | Import | None, str]:
        """The definition, or import, behind `name`, with its name there; None for a builtin."""
        user = module
        while True:
            if module in self.barred:
                raise RuntimeError(
                    f"{user}: {dotted!r} comes from {module}, which a network's modules must not "
                    "use: they are plain PyTorch"
                )
            found = _bindings(sys.modules.get(module) or importlib.import_module(module)).get(name)
            if found is None:
                if hasattr(builtins, name):
                    return None, name
                raise RuntimeError(f"{user}: {dotted!r} is not defined at the top of {module}")
            if isinstance(found, Definition):
                return found, name
            package = found.module.partition(".")[0]
            if package == "torch" or package in sys.stdlib_module_names:
                return found, name
            if package not in self.packages:
                raise RuntimeError(
                    f"{user}: {dotted!r} comes from {found.module}, but a network's modules may "
                    "use torch and the standard library only"
                )
            if found.attribute is None or isinstance(found.value, ModuleType):
                raise RuntimeError(
                    f"{user}: {dotted!r} goes through a module, so it cannot stand in one file; "
                    f"import the name itself (from {found.module} import ...)"
                )
            module, name = found.module, found.attribute

    def _check_inner_imports(self, definition: Definition) -> None:
        for node in ast.walk(definition.node):
            if isinstance(node, ast.ImportFrom):
                modules = ["." * node.level + (node.module or "")]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                continue
            for module in modules:
                package = module.partition(".")[0]
                if package != "torch" and package not in sys.stdlib_module_names:
                    raise RuntimeError(
                        f"{definition.module}: {definition.names[0]} imports {module!r} inside, "
                        "which one file cannot"
                    )


def _after_their_uses(uses: Mapping[str, list[str]], wanted: Collection[str]) -> Iterator[str]:
    done: set[str] = set()

    def visit(module: str) -> Iterator[str]:
        if module in done:
            return
        done.add(module)
        for used in uses.get(module, ()):
            yield from visit(used)
        if module in wanted:
            yield module

    for module in uses:
        yield from visit(module)


@cache
def _bindings(module: ModuleType) -> dict[str, Definition | Import]:
    """What each name at the top of `module` is bound to, read from its source."""
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        raise RuntimeError(f"the source of {module.__name__} cannot be read") from None
    lines = source.splitlines()
    found: dict[str, Definition | Import] = {}
    for node in _statements(ast.parse(source).body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.update((wanted.binds, wanted) for wanted in _imports(node, module))
            continue
        names = tuple(sorted(_bound([node])))
        clashes = [name for name in names if isinstance(found.get(name), Definition)]
        if clashes:
            raise RuntimeError(f"{module.__name__}: {clashes[0]!r} is defined more than once")
        line, text = _text(node, lines)
        definition = Definition(module.__name__, node, names, text, line)
        found.update((name, definition) for name in names)
    return found


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Those statements of a module that bind names, also below `if TYPE_CHECKING`."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _statements(node.body)
        elif isinstance(
            node,
            ast.Import
            | ast.ImportFrom
            | ast.ClassDef
            | ast.FunctionDef
            | ast.AsyncFunctionDef
            | ast.Assign
            | ast.AnnAssign,
        ):
            yield node


def _imports(node: ast.Import | ast.ImportFrom, module: ModuleType) -> Iterator[Import]:
    """The names that an import binds, each in one spelling however it was written."""
    for alias in node.names:
        renamed = alias.asname or ""
        if isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            package = module.__package__ if node.level else None
            origin = importlib.util.resolve_name(origin, package) if node.level else origin
            dotted = f"{origin}.{alias.name}"
            if renamed not in ("", alias.name) and dotted in sys.modules:
                yield Import(dotted, None, renamed)
            else:
                yield Import(origin, alias.name, renamed if renamed != alias.name else "")
        else:
            parent, _, last = alias.name.rpartition(".")
            if parent and renamed == last:
                yield Import(parent, last)
            else:
                yield Import(alias.name, None, renamed if renamed != alias.name else "")


def _text(node: ast.stmt, lines: Sequence[str]) -> tuple[int, str]:
    """A statement's lines, with decorators and the comment right above; the first one's number."""
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    while first > 1 and lines[first - 2].startswith("#"):
        first -= 1
    return first, "\n".join(lines[first - 1 : node.end_lineno])


def _final_names(walk: _Walk, taken: set[str]) -> dict[tuple[str, str], str]:
    """A name for each definition: its own, or with its module's in front where that is taken.

    Whoever comes first in the file keeps the name, except that the classes of `results.network`,
    which come last, are never the ones to give way.
    """
    local: set[str] = set()
    for definitions in walk.definitions.values():
        visitor = _visited(found.node for found in definitions)
        local |= visitor.local
    # Text changes where a definition is used under another name; no local name may catch it there.
    aliased = {
        target
        for (_, name), target in walk.targets.items()
        if isinstance(target, tuple) and target[1] != name
    }
    names: dict[tuple[str, str], str] = {}
    used = set(taken)
    for module in sorted(walk.order, key=lambda name: name != "results.network"):
        for definition in sorted(walk.definitions[module], key=lambda found: found.line):
            for name in definition.names:
                final, number = name, 1
                changes = (module, name) in aliased
                while final in used or (changes and final in local):
                    final = _qualified(module, name) + (str(number) if number > 1 else "")
                    number, changes = number + 1, True
                used.add(final)
                names[module, name] = final
    return names


def _qualified(module: str, name: str) -> str:
    """`Block` of `space.operators.window` as `WindowBlock`; `pad` as `window_pad`."""
    tail = re.sub(r"\W", "_", module.rpartition(".")[2])
    bare = name.lstrip("_")
    start = name[: len(name) - len(bare)]
    if bare.isupper():
        return f"{start}{tail.upper()}_{bare}"
    if bare[:1].isupper():
        return start + "".join(word.capitalize() for word in tail.split("_")) + bare
    return f"{start}{tail}_{bare}"


def _rewritten(definition: Definition, walk: _Walk, names: Mapping[tuple[str, str], str]) -> str:
    """The text of a definition, with the names in it that are called otherwise in the one file."""
    edits: list[tuple[int, int, int, str]] = []  # line, first byte, end byte, new name
    for reference in _references([definition.node]):
        node = reference.node
        target = walk.targets.get((definition.module, node.id))
        if isinstance(target, tuple) and names[target] != node.id:
            assert node.end_col_offset is not None
            edits.append((node.lineno, node.col_offset, node.end_col_offset, names[target]))
    lines = [line.encode() for line in definition.text.split("\n")]
    if not definition.is_assignment:
        name = definition.names[0]
        at = definition.node.lineno
        match = re.search(rb"\b(?:class|def)\s+(\w+)", lines[at - definition.line])
        assert match is not None
        edits.append((at, match.start(1), match.end(1), names[definition.module, name]))
    for line, start, end, name in sorted(edits, reverse=True):
        old = lines[line - definition.line]
        lines[line - definition.line] = old[:start] + name.encode() + old[end:]
    return b"\n".join(lines).decode()


def summaries_of(module: str) -> list[str]:
    """The first sentence of an imported module's docstring, with the papers that it names: whole,
    and then with fewer and fewer clauses; empty where it has none."""
    text = inspect.getdoc(sys.modules[module]) or ""
    first = " ".join(text.partition("\n\n")[0].split())
    sentence = re.split(r"(?<=[.:;])\s+(?=[A-Z])", first)[0].rstrip(".:;")
    papers = list(dict.fromkeys(re.findall(r"\b(\d{4}\.\d{4,5})\b", text)))[:PAPERS]
    plain = sentence.replace("\\", "/").replace('"', "'")  # nothing in it can end a string
    ends = [match.start() for match in re.finditer(_CLAUSE, plain)]
    ends = [end for end in ends if plain.count("(", 0, end) == plain.count(")", 0, end)]
    clauses = [plain, *(plain[:end] for end in reversed(ends))]
    named = f" (arXiv {', '.join(papers)})" if papers else ""
    return [f"{said}{'' if 'arXiv' in said else named}." if said else "" for said in clauses]


def _references(nodes: Iterable[ast.stmt]) -> list[Reference]:
    """The names in some statements of a module that mean something at the module's top."""
    return _visited(nodes).found


def _visited(nodes: Iterable[ast.stmt]) -> _GlobalNames:
    visitor = _GlobalNames()
    for node in nodes:
        visitor.visit(node)
    return visitor


@dataclass
class _GlobalNames(ast.NodeVisitor):
    """Follows Python's scopes: a name bound in a function hides the global one inside it, a name
    bound in a class body only in the body itself."""

    found: list[Reference] = field(default_factory=list)
    local: set[str] = field(default_factory=set)  # names bound in any function or class
    _scopes: list[tuple[bool, set[str]]] = field(default_factory=list)  # is it a class, its names

    def visit_Name(self, node: ast.Name) -> None:
        self._note(node, node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        base: ast.expr = node
        while isinstance(base, ast.Attribute):
            base = base.value
        if isinstance(base, ast.Name):
            self._note(base, ast.unparse(node))
        else:
            self.visit(base)

    def _note(self, node: ast.Name, dotted: str) -> None:
        if node.id != "__class__" and not self._is_local(node.id):
            self.found.append(Reference(node, dotted))

    def _is_local(self, name: str) -> bool:
        for depth, (is_class, names) in enumerate(reversed(self._scopes)):
            if name in names and (depth == 0 or not is_class):
                return True
        return False

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, _PARAMETERS):
            self._visit_function(node)
        elif isinstance(node, _COMPREHENSIONS):
            self._visit_comprehension(node)
        elif isinstance(node, ast.ClassDef):
            self._visit_all([*node.decorator_list, *node.bases, *node.keywords])
            self._visit_inside(True, _bound(node.body), node.body)
        else:
            super().generic_visit(node)

    def _visit_all(self, nodes: Iterable[ast.AST | None]) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    def _visit_inside(self, is_class: bool, names: set[str], nodes: Iterable[ast.AST]) -> None:
        self.local |= names
        self._scopes.append((is_class, names))
        self._visit_all(nodes)
        self._scopes.pop()

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        signature = node.args
        arguments = [*signature.posonlyargs, *signature.args, *signature.kwonlyargs]
        arguments += [extra for extra in (signature.vararg, signature.kwarg) if extra is not None]
        self._visit_all([*signature.defaults, *signature.kw_defaults])
        if isinstance(node, ast.Lambda):
            body: list[ast.AST] = [node.body]
        else:
            body = list(node.body)
            self._visit_all(
                [*node.decorator_list, *(a.annotation for a in arguments), node.returns]
            )
        self._visit_inside(False, {a.arg for a in arguments} | _bound(body), body)

    def _visit_comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    ) -> None:
        first, *others = node.generators
        self.visit(first.iter)  # the outermost iterable belongs to the scope around
        names = _bound([generator.target for generator in node.generators])
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        inside: list[ast.AST] = [first.target, *first.ifs, *others, *results]
        self._visit_inside(False, names, inside)


def _bound(nodes: Iterable[ast.AST]) -> set[str]:
    """The names that some code binds in its own scope."""
    bound: set[str] = set()
    outer: set[str] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, _COMPREHENSIONS):
            # Only an assignment expression binds outside a comprehension.
            bound |= {n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr)}
            continue
        if isinstance(node, ast.Global | ast.Nonlocal):
            outer.update(node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            bound.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name.partition(".")[0]) for alias in node.names}
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            bound.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            bound.add(node.rest)
        pending.extend(ast.iter_child_nodes(node))
    return bound - outer
