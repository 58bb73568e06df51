"""onnxruntime on this machine's processor, with all its optimisations.

As many threads as the device says, or one for each core of this process. They wait actively inside
a pass, as onnxruntime's do by default, and sleep between passes.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import nn

from evaluator.runtimes import parts_of
from evaluator.runtimes.onnx_graph import write_network, write_probe
from evaluator.runtimes.onnx_passes import OnnxRunner, looking_ms
from evaluator.runtimes.torch_cpu import make as make_torch_cpu
from evaluator.runtimes.torch_cpu import on_cores
from space import build
from space.device import Device
from space.genome import Genome
from space.machine import processor
from space.onnx_file import OPSET


class OnnxruntimeCpu:
    """See `evaluator.runtimes.Runtime`."""

    def __init__(self, device: Device):
        self.device, self.threads = device, make_torch_cpu(device).threads

    def held(self) -> AbstractContextManager[None]:
        return on_cores(self.threads)

    def fresh(self, genome: Genome) -> nn.Module:
        return build(genome)

    def prepare(self, network: nn.Module, shape: tuple[int, int, int, int]) -> OnnxRunner:
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        parts = sum(1 for _ in parts_of(network))
        folder = Path(tempfile.mkdtemp(prefix="chimera-"))
        try:
            write_network(network, images, folder / "network.onnx")
            runner = OnnxRunner(
                folder / "network.onnx", parts, images.numpy(), self.threads, self._looking_ms
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(runner, shutil.rmtree, folder, ignore_errors=True)
        return runner

    def environment(self) -> Mapping[str, Any]:
        return {
            "device": processor(),
            "threads": self.threads,
            "onnxruntime": onnxruntime.__version__,
            "opset": OPSET,
            "torch": torch.__version__,  # which writes the files
        }

    @cached_property
    def _looking_ms(self) -> float:
        with tempfile.TemporaryDirectory(prefix="chimera-") as folder:
            probe = Path(folder) / "probe.onnx"
            write_probe(probe)
            return looking_ms(probe, self.threads)


def make(device: Device) -> OnnxruntimeCpu:
    """ValueError where the machine has fewer cores than the device asks for threads."""
    return OnnxruntimeCpu(device)
