"""What the tests of `space` share: every part at every gene value, and where it can stand; and
spaces few enough to go through, with all their networks listed without `Space`."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import space  # noqa: F401  (registers the parts)
from space.files import make_space
from space.genes import CATEGORIES, Part, Site, gene_choices, lookup, registered
from space.genome import Genome, Stage
from space.search_space import Codes, Space


def some_of(allowed: Sequence[Any]) -> Sequence[Any]:
    """All values of a gene, or a few of a long range: 0 where it is one, and two small sizes."""
    if isinstance(allowed, range):
        return [0, 12, 17] if 0 in allowed else [12, 17]
    return allowed


def make(part: type[Part], genes: dict[str, Any]) -> Part:
    return part(**genes)


def one_gene_at_a_time() -> Iterator[Part]:
    """Each registered part with all defaults but one gene, which takes each of its values."""
    for category in CATEGORIES:
        for part in registered(category).values():
            yield part()
            for name, allowed in gene_choices(part).items():
                for value in some_of(allowed):
                    yield make(part, {name: value})


def random_parts(count: int) -> Iterator[Part]:
    """`count` random settings of each registered part, the same ones in every run."""
    rng = random.Random(0)
    for category in CATEGORIES:
        for part in registered(category).values():
            for _ in range(count):
                choices = gene_choices(part).items()
                yield make(part, {name: rng.choice(some_of(allowed)) for name, allowed in choices})


def every_part() -> list[Part]:
    return list(dict.fromkeys([*one_gene_at_a_time(), *random_parts(8)]))


def sites(part: Part) -> list[Site]:
    """Small places where a part of its category can stand; sides odd, even and unequal."""
    if part.category == "stem":
        return [Site(3, part.channels, 16, 8, part.stride)]
    if part.category == "head":
        return [Site(12, 5, 4, 3)]
    if part.category == "downsampling":
        return [Site(12, 36, 7, 10, 2), Site(20, 16, 8, 6, 1)]
    places = [Site(36, 36, 7, 10)]
    if part.kind == "inverted_bottleneck":
        places.append(Site(12, 20, 6, 5))
    return places


PLACED = [(part, site) for part in every_part() for site in sites(part)]
DEFAULTS = [(part, site) for part, site in PLACED if part == type(part)()]


def name_of(value: Any) -> str:
    """A test id: `convnext(context=3)-36x36x7x10`."""
    if isinstance(value, Site):
        return f"{value.in_channels}to{value.channels}at{value.height}x{value.width}"
    default = type(value)()
    changed = [
        f"{name}={getattr(value, name)}"
        for name in gene_choices(type(value))
        if getattr(value, name) != getattr(default, name)
    ]
    return f"{value.kind}({','.join(changed)})"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "placed_part" in metafunc.fixturenames:
        ids = [f"{name_of(part)}-{name_of(site)}" for part, site in PLACED]
        metafunc.parametrize("placed_part", PLACED, ids=ids)
    if "placed_default" in metafunc.fixturenames:
        ids = [f"{name_of(part)}-{name_of(site)}" for part, site in DEFAULTS]
        metafunc.parametrize("placed_default", DEFAULTS, ids=ids)


@pytest.fixture
def randomise():
    """Gives a module random weights and running statistics, so that nothing starts at zero."""

    def fill(module: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        tensors = [*module.named_parameters(), *module.named_buffers()]
        with torch.no_grad():
            for name, tensor in tensors:
                if not tensor.is_floating_point():
                    continue
                tensor.normal_(generator=generator).mul_(0.3)
                if "norm" in name and name.endswith("weight"):
                    tensor.add_(1)
                if name.endswith("running_var"):
                    tensor.abs_().add_(0.5)
        return module.eval()

    return fill


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors are slower on many threads; results do not depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


# ---- spaces few enough to go through

ALIKE: dict[str, Any] = {
    "name": "alike",
    "resolution": [16, 32],
    "classes": 7,
    "stem": {"convolution": {"channels": [4, 8]}},
    "stages": [
        {
            "channels": [8, 12],
            "depth": [1, 2],
            "operators": {"inverted_bottleneck": {"expansion": [2, 1]}},
        },
        {
            "channels": [16, 12],
            "depth": [3, 1],
            "stride": 2,
            "downsampling": {"strided_convolution": {"kernel": [2, 3]}, "local_dsm": {}},
            "operators": {
                "inverted_bottleneck": {"context": [3, 5]},
                "token_mlp": {"expansion": [1, 2]},
            },
        },
    ],
    "head": {"pooled": {"features": [0, 16]}},
}
FREE: dict[str, Any] = {
    **ALIKE,
    "name": "free",
    "blocks": "free",
    "resolution": [16],
    "stages": [
        ALIKE["stages"][0],
        {**ALIKE["stages"][1], "depth": [2, 1], "downsampling": {"local_dsm": {}}},
    ],
}


def parts(category: str, options: dict[str, Any]) -> Iterator[Part]:
    for kind, genes in options.items():
        for values in product(*genes.values()):
            yield lookup(category, kind)(**dict(zip(genes, values, strict=True)))


def stages_of(stage: dict[str, Any], free: bool) -> Iterator[Stage]:
    blocks = list(parts("operator", stage["operators"]))
    modules = list(parts("downsampling", stage.get("downsampling", {}))) or [None]
    for channels, depth, module in product(stage["channels"], stage["depth"], modules):
        chosen = product(blocks, repeat=depth) if free else ((block,) * depth for block in blocks)
        for each in chosen:
            yield Stage(
                channels=channels, blocks=each, downsample=module, stride=stage.get("stride", 1)
            )


def every_genome(definition: dict[str, Any]) -> set[Genome]:
    """All networks, by nested loops over the definition."""
    free = definition.get("blocks") == "free"
    return {
        Genome(resolution=side, classes=definition["classes"], stem=stem, stages=stages, head=head)
        for side in definition["resolution"]
        for stem in parts("stem", definition["stem"])
        for stages in product(*(list(stages_of(stage, free)) for stage in definition["stages"]))
        for head in parts("head", definition["head"])
    }


@dataclass(frozen=True)
class Small:
    """A space, all its networks by brute force, and all its canonical rows."""

    definition: dict[str, Any]
    space: Space
    genomes: set[Genome]
    rows: Codes


@pytest.fixture(scope="session", params=[ALIKE, FREE], ids=["alike", "free"])
def small(request: pytest.FixtureRequest) -> Small:
    made = make_space(request.param)
    everything = np.array(list(product(*map(range, made.cardinalities))), np.int64)
    rows = np.unique(made.canonical(everything), axis=0)
    return Small(request.param, made, every_genome(request.param), rows)
