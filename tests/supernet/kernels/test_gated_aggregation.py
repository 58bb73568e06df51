"""Kernels of modulation: against their definitions, autograd, and the modules they stand in for."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("triton")

from space.genes import Site
from space.modulation_layers import (
    Decomposition,
    FocalModulation,
    GatedAggregation,
    RecursiveModulation,
    SharesContext,
)
from space.operators.modulation import Modulation
from space.settings import ACTIVATIONS
from supernet.kernels import gated_aggregation as kernels
from supernet.kernels.gated_aggregation_filters import blocks_of, grain_of, rows_of
from supernet.kernels.twins import twins

BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 1.5e-2}  # of relative norms
# Usual; one of everything; odd; three blocks of channels, the last not full; three blocks of rows
# and two of columns.
SIZES = [(2, 8, 2, 3), (1, 1, 1, 1), (1, 5, 7, 3), (1, 70, 1, 3), (1, 3, 9, 17)]
GATHERINGS = {
    "levels": FocalModulation,
    "shares": GatedAggregation,
    "recursive": RecursiveModulation,
    "recursive_filter": RecursiveModulation,
}


def normal(*size, seed=0, dtype=torch.float32):
    """A map stored channels last, or a vector."""
    made = torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return made.contiguous(memory_format=torch.channels_last) if len(size) == 4 else made


def away(found, expected):
    """The norm of the difference relative to that of what is expected."""
    expected = expected.double()
    return ((found.double() - expected).norm() / expected.norm().clamp_min(1e-12)).item()


def leaves(given):
    """Copies that take a gradient, in lists too."""
    if isinstance(given, torch.Tensor):
        return given.detach().clone().requires_grad_()
    return [leaves(one) for one in given] if isinstance(given, list) else given


def tensors(given):
    for one in given:
        yield from tensors(one) if isinstance(one, list) else [one] * isinstance(one, torch.Tensor)


def agree(operator, reference, given, bound=2e-6):
    """Results, their layout and dtype, and gradients of the first result."""
    ours, theirs = leaves(list(given)), leaves(list(given))
    found, expected = operator(*ours), reference(*theirs)
    results = [r if isinstance(r, tuple) else (r,) for r in (found, expected)]
    for one, other in zip(*results, strict=True):
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())
        assert away(one, other) < bound
    grad = normal(*results[0][0].shape, seed=9, dtype=results[0][0].dtype)
    results[0][0].backward(grad)
    results[1][0].backward(grad)
    for one, other in zip(tensors(ours), tensors(theirs), strict=True):
        assert one.grad.dtype == one.dtype
        assert away(one.grad, other.grad) < bound
    return results[0]


def focal(size=SIZES[0], sides=(3, 3), activation="gelu", dtype=torch.float32):
    count, channels, height, width = size
    return (
        normal(*size, dtype=dtype),
        normal(count, len(sides) + 1, height, width, seed=1, dtype=dtype),
        [normal(channels, 1, k, k, seed=k, dtype=dtype) / k for k in sides],
        activation,
    )


def shares(size=SIZES[0], sides=(3, 3, 5), dilations=(1, 2, 3), dtype=torch.float32):
    channels = size[1]
    second, third = 3 * channels // 8, channels // 2
    widths = (channels, second, third)
    return (
        normal(*size, dtype=dtype),
        [normal(c, 1, k, k, seed=k, dtype=dtype) / k for c, k in zip(widths, sides, strict=True)],
        [normal(c, seed=c, dtype=dtype) for c in widths],
        list(dilations),
    )


def product(size=SIZES[0], activation="silu", factor=0.5, dtype=torch.float32):
    return normal(*size, dtype=dtype), normal(*size, seed=1, dtype=dtype), activation, factor


def decomposition(size=SIZES[0], activation="silu", dtype=torch.float32):
    return normal(*size, dtype=dtype) + 1, normal(size[1], seed=1, dtype=dtype), activation


CASES = {
    "focal": (kernels.focal_contexts, kernels.focal_contexts_reference, focal),
    "shares": (kernels.shares_context, kernels.shares_context_reference, shares),
    "product": (kernels.gated_product, kernels.gated_product_reference, product),
    "decomposed": (kernels.decomposed, kernels.decomposed_reference, decomposition),
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_equals_its_definition(case, size):
    operator, reference, made = CASES[case]
    if case == "focal" and size[2] > 7:
        made = partial(made, sides=(3,))
    if case == "shares":  # its filters are those of the levels
        size = {1: (1, 3, 1, 1), 70: (1, 6, 1, 3), 3: (1, 3, 1, 17)}.get(size[1], size)
    agree(operator, reference, made(size))


@pytest.mark.parametrize("case", CASES)
def test_bfloat16(case):
    """The interpreter truncates where a GPU rounds, and so does each of the steps of a chain."""
    operator, reference, made = CASES[case]
    agree(operator, reference, made((1, 8, 2, 2), dtype=torch.bfloat16), BOUNDS[torch.bfloat16])


@pytest.mark.parametrize("name", ["none", *ACTIVATIONS])
def test_activations(name):
    """Against the layers that go by these names, in float64."""
    layer = ACTIVATIONS.get(name, nn.Identity)()
    given = tuple(3 * x for x in product((2, 8, 4, 4))[:2])
    agree(
        partial(kernels.gated_product, activation=name, factor=0.5),
        lambda x, y: (layer(x.double()) * layer(y.double()) * 0.5).float(),
        given,
    )


def test_decomposition_equals_the_layer():
    layer = Decomposition(8).double()
    x, scale, _ = decomposition()

    def plain(x, scale):
        made = functional_call(layer, {"scale": scale.double()}, (x.double(),))
        return nn.functional.silu(made).float(), x.mean((2, 3))

    agree(partial(kernels.decomposed, activation="silu"), plain, (x, scale))


@pytest.mark.parametrize("case", CASES)
def test_maps_stored_otherwise(case):
    """A slice of the channels of a wider map, channels first; a gradient that is one number."""
    operator, reference, made = CASES[case]
    x, *rest = made((1, 6, 1, 2))
    expected = reference(x, *rest)
    expected = expected[0] if isinstance(expected, tuple) else expected
    wider = torch.cat((normal(1, 3, 1, 2), x, normal(1, 2, 1, 2)), 1)
    wider = wider.contiguous(memory_format=torch.channels_last)
    grads = []
    for other in (x, wider[:, 3:9], x.contiguous()):
        other = other.detach().requires_grad_()
        found = operator(other, *rest)
        found = found[0] if isinstance(found, tuple) else found
        assert away(found, expected) < 2e-6
        assert found.is_contiguous(memory_format=torch.channels_last)
        found.sum().backward()
        grads.append(other.grad)
    for grad in grads[1:]:
        torch.testing.assert_close(grad, grads[0])


def test_rows_of_pixels():
    """What is read where it lies, and how much of it at once."""
    wider = normal(2, 24, 4, 5, dtype=torch.bfloat16)
    for part, pitch, grain in ((wider, 24, 8), (wider[:, 12:], 24, 4), (wider[:, 3:9], 24, 1)):
        read, found = rows_of(part)
        assert read is part
        assert found == pitch
        assert grain_of((part, pitch)) == grain
    assert grain_of((normal(1, 8, 1, 1), 8)) == 4  # of float32: 16 bytes
    copied, pitch = rows_of(wider.contiguous())
    assert pitch == 24
    assert copied.stride() == wider.stride()
    assert rows_of(normal(1, 1, 1, 1).expand(2, 3, 4, 5))[1] == 3
    turned = normal(2, 24, 5, 4).transpose(2, 3)  # rows and columns exchanged
    assert torch.equal(rows_of(turned)[0], turned)
    assert rows_of(turned)[0] is not turned


@pytest.mark.parametrize(
    ("size", "rows", "columns", "channels"),
    [((96, 56, 56), 7, 16, 32), ((768, 7, 7), 7, 8, 64), ((20, 8, 3), 8, 4, 32)],
)
def test_blocks(size, rows, columns, channels):
    assert blocks_of(*size) == {"ROWS": rows, "COLUMNS": columns, "CHANNELS": channels}


@pytest.mark.parametrize("flipped", [False, True])
def test_wide_filters(flipped):
    """Wider than the map, where most taps lie outside."""
    sides = (9, 3) if flipped else (3, 9)
    agree(kernels.focal_contexts, kernels.focal_contexts_reference, focal((1, 4, 2, 3), sides))


def backward_of(case, grad, given):
    """The backward definition of a case, at its inputs."""
    if case == "focal":
        x, gates, weights, name = given
        _, contexts, mean = kernels.focal_contexts_reference(*given)
        back = kernels.focal_contexts_backward_reference
        return back(grad, x, gates, contexts, mean, weights, name)
    if case == "shares":
        filtered = kernels.shares_context_reference(*given)[1]
        return kernels.shares_context_backward_reference(grad, given[0], filtered, *given[1:])
    if case == "product":
        return kernels.gated_product_backward_reference(grad, *given)
    x, scale, name = given
    return kernels.decomposed_backward_reference(grad, x, x.mean((2, 3)), scale, name)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["gelu", "relu", "silu"])
def test_definition_of_the_gradient(case, name):
    """Against autograd through the definition, in float64."""
    _, reference, made = CASES[case]
    chosen = {} if case == "shares" else {"activation": name}
    given = leaves(list(made((2, 8, 5, 6), dtype=torch.float64, **chosen)))
    out = reference(*given)
    out = out[0] if isinstance(out, tuple) else out
    grad = normal(*out.shape, seed=9, dtype=torch.float64)
    out.backward(grad)
    with torch.no_grad():
        found = backward_of(case, grad, given)
    for one, other in zip(tensors(found), tensors(given), strict=True):
        assert away(one, other.grad) < 1e-12


# ---- what PyTorch asks of operators


@pytest.mark.parametrize("case", CASES)
def test_operator(case):
    operator, _, made = CASES[case]
    made = partial(made, sides=(3,)) if case == "focal" else made
    torch.library.opcheck(operator, tuple(leaves(list(made((1, 4, 1, 2))))))


def test_backward_operators():
    size = (1, 4, 2, 1)
    grad, backward = normal(*size, seed=5), ("test_schema", "test_faketensor")
    x, gates, weights, name = focal(size, (3,))
    _, contexts, mean = kernels.focal_contexts_reference(x, gates, weights, name)
    given = (grad, x, gates, contexts, mean, weights, name)
    torch.library.opcheck(kernels.focal_contexts_backward, given, test_utils=backward)
    torch.library.opcheck(
        kernels.gated_product_backward, (grad, *product(size)), test_utils=backward
    )
    x, scale, name = decomposition(size)
    given = (grad, x, x.mean((2, 3)), scale, name)
    torch.library.opcheck(kernels.decomposed_backward, given, test_utils=backward)
    x, *rest = shares(size)
    filtered = kernels.shares_context_reference(x, *rest)[1]
    given = (grad, x, filtered, *rest)
    torch.library.opcheck(kernels.shares_context_backward, given, test_utils=backward)


@pytest.mark.parametrize(("case", "passes"), [("focal", 3), ("shares", 2), ("product", 0)])
def test_flops(case, passes):
    """Those of the filters; backward for inputs and weights, and of levels for outputs again."""
    operator, _, made = CASES[case]
    given = leaves(list(made((2, 8, 1, 3))))
    weights = [] if case == "product" else next(one for one in given if isinstance(one, list))
    expected = sum(2 * 2 * 1 * 3 * weight.numel() for weight in weights)
    with FlopCounterMode(display=False) as counter:
        found = operator(*given)
    assert counter.get_total_flops() == expected
    with FlopCounterMode(display=False) as counter:
        (found[0] if isinstance(found, tuple) else found).sum().backward()
    assert counter.get_total_flops() == passes * expected


# ---- twins


def built(gathering, site=None, **genes):
    """The branch of an operator, its parameters far from where they start, twice."""
    part = Modulation(gathering=gathering, expansion=0, **genes)
    site = site or Site(16, 16, 2, 3)
    pair = []
    for _ in range(2):
        torch.manual_seed(0)
        module = part.build(site).mixer.branch
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(std=0.4)
        pair.append(module)
    return pair


def given_twins(module):
    """As `twins.accelerate`, by the twins of this file alone."""
    for layer in module.modules():
        twin = kernels.TWINS.get(type(layer))
        if twin is not None and twin.serves(layer):
            layer.__class__ = twin
    return module


def both(plain, twin, x, bound=1e-5):
    """Outputs, gradients of the input and of every parameter."""
    xs = [x.clone().requires_grad_() for _ in range(2)]
    outs = [module(one) for module, one in zip((plain, twin), xs, strict=True)]
    assert outs[1].dtype == outs[0].dtype
    assert away(outs[1], outs[0]) < bound
    for out in outs:
        out.backward(normal(*out.shape, seed=7).to(out.dtype))
    assert away(xs[1].grad, xs[0].grad) < bound
    expected = dict(plain.named_parameters())
    for name, parameter in twin.named_parameters():
        assert away(parameter.grad, expected[name].grad) < bound, name


SETTINGS = [
    {"gathering": "levels", "levels": 2},
    {"gathering": "levels", "levels": 2, "context": 5, "activation": "silu"},
    {"gathering": "shares"},
    {"gathering": "recursive", "levels": 3},
    {"gathering": "recursive_filter", "levels": 2, "inner_norm": "layer"},
]


@pytest.mark.parametrize("genes", SETTINGS, ids=lambda genes: "-".join(map(str, genes.values())))
def test_twin_equals_its_module(genes):
    plain, twin = built(**genes)
    given_twins(twin)
    assert type(twin) is kernels.TWINS[GATHERINGS[genes["gathering"]]]
    both(plain, twin, normal(2, 16, 2, 3))


@pytest.mark.parametrize("genes", SETTINGS, ids=lambda genes: "-".join(map(str, genes.values())))
def test_definitions_equal_the_module(genes, monkeypatch):
    """The twin with definitions for its kernels, in float64."""
    monkeypatch.setattr(kernels, "DTYPES", (torch.float64,))
    for operator, reference, _ in CASES.values():
        monkeypatch.setattr(kernels, operator.name().split("::")[1], reference)
    plain, twin = (module.double() for module in built(**genes, site=Site(16, 16, 7, 6)))
    both(plain, given_twins(twin), normal(2, 16, 7, 6).double(), 1e-12)


def test_every_part_of_a_gated_aggregation_has_a_twin():
    _, twin = built("shares")
    given_twins(twin)
    assert type(twin.value[0]) is kernels.FusedSharesContext
    assert twins()[GatedAggregation] is kernels.FusedGatedAggregation


@pytest.mark.parametrize("gathering", GATHERINGS)
def test_twin_under_autocast(gathering):
    plain, twin = built(gathering)
    given_twins(twin)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = twin(normal(2, 16, 2, 3)), plain(normal(2, 16, 2, 3))
    assert found.dtype == expected.dtype
    assert away(found, expected) < 3e-2


@pytest.mark.parametrize("gathering", GATHERINGS)
def test_twin_leaves_float64_to_its_module(gathering):
    plain, twin = built(gathering)
    given_twins(twin)
    x = normal(2, 16, 2, 3).double()
    assert torch.equal(twin.double()(x), plain.double()(x))


@pytest.mark.parametrize("gathering", ["levels", "shares"])
def test_twin_of_slices_of_larger_weights(gathering):
    """Every parameter as the middle of a larger one, as a supernet cuts them."""
    plain, twin = built(gathering)
    given_twins(twin)
    found = []
    for module in (plain, twin):
        whole, cuts = {}, {}
        for name, parameter in plain.named_parameters():
            large = torch.zeros([size + 2 for size in parameter.shape])
            place = tuple(slice(1, 1 + size) for size in parameter.shape)
            large[place] = parameter.detach()
            if large.ndim == 4:
                large = large.contiguous(memory_format=torch.channels_last)
            whole[name] = large.requires_grad_()
            cuts[name] = whole[name][place]
        made = functional_call(module, cuts, (normal(2, 16, 2, 3),))
        made.backward(normal(*made.shape, seed=7))
        found.append((made, whole))
    assert away(found[1][0], found[0][0]) < 1e-5
    for name, expected in found[0][1].items():
        assert away(found[1][1][name].grad, expected.grad) < 1e-5, name


def test_focal_twin_counts_as_its_module():
    plain, twin = built("levels", levels=2)
    given_twins(twin)
    counts = []
    for module in (plain, twin):
        with FlopCounterMode(display=False) as counter:
            module(normal(2, 16, 2, 3))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_expansion_padded_with_zeros():
    _, twin = built("levels", levels=2)
    given_twins(twin)
    x = normal(2, 16, 2, 3)
    found = twin.expanded(x, multiple=16)
    assert found.shape[1] == 48
    assert sum(twin.ends(48)) == 48
    torch.testing.assert_close(found[:, :35], twin.expand(x))
    assert not found[:, 35:].any()


def other_activation(module):
    module.levels[1][1] = nn.ReLU()


def unknown_activation(module):
    module.activation = nn.Tanh()


def norm_in_a_level(module):
    module.levels[0] = nn.Sequential(module.levels[0][0], nn.Identity(), module.levels[0][1])


def dilated_level(module):
    module.levels[0][0] = nn.Conv2d(16, 16, 3, 1, 2, 2, groups=16, bias=False)


def level_with_bias(module):
    module.levels[0][0] = nn.Conv2d(16, 16, 3, 1, 1, groups=16)


def dense_level(module):
    module.levels[0][0] = nn.Conv2d(16, 16, 3, 1, 1, bias=False)


@pytest.mark.parametrize(
    "change",
    [
        other_activation,
        unknown_activation,
        norm_in_a_level,
        dilated_level,
        level_with_bias,
        dense_level,
    ],
)
def test_focal_modulation_of_other_parts_stays(change):
    module, _ = built("levels")
    assert kernels.FusedFocalModulation.serves(module)
    change(module)
    assert not kernels.FusedFocalModulation.serves(module)


def test_gated_aggregation_of_other_parts_stays():
    module, _ = built("shares")
    assert kernels.FusedGatedAggregation.serves(module)
    module.gate[-1] = nn.ReLU()
    assert not kernels.FusedGatedAggregation.serves(module)
    context = module.value[0]
    assert isinstance(context, SharesContext)
    assert kernels.FusedSharesContext.serves(context)
    context.second = nn.Conv2d(6, 6, 3, padding=1, groups=6)  # undilated: as good
    assert kernels.FusedSharesContext.serves(context)
    context.second = nn.Conv2d(6, 6, 3, padding=2, groups=6)  # another size
    assert not kernels.FusedSharesContext.serves(context)
