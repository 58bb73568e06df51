"""The MLP on the channels of each pixel, with its norm, its factors and its residual.

For narrow maps one kernel does all of it, and what is hidden between the two linear layers never
leaves the chip. For wider ones the products take as long as the memory, and the two kernels of
`norm_linear.py` follow one another. Training keeps the input only.

Source of the layer: the channel MLP of ViT (Dosovitskiy et al., 2021, arXiv 2010.11929, section
3.1). That the hidden part is cut into blocks, each of which adds to the result, is as in
FlashAttention (Dao et al., 2022, arXiv 2205.14135, section 3.1).
Shapes: N images, C channels in, E hidden channels, D channels out, H x W pixels.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from supernet.kernels.norm_linear import (
    ACTIVATIONS,
    activate,
    activated,
    activated_backward,
    contiguous,
    empty_map,
    finish,
    like,
    linear_flops,
    linear_residual_reference,
    map_of,
    narrow,
    norm_linear_reference,
    normalised,
    normalised_backward,
    normed_rows,
    parts_of,
    power,
    read,
    rows_of,
    run_linear_residual,
    run_norm_linear,
    scaled_linear_backward,
    scaled_shifted,
    times,
    unit_columns,
    unit_of,
    widened,
)
from supernet.kernels.registration import Variant, register

MOST_FUSED = 128  # channels, in and out, of the single kernel


def mlp_reference(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    expand: Tensor,
    expand_bias: Tensor | None,
    project: Tensor,
    project_bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    eps: float | None,
    activation: str,
) -> Tensor:
    """residual + scale * (activation(layer_norm(x) expand^T + expand_bias) project^T +
    project_bias): (N, C, H, W) to (N, D, H, W), channels last.

    `expand` (E, C), `project` (D, E), `scale` (D,), `residual` (N, D, H, W); an `eps` of None is
    no norm. Computed in float32; products in the dtype of the weights, the result in that of
    `residual`, or else of the weights.
    """
    dtype = (project if residual is None else residual).dtype
    x, norm_weight, norm_bias, expand, expand_bias = widened(
        x, norm_weight, norm_bias, expand, expand_bias
    )
    hidden = norm_linear_reference(x, norm_weight, norm_bias, expand, expand_bias, eps, activation)
    hidden, project, residual = widened(hidden, project, residual)
    return linear_residual_reference(hidden, project, project_bias, None, scale, residual).to(dtype)


@triton.jit(
    do_not_specialize=["rows", "channels", "hidden", "outputs", "expand_row", "project_row"]
)
def _mlp_kernel(
    x, norm_weight, norm_bias, expand, expand_bias, project, project_bias, scale, residual, out,
    rows, channels, hidden, outputs, expand_row, project_row, eps,
    NORM: tl.constexpr, ACTIVATION: tl.constexpr, UNIT: tl.constexpr, STEPS: tl.constexpr,
    ROWS: tl.constexpr, HIDDEN: tl.constexpr, PART: tl.constexpr, REST: tl.constexpr,
    OUT_PART: tl.constexpr, OUT_REST: tl.constexpr,
):  # fmt: skip
    """A program does ROWS rows, in STEPS of HIDDEN hidden channels.

    x (rows, channels), residual and out (rows, outputs) contiguous; rows of `expand`
    (hidden, channels) and `project` (outputs, hidden) lie `expand_row` and `project_row` apart.
    PART + REST are at least the channels, OUT_PART + OUT_REST the outputs; a REST may be 0. Numbers
    of channels and what lies between rows come divided by UNIT, as in `norm_linear.py`.
    """
    channels, hidden, outputs = channels * UNIT, hidden * UNIT, outputs * UNIT
    expand_row, project_row = expand_row * UNIT, project_row * UNIT
    first = tl.program_id(0).to(tl.int64) * ROWS
    dtype = expand.dtype.element_ty
    a, b = normed_rows(
        x, norm_weight, norm_bias, first, rows, channels, eps, NORM, UNIT, ROWS, PART, REST
    )  # fmt: skip
    a, b = a.to(dtype), b.to(dtype)
    y = tl.zeros((ROWS, OUT_PART), tl.float32)
    if OUT_REST > 0:
        z = tl.zeros((ROWS, OUT_REST), tl.float32)
    for step in range(STEPS):
        start = step * HIDDEN
        w = read(expand, start, 0, expand_row, hidden, channels, UNIT, HIDDEN, PART)
        h = times(a, w, None)
        if REST > 0:
            w = read(expand, start, PART, expand_row, hidden, channels, UNIT, HIDDEN, REST)
            h = times(b, w, h)
        h = scaled_shifted(h, None, expand_bias, start, hidden, HIDDEN)
        # Past the last hidden channel all of it is 0, as is every activation of 0.
        h = activate(h, ACTIVATION).to(dtype)
        w = read(project, 0, start, project_row, outputs, hidden, UNIT, OUT_PART, HIDDEN)
        y = times(h, w, y)
        if OUT_REST > 0:
            w = read(project, OUT_PART, start, project_row, outputs, hidden, UNIT, OUT_REST, HIDDEN)
            z = times(h, w, z)
    finish(y, project_bias, scale, residual, out, first, 0, rows, outputs, UNIT, ROWS, OUT_PART)
    if OUT_REST > 0:
        finish(
            z, project_bias, scale, residual, out, first, OUT_PART, rows, outputs,
            UNIT, ROWS, OUT_REST,
        )  # fmt: skip


def run_mlp(
    rows: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    expand: Tensor,
    expand_bias: Tensor | None,
    project: Tensor,
    project_bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    eps: float | None,
    activation: str,
    out: Tensor,
) -> None:
    """`mlp` on rows (M, C) into `out` (M, D), by the single kernel."""
    (count, channels), inner, outputs = rows.shape, expand.shape[0], project.shape[0]
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}, but must be one of {ACTIVATIONS}")
    if not out.numel():
        return
    tall = narrow(expand.dtype)
    block_rows, block_inner = (128, 64) if tall else (32, 32)
    block_inner = min(block_inner, power(inner))
    part, rest = parts_of(channels)
    out_part, out_rest = parts_of(outputs)
    expand, project = unit_columns(expand), unit_columns(project)
    unit = unit_of(
        (channels, inner, outputs, expand.stride(0), project.stride(0)),
        rows, expand, project, residual, out,
    )  # fmt: skip
    # Left alone, the compiler takes 167 registers at 96 channels, and a processor runs one program;
    # with 128, which suffice without spilling up to there, it runs two.
    widest = max(part + rest, out_part + out_rest)
    registers = 128 if tall and unit > 1 and widest <= 96 else None
    _mlp_kernel[(triton.cdiv(count, block_rows),)](
        rows, contiguous(norm_weight), contiguous(norm_bias), expand, contiguous(expand_bias),
        project, contiguous(project_bias), contiguous(scale), residual, out,
        count, channels // unit, inner // unit, outputs // unit,
        expand.stride(0) // unit, project.stride(0) // unit, 0.0 if eps is None else eps,
        NORM=eps is not None, ACTIVATION=activation, UNIT=unit,
        STEPS=triton.cdiv(inner, block_inner), ROWS=block_rows, HIDDEN=block_inner,
        PART=part, REST=rest, OUT_PART=out_part, OUT_REST=out_rest,
        num_warps=8 if tall else 4, num_stages=2, maxnreg=registers,
    )  # fmt: skip


def _launch(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    expand: Tensor,
    expand_bias: Tensor | None,
    project: Tensor,
    project_bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    eps: float | None,
    activation: str,
) -> Tensor:
    out = _empty(x, project, residual)
    rows, made = rows_of(x), rows_of(out)
    added = None if residual is None else rows_of(residual)
    if max(x.shape[1], out.shape[1]) <= MOST_FUSED:
        run_mlp(
            rows, norm_weight, norm_bias, expand, expand_bias, project, project_bias, scale, added,
            eps, activation, made,
        )  # fmt: skip
        return out
    hidden = rows.new_empty((len(rows), len(expand)), dtype=expand.dtype)
    run_norm_linear(rows, norm_weight, norm_bias, expand, expand_bias, eps, activation, hidden)
    pixels = x.shape[2] * x.shape[3]
    run_linear_residual(hidden, project, project_bias, None, scale, added, made, pixels)
    return out


def _empty(x: Tensor, project: Tensor, residual: Tensor | None) -> Tensor:
    return empty_map(x, project.shape[0], (project if residual is None else residual).dtype)


def _fake(
    x: Tensor, norm_weight: Any, norm_bias: Any, expand: Any, expand_bias: Any, project: Tensor,
    project_bias: Any, scale: Any, residual: Tensor | None, *_: Any,
) -> Tensor:  # fmt: skip
    return _empty(x, project, residual)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, residual, ctx.eps, ctx.activation = inputs
    ctx.save_for_backward(*tensors)
    ctx.has_residual = residual is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, norm_weight, norm_bias, expand, expand_bias, project, project_bias, scale = ctx.saved_tensors
    rows = rows_of(x)
    normed, kept = normalised(rows, norm_weight, norm_bias, ctx.eps)
    normed = normed.to(expand.dtype)
    before = F.linear(normed, expand, like(expand_bias, expand))
    hidden_grad, project_grad, project_bias_grad, scale_grad = scaled_linear_backward(
        rows_of(grad).to(expand.dtype),
        activated(before, ctx.activation),
        project,
        project_bias,
        scale,
    )
    before_grad = activated_backward(hidden_grad, before, ctx.activation)
    normed_grad, expand_grad, expand_bias_grad, _ = scaled_linear_backward(
        before_grad, normed, expand, expand_bias, None
    )
    x_grad, norm_weight_grad, norm_bias_grad = normalised_backward(
        normed_grad, rows, kept, (True, norm_weight is not None, norm_bias is not None)
    )
    return (
        None if x_grad is None else map_of(x_grad, x),
        like(norm_weight_grad, norm_weight),
        like(norm_bias_grad, norm_bias),
        expand_grad,
        expand_bias_grad,
        project_grad,
        project_bias_grad,
        scale_grad,
        grad if ctx.has_residual else None,
        None,
        None,
    )


def _flops(
    x: Any, norm_weight: Any, norm_bias: Any, expand: Any, expand_bias: Any, project: Any, *_: Any,
    **__: Any,
) -> int:  # fmt: skip
    return linear_flops(x, expand) + linear_flops(x, project)


mlp = register(
    "mlp",
    "(Tensor x, Tensor? norm_weight, Tensor? norm_bias, Tensor expand, Tensor? expand_bias, "
    "Tensor project, Tensor? project_bias, Tensor? scale, Tensor? residual, float? eps, "
    "str activation) -> Tensor",
    launch=_launch,
    reference=mlp_reference,
    fake=_fake,
    flops=_flops,
    backward=_backward,
    setup_context=_setup_context,
)


def _variant(channels: int, dtype: str = "bf16") -> Variant:
    (part, rest), small = parts_of(channels), dtype == "fp32"
    block = 32 if small else 64
    parameters = ("norm_weight", "norm_bias", "expand_bias", "project_bias", "scale")
    sizes = ("rows", "channels", "hidden", "outputs", "expand_row", "project_row")
    return Variant(
        _mlp_kernel,
        {
            **dict.fromkeys(("x", "expand", "project", "residual", "out"), f"*{dtype}"),
            **dict.fromkeys(parameters, "*fp32"),
            **dict.fromkeys(sizes, "i32"),
            "eps": "fp32",
        },
        {
            "NORM": True,
            "ACTIVATION": "gelu",
            "UNIT": 8,
            "STEPS": 4 * channels // block,
            "ROWS": 32 if small else 128,
            "HIDDEN": block,
            "PART": part,
            "REST": rest,
            "OUT_PART": part,
            "OUT_REST": rest,
        },
        warps=4 if small else 8,
        stages=2,
        label=f"{dtype}, {channels} channels",
    )


VARIANTS = [*(_variant(channels) for channels in (48, 64, 96, 128)), _variant(96, "fp32")]
