"""DSS: synaptic diversity of attention plus synaptic saliency of everything else.

Source: Zhou et al., 2022, arXiv 2203.12217, section 3.3, and its released code. With every
parameter as its absolute value, one image of ones and R the sum of the logits, the score is the sum
over attention's weight matrices of |W|_* |dR/dW|_* (nuclear norms) plus that over the other layers
of |W * dR/dW|, weight by weight.

For networks that are not plain transformers:

- Layers are convolutions and linear layers (`shared.weight_layers`). Those inside of an attention
  (projections to queries, keys and values and behind them, and convolutions that stand with them)
  are attention's; a filter is the matrix (outputs, inputs * taps). What belongs to the others: MLPs
  over channels, pixels or an axis, convolutions, modulation, gates, stem, downsampling and head.
- Attention is a module that scores queries against keys: softmax, linear, between channels, gated,
  or with learned queries, whose own tables count as neither.
- LayerNorm and GroupNorm and the activations stay as they are, as in the paper. One image of ones
  has no batch to speak of, so BatchNorm takes its statistics over the channels of each pixel, as
  LayerNorm does; with those it starts with it would be no norm at all, and networks with one could
  not be compared with others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from evaluator.zero_cost.registry import score
from evaluator.zero_cost.shared import (
    gradients,
    make_absolute,
    matrix_norm,
    replace_forward,
    weight_layers,
)
from space.attention_layers import AttendMap
from space.attention_scores import ChannelAttend, GatedAttend, LinearAttend
from space.operators.learned_query import LearnedQueries

ATTENDING = (AttendMap, ChannelAttend, GatedAttend, LinearAttend)


@score("dss")
def dss(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """In float64; of `images` only the size is used."""
    network.double().eval()
    make_absolute(network)
    replace_forward(network, (_BatchNorm,), _norm_over_channels)
    layers = weight_layers(network)
    flow = network(torch.ones_like(images[:1], dtype=torch.float64)).sum()
    inside = attention_layers(network)
    total = 0.0
    for layer, gradient in zip(layers.values(), gradients(flow, layers.values()), strict=True):
        weight = layer.get_parameter("weight").detach()
        if layer in inside:
            total += matrix_norm(weight.flatten(1), "nuc") * matrix_norm(gradient.flatten(1), "nuc")
        else:
            total += float((weight * gradient).abs().sum())
    return total


def attention_layers(network: nn.Module) -> set[nn.Module]:
    """Everything inside of modules that attend."""
    return {
        layer
        for module in network.modules()
        if isinstance(module, LearnedQueries)
        or any(isinstance(child, ATTENDING) for child in module.children())
        for layer in module.modules()
    }


def _norm_over_channels(layer: _BatchNorm, x: Tensor) -> Tensor:
    y = F.layer_norm(x.movedim(1, -1), x.shape[1:2], layer.weight, layer.bias, layer.eps)
    return y.movedim(-1, 1)
