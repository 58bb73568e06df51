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
    number,
    operator,
    part_from_json,
    part_to_json,
    registered,
    rows,
    scaled_channels,
    whole,
)
from space.operators.embedding import Embedding
from space.operators.inverted_bottleneck import InvertedBottleneck


@dataclass(frozen=True, slots=True, kw_only=True)
class Example(Part):
    """Not registered."""

    side: int = choice(3, 5, 7)
    factor: float | None = choice(None, 0.5, 1.0, default=0.5)
    flag: bool = choice(False, True)
    width: int = whole(1, 64, default=8)
    ratio: float = number(0.5, 8, default=4)
    layers: tuple = rows(kernel=(3, 5), width=range(1, 9), examples=((), ((3, 1),)))


Example.kind = "example"


def test_defaults_are_the_first_or_the_one_named():
    assert Example() == Example(side=3, factor=0.5, flag=False, width=8, ratio=4, layers=())
    assert list(gene_choices(Example)) == ["side", "factor", "flag", "width", "ratio", "layers"]


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
        ({"ratio": 9}, "ratio is 9, but must be a number from 0.5 to 8"),
        ({"ratio": True}, "ratio is True, but must be a number from 0.5 to 8"),
        ({"ratio": float("nan")}, "ratio is nan, but must be a number from 0.5 to 8"),
        ({"layers": 3}, r"layers is 3, but must be a list of rows \(kernel: one of 3, 5; width: a"),
        ({"layers": [[3]]}, r"layers is \[\[3\]\], but must be a list of rows"),
        ({"layers": [[4, 1]]}, r"layers is \[\[4, 1\]\], but must be a list of rows"),
    ],
)
def test_a_wrong_value_is_refused_by_name(genes, message):
    with pytest.raises(ValueError, match=message):
        Example(**genes)


def test_a_gene_is_kept_in_one_way():
    """Equal networks must be equal genomes: lists are tuples, and 4.0 is 4."""
    part = Example(ratio=4.0, layers=[[3, 1], (5, 2)])
    assert part == Example(ratio=4, layers=((3, 1), (5, 2)))
    assert (type(part.ratio), part.layers) == (int, ((3, 1), (5, 2)))
    assert Example(ratio=3.5).ratio == 3.5
    assert hash(part) == hash(Example(layers=((3, 1), (5, 2))))


def test_parts_are_values():
    assert InvertedBottleneck(context=5) == InvertedBottleneck(context=5)
    assert hash(InvertedBottleneck(context=5)) == hash(InvertedBottleneck(context=5))
    assert InvertedBottleneck(context=5) != InvertedBottleneck(context=7)
    with pytest.raises(AttributeError):
        InvertedBottleneck().context = 5


def test_json_has_names_and_values():
    part = InvertedBottleneck(context=5, layer_scale=None, expansion=3.6)
    data = part_to_json(part)
    assert data["kind"] == "inverted_bottleneck"
    assert (data["context"], data["layer_scale"], data["expansion"]) == (5, None, 3.6)
    assert list(data)[1:] == list(gene_choices(InvertedBottleneck))
    assert part_to_json(part, brief=True) == {
        "kind": "inverted_bottleneck",
        "expansion": 3.6,
        "context": 5,
    }
    assert part_from_json("operator", data) == part


def test_an_operator_may_stand_for_a_downsampling_module():
    assert lookup("downsampling", "inverted_bottleneck") is InvertedBottleneck
    assert "inverted_bottleneck" not in registered("downsampling")
    with pytest.raises(ValueError, match="strided_convolution, or any operator"):
        lookup("downsampling", "convolve")
    assert not set(registered("operator")) & set(registered("downsampling"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"kind": "mbconv"},
            "unknown operator 'mbconv'; registered: " + ", ".join(registered("operator")),
        ),
        ({"kind": ["mlp"]}, r"unknown operator \['mlp'\]; registered"),
        ({"context": 5}, "an? operator must be an object with a 'kind'"),
        ("mlp", "must be an object with a 'kind', not 'mlp'"),
        (
            {"kind": "inverted_bottleneck", "heads": 2},
            "inverted_bottleneck: unknown gene 'heads'; its genes: expansion",
        ),
        (
            {"kind": "inverted_bottleneck", "context": 4},
            "inverted_bottleneck: context is 4, but must be one of 0, 3, 5",
        ),
    ],
)
def test_bad_parts_are_refused_by_name(data, message):
    with pytest.raises(ValueError, match=message):
        part_from_json("operator", data)


def test_a_kind_belongs_to_one_part():
    with pytest.raises(ValueError, match=r"operator 'embedding' is already registered by space\."):
        operator("embedding")(Example)
    assert lookup("operator", "embedding") is Embedding
    with pytest.raises(TypeError, match="must be a dataclass"):
        operator("plain")(Plain)
    assert "plain" not in registered("operator")


class Plain:
    """Not a dataclass."""


def test_every_kind_is_a_file_of_ours():
    assert list(registered("operator")) == sorted(registered("operator"))
    assert {"inverted_bottleneck", "attention", "token_mlp", "modulation"} < set(
        registered("operator")
    )
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
