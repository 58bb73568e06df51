"""What the tests of `supernet` share: spaces of one part each, and a small trainable one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

import space  # noqa: F401  (registers the parts)
from space.files import make_space
from space.genes import gene_choices, registered
from space.search_space import Space
from supernet.network import Supernet

HOSTS = [("operator", kind) for kind in registered("operator")]
HOSTS += [("downsampling", kind) for kind in registered("downsampling")]


def few(allowed: Sequence[Any]) -> list[Any]:
    """The smallest, the middle and the largest value of a gene."""
    places = sorted({0, len(allowed) // 2, len(allowed) - 1})
    return [allowed[place] for place in places]


def space_around(category: str, kind: str) -> Space:
    """A space in which one part has several values of each gene and stands at several widths."""
    genes = {name: few(values) for name, values in gene_choices(registered(category)[kind]).items()}
    operators: dict[str, Any] = {"inverted_bottleneck": {"expansion": [1]}}
    downsampling: dict[str, Any] = {"local_dsm": {}}
    host = operators if category == "operator" else downsampling
    host.clear()
    host[kind] = genes
    stages = [
        {"channels": [12, 36], "depth": [1, 2], "stride": 2},
        {"channels": [20, 32, 48], "depth": [1], "stride": 1},
    ]
    for stage in stages:
        stage |= {"operators": operators, "downsampling": downsampling}
    return make_space(
        {
            "name": kind,
            "resolution": [24],
            "classes": 5,
            "stem": {"convolution": {"channels": [8, 12], "stride": [2], "norm": ["layer"]}},
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
            if "norm" in name and name.endswith("weight"):
                weight.add_(1)
    return supernet


@pytest.fixture(scope="session")
def host_space():
    """Makes the space around a part, given its category and kind."""
    return space_around


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
            "stem": {"convolution": {"channels": [4, 8], "stride": [2]}},
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
        metafunc.parametrize("host", HOSTS, ids=[kind for _, kind in HOSTS])
