"""Properties of every registered part, at every gene value, held against traces of its module."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from space.genes import Part, Site, part_from_json, part_to_json
from space.slicing import Cut, describe

aten = torch.ops.aten
PRODUCTS = (aten.convolution, aten.mm, aten.addmm, aten.bmm, aten.baddbmm)


class ProductTrace(TorchDispatchMode):
    """Numbers written by convolutions and matrix products, and numbers read by them.

    Biases (1-D arguments) are left out of `read`, since some products add theirs afterwards; a
    padded map is read as it was before the padding.
    """

    def __init__(self):
        super().__init__()
        self.read = self.written = 0
        self.unpadded: dict[int, int] = {}
        self.kept: list[Tensor] = []  # so that no two tensors share an id

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        packet = function.overloadpacket
        if packet is aten.constant_pad_nd:
            self.unpadded[id(out)] = args[0].numel()
            self.kept.append(out)
        if packet in PRODUCTS:
            inputs = [a for a in args if isinstance(a, Tensor) and a.dim() > 1]
            self.read += sum(self.unpadded.get(id(a), a.numel()) for a in inputs)
            self.written += out.numel()
        return out


def image(site: Site, images: int = 1, **options) -> Tensor:
    return torch.randn(images, site.in_channels, site.height, site.width, **options)


def output_shape(part: Part, site: Site, images: int) -> tuple[int, ...]:
    if part.category == "head":
        return (images, site.channels)
    height, width = -(-site.height // site.stride), -(-site.width // site.stride)
    return (images, site.channels, height, width)


def test_cost_equals_a_trace_on_meta(placed_part):
    part, site = placed_part
    with torch.device("meta"):
        module = part.build(site).eval()
        with FlopCounterMode(display=False) as counter, ProductTrace() as trace:
            y = module(image(site))
    cost = part.cost(site)
    assert all(p.is_meta for p in [*module.parameters(), *module.buffers()])
    assert y.shape == output_shape(part, site, 1)
    assert cost.params == sum(p.numel() for p in module.parameters())
    assert 2 * cost.macs == counter.get_total_flops()
    assert cost.activations == trace.written
    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    biases = sum(m.bias.numel() for m in layers if m.bias is not None)
    assert cost.bytes_moved == 4 * (trace.read + trace.written + biases)


def attention_by_products(q, k, v, attn_mask=None):
    """softmax(q k^T / sqrt(d) + mask) v, in products that fvcore counts."""
    scores = torch.matmul(q, k.transpose(-2, -1)) / q.shape[-1] ** 0.5
    scores = scores if attn_mask is None else scores + attn_mask
    return torch.matmul(scores.softmax(-1), v)


def test_macs_equal_those_of_fvcore(placed_default, monkeypatch):
    part, site = placed_default
    fvcore = pytest.importorskip("fvcore.nn")
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention_by_products)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analysis = fvcore.FlopCountAnalysis(part.build(site).eval(), image(site))
        analysis.unsupported_ops_warnings(False).tracer_warnings("none")
        counts = analysis.by_operator()
    products = ("conv", "linear", "matmul", "bmm", "addmm", "einsum")
    assert sum(counts[name] for name in products) == part.cost(site).macs


def test_every_parameter_learns_and_nothing_is_nan(placed_part, randomise):
    part, site = placed_part
    module = randomise(part.build(site))
    y = module(image(site, 2))
    assert y.shape == output_shape(part, site, 2)
    assert y.isfinite().all()
    (y * torch.randn_like(y)).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_fresh_module_is_finite(placed_part):
    part, site = placed_part
    module = part.build(site)
    assert all(p.isfinite().all() for p in module.parameters())
    assert module(image(site, 2)).isfinite().all()


def test_images_do_not_affect_one_another(placed_part, randomise):
    part, site = placed_part
    module = randomise(part.build(site))
    x = image(site, 3)
    with torch.no_grad():
        together = module(x)
        alone = torch.cat([module(x[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
        x[1] = torch.randn_like(x[1])
        changed = module(x)
    torch.testing.assert_close(changed[::2], together[::2], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(changed[1], together[1], atol=1e-3)


def test_memory_format_does_not_change_the_result(placed_default, randomise):
    part, site = placed_default
    module, x = randomise(part.build(site)), image(site, 2)
    with torch.no_grad():
        y, last = module(x), module(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(y, last, atol=1e-4, rtol=1e-4)


def test_json_round_trip(placed_part):
    part, _ = placed_part
    assert part_from_json(part.category, part_to_json(part)) == part


def smaller(part: Part, site: Site) -> Site:
    """A site of fewer channels and a smaller map."""
    inputs = site.in_channels if part.category == "stem" else site.in_channels - 4
    outputs = site.channels if part.category in ("stem", "head") else site.channels - 4
    if part.category == "stem":
        return Site(inputs, outputs, site.height, site.width, site.stride)
    return Site(inputs, outputs, site.height - 2, site.width - 1, site.stride)


def axes_at(part: Part, site: Site):
    with torch.device("meta"):
        module = part.build(site)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    return module, describe(shapes, part.axes(site))


def test_a_slice_of_larger_parameters_runs_as_the_standalone_module(placed_part, randomise):
    """The larger parameters are the union of this setting with the default at a larger site."""
    part, site = placed_part
    small_site = smaller(part, site)
    small, small_axes = axes_at(part, small_site)
    _, large_axes = axes_at(type(part)(), site)
    _, own_large_axes = axes_at(part, site)
    cut_out = {}
    for name, axes in small_axes.items():
        union = axes
        for other in (own_large_axes, large_axes):
            if name in other:
                union = tuple(a.union(b) for a, b in zip(union, other[name], strict=True))
        whole = 0.3 * torch.randn(tuple(axis.size for axis in union))
        cut_out[name] = Cut.between(axes, union)(whole)

    standalone = randomise(part.build(small_site))
    standalone.load_state_dict(cut_out, strict=False)
    x = image(small_site, 2)
    with torch.no_grad():
        expected = standalone(x)
        sliced = functional_call(small.eval(), {**dict(standalone.named_buffers()), **cut_out}, x)
    torch.testing.assert_close(sliced, expected, atol=1e-5, rtol=1e-5)
    assert set(cut_out) == {name for name, _ in standalone.named_parameters()}


@pytest.mark.parametrize(
    ("genes", "owner"),
    [
        ({"kind": "token_mlp"}, "token weights are"),
        ({"kind": "global_attention", "position": "relative"}, "position table is"),
    ],
)
def test_parts_made_for_one_map_refuse_another(genes, owner):
    module = part_from_json("operator", genes).build(Site(8, 8, 4, 6))
    with pytest.raises(ValueError, match=f"the {owner} for a map of 4x6, not of 6x4"):
        module(torch.randn(1, 8, 6, 4))


@pytest.mark.parametrize("kind", ["convnext", "window_attention", "focal_modulation"])
def test_other_operators_run_on_any_map(kind):
    module = part_from_json("operator", {"kind": kind}).build(Site(8, 8, 8, 8))
    assert module(torch.randn(1, 8, 11, 5)).shape == (1, 8, 11, 5)


WIDTH_KEEPERS = ("convnext", "focal_modulation", "global_attention", "token_mlp")


@pytest.mark.parametrize("kind", [*WIDTH_KEEPERS, "window_attention"])
def test_operators_that_keep_their_width_say_so(kind):
    part = part_from_json("operator", {"kind": kind})
    with pytest.raises(ValueError, match=f"{kind} keeps its width, but 8 channels come in and 16"):
        part.build(Site(8, 16, 4, 4))
    with pytest.raises(ValueError, match="the stride is 2"):
        part.build(Site(8, 8, 4, 4, 2))
