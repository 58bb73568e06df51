"""Training a supernet: the sandwich rule with in-place distillation.

Each step trains four networks on one batch: the largest on the labels, then the smallest and
`random` sampled ones on the largest one's predictions (Yu and Huang, 2019, arXiv 1903.05134,
sections 3.2 and 3.3). All gradients are summed into the shared weights before one AdamW step.

Whatever is random in a step follows from the seed and the step's number alone. So a training that
was stopped and goes on from a checkpoint ends with the weights of one that never stopped.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from space.cost_table import CostTable
from space.genome import Genome
from supernet.network import Supernet


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How a supernet is trained."""

    steps: int = 430
    batch: int = 32
    random: int = 2  # networks per step beside the largest and the smallest
    learning_rate: float = 8e-3  # at the peak; linear warm-up, then cosine to zero
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.05
    clip: float = 1.0  # largest norm of the summed gradient
    shift: float = 0.0  # images move by up to this share of their side
    flip: bool = True  # mirror half of the images


class Batches:
    """Shuffled, augmented batches of uint8 images (N, 3, R, R); batch `step` never changes."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        settings: TrainingSettings,
        seed: int,
    ):
        self._images, self._labels = images, labels
        self._mean, self._std = mean, std
        self._settings, self._seed = settings, seed
        self._size = min(settings.batch, len(images))

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        per_epoch = len(self._images) // self._size
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng([self._seed, 1, epoch]).permutation(len(self._images))
        chosen = torch.from_numpy(order[place * self._size : (place + 1) * self._size])
        rng = np.random.default_rng([self._seed, 2, step])
        images = _shifted(self._images[chosen], self._settings.shift, rng)
        if self._settings.flip:
            mirrored = torch.from_numpy(rng.random(len(images)) < 0.5).to(images.device)
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        return normalise(images, self._mean, self._std), self._labels[chosen]

    def plain(self, count: int) -> Tensor:
        """The first `count` images, normalised and not augmented."""
        return normalise(self._images[:count], self._mean, self._std)


def _shifted(images: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Each image moved by up to `share` of its side; what comes in repeats the border."""
    side = images.shape[-1]
    reach = int(share * side)
    if reach == 0:
        return images
    offsets = torch.from_numpy(rng.integers(-reach, reach + 1, (2, len(images), 1)))
    rows, columns = (torch.arange(side) + offsets).clamp(0, side - 1).to(images.device)
    each = torch.arange(len(images), device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return images[each, channel, rows[:, None, :, None], columns[:, None, None, :]]


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (N, C, H, W) to float32 of zero mean and unit deviation, stored channels last."""
    shape = (1, -1, 1, 1)
    scaled = images.to(memory_format=torch.channels_last).float() / 255
    middle = torch.tensor(mean, device=images.device).view(shape)
    return (scaled - middle) / torch.tensor(std, device=images.device).view(shape)


class _Backward:
    """Runs backward passes in order, on a CPU in a thread beside the next forward pass.

    Small networks spend their forward passes in Python and their backward passes outside it, so
    the two overlap. One thread adds up all gradients, in a fixed order, so the result is the same.
    """

    def __init__(self, device: torch.device):
        self._pool = ThreadPoolExecutor(1) if device.type == "cpu" else None
        self._waiting: list[Future[None]] = []

    def __call__(self, loss: Tensor) -> None:
        if self._pool is None:
            loss.backward()
        else:
            self._waiting.append(self._pool.submit(loss.backward))

    def __enter__(self) -> _Backward:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            # Not by joining the thread: an interrupt there has Python 3.11 take it for ended, and
            # abort at exit because it is not.
            wait(self._waiting)
            self._pool.shutdown()
        for done in self._waiting:
            done.result()


class Trainer:
    """Trains `supernet`; `step` is the number of steps done."""

    def __init__(
        self, supernet: Supernet, batches: Batches, settings: TrainingSettings, *, seed: int
    ):
        self.supernet, self.settings, self.step = supernet, settings, 0
        self.losses: list[float] = []  # of the largest network, one a step
        self._batches, self._seed = batches, seed
        space = supernet.space
        table = CostTable(space)
        self.largest = space.decode(table.extreme("macs", largest=True))
        self.smallest = space.decode(table.extreme("macs", largest=False))
        decayed = [w for w in supernet.weights.values() if w.ndim > 1]
        plain = [w for w in supernet.weights.values() if w.ndim <= 1]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            fused=True,
        )

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to zero."""
        total, warm = self.settings.steps, max(1, round(self.settings.warmup * self.settings.steps))
        if step < warm:
            return self.settings.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, total - warm)
        return self.settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def sampled(self, step: int) -> list[Genome]:
        """The networks of a step that are drawn at random."""
        space = self.supernet.space
        rng = np.random.default_rng([self._seed, 3, step])
        return [space.decode(row) for row in space.sample_codes(rng, self.settings.random)]

    def calibration_images(self, count: int) -> Tensor:
        """The first `count` training images, normalised and not augmented."""
        return self._batches.plain(count)

    def train_step(self) -> float:
        """One step; returns the loss of the largest network."""
        images, labels = self._batches(self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self._optimizer.zero_grad(set_to_none=True)
        with _Backward(self.supernet.device) as backward:
            logits = self.supernet(self.largest, images, training=True)
            loss = F.cross_entropy(logits, labels)
            backward(loss)
            target = self._soft_labels(labels, logits.detach())
            for genome in (self.smallest, *self.sampled(self.step)):
                logits = self.supernet(genome, images, training=True)
                backward(F.cross_entropy(logits, target))
        torch.nn.utils.clip_grad_norm_(self.supernet.weights.values(), self.settings.clip)
        self._optimizer.step()
        self.step += 1
        self.losses.append(float(loss.detach()))
        return self.losses[-1]

    def _soft_labels(self, labels: Tensor, teacher: Tensor) -> Tensor:
        """The labels, giving way to the largest network's predictions as it learns."""
        trust = self.step / self.settings.steps
        return trust * teacher.softmax(1) + (1 - trust) * F.one_hot(labels, teacher.shape[1])

    def run(
        self,
        checkpoint: Path | None = None,
        *,
        every_seconds: float = 15.0,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> None:
        """Trains to the end, with a checkpoint from time to time and one when done.

        `progress` gets steps done, steps in all, and the loss. An interrupt leaves the last
        checkpoint, which `load` takes back.
        """
        saved = time.monotonic()
        while self.step < self.settings.steps:
            loss = self.train_step()
            if progress is not None:
                progress(self.step, self.settings.steps, loss)
            done = self.step == self.settings.steps
            if checkpoint is not None and (done or time.monotonic() - saved > every_seconds):
                self.save(checkpoint)
                saved = time.monotonic()

    # ---- checkpoints: tensors in safetensors, the rest as JSON in its header

    def save(self, path: Path) -> None:
        """Writes a checkpoint in one piece: whoever reads `path` sees the old one or the new."""
        tensors: dict[str, Tensor] = {}
        for name, weight in self.supernet.weights.items():
            tensors[f"weight:{name}"] = weight.detach().contiguous()
            for key, value in self._optimizer.state.get(weight, {}).items():
                tensors[f"{key}:{name}"] = value.contiguous()
        header = {
            "step": self.step,
            "seed": self._seed,
            "losses": self.losses,
            "settings": asdict(self.settings),
        }
        partial = path.with_suffix(".partial")
        try:
            save_file(tensors, partial, metadata={"training": json.dumps(header)})
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def load(self, path: Path) -> None:
        """Goes on from a checkpoint; ValueError where it is broken or of another training."""
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["training"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a checkpoint of a supernet: {error}") from None
        if header["settings"] != asdict(self.settings) or header["seed"] != self._seed:
            raise ValueError(f"{path} was trained with other settings: {header['settings']}")
        state: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            kind, _, name = key.partition(":")
            state.setdefault(name, {})[kind] = tensor
        self.supernet.load({name: held["weight"] for name, held in state.items()})
        for name, weight in self.supernet.weights.items():
            held = {k: _stored_as(weight, v) for k, v in state[name].items() if k != "weight"}
            if held:
                self._optimizer.state[weight] = held
        self.step, self.losses = header["step"], header["losses"]


def _stored_as(weight: Tensor, value: Tensor) -> Tensor:
    """A moment of the optimiser in the memory layout of its weight: the fused AdamW goes through
    both as they are stored, and a checkpoint has no layout. A count of steps stays as it is."""
    if value.shape != weight.shape:
        return value.to(weight.device)
    return torch.empty_like(weight, requires_grad=False).copy_(value)
