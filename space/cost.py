"""What one image costs: closed forms for the few products that networks are made of.

Counting rules, the same as those of the published tables this project is held against:

- `macs` counts the multiply-adds of convolutions, linear layers and matrix products (attention
  scores and weighted sums included). Norms, activations, softmax, pooling, element-wise products
  and bias additions are left out. 1 MAC = 2 FLOPs; papers mostly write "FLOPs" for MACs.
- `params` counts learnable parameters; running statistics are not parameters.
- `activations` counts the outputs of the same layers (Radosavovic et al., 2020, "Designing Network
  Design Spaces", arXiv 2003.13678, section 3.1, there for convolutions only).
- `bytes_moved` is the least traffic of those layers run one by one in float32: inputs and weights
  read once, outputs written once.
"""

from __future__ import annotations

from dataclasses import dataclass

BYTES_PER_NUMBER = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one image; adds up over the parts of a network."""

    macs: int = 0
    params: int = 0
    activations: int = 0
    bytes_moved: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.macs + other.macs,
            self.params + other.params,
            self.activations + other.activations,
            self.bytes_moved + other.bytes_moved,
        )

    def __mul__(self, times: int) -> Cost:
        return Cost(
            self.macs * times,
            self.params * times,
            self.activations * times,
            self.bytes_moved * times,
        )

    __rmul__ = __mul__


def parameters(count: int) -> Cost:
    """Parameters that take part in no counted product: norms, layer scales, position tables."""
    return Cost(params=count)


def norm(channels: int) -> Cost:
    """Scale and shift of one normalisation layer."""
    return parameters(2 * channels)


def linear(tokens: int, inputs: int, outputs: int, bias: bool = True) -> Cost:
    """A linear layer, or a 1x1 convolution, applied to `tokens` vectors."""
    return convolution(tokens, tokens, inputs, outputs, taps=1, bias=bias)


def convolution(
    pixels_in: int,
    pixels_out: int,
    inputs: int,
    outputs: int,
    *,
    taps: int,
    groups: int = 1,
    bias: bool = True,
) -> Cost:
    """A convolution with `taps` weights per channel pair (kernel side squared, in 2-D)."""
    weights = taps * (inputs // groups) * outputs
    params = weights + (outputs if bias else 0)
    written = pixels_out * outputs
    moved = pixels_in * inputs + params + written
    return Cost(weights * pixels_out, params, written, BYTES_PER_NUMBER * moved)


def depthwise(
    pixels_in: int, pixels_out: int, channels: int, *, taps: int, bias: bool = True
) -> Cost:
    """A depthwise convolution: one filter of `taps` weights for each channel."""
    return convolution(
        pixels_in, pixels_out, channels, channels, taps=taps, groups=channels, bias=bias
    )


def matmul(batch: int, rows: int, inner: int, columns: int) -> Cost:
    """`batch` products of (rows, inner) and (inner, columns); both sides are activations."""
    written = batch * rows * columns
    moved = batch * (rows * inner + inner * columns) + written
    return Cost(written * inner, 0, written, BYTES_PER_NUMBER * moved)


def attention(batch: int, heads: int, queries: int, keys: int, head_dim: int) -> Cost:
    """Scores and weighted sum of softmax attention, `batch` windows of `heads` heads each."""
    scores = matmul(batch * heads, queries, head_dim, keys)
    return scores + matmul(batch * heads, queries, keys, head_dim)
