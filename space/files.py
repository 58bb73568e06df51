"""Space files: YAML, checked against `spaces/schema.json` and the registered parts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from space.genes import Site, describe_allowed, gene_choices, is_allowed, kept, lookup
from space.search_space import Options, Space, SpaceBuilder

try:
    from space import schema
except ModuleNotFoundError:  # a bare machine without jsonschema, which measures shipped spaces
    schema = None  # type: ignore[assignment]

FOLDER = Path(__file__).with_name("spaces")


def shipped_spaces() -> list[str]:
    """Names of the spaces that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_definition(source: str) -> dict[str, Any]:
    """The plain data of a shipped space (by name) or of a YAML file (by path).

    Raises ValueError where there is no such space or it is not YAML.
    """
    path = FOLDER / f"{source}.yaml" if source in shipped_spaces() else Path(source)
    if not path.is_file():
        known = ", ".join(shipped_spaces())
        raise ValueError(f"no space {source!r}; give a YAML file or one of: {known}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"space file {source!r} is not valid YAML: {reason}") from None
    if not isinstance(data, dict):
        raise ValueError(f"space file {source!r} must hold a mapping, not {type(data).__name__}")
    return data


def load_space(source: str, **overrides: Any) -> Space:
    """The space of a name or file; `overrides` replace top-level entries (`resolution=[160]`)."""
    space = make_space({**read_definition(source), **overrides})
    check_doors(space)
    return space


def make_space(definition: Mapping[str, Any]) -> Space:
    """The space of plain data; ValueError names the entry that is wrong and what is allowed."""
    if schema is not None:
        schema.check(definition)
    for entry, category in (("operators", "operator"), ("downsampling", "downsampling")):
        _options(category, definition.get(entry, {}), {}, entry)
    builder = SpaceBuilder()
    resolution = builder.choice("resolution", definition["resolution"])
    stem = builder.slot("stem", "stem", _options("stem", definition["stem"], {}, "stem"))
    stages = tuple(
        builder.stage(
            i,
            channels=stage["channels"],
            depth=stage["depth"],
            stride=stage.get("stride", 1),
            downsampling=None
            if stage.get("downsampling") is None
            else _options(
                "downsampling",
                stage["downsampling"],
                definition.get("downsampling", {}),
                f"stages.{i}.downsampling",
            ),
            operators=_options(
                "operator",
                stage["operators"],
                definition.get("operators", {}),
                f"stages.{i}.operators",
            ),
            alike=definition.get("blocks", "alike") == "alike",
        )
        for i, stage in enumerate(definition["stages"])
    )
    head = builder.slot("head", "head", _options("head", definition["head"], {}, "head"))
    proxy = definition.get("proxy", {})
    space = Space(
        name=definition["name"],
        about=definition.get("about", ""),
        variables=tuple(builder.variables),
        resolution=resolution,
        stem=stem,
        stages=stages,
        head=head,
        in_channels=definition.get("in_channels", 3),
        classes=definition.get("classes", 1000),
        proxy_width=proxy.get("width", 1.0),
        proxy_resolution=proxy.get("resolution"),
    )
    stride = space.total_stride
    for side in [
        *definition["resolution"],
        *([proxy["resolution"]] if "resolution" in proxy else []),
    ]:
        if side % stride:
            raise ValueError(f"resolution {side} must be a multiple of the total stride, {stride}")
    return space


def check_doors(space: Space) -> None:
    """ValueError where the first blocks of a stage without a DSM cannot do what one does.

    `make_space` leaves this out: such networks have costs, though they cannot be built.
    """
    widths = {
        space.stem.make(option.part, values).channels  # type: ignore[attr-defined]
        for option in space.stem.options.values()
        for values in option.settings()
    }
    for i, stage in enumerate(space.stages):
        if stage.downsample is None and stage.stride != 1:
            raise ValueError(
                f"stages.{i}: stride is {stage.stride}, but must be 1 without a downsampling module"
            )
        if stage.downsample is None:
            if 0 in stage.depth.choices:
                raise ValueError(
                    f"stages.{i}: depth may be 0, but must be at least 1 without a downsampling "
                    "module"
                )
            for option in stage.blocks[0].options.values():
                part = option.part(**next(option.settings()))
                for width, out in product(sorted(widths), stage.channels.choices):
                    try:
                        part.blueprint(Site(width, out, 1, 1))
                    except ValueError as error:
                        raise ValueError(
                            f"stages.{i} has no downsampling module: {error}"
                        ) from None
        widths = set(stage.channels.choices)


def _options(category: str, entry: Any, defaults: Mapping[str, Any], where: str) -> Options:
    """Option -> kind, and gene -> values. An option is named by its kind unless it says `kind`;
    a list of options takes each one's values from `defaults`."""
    given = {name: {} for name in entry} if isinstance(entry, list) else entry
    options = {}
    for name, narrowed in given.items():
        genes = {**defaults.get(name, {}), **(narrowed or {})}
        kind = genes.pop("kind", name)
        try:
            _check_genes(category, kind, genes)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        known = gene_choices(lookup(category, kind))
        options[name] = (
            kind,
            {
                gene: [kept(value, known[gene]) for value in values]
                for gene, values in genes.items()
            },
        )
    return options


def _check_genes(category: str, kind: str, genes: Mapping[str, list[Any]]) -> None:
    known = gene_choices(lookup(category, kind))
    for gene, values in genes.items():
        if gene not in known:
            raise ValueError(f"{kind}: unknown gene {gene!r}; its genes: {', '.join(known)}")
        for value in values:
            allowed = known[gene]
            if not is_allowed(kept(value, allowed), allowed):
                raise ValueError(
                    f"{kind}: {gene} is {value!r}, but must be {describe_allowed(allowed)}"
                )
