"""From stored images to the examples of a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from supernet.augmentation import (
    erased,
    flipped,
    low_frequency,
    mixed,
    normalise,
    randaugment,
    shifted,
    soft_targets,
    transformed,
)
from supernet.curriculum import Phase
from supernet.recipe import Recipe

Box = Callable[[int, int, np.random.Generator], tuple[int, int, int, int]]


class Images(Protocol):
    """Training images in shuffled batches: batch `j` never changes. Of several processes each
    gets its own share of every batch."""

    def batch(self, j: int) -> tuple[Tensor, Tensor]:
        """uint8 (N, 3, R, R) and labels int64 (N,)."""
        ...

    def close(self) -> None:
        """Ends what makes batches ahead."""
        ...


class ResidentImages:
    """Images uint8 (N, 3, R, R) and labels (N,) that lie on the device.

    Batch j holds `batch * ranks` images (fewer where there are not so many, but as many for each
    process), of which the process `rank` gets every `ranks`-th. Each epoch goes through all images
    once, in an order that follows from `seed`; what does not fill a last batch is left out of it.
    ValueError where there are more processes than images.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
    ):
        if len(images) < ranks:
            raise ValueError(f"{len(images)} training images are too few for {ranks} processes")
        self._images, self._labels, self._seed = images, labels, seed
        self._rank, self._ranks = rank, ranks
        # Equal shares, so that the mean over the processes is the mean over the images.
        self._size = min(batch, len(images) // ranks) * ranks

    def batch(self, j: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(j, len(self._images) // self._size)
        order = np.random.default_rng([self._seed, 1, epoch]).permutation(len(self._images))
        rows = order[place * self._size : (place + 1) * self._size][self._rank :: self._ranks]
        chosen = torch.from_numpy(rows).to(self._images.device)
        return self._images[chosen], self._labels[chosen]

    def close(self) -> None:
        pass


class Moved:
    """The images of `source`, each batch brought to `device`."""

    def __init__(self, source: Images, device: torch.device):
        self._source, self._device = source, device

    def batch(self, j: int) -> tuple[Tensor, Tensor]:
        images, labels = self._source.batch(j)
        return self._here(images), self._here(labels)

    def close(self) -> None:
        self._source.close()

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)


class Cropped:
    """The images of `source`, of each a random part, as large as the whole was.

    `box` draws the part of a picture of so many pixels: left, top, right and bottom.
    """

    def __init__(self, source: Images, box: Box, *, seed: int, rank: int = 0):
        self._source, self._box, self._seed, self._rank = source, box, seed, rank

    def batch(self, j: int) -> tuple[Tensor, Tensor]:
        images, labels = self._source.batch(j)
        height, width = images.shape[2:]
        rng = np.random.default_rng([self._seed, 3, j, *([self._rank] if self._rank else [])])
        boxes = np.array([self._box(width, height, rng) for _ in range(len(images))], np.float64)
        matrices = np.zeros((len(images), 2, 3))
        matrices[:, 0, 0] = (boxes[:, 2] - boxes[:, 0]) / width
        matrices[:, 1, 1] = (boxes[:, 3] - boxes[:, 1]) / height
        matrices[:, :, 2] = boxes[:, :2]
        return transformed(images, torch.from_numpy(matrices).float().to(images.device)), labels

    def close(self) -> None:
        self._source.close()


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Normalised float `images` (N, 3, R, R) and `targets` (N, K), the probability of each class:
    one-hot unless labels are smoothed or images mixed; and the batch's `number`."""

    images: Tensor
    targets: Tensor
    number: int = 0


class Batches:
    """Augmented, normalised batches; batch `j` of a process never changes.

    What the recipe asks for, in the order of EfficientTrain (arXiv 2211.09703, section 4): shift,
    mirror, RandAugment, normalise, erase, low-frequency crop, mix.
    """

    def __init__(
        self,
        source: Images,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        settings: Recipe,
        *,
        classes: int,
        seed: int,
        rank: int = 0,
    ):
        self._source, self._mean, self._std = source, mean, std
        self._settings, self._classes, self._seed, self._rank = settings, classes, seed, rank

    def __call__(self, j: int, phase: Phase | None = None) -> Examples:
        """`phase` says how strong RandAugment is and to which side images shrink."""
        settings = self._settings
        images, labels = self._source.batch(j)
        rng = np.random.default_rng([self._seed, 2, j, *([self._rank] if self._rank else [])])
        images = shifted(images, settings.shift, rng)
        if settings.flip:
            images = flipped(images, rng)
        magnitude = settings.randaugment if phase is None else phase.magnitude
        if settings.randaugment:
            images = randaugment(images, rng, magnitude=magnitude)
        pixels = normalise(images, self._mean, self._std)
        if settings.erasing:
            pixels = erased(pixels, settings.erasing, rng)
        if phase is not None and phase.side != pixels.shape[-1]:
            small = low_frequency(pixels, phase.side)
            pixels = small.contiguous(memory_format=torch.channels_last)
        targets = soft_targets(labels, self._classes, settings.label_smoothing)
        if settings.mixup or settings.cutmix:
            pixels, targets = mixed(
                pixels, targets, rng, mixup=settings.mixup, cutmix=settings.cutmix
            )
        return Examples(pixels, targets, j)

    def close(self) -> None:
        """Ends what makes batches ahead."""
        self._source.close()
