"""Residual sub-layers whose branch is an MLP or an inverted bottleneck, as twins that run the
operators of `norm_linear.py` and `norm_linear_mlp.py`: what stands around a linear layer (norm,
activation, squeeze-excite's gate, factors, residual) is done in the same pass.

Only products of bfloat16 or float16 are: those of float32 do without tensor cores, and the library
is the faster there. Under autocast the weights are of the lower precision, the map that comes in
and its residual are as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from space.layers import LayerNorm2d, LayerScale, Mlp, Pointwise, Residual, SqueezeExcite
from space.operators.inverted_bottleneck import InvertedBottleneckBranch
from supernet.kernels.norm_linear import MOST_CHANNELS, linear_residual, narrow, norm_linear
from supernet.kernels.norm_linear_mlp import mlp
from supernet.kernels.twins import autocast


def _activation(layer: nn.Module) -> str | None:
    """The kernels' name of an activation; None where they have none."""
    if isinstance(layer, nn.GELU):
        return "gelu-tanh" if layer.approximate == "tanh" else "gelu"
    names = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Identity: "none"}
    return names.get(type(layer))


def _absent(*layers: nn.Module) -> bool:
    return all(isinstance(layer, nn.Identity) for layer in layers)


class _Entry(NamedTuple):
    """A linear layer with the activation right behind it, and the layers behind both."""

    linear: Pointwise
    activation: str
    rest: Sequence[nn.Module]


def _entry(expand: nn.Module) -> _Entry | None:
    """How an expansion begins; None where it is not with a linear layer."""
    layers = list(expand) if isinstance(expand, nn.Sequential) else [expand]
    layers = [layer for layer in layers if not _absent(layer)]
    if not layers or not isinstance(layers[0], Pointwise):
        return None
    activation = _activation(layers[1]) if len(layers) > 1 else None
    if activation is None:
        return _Entry(layers[0], "none", layers[1:])
    return _Entry(layers[0], activation, layers[2:])


def _weight(x: Tensor, linear: nn.Module, axis: int) -> Tensor | None:
    """The weight of a linear layer as autocast hands it on, if the kernels should take it beside a
    map like `x`, and else None.

    At most `MOST_CHANNELS` lie along `axis`. Widths and what lies between rows are multiples of 8
    numbers, which are read at once; with others the kernels are right, but slow."""
    if not isinstance(linear, Pointwise) or x.dim() != 4 or not x.is_floating_point():
        return None
    if linear.weight.shape[axis] > MOST_CHANNELS or any(n % 8 for n in linear.weight.shape):
        return None
    (weight,) = autocast(linear.weight)
    assert weight is not None
    taken = weight.is_floating_point() and narrow(weight.dtype) and weight.stride(0) % 8 == 0
    return weight if taken else None


def _takes_norm(norm: nn.Module) -> bool:
    return isinstance(norm, LayerNorm2d) or _absent(norm)


def _norm(norm: nn.Module) -> tuple[Any, Any, float | None]:
    """Weight, bias and epsilon of a norm that the kernels can do."""
    if isinstance(norm, LayerNorm2d):
        return norm.weight, norm.bias, norm.eps
    return None, None, None


def _scale(scale: nn.Module) -> Tensor | None:
    return scale.weight if isinstance(scale, LayerScale) else None


def _gate(gate: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """A map and what each of its channels is still to be multiplied with, (N, C), or None."""
    if not isinstance(gate, SqueezeExcite):
        return gate(x), None
    squeezed = gate.activation(gate.reduce(x.mean((2, 3), keepdim=True)))
    return x, gate.gate(gate.expand(squeezed)).flatten(1)


def _mlp(
    branch: Mlp,
    x: Tensor,
    norm: nn.Module,
    scale: nn.Module,
    shortcut: nn.Module | None,
) -> Tensor | None:
    """shortcut(x) + scale(branch(norm(x))) in one operator, where there is a shortcut; None where
    it should not be."""
    expand, project = branch.expand, branch.project
    first, second = _weight(x, expand, 1), _weight(x, project, 0)
    activation = _activation(branch.activation)
    if first is None or second is None or activation is None:
        return None
    residual = None if shortcut is None else shortcut(x)
    weight, bias, eps = _norm(norm)
    parameters = (weight, bias, first, expand.bias, second, project.bias, _scale(scale))
    return mlp(x, *parameters, residual, eps, activation)


def _serves_mlp(module: Mlp) -> bool:
    widths = (module.expand.in_features, module.project.out_features)
    return _activation(module.activation) is not None and max(widths) <= MOST_CHANNELS


class FusedMlp(Mlp):
    """Mlp in one operator."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        assert isinstance(module, Mlp)
        return _serves_mlp(module)

    def forward(self, x: Tensor) -> Tensor:
        y = _mlp(self, x, nn.Identity(), nn.Identity(), None)
        return super().forward(x) if y is None else y


class FusedResidual(Residual):
    """Residual of an MLP, or of an inverted bottleneck: its first linear layer with norm and
    activation, its last with gate, factors and residual, or, where nothing stands between them,
    all of it in one operator."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        assert isinstance(module, Residual)
        branch = module.branch
        if not (_absent(module.scale) or isinstance(module.scale, LayerScale)):
            return False
        if isinstance(branch, Mlp):
            return _takes_norm(module.norm) and _serves_mlp(branch)
        if not isinstance(branch, InvertedBottleneckBranch):
            return False
        entry = _entry(branch.expand)
        enters = entry is not None and entry.linear.in_features <= MOST_CHANNELS
        project = branch.project
        return enters or (isinstance(project, Pointwise) and project.out_features <= MOST_CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        y = None
        if isinstance(self.branch, Mlp):
            y = _mlp(self.branch, x, self.norm, self.scale, self.shortcut)
        elif isinstance(self.branch, InvertedBottleneckBranch):
            y = self._bottleneck(x, self.branch)
        return super().forward(x) if y is None else y

    def _bottleneck(self, x: Tensor, branch: InvertedBottleneckBranch) -> Tensor | None:
        """None where no kernel should do any of it."""
        leads = not _absent(branch.lead, branch.norm)
        norm, entry = branch.norm if leads else self.norm, _entry(branch.expand)
        project = branch.project if isinstance(branch.project, Pointwise) else None
        first = None if entry is None or not _takes_norm(norm) else _weight(x, entry.linear, 1)
        second = None if project is None else _weight(x, project, 0)
        if first is None and second is None:
            return None
        shortcut, scale = self.shortcut(x), _scale(self.scale)
        y = branch.lead(self.norm(x)) if leads else x
        if first is None or entry is None:
            y = branch.expand(norm(y))
        else:
            weight, bias, eps = _norm(norm)
            before = (weight, bias, first, entry.linear.bias)
            bare = not entry.rest and _absent(branch.mix, branch.gate, branch.last_norm)
            if bare and second is not None and project is not None:
                behind = (second, project.bias, scale)
                return mlp(y, *before, *behind, shortcut, eps, entry.activation)
            y = norm_linear(y, *before, eps, entry.activation)
            for layer in entry.rest:
                y = layer(y)
        y, factor = _gate(branch.gate, branch.mix(y))
        if second is None or project is None:
            y = branch.project(y if factor is None else y * factor[:, :, None, None])
            return shortcut + self.scale(branch.last_norm(y))
        if _absent(branch.last_norm):
            return linear_residual(y, second, project.bias, factor, scale, shortcut)
        y = linear_residual(y, second, project.bias, factor, None, None)
        return shortcut + self.scale(branch.last_norm(y))


TWINS = {Mlp: FusedMlp, Residual: FusedResidual}
