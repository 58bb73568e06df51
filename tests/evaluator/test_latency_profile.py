"""A profile from elsewhere is believed only where all of it makes sense."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from evaluator.latency_profile import read_profile
from evaluator.profiling import profile_device
from space.files import make_space
from tests.evaluator.timed import KnownRuntime
from tests.small_spaces import LAYERS

NONSENSE = (
    None,
    True,
    -1,
    0,
    1.5,
    float("nan"),
    float("inf"),
    10**400,
    "x",
    [],
    {},
    [[]],
    {"a": 1},
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("profile") / "device.json"
    profile = profile_device(make_space(LAYERS), KnownRuntime(), path, minutes=10)
    return {**profile.to_plain(), "networks": profile.to_plain()["networks"][:2]}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value inside of `value`."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def with_value(plain: dict[str, Any], path: tuple[Any, ...], new: Any) -> dict[str, Any]:
    changed = copy.deepcopy(plain)
    inner: Any = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed


def test_whatever_stands_in_a_file_is_a_profile_or_a_value_error(plain, tmp_path):
    path, rng = tmp_path / "device.json", random.Random(0)
    for place in places(plain):
        for nonsense in rng.sample(NONSENSE, 5):
            path.write_text(json.dumps(with_value(plain, place, nonsense)))
            try:
                said = repr(read_profile(path).device)
            except ValueError as error:
                said = str(error)
            assert said.startswith("Device(") or (str(path) in said and "\n" not in said)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("networks", 0, "ms"), float("nan"), "has a time of nan"),
        (("networks", 0, "ms"), 0, "takes no time"),
        (("networks", 0, "low"), 1e9, "quartiles"),
        (("networks", 0, "high"), 1e-9, "quartiles"),
        (("networks", 0, "parts"), [1.0], "has times of 1 parts"),
        (("networks",), {}, "its networks are not a list"),
        (("environment", "device"), ["x"], "its environment has 'device'"),
        (("space",), 5, "its space is 5"),
        (("format",), 0, "format 0, and this version reads 1"),
        (("kind",), "x", "is not a latency profile"),
    ],
)
def test_what_is_wrong_with_a_profile_is_said(place, value, said, plain, tmp_path):
    path = tmp_path / "device.json"
    path.write_text(json.dumps(with_value(plain, place, value)))
    with pytest.raises(ValueError, match=said):
        read_profile(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04N.", b"PK\x03\x04", b"[" * 100_000, b"\xff\xfe", b"1" * 10_000]
)
def test_a_foreign_file_is_refused(content, tmp_path):
    path = tmp_path / "device.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is not a (JSON file|latency profile)"):
        read_profile(path)
