"""Column: one whole column of RevCol, levels of ConvNeXt blocks with links to the column before it.

Source: RevCol (Cai et al., 2022), arXiv 2212.11696, section 3 and its released code. With the
stem's map s, columns j and levels i = 0, 1, ..., each of half the resolution and twice the width,

    c[j][i] = alpha[j][i] * c[j-1][i] + blocks[j][i](down(c[j][i-1]) + up(c[j-1][i+1]))

where c[j][-1] = s, down is the identity at level 0, the last level has no up, and the first column
has neither up nor the alpha term (the released code makes its alphas all the same, and never uses
them). From column to column travels (s, c[j][0], c[j][1], ...). A column in a stage hands all of it
on; one that stands as a downsampling module is the last, and hands on its last level alone.

Reversible: c[j-1][i] = (c[j][i] - blocks(...)) / alpha, from the last level to the first. Where
`reversible` is set (by `set_reversible`), training keeps the maps of the last column and of every
fourth, and the backward pass computes those of each column before them anew. With the last one's
alone rounding doubles from column to column, as alpha starts at 0.5: in float32 the gradients of
RevCol-B, 16 columns, were wrong by a quarter at the start, those of RevCol-T, 4 columns, by 1e-5.
Differs: any map will do (level i has ceil(side / 2**i) pixels; what is upsampled is cropped), and
|alpha| is held at 1e-3 or more where it is used, not by changing the parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from space import cost, units
from space.blueprint import Blueprint, blueprint
from space.genes import MAP, Flow, Part, Site, choice, number, operator, rows
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.settings import ACTIVATIONS, NORMS
from space.shared import CONTEXTS, LAYER_SCALES


class ColumnLevel(nn.Module):
    """One level: from the level below it, (N, C', H', W'), and the one above it of the column
    before, (N, 2 C, H / 2, W / 2), to (N, C, H, W)."""

    def __init__(
        self,
        channels: int,
        blocks: nn.Module,
        down: nn.Module | None = None,
        up: nn.Module | None = None,
    ):
        super().__init__()
        self.alpha = nn.Parameter(torch.full((channels,), 0.5))
        self.down = down or nn.Identity()
        self.up = up or nn.Identity()
        self.blocks = blocks

    def forward(self, below: Tensor, above: Tensor | None = None) -> Tensor:
        x = self.down(below)
        if above is not None:
            x = x + self.up(above)[..., : x.shape[2], : x.shape[3]]
        return self.blocks(x)

    def factor(self) -> Tensor:
        """alpha, held at |alpha| >= 1e-3; its gradient is that of alpha."""
        size = self.alpha.abs().clamp(min=1e-3)
        held = torch.where(self.alpha < 0, -size, size)  # ONNX has no copysign
        return (self.alpha + (held - self.alpha).detach())[:, None, None]


class Column(nn.Module):
    """The stem's map and the maps of the column before to the stem's map and those of this one."""

    def __init__(self, levels: tuple[nn.Module, ...]):
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.reversible = False  # in training, see `ReversibleColumn`

    def forward(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        stem, *before = state
        if not (self.reversible and self.training and torch.is_grad_enabled()):
            return (stem, *self.maps(stem, before))
        earlier = before[0].grad_fn if before else None
        if not all(x.grad_fn is earlier and x.output_nr == i for i, x in enumerate(before)):
            earlier = None
        made = ReversibleColumn.apply(self, earlier, len(before), stem, *before, *self.parameters())
        return (stem, *made)

    def maps(self, stem: Tensor, before: Sequence[Tensor]) -> list[Tensor]:
        """This column's maps; `before` is empty in the first column."""
        made, x = [], stem
        for i, level in enumerate(self.levels):
            x = level(x, before[i + 1] if i + 1 < len(before) else None)
            if before:
                x = x + level.factor() * before[i]  # type: ignore[operator]
            made.append(x)
        return made


class FirstColumn(Column):
    """The stem's map to itself and the maps of this column."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return super().forward((x,))


class LastColumn(Column):
    """The stem's map and the maps of the column before to the last level's map of this one."""

    def forward(self, state: tuple[Tensor, ...]) -> Tensor:  # type: ignore[override]
        return super().forward(state)[-1]


KEPT_EVERY = 4  # of so many reversible columns one keeps its maps


class ReversibleColumn(torch.autograd.Function):
    """A column that keeps nothing for its backward pass but its own maps, and these mostly until
    the next column has been made of them: that one gives them back when its backward pass has
    computed them anew."""

    @staticmethod
    def forward(ctx, column, earlier, count, stem, *tensors):
        made = column.maps(stem, tensors[:count])
        ctx.column, ctx.linked, ctx.keeps = column, count > 0, True
        ctx.save_for_backward(stem, *tensors[count:])  # the parameters, so that changes are seen
        ctx.maps = [x.detach() for x in made]
        ctx.autocast = (
            stem.device.type,
            torch.get_autocast_dtype(stem.device.type),
            torch.is_autocast_enabled(stem.device.type),
        )
        ctx.earlier = earlier if isinstance(getattr(earlier, "maps", None), list) else None
        ctx.place = 0 if ctx.earlier is None else earlier.place + 1
        if ctx.place % KEPT_EVERY:
            earlier.maps, earlier.keeps = None, False
        return tuple(made)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        stem, *_ = ctx.saved_tensors
        if ctx.maps is None:
            raise RuntimeError(
                "a reversible column gets its maps from the next one, whose backward pass has not "
                "run: take the gradient of something that all columns lead to"
            )
        with torch.autocast(*ctx.autocast):
            before, of_inputs, of_each = _backwards(
                ctx.column, stem.detach(), ctx.maps, ctx.linked, gradients
            )
        if not ctx.keeps:
            ctx.maps = None
        if ctx.earlier is not None and not ctx.earlier.keeps:
            ctx.earlier.maps = before
        of_parameters = (of_each.get(p) for p in ctx.column.parameters())
        return (None, None, None, *of_inputs, *of_parameters)


def _backwards(
    column: Column,
    stem: Tensor,
    maps: Sequence[Tensor],
    linked: bool,
    gradients: Sequence[Tensor],
) -> tuple[list[Tensor], list[Tensor], dict[Tensor, Tensor]]:
    """The maps of the column before (none if not `linked`), and the gradients of the stem's map
    followed by these and of the parameters; from the gradients of `maps`, the column's own."""
    of_maps = list(gradients)
    of_before: list[Tensor] = []  # from the last level to the first, as `before`
    before: list[Tensor] = []
    of_parameters: dict[Tensor, Tensor] = {}
    for i in reversed(range(len(maps))):
        level = column.levels[i]
        parameters = [p for p in level.parameters() if p.requires_grad]
        below = (maps[i - 1] if i else stem).detach().requires_grad_()
        inputs = [below]
        with torch.enable_grad():
            if before:
                inputs.append(before[-1].detach().requires_grad_())
            made = level(*inputs)
            if linked:
                factor = level.factor()  # type: ignore[operator]
                kept = ((maps[i] - made) / factor).detach().requires_grad_()
                made = made + factor * kept
                before.append(kept.detach())
                inputs.append(kept)
        wanted = [*inputs, *parameters]
        found = torch.autograd.grad(made, wanted, of_maps[i].to(made.dtype), allow_unused=True)
        of_parameters |= zip(parameters, found[len(inputs) :], strict=True)
        if len(inputs) == 3:
            of_before[-1] = of_before[-1] + found[1]
        if linked:
            of_before.append(found[len(inputs) - 1])
        if i:
            of_maps[i - 1] = of_maps[i - 1] + found[0]
    return before[::-1], [found[0], *of_before[::-1]], of_parameters


def set_reversible(network: nn.Module, on: bool = True) -> None:
    """Lets few of the columns of `network` keep their maps in training, and none what is inside.

    The gradients are the same up to rounding, which grows with 1 / |alpha|, for about half as much
    computation again. Not for use under `torch.func`.
    """
    for module in network.modules():
        if isinstance(module, Column):
            module.reversible = on


@operator("column")
@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnOperator(Part):
    """Genes: `depths` (blocks of each level; level i is 2**i times as wide as the first),
    `expansion`, `context` (side of the filter, pixels), `norm`, `activation`, `layer_scale`.

    In a stage it keeps width and resolution, those of level 0. As a downsampling module it is the
    last column, with the stride and the width of its last level. Norms of batches are left out:
    the reversible backward pass would count each batch twice.
    """

    takes = ("map", "columns")

    depths: tuple[tuple[int], ...] = rows(
        default=((2,), (2,), (4,), (2,)),
        examples=(((2,), (2,), (4,), (2,)), ((1,), (1,), (3,), (2,)), ((1,), (1,))),
        blocks=range(1, 65),
    )
    expansion: float = number(0.1, 32, default=4, examples=(1, 2, 3, 4))
    context: int = choice(*CONTEXTS)
    norm: str = choice(*(name for name in NORMS if not name.startswith("batch")))
    activation: str = choice(*ACTIVATIONS)
    layer_scale: float | None = choice(*LAYER_SCALES)

    def gives(self, site: Site) -> Flow:
        return MAP if site.stride > 1 else Flow("columns", len(self.depths))

    def blueprint(self, site: Site) -> Blueprint:
        levels, is_first, is_last = len(self.depths), site.flow == MAP, site.stride > 1
        self._check(site, is_first, is_last)
        sites = [_level_site(site, i) for i in range(levels)]
        parts = []
        for i, here in enumerate(sites):
            has_up = not is_first and i + 1 < levels
            (depth,) = self.depths[i]
            level = blueprint(
                ColumnLevel,
                here.channels,
                cost=cost.parameters(here.channels),  # alpha
                blocks=blueprint(nn.Sequential, *(self._block.blueprint(here),) * depth),
                down=self._down(sites[i - 1], here) if i else None,
                up=self._up(sites[i + 1], here) if has_up else None,
            )
            parts.append(level)
        column = FirstColumn if is_first else LastColumn if is_last else Column
        return blueprint(column, levels=tuple(parts))

    def _check(self, site: Site, is_first: bool, is_last: bool) -> None:
        levels = len(self.depths)
        if levels < 2:
            raise ValueError(f"{self.kind}: depths has {levels} levels, but 2 are the least")
        if not is_first and site.flow.count != levels:
            raise ValueError(
                f"{self.kind}: depths has {levels} levels, but the column before has "
                f"{site.flow.count}"
            )
        ratio = 2 ** (levels - 1) if is_last else 1
        if is_last and is_first:
            raise ValueError(f"{self.kind}: the last column needs one before it")
        if (site.stride, site.channels) != (ratio, ratio * site.in_channels):
            raise ValueError(
                f"{self.kind}: {site.in_channels} channels come in, so stride and width must be "
                f"{ratio} and {ratio * site.in_channels}, not {site.stride} and {site.channels}"
            )

    @property
    def _block(self) -> InvertedBottleneck:
        return InvertedBottleneck(
            expansion=self.expansion,
            context=self.context,
            convolution="first",
            first_norm=self.norm,
            norm="none",
            bias="all",
            activation=self.activation,
            layer_scale=self.layer_scale,
        )

    def _down(self, below: Site, here: Site) -> Blueprint:
        convolution = units.convolution(
            below.channels,
            here.channels,
            2,
            pixels=below.pixels,
            stride=2,
            out_pixels=here.pixels,
        )
        return units.sequence(convolution, units.norm(self.norm, here.channels))

    def _up(self, above: Site, here: Site) -> Blueprint:
        return units.sequence(
            units.linear(above.channels, here.channels, pixels=above.pixels),
            units.norm(self.norm, here.channels),
            blueprint(nn.Upsample, scale_factor=2),
        )


def _level_site(site: Site, level: int) -> Site:
    """Where the blocks of a level stand."""
    ratio, channels = 2**level, site.in_channels * 2**level
    return replace(
        site,
        in_channels=channels,
        channels=channels,
        height=-(-site.height // ratio),
        width=-(-site.width // ratio),
        stride=1,
        flow=MAP,
    )
