"""A run's settings and what follows from them: space, trainer, scorers, runners."""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from commands.columns import make_columns
from commands.options import at_hand, load_plugins
from evaluator.data import ImageData, Split, load_data
from evaluator.interfaces import GroupEvaluator
from evaluator.population import PopulationScorer
from evaluator.scoring import SupernetEvaluator
from evaluator.zero_cost import score_names
from results.console import Console
from search.controllers import AUTO, check_controller, choose
from search.networks import CostColumn, NetworkProposals
from search.racing import Racer, looks
from search.runner import UnitRunner
from search.settings import Settings
from search.warm_start import Start, warm_start
from search.workers import InProcess, Workers
from space.budget import Budget
from space.cost_table import CostTable
from space.files import make_space
from space.genome import Genome
from space.objectives import measured_objectives, resolve_objectives
from space.presets import presets
from space.search_space import Space
from supernet.augmentation import normalise
from supernet.batches import Batches, Cropped, Images, Moved, ResidentImages
from supernet.distributed import launched_here, launched_ranks, own_device
from supernet.frozen import FrozenParts
from supernet.graphs import GraphedParts
from supernet.network import Supernet, places
from supernet.recipe import TrainingSettings
from supernet.training import Alone, Group, Trainer, check_curriculum

WORKER_BYTES = 600 * 2**20  # of a worker before it has scored anything: PyTorch and our packages
CALIBRATION_IMAGES = 512  # training images for the running statistics of networks with BatchNorm

SCORE_MEANING = (
    "mean probability of the true class on the validation images, with the supernet's shared "
    "weights at proxy size; not the accuracy of a trained network"
)


class Job:
    """A run's settings and everything that follows from them alone."""

    def __init__(
        self,
        settings: Settings,
        device: str | None = None,
        *,
        profiles: Path | None = None,
        console: Console | None = None,
    ):
        """`device` in place of that of the settings, for a process that was given one. `profiles`
        is the folder that keeps what is measured of devices; `console` hears of the measuring."""
        self.settings, self._profiles = settings, profiles
        self._console = console or Console(quiet=True)
        load_plugins(settings.plugins)
        self.device = check_device(own_device(settings.device) if device is None else device)
        if settings.train_workers > 1 and launched_ranks() > 1 and device is None:
            raise ValueError(
                f"train_workers is {settings.train_workers}, but must be 1 under torchrun, which "
                "starts the processes itself"
            )
        for name in ("graphs", "kernels"):
            if getattr(settings, name) and self.device.type != "cuda":
                raise ValueError(f"{name} needs a GPU, but device is {settings.device!r}")
        torch.set_num_threads(settings.threads)
        here = at_hand(settings.device)
        self.budget = Budget.parse(settings.budget, flops_per_mac=settings.flops_per_mac).on(here)
        self._objectives = resolve_objectives(settings.objectives, self.budget, here)
        definition = dict(settings.space_definition)
        if settings.resolution is not None:
            definition["resolution"] = [settings.resolution]
        definition["classes"] = settings.classes
        self.space = make_space(definition)
        if self.space.in_channels != 3:
            raise ValueError(
                f"in_channels is {self.space.in_channels}, but must be 3: images are read as RGB"
            )
        self.controller = settings.controller
        if settings.controller == AUTO:
            self.controller = choose(settings.evaluations, self.space.size)
        check_controller(self.controller)
        unknown = [name for name in settings.zero_cost if name not in score_names()]
        if unknown:
            raise ValueError(
                f"zero_cost names {unknown[0]!r}, but must name some of {', '.join(score_names())}"
            )
        if settings.proxy_resolution % self.space.total_stride:
            raise ValueError(
                f"proxy_resolution is {settings.proxy_resolution}, but must be a multiple of the "
                f"space's total stride, {self.space.total_stride}"
            )

    @cached_property
    def table(self) -> CostTable:
        return CostTable(self.space)

    @cached_property
    def columns(self) -> list[CostColumn]:
        """The costs beside counts that are limited or objectives. Making them may measure devices:
        only a process that proposes networks asks for them."""
        wanted = [limit.cost for limit in self.budget.measured]
        wanted += measured_objectives(self._objectives)
        return make_columns(
            self.space,
            list({cost.column: cost for cost in wanted}.values()),
            keep=self._profiles,
            console=self._console,
        )

    @cached_property
    def proposals(self) -> NetworkProposals:
        return NetworkProposals(
            self.space, self.table, self.budget, self.columns, objectives=self._objectives[1:]
        )

    def proxy_space(self, classes: int) -> Space:
        """The space in which the supernet lives."""
        return self.space.scaled(
            width=self.settings.proxy_width,
            resolution=self.settings.proxy_resolution,
            classes=classes,
        )

    @property
    def at_own_scale(self) -> bool:
        """Whether the supernet is trained at the size of the networks themselves."""
        settings = self.settings
        return settings.proxy_width == 1 and self.space.resolution.choices == (
            settings.proxy_resolution,
        )

    @cached_property
    def starts(self) -> list[Start]:
        """The published networks that are scored first, if that was asked for."""
        return warm_start(self.proposals, presets().values()) if self.settings.warm_start else []

    @cached_property
    def training(self) -> TrainingSettings:
        return TrainingSettings.from_plain(self.settings.training)

    def supernet(self, classes: int) -> Supernet:
        """One with fresh weights."""
        return Supernet(
            self.proxy_space(classes),
            seed=self.settings.seed,
            device=self.device,
            pooled=self.training.pooled,
            split_at=self.training.split_at,
        )

    def looks(self, images: int) -> tuple[int, ...]:
        """After how many validation images candidates may drop out of a race."""
        return looks(images) if self.settings.race else (images,)

    def check_training(self) -> None:
        """ValueError where the supernet cannot be trained as the settings say."""
        space = self.proxy_space(self.space.classes)
        places(space, self.training.split_at)
        check_curriculum(space, self.training)

    def images(self, data: ImageData, group: Group) -> Images:
        """Training images of one process of `group`, on the device."""
        return make_images(
            data,
            batch=self.training.batch,
            seed=self.settings.seed,
            device=self.device,
            group=group,
        )

    def batches(self, data: ImageData, group: Group | None = None) -> Batches:
        """What networks are trained on."""
        group = group or Alone()
        return Batches(
            self.images(data, group),
            data.mean,
            data.std,
            self.training,
            classes=len(data.classes),
            seed=self.settings.seed,
            rank=group.rank,
        )

    def trainer(self, data: ImageData, group: Group | None = None) -> Trainer:
        """A supernet with fresh weights, and what trains it."""
        return Trainer(
            self.supernet(len(data.classes)),
            self.batches(data, group),
            self.training,
            seed=self.settings.seed,
            group=group,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """Which images, and how large."""

    source: str
    resolution: int
    seed: int  # of the choice that a limit makes
    limit: int | None

    @classmethod
    def of(cls, settings: Settings) -> DataSource:
        """That of a run: images as large as the proxies'."""
        side, seed = settings.proxy_resolution, settings.seed
        return cls(source=settings.data, resolution=side, seed=seed, limit=settings.limit)

    def read(self, about: Mapping[str, Any] | None, console: Console) -> ImageData:
        """The images; ValueError where they are others than those that something, by what it noted
        in `about`, began with."""
        with console.progress("reading images", 1) as meter:
            data = self._load(
                None if about is None else about.get("streamed"),
                lambda done, total: meter.update(done, total=total),
            )
        if data.skipped:
            console.say(f"{data.skipped} corrupt images were left out")
        if about is not None and about["data"] != data.digest:
            raise ValueError(f"the images of {self.source!r} are not those that the run began with")
        return data

    def again(self, digest: str, who: str) -> ImageData:
        """The data in another process, which streams its training images itself; ValueError where
        they are not those of `digest`."""
        data = self._load(True, None)
        if data.digest != digest:
            raise ValueError(f"the images of {self.source!r} are others where {who} trains")
        return data

    def _load(self, stream: bool | None, progress: Callable[[int, int], None] | None) -> ImageData:
        return load_data(
            self.source,
            resolution=self.resolution,
            seed=self.seed,
            limit=self.limit,
            stream=stream,
            progress=progress,
        )


def make_images(
    data: ImageData,
    *,
    batch: int,
    seed: int,
    device: torch.device,
    group: Group,
    crop: float = 0.0,
) -> Images:
    """Training images of one process of `group`, on the device, `batch` at a time. Of each a random
    part that is at least the share `crop` of it, unless that is 0: of streamed images a part of the
    picture, of resident ones a part of the image."""
    from evaluator.data_stream import Crop  # needs Pillow

    rank, ranks = group.rank, group.ranks
    part = Crop(scale=(crop, 1.0)) if crop else None
    if isinstance(data.train, Split):
        images, labels = data.train.images.to(device), data.train.labels.to(device)
        source: Images = ResidentImages(
            images, labels, batch=batch, seed=seed, rank=rank, ranks=ranks
        )
        return Cropped(source, part.box, seed=seed, rank=rank) if part else source
    # Without a part the evaluation transform, as of images that are resident: whether they fit in
    # memory should not decide what networks are trained on.
    streamed = data.train.batches(
        batch_size=batch * ranks,
        seed=seed,
        crop=part,
        rank=rank,
        ranks=ranks,
        workers=max(1, (os.cpu_count() or 1) // launched_here()),
        pin_memory=device.type == "cuda",
    )
    return Moved(streamed, device)


def check_device(name: str) -> torch.device:
    """ValueError where there is no such device on this machine."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}; write cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {name!r}, but must be cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ValueError(
            f"device {name!r} was asked for, but PyTorch sees {found or 'no'} CUDA device"
            f"{'s' if found != 1 else ''} here; use --device cpu"
        )
    return device


def check_cluster(address: str | None) -> None:
    """ValueError where nobody answers at `host:port`. Ray itself would come to that after the
    training, try for minutes, and end the process without a word."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # none, or a name that Ray looks up
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"no Ray cluster answers at {address!r}: {error}") from None


def check_memory(settings: Settings) -> None:
    """ValueError where this machine has no memory for so many workers."""
    if settings.workers == 1 or settings.ray_address is not None:
        return
    each = WORKER_BYTES + settings.prefix_memory * 2**20
    free = available_memory()
    if free is not None and settings.workers * each > free:
        raise ValueError(
            f"workers is {settings.workers}, each of which takes {each / 2**30:.1f} GiB, but only "
            f"{free / 2**30:.1f} GiB of memory are free: at most {max(1, free // each)}, or fewer "
            "--prefix-memory"
        )


def available_memory() -> int | None:
    """Bytes that this machine, or the container that this process is in, can still give away; None
    where nobody says."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    values = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):  # no such group, or one without a limit
        group = Path("/sys/fs/cgroup")
        used = int((group / "memory.current").read_text(encoding="ascii"))
        values.append(int((group / "memory.max").read_text(encoding="ascii")) - used)
    return max(0, min(values)) if values else None


def gpus_of_worker(settings: Settings, device: torch.device) -> float:
    """What Ray is asked for: on this machine an equal share of its GPUs for each worker, on a
    cluster a whole one, unless the settings say otherwise."""
    if settings.gpus_per_worker is not None:
        return settings.gpus_per_worker
    if device.type == "cuda" and settings.ray_address is not None:
        return 1.0
    return share_of_gpus(settings.workers, device)


def share_of_gpus(workers: int, device: torch.device) -> float:
    """An equal share of this machine's GPUs for each worker."""
    if device.type != "cuda":
        return 0.0
    shares = torch.cuda.device_count() / workers
    return math.floor(shares) if shares >= 1 else math.floor(shares * 1e4) / 1e4


def make_scorer(
    supernet: Supernet,
    images: Tensor,
    labels: Tensor,
    training_images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    space: Space | None = None,
) -> SupernetEvaluator:
    """Scores networks of `space`, one by one, by the proxies that stand for them in the supernet's
    space."""
    return SupernetEvaluator(
        supernet,
        images.to(supernet.device),
        labels.to(supernet.device),
        calibration=training_images[:CALIBRATION_IMAGES].to(supernet.device),
        normalise=lambda pixels: normalise(pixels, mean, std),
        proxy=proxy_in(supernet, space),
    )


def proxy_in(supernet: Supernet, space: Space | None) -> Callable[[Genome], Genome]:
    """From a network of `space` to the one of the supernet's space that stands for it."""
    own = supernet.space
    if space is None:
        return lambda genome: genome
    return lambda genome: own.decode(space.encode(genome))


def make_group_scorer(
    job: Job,
    supernet: Supernet,
    images: Tensor,
    labels: Tensor,
    training_images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> PopulationScorer:
    """Measures groups of networks of the job's space with the weights that the supernet has now.
    The images come in an order of their own, so that the first of them stand for all."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    device, settings = supernet.device, job.settings
    parts = GraphedParts if settings.graphs else FrozenParts
    return PopulationScorer(
        parts(supernet, kernels=settings.kernels),
        images[order].to(device),
        labels[order].to(device),
        calibration=training_images[:CALIBRATION_IMAGES].to(device),
        normalise=lambda pixels: normalise(pixels, mean, std),
        proxy=proxy_in(supernet, job.space),
        chunk=settings.chunk,
        looks=job.looks(len(images)),
        memory=settings.prefix_memory * 2**20,
        copies=settings.graphs,
    )


def scorer_of(
    supernet: Supernet, split: Split, data: ImageData, space: Space | None = None
) -> SupernetEvaluator:
    """`make_scorer` on the images of `split`, with training images of `data` for statistics."""
    seen = data.train.sample(CALIBRATION_IMAGES)
    return make_scorer(supernet, split.images, split.labels, seen, data.mean, data.std, space)


def make_worker(job: Job, scorer: GroupEvaluator, images: int, *, races: bool = True) -> Racer:
    """Scores candidates on `images` validation images; in races, if the settings have any."""
    looks = job.looks(images) if races else (images,)
    return Racer(scorer, looks, error=job.settings.race_error)


def make_remote_worker(
    *,
    plain: Mapping[str, Any],
    classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    races: bool,
    tensors: Mapping[str, Tensor],
) -> Racer:
    """The worker of another process, from plain settings and shared tensors."""
    job = Job(Settings.from_plain(plain))
    supernet = job.supernet(classes)
    prefix = "weight:"
    supernet.load({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    images, labels, calibration = (tensors[k] for k in ("images", "labels", "calibration"))
    scorer = make_group_scorer(job, supernet, images, labels, calibration, mean, std)
    return make_worker(job, scorer, len(images), races=races)


def make_runner(
    job: Job,
    trainer: Trainer,
    data: ImageData,
    front: Callable[[], Sequence[Genome]] | None = None,
) -> UnitRunner:
    """In this process, or on Ray's workers. `front` are the networks that candidates race; without
    it, all are scored on all images."""
    settings, split, races = job.settings, data.validation, front is not None
    costs = job.proposals.racing_costs if races else None
    seen = data.train.sample(CALIBRATION_IMAGES)
    if settings.workers == 1 and settings.ray_address is None:
        scorer = make_group_scorer(
            job, trainer.supernet, split.images, split.labels, seen, data.mean, data.std
        )
        workers: Workers = InProcess(make_worker(job, scorer, len(split), races=races))
        return UnitRunner(workers, front or list, costs)
    from search.ray_workers import RayWorkers  # Ray is wanted by nobody else

    shared = {f"weight:{name}": w.detach().cpu() for name, w in trainer.supernet.weights.items()}
    shared |= {"images": split.images, "labels": split.labels, "calibration": seen}
    workers = RayWorkers(
        "commands.job:make_remote_worker",
        {
            "plain": settings.to_plain(),
            "classes": len(data.classes),
            "mean": data.mean,
            "std": data.std,
            "races": races,
        },
        shared,
        workers=settings.workers,
        threads=settings.threads,
        gpus=gpus_of_worker(settings, trainer.supernet.device),
        address=settings.ray_address,
    )
    return UnitRunner(workers, front or list, costs)
