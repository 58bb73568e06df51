"""Properties of every registered part, at every gene value, held against traces of its module."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from placements import (
    every_part,
    genes_of,
    inputs,
    kinds,
    maps,
    picked,
    settings,
    smaller,
    stands,
    valid_sites,
    values_of,
)
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from space.genes import Part, Site, gene_choices, kept, part_from_json, part_to_json
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


def check_output(y, part: Part, site: Site, images: int) -> None:
    """The shapes that `Site` promises, of a map and of what stands beside it."""
    if part.category == "head":
        assert y.shape == (images, site.channels)
        return
    height, width = -(-site.height // site.stride), -(-site.width // site.stride)
    given = part.gives(site)
    shapes = [(images, site.channels, height, width)]
    if given.kind == "tokens":
        shapes.append((images, site.channels, given.count, 1))
    if given.kind == "pair_bias":
        y, table = maps(y)
        assert table.shape[:3] == (images, given.count, height * width)
    assert [tuple(tensor.shape) for tensor in maps(y)] == shapes


def test_cost_equals_a_trace_on_meta(placed_part):
    part, site = placed_part
    with torch.device("meta"):
        module = part.build(site).eval()
        with FlopCounterMode(display=False) as counter, ProductTrace() as trace:
            y = module(inputs(site))
    cost = part.cost(site)
    assert all(p.is_meta for p in [*module.parameters(), *module.buffers()])
    check_output(y, part, site, 1)
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
        analysis = fvcore.FlopCountAnalysis(part.build(site).eval(), (inputs(site),))
        analysis.unsupported_ops_warnings(False).tracer_warnings("none")
        counts = analysis.by_operator()
    products = ("conv", "linear", "matmul", "bmm", "addmm", "einsum")
    assert sum(counts[name] for name in products) == part.cost(site).macs


def test_every_parameter_learns_and_nothing_is_nan(placed_part, randomise):
    part, site = placed_part
    module = part.build(site)
    for seed in range(3):  # a gate of one channel may be shut at one place
        y = randomise(module, seed)(inputs(site, 2))
        check_output(y, part, site, 2)
        assert all(t.isfinite().all() for t in maps(y))
        if list(module.parameters()):
            sum((t * torch.randn_like(t)).sum() for t in maps(y)).backward()
    for name, parameter in module.named_parameters():
        if "unused_norm" in name:
            continue  # T2T's, which its released code makes, counts and never calls
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_fresh_module_is_finite(placed_part):
    part, site = placed_part
    module = part.build(site)
    assert all(p.isfinite().all() for p in module.parameters())
    assert all(t.isfinite().all() for t in maps(module(inputs(site, 2))))


def test_images_do_not_affect_one_another(placed_part, randomise):
    part, site = placed_part
    module = randomise(part.build(site)).double()
    x = inputs(site, 3, dtype=torch.float64)
    with torch.no_grad():
        together = tuple(tensor.clone() for tensor in maps(module(x)))
        alone = [maps(module(picked(x, slice(i, i + 1)))) for i in range(3)]
        for whole, *each in zip(together, *alone, strict=True):
            torch.testing.assert_close(whole, torch.cat(each), atol=1e-9, rtol=1e-9)
        for tensor in maps(x):
            tensor[1] = torch.randn_like(tensor[1])
        changed = maps(module(x))
    for before, after in zip(together, changed, strict=True):
        torch.testing.assert_close(after[::2], before[::2], atol=1e-9, rtol=1e-9)
    assert not torch.allclose(changed[0][1], together[0][1], atol=1e-3)


def test_memory_format_does_not_change_the_result(placed_default, randomise):
    part, site = placed_default
    module, x = randomise(part.build(site)), inputs(site, 2)
    last = [tensor.contiguous(memory_format=torch.channels_last) for tensor in maps(x)]
    with torch.no_grad():
        y = maps(module(x))
        again = maps(module(tuple(last) if isinstance(x, tuple) else last[0]))
    for one, other in zip(y, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_bfloat16_autocast(placed_default, randomise):
    """Close to float32, and no layer refuses it."""
    part, site = placed_default
    module, x = randomise(part.build(site)), inputs(site, 2)
    with torch.no_grad():
        expected = maps(module(x))
        with torch.autocast("cpu", torch.bfloat16):
            found = maps(module(x))
    for one, other in zip(found, expected, strict=True):
        error = (one.float() - other).abs().mean() / other.abs().mean()
        assert error < 0.1


def test_torch_export(placed_default, randomise):
    part, site = placed_default
    module, x = randomise(part.build(site)), inputs(site, 2)
    exported = torch.export.export(module, (x,))
    with torch.no_grad():
        expected, found = maps(module(x)), maps(exported.module()(x))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_json_round_trip(placed_part):
    part, _ = placed_part
    assert part_from_json(part.category, part_to_json(part)) == part


def axes_at(part: Part, site: Site):
    with torch.device("meta"):
        module = part.build(site)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    return module, describe(shapes, part.axes(site))


def test_a_slice_of_larger_parameters_runs_as_the_standalone_module(placed_part, randomise):
    """The larger parameters are the union of this setting with the default at a larger site."""
    part, site = placed_part
    small_site = smaller(part, site)
    if small_site is None:
        pytest.skip("it stands at no smaller site")
    small, small_axes = axes_at(part, small_site)
    large_axes = axes_at(type(part)(), site)[1] if stands(type(part)(), site) else {}
    _, own_large_axes = axes_at(part, site)
    cut_out = {}
    for name, axes in small_axes.items():
        union = axes
        for other in (own_large_axes, large_axes):
            if name in other and len(other[name]) == len(axes):
                union = tuple(a.union(b) for a, b in zip(union, other[name], strict=True))
        whole = 0.3 * torch.randn(tuple(axis.size for axis in union), dtype=torch.float64)
        cut_out[name] = Cut.between(axes, union)(whole)

    standalone = randomise(part.build(small_site)).double()
    standalone.load_state_dict(cut_out, strict=False)
    x = inputs(small_site, 2, dtype=torch.float64)
    with torch.no_grad():
        expected = maps(standalone(x))
        tensors = {**dict(standalone.named_buffers()), **cut_out}
        sliced = maps(functional_call(small.eval(), tensors, (x,)))
    for one, other in zip(sliced, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)
    assert set(cut_out) == {name for name, _ in standalone.named_parameters()}


def test_every_value_of_every_gene_is_tried():
    """A value with which a part can stand nowhere would be no value."""
    tried: dict[tuple[str, str], set] = {}
    for part in every_part():
        for name, value in genes_of(part).items():
            tried.setdefault((part.kind, name), set()).add(repr(value))
    missing = [
        (kind.kind, gene, value)
        for kind in kinds()
        if any(valid_sites(part) for part in settings(kind))
        for gene, allowed in gene_choices(kind).items()
        for value in values_of(allowed)
        if repr(kept(value, allowed)) not in tried.get((kind.kind, gene), ())
    ]
    # Normalised scores of a head of one channel do not depend on it.
    assert missing == [("split_attention", "head_dim", 1)]


@pytest.mark.parametrize(
    ("genes", "owner"),
    [
        ({"kind": "token_mlp"}, "weights are"),
        ({"kind": "attention", "position": "relative"}, "table is"),
    ],
)
def test_parts_made_for_one_map_refuse_another(genes, owner):
    module = part_from_json("operator", genes).build(Site(8, 8, 4, 6))
    with pytest.raises(ValueError, match=rf"the {owner} for a map of \(4, 6\), not \(6, 4\)"):
        module(torch.randn(1, 8, 6, 4))


@pytest.mark.parametrize(
    "genes",
    [
        {"kind": "inverted_bottleneck"},
        {"kind": "attention"},
        {"kind": "attention", "region": "window", "position": "relative"},
        {"kind": "modulation"},
        {"kind": "axis_mlp"},
        {"kind": "convolution"},
    ],
    ids=lambda genes: genes["kind"] + genes.get("region", ""),
)
def test_other_operators_run_on_any_map(genes):
    module = part_from_json("operator", genes).build(Site(8, 8, 8, 8))
    assert module(torch.randn(1, 8, 11, 5)).shape == (1, 8, 11, 5)


@pytest.mark.parametrize("kind", ["token_mlp", "axis_mlp", "modulation"])
def test_operators_that_keep_their_width_say_so(kind):
    part = part_from_json("operator", {"kind": kind})
    with pytest.raises(ValueError, match=f"{kind} keeps its width, but 8 channels come in and 16"):
        part.build(Site(8, 16, 4, 4))
    with pytest.raises(ValueError, match="the stride is 2"):
        part.build(Site(8, 8, 4, 4, 2))
