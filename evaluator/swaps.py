"""First-order predictions: what the score of a network does when one part is exchanged.

One forward and one backward pass of a parent give the activations x_i that go into each part, those
y_i that come out, and the gradient g_i of the score with respect to y_i. A part b in the place of
part i then changes the score by about <g_i, b(x_i) - y_i>, which costs one pass through b alone.
It is a linearisation (as in Molchanov et al., 2017, arXiv 1611.06440, section 2.2, who take parts
away rather than exchange them), and says nothing of what a large change does further on. How well
it orders neighbours is measured in `benchmarks/scoring.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from space.genome import Genome, Placed


class Parts(Protocol):
    """What this needs of a supernet."""

    def branch_of(self, genome: Genome) -> str: ...

    def shrunk(self, images: Tensor, side: int) -> Tensor: ...

    def run(
        self,
        placed: Placed,
        x: Tensor,
        *,
        training: bool = False,
        buffers: Mapping[str, Tensor] | None = None,
        branch: str = "",
    ) -> Tensor: ...


def swap_scores(
    weights: Parts,
    parent: Genome,
    neighbours: Sequence[Genome],
    images: Tensor,
    labels: Tensor,
    *,
    buffers: Mapping[str, Any] | None = None,
) -> list[float | None]:
    """By how much the score of each neighbour is above the parent's, to first order.

    `images` (N, 3, R, R) are normalised, `labels` (N,). A neighbour gets None where it differs
    from the parent in more than one part, or in the shape of what a part gives. `buffers` are the
    running statistics of parts that have some (`Supernet.calibrate`), by path.
    """
    path = list(parent.parts())
    branch = weights.branch_of(parent)
    kept = buffers or {}
    given: list[Tensor] = []
    made: list[Tensor] = []
    with torch.enable_grad():
        x = weights.shrunk(images, parent.resolution).requires_grad_()
        for placed in path:
            given.append(x.detach())
            x = weights.run(placed, x, buffers=kept.get(placed.path), branch=branch)
            made.append(x)
        score = x.softmax(1).gather(1, labels[:, None]).mean()
        gradients = torch.autograd.grad(score, made)
    return [
        _predicted(weights, path, list(other.parts()), given, made, gradients, kept, branch)
        if weights.branch_of(other) == branch and other.resolution == parent.resolution
        else None
        for other in neighbours
    ]


@torch.no_grad()
def _predicted(
    weights: Parts,
    path: Sequence[Placed],
    other: Sequence[Placed],
    given: Sequence[Tensor],
    made: Sequence[Tensor],
    gradients: Sequence[Tensor],
    buffers: Mapping[str, Any],
    branch: str,
) -> float | None:
    if len(path) != len(other):
        return _added(weights, path, other, made, gradients, buffers, branch)
    places = [i for i, (a, b) in enumerate(zip(path, other, strict=True)) if a != b]
    if len(places) != 1:
        return 0.0 if not places else None
    (i,) = places
    if other[i].path != path[i].path:
        return None
    y = weights.run(other[i], given[i], buffers=buffers.get(other[i].path), branch=branch)
    if y.shape != made[i].shape:
        return None
    return float((gradients[i] * (y - made[i])).sum())


def _added(
    weights: Parts,
    path: Sequence[Placed],
    other: Sequence[Placed],
    made: Sequence[Tensor],
    gradients: Sequence[Tensor],
    buffers: Mapping[str, Any],
    branch: str,
) -> float | None:
    """The same for one part more, or one less, that keeps the shape of the map."""
    longer, shorter = (other, path) if len(other) > len(path) else (path, other)
    extra = [i for i, placed in enumerate(longer) if placed not in shorter]
    if len(longer) != len(shorter) + 1 or len(extra) != 1 or extra[0] == 0:
        return None
    (i,) = extra
    if longer is path:  # it goes: what went in goes on in its place
        if made[i - 1].shape != made[i].shape:
            return None
        return float((gradients[i] * (made[i - 1] - made[i])).sum())
    x = made[i - 1]
    y = weights.run(other[i], x, buffers=buffers.get(other[i].path), branch=branch)
    if y.shape != x.shape:
        return None
    return float((gradients[i - 1] * (y - x)).sum())
