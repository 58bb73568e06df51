"""The reversible backward pass of RevCol's columns: the gradients of the plain one, without the
inner activations."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from naive_layers import noise, randomised
from torch import nn

from space.genes import Flow, Site
from space.operators.column import Column, ColumnOperator, set_reversible

COLUMNS = 7
KEPT = (3, 6)  # every fourth and the last one
STATE = Flow("columns", 3)


def network(last: bool = True) -> nn.Sequential:
    part = ColumnOperator(depths=((1,), (2,), (1,)), layer_scale=0.1)
    sites = [Site(4, 4, 9, 6), *[Site(4, 4, 9, 6, flow=STATE)] * (COLUMNS - 1)]
    if last:
        sites[-1] = Site(4, 16, 9, 6, 4, STATE)
    made, _ = randomised(nn.Sequential(*(part.build(site) for site in sites)))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("alpha"):
                parameter.copy_(0.5 + 0.3 * torch.rand_like(parameter))
    return made.train()


def gradients(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor | None]:
    x = x.clone().requires_grad_()
    model.zero_grad()
    y = model(x)
    maps = y if isinstance(y, tuple) else (y,)
    sum((t * noise(*t.shape, seed=i)).sum() for i, t in enumerate(maps)).backward()
    return {"input": x.grad, **{name: p.grad for name, p in model.named_parameters()}}


@pytest.mark.parametrize("last", [True, False], ids=["one map", "all maps"])
def test_gradients_are_those_of_the_plain_path(last):
    plain, x = network(last), noise(2, 4, 9, 6)
    reversible = copy.deepcopy(plain)
    set_reversible(reversible)
    wanted, found = gradients(plain, x), gradients(reversible, x)
    unused = {f"0.levels.{i}.alpha" for i in range(3)}  # the first column has no alpha term
    assert {name for name, g in wanted.items() if g is None} == unused
    assert {name for name, g in found.items() if g is None} == unused
    for name in wanted.keys() - unused:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-9), name


def test_gradients_with_frozen_parameters_and_from_maps_on_the_way():
    plain, x = network(), noise(2, 4, 9, 6)
    plain[2].levels[1].requires_grad_(False)
    reversible = copy.deepcopy(plain)
    set_reversible(reversible)
    found = []
    for model in (plain, reversible):
        state, loss = x, 0.0
        for column in model:
            state = column(state)
            loss = loss + state[-1].square().sum()  # as heads on every column would
        loss.backward()
        found.append([p.grad for p in model.parameters()])
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


def kept_maps(model: nn.Module, x: torch.Tensor) -> tuple[list[bool], list[bool], torch.Tensor]:
    """Which outputs of columns, and of blocks inside them, live on after the forward pass."""
    outer: list[weakref.ref] = []
    inner: list[weakref.ref] = []

    def watch(refs, tensors):
        refs += [weakref.ref(t) for t in tensors]

    for module in model.modules():
        if isinstance(module, Column):
            module.register_forward_hook(
                lambda _m, _x, y: watch(outer, y[1:] if isinstance(y, tuple) else (y,))
            )
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda _m, _x, y: watch(inner, (y,)))
    y = model(x.clone().requires_grad_())
    return [r() is not None for r in outer], [r() is not None for r in inner], y


def test_only_few_maps_are_kept():
    model, x = network(), noise(2, 4, 9, 6)
    outer, inner, y = kept_maps(model, x)
    assert sum(inner) > len(inner) / 3  # the plain path keeps what its backward pass reads
    set_reversible(model)
    outer, inner, y = kept_maps(model, x)
    assert not any(inner)
    assert outer == [False] * (3 * (COLUMNS - 1)) + [True]  # of the kept ones there are aliases
    node, kept = y.grad_fn, {}
    for place in reversed(range(COLUMNS)):
        kept[place] = node.maps and [tuple(t.shape) for t in node.maps]
        node = node.earlier
    shapes = [(2, 4, 9, 6), (2, 8, 5, 3), (2, 16, 3, 2)]
    assert kept == {place: shapes if place in KEPT else None for place in range(COLUMNS)}


def test_saved_tensors_do_not_grow_with_the_columns():
    """Besides parameters and the image that the first column sees."""
    for on in (False, True):
        model, saved = network(), []
        set_reversible(model, on)
        own = {p.data_ptr() for p in model.parameters()}
        x = noise(2, 4, 9, 6).requires_grad_()
        own.add(x.data_ptr())

        def pack(tensor, own=own, saved=saved):
            saved.append(tensor.data_ptr() not in own)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(x)
        assert any(saved) is not on


def test_a_second_backward_pass_of_a_retained_graph():
    model = network()
    set_reversible(model)
    y = model(noise(2, 4, 9, 6)).sum()
    y.backward(retain_graph=True)
    first = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    y.backward()
    again = [p.grad for p in model.parameters() if p.grad is not None]
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_gradient_that_leaves_later_columns_out_is_refused():
    model = network(last=False)
    set_reversible(model)
    early = model[1](model[0](noise(2, 4, 9, 6)))
    model[2](early)
    with pytest.raises(RuntimeError, match="whose backward pass has not run"):
        early[1].sum().backward()


def test_rounding_in_float32_does_not_grow_with_the_columns():
    """At the start of training, with all alphas at 0.5 and layer scales of 1e-6."""
    part = ColumnOperator(depths=((1,), (1,), (1,)), layer_scale=1e-6)
    sites = [Site(8, 8, 8, 8), *[Site(8, 8, 8, 8, flow=STATE)] * 15]
    torch.manual_seed(0)
    plain = nn.Sequential(*(part.build(site) for site in sites))
    reversible = copy.deepcopy(plain)
    set_reversible(reversible)
    found = []
    for model in (plain, reversible):
        model(noise(2, 8, 8, 8).float())[-1].square().sum().backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append(torch.cat(grads))
    assert (found[1] - found[0]).norm() < 1e-4 * found[0].norm()


def test_plain_without_gradients_in_evaluation_and_when_exported():
    model, x = network(), noise(1, 4, 9, 6)
    wanted = model(x)
    set_reversible(model)
    with torch.no_grad():
        torch.testing.assert_close(model(x), wanted, rtol=0, atol=0)
    y = model.eval()(x)
    assert "ReversibleColumn" not in type(y.grad_fn).__name__
    exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), wanted)


def test_bfloat16_autocast():
    """The backward pass runs the blocks in the precision of the forward pass."""
    plain = network().float()
    reversible = copy.deepcopy(plain)
    set_reversible(reversible)
    x = noise(2, 4, 9, 6).float()
    found = []
    for model in (plain, reversible):
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x)
        y.float().square().sum().backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append(torch.cat(grads))
    assert (found[1] - found[0]).norm() < 0.05 * found[0].norm()
