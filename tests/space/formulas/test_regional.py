"""Regional attention, its stem, downsampling and head against their formulas, and their counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from naive_layers import (
    convolve,
    gelu,
    layer_norm,
    mlp,
    noise,
    per_channel,
    randomised,
    self_attention,
)
from torch.utils.flop_counter import FlopCounterMode

from space.downsampling.regional import RegionalDsm
from space.genes import Flow, Site
from space.heads.regional import RegionalHead
from space.operators.regional import Regional
from space.slicing import Cut, describe
from space.stems.regional import RegionalStem

HEADS, HEAD_DIM, WINDOW = 2, 16, 4
REGIONS = Flow("regions", WINDOW)


def state(site: Site, images: int = 2, **options):
    rows, columns = (-(-side // site.flow.count) for side in (site.height, site.width))
    x = noise(images, site.in_channels, site.height, site.width)
    return x, noise(images, site.in_channels, rows, columns, seed=2)


def pixels(x: torch.Tensor) -> torch.Tensor:
    """One image (C, H, W) as rows (H * W, C)."""
    return x.permute(1, 2, 0).reshape(-1, x.shape[0])


def relative(w) -> torch.Tensor:
    """(heads, 1 + w * w, 1 + w * w): the table at the offset from query to key among pixels."""
    side = WINDOW
    bias = torch.zeros(HEADS, 1 + side**2, 1 + side**2, dtype=torch.float64)
    for y in range(side):
        for x in range(side):
            for v in range(side):
                for u in range(side):
                    offset = w["position.table"][:, v - y + side - 1, u - x + side - 1]
                    bias[:, 1 + y * side + x, 1 + v * side + u] = offset
    return bias


def formula(w, local, regions):
    """One window at a time; pixels outside the map are left out of it altogether."""
    n, _, height, width = local.shape
    normed = layer_norm(w, "region_norm", regions)
    regions = regions.clone()
    for i in range(n):
        mixed = self_attention(w, "attention", pixels(normed[i]), HEADS)
        regions[i] += mixed.T.reshape(regions[i].shape)
    bias = relative(w)
    local_out, regions_out = torch.empty_like(local), torch.empty_like(regions)
    for i in range(n):
        for g in range(regions.shape[2]):
            for k in range(regions.shape[3]):
                ys = range(g * WINDOW, min(height, (g + 1) * WINDOW))
                xs = range(k * WINDOW, min(width, (k + 1) * WINDOW))
                inside = [(y, x) for y in ys for x in xs]
                places = [0] + [
                    1 + (y - ys[0]) * WINDOW + (x - xs[0]) for y, x in inside
                ]  # in a whole window
                t = [regions[i, :, g, k], *(local[i, :, y, x] for y, x in inside)]
                t = torch.stack(t)
                normed = layer_norm(w, "norm", t.T[None, :, :, None])[0, :, :, 0].T
                t = t + self_attention(w, "attention", normed, HEADS, bias[:, places][:, :, places])
                t = t.T[None, :, :, None]
                t = t + mlp(w, "mlp.branch", layer_norm(w, "mlp.norm", t))
                regions_out[i, :, g, k] = t[0, :, 0, 0]
                for at, (y, x) in enumerate(inside):
                    local_out[i, :, y, x] = t[0, :, 1 + at, 0]
    return local_out, regions_out


@pytest.mark.parametrize("size", [(8, 8), (6, 9), (3, 4)], ids=str)
def test_regional(size):
    site = Site(32, 32, *size, flow=REGIONS)
    module, w = randomised(Regional(head_dim=HEAD_DIM, expansion=2).build(site))
    x = state(site)
    for found, wanted in zip(module(x), formula(w, *x), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


def test_depthwise_position_is_that_of_both_maps():
    site = Site(32, 32, 8, 5, flow=REGIONS)
    plain = Regional(head_dim=HEAD_DIM)
    module, w = randomised(Regional(head_dim=HEAD_DIM, depthwise_position=True).build(site))
    without = plain.build(site).double()
    without.load_state_dict({k: v for k, v in w.items() if not k.startswith("last.")})
    x = state(site)
    for found, before in zip(module(x), without(x), strict=True):
        wanted = before + convolve(w, "last.layer.branch", before)
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


def test_downsampling_of_both_maps():
    site = Site(4, 8, 6, 5, 2, REGIONS)
    module, w = randomised(RegionalDsm().build(site))
    x = state(site)
    for found, before in zip(module(x), x, strict=True):
        wanted = convolve(
            w, "layer.convolution", gelu(layer_norm(w, "layer.norm", before)), stride=2
        )
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


@pytest.mark.parametrize("local", ["convolutions", "patches"])
def test_stem(local):
    part = RegionalStem(channels=8, window=WINDOW, local=local)
    module, w = randomised(part.build(Site(3, 8, 40, 24, 4)))
    x = noise(2, 3, 40, 24)
    found_local, found_regions = module(x)
    padded = F.pad(x, (0, 8, 0, 8))  # windows stand for 16 pixels of the image
    wanted = torch.zeros(2, 8, 3, 2, dtype=torch.float64)
    for i in range(3):
        for j in range(2):
            patch = padded[:, :, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16]
            wanted[:, :, i, j] = torch.einsum("ncab,dcab->nd", patch, w["regional.weight"])
    wanted = wanted + per_channel(w["regional.bias"])
    torch.testing.assert_close(found_regions, wanted, atol=1e-9, rtol=0)
    if local == "patches":
        y = convolve(w, "local", x, stride=4, front=3)
    else:
        y = gelu(layer_norm(w, "local.1", convolve(w, "local.0", x, stride=2)))
        y = gelu(layer_norm(w, "local.4", convolve(w, "local.3", y, stride=2)))
        y = convolve(w, "local.6", y)
    torch.testing.assert_close(found_local, y, atol=1e-9, rtol=0)


def test_head():
    site = Site(8, 5, 6, 5, flow=REGIONS)
    module, w = randomised(RegionalHead().build(site))
    _, regions = x = state(site)
    pooled = layer_norm(w, "1.features", regions).mean((2, 3))
    name = "1.classifier.1" if "1.classifier.1.weight" in w else "1.classifier"
    wanted = pooled @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    torch.testing.assert_close(module(x), wanted, atol=1e-9, rtol=0)


PLACED = [
    *((Regional(head_dim=16, **genes), Site(32, 32, *size, flow=REGIONS))
      for genes in ({}, {"expansion": 0}, {"depthwise_position": True}, {"norm": "none"},
                    {"norm": "batch", "activation": "silu"})
      for size in ((8, 8), (6, 9))),
    (Regional(head_dim=64), Site(32, 32, 8, 8, flow=Flow("regions", 7))),
    *((RegionalDsm(**genes), Site(4, 8, 6, 5, 2, REGIONS))
      for genes in ({}, {"kernel": 2}, {"norm": "batch", "activation": "none"})),
    (RegionalHead(), Site(8, 5, 6, 5, flow=REGIONS)),
    (RegionalHead(norm="batch"), Site(8, 5, 6, 5, flow=REGIONS)),
]  # fmt: skip


@pytest.mark.parametrize(("part", "site"), PLACED, ids=str)
def test_counts_gradients_and_independence(part, site):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        module = part.build(site).double().eval()
        module(tuple(t.to("meta") for t in state(site, 1)))
    cost = part.cost(site)
    assert counter.get_total_flops() == 2 * cost.macs
    assert sum(p.numel() for p in module.parameters()) == cost.params

    module, _ = randomised(part.build(site))
    x = state(site, 3)
    y = module(x)
    sum((t * noise(*t.shape)).sum() for t in (y if isinstance(y, tuple) else (y,))).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    alone = module(tuple(t[1:2] for t in x))
    for one, other in zip(y, alone, strict=True) if isinstance(y, tuple) else [(y, alone)]:
        torch.testing.assert_close(one[1:2], other, atol=1e-9, rtol=0)


def test_a_narrow_one_is_cut_from_a_wide_one():
    """Heads stay whole and the table keeps its middle: the axes fit for width and window alike."""
    small = Regional(head_dim=16), Site(16, 16, 8, 8, flow=Flow("regions", 4))
    large = Regional(head_dim=16), Site(32, 32, 8, 8, flow=Flow("regions", 7))
    axes, shapes = [], []
    for part, site in (small, large):
        parameters = dict(part.build(site).named_parameters())
        shapes.append({name: tuple(p.shape) for name, p in parameters.items()})
        axes.append(describe(shapes[-1], part.axes(site)))
    for name in axes[0]:
        cut = Cut.between(axes[0][name], axes[1][name])(torch.zeros(shapes[1][name]))
        assert tuple(cut.shape) == shapes[0][name]
    table = torch.arange(13.0).expand(2, 13, 13)
    cut = Cut.between(axes[0]["position.table"], axes[1]["position.table"])(table)
    assert cut[0, 0].tolist() == list(range(3, 10))
    rows = torch.arange(64.0)[:, None].expand(64, 32)
    cut = Cut.between(axes[0]["attention.kv.weight"], axes[1]["attention.kv.weight"])(rows)
    assert cut[:, 0].tolist() == [*range(16), *range(32, 48)]
