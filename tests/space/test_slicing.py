"""Axes and cuts, against places worked out by hand and by a plain description."""

from __future__ import annotations

import itertools

import pytest
import torch

from space.attention_layers import RelativePosition
from space.genes import Site, part_from_json
from space.slicing import Around, Centre, Cut, Grid, Lead, Parts, default_axes, describe


@pytest.mark.parametrize(
    ("small", "large", "places"),
    [
        (Lead(2), Lead(5), [0, 1]),
        (Centre(3), Centre(7), [2, 3, 4]),
        (Centre(2), Centre(4), [1, 2]),
        (Centre(1), Centre(4), [1]),
        (Around(0, 1), Around(1, 1), [1, 2]),
        (Around(1, 2), Around(3, 3), [2, 3, 4, 5]),
        (Grid(2, 2), Grid(3, 4), [0, 1, 4, 5]),
        (Grid(3, 1, 2), Grid(3, 2, 3), [0, 1, 6, 7, 12, 13]),
        (Grid(2, Centre(1)), Grid(2, Centre(3)), [1, 4]),
        (Parts(2, 2, 1), Parts(3, 3, 2), [0, 1, 3, 4, 6]),
        (Parts(2, Grid(1, 2)), Parts(2, Grid(2, 3)), [0, 1, 2, 3]),
    ],
    ids=repr,
)
def test_places_of_a_cut(small, large, places):
    row = torch.arange(large.size)
    assert Cut.between((small,), (large,))(row).tolist() == places
    assert small.size == len(places)


def test_grid_is_a_slice_of_the_unflattened_axis():
    small, large = Grid(3, 2, 4), Grid(3, 3, 5)
    whole = torch.randn(large.size, 7)
    expected = whole.view(3, 3, 5, 7)[:, :2, :4, :6].reshape(24, 6)
    cut = Cut.between((small, Lead(6)), (large, Lead(7)))
    assert torch.equal(cut(whole), expected)


AXES = [
    (Lead(3), Lead(5)),
    (Centre(3), Centre(5)),
    (Around(1, 4), Around(2, 0)),
    (Grid(2, 5), Grid(4, 3)),
    (Parts(2, 5), Parts(4, 3)),
]


@pytest.mark.parametrize(("one", "other"), AXES, ids=repr)
def test_both_fit_into_their_union_and_it_is_the_least(one, other):
    union = one.union(other)
    assert union == other.union(one)
    assert one.union(one) == one
    for axis in (one, other):
        assert axis.union(union) == union
        places = axis.within(union)
        assert len(set(places)) == axis.size
        assert 0 <= min(places) <= max(places) < union.size


@pytest.mark.parametrize(("one", "other"), AXES, ids=repr)
def test_a_cut_of_a_cut_is_a_cut(one, other):
    union = one.union(other)
    larger = union.union(
        Grid(6, 6)
        if isinstance(union, Grid)
        else Parts(6, 6)
        if isinstance(union, Parts)
        else union
    )
    row = torch.arange(larger.size)
    twice = Cut.between((one,), (union,))(Cut.between((union,), (larger,))(row))
    assert torch.equal(Cut.between((one,), (larger,))(row), twice)


def test_a_cut_is_a_view_where_it_lies_in_one_piece():
    whole = torch.randn(8, 6, 7, 7, requires_grad=True)
    axes = default_axes((4, 3, 3, 3))
    part = Cut.between(axes, default_axes(whole.shape))(whole)
    assert part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    part.sum().backward()
    expected = torch.zeros(8, 6, 7, 7)
    expected[:4, :3, 2:5, 2:5] = 1
    assert torch.equal(whole.grad, expected)


@pytest.mark.parametrize(
    ("small", "large", "message"),
    [
        ((Lead(3),), (Lead(2),), "does not fit"),
        ((Lead(3),), (Centre(5),), "does not fit"),
        ((Grid(2, 3),), (Grid(3, 2),), "does not fit"),
        ((Around(2, 0),), (Around(1, 5),), "does not fit"),
        ((Lead(3),), (Lead(3), Lead(3)), "different numbers of axes"),
    ],
)
def test_a_cut_that_does_not_fit_is_refused(small, large, message):
    with pytest.raises(ValueError, match=message):
        Cut.between(small, large)


def test_describe_checks_names_and_shapes():
    shapes = {"weight": (6, 4)}
    assert describe(shapes, {"weight": (Grid(2, 3), 4)}) == {"weight": (Grid(2, 3), Lead(4))}
    assert describe({"k": (6, 1, 3)}, {}) == {"k": (Lead(6), Lead(1), Centre(3))}
    with pytest.raises(ValueError, match=r"\['wieght'\], which are not among \['weight'\]"):
        describe(shapes, {"wieght": (6, 4)})
    with pytest.raises(ValueError, match=r"of 'weight' do not have its shape \(6, 4\)"):
        describe(shapes, {"weight": (Grid(2, 2), 4)})


def cut_of(name: str, small, small_site: Site, large, large_site: Site):
    return Cut.between(describe_one(small, small_site)[name], describe_one(large, large_site)[name])


def describe_one(part, site: Site):
    with torch.device("meta"):
        module = part.build(site)
    return describe({n: p.shape for n, p in module.named_parameters()}, part.axes(site))


@pytest.mark.parametrize("reductions", [(1, 1), (2, 2), (4, 4), (4, 1), (8, 1), (2, 1)])
def test_an_offset_keeps_its_bias_in_a_smaller_map(reductions):
    """A bias belongs to an offset in pixels, whatever the map and the reduction of the keys."""
    small = part_from_json(
        "operator",
        {"kind": "attention", "position": "relative", "kv_reduction": reductions[0]},
    )
    large = part_from_json(
        "operator",
        {"kind": "attention", "position": "relative", "kv_reduction": reductions[1]},
    )
    whole = RelativePosition(1, 11, 9, reductions[1])
    part = RelativePosition(1, 5, 7, reductions[0])
    cut = cut_of(
        "mixer.branch.position.table",
        *(small, Site(32, 32, 5, 7), large, Site(32, 32, 11, 9)),
    )
    with torch.no_grad():
        part.table.copy_(cut(whole.table))
        q = (torch.empty(1, 1, 5, 7), torch.empty(1, 1, 11, 9))
        found, expected = part(q[0])[0], whole(q[1])[0]
    small_keys, large_keys = keys(5, 7, reductions[0]), keys(11, 9, reductions[1])
    for (t, (y, x)), (s, key) in itertools.product(
        enumerate(itertools.product(range(5), range(7))), enumerate(small_keys)
    ):
        assert found[0, t, s] == expected[0, 9 * y + x, large_keys.index(key)]


def keys(height: int, width: int, reduction: int) -> list[tuple[int, int]]:
    """Input pixels that the keys stand at."""
    return list(itertools.product(range(0, height, reduction), range(0, width, reduction)))


def test_heads_of_attention_stay_whole():
    small = part_from_json("operator", {"kind": "attention", "head_dim": 16})
    large = part_from_json("operator", {"kind": "attention", "head_dim": 16})
    sites = Site(32, 32, 4, 4), Site(64, 64, 4, 4)
    cut = cut_of("mixer.branch.kv.weight", small, sites[0], large, sites[1])
    whole = torch.randn(2 * 4 * 16, 64)
    expected = whole.view(2, 4, 16, 64)[:, :2, :, :32].reshape(64, 32)
    assert torch.equal(cut(whole), expected)


def test_the_gate_of_the_mean_stays_the_gate_of_the_mean():
    small = part_from_json("operator", {"kind": "modulation", "levels": 2})
    large = part_from_json("operator", {"kind": "modulation", "levels": 4})
    name = "mixer.branch.expand.bias"
    cut = cut_of(name, small, Site(3, 3, 4, 4), large, Site(5, 5, 4, 4))
    # 5 of the query, 5 of the context, 4 gates of levels, the gate of the mean.
    assert cut(torch.arange(15)).tolist() == [0, 1, 2, 5, 6, 7, 10, 11, 14]


def test_tokens_of_a_smaller_map_are_those_at_the_top_left():
    part = part_from_json("operator", {"kind": "token_mlp"})
    cut = cut_of("mixer.branch.layers.2.bias", part, Site(8, 8, 2, 3), part, Site(8, 8, 4, 5))
    whole = torch.arange(20)
    assert cut(whole).tolist() == whole.view(4, 5)[:2, :3].flatten().tolist()


def test_kernels_of_2_and_3_share_the_tap_at_the_pixel_itself():
    small = part_from_json("downsampling", {"kind": "strided_convolution", "kernel": 2})
    large = part_from_json("downsampling", {"kind": "strided_convolution", "kernel": 3})
    site = Site(4, 4, 4, 4, 2)
    cut = cut_of("convolution.weight", small, site, large, site)
    whole = torch.randn(4, 4, 3, 3)
    assert torch.equal(cut(whole), whole[:, :, 1:, 1:])
