"""The settings of a training: what every network, shared or alone, is trained with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from supernet.curriculum import NAMES as CURRICULA

OPTIMISERS = ("adamw", "sgd")
SAMPLINGS = ("uniform", "even", "fair")
DISTILLATIONS = ("soft", "adaptive", "none")


def _setting(default: Any, about: str, allowed: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"about": about, "allowed": allowed})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How networks are trained. The block in the middle is for a supernet; a network alone has no
    use for it. `benchmarks/ablation.py` measures what each setting does to the ranking.

    Raises ValueError, naming the setting and what is allowed.
    """

    steps: int = _setting(430, "steps of the optimiser, at full resolution")
    batch: int = _setting(32, "images in one pass of one process")
    accumulate: int = _setting(1, "passes whose gradients make one step")
    optimiser: str = _setting("adamw", "how gradients move the weights", OPTIMISERS)
    learning_rate: float = _setting(8e-3, "at its peak; warm-up, then cosine to zero")
    warmup: float = _setting(0.1, "share of the steps that the warm-up takes")
    weight_decay: float = _setting(0.05, "of all weights but vectors")
    clip: float = _setting(1.0, "largest norm of a step's gradient, 0 for any")
    ema: float = _setting(0.0, "decay of the moving average that is kept in the end, 0 for none")

    sandwich: bool = _setting(True, "train the largest and the smallest network in every step")
    smallest: bool = _setting(True, "the smallest as well as the largest")
    sampled: int = _setting(2, "further networks in every step")
    sampling: str = _setting("uniform", "how these are drawn", SAMPLINGS)
    distillation: str = _setting("soft", "what the largest teaches the others by", DISTILLATIONS)
    conflict: bool = _setting(False, "drop what works against the others in the largest's gradient")
    pooled: bool = _setting(True, "operators of one place share channel mixers and attention")
    split_at: tuple[str, ...] = _setting((), "slots at whose options the supernet falls apart")
    split_after: float = _setting(0.5, "share of the steps before it does")

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
        for name, least in (("steps", 1), ("batch", 1), ("accumulate", 1), ("sampled", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(
                    f"{name} is {value!r}, but must be a whole number of at least {least}"
                )
        for setting in fields(self):
            value, allowed = getattr(self, setting.name), setting.metadata["allowed"]
            if allowed and value not in allowed:
                raise ValueError(
                    f"{setting.name} is {value!r}, but must be one of {', '.join(allowed)}"
                )
            if type(setting.default) is bool and not isinstance(value, bool):
                raise ValueError(f"{setting.name} is {value!r}, but must be true or false")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise ValueError(f"{name} is {value!r}, but must be a number {_range(low, high)}")
        rate = self.learning_rate
        number = isinstance(rate, int | float) and not isinstance(rate, bool)
        if not number or not 0 < rate < math.inf:
            raise ValueError(f"learning_rate is {rate!r}, but must be above 0 and finite")
        if not self.sandwich and not self.sampled:
            raise ValueError("sampled is 0, but must be at least 1 without sandwich")

    def to_plain(self) -> dict[str, Any]:
        """Plain data, as JSON and YAML give it back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> TrainingSettings:
        """The inverse of `to_plain`; settings left out take their default. Raises ValueError."""
        known = {setting.name for setting in fields(cls)}
        unknown = sorted(set(data) - known, key=str)
        if unknown:
            raise ValueError(
                f"unknown training setting {unknown[0]!r}; there are {', '.join(sorted(known))}"
            )
        values = dict(data)
        slots = values.get("split_at", ())
        if not isinstance(slots, list | tuple) or not all(isinstance(s, str) for s in slots):
            raise ValueError(f"split_at is {slots!r}, but must be a list of slots' names")
        return cls(**{**values, "split_at": tuple(slots)})


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
}


def _range(low: float, high: float) -> str:
    return f"of at least {low}" if high == math.inf else f"from {low} to {high}"
