"""The residual convolution against its formulas, pixel by pixel, in float64."""

from __future__ import annotations

import pytest
import torch
from naive import (
    batch,
    convolution,
    gelu,
    held_against,
    linear,
    mlp_behind,
    norm,
    relu,
)

from space.genes import MAP, Flow, Site
from space.operators.convolution import Convolution

BARE = {"first_norm": "none", "activation": "none", "second": "none", "expansion": 0}
NEXT_VIT = {
    "group_width": 32,
    "first_norm": "none",
    "norm": "batch",
    "activation": "relu",
    "bias": False,
    "expansion": 0,
}


def position_code(x, p):
    return x + convolution(x, p.at("branch", "convolution"), groups=6)


def convolutional_attention(x, p):
    branch = p.at("branch")
    y = convolution(x, branch.at("convolution"), groups=2, bias=False)
    y = relu(batch(y, branch.at("between", 0)))
    return x + linear(y, branch.at("pointwise"), bias=False)


def local_concentration(x, p):
    branch = p.at("branch")
    y = convolution(norm(x, p.at("norm"), "layer"), branch.at("convolution"), groups=6)
    return x + convolution(batch(gelu(y), branch.at("between", 1)), branch.at("again"), groups=6)


def by_default(x, p):
    """A depthwise and a pointwise convolution, and an MLP."""
    mixer = p.at("mixer")
    branch = mixer.at("branch")
    y = convolution(norm(x, mixer.at("norm"), "layer"), branch.at("convolution"), groups=6)
    y = linear(gelu(y), branch.at("pointwise"))
    return mlp_behind(x + y, p.at("mlp"), gelu, "layer")


def scaled(x, p):
    mixer = p.at("mixer")
    branch = mixer.at("branch", "convolution")
    y = convolution(norm(x, mixer.at("norm"), "group"), branch)
    y = x + relu(y) * mixer["scale.weight"][:, None, None]
    return mlp_behind(y, p.at("mlp"), relu, "group")


FORMS = {
    "position code": (position_code, 6, BARE | {"context": 7}),
    "Next-ViT": (convolutional_attention, 64, NEXT_VIT),
    "L2ViT": (
        local_concentration,
        6,
        {
            "context": 7,
            "norm": "batch",
            "activation_first": True,
            "second": "convolution",
            "expansion": 0,
        },
    ),
    "default": (by_default, 6, {}),
    "scaled": (
        scaled,
        6,
        {
            "group_width": 0,
            "first_norm": "group",
            "activation": "relu",
            "second": "none",
            "layer_scale": 0.1,
            "expansion": 2,
        },
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_is_its_formula(form, randomise):
    formula, channels, genes = FORMS[form]
    part = Convolution(**genes)
    for height, width in ((5, 4), (1, 3)):
        module = randomise(part.build(Site(channels, channels, height, width)))
        # A block without an MLP has the mixer alone.
        module = module if part.expansion else module.mixer
        held_against(formula, module, torch.randn(2, channels, height, width))


def test_a_block_without_an_mlp_is_its_mixer(randomise):
    block = randomise(Convolution(**BARE).build(Site(6, 6, 5, 4)))
    x = torch.randn(1, 6, 5, 4)
    torch.testing.assert_close(block(x), block.mixer(x), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("channels", "group_width", "groups"),
    [(96, 32, 3), (768, 32, 24), (64, 16, 4), (24, 32, 1), (80, 32, 2), (112, 32, 2), (7, 1, 7)],
)
def test_groups_have_the_width_or_a_little_more(channels, group_width, groups):
    part = Convolution(**NEXT_VIT | {"group_width": group_width})
    axes = part.axes(Site(channels, channels, 4, 4))
    (weight,) = [v for name, v in axes.items() if name.endswith("weight") and len(v) == 4]
    assert weight[:2] == (channels, channels // groups)


def test_what_stands_beside_the_map_passes_by(randomise):
    site = Site(6, 6, 5, 4)
    beside = Site(6, 6, 5, 4, flow=Flow("pair_bias", 2))
    part = Convolution()
    alone, both = randomise(part.build(site)), randomise(part.build(beside))
    x, other = torch.randn(2, 6, 5, 4), torch.randn(2, 20, 20)
    y, passed = both((x, other))
    torch.testing.assert_close(y, alone(x), atol=0, rtol=0)
    assert passed is other
    assert part.gives(beside) == beside.flow
    assert part.gives(site) == MAP


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ({"gate": "eca"}, "gate is 'eca', but makes no difference outside a bottleneck"),
        ({"ratio": 0.5}, "ratio is 0.5, but makes no difference outside a bottleneck"),
        ({"shell": "bottleneck"}, "expansion is 4, but must be 0 in a bottleneck"),
        (
            {"shell": "bottleneck", "expansion": 0, "layer_scale": 0.1},
            "layer_scale is 0.1, but makes no difference in a bottleneck",
        ),
        (
            {"shell": "bottleneck", "expansion": 0, "squeeze_ratio": 0.5},
            "squeeze_ratio is 0.5, but makes no difference without squeeze-excite",
        ),
        ({"activation": "none"}, "activation is 'none', but an MLP"),
        ({"activation_first": True}, "activation_first is True, but makes no difference without"),
    ],
)
def test_genes_that_do_not_go_together_are_refused(genes, message):
    with pytest.raises(ValueError, match=message):
        Convolution(**genes)


@pytest.mark.parametrize("site", [Site(6, 8, 4, 4), Site(6, 6, 4, 4, 2)])
def test_the_residual_keeps_width_and_resolution(site):
    with pytest.raises(ValueError, match="convolution keeps its"):
        Convolution().build(site)
