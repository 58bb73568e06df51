"""What PyTorch's operators allocate on CPUs and GPUs, where that is not just their output as the
meta device has it.

Each rule is what the operator does in PyTorch 2.11 to 2.13. Those of CPUs are checked against what
is allocated there (tests/evaluator/test_memory.py), benchmarks/memory.py compares on a GPU. The
layout of an output matters as much as its size: who reads it may have
to copy it. Tensors are on the meta device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._prims_common import suggest_memory_format

Kind = Literal["cpu", "cuda"]
SHORT = (torch.bfloat16, torch.float16)
ALIGNED = 8  # numbers in a row of a mask that the attention kernels of GPUs can read

aten = torch.ops.aten
PLAIN, LAST = torch.contiguous_format, torch.channels_last

# ---- functions that PyTorch puts together in other ways than on the meta device


def _linear(kind: Kind, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A contiguous input is one matrix. Others become one or several matrices by a copy where that
    is needed, and the bias is added in place."""
    if bias is None:
        return torch.matmul(x, weight.t())
    if x.is_contiguous():
        rows = torch.addmm(bias, x.view(-1, x.shape[-1]), weight.t())
        return rows.view(*x.shape[:-1], -1)
    return torch.matmul(x, weight.t()).add_(bias)


def _group_norm(
    kind: Kind,
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """GPUs want the channels of a group in one piece, CPUs take channels last as well."""
    x = x.contiguous(memory_format=suggest_memory_format(x) if kind == "cpu" else PLAIN)
    sizes = (x.shape[0], x.shape[1], math.prod(x.shape[2:]), num_groups)
    return torch.native_group_norm(x, weight, bias, *sizes, eps)[0]


def _attention(
    kind: Kind,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """One fused kernel, or where a device has none for such inputs products and a softmax."""
    op = _fused(kind, query, key, value, attn_mask)
    if op is aten._scaled_dot_product_flash_attention_for_cpu:
        output = op(query, key, value, attn_mask=attn_mask, **options)
    elif op is aten._scaled_dot_product_efficient_attention:
        output = op(query, key, value, attn_mask, False, **options)
    elif op is aten._scaled_dot_product_flash_attention:
        output = op(query, key, value, **options)
    else:
        return _attention_by_products(query, key, value, attn_mask, **options)
    result: Tensor = output[0]
    return result


def _fused(kind: Kind, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Any:
    """The kernel that PyTorch takes for scaled dot-product attention, None where it has none."""
    widths = {query.shape[-1], key.shape[-1], value.shape[-1]}
    if query.dim() == 4 and all(x.stride(-1) == 1 for x in (query, key, value)):
        if kind == "cpu":
            if len(widths) == 1 and (mask is None or not mask.requires_grad):
                return aten._scaled_dot_product_flash_attention_for_cpu
        elif all(width % (8 if query.dtype in SHORT else 4) == 0 for width in widths):
            if query.dtype in SHORT and mask is None and len(widths) == 1:
                return aten._scaled_dot_product_flash_attention
            return aten._scaled_dot_product_efficient_attention
    return None


def _attention_by_products(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> Tensor:
    """In float32. PyTorch's own function adds the mask in place only where nobody looks on, and
    gives the weights as well, of the input's type."""
    q, k, v = (x.float() if x.dtype in SHORT else x for x in (query, key, value))
    scaled = q * 1.0
    scores = torch.matmul(scaled, k.mT * 1.0)
    if mask is not None:
        scores.add_(mask)
    scores = torch.ops.aten._safe_softmax(scores, -1)
    weights = scores.to(query.dtype)
    output = torch.matmul(scores, v).to(query.dtype)
    del weights
    return output


COMPOSED: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    F.group_norm: _group_norm,
    F.scaled_dot_product_attention: _attention,
}

# ---- kernels: (kind, operator, *its arguments) to its output, and what is alive beside that

Ruled = tuple[Any, Sequence[Tensor]]


def _copies(x: Tensor, layout: torch.memory_format = PLAIN) -> list[Tensor]:
    """What a kernel makes of an input that it wants in a layout."""
    if x.is_contiguous(memory_format=layout):
        return []
    return [torch.empty_like(x, memory_format=layout)]


def _layout_of(x: Tensor) -> torch.memory_format:
    return suggest_memory_format(x) if x.dim() == 4 else PLAIN


def _convolution(
    kind: Kind,
    op: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Ruled:
    """In channels last if input or weight lie so; what lies otherwise is copied."""
    assert not transposed, "no network has transposed convolutions"
    layout = LAST if LAST in (_layout_of(x), _layout_of(weight)) else PLAIN
    sides = [
        (side + 2 * p - d * (k - 1) - 1) // s + 1
        for side, k, s, p, d in zip(
            x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True
        )
    ]
    y = x.new_empty(x.shape[0], weight.shape[0], *sides)
    beside = [*_copies(x, layout), *_copies(weight, layout)]
    return torch.empty_like(y, memory_format=layout), beside


def _layer_norm(kind: Kind, op: Any, x: Tensor, shape: Sequence[int], *others: Any) -> Ruled:
    rows = (*x.shape[: x.dim() - len(shape)], *([1] * len(shape)))
    mean, deviation = (x.new_empty(rows, dtype=_statistics(kind, x)) for _ in range(2))
    return (torch.empty_like(x, memory_format=PLAIN), mean, deviation), _copies(x)


def _native_group_norm(
    kind: Kind,
    op: Any,
    x: Tensor,
    weight: Any,
    bias: Any,
    images: int,
    channels: int,
    pixels: int,
    groups: int,
    eps: float,
) -> Ruled:
    mean, deviation = (x.new_empty(images, groups, dtype=_statistics(kind, x)) for _ in range(2))
    return (torch.empty_like(x), mean, deviation), ()


def _statistics(kind: Kind, x: Tensor) -> torch.dtype:
    """That of means: GPUs keep them in float32."""
    return torch.float32 if kind == "cuda" and x.dtype in SHORT else x.dtype


def _batch_norm(kind: Kind, op: Any, x: Tensor, *others: Any) -> Ruled:
    """By running statistics, of which it makes factors."""
    layout = torch.preserve_format
    if kind == "cpu":
        last = x.dim() == 4 and x.is_contiguous(memory_format=LAST)
        layout = LAST if last and not x.is_contiguous() else PLAIN
    y = torch.empty_like(x, memory_format=layout)
    factors = [x.new_empty(x.shape[1], dtype=torch.float32) for _ in range(2)]
    return (y, x.new_empty(0), x.new_empty(0)), factors


def _softmax(kind: Kind, op: Any, x: Tensor, *others: Any) -> Ruled:
    return torch.empty_like(x, memory_format=PLAIN), _copies(x)


def _safe_softmax(kind: Kind, op: Any, x: Tensor, dim: int, dtype: Any = None) -> Ruled:
    """Asks of every score whether it is -inf, and whether all of a row are."""
    masked = torch.empty_like(x, dtype=torch.bool)
    rows = masked.select(dim, 0).clone()
    return torch.empty_like(x, memory_format=PLAIN, dtype=dtype), [masked, rows]


def _pool(kind: Kind, op: Any, x: Tensor, *others: Any) -> Ruled:
    """One output, or with the indices two."""
    layout, output = _layout_of(x), op(x, *others)
    outputs = [torch.empty_like(y, memory_format=layout) for y in _as_tuple(output)]
    return outputs[0] if isinstance(output, Tensor) else tuple(outputs), _copies(x, layout)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, Tensor) else value


def _roll(kind: Kind, op: Any, x: Tensor, shifts: Sequence[int], dims: Sequence[int]) -> Ruled:
    """One dimension after the other, on GPUs of a contiguous input."""
    y = torch.empty_like(x, memory_format=torch.preserve_format if kind == "cpu" else PLAIN)
    beside = [torch.empty_like(y) for _ in dims[1:]]
    return y, beside or (_copies(x) if kind == "cuda" else [])


def _columns(kind: Kind, op: Any, x: Tensor, *others: Any) -> Ruled:
    """`F.unfold`; CPUs work on a copy in any case."""
    return op(x, *others), [*_copies(x), *([torch.empty_like(x)] if kind == "cpu" else [])]


def _mean(kind: Kind, op: Any, x: Tensor, *others: Any, **options: Any) -> Ruled:
    """CPUs add numbers of 16 bits up in a copy of 32."""
    beside = [x.float()] if kind == "cpu" and x.dtype in SHORT else []
    return op(x, *others, **options), beside


def _one_kernel(
    kind: Kind, op: Any, q: Tensor, k: Tensor, v: Tensor, *others: Any, **options: Any
) -> Ruled:
    """Attention that makes no scores. The heads of a pixel lie side by side, as they are joined
    later; some kernels give the logarithm of each sum as well."""
    images, heads, queries, _ = q.shape
    y, none = q.new_empty(images, queries, heads, v.shape[3]).transpose(1, 2), q.new_empty(0)
    if op is aten._scaled_dot_product_efficient_attention.default:
        mask, beside = others[0], []
        if mask is not None and mask.shape[-1] % ALIGNED:
            wide = -(-mask.shape[-1] // ALIGNED) * ALIGNED
            beside = [mask.new_empty(*mask.shape[:-1], wide)]
        return (y, none, none, none), beside
    sums = q.new_empty(images, heads, queries, dtype=torch.float32)
    if op is aten._scaled_dot_product_flash_attention.default:
        return (y, sums, none, none, queries, k.shape[2], none, none, none), ()
    mask = options.get("attn_mask")
    return (y, sums), [] if mask is None or mask.stride(-1) == 1 else _copies(mask)


def _real_to_complex(kind: Kind, op: Any, x: Tensor, dims: Sequence[int], *others: Any) -> Ruled:
    """Wants the dimensions that are not transformed as one; GPUs transform one after the other."""
    y, transformed = op(x, dims, *others).contiguous(), {d % x.dim() for d in dims}
    batch = [i for i in range(x.dim()) if i not in transformed and x.shape[i] > 1]
    apart = any(x.stride(i) != x.shape[j] * x.stride(j) for i, j in pairwise(batch))
    beside = [torch.empty_like(x)] if apart else []
    return y, beside if kind == "cpu" else [*beside, torch.empty_like(y)]


def _complex_to_real(kind: Kind, op: Any, x: Tensor, *others: Any) -> Ruled:
    """Transforms all dimensions but the last in a copy, and copies once more what the last, which
    spoils its input, begins with."""
    return op(x, *others).contiguous(), [torch.empty_like(x), torch.empty_like(x)]


def _product(kind: Kind, op: Any, *matrices: Tensor, **options: Any) -> Ruled:
    """Copies a matrix that the library cannot read as it lies. A CPU multiplies matrices of float32
    one by one where it has to copy them, and wants those of 16 bits without gaps."""
    beside = []
    for matrix in matrices:
        if matrix.dim() < 2:  # a bias
            continue
        if kind == "cpu" and matrix.dtype in SHORT:
            if not matrix.is_contiguous() and not matrix.mT.is_contiguous():
                beside.append(torch.empty_like(matrix))
        elif 1 not in matrix.stride()[-2:]:
            one = matrix[0] if kind == "cpu" and matrix.dim() == 3 else matrix
            beside.append(one.contiguous())
    return op(*matrices, **options), beside


def _arithmetic(kind: Kind, op: Any, x: Any, y: Any, **options: Any) -> Ruled:
    """CPUs bring numbers to one type in copies."""
    beside: list[Tensor] = []
    if kind == "cpu" and isinstance(y, Tensor) and x.dim() and y.dim() and x.dtype != y.dtype:
        common = torch.result_type(x, y)
        beside = [torch.empty_like(z, dtype=common) for z in (x, y) if z.dtype != common]
    return op(x, y, **options), beside


KERNELS: dict[Any, Callable[..., Ruled]] = {
    aten.convolution.default: _convolution,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _native_group_norm,
    aten.native_batch_norm.default: _batch_norm,
    aten._softmax.default: _softmax,
    aten._safe_softmax.default: _safe_softmax,
    aten.max_pool2d_with_indices.default: _pool,
    aten.avg_pool2d.default: _pool,
    aten.roll.default: _roll,
    aten.im2col.default: _columns,
    aten.mean.dim: _mean,
    aten._scaled_dot_product_flash_attention_for_cpu.default: _one_kernel,
    aten._scaled_dot_product_flash_attention.default: _one_kernel,
    aten._scaled_dot_product_efficient_attention.default: _one_kernel,
    aten._fft_r2c.default: _real_to_complex,
    aten._fft_c2r.default: _complex_to_real,
    aten.mm.default: _product,
    aten.bmm.default: _product,
    aten.addmm.default: _product,
    aten.add.Tensor: _arithmetic,
    aten.add_.Tensor: _arithmetic,
    aten.sub.Tensor: _arithmetic,
    aten.mul.Tensor: _arithmetic,
    aten.div.Tensor: _arithmetic,
}
