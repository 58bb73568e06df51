"""Every setting of a run, resolved: what `config.yaml` holds and `--config` takes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from search.evolution import check_mutation

FORMAT = 1

# What a resumed run may change: where and how fast it runs, never what it finds.
FREE_ON_RESUME = frozenset({"workers", "ray_address", "gpus_per_worker", "prefix_memory"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run. Raises ValueError, naming the setting and what is allowed."""

    budget: str
    objectives: tuple[str, ...] = ()  # score and costs; none: score and the cost that is steered
    flops_per_mac: int = 1  # 2 for those who count a MAC as two FLOPs
    space: str = "unified"
    space_definition: Mapping[str, Any] = field(default_factory=dict)  # the space file's content
    resolution: int | None = None  # of the networks; None keeps the space's choices
    classes: int | None = None  # None: 1000 for digits, else those of the data
    data: str = "digits"
    limit: int | None = None  # images to train on
    controller: str = "auto"  # see `search.controllers.choose`
    mutation: str = "uniform"  # of the evolution: which of its variables a child changes
    warm_start: bool = False  # published networks are the first candidates
    evaluations: int = 320
    batch: int = 16  # candidates that are asked for, and scored by one worker, at a time
    race: bool = True  # candidates that cannot come onto the front any more drop out
    race_error: float = 0.01  # chance that a pair of candidates is judged wrongly
    proxy_width: float = 0.125
    proxy_resolution: int = 32
    training: Mapping[str, Any] = field(default_factory=dict)  # `supernet.recipe`
    seed: int = 0
    device: str = "cpu"
    threads: int = 1  # of each pass on a CPU; forward and backward passes overlap
    chunk: int = 512  # images that a scorer has in memory at a time
    prefix_memory: int = 512  # MiB of activations that a scorer keeps for the next candidates
    graphs: bool = False  # score by CUDA graphs
    kernels: bool = False  # score with kernels of our own (`supernet/kernels`)
    workers: int = 1
    train_workers: int = 1  # processes that train the supernet together, by Ray Train
    ray_address: str | None = None
    gpus_per_worker: float | None = None  # None: this machine's are shared out
    in_flight: int | None = None  # batches under way at a time; None: as many as workers
    compare: bool = True  # with random search at the same number of evaluations
    in_order: bool = False  # results are told in the order in which they were asked for
    exports: int = 5
    onnx: bool = False
    zero_cost: tuple[str, ...] = ()  # scores without training that choose the first candidates
    plugins: tuple[str, ...] = ()  # files with parts of one's own

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and (not _is_int(value) or value < 1):
                raise ValueError(f"{name} is {value!r}, but must be a whole number of at least 1")
        if not _is_int(self.seed) or self.seed < 0:
            raise ValueError(f"seed is {self.seed!r}, but must be a whole number of at least 0")
        if self.flops_per_mac not in (1, 2):
            raise ValueError(f"flops_per_mac is {self.flops_per_mac!r}, but must be 1 or 2")
        if not 0 < self.proxy_width <= 1:
            raise ValueError(f"proxy_width is {self.proxy_width!r}, but must be above 0, at most 1")
        if not 0 < self.race_error < 1:
            raise ValueError(f"race_error is {self.race_error!r}, but must be above 0 and below 1")
        check_mutation(self.mutation)
        if self.mutation != "uniform" and self.controller != "evolution":
            raise ValueError(
                f"mutation is {self.mutation!r}, but the controller is {self.controller!r}, and "
                "only 'evolution' mutates"
            )
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker < 1e4:
            raise ValueError(
                f"gpus_per_worker is {self.gpus_per_worker!r}, but must be at least 0; a share, "
                "such as 0.25, puts several workers on one GPU"
            )
        if self.prefix_memory < 0:
            raise ValueError(f"prefix_memory is {self.prefix_memory!r}, but must be at least 0")
        for name in self.objectives:
            if not isinstance(name, str):
                raise ValueError(f"objectives holds {name!r}, but must hold names")
        for path in self.plugins:
            if not isinstance(path, str):
                raise ValueError(f"plugins holds {path!r}, but must hold paths of files")

    def to_plain(self) -> dict[str, Any]:
        """Plain data for YAML, with the format's number."""
        return {
            "format": FORMAT,
            **asdict(self),
            "objectives": list(self.objectives),
            "plugins": list(self.plugins),
            "zero_cost": list(self.zero_cost),
        }

    @classmethod
    def from_plain(cls, data: Any) -> Settings:
        """The inverse of `to_plain`; settings left out take their default."""
        if not isinstance(data, Mapping) or "budget" not in data:
            raise ValueError("a config must hold settings by name, at least a 'budget'")
        if data.get("format", FORMAT) != FORMAT:
            raise ValueError(f"config format {data['format']!r} is unknown; this reads {FORMAT}")
        known = {setting.name for setting in fields(cls)}
        unknown = sorted(set(data) - known - {"format"}, key=str)
        if unknown:
            raise ValueError(
                f"unknown setting {unknown[0]!r}; there are {', '.join(sorted(known))}"
            )
        values = {name: value for name, value in data.items() if name != "format"}
        for name, value in values.items():
            expected = _TYPES[name]
            if not isinstance(value, expected) or (isinstance(value, bool) and expected != (bool,)):
                names = " or ".join("nothing" if t is type(None) else t.__name__ for t in expected)
                raise ValueError(f"{name} is {value!r}, but must be of type {names}")
        for name in ("objectives", "plugins", "zero_cost"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)


_AT_LEAST_ONE = (
    "resolution",
    "classes",
    "limit",
    "evaluations",
    "batch",
    "proxy_resolution",
    "chunk",
    "threads",
    "workers",
    "train_workers",
    "in_flight",
    "exports",
)

_SPECIAL: dict[str, tuple[type, ...]] = {
    "resolution": (int, type(None)),
    "classes": (int, type(None)),
    "limit": (int, type(None)),
    "ray_address": (str, type(None)),
    "gpus_per_worker": (float, int, type(None)),
    "in_flight": (int, type(None)),
    "space_definition": (dict,),
    "training": (dict,),
    "objectives": (list, tuple),
    "plugins": (list, tuple),
    "zero_cost": (list, tuple),
    "proxy_width": (float, int),
    "race_error": (float, int),
}
_TYPES: dict[str, tuple[type, ...]] = {
    setting.name: _SPECIAL.get(
        setting.name,
        ({"str": str, "int": int, "float": float, "bool": bool}.get(str(setting.type), str),),
    )
    for setting in fields(Settings)
}


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
