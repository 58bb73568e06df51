"""SynFlow: how much flows from the input to the output along all paths of weights.

Source: Tanaka et al., 2020, arXiv 2006.05467, section 5; as a score Abdelfattah et al., 2021, arXiv
2101.08134, section 3.2. Every parameter is taken as its absolute value, the image is all ones, R is
the sum of the logits, and the score is the sum of |w * dR/dw| over the weights of convolutions and
linear layers (`shared.weight_layers`). Here it is the logarithm of that, which ranks the same.

For networks that are not ReLU and convolution alone:

- BatchNorm, LayerNorm and GroupNorm are left out (they pass their input), since a norm would undo
  what the layers before it make larger. The paper's networks have BatchNorm, which its authors
  leave out too.
- Activations (ReLU, GELU, ...) pass their input as well: so does ReLU wherever nothing is negative.
- Products of maps (modulation, gates) would make what flows grow with its square, and softmax
  saturates. So each part (stem, downsampling module, operator, head) sees its input divided by the
  mean size of it, and the logarithms of these are added at the end. Where a part is linear in what
  flows, as those of the paper are, that changes nothing, except that no number overflows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from evaluator.zero_cost.registry import score
from evaluator.zero_cost.shared import (
    ACTIVATION_LAYERS,
    NORM_LAYERS,
    Flow,
    chain,
    each,
    gradients,
    make_absolute,
    map_of,
    replace_forward,
    weight_layers,
)


@score("synflow")
def synflow(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """In float64; of `images` only the size is used. -inf where nothing flows."""
    network.double().eval()
    make_absolute(network)
    replace_forward(network, (*NORM_LAYERS, *ACTIVATION_LAYERS), lambda layer, x: x)
    x: Flow = torch.ones_like(images[:1], dtype=torch.float64)
    logarithms = 0.0
    for part in chain(network):
        size = float(map_of(x).detach().abs().mean())
        if size == 0:
            return -math.inf
        x = part(each(x, lambda y, size=size: y / size))  # type: ignore[misc]
        logarithms += math.log(size)
    layers = weight_layers(network).values()
    found = gradients(map_of(x).sum(), layers)
    flow = sum(
        float((layer.get_parameter("weight").detach() * gradient).abs().sum())
        for layer, gradient in zip(layers, found, strict=True)
    )
    return logarithms + math.log(flow) if flow > 0 else flow if math.isnan(flow) else -math.inf
