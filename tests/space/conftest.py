"""What the tests of `space` share: every part at every gene value, and where it can stand; and
spaces few enough to go through, with all their networks listed without `Space`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from placements import name_of, placed_parts
from torch import nn

from space.decisions import Codes
from space.files import make_space
from space.genes import Part, Site, lookup
from space.genome import Genome, Stage
from space.search_space import Space


def all_placed() -> list[tuple[Part, Site]]:
    return list(placed_parts())


def default_placed() -> list[tuple[Part, Site]]:
    return [(part, site) for part, site in placed_parts() if part == type(part)()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, choose in (("placed_part", all_placed), ("placed_default", default_placed)):
        if fixture in metafunc.fixturenames:
            chosen = choose()
            ids = [f"{name_of(part)}-{name_of(site)}" for part, site in chosen]
            metafunc.parametrize(fixture, chosen, ids=ids)


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
                if tensor.dim() == 1 and name.endswith("weight"):
                    tensor.add_(1)  # of a norm or a scale
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
