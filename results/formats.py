"""Files in which a network runs without its source, each run and compared when it is written.

| format | file | what reads it |
|---|---|---|
| `onnx` | `model.onnx` | ONNX runtimes; any number of images |
| `torch-export` | `model.pt2` | `torch.export.load`, AOTInductor; any number of images |
| `torchscript` | `model.torchscript.pt` | `torch.jit.load` and libtorch; PyTorch deprecates it |
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from space.onnx_file import INPUT, OUTPUT, require_onnx, write_onnx

# Of the largest logit, or of 1 where that is smaller: other kernels add in another order.
TOLERANCE = 1e-4
BATCHES = (2, 1, 3)  # images in what is compared; traced with the first

Outputs = Callable[[Tensor], Tensor]


def require(formats: Sequence[str]) -> None:
    """ValueError where a format is not known, or a package that it takes is not installed."""
    for name in formats:
        if name not in WRITERS:
            raise ValueError(f"format is {name!r}, but must be one of {', '.join(WRITERS)}")
    if "onnx" in formats:
        require_onnx()


def write_format(name: str, network: nn.Module, image: Tensor, folder: Path) -> float | None:
    """Writes `network`, which is in evaluation mode, into `folder`, runs what was written on random
    images of the shape of `image` (1, C, H, W), and gives the largest difference of a logit; None
    where nothing here can run it.

    RuntimeError where the difference is larger than `TOLERANCE`, or the network has no such form.
    """
    batches = [torch.randn(count, *image.shape[1:]) for count in BATCHES]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [network(images) for images in batches]
        try:
            outputs = WRITERS[name](network, batches[0], folder / FILES[name])
        except Exception as error:  # whatever PyTorch's exporters raise
            first = str(error).strip().partition("\n")[0]
            raise RuntimeError(f"{FILES[name]} cannot be made: {first}") from error
        if outputs is None:
            return None
        found = [outputs(images) for images in batches]
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        difference = (ours - theirs).abs().max().item()
        allowed = TOLERANCE * max(1.0, theirs.abs().max().item())
        if not difference <= allowed:
            raise RuntimeError(
                f"{FILES[name]}: logits of {len(theirs)} images differ by {difference:.1e}, more "
                f"than {allowed:.1e}"
            )
        worst = max(worst, difference)
    return worst


def _onnx(network: nn.Module, images: Tensor, path: Path) -> Outputs | None:
    write_onnx(network, images, path, any_batch=True)
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime  # an optional dependency

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def outputs(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
        return torch.from_numpy(logits)

    return outputs


def _torch_export(network: nn.Module, images: Tensor, path: Path) -> Outputs:
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (images,), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    loaded: Outputs = torch.export.load(path).module()
    return loaded


def _torchscript(network: nn.Module, images: Tensor, path: Path) -> Outputs:
    torch.jit.trace(network, images).save(str(path))
    loaded: Outputs = torch.jit.load(str(path))
    return loaded


WRITERS: dict[str, Callable[[nn.Module, Tensor, Path], Outputs | None]] = {
    "onnx": _onnx,
    "torch-export": _torch_export,
    "torchscript": _torchscript,
}
FILES = {
    "onnx": "model.onnx",
    "torch-export": "model.pt2",
    "torchscript": "model.torchscript.pt",
}
