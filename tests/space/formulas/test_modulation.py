"""Each way of modulation against its formula, one image (C, H, W) at a time, in float64."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from torch import Tensor

from space.genes import Site, part_from_json
from space.slicing import Cut, describe

Weights = dict[str, Tensor]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def linear(x: Tensor, p: Weights, name: str) -> Tensor:
    return torch.einsum("chw,dc->dhw", x, p[name + "weight"]) + p[name + "bias"][:, None, None]


def norm(x: Tensor, p: Weights, name: str, eps: float = 1e-5) -> Tensor:
    """BatchNorm with running statistics where there are some, else LayerNorm over channels."""
    if name + "running_mean" in p:
        mean, variance = (p[name + each][:, None, None] for each in ("running_mean", "running_var"))
    else:
        mean = x.mean(0)
        variance = (x - mean).pow(2).mean(0)
    normed = (x - mean) / (variance + eps).sqrt()
    return normed * p[name + "weight"][:, None, None] + p[name + "bias"][:, None, None]


def depthwise(x: Tensor, p: Weights, name: str, dilation: int = 1) -> Tensor:
    """One filter a channel, centred on its pixel, zeros around the map."""
    weight, y = p[name + "weight"], torch.zeros_like(x)
    side, (_, height, width) = weight.shape[-1], x.shape
    for a in range(side):
        for b in range(side):
            down, right = dilation * (a - side // 2), dilation * (b - side // 2)
            for i in range(max(0, -down), min(height, height - down)):
                for j in range(max(0, -right), min(width, width - right)):
                    y[:, i, j] += weight[:, 0, a, b] * x[:, i + down, j + right]
    return y + p[name + "bias"][:, None, None] if name + "bias" in p else y


def levels(x: Tensor, p: Weights, count: int = 2) -> Tensor:
    c, f = len(x), linear(x, p, "expand.")
    query, context, gates = f[:c], f[c : 2 * c], f[2 * c :]
    total = torch.zeros_like(x)
    for level in range(count):
        context = gelu(depthwise(context, p, f"levels.{level}.0."))
        total += gates[level] * context
    mean = gelu(context.flatten(1).mean(1))
    total += gates[count] * mean[:, None, None]
    return linear(query * linear(total, p, "modulator."), p, "project.")


def heads(x: Tensor, p: Weights, count: int = 4) -> Tensor:
    """SMT's: heads interleaved, then groups of a channel of each head."""
    c = len(x)
    v, s = linear(x, p, "value."), linear(x, p, "scales.")
    each = c // count
    filtered = [depthwise(s[i * each : (i + 1) * each], p, f"heads.{i}.") for i in range(count)]
    weight, bias = p["mix.0.weight"][:, :, 0, 0], p["mix.0.bias"]
    grouped = []
    for out in range(2 * c):
        group = out // (2 * count)
        inputs = torch.stack([head[group] for head in filtered])
        grouped.append(torch.einsum("ihw,i->hw", inputs, weight[out]) + bias[out])
    y = gelu(norm(torch.stack(grouped), p, "mix.1."))
    return linear(linear(y, p, "mix.3.") * v, p, "project.")


def shares(x: Tensor, p: Weights, sizes: tuple[int, int, int] = (2, 6, 8)) -> Tensor:
    """MogaNet's, with its own shortcut."""
    h = linear(x, p, "expand.0.")
    mean = h.flatten(1).mean(1)[:, None, None]
    h = silu(h + p["expand.1.scale"][:, None, None] * (h - mean))
    first = depthwise(h, p, "value.0.common.")
    a, b, c = first.split(sizes)
    b = depthwise(b, p, "value.0.second.", dilation=2)
    c = depthwise(c, p, "value.0.third.", dilation=3)
    value = linear(torch.cat((a, b, c)), p, "value.1.")
    return linear(silu(linear(h, p, "gate.0.")) * silu(value), p, "project.") + x


def spectral(x: Tensor, weight: Tensor) -> Tensor:
    """Discrete Fourier transform of each channel, times the weight, and back, by their sums; the
    weight, of the columns up to the middle one, holds the conjugates of the others."""
    _, height, width = x.shape
    rows, columns = (
        torch.tensor([[cmath.exp(-2j * cmath.pi * k * n / size) for n in range(size)]
                      for k in range(size)], dtype=torch.complex128)
        for size in (height, width)
    )  # fmt: skip
    spectrum = torch.einsum("kn,cnm,lm->ckl", rows, x.to(torch.complex128), columns)
    factor = torch.zeros_like(spectrum)
    half = width // 2 + 1
    factor[:, :, :half] = torch.complex(weight[..., 0], weight[..., 1])
    product = spectrum * factor
    for k in range(height):  # what a real map's spectrum must be
        for left in range(half, width):
            product[:, k, left] = product[:, -k % height, width - left].conj()
    # In the columns that are their own mirror images the two halves' mean is what is real.
    for own in {0, width // 2} if width % 2 == 0 else {0}:
        column = product[:, :, own].clone()
        for k in range(height):
            product[:, k, own] = (column[:, k] + column[:, -k % height].conj()) / 2
    back = torch.einsum("nk,ckl,ml->cnm", rows.conj().T, product, columns.conj().T)
    assert back.imag.abs().max() < 1e-12
    return back.real / (height * width)


def recursive(x: Tensor, p: Weights, order: int = 3, filtered: bool = False) -> Tensor:
    c = len(x)
    widths = [c // 2 ** (order - 1 - k) for k in range(order)]
    f = linear(x, p, "split.")
    query, a = f[: widths[0]], f[widths[0] :]
    if filtered:
        a = norm(a, p, "context.norm.")
        u, v = a[: len(a) // 2], a[len(a) // 2 :]
        u = depthwise(u, p, "context.local.")
        v = spectral(v, p["context.spectral.weight"])
        a = torch.stack([each for pair in zip(u, v, strict=True) for each in pair])
        a = norm(a, p, "context.last_norm.")
    else:
        a = depthwise(a, p, "context.")
    contexts = (a / 3).split(widths)
    z = query * contexts[0]
    for k in range(1, order):
        z = linear(z, p, f"steps.{order - 1 - k}.") * contexts[k]
    return linear(z, p, "project.")


def recursive_filter(x: Tensor, p: Weights) -> Tensor:
    return recursive(x, p, filtered=True)


def below(p: Weights, name: str) -> Weights:
    return {key.removeprefix(name): value for key, value in p.items() if key.startswith(name)}


def sublayer(x: Tensor, p: Weights, name: str, branch, behind: bool = False) -> Tensor:
    """x plus a branch, with a norm in front of it or behind it, and a layer scale."""
    inner = below(p, f"{name}.branch.")
    if behind:
        y = norm(branch(x, inner), p, f"{name}.norm.")
    else:
        y = branch(norm(x, p, f"{name}.norm."), inner)
    scale = p.get(f"{name}.scale.weight", torch.ones(len(x)))
    return x + scale[:, None, None] * y


def mlp(x: Tensor, p: Weights) -> Tensor:
    return linear(gelu(linear(x, p, "expand.")), p, "project.")


CASES = {
    "focal": ({"gathering": "levels"}, levels),
    "focal-4": ({"levels": 4, "context": 5}, lambda x, p: levels(x, p, 4)),
    "scale-aware": ({"gathering": "heads", "levels": 4, "inner_norm": "batch"}, heads),
    "two heads": ({"gathering": "heads"}, lambda x, p: heads(x, p, 2)),
    "moga": ({"gathering": "shares", "context": 5, "activation": "silu"}, shares),
    "gn": ({"gathering": "recursive", "levels": 3, "context": 7}, recursive),
    "gn-5": ({"gathering": "recursive", "levels": 5}, lambda x, p: recursive(x, p, 5)),
    "gf": ({"gathering": "recursive_filter", "levels": 3}, recursive_filter),
}


def built(randomise, site: Site, **genes):
    module = randomise(part_from_json("operator", {"kind": "modulation", **genes}).build(site))
    return module.double(), dict(module.double().state_dict())


def check(module, site: Site, formula) -> None:
    x = torch.randn(2, site.in_channels, site.height, site.width, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([formula(image) for image in x])
        torch.testing.assert_close(module(x), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("side", [(4, 6), (5, 3)], ids=["even", "odd"])
@pytest.mark.parametrize("case", CASES)
def test_the_mixer_is_its_formula(case, side, randomise):
    genes, formula = CASES[case]
    site = Site(16, 16, *side)
    module, p = built(randomise, site, expansion=0, **genes)
    check(module, site, lambda x: sublayer(x, p, "mixer", formula))


@pytest.mark.parametrize("behind", [False, True], ids=["pre-norm", "post-norm"])
@pytest.mark.parametrize("kind", ["layer", "batch"])
@pytest.mark.parametrize("scale", [None, 1e-4])
def test_norms_layer_scales_and_the_mlp(behind, kind, scale, randomise):
    site = Site(6, 6, 3, 4)
    genes = {"post_norm": behind, "norm": kind, "layer_scale": scale, "expansion": 3}
    module, p = built(randomise, site, **genes)
    assert ("mixer.scale.weight" in p) == (scale is not None)

    def formula(x: Tensor) -> Tensor:
        return sublayer(sublayer(x, p, "mixer", levels, behind), p, "mlp", mlp, behind)

    check(module, site, formula)


def test_shares_of_a_width_that_8_does_not_divide(randomise):
    site = Site(13, 13, 4, 4)
    genes = {"gathering": "shares", "activation": "silu", "expansion": 0}
    module, p = built(randomise, site, **genes)
    assert p["mixer.branch.value.0.second.weight"].shape == (4, 1, 3, 3)
    assert p["mixer.branch.value.0.third.weight"].shape == (6, 1, 5, 5)
    check(module, site, lambda x: sublayer(x, p, "mixer", lambda x, p: shares(x, p, (3, 4, 6))))


def test_a_filter_for_another_map_is_resized_corner_to_corner(randomise):
    module, p = built(
        randomise, Site(16, 16, 3, 4), gathering="recursive_filter", levels=3, expansion=0
    )
    weight = p["mixer.branch.context.spectral.weight"]  # (C, 3, 3, 2), to (C, 5, 5, 2)
    stretch = torch.zeros(5, 3, dtype=torch.float64)
    for i in range(5):
        low, share = divmod(i, 2)
        stretch[i, low] += 1 - share / 2
        if share:
            stretch[i, low + 1] += share / 2
    resized = torch.einsum("ak,bl,cklr->cabr", stretch, stretch, weight)
    p = {**p, "mixer.branch.context.spectral.weight": resized}
    check(module, Site(16, 16, 5, 8), lambda x: sublayer(x, p, "mixer", recursive_filter))


def test_the_spectral_filter_keeps_the_type_of_its_input(randomise):
    part = part_from_json("operator", {"kind": "modulation", "gathering": "recursive_filter"})
    module = randomise(part.build(Site(8, 8, 4, 4)))
    x = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        half = module.to(torch.bfloat16)(x.to(torch.bfloat16))
        whole = module.float()(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("channels", [4, 6, 8, 10, 12, 14, 26])
def test_narrow_networks_can_have_levels_heads_shares_and_order_two(channels):
    for gathering in ("levels", "heads", "shares", "recursive"):
        part = part_from_json("operator", {"kind": "modulation", "gathering": gathering})
        part.build(Site(channels, channels, 5, 4))


def test_one_supernet_position_holds_all_ways_at_all_levels():
    """Parameters of one name can be cut out of one largest parameter."""
    parts = [
        part_from_json(
            "operator", {"kind": "modulation", "gathering": g, "levels": n, "context": k}
        )
        for g in ("levels", "heads", "shares", "recursive", "recursive_filter")
        for n in (2, 3, 4, 5)
        for k in (3, 7)
        if g != "shares" or n == 2
    ]
    sites = [Site(240 * width, 240 * width, side, side) for width in (2, 4) for side in (4, 7)]
    found = []
    with torch.device("meta"):
        for part in parts:
            for site in sites:
                if site.channels % (2**part.levels):
                    continue
                shapes = {n: tuple(p.shape) for n, p in part.build(site).named_parameters()}
                found.append(describe(shapes, part.axes(site)))
    largest: dict = {}
    for axes in found:
        for name, own in axes.items():
            known = largest.get(name, own)
            largest[name] = tuple(a.union(b) for a, b in zip(own, known, strict=True))
    for axes in found:
        for name, own in axes.items():
            Cut.between(own, largest[name])


def test_a_narrow_slice_keeps_what_belongs_together():
    """Slices of numbered outputs: which of the large split a narrow candidate uses."""
    wide, narrow = Site(16, 16, 4, 4), Site(8, 8, 4, 4)

    def used(name: str, **genes) -> list[int]:
        part = part_from_json("operator", {"kind": "modulation", **genes})
        shapes = {n: tuple(p.shape) for n, p in part.build(narrow).named_parameters()}
        large = {n: tuple(p.shape) for n, p in part.build(wide).named_parameters()}
        small_axes, large_axes = (
            describe(s, part.axes(at))[name] for s, at in ((shapes, narrow), (large, wide))
        )
        numbers = torch.arange(large[name][0])
        return Cut.between(small_axes[:1], large_axes[:1])(numbers).tolist()

    # query 0-7, context 16-23, two gates and that of the mean
    assert used("mixer.branch.expand.bias") == [*range(8), *range(16, 24), 32, 33, 34]
    # two heads of 8, of which 4 each
    scales = used("mixer.branch.scales.bias", gathering="heads")
    assert scales == [0, 1, 2, 3, 8, 9, 10, 11]
    # shares of 2, 6 and 8, of which 1, 3 and 4
    assert used("mixer.branch.expand.0.bias", gathering="shares") == [0, 2, 3, 4, 8, 9, 10, 11]
    # a query of 8, contexts of 8 and 16
    split = used("mixer.branch.split.bias", gathering="recursive")
    assert split == [*range(4), *range(8, 12), *range(16, 24)]
    # the same, but the contexts' channels come from two halves in turn
    split = used("mixer.branch.split.bias", gathering="recursive_filter")
    halves = [[start, start + 1, *range(start + 4, start + 8)] for start in (8, 20)]
    assert split == [*range(4), *halves[0], *halves[1]]


def test_a_filter_for_a_smaller_map_takes_the_low_frequencies():
    part = part_from_json("operator", {"kind": "modulation", "gathering": "recursive_filter"})
    name = "mixer.branch.context.spectral.weight"
    small, large = (part.axes(Site(8, 8, *side))[name] for side in ((4, 4), (7, 6)))
    rows = torch.tensor([0, 1, 2, 3, -3, -2, -1])[None, :, None, None].expand(6, 7, 4, 2)
    shape = (6, 4, 3, 2)
    axes = [describe({name: s}, {name: a})[name] for s, a in ((shape, small), (rows.shape, large))]
    assert Cut.between(*axes)(rows)[0, :, 0, 0].tolist() == [0, 1, -2, -1]


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        (
            {"gathering": "shares", "levels": 3},
            "levels is 3, but makes no difference where gathering is",
        ),
        ({"inner_norm": "batch"}, "inner_norm is 'batch', but makes no difference where gathering"),
        (
            {"gathering": "recursive", "expansion": 0, "activation": "silu"},
            "activation is 'silu', but makes no difference where gathering is 'recursive' and",
        ),
        ({"post_norm": True, "norm": "none"}, "post_norm is True, but norm is 'none'"),
    ],
)
def test_genes_without_a_meaning_are_refused(genes, message):
    with pytest.raises(ValueError, match=message):
        part_from_json("operator", {"kind": "modulation", **genes})


@pytest.mark.parametrize(
    ("gathering", "levels", "channels", "multiple"),
    [("heads", 4, 6, 4), ("recursive", 4, 12, 8), ("recursive_filter", 2, 6, 4)],
)
def test_widths_that_cannot_be_split_are_refused(gathering, levels, channels, multiple):
    genes = {"kind": "modulation", "gathering": gathering, "levels": levels}
    part = part_from_json("operator", genes)
    message = f"{channels} channels, but gathering {gathering!r} with levels {levels} needs a m"
    with pytest.raises(ValueError, match=message + f"ultiple of {multiple}"):
        part.blueprint(Site(channels, channels, 4, 4))
