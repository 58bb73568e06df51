"""How long networks take on a device, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from evaluator.interleaved import ROUNDS, Timing, interleave
from evaluator.runtimes import Runtime, Shape

TOGETHER = 8  # networks that are in memory at a time, beside the anchor


@dataclass(frozen=True, slots=True)
class Anchor:
    """The network that others are compared with, and the milliseconds that it takes on a quiet
    machine, if that is known."""

    network: nn.Module
    shape: Shape
    ms: float | None = None


def measure(
    runtime: Runtime,
    networks: Mapping[str, Callable[[], nn.Module]],
    shapes: Mapping[str, Shape] | Shape,
    anchor: Anchor,
    *,
    rounds: int = ROUNDS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Timing]:
    """Milliseconds of a pass of each network, by name, at the speed at which the anchor takes what
    it should. Networks are made when it is their turn, by calling them.

    TooNoisy where the machine is too restless to say; ValueError where a network cannot run.
    """
    names, found = list(networks), dict[str, Timing]()
    with runtime.held():
        ruler = runtime.prepare(anchor.network, anchor.shape)
        for begin in range(0, len(names), TOGETHER):

            def tell(done: int, total: int, begun: int = rounds * begin) -> None:
                progress(begun + done, rounds * len(names))

            runners = {
                name: runtime.prepare(
                    networks[name](), shapes[name] if isinstance(shapes, Mapping) else shapes
                ).time
                for name in names[begin : begin + TOGETHER]
            }
            found |= interleave(
                runners, ruler.time, reference=anchor.ms, rounds=rounds, progress=tell
            )
    return found
