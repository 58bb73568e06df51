"""What the operators of a network compute and move in one pass, without running it.

An operator reads every number that it is given, weights too, and writes every number that it gives,
once each: what fits no cache. Views cost nothing. FLOPs are those of convolutions and products, two
for each multiply-add, as PyTorch counts them. All operators are in it, also norms, activations and
copies; `space.cost` counts the layers of a genome alone, for one image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from evaluator.live_memory import storages, watch
from evaluator.memory import dtype_of, kind_of
from space.device import Device


@dataclass(frozen=True, slots=True)
class Work:
    """One operator's; `part` is the number of the part inside which it runs, -1 outside of all."""

    operator: str
    part: int
    flops: int
    bytes: int


def work_of(
    network: nn.Module,
    parts: Sequence[nn.Module],
    shape: tuple[int, int, int, int],
    device: Device,
) -> list[Work]:
    """That of a network on the meta device, which is brought to the device's type, for inputs of
    `shape`, in the order in which it is done; `parts` are some of its modules, each of which runs
    once."""
    found: list[Work] = []

    def see(part: int, op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        given, made = _tensors([*args, *kwargs.values()]), _tensors(out)
        is_view = not op._schema.is_mutable and storages(made).keys() <= storages(given).keys()
        if is_view or (not given and op.__name__.startswith("empty")):
            return
        moved = sum(map(_bytes, given)) + sum(map(_bytes, made))
        found.append(Work(str(op._overloadpacket), part, _flops(op, args, kwargs, out), moved))

    network = network.to(dtype_of(device)).eval()
    images = torch.empty(shape, dtype=dtype_of(device), device="meta")
    watch(network, images, kind=kind_of(device), parts=parts, see=see)
    return found


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _bytes(x: Tensor) -> int:
    """Of different numbers: an expanded side is one."""
    sides = (side for side, step in zip(x.shape, x.stride(), strict=True) if step or side == 0)
    return math.prod(sides) * x.element_size()


def _flops(op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    if op is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
        return int(sdpa_flop_count(*(x.shape for x in args[:3])))
    count = flop_registry.get(op._overloadpacket)
    return 0 if count is None else int(count(*args, **kwargs, out_val=out))
