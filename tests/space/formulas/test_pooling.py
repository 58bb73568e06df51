"""Pooling against its formula, pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from naive import held_against, mlp_behind, norm

from space.genes import Site
from space.operators.pooling import Pooling


@pytest.mark.parametrize("genes", [{}, {"context": 5, "norm": "group", "layer_scale": 0.1}])
def test_pooling(genes):
    part = Pooling(**genes)
    kind, half = part.norm, part.context // 2

    def formula(x, p):
        mixer, (height, width) = p.at("mixer"), x.shape[1:]
        u = norm(x, mixer.at("norm"), kind)
        y = torch.empty_like(u)
        for i in range(height):
            for j in range(width):
                rows = slice(max(0, i - half), i + half + 1)
                columns = slice(max(0, j - half), j + half + 1)
                y[:, i, j] = u[:, rows, columns].flatten(1).mean(1) - u[:, i, j]
        if part.layer_scale is not None:
            y = y * mixer["scale.weight"][:, None, None]
        return mlp_behind(x + y, p.at("mlp"), torch.nn.functional.gelu, kind)

    torch.manual_seed(0)
    module = part.build(Site(6, 6, 5, 4))
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    held_against(formula, module, torch.randn(2, 6, 5, 4))
