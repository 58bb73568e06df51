"""The settings of a training: what every network, shared or alone, is trained with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from supernet.curriculum import NAMES as CURRICULA

OPTIMISERS = ("adamw", "sgd")
SAMPLINGS = ("uniform", "even", "fair")
DISTILLATIONS = ("soft", "adaptive", "none")
TEACHINGS = ("hard", "soft")


def _setting(default: Any, about: str, allowed: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"about": about, "allowed": allowed})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How networks are trained, shared or alone. Raises ValueError, naming the setting and what is
    allowed."""

    steps: int = _setting(430, "steps of the optimiser, at full resolution")
    batch: int = _setting(32, "images in one pass of one process")
    accumulate: int = _setting(1, "passes whose gradients make one step")
    optimiser: str = _setting("adamw", "how gradients move the weights", OPTIMISERS)
    learning_rate: float = _setting(8e-3, "at its peak; warm-up, then cosine to zero")
    warmup: float = _setting(0.1, "share of the steps that the warm-up takes")
    weight_decay: float = _setting(0.05, "of all weights but vectors")
    clip: float = _setting(1.0, "largest norm of a step's gradient, 0 for any")
    ema: float = _setting(0.0, "decay of the moving average that is kept in the end, 0 for none")

    shift: float = _setting(0.0, "move images by up to this share of their side")
    flip: bool = _setting(True, "mirror half of the images")
    randaugment: float = _setting(0.0, "magnitude of RandAugment, 1 to 10, 0 for none")
    erasing: float = _setting(0.0, "probability that a part of an image is erased")
    mixup: float = _setting(0.0, "parameter of the Beta distribution, 0 for none")
    cutmix: float = _setting(0.0, "likewise")
    label_smoothing: float = _setting(0.0, "share of each label that goes to all classes")
    curriculum: str = _setting("none", "smaller images and weaker augmentation first", CURRICULA)

    bfloat16: bool = _setting(False, "compute in bfloat16 where that is safe (autocast)")
    checkpointing: bool = _setting(False, "compute activations twice, to save memory")

    def __post_init__(self) -> None:
        for setting in fields(self):
            _check(setting.name, getattr(self, setting.name), setting.default, setting.metadata)
        for name in ("steps", "batch", "accumulate"):
            _check_count(name, getattr(self, name), 1)
        for name, (low, high) in _RANGES.items():
            if name in self.__dataclass_fields__:
                _check_number(name, getattr(self, name), low, high)
        rate = self.learning_rate
        if not _is_number(rate) or not 0 < rate < math.inf:
            raise ValueError(f"learning_rate is {rate!r}, but must be above 0 and finite")

    def to_plain(self) -> dict[str, Any]:
        """Plain data, as JSON and YAML give it back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_plain`; settings left out take their default. Raises ValueError."""
        known = {setting.name: setting.default for setting in fields(cls)}
        unknown = sorted(set(data) - set(known), key=str)
        if unknown:
            raise ValueError(
                f"unknown training setting {unknown[0]!r}; there are {', '.join(sorted(known))}"
            )
        values = dict(data)
        for name in values:
            if isinstance(known[name], tuple):
                values[name] = _names(name, values[name])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings(Recipe):
    """How a supernet is trained; a network alone has no use for what is added here.
    `benchmarks/ablation.py` measures what each setting does to the ranking.

    Raises ValueError, naming the setting and what is allowed.
    """

    sandwich: bool = _setting(True, "train the largest and the smallest network in every step")
    smallest: bool = _setting(True, "the smallest as well as the largest")
    sampled: int = _setting(2, "further networks in every step")
    sampling: str = _setting("uniform", "how these are drawn", SAMPLINGS)
    distillation: str = _setting("soft", "what the largest teaches the others by", DISTILLATIONS)
    conflict: bool = _setting(False, "drop what works against the others in the largest's gradient")
    pooled: bool = _setting(True, "operators of one place share channel mixers and attention")
    split_at: tuple[str, ...] = _setting((), "slots at whose options the supernet falls apart")
    split_after: float = _setting(0.5, "share of the steps before it does")

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        _check_count("sampled", self.sampled, 0)
        if not self.sandwich and not self.sampled:
            raise ValueError("sampled is 0, but must be at least 1 without sandwich")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecipe(Recipe):
    """How one network is trained at its own size. `RECIPES` has some by name.

    Raises ValueError, naming the setting and what is allowed.
    """

    epochs: float = _setting(0.0, "passes over the training images, in place of steps")
    crop: float = _setting(0.0, "smallest share of an image that a random crop keeps, 0 for none")
    drop_path: float = _setting(0.0, "chance that an image skips the last residual branch")
    distillation: str = _setting("hard", "what a teacher's predictions are to the loss", TEACHINGS)
    teaching: float = _setting(0.5, "share of the loss that is the teacher's, where there is one")
    temperature: float = _setting(3.0, "of teacher and student where distillation is soft")

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature!r}, but must be above 0")

    def over(self, images: int, ranks: int) -> NetworkRecipe:
        """The recipe with as many steps as its epochs are on so many training images, where
        `ranks` processes train together."""
        if not self.epochs:
            return self
        passes = max(1, images // min(self.batch * ranks, images))
        return replace(self, steps=max(1, round(self.epochs * passes / self.accumulate)))


def _check(name: str, value: Any, default: Any, about: Mapping[str, Any]) -> None:
    """ValueError where a setting has none of its allowed values, or is no switch but should be."""
    allowed = about["allowed"]
    if allowed and value not in allowed:
        raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(allowed)}")
    if type(default) is bool and not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, but must be true or false")


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}, but must be a whole number of at least {least}")


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if not _is_number(value) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, but must be a number {_range(low, high)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _names(name: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
        raise ValueError(f"{name} is {values!r}, but must be a list of slots' names")
    return tuple(values)


_RANGES = {
    "split_after": (0, 1),
    "warmup": (0, 1),
    "weight_decay": (0, math.inf),
    "clip": (0, math.inf),
    "ema": (0, 1),
    "shift": (0, 1),
    "randaugment": (0, 10),
    "erasing": (0, 1),
    "mixup": (0, math.inf),
    "cutmix": (0, math.inf),
    "label_smoothing": (0, 1),
    "epochs": (0, 1e6),
    "crop": (0, 1),
    "drop_path": (0, 0.99),
    "teaching": (0, 1),
    "temperature": (0, 1e6),
}


def _range(low: float, high: float) -> str:
    return f"of at least {low}" if high == math.inf else f"from {low} to {high}"


# DeiT (Touvron et al., 2020, arXiv 2012.12877, table 9), with its rate of 5e-4 for 512 images.
# Differs: no repeated augmentation, and the average of the weights is kept, as in its code.
_DEIT = NetworkRecipe(
    epochs=300,
    batch=1024,
    learning_rate=1e-3,
    warmup=5 / 300,
    clip=0.0,
    ema=0.99996,
    crop=0.08,
    randaugment=9.0,
    erasing=0.25,
    mixup=0.8,
    cutmix=1.0,
    label_smoothing=0.1,
    drop_path=0.1,
)
# By name, for a step of `batch` images; with others the rate changes in proportion.
RECIPES: Mapping[str, NetworkRecipe] = {
    # Little more than the gradient: for small images and short trainings.
    "plain": NetworkRecipe(
        epochs=100,
        batch=128,
        learning_rate=2e-3,
        warmup=0.05,
        clip=5.0,
        ema=0.999,
        shift=0.125,
        label_smoothing=0.1,
    ),
    "deit": _DEIT,
    # EfficientTrain (Wang et al., 2022, arXiv 2211.09703, section 4 and appendix A): ConvNeXt's
    # recipe (arXiv 2201.03545, appendix A.1) under its curriculum.
    "efficienttrain": replace(_DEIT, warmup=20 / 300, ema=0.9999, curriculum="efficienttrain"),
}
