"""What a network makes of each image, from its logits: two numbers an image, one pass, nothing that
waits for the device. A search that compares candidates on the same images adds them up.

Shapes: B images, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from supernet.kernels.registration import Variant, register

MOST_COLUMNS = 1024  # classes that a program reads at once
NUMBERS = 2048  # logits that a program reads at once


def outcomes_reference(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probability of the true class, (B,) float32, and whether no class is likelier, (B,)
    bool; logits (B, K), labels (B,) from 0 to K - 1.

    Of several classes that are likeliest the first counts, as in `Tensor.argmax`. Where a
    probability is not a number, which one logit of NaN or infinity does, the image is not right.
    Computed in float32, or float64 if the logits are.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_p = wide.log_softmax(1).gather(1, labels[:, None])[:, 0]
    right = (wide.argmax(1) == labels) & ~log_p.isnan()
    return log_p.float(), right


@triton.jit(do_not_specialize=["images", "classes", "row"])
def _outcomes_kernel(
    logits, labels, log_p, right, images, classes, row,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """A program does ROWS images, in STEPS of COLUMNS classes; rows of logits lie `row` apart."""
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = i < images
    label = tl.load(labels + i, mask=there, other=0)
    # A label that is no class has no probability.
    known = there & (label >= 0) & (label < classes)
    true = tl.load(logits + i * row + label, mask=known, other=float("nan")).to(tl.float32)
    most = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    ahead = tl.zeros((ROWS,), tl.int32)  # classes that come before the true one in the order
    for step in range(STEPS):
        j = step * COLUMNS + tl.arange(0, COLUMNS)
        inside = there[:, None] & (j < classes)[None, :]
        where = logits + (i * row)[:, None] + j[None, :]
        value = tl.load(where, mask=inside, other=float("-inf")).to(tl.float32)
        larger = tl.maximum(most, tl.max(value, 1))
        # Where all so far are -inf, nothing is taken off: -inf - -inf is NaN.
        shift = tl.where(larger == float("-inf"), 0.0, larger)
        total = total * tl.exp(most - shift) + tl.sum(tl.exp(value - shift[:, None]), 1)
        most = larger
        first = (value == true[:, None]) & (j[None, :] < label[:, None])
        ahead += tl.sum(((value > true[:, None]) | first).to(tl.int32), 1)
    shift = tl.where(most == float("-inf"), 0.0, most)
    # log(0) - inf where all logits are -inf: as log_softmax, NaN.
    found = (true - shift) - tl.log(total)
    tl.store(log_p + i, found, mask=there)
    tl.store(right + i, (ahead == 0) & (found == found), mask=there)


def _fake(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    count = logits.shape[:1]
    return logits.new_empty(count, dtype=torch.float32), logits.new_empty(count, dtype=torch.bool)


def _launch(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    images, classes = logits.shape
    log_p, right = _fake(logits, labels)
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    columns = min(MOST_COLUMNS, triton.next_power_of_2(classes))
    rows = min(NUMBERS // columns, triton.next_power_of_2(images))
    if images:
        _outcomes_kernel[(triton.cdiv(images, rows),)](
            logits, labels.contiguous(), log_p, right, images, classes, logits.stride(0),
            ROWS=rows, COLUMNS=columns, STEPS=triton.cdiv(classes, columns),
        )  # fmt: skip
    return log_p, right


def _flops(*_: Any, **__: Any) -> int:
    return 0  # as PyTorch counts: element-wise work is not counted


outcomes = register(
    "outcomes",
    "(Tensor logits, Tensor labels) -> (Tensor, Tensor)",
    launch=_launch,
    reference=outcomes_reference,
    fake=_fake,
    flops=_flops,
)

VARIANTS = [
    Variant(
        _outcomes_kernel,
        {
            "logits": "*bf16",
            "labels": "*i64",
            "log_p": "*fp32",
            "right": "*i1",
            **dict.fromkeys(("images", "classes", "row"), "i32"),
        },
        {"ROWS": 2, "COLUMNS": 1024, "STEPS": 1},
        label="bfloat16, 1000 classes",
    )
]
