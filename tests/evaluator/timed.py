"""A device whose times are known: a runtime without a clock."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from evaluator.runtimes import parts_of
from space import build
from space.device import Device
from space.genome import Genome
from space.part_list import Sited, sited_parts


def part_ms(sited: Sited) -> float:
    """What a part takes: a roofline with an overhead, other for each kind."""
    cost, kind = sited.cost(), len(sited.part.kind)
    return 0.01 * kind + cost.macs / 1e6 + cost.bytes_moved / 1e5


def network_ms(genome: Genome) -> float:
    return 0.3 + sum(part_ms(part) for part in sited_parts(genome))


class Standing(nn.Module):
    """Stands for a network."""

    def __init__(self, genome: Genome):
        super().__init__()
        self.genome = genome


class KnownRunner:
    def __init__(self, runtime: KnownRuntime, genome: Genome):
        self._runtime, self._genome = runtime, genome

    def time(self) -> float:
        return network_ms(self._genome) * self._runtime.factor()

    def time_parts(self) -> list[float]:
        factor = self._runtime.factor()
        return [part_ms(part) * factor for part in sited_parts(self._genome)]


class KnownRuntime:
    """`drift(n)` is how much slower the machine is at its n-th pass; `noise` is relative."""

    def __init__(self, drift: Any = None, noise: float = 0.0, **environment: Any):
        self.device, self.passes = Device(), 0
        self._drift, self._noise = drift or (lambda n: 1.0), noise
        self._rng, self._environment = np.random.default_rng(0), environment

    def factor(self) -> float:
        self.passes += 1
        return self._drift(self.passes) * float(np.exp(self._noise * self._rng.standard_normal()))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        yield

    def fresh(self, genome: Genome) -> nn.Module:
        return Standing(genome)

    def prepare(self, network: Any, shape: tuple[int, int, int, int]) -> KnownRunner:
        return KnownRunner(self, network.genome)

    def environment(self) -> dict[str, Any]:
        return {"device": "known", **self._environment}


def module_ms(module: nn.Module) -> float:
    """What a part takes on a device that counts parameters."""
    return 0.05 + sum(p.numel() for p in module.parameters()) / 1e4


class CountingRunner:
    def __init__(self, network: nn.Module, factor: float):
        self._parts = [module_ms(part) * factor for _, part in parts_of(network)]

    def time(self) -> float:
        return sum(self._parts)

    def time_parts(self) -> list[float]:
        return self._parts


class CountingRuntime(KnownRuntime):
    """A device on which built and exported networks take what their parameters say; those that come
    out of a file take `surprise` times as much."""

    def __init__(self, surprise: float = 1.0, **environment: Any):
        super().__init__(**environment)
        self.surprise, self.exported = surprise, 0

    def fresh(self, genome: Genome) -> nn.Module:
        with torch.device("meta"):
            return build(genome)

    def prepare(self, network: Any, shape: tuple[int, int, int, int]) -> Any:
        ours = type(network).__module__.startswith("space")
        self.exported += not ours
        return CountingRunner(network, 1.0 if ours else self.surprise)
