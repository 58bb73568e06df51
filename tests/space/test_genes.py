"""Genes: what they accept, how they are written down, and how parts register."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from space.genes import (
    Part,
    Site,
    choice,
    gene_choices,
    lookup,
    operator,
    part_from_json,
    part_to_json,
    registered,
    scaled_channels,
    whole,
)
from space.operators.convnext import ConvNeXt


@dataclass(frozen=True, slots=True, kw_only=True)
class Example(Part):
    """Not registered."""

    side: int = choice(3, 5, 7)
    factor: float | None = choice(None, 0.5, 1.0, default=0.5)
    flag: bool = choice(False, True)
    width: int = whole(1, 64, default=8)


Example.kind = "example"


def test_defaults_are_the_first_or_the_one_named():
    assert Example() == Example(side=3, factor=0.5, flag=False, width=8)
    assert list(gene_choices(Example)) == ["side", "factor", "flag", "width"]


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ({"side": 4}, "example: side is 4, but must be one of 3, 5, 7"),
        ({"side": 3.0}, "side is 3.0, but must be one of 3, 5, 7"),
        ({"side": "3"}, "side is '3', but must be one of 3, 5, 7"),
        ({"side": [3]}, r"side is \[3\], but must be one of 3, 5, 7"),
        ({"factor": 1}, "factor is 1, but must be one of None, 0.5, 1.0"),
        ({"flag": 1}, "flag is 1, but must be one of False, True"),
        ({"width": 0}, "width is 0, but must be a whole number from 1 to 64"),
        ({"width": 65}, "width is 65, but must be a whole number from 1 to 64"),
        ({"width": 8.0}, "width is 8.0, but must be a whole number from 1 to 64"),
        ({"width": True}, "width is True, but must be a whole number from 1 to 64"),
    ],
)
def test_a_wrong_value_is_refused_by_name(genes, message):
    with pytest.raises(ValueError, match=message):
        Example(**genes)


def test_parts_are_values():
    assert ConvNeXt(context=5) == ConvNeXt(context=5)
    assert hash(ConvNeXt(context=5)) == hash(ConvNeXt(context=5))
    assert ConvNeXt(context=5) != ConvNeXt(context=7)
    with pytest.raises(AttributeError):
        ConvNeXt().context = 5


def test_json_has_names_and_values():
    assert part_to_json(ConvNeXt(context=5, layer_scale=None)) == {
        "kind": "convnext",
        "expansion": 4,
        "context": 5,
        "layer_scale": None,
        "norm": "layer",
        "activation": "gelu",
    }
    assert part_from_json("operator", {"kind": "convnext", "context": 5}) == ConvNeXt(context=5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"kind": "mbconv"},
            "unknown operator 'mbconv'; registered: " + ", ".join(registered("operator")),
        ),
        ({"kind": ["convnext"]}, r"unknown operator \['convnext'\]; registered"),
        ({"context": 5}, "an? operator must be an object with a 'kind'"),
        ("convnext", "must be an object with a 'kind', not 'convnext'"),
        ({"kind": "convnext", "heads": 2}, "convnext: unknown gene 'heads'; its genes: expansion"),
        ({"kind": "convnext", "context": 4}, "convnext: context is 4, but must be one of 3, 5"),
    ],
)
def test_bad_parts_are_refused_by_name(data, message):
    with pytest.raises(ValueError, match=message):
        part_from_json("operator", data)


def test_a_kind_belongs_to_one_part():
    with pytest.raises(ValueError, match=r"operator 'convnext' is already registered by space\."):
        operator("convnext")(Example)
    assert lookup("operator", "convnext") is ConvNeXt
    with pytest.raises(TypeError, match="must be a dataclass"):
        operator("plain")(Plain)
    assert "plain" not in registered("operator")


class Plain:
    """Not a dataclass."""


def test_every_kind_is_a_file_of_ours():
    assert list(registered("operator")) == sorted(registered("operator"))
    assert {"convnext", "global_attention", "token_mlp"} < set(registered("operator"))
    assert {"local_dsm", "local_global_dsm", "global_dsm"} < set(registered("downsampling"))


def test_a_site_rounds_up():
    site = Site(3, 8, 7, 10, 2)
    assert (site.out_height, site.out_width, site.out_pixels, site.pixels) == (4, 5, 20, 70)


def test_scaled_channels():
    assert scaled_channels(0, 0.5) == 0
    assert scaled_channels(37, 1) == 37
    for channels in range(1, 200):
        for ratio in (0.25, 0.5, 0.75, 1.5, 2):
            scaled = scaled_channels(channels, ratio)
            assert scaled % 2 == 0
            assert scaled >= 4
            assert abs(scaled - ratio * channels) <= 1 or scaled == 4
