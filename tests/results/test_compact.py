"""A shorter source computes what the long one does."""

from __future__ import annotations

import ast
import textwrap
import tomllib
from pathlib import Path

import pytest
import torch

from results.compact import compacted

HEAD = '''
"""A network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def model(num_classes: int = 3) -> Network:
    return Network({model})


'''

CLASSES = '''
class Network(nn.Module):
    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


class Residual(nn.Module):
    """shortcut(x) + branch(norm(x)).

    Of which more could be said.
    """

    def __init__(self, branch: nn.Module, norm: nn.Module | None = None, shortcut=None):
        super().__init__()
        self.norm = norm or nn.Identity()
        self.branch = branch
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.branch(self.norm(x))


class Mlp(nn.Module):
    def __init__(self, channels: int, hidden: int, activation=nn.GELU, bias: bool = True):
        super().__init__()
        self.expand = nn.Linear(channels, hidden, bias)
        self.activation = activation()
        self.project = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.activation(self.expand(x)))


class Scored(nn.Module):
    """Uses what comes in twice, and names that clash with those around it."""

    def __init__(self, width: int, times: int = 1, gate: nn.Module | None = None):
        super().__init__()
        self.width, self.times = width, times
        self.gate = gate

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        y = x if y is None else y
        parts = [x * k for k in range(self.times)]
        if self.gate is not None:
            y = self.gate(y)
        return torch.stack([y, *parts]).sum(0) / self.width


class Base(nn.Module):
    def __init__(self, heads: int, **layers: nn.Module):
        super().__init__()
        self.heads = heads
        self.first = layers["first"] if "first" in layers else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(self.first(x)) * self.heads

    def twice(self, x: Tensor) -> Tensor:
        return x + x


class Plain(nn.Module):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def doubled(x: Tensor, times: int = 2) -> Tensor:
    return x * times


class Scale(nn.Module):
    def __init__(self, channels: int, start: float = 0.5):
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.start)

    def forward(self, x: Tensor) -> Tensor:
        return doubled(x * self.weight)


class SumOf(nn.Module):
    def __init__(self, branches: tuple[nn.Module, ...]):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branches[0](x)
        for branch in self.branches[1:]:
            y = y + branch(x)
        return y


class Parts(nn.Module):
    """Each part sees what was made of the one before it; the last stays as it is."""

    def __init__(self, layers: tuple[nn.Module, ...]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        *parts, last = x.split(1, 1)
        made: list[Tensor] = []
        for part, layer in zip(parts, self.layers, strict=True):
            made.append(layer(part + made[-1] if made else part))
        for i, layer in enumerate(self.layers):
            last = last + layer(last) * x[:, i : i + 1]
        return torch.cat([*made, last], 1)


class Region(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.size = size

    @staticmethod
    def lacking(side: int, size: int) -> int:
        return -side % size

    def cut(self, x: Tensor) -> Tensor:
        more = self.lacking(x.shape[0], self.size)
        if more:
            x = F.pad(x, (0, 0, 0, more))
        return x.unflatten(0, (-1, self.size))

    def join(self, x: Tensor, count: int) -> Tensor:
        return x.flatten(0, 1)[:count]


class InRegions(nn.Module):
    def __init__(self, region: nn.Module, branch: nn.Module):
        super().__init__()
        self.region = region
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[0]
        if x.shape[1] != 4:
            raise ValueError(f"not {4} channels")
        return self.region.join(self.branch(self.region.cut(x)), count)


class Sequence(nn.Conv1d):
    """A convolution along the channels, to as many as there are."""

    def __init__(self, taps: int):
        super().__init__(1, 1, taps, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        lacking = self.kernel_size[0] - self.stride[0]
        return super().forward(F.pad(x[:, None], (lacking, 0))).squeeze(1)


class Chosen(nn.Module):
    """A method inside of a comprehension, and a layer that is asked for more than its call."""

    def __init__(self, layers: tuple[nn.Module, ...]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        y = sum(self.times(x, k) for k in (1, 2))
        for layer in self.layers:
            y = layer(y) * layer.weight.sum()
        return y

    def times(self, x: Tensor, k: int) -> Tensor:
        z = x * k
        return z + z.mean()


class Heir(Plain):
    def __init__(self, factor: float, more: int):
        super().__init__(2 * factor)
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.more
'''

MADE = {
    "nothing is given": "Residual(Mlp(4, 8))",
    "all is given": "Residual(Mlp(4, 8, nn.ReLU, bias=False), nn.LayerNorm(4), nn.Linear(4, 4))",
    "inside each other": "Residual(Residual(Residual(Scored(3)), nn.LayerNorm(4)))",
    "a branch that is taken": "Residual(Scored(3, times=2, gate=Mlp(4, 2)))",
    "a chain": "nn.Sequential(nn.LayerNorm(4), Residual(Mlp(4, 8)), nn.GELU(), Plain(0.5))",
    "what derives": "Residual(Heir(0.5, more=2))",
    "names that clash": "Residual(Residual(Mlp(4, 8), nn.LayerNorm(4)), nn.LayerNorm(4))",
    "parameters of their own": "Residual(nn.Sequential(Mlp(4, 8), Scale(4)))",
    "branches side by side": "SumOf((nn.Linear(4, 4), Residual(Mlp(4, 8)), nn.Identity()))",
    "a loop over parts": "Residual(Parts((nn.Linear(1, 1), Mlp(1, 2), Scale(1))))",
    "methods of a child": "Residual(InRegions(Region(2), nn.Linear(4, 4)))",
    "a layer that does more": "Residual(nn.Sequential(Sequence(3), Scale(4)))",
    "what stays whole": "Residual(Chosen((Scale(4), Scale(4))))",
    "the same twice": "Residual(nn.Sequential(Mlp(4, 8), Mlp(4, 8)), shortcut=Mlp(4, 8))",
}


def source(made: str) -> str:
    built = textwrap.indent(f'def block() -> nn.Module:\n    """It."""\n    return {made}\n', "")
    return HEAD.replace("{model}", "block(), block()").strip() + "\n\n\n" + built + CLASSES


def built(text: str):
    scope: dict = {"__name__": "found"}
    exec(compile(text, "found.py", "exec"), scope)
    return scope["model"]().eval()


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_it_computes_the_same(made):
    found = compacted(source(made) + "\n\nEND = model\n")
    old, new = built(source(made)), built(found.text)
    state = old.state_dict()
    with torch.no_grad():
        for value in state.values():
            value.add_(0.3 * torch.randn_like(value))
    names = {}
    for path, module in new.named_modules():
        moved = found.origins.get(type(module).__name__, {})
        for name, _ in module.named_parameters():
            attribute, _, rest = name.partition(".")
            if attribute in moved:
                names[f"{path}.{name}"] = ".".join(filter(None, [path, moved[attribute], rest]))
    new.load_state_dict({name: state[names.get(name, name)] for name in new.state_dict()})
    x = torch.randn(5, 4)
    assert len(new.state_dict()) == len(state)
    assert torch.equal(new(x), old(x))


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_it_is_shorter_and_has_no_dead_branch(made):
    found = compacted(source(made) + "\n\nEND = model\n").text
    assert len(found.splitlines()) < len(source(made).splitlines())
    tree = ast.parse(found)
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.If | ast.IfExp) and isinstance(node.test, ast.Constant))
    assert "nn.Identity()" not in found
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert defined <= used


def test_what_formats_exports_is_installed_with_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert any(needed.startswith("ruff") for needed in project["dependencies"])
