"""A shorter source computes what the long one does."""

from __future__ import annotations

import ast
import textwrap

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
