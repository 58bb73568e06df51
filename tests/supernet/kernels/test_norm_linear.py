"""The kernels of linear layers with what stands around them, against their definitions, these
against the functions of PyTorch, and the twins against the modules."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("triton")

from space.genes import Site, part_from_json
from space.layers import Residual
from supernet.kernels import norm_linear as kernels
from supernet.kernels import norm_linear_mlp, norm_linear_twins
from supernet.kernels.norm_linear import (
    linear_residual,
    linear_residual_reference,
    norm_linear,
    norm_linear_reference,
)
from supernet.kernels.norm_linear_mlp import mlp, mlp_reference
from supernet.kernels.twins import accelerate

# Of relative norms. The interpreter truncates to bfloat16, up to three times on the way to a
# result, and plain PyTorch rounds each step on the way to a gradient.
BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 1.2e-2}
GRADIENT_BOUNDS = {torch.float32: 5e-6, torch.bfloat16: 2.5e-2}
OPERATORS = {
    "norm_linear": (norm_linear, norm_linear_reference),
    "linear_residual": (linear_residual, linear_residual_reference),
    "mlp": (mlp, mlp_reference),
}
USUAL = {"channels": 24, "inner": 40, "outputs": 24, "side": (3, 5), "count": 2}


def last(x):
    """Stored channels last, also where sides of 1 would let it pass for that."""
    return x.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)


def arguments(
    name, dtype=torch.float32, activation="gelu", eps=1e-5, *, channels, inner, outputs, side,
    count, bare=False, wide_map=None, seed=0,
):  # fmt: skip
    """Of an operator: maps and weights of `dtype` (maps of `wide_map`, if given), the rest float32;
    weights are slices of larger ones, leaves all the same. `bare` leaves out all that may be."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, around=0.0, std=1.0):
        return around + std * torch.randn(shape, generator=generator)

    def a_map(width):
        return last(normal(count, width, *side, around=0.3).to(wide_map or dtype))

    def weight(rows, columns):
        large = normal(rows + 8, columns + 8, std=columns**-0.5).to(dtype)
        return large[:rows, :columns].detach()

    def maybe(x):
        return None if bare else x

    x, residual = a_map(inner if name == "linear_residual" else channels), a_map(outputs)
    norm = (maybe(normal(channels, around=1, std=0.5)), maybe(normal(channels)))
    expand = (weight(inner, channels), maybe(normal(inner)))
    project = (weight(outputs, inner), maybe(normal(outputs)))
    factor = maybe(torch.rand(count, inner, generator=generator))
    scale, residual = maybe(normal(outputs)), maybe(residual)
    given = {
        "norm_linear": (x, *norm, *expand, eps, activation),
        "linear_residual": (x, *project, factor, scale, residual),
        "mlp": (x, *norm, *expand, *project, scale, residual, eps, activation),
    }[name]
    return tuple(x.requires_grad_() if isinstance(x, torch.Tensor) else x for x in given)


def in_float64(given):
    return tuple(
        x.detach().double().requires_grad_() if isinstance(x, torch.Tensor) else x for x in given
    )


def error(found, expected):
    """Relative, by the norm."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-300))


def compare(name, given, dtype, kind=None):
    """Result and gradients of an operator against autograd through its definition in float64."""
    operator, reference = OPERATORS[name]
    precise = in_float64(given)
    y, expected = operator(*given), reference(*precise)
    assert y.dtype == (kind or dtype)
    assert y.shape == expected.shape
    assert y.stride() == last(y).stride()
    assert error(y, expected) < BOUNDS[dtype]
    torch.manual_seed(1)
    dy = torch.randn(y.shape).to(y.dtype)
    tensors = [x for x in given if isinstance(x, torch.Tensor)]
    found = torch.autograd.grad(y, tensors, dy)
    leaves = [x for x in precise if isinstance(x, torch.Tensor)]
    gradients = torch.autograd.grad(expected, leaves, dy.double())
    for place, (x, ours, theirs) in enumerate(zip(tensors, found, gradients, strict=True)):
        assert (ours.dtype, ours.shape) == (x.dtype, x.shape)
        off = error(ours, theirs)
        assert off < GRADIENT_BOUNDS[dtype], f"gradient {place} of {name}: {off}"


# ---- the definitions


@pytest.mark.parametrize("activation", kernels.ACTIVATIONS)
@pytest.mark.parametrize("eps", [None, 1e-3])
def test_definitions_equal_the_functions_of_pytorch(activation, eps):
    behind = {
        "none": lambda x: x,
        "relu": F.relu,
        "gelu": F.gelu,
        "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
    }[activation]
    given = in_float64(arguments("mlp", activation=activation, eps=eps, **USUAL))
    x, norm_weight, norm_bias, expand, expand_bias, project, project_bias, scale, residual = given[
        :-2
    ]
    y = x.movedim(1, -1)
    if eps is not None:
        y = F.layer_norm(y, (24,), norm_weight, norm_bias, eps)
    hidden = behind(F.linear(y, expand, expand_bias)).movedim(-1, 1)
    found = norm_linear_reference(*given[:5], eps, activation)
    torch.testing.assert_close(found, hidden)
    factor = torch.rand(2, 40).double()
    gated = (hidden * factor[:, :, None, None]).movedim(1, -1)
    y = residual + scale[:, None, None] * F.linear(gated, project, project_bias).movedim(-1, 1)
    found = linear_residual_reference(hidden, project, project_bias, factor, scale, residual)
    torch.testing.assert_close(found, y)
    y = F.linear(hidden.movedim(1, -1), project, project_bias).movedim(-1, 1)
    torch.testing.assert_close(mlp_reference(*given), residual + scale[:, None, None] * y)


def test_unknown_activation():
    given = arguments("norm_linear", activation="tanh", **USUAL)
    for function in (norm_linear, norm_linear_reference):
        with pytest.raises(ValueError, match=r"'tanh'.*'gelu'"):
            function(*given)


# ---- the kernels


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_equals_its_definition(name, dtype):
    compare(name, arguments(name, dtype, **USUAL), dtype)


@pytest.mark.parametrize("activation", kernels.ACTIVATIONS)
@pytest.mark.parametrize("name", ["norm_linear", "mlp"])
def test_activations(name, activation):
    dtype = torch.float32
    compare(name, arguments(name, dtype, activation, **USUAL), dtype)


@pytest.mark.parametrize("activation", kernels.ACTIVATIONS)
def test_activations_of_extreme_numbers(activation):
    numbers = [-50.0, -20.0, -6.0, -1e-3, 0.0, 1e-3, 6.0, 50.0, 1e30, float("nan")]
    x = torch.tensor(numbers)[:, None, None, None]
    y = norm_linear(x, None, None, torch.ones(1, 1), None, None, activation)
    expected = kernels.activated(x.double(), activation).float()
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(
    "size",
    [
        {"channels": 7, "inner": 19, "outputs": 3, "side": (5, 7), "count": 3},
        {"channels": 48, "inner": 24, "outputs": 40, "side": (6, 6), "count": 1},
        {"channels": 16, "inner": 72, "outputs": 104, "side": (1, 3), "count": 2},
    ],
    ids=str,
)
def test_other_sizes(name, size):
    compare(name, arguments(name, **size), torch.float32)


@pytest.mark.parametrize("name", OPERATORS)
def test_one_number(name):
    """Without a norm, which makes all single numbers the same."""
    size = {"channels": 1, "inner": 1, "outputs": 1, "side": (1, 1), "count": 1}
    compare(name, arguments(name, bare=True, eps=None, **size), torch.float32)


@pytest.mark.parametrize("name", OPERATORS)
def test_only_what_must_be_given(name):
    compare(name, arguments(name, bare=True, eps=None, **USUAL), torch.float32)
    compare(name, arguments(name, bare=True, **USUAL), torch.float32)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_wider_maps_take_two_kernels(dtype, monkeypatch):
    monkeypatch.setattr(norm_linear_mlp, "run_mlp", None)
    monkeypatch.setattr(norm_linear_mlp, "MOST_FUSED", 16)
    compare("mlp", arguments("mlp", dtype, **USUAL), dtype)


def test_programs_share_the_output_channels(monkeypatch):
    """As many rows as need two programs, whose outputs take several steps each."""
    size = {"channels": 8, "inner": 136, "outputs": 8, "side": (6, 7), "count": 1}
    monkeypatch.setattr(kernels, "PROGRAMS", 4)
    compare("norm_linear", arguments("norm_linear", **size), torch.float32)


@pytest.mark.parametrize("name", OPERATORS)
def test_maps_more_precise_than_the_products(name):
    """A float32 residual stream beside products of bfloat16 stays in float32."""
    given = arguments(name, torch.bfloat16, wide_map=torch.float32, **USUAL)
    kind = torch.bfloat16 if name == "norm_linear" else torch.float32
    compare(name, given, torch.bfloat16, kind)


@pytest.mark.parametrize("name", OPERATORS)
def test_maps_and_weights_stored_otherwise(name):
    given = arguments(name, **USUAL)
    expected = OPERATORS[name][0](*given)
    changed = [
        x.detach().contiguous() if torch.is_tensor(x) and x.dim() == 4
        # Transposed, every other number of a row, or from an odd place on.
        else x.detach().mT.contiguous().mT if torch.is_tensor(x) and x.dim() == 2
        else x.detach().repeat_interleave(2)[::2] if torch.is_tensor(x)
        else x
        for x in given
    ]  # fmt: skip
    y = OPERATORS[name][0](*changed)
    torch.testing.assert_close(y, expected)
    assert y.stride() == expected.stride()
    shifted = [
        F.pad(x.detach(), (3, 5))[:, 3:-5] if torch.is_tensor(x) and x.dim() == 2 else x
        for x in given
    ]
    torch.testing.assert_close(OPERATORS[name][0](*shifted), expected)


def test_what_a_slice_does_not_use_gets_no_gradient():
    x, norm_weight, norm_bias, _, bias, eps, activation = arguments("norm_linear", **USUAL)
    large = torch.randn(48, 32, requires_grad=True)
    y = norm_linear(x, norm_weight, norm_bias, large[:40, :24], bias, eps, activation)
    (gradient,) = torch.autograd.grad(y.square().sum(), large)
    assert gradient[:40, :24].count_nonzero() == 40 * 24
    assert gradient.count_nonzero() == 40 * 24


@pytest.mark.parametrize("name", OPERATORS)
def test_no_image(name):
    given = arguments(name, **{**USUAL, "count": 0})
    y = OPERATORS[name][0](*given)
    assert y.shape == OPERATORS[name][1](*given).shape
    assert len(y) == 0
    y.sum().backward()
    assert given[0].grad.shape == given[0].shape


def test_too_wide():
    given = arguments("norm_linear", **{**USUAL, "channels": 264})
    with pytest.raises(ValueError, match="at most 256 channels, not 264"):
        norm_linear(*given)


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (1, (16, 0)),
        (17, (32, 0)),
        (40, (32, 16)),
        (96, (64, 32)),
        (128, (128, 0)),
        (192, (128, 64)),
    ],
)
def test_parts(channels, expected):
    assert kernels.parts_of(channels) == expected


@pytest.mark.parametrize("name", OPERATORS)
def test_what_pytorch_asks_of_an_operator(name):
    size = {"channels": 8, "inner": 16, "outputs": 8, "side": (2, 3), "count": 2}
    torch.library.opcheck(OPERATORS[name][0], arguments(name, **size))


def test_flops():
    with FlopCounterMode(display=False) as counter:
        norm_linear(*arguments("norm_linear", **USUAL))
        linear_residual(*arguments("linear_residual", **USUAL))
    assert counter.get_total_flops() == 2 * (2 * 30 * 24 * 40)
    with FlopCounterMode(display=False) as counter:
        mlp(*arguments("mlp", **USUAL))
    assert counter.get_total_flops() == 2 * 2 * 30 * 24 * 40


# ---- the twins

BLOCKS = {
    "mlp": {"context": 0, "norm": "none", "bias": "all", "layer_scale": 0.1},
    "mlp without a norm": {"context": 0, "norm": "none", "bias": "all", "first_norm": "none"},
    "mlp behind a norm of batches": {
        "context": 0, "norm": "none", "bias": "all", "first_norm": "batch",
    },
    "ConvNeXt": {
        "context": 3, "convolution": "first", "norm": "none", "bias": "all", "layer_scale": 0.1,
    },
    "MBConv": {"squeeze_excite": True, "first_norm": "layer", "norm": "none"},
    "norm in the middle": {"first_norm": "layer", "norm": "layer", "layer_scale": 0.1},
    "norm at the end": {"norm": "none", "last_norm": "layer"},
    "gate without a depthwise convolution": {"context": 0, "norm": "none", "squeeze_excite": True},
}  # fmt: skip
KERNELS = ("norm_linear", "linear_residual", "mlp")


def built(genes, channels=16, outputs=16, **settings):
    genes = {"expansion": 2, **genes, **settings}
    torch.manual_seed(2)
    module = part_from_json("operator", {"kind": "inverted_bottleneck", **genes}).build(
        Site(channels, outputs, 4, 3)
    )
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0.3, 0.4)
    return module.train()


def run(module, x, dy, weights=None, **autocast):
    """Result and gradients; autocast to bfloat16 unless told otherwise."""
    weights = weights or dict(module.named_parameters())
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, **autocast):
        y = functional_call(module, weights, (x,))
    leaves = [x, *weights.values()]
    return y, torch.autograd.grad(y, leaves, dy.to(y.dtype), allow_unused=True)


@pytest.fixture
def calls(monkeypatch):
    """Names of the operators that the twins call."""
    made = []
    for name in KERNELS:
        operator = getattr(norm_linear_twins, name)

        def called(*given, name=name, operator=operator):
            made.append(name)
            return operator(*given)

        monkeypatch.setattr(norm_linear_twins, name, called)
    return made


def close(found, plain, precise):
    """Whether results and gradients are about as far from those of float64 as plain ones are."""
    for place, (ours, theirs, exact) in enumerate(zip(found, plain, precise, strict=True)):
        off, allowed = error(ours, exact), error(theirs, exact)
        assert off < 1.5 * allowed + 1e-2, f"{place}: {off}, where plain PyTorch has {allowed}"


@pytest.mark.parametrize("name", BLOCKS)
def test_twin_equals_the_module(name, calls):
    module = built(BLOCKS[name])
    x, dy = last(torch.randn(2, 16, 4, 3)), torch.randn(2, 16, 4, 3)
    y, gradients = run(module, x, dy)
    precise, wanted = run(built(BLOCKS[name]).double(), x.double(), dy.double(), enabled=False)
    assert type(accelerate(module)) is norm_linear_twins.FusedResidual or name.endswith("batches")
    found, ours = run(module, x, dy)
    close([found, *ours], [y, *gradients], [precise, *wanted])
    assert calls == {
        "MBConv": ["norm_linear", "linear_residual"],
        "norm in the middle": ["norm_linear", "linear_residual"],
        "norm at the end": ["norm_linear", "linear_residual"],
        "gate without a depthwise convolution": ["norm_linear", "linear_residual"],
    }.get(name, ["mlp"])


@pytest.mark.parametrize("name", ["mlp", "MBConv"])
def test_twin_where_the_width_changes(name, calls):
    module = built(BLOCKS[name], 16, 24)
    x, dy = last(torch.randn(2, 16, 4, 3)), torch.randn(2, 24, 4, 3)
    y, gradients = run(module, x, dy)
    precise, wanted = run(
        built(BLOCKS[name], 16, 24).double(), x.double(), dy.double(), enabled=False
    )
    found, ours = run(accelerate(module), x, dy)
    close([found, *ours], [y, *gradients], [precise, *wanted])
    assert calls


@pytest.mark.parametrize("name", ["mlp", "ConvNeXt", "MBConv"])
def test_twin_reads_slices_of_larger_weights(name, calls):
    """As a supernet runs it, without autocast: the weights are read where they lie."""
    module = accelerate(built(BLOCKS[name]).bfloat16())
    large = {
        key: torch.randn([size + 8 for size in p.shape]).mul(0.2).bfloat16().requires_grad_()
        for key, p in module.named_parameters()
    }

    def slices(dtype):
        parts = {}
        for key, p in module.named_parameters():
            part = large[key]
            for axis, size in enumerate(p.shape):
                part = part.narrow(axis, 0, size)
            parts[key] = part.to(dtype)
        return parts

    x, dy = last(torch.randn(2, 16, 4, 3)), torch.randn(2, 16, 4, 3)
    plain = built(BLOCKS[name])
    y = functional_call(plain.double(), slices(torch.float64), (x.bfloat16().double(),))
    wanted = torch.autograd.grad(y, list(large.values()), dy.double())
    found = functional_call(module, slices(torch.bfloat16), (x.bfloat16(),))
    assert calls
    assert found.dtype == torch.bfloat16
    assert error(found, y) < 2e-2
    for gradient, exact in zip(
        torch.autograd.grad(found, list(large.values()), dy.bfloat16()), wanted, strict=True
    ):
        assert error(gradient, exact) < 4e-2


@pytest.mark.parametrize("name", BLOCKS)
def test_products_of_float32_stay_with_pytorch(name, calls):
    module = built(BLOCKS[name])
    x = torch.randn(2, 16, 4, 3)
    expected = module(x)
    torch.testing.assert_close(accelerate(module)(x), expected)
    assert not calls


def test_widths_that_the_kernels_read_slowly_stay_with_pytorch(calls):
    module = built(BLOCKS["mlp"], 12, 12)
    x = last(torch.randn(2, 12, 4, 3))
    with torch.autocast("cpu", torch.bfloat16):
        expected = module(x)
        torch.testing.assert_close(accelerate(module)(x), expected)
    assert not calls


@pytest.mark.parametrize(
    "genes",
    [
        {"first_norm": "group"},
        {"activation": "hardswish"},
        {"expansion": 1, "context": 3, "norm": "layer"},
    ],
    ids=str,
)
def test_what_has_no_twin_or_half_of_one(genes, calls):
    """Whatever is served, the result is that of the module."""
    genes = {"context": 0, "norm": "none", "bias": "all", **genes}
    module = built(genes)
    x, dy = last(torch.randn(2, 16, 4, 3)), torch.randn(2, 16, 4, 3)
    y, gradients = run(module, x, dy)
    precise, wanted = run(built(genes).double(), x.double(), dy.double(), enabled=False)
    found, ours = run(accelerate(module), x, dy)
    close([found, *ours], [y, *gradients], [precise, *wanted])
    served = {"group": ["mlp"], "hardswish": []}
    first = genes.get("first_norm", genes.get("activation"))
    assert calls == served.get(first, ["linear_residual"])


def test_wide_maps_are_not_served():
    module = built(BLOCKS["mlp"], 264, 264)
    assert isinstance(module, Residual)
    assert not norm_linear_twins.FusedResidual.serves(module)
    assert norm_linear_twins.FusedResidual.serves(built(BLOCKS["mlp"], 256, 256))
