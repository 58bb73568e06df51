"""Training of one network at its own size: what is added to a training alone.

A curriculum's smaller images go through the network that the genome is at their size, whose
parameters are cut out of the network's own, as a supernet's are (`space.slicing`); most are the
same. Stochastic depth comes from hooks, distillation from a teacher's logits for the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from space.genome import Genome, Placed
from space.network import Network, build
from space.slicing import Axes, Cut, describe
from supernet.batches import Batches, Examples
from supernet.curriculum import Curriculum, make_curriculum
from supernet.losses import soft_cross_entropy, taught
from supernet.recipe import NetworkRecipe, Recipe
from supernet.stochastic_depth import StochasticDepth
from supernet.strided import stored_by_channel
from supernet.training import AloneTrainer, Group


class Teacher:
    """A trained network that is asked, and learns nothing. It sees the student's images at its own
    resolution."""

    def __init__(self, network: nn.Module, resolution: int):
        self._network = network.eval().requires_grad_(False)
        self._resolution = resolution

    def to(self, device: torch.device) -> Teacher:
        self._network.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K) of normalised images (N, 3, R, R)."""
        if images.shape[-1] != self._resolution:
            size = (self._resolution, self._resolution)
            images = F.interpolate(
                images, size, mode="bilinear", antialias=True, align_corners=False
            )
        return self._network(images)


@dataclass(frozen=True, slots=True, eq=False)
class Smaller:
    """A network for smaller images than another: its parts by their paths, without storage, and for
    each parameter how it is cut out of the other's."""

    network: nn.Module
    parts: Mapping[str, nn.Module]
    cuts: Mapping[str, Mapping[str, Cut]]


def smaller(genome: Genome, side: int) -> Smaller:
    """Of `genome`, for images of `side` pixels. ValueError where it cannot be."""
    other = genome.at(resolution=side)
    with torch.device("meta"):
        whole, network = build(genome), build(other)
    parts, cuts = {}, {}
    for own, placed in zip(genome.parts(), other.parts(), strict=True):
        path = placed.path
        parts[path] = network.get_submodule(path)
        here, there = _axes(placed, parts[path]), _axes(own, whole.get_submodule(path))
        try:
            cuts[path] = {name: Cut.between(here[name], there[name]) for name in here}
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} cannot be at {side} pixels: {error}") from None
    return Smaller(network, parts, cuts)


def _axes(placed: Placed, module: nn.Module) -> Mapping[str, Axes]:
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    return describe(shapes, placed.part.blueprint(placed.site).axes)


def curriculum_of(genome: Genome, recipe: Recipe) -> Curriculum:
    """What a network is trained by."""
    return make_curriculum(
        recipe.curriculum,
        side=genome.resolution,
        multiple=multiple_of(genome),
        steps=recipe.steps,
        magnitude=recipe.randaugment,
    )


def multiple_of(genome: Genome) -> int:
    """What the sides of smaller images are multiples of: the total stride, so that no map is cut
    off, unless that leaves fewer than four sides; then the stem's."""
    stride: int = genome.stem.stride  # type: ignore[attr-defined]
    return genome.total_stride if genome.resolution >= 4 * genome.total_stride else stride


def check_sides(genome: Genome, recipe: Recipe) -> None:
    """ValueError where the network cannot work on images as small as the curriculum's."""
    phases = curriculum_of(genome, recipe).phases
    for side in sorted({phase.side for phase in phases} - {genome.resolution}):
        try:
            smaller(genome, side)
        except ValueError as error:
            raise ValueError(
                f"curriculum is {recipe.curriculum!r}, but it needs smaller images than the "
                f"network can work on, of {side} pixels: {error}; use --curriculum none"
            ) from None


class NetworkTrainer(AloneTrainer):
    """Trains the network of `genome` by the whole of `settings`, from fresh weights or from those
    of `start`, a state dict without statistics. `of` is what else another training would have to
    share to go on from a checkpoint of this one."""

    settings: NetworkRecipe

    def __init__(
        self,
        genome: Genome,
        batches: Batches,
        settings: NetworkRecipe,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        group: Group | None = None,
        teacher: Callable[[Tensor], Tensor] | None = None,
        start: Mapping[str, Tensor] | None = None,
        of: Mapping[str, Any] | None = None,
    ):
        super().__init__(genome, batches, settings, seed=seed, device=device, group=group)
        self._teacher, self._of = teacher, dict(of or {})
        if start is not None:
            self._start_from(start)
        self._depth = StochasticDepth(genome, settings.drop_path)
        self._depth.attach(self.network)
        self._smaller: dict[int, Smaller] = {}

    def _placed(self, network: Network, device: torch.device) -> Network:
        """Channels last, as the images are; on a CPU that gains little, see `supernet.strided`."""
        if device.type == "cpu":
            return super()._placed(network, device)
        return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _multiple(self, genome: Genome) -> int:
        return multiple_of(genome)

    def _followed(self, settings: Recipe) -> Recipe:
        return settings

    def _start_from(self, weights: Mapping[str, Tensor]) -> None:
        self._check_weights({n: weights.get(n) for n in (*self._parameters, *weights)})
        with torch.no_grad():
            for name, weight in self._parameters.items():
                weight.copy_(weights[name])
                if self._average:
                    self._average[name].copy_(weight)

    # ---- one pass

    def _add_gradients(self, examples: Examples, backward: Callable[[Tensor], None]) -> Tensor:
        images = examples.images
        rng = np.random.default_rng([self._seed, 4, examples.number, self.group.rank])
        # As long as the backward pass, which may compute parts again.
        with self._depth.drawn(rng, len(images), images.device):
            return super()._add_gradients(examples, backward)

    def _loss(self, examples: Examples) -> Tensor:
        images, settings = examples.images, self.settings
        with self._precision():
            logits = self._logits(images)
        loss = soft_cross_entropy(logits, examples.targets)
        if self._teacher is None:
            return loss
        with self._precision():
            teacher = self._teacher(images)
        lesson = taught(logits, teacher, settings.distillation, settings.temperature)
        return (1 - settings.teaching) * loss + settings.teaching * lesson

    def _logits(self, images: Tensor) -> Tensor:
        """Of images of any size of the curriculum."""
        side = images.shape[-1]
        if side == self.genome.resolution and not self.settings.checkpointing:
            return self.network(images)
        x = images
        for placed in self.genome.parts():
            run = self._part(placed.path, side)
            if self.settings.checkpointing:
                x = checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = run(x)
        return x

    def _part(self, path: str, side: int) -> Callable[[Tensor], Tensor]:
        """A part for images of `side` pixels, with the weights of the network."""
        own = self.network.get_submodule(path)
        if side == self.genome.resolution:
            return own
        if side not in self._smaller:
            self._smaller[side] = smaller(self.genome, side)
            stored_by_channel(self._smaller[side].network)
            self._depth.attach(self._smaller[side].network.train())
        module, cuts = self._smaller[side].parts[path], self._smaller[side].cuts[path]

        def run(x: Tensor) -> Tensor:
            tensors = {name: cuts[name](weight) for name, weight in own.named_parameters()}
            return functional_call(module, tensors | dict(own.named_buffers()), (x,))

        return run

    # ---- checkpoints

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), **self._of}
