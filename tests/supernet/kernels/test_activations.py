"""GELU and its derivative, against float64."""

import math

import pytest
import torch

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from supernet.kernels.activations import gelu, gelu_slope  # noqa: E402


@triton.jit
def both_kernel(x, y, slopes, COUNT: tl.constexpr):
    at = tl.arange(0, COUNT)
    v = tl.load(x + at)
    tl.store(y + at, gelu(v))
    tl.store(slopes + at, gelu_slope(v))


def run(x):
    y, slopes = torch.empty_like(x), torch.empty_like(x)
    both_kernel[(1,)](x, y, slopes, COUNT=len(x))
    return y.cpu(), slopes.cpu()


def test_gelu_is_as_right_as_float32_allows():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    small = torch.logspace(-6, 1, 2**12)
    x = torch.cat([torch.linspace(-20, 20, 2**13), small, -small])
    y, slopes = run(x.to(device))
    wide = x.double()
    phi = torch.special.ndtr(wide)
    right = wide * phi
    assert (y - right).abs().max() < 5e-7
    assert ((y - right).abs() / right)[x > 0].max() < 6e-7  # and small numbers in proportion
    density = torch.exp(-wide * wide / 2) / math.sqrt(2 * math.pi)
    assert (slopes - (phi + wide * density)).abs().max() < 5e-7


def test_gelu_of_what_is_not_a_number():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.tensor([math.nan, math.inf, 1e30, -1e30], device=device)
    y, slopes = run(x)
    assert y[0].isnan()
    assert slopes[0].isnan()
    assert y[1] == math.inf
    assert y[2] == torch.tensor(1e30)
    assert y[3].abs() < 1e-9
