"""A genome: one whole network as nested frozen dataclasses.

It holds no module, weight, device or score. It is hashable, goes to JSON and back by names, and
its `digest` is its identity everywhere: in logs, file names and caches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from space.cost import Cost
from space.genes import Part, Site, part_from_json, part_to_json

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Placed:
    """A part, where it stands in the network, and its name there (`stages.1.blocks.0`)."""

    path: str
    part: Part
    site: Site

    def build(self) -> nn.Module:
        return self.part.build(self.site)

    def cost(self) -> Cost:
        return self.part.cost(self.site)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Blocks of one width and resolution, behind an optional downsampling module.

    `stride` is that of the downsampling module. Without one it is 1, and the first block takes
    the width that comes in to `channels`.
    """

    channels: int
    blocks: tuple[Part, ...]
    downsample: Part | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        if self.downsample is None and self.stride != 1:
            raise ValueError(f"a stage of stride {self.stride} needs a downsampling module")
        if self.downsample is None and not self.blocks:
            raise ValueError("a stage needs a block or a downsampling module")


@dataclass(frozen=True, slots=True, kw_only=True)
class Genome:
    """A network for square images of `resolution` pixels; ValueError where it cannot be built."""

    resolution: int
    stem: Part
    stages: tuple[Stage, ...]
    head: Part
    in_channels: int = 3
    classes: int = 1000

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a genome needs at least one stage")
        stride: int = self.stem.stride  # type: ignore[attr-defined]
        if self.resolution < 1 or self.resolution % stride:
            raise ValueError(
                f"resolution is {self.resolution}, but must be a multiple of the stem's stride "
                f"{stride}"
            )
        for placed in self.parts():
            if placed.site.flow.kind not in placed.part.takes:
                raise ValueError(
                    f"{placed.path}: {placed.part.kind} takes {' or '.join(placed.part.takes)}, "
                    f"but {placed.site.flow.kind} comes in"
                )

    @property
    def total_stride(self) -> int:
        """Input pixels per pixel of the last map, along one side."""
        stride: int = self.stem.stride  # type: ignore[attr-defined]
        for stage in self.stages:
            stride *= stage.stride
        return stride

    def parts(self) -> Iterator[Placed]:
        """Every part in the order an image meets them. This walk alone says how a genome becomes
        a network; building, costs, supernet and export all use it."""
        channels: int = self.stem.channels  # type: ignore[attr-defined]
        stride: int = self.stem.stride  # type: ignore[attr-defined]
        last = Placed(
            "stem",
            self.stem,
            Site(self.in_channels, channels, self.resolution, self.resolution, stride),
        )
        yield last
        for i, stage in enumerate(self.stages):
            if stage.downsample is not None:
                path = f"stages.{i}.downsample"
                last = _behind(last, path, stage.downsample, stage.channels, stage.stride)
                yield last
            for j, block in enumerate(stage.blocks):
                last = _behind(last, f"stages.{i}.blocks.{j}", block, stage.channels)
                yield last
        yield _behind(last, "head", self.head, self.classes)

    def cost(self) -> Cost:
        """Closed-form cost of one image."""
        total = Cost()
        for placed in self.parts():
            total += placed.cost()
        return total

    def to_json(self, *, brief: bool = False) -> dict[str, Any]:
        """Names and values only, so that a new operator or choice never changes an old file.

        `brief` leaves out genes that have their default.
        """
        return {
            "format": FORMAT,
            "resolution": self.resolution,
            "in_channels": self.in_channels,
            "classes": self.classes,
            "stem": part_to_json(self.stem, brief=brief),
            "stages": [
                {
                    "channels": stage.channels,
                    "stride": stage.stride,
                    "downsample": stage.downsample and part_to_json(stage.downsample, brief=brief),
                    "blocks": [part_to_json(block, brief=brief) for block in stage.blocks],
                }
                for stage in self.stages
            ],
            "head": part_to_json(self.head, brief=brief),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Genome:
        """The inverse of `to_json`. Raises ValueError that names what is wrong and where."""
        if not isinstance(data, Mapping):
            raise ValueError(f"a genome must be an object, not {type(data).__name__}")
        if data.get("format", FORMAT) != FORMAT:
            raise ValueError(f"genome format {data['format']!r} is unknown; this reads {FORMAT}")
        try:
            return cls(
                resolution=_count(data["resolution"], "resolution"),
                in_channels=_count(data["in_channels"], "in_channels"),
                classes=_count(data["classes"], "classes"),
                stem=part_from_json("stem", data["stem"]),
                stages=tuple(
                    _stage(stage, place)
                    for place, stage in enumerate(_list(data["stages"], "stages"))
                ),
                head=part_from_json("head", data["head"]),
            )
        except KeyError as error:
            raise ValueError(f"the genome lacks {error.args[0]!r}") from None

    @property
    def digest(self) -> str:
        """Identity of the network: 12 hexadecimal digits of SHA-256 over its brief JSON.

        A gene that a part gains later, with the default that says what it did before, changes no
        digest.
        """
        text = json.dumps(self.to_json(brief=True), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def at(
        self, *, resolution: int | None = None, classes: int | None = None, **changes: Any
    ) -> Genome:
        """The same network for another resolution or number of classes."""
        return replace(
            self,
            resolution=resolution or self.resolution,
            classes=classes or self.classes,
            **changes,
        )


def _behind(last: Placed, path: str, part: Part, channels: int, stride: int = 1) -> Placed:
    site, flow = last.site, last.part.gives(last.site)
    here = Site(site.channels, channels, site.out_height, site.out_width, stride, flow)
    return Placed(path, part, here)


def _count(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}, but must be a whole number of at least 1")
    return value


def _stage(data: Any, place: int) -> Stage:
    if not isinstance(data, Mapping):
        raise ValueError(f"stage {place} must be an object, not {type(data).__name__}")
    try:
        downsample = data["downsample"]
        return Stage(
            channels=_count(data["channels"], "channels"),
            stride=_count(data["stride"], "stride"),
            downsample=None if downsample is None else part_from_json("downsampling", downsample),
            blocks=tuple(part_from_json("operator", b) for b in _list(data["blocks"], "blocks")),
        )
    except KeyError as error:
        raise ValueError(f"stage {place} lacks {error.args[0]!r}") from None
    except ValueError as error:
        raise ValueError(f"stage {place}: {error}") from None


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list, not {type(value).__name__}")
    return list(value)
