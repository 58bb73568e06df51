"""Multi-path attention and regional mixing against their formulas."""

from __future__ import annotations

import pytest
import torch
from naive_layers import (
    convolve,
    layer_norm,
    mlp,
    noise,
    per_channel,
    randomised,
    self_attention,
)

from space.genes import Site
from space.operators.multi_path import MultiPath
from space.operators.regional_mixing import RegionalMixing

HEADS, HEAD_DIM = 2, 16


def means(x, side):
    """Of squares of side x side pixels; those at the ends may be smaller."""
    rows, columns = (-(-s // side) for s in x.shape[2:])
    y = x.new_empty(*x.shape[:2], rows, columns)
    for i in range(rows):
        for j in range(columns):
            square = x[:, :, i * side : (i + 1) * side, j * side : (j + 1) * side]
            y[:, :, i, j] = square.mean((2, 3))
    return y


def interpolated(y, side, height, width):
    """Between the means' centres, and constant beyond the outer ones."""

    def line(at, count):
        place = min(max((at + 0.5) / side - 0.5, 0), count - 1)
        low = min(int(place), count - 1)
        return low, min(low + 1, count - 1), place - low

    x = y.new_empty(*y.shape[:2], height, width)
    for i in range(height):
        for j in range(width):
            top, bottom, down = line(i, y.shape[2])
            left, right, across = line(j, y.shape[3])
            upper = (1 - across) * y[:, :, top, left] + across * y[:, :, top, right]
            lower = (1 - across) * y[:, :, bottom, left] + across * y[:, :, bottom, right]
            x[:, :, i, j] = (1 - down) * upper + down * lower
    return x


def attention(w, name, x, rows, columns):
    """In windows of rows x columns pixels that divide the map."""
    y = torch.empty_like(x)
    for n in range(len(x)):
        for i in range(0, x.shape[2], rows):
            for j in range(0, x.shape[3], columns):
                window = x[n, :, i : i + rows, j : j + columns]
                mixed = self_attention(w, name, window.flatten(1).T, HEADS)
                y[n, :, i : i + rows, j : j + columns] = mixed.T.reshape(window.shape)
    return y


def weights_of(part, site):
    module, w = randomised(part.build(site))
    return module, {**w, **{k.replace(".project.1.", ".project."): v for k, v in w.items()}}


def behind(w, x):
    return x + per_channel(w["mlp.scale.weight"]) * mlp(
        w, "mlp.branch", layer_norm(w, "mlp.norm", x)
    )


@pytest.mark.parametrize(
    ("size", "context", "windows"),
    [
        ((8, 12), 4, [(4, 4), (4, 3), (2, 3)]),  # as few even windows as there can be
        ((8, 8), 8, [(8, 8), (4, 4), (2, 2)]),
        ((7, 6), 8, [(7, 6), (4, 3), (2, 2)]),  # squares that go beyond the map
    ],
)
def test_multi_path(size, context, windows):
    part = MultiPath(paths=3, context=context, head_dim=HEAD_DIM, expansion=2, layer_scale=0.1)
    module, w = weights_of(part, Site(32, 32, *size))
    x = noise(2, 32, *size)
    normed = layer_norm(w, "mixer.norm", x)
    made = attention(w, "mixer.branch.branches.0", normed, *windows[0])
    for i, window in enumerate(windows[1:], 1):
        mixed = attention(w, f"mixer.branch.branches.{i}.branch", means(normed, 2**i), *window)
        made = made + interpolated(mixed, 2**i, *size)
    wanted = behind(w, x + per_channel(w["mixer.scale.weight"]) * made)
    torch.testing.assert_close(module(x), wanted, atol=1e-9, rtol=0)


@pytest.mark.parametrize("fusion", ["add", "concatenate"])
@pytest.mark.parametrize("group_width", [1, 8, 0])
@pytest.mark.parametrize(("size", "region"), [((8, 4), 4), ((7, 5), 3), ((3, 4), 1)], ids=str)
def test_regional_mixing(fusion, group_width, size, region):
    part = RegionalMixing(
        region=region,
        head_dim=HEAD_DIM,
        group_width=group_width,
        fusion=fusion,
        expansion=2,
        layer_scale=0.1,
    )
    module, w = weights_of(part, Site(32, 32, *size))
    x = noise(2, 32, *size)
    normed = layer_norm(w, "mixer.norm", x)
    regions = means(normed, region)
    mixed = torch.empty_like(regions)
    for n in range(2):
        rows = self_attention(w, "mixer.branch.regional", regions[n].flatten(1).T, HEADS)
        mixed[n] = rows.T.reshape(regions[n].shape)
    joined = []
    for c in range(32):
        own = torch.empty_like(normed[:, c])
        for i in range(size[0]):
            for j in range(size[1]):
                own[:, i, j] = mixed[:, c, i // region, j // region]
        joined += [normed[:, c], own] if fusion == "concatenate" else [normed[:, c] + own]
    local = convolve(w, "mixer.branch.local", torch.stack(joined, 1))
    wanted = behind(w, x + per_channel(w["mixer.scale.weight"]) * local)
    torch.testing.assert_close(module(x), wanted, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("part", "site", "message"),
    [
        (MultiPath(paths=4), Site(32, 32, 8, 7), "paths is 4, but on a map of 8x7 the last"),
        (RegionalMixing(region=8), Site(32, 32, 8, 7), "region is 8, but the map is 8x7"),
    ],
)
def test_a_single_pixel_has_nothing_to_attend_to(part, site, message):
    with pytest.raises(ValueError, match=message):
        part.blueprint(site)
