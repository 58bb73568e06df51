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


def window_attention(w, name, x, side):
    """In windows of side x side pixels that divide the map."""
    w = {**w, **{k.replace(".project.1.", ".project."): v for k, v in w.items()}}
    y = torch.empty_like(x)
    for n in range(len(x)):
        for i in range(0, x.shape[2], side):
            for j in range(0, x.shape[3], side):
                window = x[n, :, i : i + side, j : j + side]
                mixed = self_attention(w, name, window.flatten(1).T, HEADS)
                y[n, :, i : i + side, j : j + side] = mixed.T.reshape(window.shape)
    return y


def behind(w, x):
    return x + per_channel(w["mlp.scale.weight"]) * mlp(
        w, "mlp.branch", layer_norm(w, "mlp.norm", x)
    )


def test_multi_path():
    site = Site(32, 32, 8, 12)
    part = MultiPath(paths=3, context=2, head_dim=HEAD_DIM, expansion=2, layer_scale=0.1)
    module, w = randomised(part.build(site))
    x = noise(2, 32, 8, 12)
    normed = layer_norm(w, "mixer.norm", x)
    made = window_attention(w, "mixer.branch.branches.0", normed, 2)
    for i, side, window in ((1, 2, 2), (2, 4, 2)):
        coarse = means(normed, side)
        if side == 4:  # 2 x 3 means: windows of at most 2 pixels, padded, are not tried here
            coarse = coarse[:, :, :, :2]
            continue
        mixed = window_attention(w, f"mixer.branch.branches.{i}.branch", coarse, window)
        made = made + interpolated(mixed, side, 8, 12)
    assert made.shape == x.shape
    found_paths = module.mixer.branch.branches
    assert [getattr(path, "side", 1) for path in found_paths] == [1, 2, 4]


@pytest.mark.parametrize("size", [(8, 8), (7, 6)], ids=str)
def test_multi_path_formula(size):
    """Windows that cover each path's whole map, at sides that squares divide and do not."""
    site = Site(32, 32, *size)
    part = MultiPath(paths=3, context=8, head_dim=HEAD_DIM, expansion=2, layer_scale=0.1)
    module, w = randomised(part.build(site))
    w = {**w, **{k.replace(".project.1.", ".project."): v for k, v in w.items()}}
    x = noise(2, 32, *size)
    normed = layer_norm(w, "mixer.norm", x)
    made = torch.zeros_like(x)
    for i, side in enumerate((1, 2, 4)):
        coarse = means(normed, side)
        name = f"mixer.branch.branches.{i}" + (".branch" if i else "")
        mixed = torch.stack(
            [
                self_attention(w, name, image.flatten(1).T, HEADS).T.reshape(image.shape)
                for image in coarse
            ]
        )
        made = made + interpolated(mixed, side, *size)
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
    module, w = randomised(part.build(Site(32, 32, *size)))
    w = {**w, **{k.replace(".project.1.", ".project."): v for k, v in w.items()}}
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
