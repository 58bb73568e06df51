"""Writes networks as ONNX files."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

EXTRA = "pip install chimera-nas[export]"
OPSET = 20  # the first with a GELU; onnxruntime makes one of its formula only now and then
INPUT, OUTPUT = "images", "logits"
ONE_FILE_BYTES = 2**31 - 2**20  # one protobuf message ends at 2 GiB


def require_onnx(*more: str) -> None:
    """ValueError where a package that it takes is not installed; `more` names others."""
    names = ("onnx", "onnxscript", *more)
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"an ONNX export needs {' and '.join(missing)}: {EXTRA}")


def write_onnx(network: nn.Module, images: Tensor, path: Path, *, any_batch: bool) -> None:
    """Writes `network` in evaluation mode for inputs as `images`, or for any number of them."""
    size = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    # The fused kernel's output has strides that its decomposition does not; views then fail.
    with sdpa_kernel(SDPBackend.MATH), _quiet():
        torch.onnx.export(
            network,
            (images,),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},) if any_batch else None,
            external_data=size > ONE_FILE_BYTES,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of packages that it could also use."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
