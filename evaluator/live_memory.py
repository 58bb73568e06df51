"""Bytes of the tensors that are alive while a module runs, without running it.

The module's operators run on the `meta` device, where tensors have shapes and strides but no
storage. Python and PyTorch let go of them there when they do in earnest, so the sum of the storages
that are alive is that of a real pass: views share a storage, and what works in place makes none.

Counted are outputs and everything in between, also what operators make beside their result
(`evaluator.operator_memory`), such as contiguous copies of inputs, the indices of a max-pool, the
statistics of a norm. Not counted are the working memory of libraries (cuDNN, cuBLAS, oneDNN) and
of single kernels, and numbers that PyTorch wraps as tensors.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from evaluator.operator_memory import COMPOSED, KERNELS, Kind

# Is told of each operator: the part inside which it runs (-1: none), the operator, its arguments
# and its output.
See = Callable[[int, Any, tuple[Any, ...], Mapping[str, Any], Any], None]


@dataclass(frozen=True, slots=True)
class Watched:
    """What a module gives on the meta device, and the most bytes that were alive at one moment
    beside those of its parameters, buffers and inputs; `parts` the most while each of the parts
    ran."""

    output: Any
    peak: int
    parts: tuple[int, ...] = ()


def watch(
    module: nn.Module,
    inputs: Any,
    *,
    kind: Kind,
    rounding: int = 1,
    parts: Sequence[nn.Module] = (),
    see: See | None = None,
) -> Watched:
    """Calls a module in evaluation mode with `inputs`, all on the meta device. Each storage counts
    as the next multiple of `rounding` bytes; `parts` are some of the module's own, which run one
    behind the other. ValueError where PyTorch refuses to run it, as some operators do in 16 bits.
    """
    known = [*module.parameters(), *module.buffers(), inputs]
    watcher = _Watcher(kind, rounding, known, see)
    hooks = [hook for i, part in enumerate(parts) for hook in watcher.hooks(i, part)]
    try:
        with torch.no_grad(), _Composed(kind), watcher:
            output = module(inputs)
    except RuntimeError as error:
        raise ValueError(f"the network cannot run: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return Watched(output, watcher.peak, tuple(watcher.peaks[i] for i in range(len(parts))))


def storages(tensors: Any, rounding: int = 1) -> dict[int, int]:
    """The storages of tensors, in whatever these are nested, and the bytes of each."""
    found = {}
    for tensor in tree_leaves(tensors):
        if isinstance(tensor, Tensor):
            storage = tensor.untyped_storage()
            found[storage._cdata] = -(-storage.nbytes() // rounding) * rounding
    return found


class _Composed(TorchFunctionMode):
    """Has some functions call what they call on a device of `kind`."""

    def __init__(self, kind: Kind):
        super().__init__()
        self.kind = kind

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in COMPOSED:
            return COMPOSED[func](self.kind, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Watcher(TorchDispatchMode):
    """Sees every operator that is not put together from others, and every storage from when it is
    made to when it is let go."""

    def __init__(self, kind: Kind, rounding: int, known: Any, see: See | None):
        super().__init__()
        self.kind, self.rounding, self.see = kind, rounding, see
        self.live = self.peak = 0
        self.peaks: dict[int, int] = {}  # of each part
        self._part, self._before = -1, 0
        self._known = set(storages(known))

    def hooks(self, number: int, part: nn.Module) -> Iterator[Any]:
        def begin(*_: Any) -> None:
            self._part, self._before, self.peak = number, self.peak, self.live

        def end(*_: Any) -> None:
            self.peaks[number] = self.peak
            self._part, self.peak = -1, max(self._before, self.peak)

        yield part.register_forward_pre_hook(begin)
        yield part.register_forward_hook(end)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        rule, beside = KERNELS.get(func), 0
        if rule is None:
            output = func(*args, **kwargs)
        else:
            output, made = rule(self.kind, func, *args, **kwargs)
            beside = sum(storages(made, self.rounding).values())
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._hold(tensor)
        self.peak = max(self.peak, self.live + beside)
        if self.see is not None:
            self.see(self._part, func, args, kwargs, output)
        return output

    def _hold(self, tensor: Tensor) -> None:
        ((key, count),) = storages(tensor, self.rounding).items()
        if key not in self._known:
            self._known.add(key)
            self.live += count
            weakref.finalize(tensor.untyped_storage(), self._let_go, key, count)

    def _let_go(self, key: int, count: int) -> None:
        self._known.discard(key)
        self.live -= count
