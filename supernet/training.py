"""Training: of a supernet, by the sandwich rule and in-place distillation, or of one network alone.

Each step of a supernet trains several networks on one batch: the largest on the labels, then the
smallest and some sampled ones on the largest one's predictions (Yu and Huang, 2019, arXiv
1903.05134, sections 3.2 and 3.3). All gradients are summed into the shared weights before one step
of the optimiser. A network alone goes through the same steps on the same images, with itself only.

Whatever is random in a step follows from the seed and the step's number, so a training that was
stopped and goes on from a checkpoint ends with the weights of one that never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from space.cost_table import CostTable
from space.genome import Genome
from space.network import Network, build
from space.search_space import Space
from supernet.batches import Batches, Examples
from supernet.checkpoints import Checkpoints
from supernet.curriculum import make_curriculum
from supernet.losses import adaptive_divergence, soft_cross_entropy
from supernet.network import Supernet, check_side
from supernet.recipe import Recipe, TrainingSettings
from supernet.sampling import make_sampler
from supernet.strided import stored_by_channel

MOMENTUM = 0.9  # of SGD
SAVING = 20  # times as long as a checkpoint takes to write, until the next one is
PROBES = 12  # times that a training looks how good its networks are


class Diverged(ValueError):
    """The gradient is not a number; the weights are those of the step before."""


class Group(Protocol):
    """The processes that train together, each on its share of every batch."""

    rank: int
    ranks: int

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its mean over the processes."""
        ...


class Alone:
    """One process."""

    rank, ranks = 0, 1

    def average(self, tensors: Sequence[Tensor]) -> None:
        pass


class _Backward:
    """Runs backward passes in order, on a CPU in a thread beside the next forward pass.

    Small networks spend their forward passes in Python and their backward passes outside it, so
    the two overlap. One thread adds up all gradients, in a fixed order, so the result is the same.
    Not where a backward pass computes a part again: equal parts share one module, which takes one
    candidate's weights at a time.
    """

    def __init__(self, device: torch.device, settings: Recipe):
        overlaps = device.type == "cpu" and not settings.checkpointing
        self._pool = ThreadPoolExecutor(1) if overlaps else None
        self._waiting: list[Future[None]] = []

    def __call__(self, loss: Tensor) -> None:
        self.then(loss.backward)

    def then(self, work: Callable[[], None]) -> None:
        """Does `work` when the passes so far are done."""
        if self._pool is None:
            work()
        else:
            self._waiting.append(self._pool.submit(work))

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


class Training:
    """Steps, schedule, average and checkpoints; a subclass says what a step trains.

    `step` is the number of steps done, of `steps`; `losses` has one number a step, and `probes`
    what was found when the training looked at its networks. `seconds` is what the steps took.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        batches: Batches,
        settings: Recipe,
        *,
        seed: int,
        side: int,
        multiple: int,
        group: Group | None = None,
    ):
        self.settings, self.step = settings, 0
        self.losses: list[float] = []
        self.probes: list[dict[str, float]] = []
        self.seconds = 0.0
        self.group: Group = group or Alone()
        self._batches, self._seed, self._side = batches, seed, side
        self._curriculum = make_curriculum(
            settings.curriculum,
            side=side,
            multiple=multiple,
            steps=settings.steps,
            magnitude=settings.randaugment,
        )
        self.steps = self._curriculum.total_steps
        self._take(parameters)

    def _take(self, parameters: Mapping[str, Tensor]) -> None:
        """Makes `parameters` those that are trained, with fresh moments."""
        self._parameters = dict(parameters)
        self.device = next(iter(self._parameters.values())).device
        self._optimiser = _optimiser(self.settings, list(self._parameters.values()))
        self._average: dict[str, Tensor] = {}
        if self.settings.ema:
            self._average = {n: w.detach().clone() for n, w in self._parameters.items()}

    def close(self) -> None:
        """Ends what makes batches ahead; there are no more steps."""
        self._batches.close()

    # ---- one step

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to zero, over the compute that is done."""
        warm = max(1, round(self.settings.warmup * self.steps))
        if step < warm:
            return self.settings.learning_rate * (step + 1) / warm
        begin, now = self._curriculum.progress(warm), self._curriculum.progress(step)
        done = (now - begin) / max(1e-9, 1 - begin)
        return self.settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def train_step(self) -> float:
        """One step; returns its loss. Raises `Diverged`, the weights left as they were, where the
        gradient is not finite."""
        self._before_step()
        settings, phase = self.settings, self._curriculum.at(self.step)
        for options in self._optimiser.param_groups:
            options["lr"] = self.learning_rate(self.step)
        self._optimiser.zero_grad(set_to_none=True)
        losses = []
        with _Backward(self.device, settings) as backward:
            for part in range(settings.accumulate):
                examples = self._batches(self.step * settings.accumulate + part, phase)
                losses.append(self._add_gradients(examples, backward))
        gradients = [w.grad for w in self._parameters.values() if w.grad is not None]
        gradients += self._kept_apart()
        if settings.accumulate > 1:
            torch._foreach_div_(gradients, settings.accumulate)
        loss = torch.stack(losses).mean()
        self.group.average([*gradients, loss])
        self._join()
        most = settings.clip or math.inf
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), most, foreach=True)
        if not torch.isfinite(norm + loss):
            raise Diverged(
                f"training diverged: in step {self.step + 1} the loss is {float(loss):g} and the "
                f"norm of its gradient {float(norm):g}; begin another training with a "
                f"learning_rate below {settings.learning_rate:g}"
            )
        self._optimiser.step()
        self.step += 1
        self._update_average()
        self.losses.append(float(loss))
        return self.losses[-1]

    def _before_step(self) -> None:
        """Changes what is trained, where it is time to."""

    def _kept_apart(self) -> list[Tensor]:
        """Gradients that are not in the sum yet."""
        return []

    def _join(self) -> None:
        """Adds them to it."""

    def _add_gradients(self, examples: Examples, backward: _Backward) -> Tensor:
        """Adds the gradients of one batch; returns the loss, detached."""
        raise NotImplementedError

    @contextmanager
    def _precision(self) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            yield

    # ---- the average of the weights

    @torch.no_grad()
    def _update_average(self) -> None:
        """Moves the average; after the last step it becomes the weights. Early on it follows
        faster, so that the start is forgotten (as in TensorFlow's ExponentialMovingAverage)."""
        if not self._average:
            return
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        averages = [self._average[name] for name in self._parameters]
        torch._foreach_lerp_(averages, list(self._parameters.values()), 1 - decay)
        if self.step == self.steps:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        """Swaps the weights and their average."""
        for name, average in self._average.items():
            weight, held = self._parameters[name], average.clone()
            average.copy_(weight)
            weight.copy_(held)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The average in place of the weights, if there is one and training is not over."""
        swap = bool(self._average) and self.step < self.steps
        if swap:
            self._exchange()
        try:
            yield
        finally:
            if swap:
                self._exchange()

    # ---- a whole training

    def run(
        self,
        checkpoints: Checkpoints | None = None,
        *,
        every_seconds: float = 15.0,
        progress: Callable[[int, int, float], None] | None = None,
        probe: Callable[[], dict[str, float]] | None = None,
        probes: int = PROBES,
    ) -> None:
        """Trains to the end, with a checkpoint from time to time and one when done.

        `progress` gets steps done, steps in all, and the loss. `probe` looks at the networks, some
        `probes` times. An interrupt, or `Diverged`, leaves the last checkpoint.
        """
        looks = {round(self.steps * i / probes) for i in range(1, probes + 1)}
        for loss in self.advance(checkpoints, every_seconds=every_seconds):
            if probe is not None and self.step in looks:
                with self.averaged():
                    self.probes.append({"step": self.step, **probe()})
            if progress is not None:
                progress(self.step, self.steps, loss)

    def advance(
        self, checkpoints: Checkpoints | None = None, *, every_seconds: float = 15.0
    ) -> Iterator[float]:
        """Trains to the end and gives the loss after each step, so that the caller may look at the
        network there, or leave it at that. A checkpoint is written from time to time and when
        done, each as the caller comes back; large ones more rarely."""
        saved = time.monotonic()
        while self.step < self.steps:
            begun = time.monotonic()
            loss = self.train_step()
            self.seconds += time.monotonic() - begun
            yield loss
            done = self.step == self.steps
            if checkpoints is not None and (done or time.monotonic() - saved > every_seconds):
                begun = time.monotonic()
                self.save(checkpoints)
                saved = time.monotonic()
                if every_seconds:
                    every_seconds = max(every_seconds, SAVING * (saved - begun))

    # ---- checkpoints

    def save(self, checkpoints: Checkpoints) -> None:
        """Writes a checkpoint; of several processes, the first does."""
        if self.group.rank:
            return
        tensors: dict[str, Tensor] = {}
        for name, weight in self._parameters.items():
            tensors[f"weight:{name}"] = weight.detach().contiguous()
            for key, value in self._optimiser.state.get(weight, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{key}:{name}"] = value.contiguous()
        for name, value in self._average.items():
            tensors[f"average:{name}"] = value.contiguous()
        for name, value in self._statistics().items():
            tensors[f"buffer:{name}"] = value.contiguous()
        checkpoints.save(self.step, tensors, {**self._identity(), **self._progress()})

    def _identity(self) -> dict[str, Any]:
        """What another training would have to share to go on from this one's checkpoint."""
        return {"settings": self.settings.to_plain(), "seed": self._seed, "ranks": self.group.ranks}

    def _progress(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "losses": self.losses,
            "probes": self.probes,
            "seconds": self.seconds,
        }

    def _statistics(self) -> dict[str, Tensor]:
        """What networks measure in training and keep beside their weights."""
        return {}

    def load(self, checkpoints: Checkpoints) -> bool:
        """Goes on from the newest checkpoint, if there is one; ValueError where all are broken, it
        is of another training, or the processes of a group do not all find the same one."""
        found = checkpoints.latest()
        if found is not None:
            self._take_up(*found, checkpoints)
        here = torch.tensor([self.step, self.step**2], dtype=torch.float64, device=self.device)
        self.group.average([here])
        if float(here[1] - here[0] ** 2) != 0:
            raise ValueError(
                f"the processes of the training find different checkpoints in {checkpoints.folder}:"
                " the folder must be on a file system that all of them see"
            )
        return found is not None

    def _take_up(
        self, tensors: Mapping[str, Tensor], header: Mapping[str, Any], checkpoints: Checkpoints
    ) -> None:
        for key, value in self._identity().items():
            # How many processes there are is of no account to a training that is over.
            if header.get(key) != value and (key != "ranks" or header["step"] < self.steps):
                what = _difference(key, header.get(key), value)
                raise ValueError(f"{checkpoints.folder} was trained with other settings: {what}")
        self._prepare_for(header)
        state: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            kind, _, name = key.partition(":")
            state.setdefault(name, {})[kind] = tensor
        self._check_weights(
            {n: held.get("weight") for n, held in state.items() if "buffer" not in held}
        )
        with torch.no_grad():
            for name, value in self._statistics().items():
                value.copy_(state[name]["buffer"])
            for name, weight in self._parameters.items():
                weight.copy_(state[name].pop("weight"))
                if self._average:
                    self._average[name].copy_(state[name].pop("average"))
                if state[name]:
                    self._optimiser.state[weight] = {
                        key: _stored_as(weight, value) for key, value in state[name].items()
                    }
        self._resume_from(header)

    def _prepare_for(self, header: Mapping[str, Any]) -> None:
        """Brings what is trained into the form that the checkpoint has."""

    def _resume_from(self, header: Mapping[str, Any]) -> None:
        self.step = header["step"]
        self.losses, self.probes = list(header["losses"]), list(header["probes"])
        self.seconds = header["seconds"]

    def _check_weights(self, weights: Mapping[str, Tensor | None]) -> None:
        odd = sorted(set(weights) ^ set(self._parameters))
        if odd:
            raise ValueError(f"these weights are not of this network: {odd[0]!r} differs")
        for name, weight in self._parameters.items():
            held = weights[name]
            if held is None or held.shape != weight.shape:
                shape = None if held is None else tuple(held.shape)
                raise ValueError(
                    f"these weights are not of this network: {name!r} has shape {shape}, but must "
                    f"have {tuple(weight.shape)}"
                )


class Trainer(Training):
    """Trains `supernet`. The loss that it reports is the largest network's, or, without the
    sandwich rule, that of the first network of the step."""

    settings: TrainingSettings

    def __init__(
        self,
        supernet: Supernet,
        batches: Batches,
        settings: TrainingSettings,
        *,
        seed: int,
        group: Group | None = None,
    ):
        space = supernet.space
        self.supernet = supernet
        supernet.checkpointing = settings.checkpointing
        super().__init__(
            supernet.weights,
            batches,
            settings,
            seed=seed,
            side=max(space.resolution.choices),
            multiple=space.stem_stride,
            group=group,
        )
        check_curriculum(space, settings)
        table = CostTable(space)
        self.largest = space.decode(table.extreme("macs", largest=True))
        self.smallest = space.decode(table.extreme("macs", largest=False))
        self._sampler = make_sampler(settings.sampling, space, seed)
        self._drawn: tuple[int, list[Genome]] = (-1, [])
        self._dealt: dict[str, int] = {}  # the sampler's state before that
        self._of_largest: dict[str, Tensor] = {}  # its gradient, where conflicts are looked at

    def drawn(self) -> list[Genome]:
        """The networks of this step that are drawn at random."""
        if self._drawn[0] != self.step:
            self._dealt = dict(self._sampler.state)
            rows = self._sampler.draw(self.step, self.settings.sampled)
            self._drawn = (self.step, [self.supernet.space.decode(row) for row in rows])
        return self._drawn[1]

    def _before_step(self) -> None:
        self._of_largest = {}  # where an interrupt has left some
        if self.step == round(self.settings.split_after * self.steps):
            self._split()

    def _split(self) -> None:
        """Splits the supernet; moments and averages go along."""
        moments = {n: self._optimiser.state.get(w, {}) for n, w in self._parameters.items()}
        averages = self._average
        became = self.supernet.split()
        if not became:
            return
        self._take(self.supernet.weights)
        for old, names in became.items():
            for name in names:
                weight = self._parameters[name]
                if moments[old]:
                    self._optimiser.state[weight] = {
                        k: v.clone() if isinstance(v, Tensor) else v
                        for k, v in moments[old].items()
                    }
                if averages:
                    self._average[name].copy_(averages[old])

    def _add_gradients(self, examples: Examples, backward: _Backward) -> Tensor:
        settings = self.settings
        images, targets = examples.images, examples.targets
        networks = [self.smallest] if settings.sandwich and settings.smallest else []
        networks += self.drawn()
        teacher, loss = None, None
        if settings.sandwich:
            teacher = self._logits(self.largest, images)
            loss = soft_cross_entropy(teacher, targets)
            if settings.conflict:
                backward.then(self._swap_gradients)
            backward(loss)
            if settings.conflict:
                backward.then(self._swap_gradients)
            teacher = teacher.detach()
        for genome in networks:
            own = self._distilled(self._logits(genome, images), targets, teacher)
            backward(own)
            loss = own if loss is None else loss
        assert loss is not None
        return loss.detach()

    def _logits(self, genome: Genome, images: Tensor) -> Tensor:
        with self._precision():
            return self.supernet(self._fitted(genome), images, training=True)

    def _fitted(self, genome: Genome) -> Genome:
        """The network for images as small as the curriculum makes them."""
        side = self._curriculum.at(self.step).side
        return genome if side >= genome.resolution else replace(genome, resolution=side)

    def _distilled(self, logits: Tensor, targets: Tensor, teacher: Tensor | None) -> Tensor:
        """The loss of a network beside the largest. The labels give way to the largest network's
        predictions as it learns."""
        how = self.settings.distillation
        if teacher is None or how == "none":
            return soft_cross_entropy(logits, targets)
        trust = self.step / self.steps
        if how == "adaptive":
            divergence = adaptive_divergence(logits, teacher)
            return trust * divergence + (1 - trust) * soft_cross_entropy(logits, targets)
        mixed = trust * teacher.float().softmax(1) + (1 - trust) * targets
        return soft_cross_entropy(logits, mixed)

    # ---- conflicts

    def _swap_gradients(self) -> None:
        """Puts the largest network's gradient in the place of the sum of the others', or back."""
        for name, weight in self._parameters.items():
            held = self._of_largest.pop(name, None)
            if weight.grad is not None:
                self._of_largest[name] = weight.grad
            weight.grad = held

    def _kept_apart(self) -> list[Tensor]:
        return list(self._of_largest.values())

    def _join(self) -> None:
        """Adds the largest network's gradient again, weight by weight without the component that
        points against the sum of the others' (NASViT, Gong et al., ICLR 2022)."""
        for name, largest in self._of_largest.items():
            weight = self._parameters[name]
            if weight.grad is None:
                weight.grad = largest
                continue
            dot = (largest * weight.grad).sum()
            share = dot.clamp(max=0) / weight.grad.square().sum().clamp_min(1e-12)
            weight.grad = weight.grad + (largest - share * weight.grad)
        self._of_largest = {}

    # ---- checkpoints

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "space": self.supernet.space.name}

    def _progress(self) -> dict[str, Any]:
        return {
            **super()._progress(),
            "split": self.supernet.is_split,
            "sampler": self._dealt if self._drawn[0] == self.step else self._sampler.state,
        }

    def _prepare_for(self, header: Mapping[str, Any]) -> None:
        if header["split"] and not self.supernet.is_split:
            self._split()

    def _resume_from(self, header: Mapping[str, Any]) -> None:
        super()._resume_from(header)
        self._sampler.state, self._drawn = dict(header["sampler"]), (-1, [])


class AloneTrainer(Training):
    """Trains one network with weights of its own, by the same recipe, but for the curriculum:
    `supernet.network_training` follows that, too."""

    def __init__(
        self,
        genome: Genome,
        batches: Batches,
        settings: Recipe,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        group: Group | None = None,
    ):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = self._placed(build(genome), torch.device(device))
        self.genome = genome
        super().__init__(
            dict(self.network.named_parameters()),
            batches,
            self._followed(settings),
            seed=seed,
            side=genome.resolution,
            multiple=self._multiple(genome),
            group=group,
        )

    def _placed(self, network: Network, device: torch.device) -> Network:
        """The network where it is trained."""
        stored_by_channel(network)
        return network.to(device)

    def _multiple(self, genome: Genome) -> int:
        """What the sides of a curriculum's images are multiples of."""
        return genome.resolution

    def _followed(self, settings: Recipe) -> Recipe:
        """What of the recipe is followed."""
        return replace(settings, curriculum="none")

    def _add_gradients(self, examples: Examples, backward: Callable[[Tensor], None]) -> Tensor:
        self.network.train()
        loss = self._loss(examples)
        backward(loss)
        return loss.detach()

    def _loss(self, examples: Examples) -> Tensor:
        with self._precision():
            logits = self.network(examples.images)
        return soft_cross_entropy(logits, examples.targets)

    def _statistics(self) -> dict[str, Tensor]:
        return dict(self.network.named_buffers())

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "network": self.genome.digest}


def check_curriculum(space: Space, settings: Recipe) -> None:
    """ValueError where networks of `space` cannot work on images as small as the curriculum's."""
    side = max(space.resolution.choices)
    phases = make_curriculum(
        settings.curriculum,
        side=side,
        multiple=space.stem_stride,
        steps=settings.steps,
        magnitude=0,
    ).phases
    for smaller in sorted({phase.side for phase in phases} - {side}):
        try:
            check_side(space, smaller)
        except ValueError as error:
            raise ValueError(
                f"curriculum is {settings.curriculum!r}, but it needs smaller images than the "
                f"networks can work on: {error}"
            ) from None


def _optimiser(settings: Recipe, weights: Sequence[Tensor]) -> torch.optim.Optimizer:
    """Vectors (norms, biases, scales) do not decay."""
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            groups, lr=settings.learning_rate, momentum=MOMENTUM, nesterov=True, foreach=True
        )
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def _difference(name: str, there: Any, here: Any) -> str:
    """In which setting two trainings differ."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        name, there, here = next(
            (key, there.get(key), here.get(key))
            for key in [*here, *there]
            if there.get(key) != here.get(key)
        )
    return f"{name} is {there!r} there, and {here!r} here"


def _stored_as(weight: Tensor, value: Tensor) -> Tensor:
    """A moment of the optimiser in the memory layout of its weight: the fused optimisers go through
    both as they are stored, and a checkpoint has no layout. A count of steps stays as it is."""
    if value.shape != weight.shape:
        return value.to(weight.device)
    return torch.empty_like(weight, requires_grad=False).copy_(value)
