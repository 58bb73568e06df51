"""Genes and the parts of a network that they describe.

A *part* is a stem, a downsampling module, an operator or a head. Its file holds one frozen
dataclass, whose fields are its genes, and the plain PyTorch module that it builds. The dataclass
draws up a blueprint of that module for a place in a network: what it is made of, what it costs and
how its parameters are cut from larger ones. Everything else (trace, supernet, export, drawing) is
derived from that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, TypeVar

from torch import nn

from space.blueprint import Axes, Blueprint
from space.cost import Cost

CATEGORIES = ("stem", "downsampling", "operator", "head")


def choice(*allowed: Any, default: Any = None) -> Any:
    """A gene that takes one of `allowed`, in the order from smallest to largest.

    Without `default` it is the first of `allowed`.
    """
    default = allowed[0] if default is None else default
    return field(default=default, metadata={"allowed": allowed})


def whole(low: int, high: int, *, default: int) -> Any:
    """A gene that takes any whole number from `low` to `high`."""
    return field(default=default, metadata={"allowed": range(low, high + 1)})


@dataclass(frozen=True, slots=True)
class Numbers:
    """Any number from `low` to `high`; `examples` are some that are seen in practice."""

    low: float
    high: float
    examples: tuple[float, ...]

    def __contains__(self, value: Any) -> bool:
        return type(value) in (int, float) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Rows:
    """A list of rows, each with one value for each of `columns`; `examples` as for `Numbers`."""

    columns: Mapping[str, Sequence[Any] | Numbers]
    examples: tuple[tuple[tuple[Any, ...], ...], ...]

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, tuple) and all(
            isinstance(row, tuple)
            and len(row) == len(self.columns)
            and all(is_allowed(v, c) for v, c in zip(row, self.columns.values(), strict=True))
            for row in value
        )

    def __str__(self) -> str:
        columns = "; ".join(f"{name}: {describe_allowed(c)}" for name, c in self.columns.items())
        return f"a list of rows ({columns})"


Allowed = Sequence[Any] | Numbers | Rows


def number(low: float, high: float, *, default: float, examples: Sequence[float] = ()) -> Any:
    """A gene that takes any number from `low` to `high`; one without a fraction is kept as int."""
    allowed = Numbers(low, high, tuple(examples) or (default,))
    return field(default=default, metadata={"allowed": allowed})


def rows(*, examples: Sequence[Any], default: Any = (), **columns: Any) -> Any:
    """A gene that takes a list of rows, such as one for each of several convolutions."""
    return field(default=default, metadata={"allowed": Rows(columns, tuple(examples))})


@dataclass(frozen=True, slots=True)
class Flow:
    """What travels from part to part: a "map" alone, or a tuple of the map and what `kind` says,
    for instance `count` class tokens beside it ("tokens": (N, C, count, 1))."""

    kind: str = "map"
    count: int = 0


MAP = Flow()


@dataclass(frozen=True, slots=True)
class Site:
    """Where a part stands: what comes in, `(N, in_channels, height, width)`, and what goes out;
    `flow` is what comes in beside the map."""

    in_channels: int
    channels: int
    height: int
    width: int
    stride: int = 1
    flow: Flow = MAP

    @property
    def out_height(self) -> int:
        return -(-self.height // self.stride)

    @property
    def out_width(self) -> int:
        return -(-self.width // self.stride)

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def out_pixels(self) -> int:
        return self.out_height * self.out_width

    @property
    def tokens(self) -> int:
        """Class tokens beside the map."""
        return self.flow.count if self.flow.kind == "tokens" else 0


class Part:
    """Base of the gene dataclasses; checks every gene when it is made (ValueError)."""

    __slots__ = ()
    category: ClassVar[str]
    kind: ClassVar[str]
    # Submodules whose weights a supernet shares between kinds that stand in the same place: name
    # of the submodule -> name of the pool. What every kind needs is then trained by all of them.
    pools: ClassVar[Mapping[str, str]] = {}
    # Kinds of flow that the part can work on, see `Flow`.
    takes: ClassVar[tuple[str, ...]] = ("map",)

    def __post_init__(self) -> None:
        for gene in fields(self):  # type: ignore[arg-type]
            value, allowed = getattr(self, gene.name), gene.metadata["allowed"]
            normal = kept(value, allowed)
            if normal is not value:
                object.__setattr__(self, gene.name, normal)
            if not is_allowed(normal, allowed):
                wanted = describe_allowed(allowed)
                raise ValueError(f"{self.kind}: {gene.name} is {value!r}, but must be {wanted}")

    def blueprint(self, site: Site) -> Blueprint:
        """The module at `site`, mapping (N, in_channels, height, width) to (N, channels,
        out_height, out_width); a head maps it to (N, channels). ValueError where the part cannot
        stand there."""
        raise NotImplementedError

    def build(self, site: Site) -> nn.Module:
        """The module with fresh weights."""
        return self.blueprint(site).build()

    def cost(self, site: Site) -> Cost:
        """Closed-form cost of one image."""
        return self.blueprint(site).cost

    def axes(self, site: Site) -> Axes:
        """Axes of those parameters that are not cut in the default way (`space.slicing`)."""
        return self.blueprint(site).axes

    def gives(self, site: Site) -> Flow:
        """What leaves the part beside the map."""
        return site.flow

    def scaled(self, ratio: float) -> Part:
        """The same part in a network whose channels are `ratio` times as wide."""
        return self


def scaled_channels(channels: int, ratio: float) -> int:
    """`ratio * channels` as an even number, at least 4; 0 stays 0."""
    if channels == 0 or ratio == 1:
        return channels
    return max(4, 2 * round(channels * ratio / 2))


def is_allowed(value: Any, allowed: Allowed) -> bool:
    """1 == True in Python; a gene's value must also have the type of the allowed one."""
    if isinstance(allowed, Numbers | Rows):
        return value in allowed
    if isinstance(allowed, range):
        return type(value) is int and value in allowed
    return any(value == a and type(value) is type(a) for a in allowed)


def kept(value: Any, allowed: Allowed) -> Any:
    """How a gene keeps a value: lists as tuples; whole numbers as int, where any number goes."""
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(allowed, Rows) and isinstance(value, tuple):
        columns = tuple(allowed.columns.values())
        return tuple(
            tuple(kept(v, c) for v, c in zip(row, columns, strict=False))
            if isinstance(row, list | tuple) and len(row) == len(columns)
            else row
            for row in value
        )
    if isinstance(allowed, Numbers) and type(value) is float and value.is_integer():
        return int(value)
    return value


def describe_allowed(allowed: Allowed) -> str:
    """`one of 3, 5, 7` or `a whole number from 1 to 4096`, for messages."""
    if isinstance(allowed, Numbers | Rows):
        return str(allowed)
    if isinstance(allowed, range):
        return f"a whole number from {allowed[0]} to {allowed[-1]}"
    return "one of " + ", ".join(repr(value) for value in allowed)


def gene_choices(part: type[Part]) -> dict[str, Allowed]:
    """The genes of a part and what each may be, in the order they are declared."""
    return {gene.name: gene.metadata["allowed"] for gene in fields(part)}  # type: ignore[arg-type]


_REGISTRY: dict[str, dict[str, type[Part]]] = {category: {} for category in CATEGORIES}

P = TypeVar("P", bound=type[Part])


def _register(category: str, kind: str):
    def decorate(part: P) -> P:
        known = _REGISTRY[category].get(kind)
        if known is not None and known.__qualname__ != part.__qualname__:
            raise ValueError(f"{category} {kind!r} is already registered by {known.__module__}")
        if not is_dataclass(part):
            raise TypeError(f"{part.__qualname__} must be a dataclass before it is registered")
        part.category, part.kind = category, kind
        _REGISTRY[category][kind] = part
        return part

    return decorate


def stem(kind: str):
    """Registers a stem: the part that reads the image."""
    return _register("stem", kind)


def downsampling(kind: str):
    """Registers a downsampling module: what changes resolution and width between stages."""
    return _register("downsampling", kind)


def operator(kind: str):
    """Registers an operator: a block that mixes tokens and channels."""
    return _register("operator", kind)


def head(kind: str):
    """Registers a head: from the last map to the logits."""
    return _register("head", kind)


def registered(category: str) -> dict[str, type[Part]]:
    """Kind -> gene dataclass, in alphabetical order."""
    return dict(sorted(_REGISTRY[category].items()))


def lookup(category: str, kind: str) -> type[Part]:
    """ValueError names what is registered where `kind` is not.

    An operator may stand where a downsampling module does: many change resolution and width.
    """
    known = _REGISTRY[category]
    if category == "downsampling":
        known = {**_REGISTRY["operator"], **known}
    try:
        return known[kind]
    except (KeyError, TypeError):
        names = ", ".join(registered(category))
        also = ", or any operator" if category == "downsampling" else ""
        raise ValueError(f"unknown {category} {kind!r}; registered: {names}{also}") from None


def _genes_of(part: type[Part]) -> tuple[str, ...]:
    return tuple(gene.name for gene in fields(part))  # type: ignore[arg-type]


def part_to_json(part: Part, *, brief: bool = False) -> dict[str, Any]:
    """`{"kind": ..., gene: value, ...}`: names and values, never positions.

    `brief` leaves out genes that have their default.
    """
    values = {name: getattr(part, name) for name in _genes_of(type(part))}
    if brief:
        usual = {gene.name: gene.default for gene in fields(part)}  # type: ignore[arg-type]
        values = {name: value for name, value in values.items() if value != usual[name]}
    return {"kind": part.kind, **{name: _listed(value) for name, value in values.items()}}


def _listed(value: Any) -> Any:
    """Tuples as lists, which is what JSON gives back."""
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def part_from_json(category: str, data: Mapping[str, Any]) -> Part:
    """The inverse of `part_to_json`; genes left out take their default. Raises ValueError."""
    if not isinstance(data, Mapping) or "kind" not in data:
        raise ValueError(f"a {category} must be an object with a 'kind', not {data!r}")
    part = lookup(category, data["kind"])
    genes = {name: value for name, value in data.items() if name != "kind"}
    unknown = sorted(set(genes) - set(_genes_of(part)))
    if unknown:
        known = ", ".join(_genes_of(part)) or "none"
        raise ValueError(f"{part.kind}: unknown gene {unknown[0]!r}; its genes: {known}")
    return part(**genes)
