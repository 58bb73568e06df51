"""A supernet that is trained: its candidates' parts with their weights cut out once and for all.

While weights change, each part takes its cuts anew in every pass (`Supernet.run`). Here they stay,
so a part is a module of its own that holds them: filters in one piece, as a convolution wants them,
and linear layers as views of the large weight. What a part computes is the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from space.genome import Genome, Placed
from supernet.network import Supernet, stored

LIMIT = 256 * 2**20  # bytes of weights that are copies and not views


class FrozenParts:
    """Parts of the networks of `supernet` for scoring (`evaluator.population.Parts`).

    The weights are those of the moment when a part is first asked for: make another of these once
    they have changed. With `dtype` weights and images are cast to it. With `kernels`, layers run on
    kernels of our own where these can do them (`supernet.kernels`). Up to `limit` bytes of weights
    are held beside the supernet's own; what was not asked for longest goes.
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        dtype: torch.dtype | None = None,
        kernels: bool = False,
        limit: int = LIMIT,
    ):
        self._supernet, self._dtype, self._kernels = supernet, dtype, kernels
        self._limit, self._bytes = limit, 0
        self._modules: OrderedDict[tuple[Placed, str], tuple[nn.Module, int]] = OrderedDict()

    def branch_of(self, genome: Genome) -> str:
        return self._supernet.branch_of(genome)

    def shrunk(self, images: Tensor, side: int) -> Tensor:
        found = self._supernet.shrunk(images, side)
        return found if self._dtype is None else found.to(self._dtype)

    def statistics(self, placed: Placed) -> dict[str, Tensor] | None:
        return self._supernet.statistics(placed)

    def run(
        self,
        placed: Placed,
        x: Tensor,
        *,
        training: bool = False,
        buffers: Mapping[str, Tensor] | None = None,
        branch: str = "",
    ) -> Tensor:
        """One part on its input map; `training` has norms go by the statistics of the batch and
        add them to `buffers`."""
        module = self.module(placed, branch)
        if buffers is not None:
            for name, value in buffers.items():
                owner, _, own = name.rpartition(".")
                module.get_submodule(owner)._buffers[own] = value
        if module.training != training:
            module.train(training)
        return module(x)

    def module(self, placed: Placed, branch: str = "") -> nn.Module:
        """The part as a module with its weights."""
        key = (placed, branch)
        found = self._modules.get(key)
        if found is None:
            found = self._modules[key] = self._made(placed, branch)
            self._bytes += found[1]
            while self._bytes > self._limit and len(self._modules) > 1:
                _, (_, size) = self._modules.popitem(last=False)
                self._bytes -= size
        else:
            self._modules.move_to_end(key)
        return found[0]

    @torch.no_grad()
    def _made(self, placed: Placed, branch: str) -> tuple[nn.Module, int]:
        """The module, and the bytes of its weights that are not views."""
        prepared = self._supernet.prepare(placed)
        module, size = _copied(prepared.module, {}).eval(), 0
        for name, (full, cut) in prepared.cuts.items():
            large = self._supernet.weights[branch + full].detach()
            weight = stored(cut(large)) if large.ndim == 4 else cut(large)
            weight = weight if self._dtype is None else weight.to(self._dtype)
            if weight.untyped_storage().data_ptr() != large.untyped_storage().data_ptr():
                size += weight.numel() * weight.element_size()
            owner, _, own = name.rpartition(".")
            parameter = nn.Parameter(weight, requires_grad=False)
            module.get_submodule(owner)._parameters[own] = parameter
        if self._kernels:
            from supernet.kernels.twins import accelerate  # needs Triton

            accelerate(module)
        return module, size


def _copied(module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    """The module with places of its own for parameters and buffers, all else shared; as
    `copy.deepcopy`, which takes a hundred times as long."""
    found = known.get(id(module))
    if found is None:
        found = known[id(module)] = object.__new__(type(module))
        found.__dict__.update(module.__dict__)
        found._parameters = dict(module._parameters)
        found._buffers = dict(module._buffers)
        found._modules = {
            name: None if child is None else _copied(child, known)
            for name, child in module._modules.items()
        }
    return found
