"""The kernels of channel and linear attention, against their definitions, and these against the
modules and autograd."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("triton")

from space.attention_scores import ChannelAttend, LinearAttend
from space.genes import Site
from space.operators.attention import Attention
from space.operators.split_attention import SplitAttention
from supernet.kernels import state_attention as kernels
from supernet.kernels.twins import accelerate

KINDS = {
    "channel": (
        kernels.channel_attend,
        kernels.channel_attend_reference,
        kernels.channel_attend_backward,
        kernels.channel_attend_backward_reference,
    ),
    "linear": (
        kernels.linear_attend,
        kernels.linear_attend_reference,
        kernels.linear_attend_backward,
        kernels.linear_attend_backward_reference,
    ),
}
# Of relative norms. The interpreter truncates to bfloat16, three times on the way to a gradient.
BOUNDS = {torch.float32: 3e-6, torch.bfloat16: 1.5e-2}


@pytest.fixture(params=["channel", "linear"])
def kind(request):
    return request.param


def last(x):
    """Stored channels last, also where sides of 1 would let it pass for that."""
    return x.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)


def inputs(
    heads=2, width=8, values=8, side=(5, 4), keys=None, count=2, dtype=torch.float32, size=2.0
):
    """Queries, keys with values, and factors, which require gradients, and a gradient of the
    result."""
    torch.manual_seed(0)
    shapes = (count, heads * width, *side), (count, heads * (width + values), *(keys or side))
    q, kv = (last((size * torch.randn(shape)).to(dtype)).requires_grad_() for shape in shapes)
    factors = (0.5 + torch.rand(heads)).requires_grad_()
    return (q, kv, factors), last(torch.randn(count, heads * values, *side).to(dtype))


def wide(given):
    """The same in float64."""
    return tuple(x.detach().double().requires_grad_() for x in given)


def error(found, expected):
    """Relative, by the norm."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-300))


def compare(kind, given, dy, bound):
    """Result and gradients of the operator against autograd through the definition in float64."""
    operator, reference, _, _ = KINDS[kind]
    precise = wide(given)
    y, expected = operator(*given)[0], reference(*precise)
    assert y.dtype == given[0].dtype
    assert y.shape == expected.shape
    found = torch.autograd.grad(y, given, dy)
    gradients = torch.autograd.grad(expected, precise, dy.double())
    for place, pair in enumerate(zip((y, *found), (expected, *gradients), strict=True)):
        off = error(*pair)
        assert off < bound, f"{place} of result and gradients of q, kv and factors: {off}"
    for gradient, x in zip(found, given, strict=True):
        assert gradient.dtype == x.dtype


# ---- the definitions


@pytest.mark.parametrize("size", [0.3, 4.0])
def test_definitions_equal_the_modules(kind, size):
    """In float64; linear attention with totals below and above its least denominator."""
    given, _ = inputs(heads=3, width=5, values=5, size=size)
    q, kv, factors = wide(given)
    module = ChannelAttend(3) if kind == "channel" else LinearAttend(3, 5)
    name = next(name for name, _ in module.named_parameters())
    expected = functional_call(module, {name: factors}, (q, kv))
    torch.testing.assert_close(KINDS[kind][1](q, kv, factors), expected)


@pytest.mark.parametrize("size", [0.3, 4.0])
def test_backward_definitions_equal_autograd(kind, size):
    given, dy = inputs(heads=3, width=5, values=5, size=size)
    precise = wide(given)
    state = (kernels._channel_state if kind == "channel" else kernels._linear_state)(
        *precise[:2], 3
    )
    y = KINDS[kind][1](*precise)
    expected = torch.autograd.grad(y, precise, dy.double())
    found = KINDS[kind][3](dy.double(), *precise, state)
    torch.testing.assert_close(found, expected)


# ---- the kernels


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_equals_its_definition(kind, dtype):
    given, dy = inputs(width=12, values=12, dtype=dtype)
    compare(kind, given, dy, BOUNDS[dtype])


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_a_map_in_chunks(kind, dtype, monkeypatch):
    """Of 16 pixels: three, of which the last has 3, and where keys are another map two."""
    monkeypatch.setattr(kernels, "CHUNK", 16)
    keys = None if kind == "channel" else (4, 5)
    given, dy = inputs(heads=1, side=(5, 7), keys=keys, dtype=dtype, count=1)
    compare(kind, given, dy, BOUNDS[dtype])


@pytest.mark.parametrize("queries_chunked", [True, False])
def test_one_chunk_of_queries_or_of_keys(queries_chunked, monkeypatch):
    monkeypatch.setattr(kernels, "CHUNK", 16)
    small, large = (2, 3), (5, 4)
    side, keys = (large, small) if queries_chunked else (small, large)
    given, dy = inputs(heads=1, values=3, side=side, keys=keys, count=1)
    compare("linear", given, dy, 3e-6)


@pytest.mark.parametrize(
    ("heads", "width", "side"), [(1, 1, (1, 1)), (1, 17, (3, 1)), (3, 2, (1, 6)), (1, 64, (2, 2))]
)
def test_odd_shapes(kind, heads, width, side):
    given, dy = inputs(heads, width, width, side, count=1)
    operator, reference, *_ = KINDS[kind]
    expected = reference(*wide(given))
    y, _ = operator(*given)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-6)
    found = torch.autograd.grad(y, given, dy)
    precise = wide(given)
    gradients = torch.autograd.grad(reference(*precise), precise, dy.double())
    # Some are zero by formula: those of a channel alone, or at one pixel.
    for gradient, exact in zip(found, gradients, strict=True):
        torch.testing.assert_close(gradient.double(), exact, rtol=1e-4, atol=1e-5)


def test_other_widths_of_values_and_maps_of_keys():
    """More steps over queries than over keys, and the other way round, in one launch."""
    for side, keys in (((6, 6), (3, 2)), ((2, 2), (7, 6))):
        given, dy = inputs(heads=1, width=4, values=20, side=side, keys=keys, count=1)
        compare("linear", given, dy, 3e-6)


def test_several_steps_of_one_program(kind):
    """70 pixels are two steps of 64."""
    given, dy = inputs(heads=1, width=4, values=4, side=(10, 7), count=1)
    compare(kind, given, dy, 3e-6)


def test_totals_on_both_sides_of_the_least():
    """Otherwise gradients of the denominator would not show."""
    (q, kv, factors), dy = inputs(size=1.6)
    queries, keys = q.detach().relu(), kv[:, :16].detach().relu()
    totals = (queries * keys.sum((2, 3), keepdim=True)).unflatten(1, (2, 8)).sum(2)
    assert 0.2 < float((totals > 100).float().mean()) < 0.8
    compare("linear", (q, kv, factors), dy, 3e-6)


def test_channels_of_almost_nothing():
    """They are divided by the least norm, through which no gradient passes."""
    (q, kv, factors), dy = inputs(heads=1, count=1)
    with torch.no_grad():
        q[:, 2] *= 5e-14
        q[:, 3] = 0
        kv[:, 4] *= 5e-14
        kv[:, 5] = 0
    assert 1e-13 < q[:, 2].norm() < 1e-12
    assert 1e-13 < kv[:, 4].norm() < 1e-12
    operator, reference, *_ = KINDS["channel"]
    precise = wide((q, kv, factors))
    found = torch.autograd.grad(operator(q, kv, factors)[0], (q, kv), dy)
    expected = torch.autograd.grad(reference(*precise), precise[:2], dy.double())
    assert expected[0][:, 3].abs().max() > 1e6
    for gradient, exact in zip(found, expected, strict=True):
        for channel in range(gradient.shape[1]):
            assert error(gradient[:, channel], exact[:, channel]) < 1e-5


# ---- how maps are stored


def test_maps_stored_otherwise(kind):
    """Channels first; a slice of other channels; pixels of a larger map; a gradient of one
    number."""
    given, dy = inputs(count=2)
    operator = KINDS[kind][0]
    expected = operator(*given)[0]
    gradients = torch.autograd.grad(expected, given, torch.ones_like(dy))
    q, kv, factors = (x.detach() for x in given)

    def first(x):
        return x.contiguous()

    def among_others(x):
        return last(torch.randn(2, x.shape[1] + 5, *x.shape[2:]))[:, 3:-2].copy_(x)

    def in_a_larger_map(x):
        return last(torch.randn(2, x.shape[1], 8, 7))[:, :, 2:7, 1:5].copy_(x)

    for stored in (first, among_others, in_a_larger_map):
        again = stored(q).requires_grad_(), stored(kv).requires_grad_(), factors.requires_grad_()
        assert again[0].stride() != given[0].stride()
        y = operator(*again)[0]
        assert torch.equal(y, expected)
        found = torch.autograd.grad(y, again, torch.ones(()).expand(dy.shape))
        assert all(map(torch.equal, found, gradients))


def test_an_image_alone(kind):
    """Its numbers do not depend on how many there are."""
    (q, kv, factors), _ = inputs(count=3)
    operator = KINDS[kind][0]
    assert torch.equal(operator(q, kv, factors)[0][1:2], operator(q[1:2], kv[1:2], factors)[0])


def test_no_images(kind):
    given, dy = inputs(count=0)
    y = KINDS[kind][0](*given)[0]
    gradients = torch.autograd.grad(y, given, dy)
    assert y.shape == dy.shape
    assert [x.shape for x in gradients] == [x.shape for x in given]
    assert not gradients[2].any()


# ---- what PyTorch asks of an operator


def test_operators_are_registered_well(kind):
    operator, _, backward, _ = KINDS[kind]
    given, dy = inputs(heads=1, width=4, values=4, side=(2, 3), count=1)
    torch.library.opcheck(operator, given)
    plain = [x.detach() for x in given]
    torch.library.opcheck(backward, (dy, *plain, operator(*plain)[1]))


def test_the_definitions_stand_in_for_the_kernels(kind, monkeypatch):
    """What a CPU without the interpreter runs gives results stored as those of kernels are."""
    monkeypatch.setattr(kernels, "CHUNK", 16)
    given, dy = inputs(heads=1)
    given = [x.detach() for x in given]
    operator, _, backward, _ = KINDS[kind]
    forward = kernels._define_channel if kind == "channel" else kernels._define_linear
    back = kernels._define_channel_back if kind == "channel" else kernels._define_linear_back
    found, expected = forward(*given), operator(*given)
    pairs = [*zip(found, expected, strict=True)]
    pairs += zip(back(dy, *given, found[1]), backward(dy, *given, found[1]), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert one.stride() == other.stride()


def test_flops_are_those_of_the_module(kind):
    keys = None if kind == "channel" else (2, 3)
    values = 4 if kind == "channel" else 6
    given, dy = inputs(width=4, values=values, side=(3, 3), keys=keys)
    module = ChannelAttend(2) if kind == "channel" else LinearAttend(2, 4)
    counts = []
    for function in (module, lambda q, kv: KINDS[kind][0](q, kv, given[2])[0]):
        with FlopCounterMode(display=False) as counter:
            y = function(*given[:2])
            counts.append(counter.get_total_flops())
            y.backward(dy)
        counts.append(counter.get_total_flops())
    assert counts[:2] == counts[2:]
    assert counts[1] == 3 * counts[0] > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda q, kv, t: (q.double(), kv.double(), t), "float64"),
        (lambda q, kv, t: (q, kv[:, :-1], t), "no 2 equal heads"),
        (lambda q, kv, t: (q, kv[:, :-2], t), "needs keys and values like queries"),
        (lambda q, kv, t: (q.repeat(1, 9, 1, 1), kv.repeat(1, 9, 1, 1), t), "72 channels"),
    ],
    ids=["dtype", "heads", "values", "wide"],
)
def test_what_no_kernel_is_made_for(change, words):
    (q, kv, factors), _ = inputs(side=(2, 2))
    with pytest.raises(ValueError, match=words):
        kernels.channel_attend(*change(q, kv, factors))


# ---- modules

OPERATORS = {
    "channel": partial(Attention, scoring="channel", head_dim=8),
    "windows": partial(Attention, scoring="channel", head_dim=8, region="window", context=3),
    "linear": partial(Attention, scoring="linear", head_dim=8, value_ratio=2),
    "reduced": partial(Attention, scoring="linear", head_dim=8, kv_reduction=2),
    "halo": partial(Attention, scoring="linear", head_dim=8, region="halo", context=4, halo=1),
    "split": partial(SplitAttention, head_dim=8),
}


def built(name):
    """The module of an operator for 16 channels, and for 32 of another width of heads."""
    torch.manual_seed(0)
    module = OPERATORS[name]().build(Site(16, 16, 5, 4))
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def run(module, x, weights):
    """Output, and gradients of the input and of the weights."""
    y = functional_call(module, weights, (x,))
    torch.manual_seed(1)
    leaves = [x, *weights.values()]
    return y, *torch.autograd.grad(y, leaves, torch.randn_like(y), allow_unused=True)


def twinned(name):
    """The plain module, and one with a twin, whose attention is a kernel's."""
    plain, twin = built(name), accelerate(built(name))
    classes = {type(layer) for layer in twin.modules()}
    assert classes & {kernels.KernelChannelAttend, kernels.KernelLinearAttend}
    assert not classes & {ChannelAttend, LinearAttend}
    return plain, twin


def assert_same(found, expected, bound):
    for one, other in zip(found, expected, strict=True):
        if other is None:
            assert one is None
            continue
        assert one.dtype == other.dtype
        assert error(one, other) < bound


@pytest.mark.parametrize("name", OPERATORS)
def test_twins(name, monkeypatch):
    launched = count_launches(monkeypatch)
    plain, twin = twinned(name)
    x = last(torch.randn(1, 16, 5, 4)).requires_grad_()
    expected = run(plain, x, dict(plain.named_parameters()))
    assert_same(run(twin, x, dict(twin.named_parameters())), expected, 1e-5)
    assert len(launched) == 1


def count_launches(monkeypatch):
    """A list to which each call of an operator appends."""
    launched = []
    for name in ("channel_attend", "linear_attend"):
        operator = getattr(kernels, name)

        def call(*given, operator=operator):
            launched.append(operator)
            return operator(*given)

        monkeypatch.setattr(kernels, name, call)
    return launched


@pytest.mark.parametrize("name", ["channel", "linear"])
def test_twins_with_weights_cut_out_of_larger_ones(name):
    """As the supernet runs them: every parameter a view of a larger one."""
    plain, twin = twinned(name)
    x = last(torch.randn(1, 16, 5, 4)).requires_grad_()
    large = {
        key: torch.randn([size + 3 for size in weight.shape]).requires_grad_()
        for key, weight in plain.named_parameters()
    }

    def cut():
        views = {}
        for key, weight in plain.named_parameters():
            views[key] = large[key]
            for axis, size in enumerate(weight.shape):
                views[key] = views[key].narrow(axis, 1, size)
        return views

    assert_same(run(twin, x, cut()), run(plain, x, cut()), 1e-5)


@pytest.mark.parametrize("name", ["channel", "linear"])
def test_twins_under_autocast(name, monkeypatch):
    launched = count_launches(monkeypatch)
    plain, twin = twinned(name)
    x = last(torch.randn(1, 16, 5, 4)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        expected = run(plain, x, dict(plain.named_parameters()))
        found = run(twin, x, dict(twin.named_parameters()))
    assert_same(found, expected, 2e-2)
    assert len(launched) == 1


def test_twins_leave_to_the_module_what_no_kernel_does(monkeypatch):
    """Other dtypes, and heads that are too wide: of more than 32 channels, and 64 in bfloat16."""
    launched = count_launches(monkeypatch)
    plain, twin = twinned("channel")
    x = last(torch.randn(1, 16, 5, 4))
    torch.testing.assert_close(twin.double()(x.double()), plain.double()(x.double()))
    cases = [({"scoring": "channel"}, 64), ({"scoring": "linear"}, 64)]
    cases += [({"scoring": "linear", "value_ratio": 2}, 32), ({"scoring": "channel"}, 65)]
    for genes, width in cases:
        module = accelerate(Attention(head_dim=width, **genes).build(Site(16, 16, 2, 2)))
        for bfloat16 in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                module(last(torch.randn(1, 16, 2, 2)))
            assert len(launched) == (bfloat16 and width < 65)
            launched.clear()
