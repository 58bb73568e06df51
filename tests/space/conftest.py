"""What the tests of `space` share: every part at every gene value, and where it can stand."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import nn

import space  # noqa: F401  (registers the parts)
from space.genes import CATEGORIES, Part, Site, gene_choices, registered


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
