"""The supernet: each parameter of each part at its largest, and the rule that cuts a candidate out.

No operator is written a second time. A candidate's parts are built on the meta device, where they
have shapes and no storage; every parameter is cut out of the largest one as `space.slicing` says,
mostly as a view, so gradients flow back; and `torch.func.functional_call` runs the part's own
forward with those cuts. So a candidate computes what its exported network computes.

Weight sharing by leading slices follows Once-for-all (Cai et al., 2020, arXiv 1908.09791, section
3.3) and AutoFormer (Chen et al., 2021, arXiv 2107.00651, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from space.genes import Part, Site
from space.genome import Genome, Placed
from space.search_space import Option, Slot, Space
from space.slicing import Axes, Cut, describe

Buffers = dict[str, dict[str, Tensor]]


MOST_SETTINGS = 256


@dataclass(frozen=True, slots=True)
class _Skeleton:
    """A part without storage: its module on the meta device and the axes of its parameters."""

    module: nn.Module
    axes: Mapping[str, Axes]
    has_buffers: bool


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A part of a candidate, ready to run: its module on the meta device and its cuts."""

    module: nn.Module
    cuts: Mapping[str, tuple[str, Cut]]  # parameter -> (name of the large one, how to cut it)
    has_buffers: bool


class Supernet:
    """Shared weights of the networks of `space`.

    `weights` maps `"<position>.<option>.<parameter>"` to a leaf tensor, for instance
    `"stages.2.blocks.0.attention.mixer.branch.q.weight"`; a pool takes the place of the option
    where a part names one (`Part.pools`) and `pooled`. The same seed gives the same weights.

    `split_at` names slots (`"stages.2.blocks"`) at whose options the supernet falls into branches
    once `split` is called: networks that differ there then share no weight, whose names begin with
    `"<branch>/"` (few-shot NAS, Zhao et al., 2021, arXiv 2006.06863, section 3.2).
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        pooled: bool = True,
        split_at: Sequence[str] = (),
    ):
        self.space = space
        self.device = torch.device(device)
        self.checkpointing = False  # recompute each part in the backward pass, to save memory
        self._pooled = pooled
        self._slots = {path: slot for path, slot, _ in positions(space)}
        self._split_at = places(space, split_at)
        self.is_split = False
        self._axes: dict[str, Axes] = {}
        self.weights: dict[str, Tensor] = {}
        self._prepared: dict[tuple[str, Part, Site], _Prepared] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for path, slot, sites in positions(space):
                self._add(path, slot, sites)

    def _names(self, path: str, part: Part, parameters: Iterable[str]) -> dict[str, str]:
        """Where the parameters of `part` at `path` are kept, within a branch."""
        pools = part.pools if self._pooled else {}
        option = self._slots[path].option_of(part)
        return {
            parameter: f"{path}.{_pool_of(parameter, pools) or option}.{parameter}"
            for parameter in parameters
        }

    # ---- branches

    def branch_of(self, genome: Genome) -> str:
        """What the names of a network's weights begin with: nothing unless `is_split`."""
        if not self.is_split:
            return ""
        parts = {placed.path: placed.part for placed in genome.parts()}
        return _branch(
            self._slots[path].option_of(parts[path]) if path in parts else "-"
            for path in self._split_at
        )

    @property
    def branches(self) -> int:
        """How many there are, or will be."""
        return math.prod(len(options) for options in self._branch_options())

    def _branch_options(self) -> list[list[str]]:
        return [
            [*self._slots[path].options, *(["-"] if _may_lack(self.space, path) else [])]
            for path in self._split_at
        ]

    def split(self) -> dict[str, list[str]]:
        """Gives each branch weights of its own, copies of those that all had until now. Returns
        what became of each name. Without `split_at` nothing happens."""
        if not self._split_at or self.is_split:
            return {}
        self.is_split = True
        branches = [_branch(chosen) for chosen in product(*self._branch_options())]
        became = {name: [branch + name for branch in branches] for name in self.weights}
        self.weights = {
            name: stored(weight.detach().clone()).requires_grad_()
            for old, weight in self.weights.items()
            for name in became[old]
        }
        return became

    # ---- allocation

    def _add(self, path: str, slot: Slot, sites: list[Site]) -> None:
        """Allocates the parameters of one position.

        The largest size of each is taken over the settings of each kind at the widest place, and
        over the other widths that there can be around the position.
        """
        largest: dict[str, Axes] = {}
        donors: dict[str, tuple[Part, Site, str]] = {}
        for part, site in _variants(slot, sites):
            skeleton = _skeleton(part, site)
            names = self._names(path, part, skeleton.axes)
            for name, axes in skeleton.axes.items():
                full = names[name]
                known = largest.get(full)
                largest[full] = axes if known is None else _union(known, axes)
                if largest[full] != known:
                    donors[full] = (part, site, name)
        makers = dict.fromkeys((part, site) for part, site, _ in donors.values())
        modules = {maker: dict(maker[0].build(maker[1]).named_parameters()) for maker in makers}
        for full, axes in largest.items():
            part, site, name = donors[full]
            start = modules[part, site][name].detach()
            shape = tuple(axis.size for axis in axes)
            self._axes[full] = axes
            weight = start.clone() if start.shape == shape else _like(start, shape)
            self.weights[full] = stored(weight.to(self.device)).requires_grad_()

    # ---- running a candidate

    def prepare(self, placed: Placed) -> _Prepared:
        """The part's module and cuts, made once for each part, site and position."""
        key = (placed.path, placed.part, placed.site)
        prepared = self._prepared.get(key)
        if prepared is None:
            skeleton = _skeleton(placed.part, placed.site)
            try:
                names = self._names(placed.path, placed.part, skeleton.axes)
                cuts = {
                    name: (names[name], Cut.between(axes, self._axes[names[name]]))
                    for name, axes in skeleton.axes.items()
                }
            except (KeyError, ValueError) as error:
                raise ValueError(
                    f"{placed.part} at {placed.path} lies outside the supernet of "
                    f"{self.space.name!r}: {error}"
                ) from None
            prepared = _Prepared(skeleton.module, cuts, skeleton.has_buffers)
            self._prepared[key] = prepared
        return prepared

    def run(
        self,
        placed: Placed,
        x: Tensor,
        *,
        training: bool = False,
        buffers: Mapping[str, Tensor] | None = None,
        branch: str = "",
    ) -> Tensor:
        """One part of a candidate on its input map."""
        prepared = self.prepare(placed)
        module = prepared.module
        tensors = {
            name: cut(self.weights[branch + full]) for name, (full, cut) in prepared.cuts.items()
        }
        if prepared.has_buffers:
            tensors |= self._fresh(module) if buffers is None else dict(buffers)
        if module.training != training:
            module.train(training)
        if not (self.checkpointing and training and torch.is_grad_enabled()):
            return functional_call(module, tensors, (x,))

        def again(x: Tensor) -> Tensor:
            module.train(training)  # other candidates may have changed it meanwhile
            return functional_call(module, tensors, (x,))

        return checkpoint(again, x, use_reentrant=False, preserve_rng_state=False)

    def __call__(
        self,
        genome: Genome,
        images: Tensor,
        *,
        training: bool = False,
        buffers: Buffers | None = None,
    ) -> Tensor:
        """Logits (N, classes) of normalised `images` (N, 3, H, W), which become as large as the
        network's resolution where they are not.

        A network with BatchNorm uses the statistics of the batch when `training`, and needs
        `buffers` from `calibrate` otherwise (ValueError).
        """
        x, branch = self.shrunk(images, genome.resolution), self.branch_of(genome)
        for placed in genome.parts():
            kept = (buffers or {}).get(placed.path)
            if kept is None and not training and self.prepare(placed).has_buffers:
                raise ValueError(
                    f"{placed.path} has running statistics: calibrate the genome first"
                )
            x = self.run(placed, x, training=training, buffers=kept, branch=branch)
        return x

    def shrunk(self, images: Tensor, side: int) -> Tensor:
        """Images (N, C, H, W) with antialiasing at `side` pixels; themselves where they are so."""
        if images.shape[-1] == side:
            return images
        size = (side, side)
        small = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        return small.contiguous(memory_format=torch.channels_last)

    # ---- running statistics

    def statistics(self, placed: Placed) -> dict[str, Tensor] | None:
        """Running statistics of a part as they are before the first batch; None where it has
        none."""
        prepared = self.prepare(placed)
        return self._fresh(prepared.module) if prepared.has_buffers else None

    def _fresh(self, module: nn.Module) -> dict[str, Tensor]:
        """Statistics as they are before the first batch."""
        start = {"running_var": torch.ones, "running_mean": torch.zeros}
        return {
            name: start.get(name.rpartition(".")[2], torch.zeros)(
                buffer.shape, dtype=buffer.dtype, device=self.device
            )
            for name, buffer in module.named_buffers()
        }

    @torch.no_grad()
    def calibrate(self, genome: Genome, batches: Iterator[Tensor] | list[Tensor]) -> Buffers:
        """Running statistics of a candidate's BatchNorms: the mean over `batches` of images.

        Empty where there are none. They belong to the candidate, never to the supernet (Yu et
        al., 2018, arXiv 1812.08928, section 3.3, measured again for each candidate as in arXiv
        1903.05134, section 3.3).
        """
        buffers = {
            placed.path: self._fresh(prepared.module)
            for placed in genome.parts()
            if (prepared := self.prepare(placed)).has_buffers
        }
        if buffers:
            for images in batches:
                self(genome, images, training=True, buffers=buffers)
        return buffers

    # ---- weights

    def state_of(self, genome: Genome, buffers: Buffers | None = None) -> dict[str, Tensor]:
        """A state dict for `space.build(genome)`: copies of the candidate's weights."""
        state, branch = {}, self.branch_of(genome)
        for placed in genome.parts():
            for name, (full, cut) in self.prepare(placed).cuts.items():
                state[f"{placed.path}.{name}"] = cut(self.weights[branch + full]).detach().clone()
            for name, buffer in (buffers or {}).get(placed.path, {}).items():
                state[f"{placed.path}.{name}"] = buffer.clone()
        return state

    def used_by(self, genome: Genome) -> set[str]:
        """Names of the weights that a candidate takes part of."""
        branch = self.branch_of(genome)
        return {
            branch + full
            for placed in genome.parts()
            for full, _ in self.prepare(placed).cuts.values()
        }

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copies `weights` in; ValueError where names or shapes differ from this supernet's.

        Weights of branches split this supernet."""
        if self._split_at and not self.is_split and not set(weights) & set(self.weights):
            self.split()
        if set(weights) != set(self.weights):
            odd = sorted(set(weights) ^ set(self.weights))
            raise ValueError(f"these weights are not of this supernet: {odd[0]!r} differs")
        with torch.no_grad():
            for name, weight in self.weights.items():
                if weights[name].shape != weight.shape:
                    raise ValueError(
                        f"{name!r} has shape {tuple(weights[name].shape)}, but must have "
                        f"{tuple(weight.shape)}"
                    )
                weight.copy_(weights[name])


def _pool_of(parameter: str, pools: Mapping[str, str]) -> str | None:
    """The pool that a parameter belongs to, if it does to one."""
    return next(
        (pool for inside, pool in pools.items() if parameter.startswith(f"{inside}.")), None
    )


def _branch(options: Iterable[str]) -> str:
    return "+".join(options) + "/"


def _may_lack(space: Space, path: str) -> bool:
    """Whether there are networks without a part at `path`."""
    words = path.split(".")
    return "blocks" in words and int(words[3]) >= min(space.stages[int(words[1])].depth.choices)


def places(space: Space, names: Sequence[str]) -> tuple[str, ...]:
    """The position that decides each slot of `names`; ValueError where there is no such slot."""
    first: dict[str, str] = {}
    for path, slot, _ in positions(space):
        if len(slot.options) > 1:
            first.setdefault(slot.name, path)
    for name in names:
        if name not in first:
            known = ", ".join(first) or "none"
            raise ValueError(
                f"split_at names {name!r}, but must name slots with several options: {known}"
            )
    return tuple(first[name] for name in names)


def _variants(slot: Slot, sites: list[Site]) -> Iterator[tuple[Part, Site]]:
    """Parts and sites that together have every parameter of a position at its largest.

    At the largest site all settings, at the others one for each set of parameters that there is.
    """
    for option in slot.options.values():
        largest: dict[frozenset[str], Part] = {}
        for part in _settings(slot, option):
            largest.setdefault(frozenset(_skeleton(part, sites[0]).axes), part)
            yield part, sites[0]
        yield from ((part, site) for part in largest.values() for site in sites[1:])


def check_side(space: Space, side: int) -> None:
    """ValueError where a network of `space` cannot work on images of `side` pixels."""
    for path, slot, sites in positions(space, side):
        for option in slot.options.values():
            for part in _settings(slot, option):
                try:
                    part.blueprint(sites[0])
                except ValueError as error:
                    raise ValueError(f"{path} cannot be at {side} pixels: {error}") from None


def positions(space: Space, side: int | None = None) -> Iterator[tuple[str, Slot, list[Site]]]:
    """Every place where a part can stand: its path, its slot, and the sites it can have there,
    the largest first; for images of `side` pixels, or the most that there are."""
    side = side or max(space.resolution.choices)
    stems = _settings_of(space.stem)
    widths = sorted({part.channels for part in stems}, reverse=True)  # type: ignore[attr-defined]
    stride = space.stem_stride
    yield (
        "stem",
        space.stem,
        [Site(space.in_channels, width, side, side, stride) for width in widths],
    )
    side = -(-side // stride)
    for i, stage in enumerate(space.stages):
        outs = sorted(set(stage.channels.choices), reverse=True)
        door = [Site(w, out, side, side, stage.stride) for w in widths for out in outs]
        side = -(-side // stage.stride)
        inside = [Site(out, out, side, side) for out in outs]
        if stage.downsample is not None:
            yield f"stages.{i}.downsample", stage.downsample, door
        for j in range(max(stage.depth.choices)):
            first = j == 0 and stage.downsample is None
            yield f"stages.{i}.blocks.{j}", stage.block(j), door if first else inside
        widths = outs
    yield "head", space.head, [Site(width, space.classes, side, side) for width in widths]


def _settings(slot: Slot, option: Option) -> list[Part]:
    """Settings of `option`, the largest first, that together have every parameter at its largest.

    All of them where they are few. Else those that differ from the largest in at most two genes:
    a parameter whose size hangs on three genes at once would be missed, and `Supernet.prepare`
    would say so.
    """
    choices = [gene.choices[::-1] for gene in option.genes.values()]
    if option.count() <= MOST_SETTINGS:
        chosen = list(product(*choices))
    else:
        top = tuple(values[0] for values in choices)
        chosen = [top]
        for a, b in combinations_with_replacement(range(len(choices)), 2):
            for pair in product(choices[a], choices[b]):
                changed = list(top)
                changed[a], changed[b] = pair
                chosen.append(tuple(changed))
        chosen = list(dict.fromkeys(chosen))
    return [slot.make(option.part, dict(zip(option.genes, v, strict=True))) for v in chosen]


def _settings_of(slot: Slot) -> list[Part]:
    return [part for option in slot.options.values() for part in _settings(slot, option)]


class _WithoutInit(TorchFunctionMode):
    """Leaves out what fills tensors with random numbers: a tensor on the meta device has none."""

    FILLS = frozenset({Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, Tensor.clamp_})

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return args[0] if func in self.FILLS else func(*args, **(kwargs or {}))


@lru_cache(maxsize=16384)
def _skeleton(part: Part, site: Site) -> _Skeleton:
    """Made once for all places where equal parts stand; such parts run one after the other."""
    plan = part.blueprint(site)
    with torch.device("meta"), _WithoutInit():
        module = plan.build()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.momentum = None  # statistics are the mean over calibration batches
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    has_buffers = any(True for _ in module.buffers())
    return _Skeleton(module, describe(shapes, plan.axes), has_buffers)


def _union(one: Axes, other: Axes) -> Axes:
    return tuple(a.union(b) for a, b in zip(one, other, strict=True))


def stored(weight: Tensor) -> Tensor:
    """Filters channels last, so that a convolution of a 1x1 map, whose own layout is ambiguous,
    takes the fast path (the slow one is 14 times slower: 480 channels, 7x7, oneDNN on a CPU)."""
    if weight.ndim != 4:
        return weight
    _, inputs, height, width = weight.shape
    strides = (inputs * height * width, 1, inputs * width, inputs)
    return torch.empty_strided(weight.shape, strides, device=weight.device).copy_(weight)


def _like(start: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor of `shape` that starts as `start` does: constant, or normal with its deviation."""
    if start.min() == start.max():
        return torch.full(shape, float(start.flatten()[0]))
    return torch.randn(shape) * start.std() + start.mean()
