"""Column against the recurrence of RevCol, and its counts against a trace."""

from __future__ import annotations

import pytest
import torch
from naive_layers import convolve, gelu, layer_norm, linear, noise, per_channel, randomised
from torch.utils.flop_counter import FlopCounterMode

from space.genes import Flow, Site
from space.operators.column import ColumnOperator

DEPTHS = ((2,), (1,), (1,))
HEIGHT, WIDTH = 7, 6
COLUMNS = Flow("columns", 3)
FIRST = Site(4, 4, HEIGHT, WIDTH)
MIDDLE = Site(4, 4, HEIGHT, WIDTH, flow=COLUMNS)
LAST = Site(4, 16, HEIGHT, WIDTH, 4, COLUMNS)


def column(**genes) -> ColumnOperator:
    return ColumnOperator(depths=DEPTHS, layer_scale=0.1, **genes)


def state(site: Site, images: int = 2, **options):
    if not site.flow.count:
        return noise(images, 4, HEIGHT, WIDTH)
    sizes = [(4, 7, 6), (4, 7, 6), (8, 4, 3), (16, 2, 2)]
    return tuple(noise(images, *size, seed=i) for i, size in enumerate(sizes))


def block(w, name, x):
    y = layer_norm(w, f"{name}.branch.norm", convolve(w, f"{name}.branch.lead", x))
    y = linear(w, f"{name}.branch.project", gelu(linear(w, f"{name}.branch.expand.0", y)))
    return x + per_channel(w[f"{name}.scale.weight"]) * y


def doubled(x, like):
    """Nearest neighbours at twice the resolution."""
    rows = torch.arange(like.shape[2]) // 2
    columns = torch.arange(like.shape[3]) // 2
    return x[:, :, rows][:, :, :, columns]


def formula(w, stem, before, alpha):
    made, below = [], stem
    for i, (depth,) in enumerate(DEPTHS):
        name = f"levels.{i}"
        x = below
        if i:
            x = convolve(w, f"{name}.down.0", below, stride=2, front=0)
            x = layer_norm(w, f"{name}.down.1", x)
        if before and i < 2:
            above = linear(w, f"{name}.up.0", before[i + 1])
            x = x + doubled(layer_norm(w, f"{name}.up.1", above), x)
        for j in range(depth):
            x = block(w, f"{name}.blocks.{j}", x)
        if before:
            x = x + per_channel(alpha[i]) * before[i]
        made.append(x)
        below = x
    return made


@pytest.mark.parametrize("site", [FIRST, MIDDLE, LAST], ids=["first", "middle", "last"])
def test_column(site):
    module, w = randomised(column().build(site))
    x = state(site)
    stem, *before = x if isinstance(x, tuple) else (x,)
    alpha = [w[f"levels.{i}.alpha"] for i in range(3)]
    wanted = formula(w, stem, before, alpha)
    found = module(x)
    if site is LAST:
        torch.testing.assert_close(found, wanted[-1], atol=1e-9, rtol=0)
        return
    assert found[0] is stem
    for one, other in zip(found[1:], wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def test_alpha_is_held_away_from_zero_and_still_learns():
    module, w = randomised(column().build(MIDDLE))
    alpha = [torch.tensor([1e-5, -1e-5, 0.0, 0.5]).double()]
    alpha += [w[f"levels.{i}.alpha"].clone() for i in (1, 2)]
    with torch.no_grad():
        module.levels[0].alpha.copy_(alpha[0])
    x = state(MIDDLE)
    held = [torch.tensor([1e-3, -1e-3, 1e-3, 0.5]).double(), *alpha[1:]]
    made = module(x)
    torch.testing.assert_close(made[1], formula(w, x[0], x[1:], held)[0], atol=1e-9, rtol=0)
    made[1].sum().backward()
    torch.testing.assert_close(module.levels[0].alpha.grad, x[1].sum((0, 2, 3)))


@pytest.mark.parametrize("site", [FIRST, MIDDLE, LAST], ids=["first", "middle", "last"])
@pytest.mark.parametrize(
    "genes",
    [{}, {"context": 7, "norm": "affine", "layer_scale": None}, {"norm": "none", "expansion": 1.5}],
    ids=str,
)
def test_counts(site, genes):
    part = ColumnOperator(**{"depths": DEPTHS, **genes})
    x = state(site, 1)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        module = part.build(site).to(torch.float64)
        module(tuple(t.to("meta") for t in x) if isinstance(x, tuple) else x.to("meta"))
    cost = part.cost(site)
    assert counter.get_total_flops() == 2 * cost.macs
    assert sum(p.numel() for p in module.parameters()) == cost.params
    assert part.gives(site) == (Flow() if site is LAST else COLUMNS)


@pytest.mark.parametrize("site", [FIRST, MIDDLE, LAST], ids=["first", "middle", "last"])
def test_gradients_and_independence(site):
    module, _ = randomised(column(norm="group").build(site))
    x = state(site, 3)
    y = module(x)
    made = y[1:] if isinstance(y, tuple) else (y,)
    sum((t * noise(*t.shape)).sum() for t in made).backward()
    for name, parameter in module.named_parameters():
        if site is FIRST and name.endswith("alpha"):  # there is no column before
            assert parameter.grad is None
        else:
            assert parameter.grad.abs().max() > 0, name
    alone = module(tuple(t[1:2] for t in x) if isinstance(x, tuple) else x[1:2])
    for one, other in zip(made, alone[1:] if isinstance(y, tuple) else (alone,), strict=True):
        torch.testing.assert_close(one[1:2], other, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (Site(4, 16, 8, 8, 4), "the last column needs one before it"),
        (Site(4, 4, 8, 8, flow=Flow("columns", 4)), "3 levels, but the column before has 4"),
        (Site(4, 8, 8, 8), "stride and width must be 1 and 4, not 1 and 8"),
        (Site(4, 16, 8, 8, 2, COLUMNS), "stride and width must be 4 and 16, not 2 and 16"),
    ],
)
def test_where_it_cannot_stand(site, message):
    with pytest.raises(ValueError, match=message):
        column().blueprint(site)


def test_one_level_is_too_few():
    with pytest.raises(ValueError, match="1 levels, but 2 are the least"):
        ColumnOperator(depths=((2,),)).blueprint(FIRST)
