"""What several scores ask of a network: its activations' signs, its layers, its parts in a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from space.network import Network
from space.settings import ACTIVATIONS

ACTIVATION_LAYERS = tuple(ACTIVATIONS.values())
NORM_LAYERS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)

Flow = Tensor | tuple[Tensor, ...]


def watch_signs(network: nn.Module, images: Tensor, take: Callable[[Tensor], object]) -> None:
    """Calls `take` with the signs (N, units) of what goes into each activation, once per call of
    it, for N images in training mode (BatchNorm has the statistics of the batch).

    A sign is True where the input is above zero: there ReLU lets it pass, and the outputs of the
    others of `space.settings.ACTIVATIONS` (GELU, SiLU, Hardswish, ...) are above zero too, and
    nowhere else. Gates (sigmoid) and softmax have no such sign and are left out, as is what does
    not depend on the images. RuntimeError where the network's outputs are not finite.
    """
    count = images.shape[0]

    def signs(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if x.shape[0] % count == 0:  # pieces of a map stand image by image
            take((x > 0).reshape(count, -1))

    for layer in network.modules():
        if isinstance(layer, ACTIVATION_LAYERS):
            layer.register_forward_pre_hook(signs)
    with torch.no_grad():
        logits = network.train()(images)
    if not logits.isfinite().all():  # a comparison would hide it
        raise RuntimeError("the network's outputs are not finite")


def weight_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Convolutions and linear layers by name, `space.layers.Pointwise` among them. What operators
    learn besides (position tables, learned queries, spectral filters, factors) is no layer."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, _ConvNd | nn.Linear)
    }


def gradients(loss: Tensor, layers: Iterable[nn.Module]) -> list[Tensor]:
    """Of each layer's weight; zeros where `loss` does not depend on it."""
    weights = [layer.get_parameter("weight") for layer in layers]
    if not weights or not loss.requires_grad:
        return [torch.zeros_like(weight) for weight in weights]
    return list(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))


def chain(network: nn.Module) -> list[nn.Module]:
    """Modules that one after the other are the network: stem, downsampling modules, operators and
    head of a `Network`, the members of a `Sequential`, or the network itself; without what does
    nothing (`Identity`)."""
    if isinstance(network, Network):
        parts = [network.stem]
        for stage in network.stages:
            parts += [stage.get_submodule("downsample"), *stage.get_submodule("blocks").children()]
        parts.append(network.head)
    elif isinstance(network, nn.Sequential):
        parts = list(network)
    else:
        parts = [network]
    return [part for part in parts if not isinstance(part, nn.Identity)]


def map_of(x: Flow) -> Tensor:
    """The map, where something travels beside it."""
    return x[0] if isinstance(x, tuple) else x


def each(x: Flow, change: Callable[[Tensor], Tensor]) -> Flow:
    """`change` of the map and of what travels beside it."""
    return tuple(change(y) for y in x) if isinstance(x, tuple) else change(x)


def replace_forward(
    network: nn.Module, kinds: tuple[type[nn.Module], ...], forward: Callable[..., Any]
) -> None:
    """`forward(layer, x)` in place of what the layers of these kinds do."""
    for layer in network.modules():
        if isinstance(layer, kinds):
            setattr(layer, "forward", forward.__get__(layer))  # noqa: B010


def matrix_norm(matrix: Tensor, order: float | str) -> float:
    """As `torch.linalg.matrix_norm`, but NaN where a value is not finite, and no error."""
    if not matrix.isfinite().all():
        return math.nan
    return float(torch.linalg.matrix_norm(matrix, order))


def make_absolute(network: nn.Module) -> None:
    """Every parameter becomes its absolute value."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
