"""The depthwise convolution against its definition, PyTorch's layers and the modules it stands in
for."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("triton")

from space.downsampling.local import LocalDsm
from space.genes import Site
from space.layers import ConvolutionNorm, LayerNorm2d, PaddedConvolution, SqueezeExcite
from space.operators.attention import Attention
from space.operators.convolution import Convolution
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.settings import ACTIVATIONS
from supernet.kernels import depthwise as kernels
from supernet.kernels import twins
from supernet.kernels.depthwise import (
    depthwise,
    depthwise_reference,
    depthwise_squeezed,
    depthwise_squeezed_reference,
    input_gradient,
    norm_gradient,
    norm_gradient_reference,
    weight_gradient,
)
from supernet.kernels.depthwise_twins import TWINS, Depthwise, PaddedDepthwise

# Map (N, C, H, W), filter, stride, dilation and pixels padded behind (below, right).
FORMS = [
    ((2, 16, 8, 8), 3, 1, 1, (0, 0)),
    ((1, 5, 7, 6), 5, 1, 1, (0, 0)),
    ((2, 24, 7, 5), 3, 2, 1, (0, 0)),
    ((1, 8, 8, 6), 5, 2, 1, (1, 2)),
    ((1, 32, 5, 6), 3, 1, 3, (0, 0)),
    ((1, 8, 6, 7), 3, 2, 2, (0, 0)),
    ((1, 8, 5, 4), 4, 1, 1, (1, 1)),
    ((1, 2, 4, 3), 9, 1, 1, (0, 0)),
    ((3, 1, 1, 1), 3, 1, 1, (0, 0)),
    ((1, 2, 4, 4), 7, 2, 1, (0, 0)),
]
FORM = FORMS[0]


@pytest.fixture(params=["few", "many"])
def rows(request, monkeypatch):
    """Strips of one row, as where there is little work, and of as many as there can be."""
    monkeypatch.setattr(kernels, "STEPS", 1)  # sums of several programs from small maps
    if request.param == "many":
        monkeypatch.setattr(kernels, "FULL", 0)


def arguments(form, *, norm=False, activation="none", bias=True, dtype=torch.float32, grad=False):
    (count, channels, *size), kernel, stride, dilation, behind = form
    generator = torch.Generator().manual_seed(0)

    def made(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    x = made(count, channels, *size).contiguous(memory_format=torch.channels_last)
    tensors = [x, made(channels, 1, kernel, kernel), made(channels) if bias else None]
    tensors += [made(channels), made(channels)] if norm else [None, None]
    tensors = [t if t is None or not grad else t.requires_grad_() for t in tensors]
    padding = dilation * ((kernel - 1) // 2)
    return (*tensors, 1e-5, activation, stride, padding, behind, dilation)


def error(found, expected):
    """Norm of the difference over the norm of what is expected."""
    found, expected = found.double(), expected.double()
    return ((found - expected).norm() / expected.norm().clamp_min(1e-6)).item()


def layers(x, weight, bias, norm_weight, norm_bias, eps, activation, stride, padding, behind, dilation):  # fmt: skip  # noqa: E501
    """The definition, of PyTorch's layers in float64."""
    x = F.pad(x.double(), (0, behind[1], 0, behind[0]))
    bias = None if bias is None else bias.double()
    y = F.conv2d(x, weight.double(), bias, stride, padding, dilation, x.shape[1])
    if norm_weight is not None:
        y = F.layer_norm(
            y.movedim(1, 3), y.shape[1:2], norm_weight.double(), norm_bias.double(), eps
        )
        y = y.movedim(3, 1)
    return y if activation == "none" else ACTIVATIONS[activation]()(y)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.usefixtures("rows")
def test_equals_its_definition(form, norm):
    given = arguments(form, norm=norm, activation="gelu" if norm else "none")
    found, expected = depthwise(*given), depthwise_reference(*given)
    assert found.stride() == expected.stride()
    assert error(found, expected) < 1e-6
    assert error(expected, layers(*given)) < 1e-6


def test_largest_filter():
    """The weight's gradient in four parts: 3 times 4 and 1 of the 13 columns."""
    given = arguments(((1, 2, 2, 3), 13, 1, 1, (0, 0)), grad=True)
    found, expected = depthwise(*given), layers(*given)
    assert error(found, expected) < 1e-6
    found = torch.autograd.grad(found.square().sum(), given[:3])
    expected = torch.autograd.grad(expected.square().sum(), given[:3])
    for one, other in zip(found, expected, strict=True):
        assert error(one, other) < 1e-5


@pytest.mark.parametrize("activation", ["none", *ACTIVATIONS])
def test_every_activation_and_its_gradient(activation):
    given = arguments(((1, 5, 3, 2), 2, 1, 1, (0, 0)), norm=True, activation=activation, grad=True)
    found, expected = depthwise(*given), layers(*given)
    assert error(found, expected) < 1e-6
    wanted = given[:5]
    grad = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(found, wanted, grad)
    for one, other in zip(found, torch.autograd.grad(expected, wanted, grad), strict=True):
        assert error(one, other) < 1e-5
    x, weight, bias, *_ = given
    more = (None, None, *given[5:])
    alone = torch.autograd.grad(depthwise(x, weight, bias, *more), x, grad)[0]
    assert error(alone, torch.autograd.grad(layers(x, weight, bias, *more), x, grad)[0]) < 1e-5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("rows")
def test_gradients(form):
    given = arguments(form, grad=True)
    found, expected = depthwise(*given), layers(*given)
    grad = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(found, given[:3], grad)
    for one, other in zip(found, torch.autograd.grad(expected, given[:3], grad), strict=True):
        assert error(one, other) < 1e-5


@pytest.mark.parametrize("form", [FORMS[0], FORMS[2]])
@pytest.mark.usefixtures("rows")
def test_mean_of_the_map(form):
    given = arguments(form, norm=True, activation="silu", grad=True)
    (found, mean), expected = depthwise_squeezed(*given), layers(*given)
    assert error(found, expected) < 1e-6
    assert error(mean, expected.mean((2, 3))) < 1e-6
    for one, other in zip(
        depthwise_squeezed_reference(*given), (expected, expected.mean((2, 3))), strict=True
    ):
        assert error(one, other) < 1e-6
    found, expected = ((y * (m.exp()[:, :, None, None])).sum() for y, m in (
        (found, mean), (expected, expected.mean((2, 3))),
    ))  # fmt: skip
    found = torch.autograd.grad(found, given[:5])
    for one, other in zip(found, torch.autograd.grad(expected, given[:5]), strict=True):
        assert error(one, other) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    given = arguments(FORMS[2], norm=True, activation="gelu", dtype=dtype, grad=True)
    found, expected = depthwise(*given), layers(*given)
    assert found.dtype == dtype
    # The interpreter truncates where a GPU rounds to bfloat16.
    assert error(found, expected) < 1e-2
    found = torch.autograd.grad(found.float().square().sum(), given[:5])
    expected = torch.autograd.grad(expected.square().sum(), given[:5])
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        assert error(one, other) < 2e-2


@pytest.mark.parametrize("least", [1, 8])
def test_norm_gradient_equals_its_definition(least, monkeypatch):
    """Two programs, and one that does two tiles of pixels."""
    monkeypatch.setattr(kernels, "STEPS", least)
    made = torch.randn(4, 2, 32, 5, 4, generator=torch.Generator().manual_seed(0))
    given = (made[0], made[1], made[2, 0, :, 0, 0], made[2, 1, :, 0, 0], 1e-5, "gelu")
    for one, other in zip(norm_gradient(*given), norm_gradient_reference(*given), strict=True):
        assert error(one, other) < 1e-6


@pytest.mark.parametrize("layout", ["columns first", "share", "every other", "repeated"])
def test_maps_stored_otherwise(layout):
    x, *more = arguments(FORM)
    three = torch.cat((x, 2 * x, x), 1).contiguous(memory_format=torch.channels_last)
    maps = {
        "columns first": x.contiguous(),
        "share": three[:, 16:32],
        "every other": x.repeat_interleave(2, 3)[..., ::2],
        "repeated": x[:1, :, :1, :1].expand(2, 16, 8, 8),
    }
    x = maps[layout].detach().requires_grad_()
    found, expected = depthwise(x, *more), layers(x, *more)
    assert error(found, expected) < 1e-6
    # A gradient of the sum is one number, repeated.
    found, expected = (torch.autograd.grad(y.sum(), x)[0] for y in (found, expected))
    assert error(found, expected) < 1e-6


def test_part_of_a_larger_weight():
    """The kernel of 3 is the middle of one of 7, of the leading channels."""
    x, _, _, *more = arguments(FORM)
    whole = torch.randn(32, 1, 7, 7).requires_grad_()
    large = torch.randn(32).requires_grad_()
    weight, bias = whole[:16, :, 2:5, 2:5], large[:16]
    found, expected = depthwise(x, weight, bias, *more), layers(x, weight, bias, *more)
    assert error(found, expected) < 1e-6
    found, expected = (
        torch.autograd.grad(y.square().sum(), (whole, large)) for y in (found, expected)
    )
    for one, other in zip(found, expected, strict=True):
        assert error(one, other) < 1e-5


def test_no_images():
    given = arguments(((0, 4, 5, 5), 3, 2, 1, (0, 0)), grad=True)
    y, mean = depthwise_squeezed(*given)
    assert y.shape == (0, 4, 3, 3)
    assert mean.shape == (0, 4)
    grads = torch.autograd.grad(y.sum(), given[:3])
    assert [g.shape for g in grads] == [g.shape for g in given[:3]]
    assert not grads[1].any()


def test_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="unknown activation 'softplus'; known"):
        depthwise(*arguments(FORM, activation="softplus"))
    with pytest.raises(ValueError, match="norm of 513 channels"):
        depthwise(*arguments(((1, 513, 1, 1), 3, 1, 1, (0, 0)), norm=True))


@pytest.mark.parametrize(("norm", "operator"), [(False, depthwise), (True, depthwise_squeezed)])
def test_what_pytorch_asks_of_an_operator(norm, operator):
    small = ((1, 3, 3, 2), 3, 2, 1, (0, 1))
    activation = "gelu" if norm else "none"
    torch.library.opcheck(operator, arguments(small, norm=norm, activation=activation, grad=True))


def test_what_pytorch_asks_of_the_gradients():
    x, weight, bias, *more = arguments(((1, 3, 3, 2), 3, 2, 1, (0, 0)))
    grad = depthwise(x, weight, bias, *more)
    torch.library.opcheck(input_gradient, (grad, weight, 3, 2, 2, 1, 1))
    torch.library.opcheck(weight_gradient, (grad, x, weight, 2, 1, 1))
    torch.library.opcheck(norm_gradient, (x, x, bias, bias, 1e-5, "gelu"))


def flops(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_flops():
    form = ((2, 6, 7, 5), 3, 2, 1, (0, 0))
    given = arguments(form)
    x, weight, bias, *_ = given
    one = flops(lambda: F.conv2d(x, weight, bias, 2, 1, 1, 6))
    assert one > 0
    assert flops(lambda: depthwise(*given)) == one
    assert flops(lambda: depthwise_squeezed(*given)) == one
    given = arguments(form, grad=True)
    assert flops(lambda: depthwise(*given).sum().backward()) == 3 * one
    given = arguments(form, activation="gelu", grad=True)
    assert flops(lambda: depthwise(*given).sum().backward()) == 4 * one  # one again


# ---- in place of modules


@pytest.fixture(autouse=True)
def _only_these(monkeypatch):
    """The twins of this kernel alone."""
    monkeypatch.setattr(twins, "twins", lambda: TWINS)


SITE = Site(in_channels=8, channels=8, height=4, width=4)
HALF = Site(in_channels=8, channels=12, height=4, width=4, stride=2)

PARTS = {
    "ConvNeXt": (
        InvertedBottleneck(convolution="first", context=3, expansion=2, norm="none"),
        SITE,
        {"DepthwiseBottleneck"},
    ),
    "squeeze-excite": (
        InvertedBottleneck(expansion=2, context=3, squeeze_excite=True, activation="hardswish"),
        HALF,
        {"DepthwiseBottleneck", "DepthwiseSequence"},
    ),
    "inner shortcut": (
        InvertedBottleneck(expansion=2, context=3, inner_shortcut=True, squeeze_excite=True),
        SITE,
        set(),
    ),
    "norm behind": (
        InvertedBottleneck(expansion=2, context=3, activation_first=True),
        SITE,
        {"DepthwiseSequence"},
    ),
    "batch norm": (InvertedBottleneck(expansion=2, context=3, norm="batch-1e-3"), SITE, set()),
    "convolution": (
        Convolution(context=5, norm="layer", activation="silu", expansion=0),
        SITE,
        {"DepthwiseBranch"},
    ),
    "downsampling": (LocalDsm(norm="layer"), HALF, {"DepthwiseSequence"}),
    "attention": (
        Attention(kv_reduction=2, norm="layer", head_dim=4, expansion=0),
        SITE,
        {"DepthwiseNorm"},
    ),
}


def randomised(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


@pytest.mark.parametrize("name", PARTS)
def test_operators(name):
    part, site, expected = PARTS[name]
    torch.manual_seed(0)
    plain = randomised(part.build(site))
    ours = part.build(site)
    ours.load_state_dict(plain.state_dict())
    twins.accelerate(ours)
    used = {type(layer).__name__ for layer in ours.modules()} & {t.__name__ for t in TWINS.values()}
    assert used == expected | {"Depthwise"}
    inputs = torch.randn(2, site.in_channels, site.height, site.width)
    results = []
    for module in (ours, plain):
        x = inputs.clone().requires_grad_()
        y = module(x)
        tensors = (x, *module.parameters())
        results.append((y, *torch.autograd.grad(y.square().sum(), tensors)))
    assert error(results[0][0], results[1][0]) < 1e-5
    assert max(t.norm() for t in results[1]) > 0
    for one, other in zip(*results, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm() + 1e-4


def test_operator_with_slices_of_weights():
    """As the supernet runs it: leading channels, and the middle of the filter."""
    torch.manual_seed(0)
    part = InvertedBottleneck(expansion=2, context=3, squeeze_excite=True)
    small = part.build(SITE)
    large = InvertedBottleneck(expansion=4, context=7, squeeze_excite=True)
    weights = dict(randomised(large.build(SITE)).named_parameters())

    def cut(name, shape):
        weight = weights[name]
        for axis, size in enumerate(shape):
            start = (weight.shape[axis] - size) // 2 if axis > 1 else 0
            weight = weight.narrow(axis, start, size)
        return weight

    def run(module):
        tensors = {name: cut(name, p.shape) for name, p in small.named_parameters()}
        assert not all(t.is_contiguous() for t in tensors.values())
        y = functional_call(module, tensors, (x,))
        return y, *torch.autograd.grad(y.square().sum(), list(weights.values()))

    x = torch.randn(2, 8, 4, 4)
    expected = run(small)
    found = run(twins.accelerate(small))
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm() + 1e-4


@pytest.mark.parametrize("kernel", [2, 4, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_padded_convolution(kernel, stride):
    plain = PaddedConvolution(6, 6, kernel, stride, groups=6)
    ours = PaddedConvolution(6, 6, kernel, stride, groups=6)
    ours.load_state_dict(plain.state_dict())
    assert type(twins.accelerate(ours)) is PaddedDepthwise
    inputs = torch.randn(1, 6, 5, 4)
    found, expected = [], []
    for module, results in ((ours, found), (plain, expected)):
        x = inputs.clone().requires_grad_()
        y = module(x)
        results += [y, *torch.autograd.grad(y.square().sum(), (x, module.weight, module.bias))]
    for one, other in zip(found, expected, strict=True):
        assert error(one, other) < 1e-5


def test_autocast():
    plain = ConvolutionNorm(nn.Conv2d(8, 8, 3, padding=1, groups=8), LayerNorm2d(8), nn.GELU())
    x = torch.randn(1, 8, 5, 5)
    expected = plain(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = twins.accelerate(plain)(x)
    assert found.dtype == torch.bfloat16
    assert error(found, expected) < 2e-2
    found.float().square().sum().backward()
    assert plain.convolution.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("x", [torch.randn(4, 5, 5), torch.randn(1, 4, 5, 5, dtype=torch.float64)])
def test_inputs_that_the_kernel_does_not_take(x):
    plain = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.GELU()).to(x.dtype)
    expected = plain(x)
    torch.testing.assert_close(twins.accelerate(plain)(x), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": 4},
        {"out_channels": 16},
        {"kernel_size": 15},
        {"kernel_size": 1},
        {"kernel_size": (3, 5)},
        {"stride": 4},
        {"dilation": 4},
        {"padding": "same"},
        {"padding": (1, 0)},
        {"padding": 1, "padding_mode": "reflect"},
    ],
    ids=str,
)
def test_convolutions_left_alone(changes):
    form = {"in_channels": 8, "out_channels": 8, "kernel_size": 3, "groups": 8}
    assert Depthwise.serves(nn.Conv2d(**form))
    assert not Depthwise.serves(nn.Conv2d(**{**form, **changes}))


def test_wide_norms_are_left_alone():
    layers = nn.Sequential(nn.Conv2d(520, 520, 3, groups=520), LayerNorm2d(520), nn.GELU())
    assert type(twins.accelerate(layers)) is nn.Sequential
    assert type(layers[0]) is Depthwise
    gate = SqueezeExcite(8, 8)
    assert type(twins.accelerate(gate)) is SqueezeExcite
