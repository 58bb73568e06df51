"""A way around strided 1x1 convolutions on CPUs.

Their backward pass writes where it must not, in PyTorch 2.13 with oneDNN, where images or weights
are stored channels last: 3 to 16 channels, 128 x 128 pixels, stride 2 ends with a corrupted heap or
a wrong address, at once or some steps later. Stored channel by channel it is right. Such
convolutions are branches of stems and modules that fold into one (MobileOne, FastViT).
"""

from __future__ import annotations

from typing import Any

from torch import nn


def stored_by_channel(network: nn.Module) -> None:
    """From now on strided 1x1 convolutions of `network` read maps on a CPU channel by channel."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride != (1, 1):
            layer.register_forward_pre_hook(_by_channel)


def _by_channel(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    (x,) = inputs
    return (x.contiguous() if x.device.type == "cpu" else x,)
