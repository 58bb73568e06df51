"""Networks at their own size: what trains them, in this process and in others.

Everything but images and inherited weights is plain data, so that another process makes the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from commands.alone import look
from commands.export import by_genome
from commands.job import DataSource, make_images
from commands.options import load_plugins
from commands.zoo import read_genome
from evaluator.data import ImageData, Split
from evaluator.interfaces import Score
from space.genome import Genome
from space.network import build
from supernet.batches import Batches
from supernet.network_training import NetworkTrainer, Teacher
from supernet.recipe import NetworkRecipe
from supernet.training import Alone, AloneTrainer, Group

CALIBRATION_IMAGES = 4096  # training images for the running statistics of BatchNorm, in the end
CALIBRATION_MEANWHILE = 512
MOST_AT_ONCE = 256  # images that are in memory when a network is looked at
WEIGHTS = "weights.safetensors"
State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherFile:
    """A trained network on the disk."""

    genome: Mapping[str, Any]
    weights: str
    digest: str  # of the weights

    def load(self, device: torch.device) -> Teacher:
        genome = Genome.from_json(self.genome)
        network = build(genome)
        network.load_state_dict(read_state(genome, Path(self.weights)))
        return Teacher(network, genome.resolution).to(device)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSize:
    """How networks are trained, and on what. `started` says what weights they start from, where
    these are not fresh."""

    source: DataSource
    recipe: NetworkRecipe
    seed: int
    teacher: TeacherFile | None = None
    started: Mapping[str, str] = field(default_factory=dict)  # digest of a genome -> of weights
    logs: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        plain = dataclasses.asdict(self) | {"recipe": self.recipe.to_plain()}
        return plain | {"logs": list(self.logs), "plugins": list(self.plugins)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> OwnSize:
        teacher = plain["teacher"]
        return cls(
            source=DataSource(**plain["source"]),
            recipe=NetworkRecipe.from_plain(plain["recipe"]),
            seed=plain["seed"],
            teacher=None if teacher is None else TeacherFile(**teacher),
            started=plain["started"],
            logs=tuple(plain["logs"]),
            plugins=tuple(plain["plugins"]),
        )


class Workshop:
    """Trains networks as `how` says, and looks at them. `starts` are the weights that networks
    start from, by the digest of their genome."""

    def __init__(
        self,
        how: OwnSize,
        data: ImageData,
        device: torch.device,
        starts: Mapping[str, State] | None = None,
    ):
        load_plugins(how.plugins)
        self.how, self.data, self.device = how, data, device
        self.starts = starts or {}
        self._teacher = None if how.teacher is None else how.teacher.load(device)

    def trainer(self, genome: Genome, group: Group | None = None) -> NetworkTrainer:
        """At its beginning; of several processes for the one that is `group`'s."""
        how, group = self.how, group or Alone()
        source = make_images(
            self.data,
            batch=how.recipe.batch,
            seed=how.seed,
            device=self.device,
            group=group,
            crop=how.recipe.crop,
        )
        batches = Batches(
            source,
            self.data.mean,
            self.data.std,
            how.recipe,
            classes=len(self.data.classes),
            seed=how.seed,
            rank=group.rank,
        )
        return NetworkTrainer(
            genome,
            batches,
            how.recipe,
            seed=how.seed,
            device=self.device,
            group=group,
            teacher=self._teacher,
            start=self.starts.get(genome.digest),
            of={
                "data": self.data.digest,
                "teacher": how.teacher and how.teacher.digest,
                "start": how.started.get(genome.digest),
            },
        )

    def look(self, trainer: AloneTrainer, split: Split) -> Score:
        """How good the network is, `details` with its accuracy as `top1`; while it is trained by
        running statistics of fewer images."""
        chunk = min(MOST_AT_ONCE, self.how.recipe.batch)
        if not any(isinstance(layer, _BatchNorm) for layer in trainer.network.modules()):
            seen = self.data.train.first(0)
        else:
            seen = self._calibration
        if trainer.step < trainer.steps:
            seen = seen[:: max(1, len(seen) // CALIBRATION_MEANWHILE)]
        return look(trainer, self.data, split, seen=seen, chunk=chunk)

    @cached_property
    def _calibration(self) -> Tensor:
        return self.data.train.sample(CALIBRATION_IMAGES)

    def probe(self, trainer: AloneTrainer) -> dict[str, float]:
        """What is written down of a network while it is trained."""
        found = self.look(trainer, self.data.validation)
        return {
            "accuracy": found.details["top1"],
            "loss": found.details["loss"],
            "probability": found.score,
            "epoch": self.epochs(trainer),
            "learning_rate": trainer.learning_rate(trainer.step - 1),
            "seconds": trainer.seconds,
        }

    def epochs(self, trainer: AloneTrainer) -> float:
        """Passes over the training images that were made."""
        recipe, count = self.how.recipe, len(self.data.train)
        step = recipe.accumulate * min(recipe.batch * trainer.group.ranks, count)
        return trainer.step * step / count


# ---- weights on the disk


def read_teacher(source: str, weights: Path | None, classes: int) -> TeacherFile:
    """An exported folder, or a genome or preset with a file of `weights`. ValueError where it has
    no weights, they are not its own, or it tells other classes apart."""
    _, genome = read_genome(source)
    beside = Path(source) if Path(source).is_dir() else Path(source).parent
    file = weights or beside / WEIGHTS
    if not file.is_file():
        raise ValueError(
            f"teacher {source!r} has no weights at {str(file)!r}; give an exported folder that has "
            f"{WEIGHTS}, or name a file by --teacher-weights"
        )
    if weights is not None and genome.classes != classes:
        genome = genome.at(classes=classes)  # a preset's classes are those of its paper
    if genome.classes != classes:
        raise ValueError(
            f"teacher {source!r} tells {genome.classes} classes apart, but the data have {classes}"
        )
    state = read_state(genome, file)
    path = str(file.absolute())
    return TeacherFile(genome=genome.to_json(), weights=path, digest=digest_of(state))


def read_state(genome: Genome, file: Path) -> State:
    """The weights of a network; ValueError where the file has others, or none."""
    from results.export import checked_state  # brings what writes networks

    try:
        return checked_state(genome, by_genome(load_file(file), genome))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(file)!r} is no file of weights: {error}") from None
    except ValueError as error:
        raise ValueError(f"{str(file)!r} does not fit the network: {error}") from None


def digest_of(state: State) -> str:
    """12 hexadecimal digits of SHA-256."""
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(name.encode())
        flat = state[name].detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:12]


# ---- in another process


def shared_starts(starts: Mapping[str, State]) -> dict[str, Tensor]:
    """Weights by names that `received_starts` takes apart again."""
    return {f"start:{d}:{name}": w for d, state in starts.items() for name, w in state.items()}


def received_starts(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    starts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, _, rest = key.partition(":")
        if kind == "start":
            digest, _, name = rest.partition(":")
            starts.setdefault(digest, {})[name] = tensor
    return starts


def without_buffers(genome: Genome, state: State) -> State:
    """The parameters of a state dict; running statistics are measured anew."""
    with torch.device("meta"):
        names: Sequence[str] = [name for name, _ in build(genome).named_parameters()]
    return {name: state[name] for name in names}
