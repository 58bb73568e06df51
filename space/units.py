"""Blueprints of the layers that networks are made of: the one home of each one's cost.

`pixels` are those of the map that a layer works on; a part knows them from its site.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from space import cost
from space.blueprint import Blueprint, blueprint
from space.genes import MAP, Site
from space.layers import (
    Beside,
    Block,
    DepthwisePosition,
    LayerScale,
    Mlp,
    PaddedConvolution,
    Pointwise,
    PooledShortcut,
    Residual,
    ShortcutDownsampling,
    SqueezeExcite,
)
from space.settings import ACTIVATIONS, NORMS
from space.slicing import Around, Axis


def norm(name: str, channels: int, axis: Axis | None = None) -> Blueprint | None:
    """A norm of `settings.NORMS`, None for "none"; `axis` where channels are not cut as leading."""
    if name == "none":
        return None
    module, arguments, epsilon = NORMS[name]
    axes = {} if axis is None else {"weight": (axis,), "bias": (axis,)}
    counted = cost.norm(channels)
    return blueprint(module, *arguments, channels, cost=counted, axes=axes, eps=epsilon)


def activation(name: str) -> Blueprint | None:
    """An activation of `settings.ACTIVATIONS`, None for "none"."""
    return None if name == "none" else blueprint(ACTIVATIONS[name])


def layer_scale(channels: int, start: float | None) -> Blueprint | None:
    """Factors that start at `start`; None where there are none."""
    if start is None:
        return None
    return blueprint(LayerScale, channels, start, cost=cost.parameters(channels))


def linear(
    inputs: int,
    outputs: int,
    *,
    pixels: int,
    bias: bool = True,
    input_axis: Axis | None = None,
    output_axis: Axis | None = None,
) -> Blueprint:
    """A 1x1 convolution; an axis where the channels of that side are not cut as leading ones."""
    axes: dict[str, Sequence[Axis | int]] = {}
    if input_axis is not None or output_axis is not None:
        axes["weight"] = (output_axis or outputs, input_axis or inputs)
    if bias and output_axis is not None:
        axes["bias"] = (output_axis,)
    counted = cost.linear(pixels, inputs, outputs, bias)
    without = None if bias else False
    return blueprint(Pointwise, inputs, outputs, cost=counted, axes=axes, bias=without)


def convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    pixels: int,
    stride: int = 1,
    out_pixels: int | None = None,
    padding: int | None = None,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
) -> Blueprint:
    """A square convolution, to `out_pixels` (those of the input at stride 1). An odd kernel is
    centred unless `padding` is given, and then makes ceil(side / stride) of a side; an even one
    that is not a stride of patches is padded to the same."""
    keywords: dict[str, Any] = {
        "groups": None if groups == 1 else groups,
        "bias": None if bias else False,
    }
    if kernel % 2 == 0 and padding is None:
        made = blueprint(PaddedConvolution, inputs, outputs, kernel, stride, **keywords)
    else:
        if dilation > 1:
            keywords["dilation"] = dilation
        padding = dilation * (kernel // 2) if padding is None else padding
        made = blueprint(nn.Conv2d, inputs, outputs, kernel, stride, padding, **keywords)
    counted = cost.convolution(
        pixels,
        pixels if out_pixels is None else out_pixels,
        inputs,
        outputs,
        taps=kernel**2,
        groups=groups,
        bias=bias,
    )
    # The tap at the output's own pixel is the fixed one: the first of 2, the second of 3.
    taps = Around(before=(kernel - 1) // 2, after=kernel // 2)
    weight = (outputs, inputs // groups, taps, taps)
    return blueprint(
        made.module, *made.arguments, cost=counted, axes={"weight": weight}, **keywords
    )


def depthwise(
    channels: int,
    kernel: int,
    *,
    pixels: int,
    stride: int = 1,
    out_pixels: int | None = None,
    dilation: int = 1,
    bias: bool = True,
) -> Blueprint:
    """One filter for each channel."""
    return convolution(
        channels,
        channels,
        kernel,
        pixels=pixels,
        stride=stride,
        out_pixels=out_pixels,
        dilation=dilation,
        groups=channels,
        bias=bias,
    )


def squeeze_excite(
    channels: int,
    squeezed: int,
    *,
    activation: type[nn.Module] = nn.ReLU,
    gate: type[nn.Module] = nn.Hardsigmoid,
) -> Blueprint:
    """The gate on the mean of each channel."""
    counted = cost.linear(1, channels, squeezed) + cost.linear(1, squeezed, channels)
    return blueprint(
        SqueezeExcite,
        channels,
        squeezed,
        cost=counted,
        activation=None if activation is nn.ReLU else activation,
        gate=None if gate is nn.Hardsigmoid else gate,
    )


def sequence(*layers: Blueprint | None) -> Blueprint:
    """One behind the other; one alone stands for itself. None is left out, but keeps its place in
    front of a layer with parameters, whose names in a supernet must not depend on it."""
    last = max((i for i, layer in enumerate(layers) if layer and layer.cost.params), default=0)
    given = [layer or blueprint(nn.Identity) for i, layer in enumerate(layers) if layer or i < last]
    return given[0] if len(given) == 1 else blueprint(nn.Sequential, *given)


def hidden_channels(channels: int, expansion: float) -> int:
    """`expansion * channels`, rounded down to a whole number."""
    return int(expansion * channels + 1e-6)


def mlp(
    channels: int, hidden: int, *, pixels: int, activation: str, out_channels: int | None = None
) -> Blueprint:
    """The channel MLP."""
    outputs = out_channels or channels
    counted = cost.linear(pixels, channels, hidden) + cost.linear(pixels, hidden, outputs)
    return blueprint(
        Mlp,
        channels,
        hidden,
        ACTIVATIONS[activation],
        cost=counted,
        out_channels=None if outputs == channels else outputs,
    )


def residual(
    channels: int,
    branch: Blueprint,
    *,
    norm_name: str,
    scale: float | None,
    in_channels: int | None = None,
    shortcut: Blueprint | None = None,
) -> Blueprint:
    """A pre-norm sub-layer: the norm works on `in_channels`, the layer scale on `channels`."""
    return blueprint(
        Residual,
        branch=branch,
        norm=norm(norm_name, in_channels or channels),
        scale=layer_scale(channels, scale),
        shortcut=shortcut,
    )


def depthwise_position(channels: int, *, pixels: int) -> Blueprint:
    """x plus a 3x3 depthwise convolution of x."""
    counted = cost.depthwise(pixels, pixels, channels, taps=9)
    return blueprint(DepthwisePosition, channels, cost=counted)


def pooled_shortcut(inputs: int, outputs: int, stride: int, *, out_pixels: int) -> Blueprint:
    """3x3 max-pool and a 1x1 convolution."""
    counted = cost.linear(out_pixels, inputs, outputs)
    return blueprint(PooledShortcut, inputs, outputs, stride, cost=counted)


def with_pooled_shortcut(branch: Blueprint, site: Site) -> Blueprint:
    """A downsampling module's branch, started at zero, plus the pooled shortcut: in a supernet the
    path that all modules of a place have in common."""
    shortcut = pooled_shortcut(
        site.in_channels, site.channels, site.stride, out_pixels=site.out_pixels
    )
    return blueprint(ShortcutDownsampling, branch=branch, shortcut=shortcut)


def block(
    channels: int,
    mixer: Blueprint,
    *,
    expansion: float,
    pixels: int,
    activation: str,
    norm_name: str,
    scale: float | None,
) -> Blueprint:
    """A token mixer, its residual included, and the pre-norm MLP behind it where `expansion` is
    not 0."""
    if not expansion:
        return blueprint(Block, mixer=mixer)
    hidden = hidden_channels(channels, expansion)
    branch = mlp(channels, hidden, pixels=pixels, activation=activation)
    return blueprint(
        Block, mixer=mixer, mlp=residual(channels, branch, norm_name=norm_name, scale=scale)
    )


class Mixing(Protocol):
    """The genes that every operator of a pre-norm mixer and an MLP has."""

    @property
    def expansion(self) -> float: ...
    @property
    def layer_scale(self) -> float | None: ...
    @property
    def norm(self) -> str: ...
    @property
    def activation(self) -> str: ...


def mixing_block(
    part: Mixing, site: Site, branch: Blueprint, *, shortcut: Blueprint | None = None
) -> Blueprint:
    """`branch` as the pre-norm mixer of an operator, and its MLP behind it."""
    mixer = residual(
        site.channels,
        branch,
        norm_name=part.norm,
        scale=part.layer_scale,
        in_channels=site.in_channels,
        shortcut=shortcut,
    )
    return block(
        site.channels,
        mixer,
        expansion=part.expansion,
        pixels=site.out_pixels,
        activation=part.activation,
        norm_name=part.norm,
        scale=part.layer_scale,
    )


def beside(site: Site, part: Blueprint) -> Blueprint:
    """`part` for the map alone, where something else may come in beside it."""
    return part if site.flow == MAP else blueprint(Beside, part=part)
