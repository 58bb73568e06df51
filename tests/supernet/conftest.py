"""What the tests of `supernet` share: spaces of one part each, and a small trainable one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from placements import genes_of, made, settings, stands, values_of

from space.files import make_space
from space.genes import MAP, Part, Site, gene_choices, registered
from space.search_space import Space
from supernet.network import Supernet

WIDTHS = ((16, 48), (32, 48))  # of the two stages of a host; maps of 8 x 8 and 4 x 4
SIDES = (8, 4)
MOST = 32  # settings of a part in one host


@dataclass(frozen=True, slots=True)
class Host:
    """A part with several values of some of its genes; the others are the same everywhere."""

    category: str
    kind: str
    genes: tuple[tuple[str, tuple[Any, ...]], ...]

    def __str__(self) -> str:
        searched = ",".join(name for name, values in self.genes if len(values) > 1)
        return f"{self.kind}({searched})"


def stand(category: str) -> list[Site]:
    """Where the part of a host stands."""
    found = []
    for i, (side, widths) in enumerate(zip(SIDES, WIDTHS, strict=True)):
        before = (8, 12) if i == 0 else WIDTHS[0]
        if category == "operator":
            found += [Site(width, width, side, side) for width in widths]
        else:
            pairs = product(before, widths)
            found += [Site(a, b, side * (i + 1), side * (i + 1), i + 1) for a, b in pairs]
    return found


def fits(kind: type[Part], genes: Mapping[str, Sequence[Any]]) -> bool:
    """Whether every combination of the values can stand wherever the host has it."""
    for values in product(*genes.values()):
        part = made(kind, **dict(zip(genes, values, strict=True)))
        if part is None or not all(
            stands(part, site) and part.gives(site) == MAP for site in stand(part.category)
        ):
            return False
    return True


def few(allowed: Any) -> list[Any]:
    """The smallest, the middle and the largest value of a gene."""
    values = list(values_of(allowed))
    return [values[place] for place in sorted({0, len(values) // 2, len(values) - 1})]


@cache
def hosts() -> tuple[Host, ...]:
    """Spaces that between them search every gene of every part that takes and gives a map alone."""
    found = []
    for category in ("operator", "downsampling"):
        for kind in registered(category).values():
            found += [Host(category, kind.kind, tuple(g.items())) for g in gene_groups(kind)]
    return tuple(found)


def gene_groups(kind: type[Part]) -> list[dict[str, tuple[Any, ...]]]:
    """Genes with the values that go together, starting from the defaults or a published setting."""
    groups: list[dict[str, tuple[Any, ...]]] = []
    for gene, allowed in gene_choices(kind).items():
        for group in groups:
            wider = group | {gene: both(kind, group, gene, allowed)}
            size = math.prod(len(values) for values in wider.values())
            if len(wider[gene]) > 1 and size <= MOST and fits(kind, wider):
                group[gene] = wider[gene]
                break
        else:
            for start in settings(kind):
                base = {name: (value,) for name, value in genes_of(start).items()}
                values = both(kind, base, gene, allowed)
                if len(values) > 1:
                    groups.append(base | {gene: values})
                    break
    alone = {name: (value,) for name, value in genes_of(kind()).items()}
    return groups or ([alone] if fits(kind, alone) else [])


def both(kind: type[Part], base: dict[str, tuple[Any, ...]], gene: str, allowed: Any) -> tuple:
    """The values of a gene that fit a single setting of the others."""
    first = {name: values[:1] for name, values in base.items()}
    return tuple(value for value in few(allowed) if fits(kind, first | {gene: (value,)}))


def space_around(host: Host) -> Space:
    """A space in which one part has several values of its genes and stands at several widths."""
    operators: dict[str, Any] = {"inverted_bottleneck": {"expansion": [1]}}
    downsampling: dict[str, Any] = {"local_dsm": {}}
    options = operators if host.category == "operator" else downsampling
    options.clear()
    options[host.kind] = {name: list(values) for name, values in host.genes}
    stages = [
        {
            "channels": list(widths),
            "depth": [1, 2] if i == 0 else [1],
            "stride": i + 1,
            "operators": operators,
            "downsampling": downsampling,
        }
        for i, widths in enumerate(WIDTHS)
    ]
    return make_space(
        {
            "name": host.kind,
            "resolution": [16],
            "classes": 5,
            "stem": {"convolution": {"channels": [8, 12], "norm": ["layer"]}},
            "stages": stages,
            "head": {"pooled": {"features": [0], "norm": ["layer"]}},
        }
    )


def randomise(supernet: Supernet, seed: int = 0) -> Supernet:
    """Weights of which none starts at zero or at one and the same value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in supernet.weights.items():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
            if weight.dim() == 1 and name.endswith("weight"):
                weight.add_(1)  # of a norm or a scale
    return supernet


@pytest.fixture(scope="session")
def host_space():
    """Makes the space around a part, given its category and kind."""
    return space_around


@pytest.fixture(scope="session", name="hosts")
def all_hosts():
    return hosts


@pytest.fixture(scope="session")
def random_weights():
    return randomise


@pytest.fixture(scope="session")
def small_space() -> Space:
    """Cheap to train; two operators, with BatchNorm in one of them."""
    return make_space(
        {
            "name": "small",
            "resolution": [8],
            "classes": 3,
            "stem": {"convolution": {"channels": [4, 8]}},
            "stages": [
                {
                    "channels": [8, 12],
                    "depth": [1, 2],
                    "stride": 2,
                    "downsampling": {"local_dsm": {}},
                    "operators": {
                        "inverted_bottleneck": {"expansion": [1, 2], "norm": ["layer", "batch"]},
                        "token_mlp": {"expansion": [1, 2], "layer_scale": [0.1]},
                    },
                }
            ],
            "head": {"pooled": {"features": [0, 16]}},
        }
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are slower on many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "host" in metafunc.fixturenames:
        metafunc.parametrize("host", hosts(), ids=str)
